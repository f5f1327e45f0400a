//! One cluster at one revision: our records and Patroni's keys side by side.

use std::collections::BTreeMap;

use holdfast_store::{KeyValue, Read, Reading, decode};
use holdfast_types::keys::{self, ClusterKeys, OurKey};
use holdfast_types::record::{
    self, Attestation, AuditRecord, DrainedRecord, EventRecord, FenceRecord, FencedRecord, FloorRecord,
    FormatRecord, HeldRecord, HoldRecord, IntentRecord, MaintenanceRecord, MemberFacts, ModeRecord,
    OperationRecord, OutsideRecord, PhaseDone, Promise, RestartRecord, RouteRecord, SessionRecord, Stored,
    TermRecord, WouldRecord,
};
use holdfast_types::{ClusterId, HostName, MemberName, Mode, Term};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::patroni::PatroniView;

/// A record with the revision that a transaction compares.
#[derive(Debug, Clone)]
pub struct Seen<T> {
    /// The record.
    pub record: Stored<T>,
    /// Its `mod_revision`.
    pub revision: i64,
}

impl<T> Seen<T> {
    /// What the record says.
    pub fn body(&self) -> &T {
        &self.record.body
    }
}

/// A request for an operation.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The etcd user under whose name it stands.
    pub user: String,
    /// The last part of its key.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its `mod_revision`.
    pub revision: i64,
    /// What is asked for, or why that cannot be read.
    pub intent: Result<Stored<IntentRecord>, String>,
}

/// Everything that is known of one cluster.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The revision of the reading.
    pub revision: i64,
    /// When it was read: wall clock, milliseconds since 1970.
    pub read_wall_ms: i64,
    /// What Holdfast may do here; absent means `observe`.
    pub mode: Option<Seen<ModeRecord>>,
    /// There is a mode record that cannot be read.
    pub mode_unreadable: bool,
    /// The reign.
    pub term: Option<Seen<TermRecord>>,
    /// What the present writer has published.
    pub floor: Option<Seen<FloorRecord>>,
    /// The last record of a hold; see [`hold`](Self::hold) for whether it still means anything.
    hold: Option<Seen<HoldRecord>>,
    /// See [`held_by_a_lost_writer`](Self::held_by_a_lost_writer).
    held: Option<Seen<HeldRecord>>,
    /// The last order of maintenance; see [`maintenance_in_force`](Self::maintenance_in_force).
    maintenance: Option<Seen<MaintenanceRecord>>,
    /// Revision of the key of maintenance, 0 when it is absent; a record that cannot be read has one too.
    pub maintenance_revision: i64,
    /// Revision of the key of a person's override, 0 when it is absent.
    pub override_revision: i64,
    /// Up to which format records may be written; absent: the first.
    pub format: Option<Seen<FormatRecord>>,
    /// Revision of that key, 0 when it is absent.
    pub format_revision: i64,
    /// What fence devices have said, by the member whose agent asked.
    pub outside: BTreeMap<MemberName, OutsideRecord>,
    /// Standing promises.
    pub promises: Vec<(MemberName, Promise)>,
    /// The writer's own word that it has stopped.
    pub attestations: Vec<Attestation>,
    /// What each member's agent publishes.
    pub facts: BTreeMap<MemberName, MemberFacts>,
    /// Who is kept out.
    pub fences: BTreeMap<MemberName, Seen<FenceRecord>>,
    /// The fences that the agents tell of, oldest first.
    pub fenced: Vec<FencedRecord>,
    /// The restarts of writers in their own term, oldest first.
    pub restarts: Vec<RestartRecord>,
    /// Where the poolers send their clients, by `host.name`.
    pub routes: BTreeMap<String, RouteRecord>,
    /// The operation that runs, or ran last.
    pub operation: Option<Seen<OperationRecord>>,
    /// Revision of its key, 0 when it is absent; a record that cannot be read has one too.
    pub operation_revision: i64,
    /// The operations that have ended, oldest first.
    pub operations: Vec<OperationRecord>,
    /// The requests that no coordinator has taken yet, oldest first.
    pub intents: Vec<Asked>,
    /// Drained members, and poolers by `host.name`; `None`: the mark cannot be read, and counts.
    pub drained: BTreeMap<String, Option<DrainedRecord>>,
    /// How the last phase of an operation went, by the agents of members.
    pub done: BTreeMap<MemberName, PhaseDone>,
    /// The last incidents, oldest first.
    pub events: Vec<EventRecord>,
    /// What each member's agent would have done in mode observe.
    pub would: BTreeMap<MemberName, WouldRecord>,
    /// The last orders, oldest first.
    pub audits: Vec<AuditRecord>,
    /// The places of the ring of orders that are taken, each with its `mod_revision`.
    pub audit_places: BTreeMap<u64, i64>,
    /// The hosts whose agents are alive.
    pub sessions: BTreeMap<HostName, SessionRecord>,
    /// Patroni's side.
    pub patroni: PatroniView,
    /// Records that could not be read, each with its remedy.
    pub problems: Vec<String>,
}

impl ClusterView {
    /// What has to be read for a view, in one reading.
    pub fn reads(cluster: &ClusterId) -> Vec<Read> {
        let keys = ClusterKeys::new(cluster);
        vec![
            Read::Prefix(keys.prefix().to_owned()),
            Read::Prefix(keys.patroni_prefix().to_owned()),
            Read::Prefix(keys::sessions(&cluster.region)),
        ]
    }

    /// Makes the view from a reading of [`reads`](Self::reads).
    pub fn new(cluster: ClusterId, reading: &Reading, read_wall_ms: i64) -> Self {
        let keys = ClusterKeys::new(&cluster);
        let mut problems = Vec::new();
        let patroni = PatroniView::read(&keys, reading, &mut problems);
        let mut view = Self {
            revision: reading.revision,
            read_wall_ms,
            mode: None,
            mode_unreadable: false,
            term: None,
            floor: None,
            hold: None,
            held: None,
            maintenance: None,
            maintenance_revision: 0,
            override_revision: 0,
            format: None,
            format_revision: 0,
            outside: BTreeMap::new(),
            promises: Vec::new(),
            attestations: Vec::new(),
            facts: BTreeMap::new(),
            fences: BTreeMap::new(),
            fenced: Vec::new(),
            restarts: Vec::new(),
            routes: BTreeMap::new(),
            operation: None,
            operation_revision: 0,
            operations: Vec::new(),
            intents: Vec::new(),
            drained: BTreeMap::new(),
            done: BTreeMap::new(),
            events: Vec::new(),
            would: BTreeMap::new(),
            audits: Vec::new(),
            audit_places: BTreeMap::new(),
            sessions: BTreeMap::new(),
            patroni,
            problems,
            cluster,
        };
        for pair in reading.below(keys.prefix()) {
            if let Some(key) = keys.parse(&pair.key) {
                view.take(key, pair);
            }
        }
        for pair in reading.below(&keys::sessions(&view.cluster.region)) {
            if let Some(session) = body::<SessionRecord>(pair, &mut view.problems) {
                view.sessions.insert(session.host.clone(), session);
            }
        }
        view.events.sort_by_key(|event| event.number);
        view.audits.sort_by_key(|audit| audit.number);
        view.operations.sort_by_key(|operation| operation.number);
        view.intents.sort_by_key(|asked| asked.revision);
        // Each agent counts for itself, so only time gives them an order.
        view.fenced.sort_by_key(|fenced| fenced.done_wall_ms);
        view.restarts.sort_by_key(|restart| restart.back_wall_ms);
        view
    }

    fn take(&mut self, key: OurKey<'_>, pair: &KeyValue) {
        let problems = &mut self.problems;
        match key {
            OurKey::Mode => {
                self.mode = seen(pair, problems);
                self.mode_unreadable = self.mode.is_none();
            }
            OurKey::Term => self.term = seen(pair, problems),
            OurKey::Floor => self.floor = seen(pair, problems),
            OurKey::Hold => self.hold = seen(pair, problems),
            OurKey::Held => self.held = seen(pair, problems),
            OurKey::Maintenance => {
                self.maintenance_revision = pair.mod_revision;
                self.maintenance = seen(pair, problems);
            }
            OurKey::Override => self.override_revision = pair.mod_revision,
            OurKey::Format => {
                self.format_revision = pair.mod_revision;
                self.format = seen(pair, problems);
            }
            OurKey::Outside(asker) => {
                if let (Some(name), Some(found)) = (name(asker, pair, problems), body(pair, problems)) {
                    self.outside.insert(name, found);
                }
            }
            OurKey::Promise { member, .. } => {
                if let (Some(name), Some(promise)) = (name(member, pair, problems), body(pair, problems)) {
                    self.promises.push((name, promise));
                }
            }
            OurKey::Attest(_) => self.attestations.extend(body::<Attestation>(pair, problems)),
            OurKey::Facts(member) => {
                if let (Some(name), Some(facts)) = (name(member, pair, problems), body(pair, problems)) {
                    self.facts.insert(name, facts);
                }
            }
            OurKey::Fence(member) => {
                if let (Some(name), Some(fence)) = (name(member, pair, problems), seen(pair, problems)) {
                    self.fences.insert(name, fence);
                }
            }
            OurKey::Operation | OurKey::EndedOperation(_) | OurKey::Intent { .. } | OurKey::Done(_) => {
                self.take_operation(key, pair);
            }
            OurKey::Drained(node) => drop(self.drained.insert(node.to_owned(), body(pair, problems))),
            OurKey::Fenced { .. } => self.fenced.extend(body::<FencedRecord>(pair, problems)),
            OurKey::Restart { .. } => self.restarts.extend(body::<RestartRecord>(pair, problems)),
            OurKey::Route(pooler) => {
                if let Some(route) = body(pair, problems) {
                    self.routes.insert(pooler.to_owned(), route);
                }
            }
            OurKey::Event(_) => self.events.extend(body::<EventRecord>(pair, problems)),
            OurKey::Would(member) => {
                if let (Some(name), Some(would)) = (name(member, pair, problems), body(pair, problems)) {
                    self.would.insert(name, would);
                }
            }
            OurKey::Audit(place) => {
                // A damaged one takes its place too: the next order there writes over it.
                self.audit_places.insert(place, pair.mod_revision);
                self.audits.extend(body::<AuditRecord>(pair, problems));
            }
        }
    }

    fn take_operation(&mut self, key: OurKey<'_>, pair: &KeyValue) {
        let problems = &mut self.problems;
        match key {
            OurKey::Operation => {
                self.operation_revision = pair.mod_revision;
                self.operation = seen(pair, problems);
            }
            OurKey::EndedOperation(_) => self.operations.extend(body::<OperationRecord>(pair, problems)),
            OurKey::Intent { user, id } => self.intents.push(Asked {
                user: keys::user_of(user),
                id: id.to_owned(),
                key: pair.key.clone(),
                revision: pair.mod_revision,
                intent: decode(pair).map_err(|problem| problem.to_string()),
            }),
            OurKey::Done(member) => {
                if let (Some(name), Some(found)) = (name(member, pair, problems), body(pair, problems)) {
                    self.done.insert(name, found);
                }
            }
            _ => {}
        }
    }

    /// The mode in force.
    pub fn mode(&self) -> Mode {
        self.mode.as_ref().map_or(Mode::Observe, |mode| mode.body().mode)
    }

    /// The format that a build which knows formats up to `build` writes here.
    pub fn written_format(&self, build: u64) -> u64 {
        record::written(self.format.as_ref().map(Seen::body), build)
    }

    /// The revision of the mode record, 0 when it is absent.
    pub fn mode_revision(&self) -> i64 {
        self.mode.as_ref().map_or(0, |mode| mode.revision)
    }

    /// The term record, if it is in force. One that is older than the mode record says only how high terms have been:
    /// anything may have happened while the cluster was not armed (`PROTOCOL.md` section 2).
    pub fn reign(&self) -> Option<&TermRecord> {
        let in_force =
            |term: &&Seen<TermRecord>| self.mode() == Mode::Armed && term.revision > self.mode_revision();
        self.term.as_ref().filter(in_force).map(Seen::body)
    }

    /// What etcd has forgotten, by the word of an agent that remembers it.
    pub fn contradiction(&self) -> Option<&str> {
        self.facts.values().find_map(|facts| facts.contradiction.as_deref())
    }

    /// The open term that is in force, and its writer.
    pub fn writer(&self) -> Option<(Term, &MemberName)> {
        let term = self.reign()?;
        Some((term.term, term.open_holder()?))
    }

    /// The hold on the end of the present term, released or not. One of an earlier term is over, whoever closed it: the
    /// record stays until the next hold is written over it.
    pub fn hold(&self) -> Option<&Seen<HoldRecord>> {
        let hold = self.hold.as_ref()?;
        // A term record that is gone or cannot be read does not end a hold.
        let is_present =
            self.term.is_none() || self.writer().is_some_and(|(term, _)| term == hold.body().term);
        is_present.then_some(hold)
    }

    /// The hold that waits for a person.
    pub fn hold_in_force(&self) -> Option<&Seen<HoldRecord>> {
        self.hold().filter(|hold| hold.body().released_by.is_none())
    }

    /// Rule 24: the writer has said that it may write without a lease, its agent is gone, and nothing but its return or a
    /// person lets its term be closed now.
    pub fn held_by_a_lost_writer(&self) -> Option<&Seen<HeldRecord>> {
        let (term, holder) = self.writer()?;
        let held =
            self.held.as_ref().filter(|held| (held.body().term, &held.body().holder) == (term, holder))?;
        let suspended = self.patroni.switch("pause") == Some(true) || self.maintenance_in_force().is_some();
        let lost = self.agent_alive(holder) != Some(true);
        (lost && !suspended && !held.body().has_run_out(self.read_wall_ms)).then_some(held)
    }

    /// The maintenance that suspends automatic action at the moment of the reading.
    pub fn maintenance_in_force(&self) -> Option<&MaintenanceRecord> {
        self.maintenance.as_ref().map(Seen::body).filter(|found| found.is_in_force(self.read_wall_ms))
    }

    /// There is a maintenance record that cannot be read. Agents then take it for one in force.
    pub fn maintenance_unreadable(&self) -> bool {
        self.maintenance.is_none() && self.maintenance_revision != 0
    }

    /// Every member that anybody has heard of, in the order of names.
    pub fn members(&self) -> Vec<MemberName> {
        let mut all: Vec<MemberName> =
            self.patroni.members.keys().chain(self.facts.keys()).cloned().collect();
        all.extend(self.fences.keys().cloned());
        all.extend(self.term.as_ref().map(|term| term.body().holder().clone()));
        all.sort();
        all.dedup();
        all
    }

    /// Whether a member's agent is alive; unknown when no agent has ever published its host.
    pub fn agent_alive(&self, member: &MemberName) -> Option<bool> {
        self.facts.get(member).map(|facts| self.sessions.contains_key(&facts.host))
    }

    /// Whether the agent of a pooler's host is alive: its route is then what that agent holds to be true. The key is
    /// `host.pooler`, and both may hold dots.
    pub fn pooler_alive(&self, pooler: &str) -> bool {
        self.sessions
            .keys()
            .any(|host| pooler.strip_prefix(host.as_str()).is_some_and(|r| r.starts_with('.')))
    }

    /// The `mod_revision` of the place that an order of this number takes in its ring; 0 when it is free.
    pub fn audit_revision(&self, number: u64) -> i64 {
        self.audit_places.get(&(number % keys::AUDITS_KEPT)).copied().unwrap_or(0)
    }

    /// The promise of a member for the present term.
    pub fn promise_of(&self, member: &MemberName) -> Option<&Promise> {
        let term = self.term.as_ref()?.body().term;
        self.promises
            .iter()
            .find(|(name, promise)| name == member && promise.term == term)
            .map(|(_, found)| found)
    }
}

fn seen<T: Serialize + DeserializeOwned>(pair: &KeyValue, problems: &mut Vec<String>) -> Option<Seen<T>> {
    match decode(pair) {
        Ok(record) => Some(Seen { record, revision: pair.mod_revision }),
        Err(problem) => {
            problems.push(problem.to_string());
            None
        }
    }
}

fn body<T: Serialize + DeserializeOwned>(pair: &KeyValue, problems: &mut Vec<String>) -> Option<T> {
    seen(pair, problems).map(|seen| seen.record.body)
}

fn name(text: &str, pair: &KeyValue, problems: &mut Vec<String>) -> Option<MemberName> {
    MemberName::new(text).map_err(|error| problems.push(format!("{}: {error}", pair.key))).ok()
}
