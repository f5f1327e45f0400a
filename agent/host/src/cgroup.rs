//! A cgroup v2 directory: who is in it, and the end of all of them at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A cgroup that exists.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Takes the directory; an error if it is no cgroup.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::metadata(path.join("cgroup.procs"))?;
        Ok(Self { path: path.to_owned() })
    }

    /// The processes in it and below it.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect(&self.path, &mut pids)?;
        Ok(pids)
    }

    /// Kills all of them: `cgroup.kill` where the kernel has it (5.14), else one by one.
    pub fn kill(&self) -> io::Result<()> {
        match fs::write(self.path.join("cgroup.kill"), "1") {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for pid in self.pids()? {
                    // One that has ended meanwhile is what was wanted.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until it is empty; an error names who is still there.
    pub async fn wait_empty(&self, deadline: Duration) -> io::Result<()> {
        let started = Instant::now();
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if started.elapsed() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("processes {pids:?} are still there"),
                ));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn collect(path: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    let text = match fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => text,
        // Its last process went and somebody removed it while we looked.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids)?;
        }
    }
    Ok(())
}
