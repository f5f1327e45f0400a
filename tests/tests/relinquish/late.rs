//! Makes what etcd says to one host's agent arrive late: its connections lead through a relay of this test, which holds
//! every answer back for a time that can be changed. What the agent says is passed on at once.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::support::{Lab, host, text};

const PORT: u16 = 7_777;
const POLL: Duration = Duration::from_millis(10);
/// Chunks of at most 16 KiB each way; a sender waits when there are more.
const CHUNKS: usize = 256;

#[derive(Default)]
struct Shared {
    late_ms: AtomicU64,
    connections: AtomicU64,
    end: AtomicBool,
}

/// The relay of one host. It ends with the test; its rule goes with the host's network.
pub struct Late {
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Late {
    /// Leads every new connection of the host's agent to etcd through the relay. Only the agent runs as root there.
    pub fn new(lab: &Lab, described: &Value, name: &str) -> Self {
        let here = host(described, name);
        let etcd = text(&described["regions"][0]["etcd"]["endpoints"][0]);
        let etcd: SocketAddr = etcd.trim_start_matches("https://").parse().unwrap();
        let relay: SocketAddr = format!("{}:{PORT}", text(&here["address"])).parse().unwrap();
        let (inside, outside) = (netns(here), netns(host(described, "client")));
        let shared = Arc::new(Shared::default());
        let (ready, is_ready) = mpsc::channel();
        let of_thread = Arc::clone(&shared);
        let listening = thread::spawn(move || {
            setns(inside, CloneFlags::CLONE_NEWNET).unwrap();
            let listener = TcpListener::bind(relay).unwrap();
            listener.set_nonblocking(true).unwrap();
            // The way from there to etcd must not lead through the relay again.
            setns(outside, CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(()).unwrap();
            while !of_thread.end.load(SeqCst) {
                match listener.accept() {
                    Ok((agent, _)) => relay_to(etcd, agent, &of_thread),
                    Err(_) => thread::sleep(POLL),
                }
            }
        });
        is_ready.recv().unwrap();
        let rule = format!(
            "table ip lab_late {{ chain output {{ type nat hook output priority -100; \
             ip daddr {} tcp dport {} meta skuid 0 dnat to {relay}; }}; }}",
            etcd.ip(),
            etcd.port()
        );
        let made = lab.exec(name, &["nft", &rule]);
        assert!(made.success(), "{}", made.stderr);
        Self { shared, listening: Some(listening) }
    }

    /// Whether the agent has come through here.
    pub fn is_used(&self) -> bool {
        self.shared.connections.load(SeqCst) > 0
    }

    /// From now on, answers are so late.
    pub fn set(&self, late: Duration) {
        self.shared.late_ms.store(u64::try_from(late.as_millis()).unwrap(), SeqCst);
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.shared.end.store(true, SeqCst);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn netns(host: &Value) -> File {
    File::open(format!("/run/netns/{}", text(&host["netns"]))).unwrap()
}

fn relay_to(etcd: SocketAddr, agent: TcpStream, shared: &Arc<Shared>) {
    agent.set_nonblocking(false).unwrap();
    let Ok(server) = TcpStream::connect(etcd) else { return };
    shared.connections.fetch_add(1, SeqCst);
    for stream in [&agent, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let none = Arc::new(Shared::default());
    pass_on(agent.try_clone().unwrap(), server.try_clone().unwrap(), none);
    pass_on(server, agent, Arc::clone(shared));
}

/// One direction: a thread that reads and stamps, and one that writes when the time has come.
fn pass_on(mut from: TcpStream, mut to: TcpStream, shared: Arc<Shared>) {
    let (sender, chunks) = mpsc::sync_channel::<(Instant, Vec<u8>)>(CHUNKS);
    thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let due = Instant::now() + Duration::from_millis(shared.late_ms.load(SeqCst));
            if sender.send((due, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        while let Ok((due, chunk)) = chunks.recv() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
