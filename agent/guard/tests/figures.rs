//! The guard's figures, printed: how late the last process is gone at worst, and what the guard itself takes.
//!
//! ```text
//! cargo build --release -p holdfast-guard --target x86_64-unknown-linux-musl
//! HOLDFAST_GUARD=$PWD/target/x86_64-unknown-linux-musl/release/holdfast-guard \
//!     cargo test --release -p holdfast-guard --test figures -- --ignored --nocapture
//! ```

#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.
#![allow(clippy::disallowed_methods)] // See support.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Cgroup, Guard, MS, in_ms, may_guard, name, now_ns, procs, until_ns, wait_for, wait_killed};

const KILLS: u32 = 200;
/// Processes of one kill, and one more that goes on forking.
const PROCESSES: usize = 40;
const LATE_MAX_NS: u64 = 200 * MS;
const PSS_KB_MAX: u64 = 1_000;
/// The guard, those it kills and the load share so much memory; the load alone would fill it several times over.
const MEMORY_BYTES: &str = "201326592";

/// Busy loops, and processes that read a file larger than the memory that all of them may use.
struct Load {
    children: Vec<Child>,
    limited: Option<PathBuf>,
    _file: tempfile::NamedTempFile,
}

impl Load {
    fn on(guard: &Guard) -> Self {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        file.as_file().set_len(512 << 20).unwrap();
        let path = file.path().display();
        // 24 MB each of its own, touched again and again, and the file through the page cache.
        let reader = format!(
            "x=$(head -c 24000000 /dev/zero | tr '\\0' x); while :; do cat {path} >/dev/null; y=$x; done"
        );
        let busy = "while :; do :; done".to_owned();
        let scripts = [vec![reader; 3], vec![busy; 8]].concat();
        let limited = memory_cgroup();
        let children = scripts
            .iter()
            .map(|script| {
                let child = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
                join(limited.as_deref(), child.id());
                child
            })
            .collect();
        join(limited.as_deref(), guard.pid());
        // Those that are killed are children of the test: they inherit it.
        join(limited.as_deref(), std::process::id());
        Self { children, limited, _file: file }
    }

    fn describe(&self) -> String {
        let Some(limited) = &self.limited else {
            return "8 busy loops; no memory controller here, so no memory pressure".into();
        };
        let number = |file: &str| fs::read_to_string(limited.join(file)).unwrap_or_default();
        format!(
            "8 busy loops; 3 readers in a memory cgroup of {} MB that hit its limit {} times",
            MEMORY_BYTES.parse::<u64>().unwrap() / 1_000_000,
            number("memory.failcnt").trim(),
        )
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Each may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
        let Some(limited) = &self.limited else { return };
        // The test itself goes back where it came from; the guard ends with the test.
        for pid in procs(limited) {
            let _ = fs::write(limited.with_file_name("cgroup.procs"), pid.to_string());
        }
        let started = Instant::now();
        while fs::remove_dir(limited).is_err() && started.elapsed() < support::DEADLINE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Below our own memory cgroup of v1; `None`: there is no such controller.
fn memory_cgroup() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.split_once(":memory:"))?.1;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.ends_with("rw,memory"))?.split(' ').nth(4)?;
    let path =
        Path::new(mount).join(own.trim_start_matches('/')).join(format!("guard-{}", std::process::id()));
    fs::create_dir(&path).ok()?;
    fs::write(path.join("memory.limit_in_bytes"), MEMORY_BYTES).ok()?;
    Some(path)
}

fn join(limited: Option<&Path>, pid: u32) {
    if let Some(limited) = limited {
        fs::write(limited.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

/// One kill: how late it was begun, and how late the last process was gone.
fn kill(guard: &Guard, term: u64) -> (u64, u64) {
    let (client, mut cgroup) = (guard.connect(), Cgroup::new());
    let script = format!(
        "for i in $(seq {PROCESSES}); do sleep 1000 & done
         x=$(head -c 4000000 /dev/zero | tr '\\0' x); while :; do sleep 0.1 & sleep 0.02; done"
    );
    let pid = cgroup.run("", &script);
    wait_for("the processes", || procs(&cgroup.path).len() > PROCESSES);
    cgroup.register(&client, Some(pid));
    let deadline_ns = in_ms(60);
    client.extend(name(), term, deadline_ns, Some(pid)).unwrap();
    until_ns(deadline_ns);
    let kill = wait_killed(&client).last_kill.unwrap();
    assert!(!cgroup.is_populated(), "the proof is wrong");
    (kill.begun_ns - deadline_ns, kill.empty_ns.unwrap() - deadline_ns)
}

fn report(what: &str, mut late: Vec<u64>) -> u64 {
    late.sort_unstable();
    #[allow(clippy::cast_precision_loss)] // Milliseconds with a decimal, for people.
    let ms = |ns: u64| ns as f64 / MS as f64;
    let (median, worst) = (late[late.len() / 2], *late.last().unwrap());
    println!("{what}: median {:.1} ms, worst {:.1} ms", ms(median), ms(worst));
    worst
}

#[test]
#[ignore = "a figure: takes two minutes and loads every core"]
fn the_worst_of_200_kills_under_memory_and_processor_pressure() {
    if !may_guard() {
        return;
    }
    let guard = Guard::start(&[]);
    let load = Load::on(&guard);
    let started = now_ns();
    let (begun, gone): (Vec<u64>, Vec<u64>) = (0..KILLS).map(|term| kill(&guard, u64::from(term))).unzip();
    println!(
        "{KILLS} kills of {} processes in {} s, beside {}",
        PROCESSES + 1,
        (now_ns() - started) / 1_000_000_000,
        load.describe()
    );
    report("kill begun after the deadline", begun);
    let worst = report("last process gone after the deadline", gone);
    print_memory(&guard);
    drop(load);
    assert!(worst <= LATE_MAX_NS, "the last process was gone {} ms late", worst / MS);
}

#[test]
#[ignore = "a figure: holds for a static musl build only, see the head of this file"]
fn the_guard_takes_at_most_a_megabyte() {
    if !may_guard() {
        return;
    }
    let guard = Guard::start(&[]);
    for term in 0..3 {
        kill(&guard, term);
    }
    let pss_kb = print_memory(&guard);
    assert!(pss_kb <= PSS_KB_MAX, "{pss_kb} kB");
}

#[test]
#[ignore = "a figure"]
fn an_extension_costs_little() {
    const EXTENSIONS: u64 = 2_000;
    if !may_guard() {
        return;
    }
    let (guard, mut cgroup) = (Guard::start(&[]), Cgroup::new());
    let (client, pid) = (guard.connect(), cgroup.run("", "for i in $(seq 100); do sleep 1000 & done; wait"));
    wait_for("the processes", || procs(&cgroup.path).len() > 100);
    cgroup.register(&client, Some(pid));
    // `schedstat` counts in nanoseconds what the guard has run.
    let ran_ns = || -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", guard.pid())).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    let before_ns = ran_ns();
    for _ in 0..EXTENSIONS {
        client.extend(name(), 1, in_ms(5_000), Some(pid)).unwrap();
    }
    println!(
        "an extension, with 101 processes: {} us of the guard",
        (ran_ns() - before_ns) / EXTENSIONS / 1_000
    );
    client.release(name(), 1).unwrap();
}

fn print_memory(guard: &Guard) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", guard.pid())).unwrap();
    let field = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (pss_kb, locked_kb) = (field("Pss:"), field("Locked:"));
    println!("guard: PSS {pss_kb} kB, locked {locked_kb} kB");
    pss_kb
}
