//! One cluster as etcd shows it: both prefixes and the sessions of the region, decoded, at one revision.
//!
//! Made by the shell from a linearizable read or from a watch; every decision about a cluster is made on one of these.
//! A record that this build cannot read is *unknown*, and named in [`Cluster::unreadable`]; it is never taken for absent.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::record::{
    Attestation, DrainedRecord, EventRecord, FenceRecord, FloorRecord, HeldRecord, HoldRecord,
    MaintenanceRecord, MemberFacts, ModeRecord, OperationRecord, OutsideRecord, OverrideRecord, PhaseDone,
    Promise, SessionRecord, TermRecord, Unknown, WouldRecord,
};
use holdfast_types::{HostName, Lsn, MemberName, Mode, Position, SessionId};

use crate::close::Revised;
use crate::successor::Candidate;
use crate::sync::SyncKey;

/// A member as Patroni's own key shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatroniMember {
    /// The lease of the key: Patroni renews it in each of its loops.
    pub lease: i64,
    /// Host part of `conn_url`.
    pub address: String,
    /// Patroni's `state`, for example `running` or `streaming`.
    pub state: Option<String>,
    /// Tag `nofailover`.
    pub nofailover: bool,
    /// Tag `failover_priority`; 1 when absent.
    pub failover_priority: i64,
    /// Tag `nosync`, or a `sync_priority` of 0 or less.
    pub nosync: bool,
    /// Tag `noloadbalance`.
    pub noloadbalance: bool,
    /// What it has received, as Patroni published it last (`timeline`, `xlog_location`): up to a `loop_wait` old.
    pub position: Option<Position>,
}

/// What matters here of Patroni's dynamic configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatroniConfig {
    /// `ttl` in milliseconds.
    pub ttl_ms: u64,
    /// `loop_wait` in milliseconds.
    pub loop_wait_ms: u64,
    /// `pause`.
    pub paused: bool,
    /// `failsafe_mode`.
    pub failsafe_mode: bool,
    /// `maximum_lag_on_failover`, in bytes.
    pub maximum_lag_on_failover: u64,
    /// `postgresql.before_stop`, or a callback `on_stop`: something of the user's runs when Patroni stops PostgreSQL.
    pub acts_on_stop: bool,
    /// Revision of the key, by which a transaction compares it.
    pub mod_revision: i64,
}

/// A cluster at one revision of etcd.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// etcd's revision.
    pub revision: i64,
    /// The mode record; absent means observe.
    pub mode: Option<Revised<ModeRecord>>,
    /// The term record; absent means never armed.
    pub term: Option<Revised<TermRecord>>,
    /// The floor record.
    pub floor: Option<Revised<FloorRecord>>,
    /// Patroni's `/sync`.
    pub sync: Option<SyncKey>,
    /// Earlier values of `/sync`, as far as they were read.
    pub sync_history: Vec<SyncKey>,
    /// The newest promise of each member.
    pub promises: BTreeMap<MemberName, Revised<Promise>>,
    /// The attestation of the present term.
    pub attestation: Option<Revised<Attestation>>,
    /// The sessions that exist.
    pub sessions: BTreeMap<SessionId, SessionRecord>,
    /// Patroni's leader key.
    pub leader_key: Option<Revised<MemberName>>,
    /// Patroni's `/failover` holds an order. Patroni leaves an empty one behind.
    pub failover_key: bool,
    /// Revision of the key; 0: there is none.
    pub failover_mod_revision: i64,
    /// Whom a person wants as the next leader, by Patroni's `/failover`; one that is scheduled for later counts for nobody.
    pub failover_candidate: Option<MemberName>,
    /// The operation of ours by which it was ordered; `None`: a person's order, or an older build's.
    pub failover_operation: Option<u64>,
    /// Patroni's members.
    pub members: BTreeMap<MemberName, PatroniMember>,
    /// Patroni's configuration.
    pub config: Option<PatroniConfig>,
    /// Where the leader's WAL ended, as its Patroni published it last (`/status`, `optime`).
    pub leader_optime: Option<Lsn>,
    /// What each member's agent says of it.
    pub facts: BTreeMap<MemberName, MemberFacts>,
    /// Fence records.
    pub fences: BTreeMap<MemberName, Revised<FenceRecord>>,
    /// Members with a fence record that this build cannot read: they are fenced.
    pub unreadable_fences: BTreeSet<MemberName>,
    /// The hold record.
    pub hold: Option<Revised<HoldRecord>>,
    /// Rule 24: the writer may accept writes without a lease; it may be of an earlier term.
    pub held: Option<Revised<HeldRecord>>,
    /// There is such a record that this build cannot read.
    pub held_unreadable: bool,
    /// The maintenance record; it may have run out.
    pub maintenance: Option<Revised<MaintenanceRecord>>,
    /// There is a maintenance record that this build cannot read: it may be in force.
    pub maintenance_unreadable: bool,
    /// What fence devices have said, by the member whose agent asked.
    pub outside: BTreeMap<MemberName, Revised<OutsideRecord>>,
    /// A person's order to accept a loss; it may be of a term that is over.
    pub overriding: Option<Revised<OverrideRecord>>,
    /// The operation that runs, or ran last. One that this build cannot read is none: nobody here takes part in it.
    pub operation: Option<Revised<OperationRecord>>,
    /// What members' agents say of a phase of it, or of one before. One that cannot be read is none.
    pub done: BTreeMap<MemberName, PhaseDone>,
    /// Nodes that a person is about to stop: members, and poolers by `host.name`.
    pub drained: BTreeMap<String, Revised<DrainedRecord>>,
    /// Nodes with such a mark that this build cannot read: they are drained.
    pub unreadable_drains: BTreeSet<String>,
    /// What observing agents would have promised or attested, by their members; without their lines.
    pub would: BTreeMap<MemberName, WouldRecord>,
    /// The incidents that are still in the ring.
    pub events: Vec<Revised<EventRecord>>,
    /// What this build does not know of the records of our own, by their keys: it is kept when they are written again.
    pub unknown: BTreeMap<String, Unknown>,
    /// Keys that could not be read, with the reason.
    pub unreadable: BTreeMap<String, String>,
    /// There is a mode record that this build cannot read: the mode is unknown, and nothing may act or let go.
    pub mode_unreadable: bool,
    /// There is a term or promise record that this build cannot read: no term may be opened by counting.
    pub terms_unreadable: bool,
    /// There is a floor record that this build cannot read.
    pub floor_unreadable: bool,
}

impl Cluster {
    /// The mode in force. `None` when there is a mode record that this build cannot read.
    pub fn known_mode(&self) -> Option<Mode> {
        (!self.mode_unreadable).then(|| self.mode.as_ref().map_or(Mode::Observe, |record| record.value.mode))
    }

    /// Whether decisions may act.
    pub fn is_armed(&self) -> bool {
        self.known_mode() == Some(Mode::Armed)
    }

    /// Whether a member is kept out by a fence record; one that cannot be read counts.
    pub fn fenced(&self, member: &MemberName) -> bool {
        self.fences.contains_key(member) || self.unreadable_fences.contains(member)
    }

    /// Whether a member, or a pooler by `host.name`, is drained; a mark that cannot be read counts. Names of members are the
    /// same in either case, as Patroni's are.
    pub fn is_drained(&self, node: &str) -> bool {
        let all = self.drained.keys().chain(&self.unreadable_drains);
        all.into_iter().any(|name| name.eq_ignore_ascii_case(node))
    }

    /// Whether Patroni is paused; `None` when its configuration is not there or cannot be read.
    pub fn paused(&self) -> Option<bool> {
        self.config.map(|config| config.paused)
    }

    /// Whether a person has suspended automatic action: by Patroni's pause, or by an order of maintenance that has not run
    /// out by this host's wall clock. `None` when it cannot be told; nothing automatic may be done then either.
    pub fn suspended(&self, now_wall_ms: i64) -> Option<bool> {
        match (self.paused(), self.in_maintenance(now_wall_ms)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            (None, _) | (_, None) => None,
        }
    }

    fn in_maintenance(&self, now_wall_ms: i64) -> Option<bool> {
        let in_force = |found: &Revised<MaintenanceRecord>| found.value.is_in_force(now_wall_ms);
        (!self.maintenance_unreadable).then(|| self.maintenance.as_ref().is_some_and(in_force))
    }

    /// When the suspension that is in force ends by itself; `None` when only a person ends it.
    pub fn suspended_until(&self, now_wall_ms: i64) -> Option<i64> {
        let maintenance = self.maintenance.as_ref().map(|found| &found.value);
        let in_force = maintenance.filter(|found| found.is_in_force(now_wall_ms));
        in_force.filter(|_| self.paused() == Some(false)).map(|found| found.until_wall_ms)
    }

    /// Rule 24: the record by which this member, as the holder of the open term, may write without a lease.
    pub fn held_by(&self, member: &MemberName) -> Option<&Revised<HeldRecord>> {
        let term = self.term.as_ref().filter(|term| term.value.open_holder() == Some(member))?;
        self.held.as_ref().filter(|held| held.value.term == term.value.term && held.value.holder == *member)
    }

    /// Rule 24: the writer of the open term may still be writing without a lease, so nobody may close it.
    pub fn may_be_held(&self, now_wall_ms: i64) -> bool {
        let holder = self.term.as_ref().and_then(|term| term.value.open_holder());
        let held = holder.and_then(|holder| self.held_by(holder));
        self.held_unreadable || held.is_some_and(|held| !held.value.has_run_out(now_wall_ms))
    }

    /// Why nothing automatic is done, and what ends that, for people; `None` when nothing keeps it from being done.
    pub fn why_suspended(&self, now_wall_ms: i64) -> Option<String> {
        if self.maintenance_unreadable {
            return Some("the maintenance record cannot be read; upgrade this host".into());
        }
        let maintenance = self.maintenance.as_ref().map(|found| &found.value);
        if let Some(found) = maintenance.filter(|found| found.is_in_force(now_wall_ms)) {
            let MaintenanceRecord { by, reason, .. } = found;
            return Some(format!(
                "maintenance by {by} ({reason}); it ends by itself, or with: holdfast maintenance off"
            ));
        }
        match self.paused() {
            Some(false) => None,
            Some(true) => Some("Patroni is paused; patronictl resume ends that".into()),
            None => Some("Patroni's configuration is not known".into()),
        }
    }

    /// Rules 11 and 18: the override of the term in force, whether that is open or closed.
    pub fn override_in_force(&self) -> Option<&Revised<OverrideRecord>> {
        let term = crate::member::term_in_force(self)?.value.term;
        self.overriding.as_ref().filter(|found| found.value.term == term)
    }

    /// Whether the term in force is unknown, as opposed to: there is none.
    pub fn cannot_tell_terms(&self) -> bool {
        self.terms_unreadable
    }

    /// Whether the session of the term record exists.
    pub fn writers_session_present(&self) -> bool {
        let session = self.term.as_ref().and_then(|term| term.value.open_session());
        session.is_some_and(|session| self.sessions.contains_key(&session))
    }

    /// Whether the holder of the open term could lead again at once: its agent is here and says that Patroni and PostgreSQL
    /// run, as what they may be.
    pub fn holder_could_lead(&self) -> bool {
        let holder = self.term.as_ref().and_then(|term| term.value.open_holder());
        let facts = holder.and_then(|holder| self.facts.get(holder));
        let may = |facts: &MemberFacts| facts.eligible == Some(true) && facts.disarmed_locally().is_none();
        self.writers_session_present() && facts.is_some_and(may)
    }

    /// Whether a person has taken us out of the way on a member's host: what it has said of itself before binds it no more.
    pub fn is_disarmed_locally(&self, member: &MemberName) -> bool {
        self.facts.get(member).is_some_and(|facts| facts.disarmed_locally().is_some())
    }

    /// The promises that may count. One of a host that was disarmed locally does not: its cut from the writer is open.
    pub fn binding_promises(&self) -> Cow<'_, BTreeMap<MemberName, Revised<Promise>>> {
        if !self.promises.keys().any(|member| self.is_disarmed_locally(member)) {
            return Cow::Borrowed(&self.promises);
        }
        let binding = self.promises.iter().filter(|(member, _)| !self.is_disarmed_locally(member));
        Cow::Owned(binding.map(|(member, promise)| (member.clone(), promise.clone())).collect())
    }

    /// The attestation, unless its host was disarmed locally since: the start gate there is open.
    pub fn binding_attestation(&self) -> Option<&Revised<Attestation>> {
        self.attestation.as_ref().filter(|found| !self.is_disarmed_locally(&found.value.holder))
    }

    /// Whether the writer has attested a stop in the present term.
    pub fn attested(&self) -> bool {
        match (&self.term, self.binding_attestation()) {
            (Some(term), Some(attestation)) => attestation.value.term == term.value.term,
            _ => false,
        }
    }

    /// Rule 10: the holder of the open term has given it back.
    pub fn given_back(&self) -> bool {
        match (&self.term, self.binding_attestation()) {
            (Some(term), Some(word)) => term.value.is_given_back_by(&word.value),
            _ => false,
        }
    }

    /// Rule 15: whether a member wrote in the term that is closed, and has the data directory that it wrote into. What it has
    /// acknowledged is then in its own WAL, whatever became of `/sync` since.
    pub fn kept_its_data(&self, member: &MemberName) -> bool {
        let (Some(term), Some(floor)) = (&self.term, &self.floor) else { return false };
        let closed = term.value.open_holder().is_none() && term.value.holder() == member;
        let recorded = floor.value.data_uuids.get(member).filter(|_| floor.value.term == term.value.term);
        let now = self.facts.get(member).and_then(|facts| facts.data_uuid.as_ref());
        closed && recorded.is_some() && recorded == now
    }

    /// Where a member's PostgreSQL answers.
    pub fn address(&self, member: &MemberName) -> Option<(&str, u16)> {
        self.facts.get(member).map(|facts| (facts.address.as_str(), facts.port))
    }

    /// The port of a lost writer's Patroni, if it is to be refused beside its PostgreSQL: a dead host costs a candidate that
    /// asks it a timeout of 2 s. One whose agent lives is left open: it may be answering the person who ordered a switchover.
    pub fn rest_port_to_refuse(&self, writer: &MemberName) -> Option<u16> {
        let facts = self.facts.get(writer)?;
        (!self.agent_alive(&facts.host)).then_some(facts.rest_port)
    }

    /// Whether the agent of a member's host has a session.
    pub fn agent_alive(&self, host: &HostName) -> bool {
        self.sessions.values().any(|session| session.host == *host)
    }

    /// The members that could follow, with what they promised as their position. The holder of a term that was given back
    /// is one of them: it had at least what the floor record of its reign begins with.
    pub fn candidates(&self) -> Vec<Candidate> {
        let Some(term) = &self.term else { return Vec::new() };
        let of_term = |promise: &&Revised<Promise>| promise.value.term == term.value.term;
        let given_back = self.given_back() || term.value.was_given_back();
        let opened_at = self.floor.as_ref().filter(|floor| given_back && floor.value.term == term.value.term);
        self.facts
            .iter()
            .filter_map(|(member, facts)| {
                let (position, same_data) = match self.promises.get(member).filter(of_term) {
                    Some(promise) => {
                        let same_data = facts.data_uuid.as_ref() == Some(&promise.value.data_uuid);
                        (promise.value.position, same_data)
                    }
                    None if member == term.value.holder() => (opened_at?.value.floor, true),
                    None => return None,
                };
                let wanted = self.failover_candidate.as_ref() == Some(member);
                // Its hook passes without a word to us: a term that is closed for it would be opened by nobody.
                let open_host = facts.disarmed_locally().is_some();
                let willing = facts.eligible == Some(true) && self.agent_alive(&facts.host) && !open_host;
                // Patroni's own spelling of the name goes into its keys.
                let (member, patroni) = match self.members.get_key_value(member) {
                    Some((spelt, patroni)) => (spelt, Some(patroni)),
                    None => (member, None),
                };
                Some(Candidate {
                    member: member.clone(),
                    position,
                    eligible: willing && same_data && !self.fenced(member),
                    nosync: !wanted && patroni.is_some_and(|one| one.nosync),
                    // A switchover names its successor; whether that one can lead is asked all the same.
                    priority: if wanted { i64::MAX } else { facts.failover_priority },
                    member_lease: patroni.map(|one| one.lease).filter(|lease| *lease != 0),
                })
            })
            .collect()
    }

    /// The `data_uuid` that each member's agent reports now.
    pub fn data_uuids(&self) -> BTreeMap<MemberName, String> {
        self.facts
            .iter()
            .filter_map(|(member, facts)| Some((member.clone(), facts.data_uuid.clone()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, facts, name, session, stopped, term_open};
    use holdfast_types::{Incarnation, Term};

    #[test]
    fn what_a_host_said_before_it_was_disarmed_locally_binds_nobody() {
        let promise = Promise {
            term: Term(4),
            writer: name("a"),
            position: at(1, 9),
            data_uuid: "b".into(),
            incarnation: Incarnation(1),
            heard_wall_ms: None,
            at_wall_ms: 0,
        };
        let word = stopped("a", 4);
        let mut cluster = Cluster {
            term: Some(Revised { value: term_open("a", 4, true), mod_revision: 2 }),
            promises: [(name("b"), Revised { value: promise, mod_revision: 3 })].into(),
            attestation: Some(Revised { value: word, mod_revision: 4 }),
            facts: ["a", "b"].map(|member| (name(member), facts(member))).into(),
            sessions: [(SessionId(5), session("a")), (SessionId(6), session("b"))].into(),
            ..Cluster::default()
        };
        assert!(cluster.attested() && cluster.binding_promises().len() == 1);
        assert!(cluster.candidates()[0].eligible && cluster.holder_could_lead());
        let disarm = |cluster: &mut Cluster, member: &str| {
            let facts = cluster.facts.get_mut(&name(member)).unwrap();
            facts.local_disarm = Some(crate::local_disarm::tests::disarmed(false));
        };
        disarm(&mut cluster, "b");
        assert!(cluster.binding_promises().is_empty() && !cluster.candidates()[0].eligible);
        assert!(cluster.attested(), "the word of another");
        disarm(&mut cluster, "a");
        assert!(
            !cluster.attested() && cluster.binding_attestation().is_none() && !cluster.holder_could_lead()
        );
    }
}
