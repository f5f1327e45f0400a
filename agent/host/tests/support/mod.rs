//! Hosts for tests: a thread in a network namespace of its own. Nothing has a name, so the kernel takes all of it back
//! when the test ends, however it ends.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use holdfast_host::run::{self, Command};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Runtime;

type Job = Box<dyn FnOnce(&Runtime) + Send>;

/// Generous: the machine is shared. What must be fast is measured by the test itself.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A host: what runs on it sees its own interfaces, sockets and packet filter.
pub struct Host {
    thread: i32,
    jobs: mpsc::Sender<Job>,
}

impl Host {
    /// A host with nothing but loopback.
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (up, ready) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            up.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in queue {
                job(&runtime);
            }
        });
        let host = Self { thread: ready.recv_timeout(DEADLINE).unwrap(), jobs };
        host.ip("link set lo up");
        host
    }

    /// Runs something on the host and waits for it.
    pub fn on<T: Send + 'static>(&self, work: impl FnOnce(&Runtime) -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move |runtime| drop(done.send(work(runtime))));
        self.jobs.send(job).unwrap();
        // An early end means that the work panicked; its own message has been printed.
        result.recv_timeout(DEADLINE).expect("the work on the host ended")
    }

    /// `ip` with these words.
    pub fn ip(&self, words: &str) {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let output =
            self.on(move |runtime| runtime.block_on(run::run(Command::new("ip").args(words)))).unwrap();
        assert!(output.success(), "{}", output.stderr);
    }

    /// A cable between two hosts: `10.98.<net>.<1|2>`, ours is `mine`.
    pub fn plug(&self, other: &Self, net: u8) {
        self.ip(&format!("link add v{net} type veth peer name v{net} netns {}", other.thread));
        for (host, end) in [(self, 1), (other, 2)] {
            host.ip(&format!("addr add 10.98.{net}.{end}/24 dev v{net}"));
            host.ip(&format!("link set v{net} up"));
        }
    }

    /// A listening socket on every address of the host.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.on(move |_| TcpListener::bind(("0.0.0.0", port)).unwrap())
    }

    /// Connects from the host; tells how long it took to succeed or to be refused.
    pub fn connect(&self, to: &str) -> (std::io::Result<TcpStream>, Duration) {
        let to: SocketAddr = to.parse().unwrap();
        self.on(move |_| {
            let started = Instant::now();
            let result = TcpStream::connect_timeout(&to, Duration::from_secs(3));
            (result, started.elapsed())
        })
    }
}

/// The other end of a connection that has just been made.
pub fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let started = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(started.elapsed() < DEADLINE, "nobody connected");
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Network namespaces need root. The tests are complete only where `true` comes back.
pub fn may_make_hosts() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root for network namespaces and nftables");
    }
    root
}
