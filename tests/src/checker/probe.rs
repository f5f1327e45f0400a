//! Asks one host over its socket, all the time, whether it accepts writes, and the writer now and then for its standbys.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use tokio_util::sync::CancellationToken;

use super::connect::{ConnectError, Session, Target};
use super::monotonic_us;
use super::record::{Line, NodeState, Probe, Standbys};
use super::recorder::Recorder;

/// Time between two probes of a host: the resolution of "two writable nodes".
pub const PERIOD: Duration = Duration::from_millis(40);
/// A probe that takes longer is unknown.
const DEADLINE: Duration = Duration::from_millis(1_000);
/// Every so many probes the standbys are asked for too: 4 times a second.
const STANDBYS_EVERY: u64 = 6;

const STATE: &str = "select pg_is_in_recovery()";
const STATE_AND_STANDBYS: &str = "select pg_is_in_recovery(), current_setting('synchronous_standby_names'), \
     (select count(*) from pg_stat_replication where state = 'streaming' and sync_state in ('sync', 'quorum')), \
     (select count(*) from pg_stat_replication where state = 'streaming')";

/// Probes one host until it is told to stop.
pub(super) async fn work(host: String, target: Target, recorder: Recorder, stop: CancellationToken) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut session: Option<Session> = None;
    for count in 0_u64.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let sql = if count.is_multiple_of(STANDBYS_EVERY) { STATE_AND_STANDBYS } else { STATE };
        let begin_us = monotonic_us();
        let answer = tokio::time::timeout(DEADLINE, ask(&target, &mut session, sql)).await;
        let end_us = monotonic_us();
        let (state, standbys) = answer.unwrap_or((NodeState::Unknown, None));
        if matches!(state, NodeState::Unknown | NodeState::Down) {
            session = None;
        }
        let probe = Probe { host: host.clone(), begin_us, end_us, state, standbys };
        if !recorder.write(Line::Probe(probe)).await {
            return;
        }
    }
}

async fn ask(target: &Target, session: &mut Option<Session>, sql: &str) -> (NodeState, Option<Standbys>) {
    if session.is_none() {
        match target.connect().await {
            Ok(opened) => *session = Some(opened),
            Err(ConnectError::Deadline) => return (NodeState::Unknown, None),
            Err(_) => return (NodeState::Down, None),
        }
    }
    let Some(session) = session else { return (NodeState::Down, None) };
    match session.client.simple_query(sql).await {
        Ok(messages) => read(&messages),
        Err(_) => (NodeState::Down, None),
    }
}

fn read(messages: &[SimpleQueryMessage]) -> (NodeState, Option<Standbys>) {
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let Some(row) = row else { return (NodeState::Unknown, None) };
    let state = if row.get(0) == Some("f") { NodeState::Writable } else { NodeState::ReadOnly };
    let number = |column: usize| row.try_get(column).ok().flatten().and_then(|text| text.parse().ok());
    let standbys = || {
        let named = named(row.try_get(1).ok().flatten()?);
        Some(Standbys { named, sync_streaming: number(2)?, streaming: number(3)? })
    };
    (state, if state == NodeState::Writable { standbys() } else { None })
}

/// How many standbys `synchronous_standby_names` names: `ANY 1 (a, b)`, `2 (a)`, `a, b` or nothing.
fn named(setting: &str) -> u32 {
    let list = setting.split_once('(').map_or(setting, |(_, list)| list.trim_end().trim_end_matches(')'));
    let names = list.split(',').filter(|name| !name.trim().is_empty()).count();
    u32::try_from(names).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_every_form_are_counted() {
        let forms = [("", 0), ("ANY 1 (\"db2\",db3)", 2), ("2 (a, b, c)", 3), ("a,b", 2), ("ANY 1 (*)", 1)];
        for (setting, count) in forms {
            assert_eq!(named(setting), count, "{setting}");
        }
    }
}
