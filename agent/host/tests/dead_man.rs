//! The kernel dead-man against the kernel's own: what passes until when, what a refresh costs, and what others can do to it.

#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_host::clock::boottime_ms;
use holdfast_host::nftables::{DeadMan, DeadManError, Door};
use holdfast_host::run::{self, Command};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use support::{DEADLINE, Host, may_make_hosts};

const WRITER: &str = "10.98.1.1:5432";
const AT_ONCE: Duration = Duration::from_millis(500);
/// A client that hears nothing for so long counts it as a gap: four looks of the tick at 100 Hz, and a busy machine.
const GAP_MAX: Duration = Duration::from_millis(250);

/// A writer with a server that sends back what it gets, and a client on another host.
struct Ground {
    writer: Host,
    client: Host,
    dead_man: Arc<Mutex<DeadMan>>,
}

impl Ground {
    fn new() -> Self {
        let (writer, client) = (Host::new(), Host::new());
        writer.plug(&client, 1);
        echo(writer.listen(5432));
        let dead_man = Arc::new(Mutex::new(DeadMan::new("service", "main", 5432)));
        Self { writer, client, dead_man }
    }

    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut DeadMan, &tokio::runtime::Runtime) -> T + Send + 'static,
    ) -> T {
        let dead_man = Arc::clone(&self.dead_man);
        self.writer.on(move |runtime| work(&mut dead_man.lock().unwrap(), runtime))
    }

    fn arm(&self, for_ms: Option<u64>) -> u64 {
        self.with(move |dead_man, runtime| {
            let deadline_ms = for_ms.map(|ms| boottime_ms() + ms);
            runtime.block_on(dead_man.arm(deadline_ms)).unwrap();
            deadline_ms.unwrap_or(0)
        })
    }

    fn refresh(&self, for_ms: u64) -> Result<(), DeadManError> {
        self.with(move |dead_man, _| dead_man.refresh(boottime_ms() + for_ms))
    }

    fn door(&self) -> Door {
        self.with(|dead_man, _| dead_man.door()).unwrap()
    }

    fn nft(&self, script: &str) {
        let script = script.to_owned();
        let command = Command::new("nft").args(["-f", "-"]).stdin(script);
        let output = self.writer.on(move |runtime| runtime.block_on(run::run(command))).unwrap();
        assert!(output.success(), "{}", output.stderr);
    }

    fn list(&self) -> String {
        let command = Command::new("nft").args(["list", "ruleset"]);
        self.writer.on(move |runtime| runtime.block_on(run::run(command))).unwrap().stdout
    }

    fn talk(&self) -> Talk {
        Talk::start(self.client.connect(WRITER).0.unwrap())
    }

    fn assert_passes(&self) {
        assert!(self.client.connect(WRITER).0.is_ok());
    }

    fn assert_refused_at_once(&self) {
        let (result, took) = self.client.connect(WRITER);
        let error = result.expect_err("the connection was let through");
        assert!(error.kind() == ErrorKind::ConnectionRefused && took < AT_ONCE, "{error} after {took:?}");
    }
}

fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

/// A client that asks every 2 ms over a connection that was open before.
struct Talk {
    stop: Arc<AtomicBool>,
    /// When the last answer came, on the clock of the deadlines.
    last_ms: Arc<AtomicU64>,
    thread: JoinHandle<Heard>,
}

struct Heard {
    answers: u32,
    longest: Duration,
    error: Option<std::io::Error>,
}

impl Talk {
    fn start(mut stream: TcpStream) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let last_ms = Arc::new(AtomicU64::new(0));
        let tells = Arc::clone(&last_ms);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let thread = std::thread::spawn(move || {
            let mut heard = Heard { answers: 0, longest: Duration::ZERO, error: None };
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let asked = stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0]));
                if let Err(error) = asked {
                    heard.error = Some(error);
                    break;
                }
                heard.longest = heard.longest.max(last.elapsed());
                tells.store(boottime_ms(), Ordering::Relaxed);
                (last, heard.answers) = (Instant::now(), heard.answers + 1);
                std::thread::sleep(Duration::from_millis(2));
            }
            heard
        });
        Self { stop, last_ms, thread }
    }

    /// When the last answer came.
    fn last_ms(&self) -> u64 {
        self.last_ms.load(Ordering::Relaxed)
    }

    /// Ends it; what it heard.
    fn stop(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }

    /// Whether it has ended by itself.
    fn is_over(&self) -> bool {
        self.thread.is_finished()
    }
}

#[test]
fn an_established_connection_stands_still_at_the_deadline_with_nobody_doing_anything() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    let mut early_ms = Vec::new();
    for for_ms in [400, 500, 601, 702, 803] {
        ground.arm(None);
        let deadline_ms = ground.arm(Some(for_ms));
        let talk = ground.talk();
        std::thread::sleep(Duration::from_millis(for_ms + 300));
        assert!(!talk.is_over(), "held back, and not ended");
        ground.assert_refused_at_once();
        assert_eq!(ground.door(), Door::Closed);
        // Loopback is the guard's business.
        let local = ground.writer.connect("127.0.0.1:5432").0;
        assert!(local.is_ok(), "{local:?}");
        let last_ms = talk.last_ms();
        assert!(last_ms <= deadline_ms, "{} ms after the deadline", last_ms - deadline_ms);
        early_ms.push(deadline_ms - last_ms);
        // A lease that comes back: a stall, and no error.
        ground.arm(Some(5_000));
        let goes_on = Instant::now();
        while talk.last_ms() == last_ms {
            assert!(goes_on.elapsed() < DEADLINE, "the connection does not go on");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(talk.stop().error.is_none());
    }
    println!("last answer before the deadline: {early_ms:?} ms");
    assert!(early_ms.iter().all(|ms| *ms < 100), "closed too early: {early_ms:?} ms");
}

#[test]
fn a_server_that_speaks_first_is_silenced_too() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    let listener = ground.writer.listen(5433);
    let dead_man = DeadMan::new("service", "other", 5433);
    ground.writer.on(move |runtime| {
        let mut dead_man = dead_man;
        runtime.block_on(dead_man.arm(Some(boottime_ms() + 300))).unwrap();
    });
    let mut receiver = ground.client.connect("10.98.1.1:5433").0.unwrap();
    let mut walsender = support::accept(&listener);
    std::thread::spawn(move || {
        while walsender.write_all(b"wal").is_ok() {
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    receiver.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let started = Instant::now();
    while let Ok(1..) = receiver.read(&mut [0; 4096]) {
        assert!(started.elapsed() < DEADLINE, "bytes go on arriving");
    }
    ground.assert_passes();
}

#[test]
fn fifty_refreshes_leave_no_gap() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    ground.arm(Some(400));
    let talk = ground.talk();
    for _ in 0..50 {
        ground.refresh(400).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let Door::Open { remaining_ms } = ground.door() else { panic!("closed") };
    assert!(remaining_ms <= 400, "{remaining_ms}");
    let heard = talk.stop();
    assert!(heard.error.is_none(), "{:?} after {} answers", heard.error, heard.answers);
    println!("{} answers over 50 refreshes, the longest wait {:?}", heard.answers, heard.longest);
    assert!(heard.answers > 50 && heard.longest < GAP_MAX, "{:?}", heard.longest);
}

#[test]
fn a_flushed_table_fails_the_refresh_and_is_repaired_without_a_gap() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    let talk = {
        ground.arm(Some(5_000));
        ground.talk()
    };
    for harm in [
        "flush ruleset",
        "delete table inet holdfast_lease_service_main",
        "flush chain inet holdfast_lease_service_main input",
        "flush table inet holdfast_lease_service_main",
        "add rule inet holdfast_lease_service_main input accept; insert rule inet holdfast_lease_service_main input accept",
    ] {
        ground.nft(harm);
        assert_eq!(ground.door(), Door::Absent, "{harm}");
        let refreshed = ground.refresh(5_000);
        assert!(matches!(refreshed, Err(DeadManError::Gone(_))), "{harm}: {refreshed:?}");
        // And so does the next, until it is armed again.
        assert!(matches!(ground.refresh(5_000), Err(DeadManError::Gone(_))), "{harm}");
        ground.arm(Some(5_000));
        ground.refresh(5_000).unwrap();
        assert!(matches!(ground.door(), Door::Open { .. }), "{harm}");
    }
    let heard = talk.stop();
    assert!(heard.error.is_none() && heard.longest < GAP_MAX, "{:?} {:?}", heard.error, heard.longest);
}

#[test]
fn an_element_that_others_took_away_is_put_in_again() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    ground.arm(Some(5_000));
    ground.nft("flush set inet holdfast_lease_service_main open");
    assert_eq!(ground.door(), Door::Closed);
    ground.refresh(5_000).unwrap();
    ground.assert_passes();
}

#[test]
fn others_may_change_their_own_and_keep_it() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    let theirs = "table inet users {\n chain input { type filter hook input priority 0; policy accept;\n \
                  tcp dport 5432 accept\n tcp dport 7000 drop\n }\n }\n";
    ground.nft(theirs);
    let before = ground.list();
    ground.arm(Some(5_000));
    for number in 0..3 {
        ground.nft(&format!("table inet more{number} {{ }}"));
        ground.refresh(5_000).unwrap();
    }
    ground.assert_passes();
    // A closed way stays closed whoever accepts: before us and after us.
    ground.nft(
        "table inet first {\n chain input { type filter hook input priority -300; policy accept;\n accept\n }\n \
         chain output { type filter hook output priority -300; policy accept;\n accept\n }\n }\n",
    );
    ground.with(|dead_man, _| dead_man.close()).unwrap();
    ground.assert_refused_at_once();
    ground.refresh(5_000).unwrap();
    ground.assert_passes();
    // And theirs stays in force while ours is open.
    let theirs_drops = ground.client.connect("10.98.1.1:7000");
    assert!(theirs_drops.1 > AT_ONCE, "{theirs_drops:?}");
    ground.with(|dead_man, runtime| runtime.block_on(dead_man.remove())).unwrap();
    assert_eq!(ground.door(), Door::Absent);
    ground.nft(
        "delete table inet first; delete table inet more0; delete table inet more1; delete table inet more2",
    );
    assert_eq!(ground.list(), before);
}

#[test]
fn it_closes_and_opens_when_told() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    assert_eq!(ground.door(), Door::Absent);
    ground.arm(None);
    assert_eq!(ground.door(), Door::Closed);
    ground.assert_refused_at_once();
    ground.refresh(5_000).unwrap();
    ground.assert_passes();
    for _ in 0..2 {
        ground.with(|dead_man, _| dead_man.close()).unwrap();
        assert_eq!(ground.door(), Door::Closed);
        ground.assert_refused_at_once();
    }
    ground.refresh(100).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    ground.assert_refused_at_once();
    // It has run out by itself: the same call opens again.
    ground.refresh(5_000).unwrap();
    ground.assert_passes();
    for for_ms in [0, 19] {
        assert!(matches!(ground.refresh(for_ms), Err(DeadManError::Past { .. })), "{for_ms}");
    }
    ground.assert_passes();
    for _ in 0..2 {
        ground.with(|dead_man, runtime| runtime.block_on(dead_man.remove())).unwrap();
    }
    ground.assert_passes();
    assert!(matches!(ground.with(|dead_man, _| dead_man.close()), Err(DeadManError::Gone(_))));
}

#[test]
fn a_new_agent_takes_over_what_the_last_one_left_open() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    ground.arm(Some(5_000));
    let talk = ground.talk();
    *ground.dead_man.lock().unwrap() = DeadMan::new("service", "main", 5432);
    assert!(matches!(ground.door(), Door::Open { .. }));
    assert!(
        matches!(ground.refresh(5_000), Err(DeadManError::Gone(_))),
        "it does not know what it refreshes"
    );
    ground.arm(Some(5_000));
    ground.refresh(5_000).unwrap();
    let heard = talk.stop();
    assert!(heard.error.is_none() && heard.longest < GAP_MAX, "{:?} {:?}", heard.error, heard.longest);
}

#[test]
fn two_instances_have_a_door_each() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    echo(ground.writer.listen(5433));
    ground.arm(Some(5_000));
    ground.writer.on(|runtime| runtime.block_on(DeadMan::new("service", "second", 5433).arm(None))).unwrap();
    ground.refresh(5_000).unwrap();
    ground.assert_passes();
    assert!(ground.client.connect("10.98.1.1:5433").0.is_err());
}

/// The agent may use 0.07 % of a core, that is 700 us a second, for everything.
#[test]
fn a_refresh_costs_little() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    ground.arm(Some(5_000));
    for (count, pause) in [(500, Duration::ZERO), (50, Duration::from_millis(100))] {
        let mut took: Vec<(Duration, i64)> = (0..count)
            .map(|_| {
                std::thread::sleep(pause);
                ground.with(|dead_man, _| {
                    let (before_us, started) = (used_us(), Instant::now());
                    dead_man.refresh(boottime_ms() + 5_000).unwrap();
                    (started.elapsed(), used_us() - before_us)
                })
            })
            .collect();
        let each_us = took.iter().map(|(_, used_us)| used_us).sum::<i64>() / i64::from(count);
        took.sort_unstable();
        let (median, worst) = (took[took.len() / 2].0, took[took.len() - 1].0);
        println!(
            "{count} refreshes {pause:?} apart: {each_us} us of processor time each; took {median:?}, at worst {worst:?}"
        );
        assert!(each_us < 300, "{each_us} us");
    }
}

/// Processor time of this thread.
fn used_us() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
}

/// What the kernel makes of a timeout: it counts in ticks, and it never ends late.
#[test]
fn a_timeout_ends_within_two_ticks_before_its_time() {
    if !may_make_hosts() {
        return;
    }
    let ground = Ground::new();
    ground.arm(None);
    // The look before the last tells until when it was certainly open, the last one since when it was certainly closed:
    // a busy machine moves them apart, but makes neither of them wrong.
    let seen: Vec<(u64, u128, u128)> = (60..100)
        .step_by(3)
        .map(|for_ms| {
            let (open_us, closed_us) = ground.with(move |dead_man, _| {
                let (asked, deadline_ms) = (Instant::now(), boottime_ms() + for_ms);
                dead_man.refresh(deadline_ms).unwrap();
                let mut open = Duration::ZERO;
                loop {
                    let looked = asked.elapsed();
                    if dead_man.door().unwrap() == Door::Closed {
                        return (open.as_micros(), asked.elapsed().as_micros());
                    }
                    open = looked;
                    assert!(open < DEADLINE, "it does not end");
                }
            });
            (for_ms, open_us, closed_us)
        })
        .collect();
    println!("timeout in ms; certainly open until, certainly closed since, in us: {seen:?}");
    for (for_ms, open_us, closed_us) in seen {
        let timeout_us = u128::from(for_ms) * 1_000;
        assert!(open_us <= timeout_us, "open for {open_us} us instead of {for_ms} ms");
        // Two ticks at 100 Hz, and the millisecond of the clock.
        assert!(closed_us + 21_000 > timeout_us, "closed after {closed_us} us instead of {for_ms} ms");
    }
}
