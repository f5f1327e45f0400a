//! Follows a recording while it is written: when each route last acknowledged, and what the writer last said of its
//! standbys.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::Context as _;

use crate::checker::record::{ClientInfo, Line, NodeState, Outcome, RouteKind, Standbys};

/// The state of a recording so far.
pub struct Tail {
    file: PathBuf,
    offset: u64,
    rest: Vec<u8>,
    clients: BTreeMap<u32, ClientInfo>,
    /// Moments of the plain acknowledgements by TCP route, oldest first.
    acknowledged_us: BTreeMap<String, Vec<u64>>,
    /// The last probe's state by host.
    states: BTreeMap<String, NodeState>,
    /// The last word of each writer on its standbys, and when.
    standbys: BTreeMap<String, (u64, Standbys)>,
}

impl Tail {
    /// A recording that may not be there yet.
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            offset: 0,
            rest: Vec::new(),
            clients: BTreeMap::new(),
            acknowledged_us: BTreeMap::new(),
            states: BTreeMap::new(),
            standbys: BTreeMap::new(),
        }
    }

    /// Reads what is new.
    pub fn advance(&mut self) -> anyhow::Result<()> {
        let Ok(mut file) = std::fs::File::open(&self.file) else { return Ok(()) };
        file.seek(SeekFrom::Start(self.offset))?;
        let read = file.read_to_end(&mut self.rest)?;
        self.offset += read as u64;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        for line in whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.add(serde_json::from_slice(line).context("a line of the recording")?);
        }
        Ok(())
    }

    fn add(&mut self, line: Line) {
        match line {
            Line::Header { clients, .. } => {
                for client in clients {
                    if client.kind != RouteKind::Socket {
                        self.acknowledged_us.entry(client.route.clone()).or_default();
                    }
                    self.clients.insert(client.client, client);
                }
            }
            Line::Attempt(attempt) if attempt.outcome == Outcome::Acknowledged => {
                let route = self.clients.get(&attempt.client).map(|client| client.route.as_str());
                if let Some(moments) = route.and_then(|route| self.acknowledged_us.get_mut(route)) {
                    moments.push(attempt.end_us);
                }
            }
            Line::Probe(probe) => {
                if let Some(standbys) = probe.standbys {
                    self.standbys.insert(probe.host.clone(), (probe.end_us, standbys));
                }
                self.states.insert(probe.host, probe.state);
            }
            Line::Attempt(_) | Line::End { .. } => {}
        }
    }

    /// Whether every TCP route has acknowledged throughout the last `stretch_us` before `now_us`, with no pause longer
    /// than `pause_us`.
    pub fn all_acknowledge(&self, now_us: u64, stretch_us: u64, pause_us: u64) -> bool {
        let from_us = now_us.saturating_sub(stretch_us);
        let steady = |moments: &Vec<u64>| {
            let at = moments.partition_point(|moment| *moment < from_us);
            let edges = std::iter::once(from_us).chain(moments[at..].iter().copied());
            let next = moments[at..].iter().copied().chain(std::iter::once(now_us));
            edges.zip(next).all(|(one, other)| other.saturating_sub(one) <= pause_us)
        };
        !self.acknowledged_us.is_empty() && self.acknowledged_us.values().all(steady)
    }

    /// The one host that accepts writes; none when there is none or more than one.
    pub fn writer(&self) -> Option<&str> {
        let mut writers = self.states.iter().filter(|(_, state)| **state == NodeState::Writable);
        let (host, _) = writers.next()?;
        writers.next().is_none().then_some(host)
    }

    /// What the writer said of its standbys after `since_us`.
    pub fn standbys_of_writer(&self, since_us: u64) -> Option<Standbys> {
        let (at_us, standbys) = self.standbys.get(self.writer()?)?;
        (*at_us >= since_us).then_some(*standbys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::record::{Attempt, FORMAT, Probe};

    fn tail(lines: Vec<Line>) -> Tail {
        let mut tail = Tail::new(PathBuf::new());
        lines.into_iter().for_each(|line| tail.add(line));
        tail
    }

    fn acknowledged(client: u32, end_us: u64) -> Line {
        let outcome = Outcome::Acknowledged;
        Line::Attempt(Attempt { client, seq: end_us, begin_us: end_us, end_us, outcome })
    }

    fn header() -> Line {
        let client = |client, route: &str, kind| ClientInfo { client, route: route.into(), kind, host: None };
        let clients =
            vec![client(0, "libpq", RouteKind::Libpq), client(1, "pgbouncer:p", RouteKind::Pgbouncer)];
        Line::Header { format: FORMAT, run: "r".into(), clients, begin_us: 0 }
    }

    #[test]
    fn every_route_must_acknowledge_throughout() {
        let mut lines = vec![header()];
        lines.extend((1..=20).map(|at| acknowledged(0, at * 10)));
        assert!(!tail(lines.clone()).all_acknowledge(200, 100, 15));
        lines.extend((1..=20).map(|at| acknowledged(1, at * 10)));
        assert!(tail(lines.clone()).all_acknowledge(200, 100, 15));
        assert!(!tail(lines).all_acknowledge(230, 100, 15));
        assert!(!tail(Vec::new()).all_acknowledge(230, 100, 15));
    }

    #[test]
    fn two_writers_are_no_writer() {
        let standbys = Some(Standbys { named: 2, sync_streaming: 2, streaming: 3 });
        let probe = |host: &str, end_us, state| {
            Line::Probe(Probe { host: host.into(), begin_us: 0, end_us, state, standbys })
        };
        let one = vec![probe("db1", 5, NodeState::Writable), probe("db2", 6, NodeState::ReadOnly)];
        assert_eq!(tail(one.clone()).writer(), Some("db1"));
        assert_eq!(tail(one.clone()).standbys_of_writer(5), standbys);
        assert_eq!(tail(one.clone()).standbys_of_writer(6), None);
        let two = [one, vec![probe("db2", 7, NodeState::Writable)]].concat();
        assert_eq!(tail(two).writer(), None);
    }
}
