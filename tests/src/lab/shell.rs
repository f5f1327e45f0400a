//! Runs system programs (`ip`, `nft`, `tc`, ...) and turns a refusal into an error that says which call and why.

use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};
use holdfast_host::run::{self, Command, Output};

/// Runs it within `deadline_ms`; anything but exit code 0 is an error with what the program complained about.
pub async fn run<T: Into<OsString> + Clone>(deadline_ms: u64, line: &[T]) -> Result<Output> {
    with_input(deadline_ms, line, "").await
}

/// The same with something to read.
pub async fn with_input<T: Into<OsString> + Clone>(
    deadline_ms: u64,
    line: &[T],
    input: &str,
) -> Result<Output> {
    let words: Vec<OsString> = line.iter().cloned().map(Into::into).collect();
    let shown = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let (program, arguments) = words.split_first().context("there is no program to run")?;
    let command = Command::new(program).args(arguments).stdin(input).deadline_ms(deadline_ms);
    let output = run::run(command).await.with_context(|| shown.clone())?;
    if output.success() {
        Ok(output)
    } else {
        bail!("{shown}: exit {:?}: {}", output.code, output.stderr.trim())
    }
}
