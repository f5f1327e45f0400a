//! `holdfast-guard`: reads its arguments and runs the guard. Exit codes: 0 told to end; 1 could not start; 2 usage.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use holdfast_guard::{server, wire};

const USAGE: &str =
    "usage: holdfast-guard [--socket PATH] [--state DIR] [--watchdog PATH] [--watchdog-timeout SECONDS]
                      [--kill-by-pid]
  --socket PATH               where the agent connects (default: /run/holdfast/guard.sock)
  --state DIR                 where the proofs are kept, a tmpfs (default: the folder of the socket)
  --watchdog PATH             the watchdog's device, for example /dev/watchdog (default: none)
  --watchdog-timeout SECONDS  when an unfed watchdog resets this host (default: 10)
  --kill-by-pid               kill one by one, as on kernels before 5.14
  --version                   print the version";

enum Call {
    Run(server::Options),
    Version,
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)) {
        Ok(Call::Version) => {
            println!("holdfast-guard {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Call::Run(options)) => match server::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("holdfast-guard: {error}");
                ExitCode::FAILURE
            }
        },
        Err(problem) => {
            eprintln!("holdfast-guard: {problem}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Call, String> {
    let mut options = server::Options {
        socket: wire::SOCKET.into(),
        state: PathBuf::new(),
        watchdog: None,
        watchdog_timeout_s: 10,
        by_pid: false,
    };
    while let Some(word) = words.next() {
        let word = word.to_str().unwrap_or_default();
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word {
            "--socket" => options.socket = value()?.into(),
            "--state" => options.state = value()?.into(),
            "--watchdog" => options.watchdog = Some(value()?.into()),
            "--watchdog-timeout" => options.watchdog_timeout_s = seconds(&value()?)?,
            "--kill-by-pid" => options.by_pid = true,
            "--version" => return Ok(Call::Version),
            other => return Err(format!("{other:?} is not an argument")),
        }
    }
    if options.state.as_os_str().is_empty() {
        let folder = options.socket.parent().filter(|folder| !folder.as_os_str().is_empty());
        options.state = folder.unwrap_or(Path::new(".")).to_owned();
    }
    Ok(Call::Run(options))
}

/// Shorter than the guard's own deadlines it would reset healthy hosts; longer than Patroni's lock it would come too late.
fn seconds(text: &OsString) -> Result<i32, String> {
    let seconds =
        text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| (2..=300).contains(seconds));
    seconds.ok_or(format!("--watchdog-timeout {text:?} is not a number of seconds from 2 to 300"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Result<Call, String> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_proofs_are_kept_beside_the_socket() {
        let Ok(Call::Run(options)) = call(&["--socket", "/run/x/s"]) else { panic!() };
        assert_eq!(options.state, Path::new("/run/x"));
        let Ok(Call::Run(options)) = call(&["--socket", "s", "--state", "/y"]) else { panic!() };
        assert_eq!(options.state, Path::new("/y"));
    }

    #[test]
    fn wrong_words_are_named() {
        for words in [&["--sockets", "x"][..], &["--socket"], &["--watchdog-timeout", "1"], &["x"]] {
            let Err(problem) = call(words) else { panic!("{words:?}") };
            assert!(problem.contains(words[0]), "{problem}");
        }
    }
}
