//! The end of a lab: everything of it goes, also after the death of a supervisor, and nothing that only looks like it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::support::{Lab, eventually, host, leftovers, text, within};

const COMMAND_MS: u64 = 10_000;
const NETNS: &str = "lab-t_faults-guest";
const MOUNT: &str = "/run/holdfast-lab-t_faults";
const DATA: &str = "/var/lib/holdfast-lab/t_faults_guest";
const LOG: &str = "/run/holdfast-lab/t_faults/hosts/db1/logs/patroni-main.log";

pub fn a_killed_supervisor_is_told_and_down_takes_only_what_is_the_labs(lab: Lab) {
    let described = lab.describe();
    let segments = shared_memory_of_postgres(&described);
    let namespaces = namespaces(&described);
    assert!(namespaces.len() > 20 && processes_in(&namespaces) > 20, "{namespaces:?}");
    let guest = Guest::arrive(&described);

    let supervisor = host(&described, "db3")["pid_mnt"].as_i64().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(supervisor).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("its end is seen", || host(&lab.describe(), "db3")["pid_mnt"].is_null());
    let told = lab.fails(4, &["exec", lab.name(), "db3", "--", "true"]);
    assert!(told.contains("holdfast-lab down"), "{told}");

    // Somebody's mount inside the lab's own directory would be emptied: down says so and leaves it.
    let inside = "/var/lib/holdfast-lab/t_faults/guest";
    fs::create_dir(inside).unwrap();
    assert!(within(COMMAND_MS, &["mount", "-t", "tmpfs", "guest", inside]).success());
    fs::write(format!("{inside}/mine"), "mine").unwrap();
    let refused = lab.fails(3, &["down", lab.name()]);
    let kept = fs::read_to_string(format!("{inside}/mine")).unwrap();
    assert!(within(COMMAND_MS, &["umount", inside]).success());
    assert!(refused.contains(inside) && kept == "mine", "{refused}");

    lab.down();
    let left: Vec<String> = leftovers("t_faults")
        .into_iter()
        .filter(|found| !found.contains(NETNS) && !found.contains(LOG))
        .collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(
        processes_in(&namespaces),
        0,
        "a namespace of the lab is alive, and its shared memory with it"
    );
    for segment in segments {
        assert!(!Path::new(&segment).exists(), "{segment} is left");
    }
    guest.leaves_untouched();
}

/// What has the lab's names and is not the lab's: a namespace, a cgroup, a mount, data, and processes that are in that
/// cgroup and read one of the lab's logs.
struct Guest {
    cgroup: String,
    in_cgroup: Child,
    reader: Child,
}

impl Guest {
    fn arrive(described: &Value) -> Self {
        let lab = text(&host(described, "db1")["cgroup"]).trim_end_matches("/db1").to_owned();
        let cgroup = format!("{lab}_guest");
        fs::create_dir_all(&cgroup).unwrap();
        fs::create_dir_all(MOUNT).unwrap();
        fs::create_dir_all(DATA).unwrap();
        fs::write(format!("{DATA}/mine"), "mine").unwrap();
        assert!(within(COMMAND_MS, &["ip", "netns", "add", NETNS]).success());
        assert!(within(COMMAND_MS, &["mount", "-t", "tmpfs", "guest", MOUNT]).success());
        let start = |line: &[&str]| {
            // Not through the runner of holdfast_host: they outlive the lab on purpose, and are killed at the end.
            #[allow(clippy::disallowed_methods)]
            let mut command = Command::new(line[0]);
            command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
        };
        let in_cgroup = start(&["sleep", "600"]);
        fs::write(format!("{cgroup}/cgroup.procs"), in_cgroup.id().to_string()).unwrap();
        Self { cgroup, in_cgroup, reader: start(&["tail", "-f", LOG]) }
    }

    fn leaves_untouched(mut self) {
        assert!(Path::new("/run/netns").join(NETNS).exists());
        assert!(self.in_cgroup.try_wait().unwrap().is_none() && self.reader.try_wait().unwrap().is_none());
        let procs = fs::read_to_string(format!("{}/cgroup.procs", self.cgroup)).unwrap();
        assert_eq!(procs.trim(), self.in_cgroup.id().to_string());
        assert!(fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!(" {MOUNT} ")));
        assert_eq!(fs::read_to_string(format!("{DATA}/mine")).unwrap(), "mine");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for process in [&mut self.in_cgroup, &mut self.reader] {
            let _ = process.kill();
            let _ = process.wait();
        }
        within(COMMAND_MS, &["umount", MOUNT]);
        within(COMMAND_MS, &["ip", "netns", "delete", NETNS]);
        let _ = fs::remove_dir(&self.cgroup);
        let _ = fs::remove_dir(MOUNT);
        let _ = fs::remove_dir_all(DATA);
    }
}

/// Mount and IPC namespaces of the hosts, as the kernel numbers them.
fn namespaces(described: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for described in described["regions"][0]["hosts"].as_array().unwrap() {
        let pid = described["pid_mnt"].as_i64().unwrap();
        for kind in ["mnt", "ipc", "net"] {
            let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            found.push(link.to_string_lossy().into_owned());
        }
    }
    found
}

/// How many processes of the machine live in one of them.
fn processes_in(namespaces: &[String]) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lives_there = |entry: fs::DirEntry| {
        ["mnt", "ipc", "net"].iter().any(|kind| {
            let link = fs::read_link(entry.path().join("ns").join(kind)).unwrap_or_default();
            namespaces.iter().any(|namespace| Path::new(namespace) == link)
        })
    };
    entries.map(lives_there).filter(|lives| *lives).count()
}

/// Files in `/dev/shm` that the postmasters have mapped, by the names that the hosts see.
fn shared_memory_of_postgres(described: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["db1", "db2", "db3", "db4"] {
        let data = text(&host(described, name)["instances"][0]["data_dir"]).to_owned();
        // Patroni may be starting one of them again at this moment.
        let pid = fs::read_to_string(format!("{data}/postmaster.pid")).unwrap_or_default();
        let maps = format!("/proc/{}/maps", pid.lines().next().unwrap_or("-"));
        let maps = fs::read_to_string(maps).unwrap_or_default();
        found.extend(maps.lines().filter_map(|line| {
            let at = line.find("/dev/shm/PostgreSQL.")?;
            Some(line[at..].to_owned())
        }));
    }
    assert!(!found.is_empty(), "PostgreSQL maps no shared memory: what is looked for is wrong");
    found
}
