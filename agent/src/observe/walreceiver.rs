//! The walreceiver of an instance: who it is, and its end (rule 5 c).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holdfast_host::cgroup::Cgroup;
use holdfast_host::sockets;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ends the walreceiver and waits until it is gone. The network has been cut before, so a new one gets nowhere.
///
/// SIGTERM, never SIGKILL: the postmaster takes a killed child for a crash and restarts everything. One that hangs in a
/// read of its dead connection is waked by the end of that; where none streams any more (its writer has crashed) there is
/// nothing to end, and no time to spend.
pub async fn end(cgroup: &Path, address: &str, port: u16, deadline: Duration) -> Result<()> {
    let started = tokio::time::Instant::now();
    let mut destroyed = false;
    loop {
        let streaming = connected(cgroup)?;
        if streaming.is_empty() {
            return Ok(());
        }
        if !destroyed {
            sockets::destroy(address, port).await?;
            destroyed = true;
        }
        for pid in &streaming {
            // One that has ended meanwhile is what was wanted.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
        }
        if started.elapsed() >= deadline {
            bail!("walreceiver {streaming:?} is still there {} ms after its order", deadline.as_millis());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Walreceivers that have passed the connection: PostgreSQL starts a new one every `wal_retrieve_retry_interval`, whose
/// connection the filter refuses, and whose title does not say `streaming`.
fn connected(cgroup: &Path) -> Result<Vec<i32>> {
    let pids = Cgroup::open(cgroup)
        .and_then(|cgroup| cgroup.pids())
        .with_context(|| cgroup.display().to_string())?;
    Ok(pids.into_iter().filter(|pid| title(*pid).is_some_and(|title| is_streaming(&title))).collect())
}

fn title(pid: i32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}

fn is_streaming(title: &str) -> bool {
    title.starts_with("postgres: ") && title.contains("walreceiver") && title.contains("streaming")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_of_postgresql_15() {
        assert!(is_streaming("postgres: main: walreceiver streaming 0/5000148 "));
        assert!(!is_streaming("postgres: main: walreceiver "));
        assert!(!is_streaming("postgres: main: walsender replicator 10.77.0.22(1) streaming 0/5000148"));
    }
}
