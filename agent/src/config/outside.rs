//! Fence devices: which program switches which host off, and with what options (rule 11).

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_types::HostName;
use toml::Value;

use super::reader::{Reader, number, parsed, path, text};

/// One device, for one host: any `fence_*` program of the fence-agents project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The host that it switches off.
    pub host: HostName,
    /// Its name in records and logs.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Options, as `name=value` lines of its standard input.
    pub options: BTreeMap<String, String>,
    /// Options whose values stand in files: read when it is asked, so that they can be replaced.
    pub secrets: BTreeMap<String, PathBuf>,
    /// How long one call may take, in milliseconds; it is killed then.
    pub timeout_ms: u64,
    /// How often it is asked again when the host is not proved to be off.
    pub retries: u64,
    /// How long this host waits before it asks, in milliseconds; beside it, each peer waits a second more than the last.
    pub delay_ms: u64,
}

/// A management controller takes some seconds to answer; the field's default is 20 s for power to change.
const TIMEOUT_MS: u64 = 20_000;

/// Reads one `[[outside]]`. `me`: a host does not switch itself off.
pub(super) fn device(one: &mut Reader<'_>, me: Option<&HostName>) -> Option<Device> {
    let host = one.required("host", parsed(HostName::new));
    let name = one.required("name", text);
    let program = one.required("program", path);
    let options = one.optional("options", texts_by_name).unwrap_or_default();
    let secrets = one.optional("secrets", paths_by_name).unwrap_or_default();
    let timeout_ms = one.optional("timeout_ms", number(500, 120_000)).unwrap_or(TIMEOUT_MS);
    let retries = one.optional("retries", number(0, 5)).unwrap_or(1);
    let delay_ms = one.optional("delay_ms", number(0, 30_000)).unwrap_or(0);
    if host.is_some() && host.as_ref() == me {
        one.problem("host", "is this host: a device is asked by its peers");
    }
    for twice in options.keys().filter(|name| secrets.contains_key(*name)) {
        one.problem("secrets", format!("{twice} is among the options too"));
    }
    for name in options.keys().filter(|name| name.starts_with("pass") && !name.ends_with("_script")) {
        one.problem("options", format!("{name} belongs into secrets, with the path of a file that holds it"));
    }
    let (host, name, program) = (host?, name?, program?);
    Some(Device { host, name, program, options, secrets, timeout_ms, retries, delay_ms })
}

fn by_name(value: Value) -> Result<BTreeMap<String, Value>, String> {
    let Value::Table(table) = value else {
        return Err(format!("must be a table of names and texts, not {}", value.type_str()));
    };
    // What the program must not be told by a file: we say it ourselves.
    let ours = ["action", "option", "nodename"];
    let wrong = |name: &&String| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        !plain || ours.contains(&name.as_str())
    };
    match table.keys().find(wrong) {
        Some(name) if ours.contains(&name.as_str()) => Err(format!("{name} is set by the agent itself")),
        Some(name) => Err(format!("{name:?} is not a name of an option: letters, digits, _ and -")),
        None => Ok(table.into_iter().collect()),
    }
}

fn texts_by_name(value: Value) -> Result<BTreeMap<String, String>, String> {
    let one = |(name, value): (String, Value)| match value {
        Value::String(text) if text.contains(['\n', '\r']) => Err(format!("{name} must be of one line")),
        Value::String(text) => Ok((name, text)),
        Value::Integer(number) => Ok((name, number.to_string())),
        other => Err(format!("{name} must be a text or a number, not {}", other.type_str())),
    };
    by_name(value)?.into_iter().map(one).collect()
}

fn paths_by_name(value: Value) -> Result<BTreeMap<String, PathBuf>, String> {
    by_name(value)?.into_iter().map(|(name, value)| Ok((name, path(value)?))).collect()
}
