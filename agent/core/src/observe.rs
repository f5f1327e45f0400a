//! What an observing agent takes for in force, so that it can say what it would have done (mode `observe`).
//!
//! No term is open before a cluster is armed, so one is imagined: Patroni's leader reigns in it, in the session that its
//! host has, and Patroni's `/sync` is its floor record. Every decision is computed on that as on a real one, with what the
//! agents of other members say that they would have promised or attested: so the moment of a CLOSE and the successor that it
//! would have named come out of the same functions. Nothing of it is ever acted on; called by the agent's shell only in mode
//! `observe`.

use holdfast_types::record::{
    Attestation, FloorRecord, ModeRecord, Promise, Reign, StopKind, TermRecord, WouldPromise, WouldRecord,
    WouldStop,
};
use holdfast_types::{Incarnation, Lsn, MemberName, Mode, Position, SessionId, Term, Timeline};

use crate::close::Revised;
use crate::cluster::Cluster;
use crate::detach::Phase;
use crate::member::{Action, Network};

/// The imagined term, carried from one look to the next: a leader that is gone still reigns in it until another leads.
pub fn imagine(before: Option<&TermRecord>, cluster: &Cluster) -> Option<TermRecord> {
    let Some(leader) = cluster.leader_key.as_ref().map(|leader| &leader.value) else {
        return before.cloned();
    };
    let host = cluster.facts.get(leader).map(|facts| &facts.host);
    let of_host = |(id, session): (&SessionId, &holdfast_types::record::SessionRecord)| {
        (Some(&session.host) == host).then_some((*id, session.incarnation))
    };
    let present = cluster.sessions.iter().find_map(of_host);
    let stays = before.filter(|before| before.holder() == leader);
    match (stays, present) {
        // Its agent is gone: that is what is to be noticed.
        (Some(before), None) => Some(before.clone()),
        (_, None) => None,
        (stays, Some((session, incarnation))) => {
            let term = match (stays, before) {
                (Some(before), _) => before.term,
                (None, Some(before)) => before.term.next(),
                (None, None) => cluster.term.as_ref().map_or(Term(0), |term| term.value.term).next(),
            };
            let holder = leader.clone();
            let reign = Reign::Open { holder, incarnation, session, writable: true, floor: None };
            Some(TermRecord { term, reign, trace: None, timeline: None })
        }
    }
}

/// The cluster as it would be if it were armed in `term`.
pub fn as_if_armed(mut cluster: Cluster, term: TermRecord) -> Cluster {
    let mode = ModeRecord { mode: Mode::Armed, by: String::new(), reason: String::new(), at_wall_ms: 0 };
    for (member, facts) in &mut cluster.facts {
        // Nothing is written into a data directory before a cluster is armed, its id neither.
        facts.data_uuid.get_or_insert_with(|| member.to_string());
    }
    if let Some(sync) = &cluster.sync {
        let configuration = sync.configuration(term.holder());
        let mut data_uuids = cluster.data_uuids();
        data_uuids.retain(|member, _| configuration.members.contains(member) || member == term.holder());
        let floor = FloorRecord {
            term: term.term,
            sync_version: sync.version,
            sync_mod_revision: sync.mod_revision,
            sync_create_revision: sync.create_revision,
            configuration,
            data_uuids,
            floor: Position { timeline: Timeline(0), lsn: Lsn(0) },
        };
        cluster.floor = Some(Revised { value: floor, mod_revision: cluster.revision });
    }
    cluster.mode = Some(Revised { value: mode, mod_revision: 0 });
    cluster.term = Some(Revised { value: term, mod_revision: cluster.revision.max(1) });
    (cluster.attestation, cluster.hold, cluster.held, cluster.overriding) = (None, None, None, None);
    cluster.outside.clear();
    cluster.promises.clear();
    cluster.events.clear();
    with_words(cluster)
}

/// Adds what the agents say that they would have promised and attested in the imagined term.
fn with_words(mut cluster: Cluster) -> Cluster {
    let Some(TermRecord { term, reign: Reign::Open { holder, session, incarnation, .. }, .. }) =
        cluster.term.as_ref().map(|term| term.value.clone())
    else {
        return cluster;
    };
    let data_uuids = cluster.data_uuids();
    for (member, said) in &cluster.would {
        let promise = said.promise.as_ref().filter(|said| said.writer == holder && said.session == session);
        if let (Some(said), Some(data_uuid)) = (promise, data_uuids.get(member))
            && *member != holder
        {
            let promise = Promise {
                term,
                writer: holder.clone(),
                position: said.position,
                data_uuid: data_uuid.clone(),
                incarnation: Incarnation(0),
                heard_wall_ms: None,
                at_wall_ms: said.at_wall_ms,
            };
            let promise = Revised { value: promise, mod_revision: cluster.revision };
            cluster.promises.insert(member.clone(), promise);
        }
        if let Some(said) = said.stop.as_ref().filter(|said| *member == holder && said.session == session) {
            let attestation = Attestation {
                term,
                holder: holder.clone(),
                incarnation,
                session,
                stop: StopKind::Stopped,
                stuck: Vec::new(),
                at_wall_ms: said.at_wall_ms,
            };
            cluster.attestation = Some(Revised { value: attestation, mod_revision: cluster.revision });
        }
    }
    cluster
}

/// What a member that would have promised by now would have on disk and in its kernel; `None`: it would not have.
pub fn as_if_left(cluster: &Cluster, me: &MemberName) -> Option<(Phase, Network)> {
    let promise = cluster.promises.get(me)?.value.clone();
    let (address, _) = cluster.address(&promise.writer)?;
    let network = Network { installed: true, source: None, cut: [address.to_owned()].into() };
    Some((Phase::Promised { promise }, network))
}

/// What a member would have promised and attested after these actions; `before`: what it said until now. The lines are not
/// touched.
pub fn said(
    before: &WouldRecord,
    cluster: &Cluster,
    me: &MemberName,
    actions: &[Action],
    position: Option<Position>,
    at_wall_ms: i64,
) -> WouldRecord {
    let mut after = before.clone();
    let reign = crate::member::term_in_force(cluster).map(|term| &term.value.reign);
    let Some(Reign::Open { holder, session, .. }) = reign else {
        (after.promise, after.stop) = (None, None);
        return after;
    };
    let of_reign = |said: &WouldPromise| said.writer == *holder && said.session == *session;
    after.promise = after.promise.filter(of_reign);
    after.stop = after.stop.filter(|said| said.session == *session && holder == me);
    for action in actions {
        match action {
            Action::Promise { .. } if after.promise.is_none() => {
                let promise = |position| WouldPromise {
                    writer: holder.clone(),
                    session: *session,
                    position,
                    at_wall_ms,
                };
                after.promise = position.map(promise);
            }
            Action::WithdrawPromise { .. } => after.promise = None,
            Action::ShutGate | Action::ShutGateAndKill | Action::EndHung(_) | Action::Attest { .. }
                if holder == me && after.stop.is_none() =>
            {
                after.stop = Some(WouldStop { session: *session, at_wall_ms });
            }
            Action::WithdrawAttestation { .. } => after.stop = None,
            _ => {}
        }
    }
    after
}

/// Whether an action answers something that went wrong. Upkeep (a floor record, the packet filter in good times) would be
/// said once after every start and means nothing to a reader.
pub fn is_worth_saying(action: &Action) -> bool {
    !matches!(
        action,
        Action::OpenFirst { .. }
            | Action::FollowPatroni(_)
            | Action::NameMembers { .. }
            | Action::KeepTerm { .. }
            | Action::SayWritable { .. }
            | Action::SayHeld { .. }
            | Action::SayBound { .. }
            | Action::KeepFloor(_)
            | Action::Follow { .. }
            | Action::ForgetPhase
            | Action::OpenGate
            | Action::Prove { .. }
            | Action::TellRestart
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{facts, name, session, term_open};

    fn led_by(leader: Option<&str>, alive: &[(&str, i64)]) -> Cluster {
        Cluster {
            revision: 7,
            leader_key: leader.map(|leader| Revised { value: name(leader), mod_revision: 3 }),
            facts: [(name("a"), facts("a")), (name("b"), facts("b"))].into(),
            sessions: alive.iter().map(|(host, id)| (SessionId(*id), session(host))).collect(),
            ..Cluster::default()
        }
    }

    #[test]
    fn patronis_leader_reigns_until_another_leads() {
        let first = imagine(None, &led_by(Some("a"), &[("a", 5)])).unwrap();
        assert_eq!(first, term_open("a", 1, true));
        assert_eq!(imagine(Some(&first), &led_by(Some("a"), &[("b", 6)])), Some(first.clone()), "it is dead");
        assert_eq!(imagine(Some(&first), &led_by(None, &[("b", 6)])), Some(first.clone()));
        let again = imagine(Some(&first), &led_by(Some("a"), &[("a", 9)])).unwrap();
        assert!(matches!(again.reign, Reign::Open { session: SessionId(9), .. }) && again.term == Term(1));
        let next = imagine(Some(&first), &led_by(Some("b"), &[("b", 6)])).unwrap();
        assert_eq!((next.term, next.holder()), (Term(2), &name("b")));
        assert_eq!(imagine(None, &led_by(Some("a"), &[])), None, "no agent, no session to lose");
    }

    #[test]
    fn what_is_imagined_counts_as_armed() {
        let cluster = as_if_armed(led_by(Some("a"), &[("a", 5)]), term_open("a", 1, true));
        assert!(cluster.is_armed() && cluster.writers_session_present());
        assert!(crate::member::term_in_force(&cluster).is_some());
    }
}
