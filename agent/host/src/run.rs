//! The one runner of child processes: a deadline, bounded output, no orphan.
//!
//! A child is the leader of its own process group; at the deadline the group is killed. One that stays in the kernel in
//! spite of SIGKILL is left behind and reported as stuck: waiting for it would hang us with it (promise I8).

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// How long a killed child may take to be gone.
const REAP_DEADLINE: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    deadline: Duration,
    output_bytes_max: u64,
}

impl Command {
    /// A command with a deadline of 2 s and 256 KiB of output.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            envs: Vec::new(),
            stdin: Vec::new(),
            deadline: Duration::from_secs(2),
            output_bytes_max: 256 * 1024,
        }
    }
    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }
    /// Adds a variable to the environment that it inherits.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }
    /// Sets what it reads.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }
    /// Sets its deadline.
    #[must_use]
    pub fn deadline_ms(mut self, ms: u64) -> Self {
        self.deadline = Duration::from_millis(ms);
        self
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; absent when it was ended by a signal.
    pub code: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// Exit code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It was killed at its deadline.
    #[error("{program} had not ended after {deadline_ms} ms and was killed")]
    Deadline {
        /// The program.
        program: String,
        /// The deadline.
        deadline_ms: u128,
    },
    /// It was killed at its deadline and is still there.
    #[error(
        "{program} (process {pid}) does not end in spite of SIGKILL: it is stuck in the kernel and left behind"
    )]
    Stuck {
        /// The program.
        program: String,
        /// Its process id.
        pid: u32,
    },
    /// Its output could not be read.
    #[error("{program}: {source}")]
    Io {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs a command to its end.
pub async fn run(command: Command) -> Result<Output, RunError> {
    let program = command.program.to_string_lossy().into_owned();
    // The ban on Command::new elsewhere is what makes this the one runner.
    #[allow(clippy::disallowed_methods)]
    let mut child = tokio::process::Command::new(&command.program)
        .args(&command.args)
        .env("LC_ALL", "C")
        .envs(command.envs.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| RunError::Start { program: program.clone(), source })?;
    let pid = child.id().unwrap_or_default();
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let max = command.output_bytes_max;
    let work = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A child that does not read all of its input says so by its exit code.
                drop(stdin.write_all(&command.stdin).await);
            }
        };
        let (_, stdout, stderr) = tokio::join!(write, bounded(stdout, max), bounded(stderr, max));
        let status = child.wait().await?;
        Ok::<_, std::io::Error>(Output { code: status.code(), stdout: stdout?, stderr: stderr? })
    };
    match tokio::time::timeout(command.deadline, work).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(source)) => Err(RunError::Io { program, source }),
        Err(_) => {
            if let Ok(group) = i32::try_from(pid) {
                // Already gone is as good.
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            match tokio::time::timeout(REAP_DEADLINE, child.wait()).await {
                Ok(_) => Err(RunError::Deadline { program, deadline_ms: command.deadline.as_millis() }),
                Err(_) => Err(RunError::Stuck { program, pid }),
            }
        }
    }
}

/// Reads to the end and keeps at most `max` bytes: the rest is read and dropped, so that the child never blocks on us.
async fn bounded(stream: Option<impl AsyncRead + Unpin>, max: u64) -> std::io::Result<String> {
    let Some(mut stream) = stream else { return Ok(String::new()) };
    let mut kept = Vec::new();
    (&mut stream).take(max).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_and_exit_code_come_back() {
        let command =
            Command::new("sh").args(["-c", "cat; echo $OH >&2; exit 3"]).stdin("hello").env("OH", "oh");
        let output = run(command).await.unwrap();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(3), "hello", "oh\n"));
    }

    #[tokio::test]
    async fn a_tree_is_killed_at_its_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 100 & echo $! > {}; wait", file.display());
        let error = run(Command::new("sh").args(["-c", &script]).deadline_ms(500)).await.unwrap_err();
        assert!(matches!(error, RunError::Deadline { .. }), "{error}");
        let pid = std::fs::read_to_string(file).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..200 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the grandchild lives");
    }

    #[tokio::test]
    async fn endless_output_is_bounded() {
        let output = run(Command::new("sh").args(["-c", "head -c 1000000 /dev/zero"])).await.unwrap();
        assert_eq!(output.stdout.len(), 256 * 1024);
    }
}
