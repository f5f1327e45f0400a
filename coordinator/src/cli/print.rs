//! Data goes to standard output, prose to standard error. A reader that has gone away is no error of ours.

use std::io::Write;

use serde::Serialize;

use super::target::Output;
use super::yaml;

/// Writes an answer as it is.
pub fn data(text: &str) {
    let mut out = anstream::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Writes an answer as JSON.
pub fn json(value: &impl Serialize) {
    let text =
        serde_json::to_string_pretty(value).expect("our reports have string keys and finite numbers only");
    data(&format!("{text}\n"));
}

/// Writes an answer as YAML.
pub fn yaml(value: &impl Serialize) {
    let value = serde_json::to_value(value).expect("our reports have string keys and finite numbers only");
    data(&yaml::document(&value));
}

/// Writes a report as it was asked for.
pub fn report(output: Output, report: &impl Serialize, text: impl FnOnce() -> String) {
    match output {
        Output::Json => json(report),
        Output::Yaml => yaml(report),
        Output::Table => data(&text()),
    }
}

/// Writes an answer as one line of JSON, for streams.
pub fn json_line(value: &impl Serialize) {
    let text = serde_json::to_string(value).expect("our reports have string keys and finite numbers only");
    data(&format!("{text}\n"));
}

/// Says something beside the answer.
pub fn prose(text: &str) {
    let mut err = anstream::stderr().lock();
    let _ = writeln!(err, "{}", text.trim_end());
}
