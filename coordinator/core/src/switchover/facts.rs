//! What the agents of the writer and of its successor say stands before a switchover.

use holdfast_types::MemberName;
use holdfast_types::preflight::{Archiver, OpenTransaction, Preflight, WriterPreflight};
use holdfast_types::record::Switchover;

use crate::check::Check;
use crate::observation::Observation;

/// PostgreSQL's shutdown archives what waits before it ends; a segment of 16 MiB takes a part of a second.
const SEGMENTS_MAX: u64 = 8;
/// A new writer that fills its disk is the next outage.
const FREE_BYTES_MIN: u64 = 512 << 20;
/// The successor replays what it has received before it is promoted: some hundred MiB a second.
const REPLAY_BYTES_NOTED: u64 = 32 << 20;
/// How many open transactions are named.
const NAMED_MAX: usize = 3;

/// Adds what was found.
pub fn check(
    seen: &Observation,
    wanted: &Switchover,
    writer: &MemberName,
    successor: &MemberName,
    check: &mut Check,
) {
    let told = |name: &MemberName| seen.members.get(name).and_then(|member| member.preflight.as_ref());
    let from = told(writer);
    match from.and_then(|told| told.writer.as_ref()) {
        Some(told) => of_writer(told, wanted, check),
        None => check.block(
            format!("the agent of the writer {writer} does not say what is open there"),
            "holdfast doctor; an older build cannot be asked: upgrade it",
        ),
    }
    match told(successor) {
        Some(told) => of_successor(successor, told, check),
        None => check.block(
            format!("the agent of {successor} does not say how it stands"),
            "holdfast doctor; an older build cannot be asked: upgrade it",
        ),
    }
    let version = |told: Option<&Preflight>| told.and_then(|told| told.server_version_num);
    if let (Some(old), Some(new)) = (version(from), version(told(successor)))
        && old != new
    {
        check.warn(format!("PostgreSQL is {old} on {writer} and {new} on {successor}"));
    }
}

fn of_writer(told: &WriterPreflight, wanted: &Switchover, check: &mut Check) {
    match &told.transactions {
        Some(open) if open.count > 0 => {
            let named = open.oldest.iter().take(NAMED_MAX).map(transaction).collect::<Vec<_>>().join("; ");
            let then = if wanted.terminate { "they are ended" } else { "nothing is changed" };
            check.warn(format!(
                "{} transactions are open ({named}): waited for up to {} s, then {then}",
                open.count,
                wanted.drain_timeout_ms / 1_000
            ));
        }
        Some(_) => {}
        None => check.warn("which transactions are open is not known"),
    }
    match told.prepared_transactions {
        Some(0) => {}
        Some(count) => {
            check.warn(format!("{count} prepared transactions go over to the next writer, with their locks"))
        }
        None => check.warn("whether there are prepared transactions is not known"),
    }
    if let Some(slots) = told.lost_slots.as_ref().filter(|slots| !slots.is_empty()) {
        check.warn(format!(
            "logical slots that the next writer has only if Patroni keeps them (slots in patronictl edit-config): {}",
            slots.join(", ")
        ));
    }
    if let Some(archiver) = &told.archiver {
        of_archiver(*archiver, check);
    }
}

fn transaction(open: &OpenTransaction) -> String {
    let does = if open.idle_in_transaction { "idle" } else { "active" };
    format!("pid {} of {} for {} s, {does}", open.pid, open.user, open.age_ms / 1_000)
}

/// Clients would wait for it: the last thing that PostgreSQL does before it ends is to archive.
fn of_archiver(archiver: Archiver, check: &mut Check) {
    if !archiver.is_on {
        return;
    }
    if archiver.fails == Some(true) {
        check.block(
            "the last segment could not be archived: PostgreSQL tries it three times more before it ends",
            "mend archive_command first (pg_stat_archiver names the segment)",
        );
    } else if let Some(waiting) = archiver.waiting.filter(|waiting| *waiting > SEGMENTS_MAX) {
        check.block(
            format!("{waiting} segments wait to be archived, and PostgreSQL does that before it ends"),
            format!("wait until at most {SEGMENTS_MAX} do"),
        );
    }
}

fn of_successor(name: &MemberName, told: &Preflight, check: &mut Check) {
    for (what, free) in [("data directory", told.data_free_bytes), ("pg_wal", told.wal_free_bytes)] {
        match free {
            Some(free) if free < FREE_BYTES_MIN => check.block(
                format!("the {what} of {name} has {} MiB left", free >> 20),
                format!("make room: at least {} MiB", FREE_BYTES_MIN >> 20),
            ),
            Some(_) => {}
            None => check.warn(format!("what is free for the {what} of {name} is not known")),
        }
    }
    let Some(standby) = &told.standby else { return };
    if standby.replay_paused == Some(true) {
        check.block(format!("replay is paused on {name}"), "select pg_wal_replay_resume() there");
    }
    if let Some(bytes) = standby.replay_bytes.filter(|bytes| *bytes > REPLAY_BYTES_NOTED) {
        check.warn(format!(
            "{name} has {} MiB to replay before it can write: clients wait for that",
            bytes >> 20
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switchover;
    use crate::testing::{healthy, name};
    use holdfast_types::preflight::OpenTransactions;

    fn with(change: impl FnOnce(&mut Preflight, &mut Preflight)) -> Check {
        let mut seen = healthy();
        let take = |seen: &Observation, member: &str| seen.members[&name(member)].preflight.clone().unwrap();
        let (mut writer, mut successor) = (take(&seen, "db1"), take(&seen, "db2"));
        change(&mut writer, &mut successor);
        seen.members.get_mut(&name("db1")).unwrap().preflight = Some(writer);
        seen.members.get_mut(&name("db2")).unwrap().preflight = Some(successor);
        switchover::check(&seen, &Switchover::default()).0
    }

    fn archiver(is_on: bool, fails: bool, waiting: u64) -> Option<Archiver> {
        Some(Archiver { is_on, fails: Some(fails), waiting: Some(waiting) })
    }

    #[test]
    fn what_would_make_clients_wait_stops_it() {
        let blocks = |change: fn(&mut WriterPreflight)| {
            with(|writer, _| change(writer.writer.as_mut().unwrap())).blockers.len()
        };
        assert_eq!(blocks(|_| ()), 0);
        assert_eq!(blocks(|writer| writer.archiver = archiver(true, true, 0)), 1);
        assert_eq!(blocks(|writer| writer.archiver = archiver(true, false, 9)), 1);
        assert_eq!(blocks(|writer| writer.archiver = archiver(true, false, 1)), 0);
        assert_eq!(blocks(|writer| writer.archiver = archiver(false, true, 9)), 0);
        assert_eq!(with(|_, next| next.wal_free_bytes = Some(1 << 20)).blockers.len(), 1);
        assert_eq!(
            with(|_, next| next.standby.as_mut().unwrap().replay_paused = Some(true)).blockers.len(),
            1
        );
        assert_eq!(with(|writer, _| writer.writer = None).blockers.len(), 1, "not known is not empty");
    }

    #[test]
    fn open_transactions_are_named() {
        let idle = OpenTransaction {
            pid: 77,
            age_ms: 35_000,
            idle_in_transaction: true,
            user: "app".into(),
            application_name: String::new(),
        };
        let check = with(|writer, _| {
            writer.writer.as_mut().unwrap().transactions =
                Some(OpenTransactions { count: 1, oldest: vec![idle] });
        });
        assert!(check.blockers.is_empty());
        assert!(check.warnings.iter().any(|line| line.contains("pid 77 of app for 35 s, idle")), "{check:?}");
    }
}
