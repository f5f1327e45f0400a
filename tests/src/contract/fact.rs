//! The list of facts: what Patroni does, and what of ours would be wrong if it did not.

/// One fact.
#[derive(Debug, Clone, Copy)]
pub struct Fact {
    /// Its name, also in `asked.py`.
    pub name: &'static str,
    /// What Patroni does.
    pub says: &'static str,
    /// What rests on it: numbers are rules of `PROTOCOL.md`.
    pub rests: &'static str,
    /// Whether it takes a running Patroni.
    pub needs_servers: bool,
}

const fn asked(name: &'static str, says: &'static str, rests: &'static str) -> Fact {
    Fact { name, says, rests, needs_servers: false }
}

const fn seen(name: &'static str, says: &'static str, rests: &'static str) -> Fact {
    Fact { name, says, rests, needs_servers: true }
}

/// All of them.
pub const FACTS: &[Fact] = &[
    asked(
        "quorum-invariant",
        "voters and names together are at most quorum + acknowledgements + 1, one within the other",
        "1",
    ),
    asked(
        "gone-nodes-unchecked",
        "who is gone leaves /sync though the rest may lack what it acknowledged",
        "2",
    ),
    asked("setting-before-hook", "the setting is made before the hook, from the cached /sync", "14"),
    asked(
        "setting-from-sync",
        "its count is members - quorum - 1, one more from outside; /sync is not written",
        "14",
    ),
    asked(
        "mode-on-writes-sync-first",
        "synchronous_mode on writes /sync before the hook",
        "class on is refused",
    ),
    asked("old-leader-votes", "the leader named in /sync has a vote", "16"),
    asked("asks-only-sync", "a candidate asks only those that /sync names", "16"),
    asked("timeline-unchecked", "without check_timeline an older timeline takes part", "14"),
    asked(
        "lock-renewed-unseen",
        "with an unchanged lease the holder renews without looking at the key",
        "13, 20",
    ),
    asked("lock-recreated", "with a new lease it takes the key if it is its own, or absent", "13"),
    asked("lock-deleted-if-own", "only an own leader key is deleted", "8"),
    asked("sync-by-revision", "/sync is written on top of the revision that was read", "8"),
    asked(
        "primary-takes-free-lock",
        "a running primary takes a free lock, in a pause on any timeline",
        "13, 15",
    ),
    asked(
        "promotes-after-hook",
        "pg_ctl promote follows the hook without another look at the lock",
        "14, 16",
    ),
    asked("no-hook-for-a-primary", "who is primary already is not asked", "15"),
    asked("hook-exit-code", "exit code 0 goes on, everything else does not; no shell", "14, 16"),
    asked("hook-ends-by-sigterm", "a cancelled hook gets SIGTERM", "10"),
    asked(
        "lost-lock-ends-hook",
        "a lock that is lost during the hook cancels it, and after it does not",
        "10",
    ),
    asked("refused-is-out-for-one-ttl", "a refused node gives the lock back and is out for one ttl", "16"),
    asked("failsafe-asks-all", "without etcd all that /failsafe names must answer", "22"),
    asked("failsafe-takes-any-caller", "a standby says yes to whoever calls", "22"),
    asked(
        "reinit-of-synchronous",
        "a reinit is allowed on a synchronous standby, a restart waits",
        "8: data_uuid",
    ),
    asked("named-candidate-unchecked", "the node that /failover names takes the lock unasked", "8, 18"),
    asked("bin-name-is-a-path", "bin_name.postgres may be a path, also for single-user mode", "start gate"),
    asked("old-postmaster-pid", "a pid file 3 s younger than its process is not trusted", "start gate: 2 s"),
    asked("names-without-case", "names are compared without case", "names"),
    asked("watchdog-by-default", "the watchdog is opened unless it is off", "setup"),
    seen("leader-key", "its value is the bare name, on the lease of the member's key", "8"),
    seen("sync-key", "leader, sync_standby with commas, quorum", "2"),
    seen("member-key", "conn_url, api_url, state, role, version, xlog_location, timeline, tags", "16"),
    seen("other-keys", "/config, /status with optime, /failsafe with all names", "suspended, 22"),
    seen(
        "every-start-by-bin-name",
        "each start of PostgreSQL: at boot, after a crash, after a demotion",
        "start gate",
    ),
    seen(
        "crash-restarts-in-place",
        "a crashed primary is started again under its lock, without the hook",
        "9, 9a",
    ),
    seen("put-wakes-the-named", "a leader key put by another wakes the one that it names", "8"),
    seen("hook-under-the-lock", "at the hook: lock held, in recovery, setting made, /sync unmoved", "14"),
    seen("deposed-stops", "who sees the lock with another stops accepting writes", "13"),
    seen(
        "lost-lock-terminates",
        "a lock that goes to another during the hook ends it by SIGTERM, unpromoted",
        "10",
    ),
    seen("refused-gives-back", "a hook that ends with 1: the lock is free, nobody is promoted", "16"),
    seen("allowed-promotes", "a hook that ends with 0: promoted", "14"),
    seen(
        "failsafe-goes-on",
        "without etcd the primary goes on while all answer, and demotes when one does not",
        "22",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_asked_py_has_each_that_needs_no_server() {
        let script = include_str!("asked.py");
        let mut names: Vec<_> = FACTS.iter().map(|fact| fact.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FACTS.len());
        for fact in FACTS.iter().filter(|fact| !fact.needs_servers) {
            let function = format!("\ndef {}():", fact.name.replace('-', "_"));
            assert!(script.contains(&function), "{}", fact.name);
        }
        let asked = FACTS.iter().filter(|fact| !fact.needs_servers).count();
        assert_eq!(script.matches("\n@fact\n").count(), asked);
    }
}
