//! What each layer of the fence tells of itself: who was fenced, why, what was verified. Decides nothing and waits for
//! nothing; the member's loop keeps it ([`crate::member::journal`]).

use holdfast_agent_core::close::ClosePlan;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::fenced::{GuardProof, Told};
use holdfast_agent_core::member::term_in_force;
use holdfast_guard::wire::State;
use holdfast_host::clock;
use holdfast_host::nftables::{DeadMan, Door};
use holdfast_types::Term;
use holdfast_types::record::{Evidence, FenceCause, FenceLayer, FenceReason, Reign, StopKind};

use super::why_kept_out;
use crate::member::Member;

const NONE_LEFT: &str = "no process of PostgreSQL is left";

/// Something of ours was fenced just now.
fn tell(
    member: &Member,
    layer: FenceLayer,
    cause: FenceCause,
    term: Option<Term>,
    verified: String,
    took_ms: u64,
) {
    member.tell(Told {
        node: member.instance.member.clone(),
        term,
        layer,
        cause,
        verified,
        took_ms: Some(took_ms),
        done_wall_ms: clock::wall_ms(),
    });
}

/// The guard has answered: its last kill, once it is complete, is a proof.
pub fn guard(member: &Member, state: &State) {
    let Some(kill) = state.last_kill else { return };
    let Some(gone_ns) = kill.empty_ns else { return };
    let proof = GuardProof { term: Term(kill.term), deadline_ns: kill.deadline_ns, gone_ns };
    member.saw_guard_kill(proof);
}

/// The lease of a term ended at this moment, and nothing had renewed it by then: the kernel has closed the port.
pub fn closed_by_itself(member: &Member, dead_man: &mut DeadMan, term: Term, deadline_ms: u64) {
    let late_ms = clock::boottime_ms().saturating_sub(deadline_ms);
    let found = match dead_man.door() {
        Ok(Door::Closed) => "closed".to_owned(),
        // Somebody else's change of the packet filter; the guard is there for that.
        Ok(Door::Absent) => "without its rules, so that only the guard stood".to_owned(),
        Ok(Door::Open { remaining_ms }) => format!("open for another {remaining_ms} ms"),
        Err(error) => format!("unknown ({error})"),
    };
    let verified = format!("{late_ms} ms after the end of the lease the port was found {found}");
    tell(member, FenceLayer::Kernel, FenceCause::LeaseOver, Some(term), verified, late_ms);
}

/// The port was shut at once.
pub fn shut(member: &Member, cause: FenceCause, took_ms: u64) {
    let verified = "the kernel took the closed port".to_owned();
    tell(member, FenceLayer::Kernel, cause, member.last_term(), verified, took_ms);
}

/// Everything of the instance was killed, as its cgroup shows.
pub fn killed(member: &Member, cluster: &Cluster, cause: FenceCause, begun_ms: u64) {
    let me = &member.instance.member;
    let ours = term_in_force(cluster).map(|term| &term.value).filter(|term| term.open_holder() == Some(me));
    let was = || member.last_term().filter(|_| cause == FenceCause::Deposed);
    let term = ours.map(|term| term.term).or_else(was);
    let verified = "the cgroup of Patroni and PostgreSQL is empty".to_owned();
    let took_ms = clock::boottime_ms().saturating_sub(begun_ms);
    tell(member, FenceLayer::Agent, cause, term, verified, took_ms);
}

/// A person's order found nothing to kill.
pub fn kept_out(member: &Member, cluster: &Cluster) {
    let verified = "PostgreSQL does not run, and the start gate refuses it".to_owned();
    tell(member, FenceLayer::Gate, order(member, cluster), None, verified, 0);
}

/// Rule 9: our PostgreSQL has stopped, and the term is given away.
pub fn attested(member: &Member, cluster: &Cluster, term: Term, stop: &StopKind) {
    let (killed, begun_ms, stuck, hung) = {
        let mut state = member.state();
        (state.killed, state.stop_begun_ms.take(), state.stuck.clone(), state.remembered.ends_hung)
    };
    let layer = if killed { FenceLayer::Agent } else { FenceLayer::Gate };
    let cause = match (cluster.fenced(&member.instance.member), hung) {
        (true, _) => order(member, cluster),
        (false, true) => FenceCause::Hung,
        (false, false) => FenceCause::Stopped,
    };
    let seen = match stop {
        _ if !stuck.is_empty() => format!(
            "the processes {stuck:?} of PostgreSQL are killed, and the kernel holds them behind the closed port until \
             the disk answers"
        ),
        StopKind::Clean { end } => format!("{NONE_LEFT}, its control file says shut down at {end}"),
        // After a hang the control file is not always read: the disk decides.
        StopKind::Stopped if hung => NONE_LEFT.to_owned(),
        StopKind::Stopped | StopKind::Relinquished => {
            format!("{NONE_LEFT}, its control file says in production")
        }
    };
    let verified = format!("{seen}, the start gate is shut");
    let took_ms = begun_ms.map_or(0, |begun_ms| clock::boottime_ms().saturating_sub(begun_ms));
    tell(member, layer, cause, Some(term), verified, took_ms);
}

/// The person's order under which this node is fenced.
pub fn order(member: &Member, cluster: &Cluster) -> FenceCause {
    let me = &member.instance.member;
    match cluster.fences.get(me).map(|fence| &fence.value.why) {
        Some(FenceReason::Operator { by, text }) => {
            FenceCause::Ordered { by: by.clone(), text: text.clone() }
        }
        Some(FenceReason::Deposed { .. }) => FenceCause::Deposed,
        None => FenceCause::Ordered {
            by: "unknown".into(),
            text: why_kept_out(cluster, me).unwrap_or_else(|| "the order is gone".into()),
        },
    }
}

/// We have closed a term over the head of its writer. What it attested itself, its own agent tells.
pub fn closed(member: &Member, cluster: &Cluster, plan: &ClosePlan) {
    let Reign::Closed { evidence, .. } = &plan.closed.reign else { return };
    let again = term_in_force(cluster).is_none_or(|term| term.value.open_holder().is_none());
    let layer = match evidence {
        Evidence::Revoked { outside: None, .. } => FenceLayer::Standbys,
        Evidence::Revoked { outside: Some(_), .. } => FenceLayer::Outside,
        Evidence::Override { .. } => FenceLayer::Person,
        Evidence::AttestedClean | Evidence::AttestedStopped { .. } | Evidence::Relinquished => return,
    };
    if again {
        return;
    }
    let term = plan.closed.term;
    let promises = cluster.promises.values().filter(|promise| promise.value.term == term);
    let heard = promises.filter_map(|promise| promise.value.heard_wall_ms).max();
    let done_wall_ms = clock::wall_ms();
    member.tell(Told {
        node: plan.closed.holder().clone(),
        term: Some(term),
        layer,
        cause: FenceCause::Closed { evidence: evidence.to_string() },
        verified: format!("term {term} is closed in etcd"),
        took_ms: heard.and_then(|heard| u64::try_from(done_wall_ms - heard).ok()),
        done_wall_ms,
    });
}
