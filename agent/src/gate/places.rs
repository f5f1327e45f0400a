//! The start gate's own look at what PostgreSQL's directories lie on (promise I12).
//!
//! A process of its own looks, because a look may hang with a disk, and a gate must have decided 2 s after its birth: one that
//! hangs is left behind. It runs where the gate does, as Patroni's user and in its mount namespace.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use holdfast_agent_core::places::{self, Wrong};
use holdfast_host::{disk, durable};
use holdfast_types::ClusterId;
use holdfast_types::record::{FoundPlace, PLACES_FILE, Places, Stored};

use super::remembered;

/// For how long a look may take, with the agent's answer beside it. One took 3 ms.
const DEADLINE: Duration = Duration::from_millis(1_700);
/// A place takes some hundred bytes.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A look that has been begun.
pub struct Looking {
    child: Child,
    answer: Receiver<std::io::Result<Vec<u8>>>,
    begun: Instant,
}

/// Begins to look at a cluster's data directory.
pub fn begin(data_dir: &Path, cluster: &ClusterId) -> Result<Looking, String> {
    // The seam's runner needs a runtime; the gate has none and becomes another program.
    #[allow(clippy::disallowed_methods)]
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("holdfast-agent")
        .args(["places", "--owner", &ClusterId::folder_name(&cluster.namespace, &cluster.scope)])
        .arg(data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // Whoever waits for the end of our own output must not wait for one that hangs.
    command.stderr(Stdio::null());
    let mut child =
        command.spawn().map_err(|error| format!("the look at its file systems cannot be begun: {error}"))?;
    let mut pipe = child.stdout.take().expect("it was asked for above").take(ANSWER_BYTES_MAX);
    let (told, answer) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.read_to_end(&mut bytes).map(|_| bytes);
        // Nobody listens any more after the deadline.
        let _ = told.send(read);
    });
    Ok(Looking { child, answer, begun: Instant::now() })
}

impl Looking {
    /// Waits for it.
    fn found(mut self) -> Result<Vec<FoundPlace>, String> {
        let left = DEADLINE.saturating_sub(self.begun.elapsed());
        let bytes = match self.answer.recv_timeout(left) {
            Ok(read) => read.map_err(|error| error.to_string())?,
            Err(_) => {
                return Err(format!(
                    "its file systems do not answer within {} ms: a disk hangs; see: dmesg",
                    DEADLINE.as_millis()
                ));
            }
        };
        // It has closed its end, so it is ending.
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!(
                "its file systems cannot be looked at: {}",
                String::from_utf8_lossy(&bytes).trim()
            ));
        }
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    }
}

/// What is wrong with the places of a cluster's data directory, a line each; `Err`: it cannot be told.
pub fn wrong(looking: Looking, state_dir: &Path, cluster: &ClusterId) -> Result<Vec<Wrong>, String> {
    let recorded = recorded(state_dir, cluster)?;
    Ok(places::judge(recorded.as_ref().map(|stored| &stored.body), &looking.found()?))
}

/// The record of a cluster; absent before the agent has seen PostgreSQL run in an armed cluster.
pub fn recorded(state_dir: &Path, cluster: &ClusterId) -> Result<Option<Stored<Places>>, String> {
    let file = remembered::folder(state_dir, cluster).join(PLACES_FILE);
    let at = |error: String| {
        format!("{}: {error}; when the disks are the right ones: holdfast disk adopt", file.display())
    };
    let Some(bytes) = durable::read_optional(&file).map_err(|error| at(error.to_string()))? else {
        return Ok(None);
    };
    Stored::decode(&file.display().to_string(), &bytes).map(Some).map_err(|error| at(error.to_string()))
}

/// The process that looks: prints what it found as JSON.
pub fn run(data_dir: &Path, owner: &str) -> u8 {
    let found = disk::look(data_dir, owner).map_err(|error| format!("{}: {error}", data_dir.display()));
    match found.and_then(|found| serde_json::to_string(&found).map_err(|error| error.to_string())) {
        Ok(text) => {
            println!("{text}");
            0
        }
        Err(why) => {
            println!("{why}");
            1
        }
    }
}
