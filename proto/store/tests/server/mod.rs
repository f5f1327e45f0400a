//! Real etcd servers for tests: free loopback ports, a data directory in memory, killed when dropped.
#![allow(dead_code, clippy::disallowed_methods)] // Each test uses a part; a server outlives any runner of child processes.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_store::{EtcdOptions, EtcdStore, Store, StoreError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A cluster of one or three servers.
pub struct Etcd {
    pub members: Vec<Member>,
    folder: TempDir,
}

pub struct Member {
    pub endpoint: String,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// Files for TLS with client certificates.
pub struct Pem<'p> {
    pub ca: &'p Path,
    pub cert: &'p Path,
    pub key: &'p Path,
}

impl Etcd {
    /// Starts `count` servers without waiting for them.
    pub fn start(count: usize, tls: Option<Pem<'_>>) -> Self {
        Self::start_with(count, tls, &[])
    }

    /// The same with more arguments.
    pub fn start_with(count: usize, tls: Option<Pem<'_>>, more: &[&str]) -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("holdfast-etcd-").tempdir_in(parent).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let peers: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("e{n}=http://127.0.0.1:{peer}")).collect();
        let mut members = Vec::new();
        for (n, (client, peer)) in ports.iter().enumerate() {
            let data = folder.path().join(format!("e{n}")).display().to_string();
            let mut arguments = vec![
                format!("--name=e{n}"),
                format!("--data-dir={data}"),
                format!("--listen-client-urls={scheme}://127.0.0.1:{client}"),
                format!("--advertise-client-urls={scheme}://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster={}", peers.join(",")),
            ];
            if let Some(pem) = &tls {
                arguments.push(format!("--cert-file={}", pem.cert.display()));
                arguments.push(format!("--key-file={}", pem.key.display()));
                arguments.push(format!("--trusted-ca-file={}", pem.ca.display()));
                arguments.push("--client-cert-auth".into());
            }
            arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
            let mut member = Member { endpoint: format!("127.0.0.1:{client}"), arguments, child: None };
            member.spawn(folder.path());
            members.push(member);
        }
        Self { members, folder }
    }

    /// Starts one plain server and waits until it answers.
    pub async fn one() -> (Self, EtcdStore) {
        let etcd = Self::start(1, None);
        let store = EtcdStore::new(etcd.options());
        until_it_answers(&store).await;
        (etcd, store)
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    pub fn options(&self) -> EtcdOptions {
        EtcdOptions::new(self.endpoints(), None)
    }

    /// Kills a server and starts it again on the same data.
    pub fn restart(&mut self, n: usize) {
        self.members[n].kill();
        self.members[n].spawn(self.folder.path());
    }
}

impl Member {
    fn spawn(&mut self, folder: &Path) {
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let mut command = Command::new("/usr/bin/etcd");
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("/usr/bin/etcd is installed (Debian: etcd-server)"));
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Freezes the server: it neither answers nor closes.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until a linearizable read succeeds.
pub async fn until_it_answers(store: &EtcdStore) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer: Result<_, StoreError> = store.read(vec![]).await;
        match answer {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "etcd never answered: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
