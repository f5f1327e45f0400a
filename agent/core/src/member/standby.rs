//! What everybody else does while a term is open: follows its writer, or leaves it, promises so, and closes its reign
//! (rules 4 to 8).

use holdfast_types::MemberName;
use holdfast_types::record::{Reign, TermRecord};

use super::closing::close;
use super::{Action, Decision, Local, Memory};
use crate::close::Revised;
use crate::cluster::Cluster;
use crate::detach::{self, Phase};
use crate::outside;

pub(super) fn decide(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    writer: &MemberName,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let number = term.value.term;
    memory.attested_since_ms = None;
    if local.accepts_writes() {
        decision.actions.push(Action::KillDeposed);
        return;
    }
    if local.gate_shut {
        decision.actions.push(Action::OpenGate);
    }
    if local.phase.is_some_and(|phase| phase.term() < number) {
        decision.actions.push(Action::ForgetPhase);
        return;
    }
    let ours = cluster.promises.get(local.me).filter(|promise| promise.value.term == number);
    let bound =
        detach::replication_source(Some(&term.value), local.me, local.phase, ours.is_some()).is_none();
    let writers_address = cluster.address(writer);
    follow(local, bound, writers_address, decision);
    if cluster.given_back() {
        // Rule 10: nobody has to promise for it, so nobody is cut off first. If promises are needed after all, it goes on
        // below.
        close(cluster, local, term, memory, decision);
        if memory.close_possible_since_ms.is_some() {
            return;
        }
        decision.waits.clear();
    }
    let verdict = detach::may_promise(&detach::View {
        me: local.me,
        term: Some(&term.value),
        leader_key: cluster.leader_key.as_ref().map(|leader| &leader.value),
        attested: cluster.attested(),
        outside: outside::proof(cluster).is_some(),
        session_present: cluster.writers_session_present(),
        silent_ms: local.suspicion.silent_ms,
        probes: &local.suspicion.probes,
        grant_in_force: local.granted,
        up_long_enough: local.uptime_ms >= local.timings.grant_ms(),
        barred: cluster.fenced(local.me),
        suspect_after_ms: local.timings.suspect_after_ms(),
    });
    // A promise says that nothing more can come. If the kernel no longer shows the cut, it is made again, whether or not
    // its reason could still be seen: something may have come since.
    let cut = writers_address.is_some_and(|(host, _)| local.network.cut.contains(host));
    let promised = ours.is_some() && cut && matches!(local.phase, Some(Phase::Promised { .. }));
    let stands = match verdict {
        Ok(_) => promised,
        Err(detach::NotNow::NothingWrong) => true,
        Err(_) => !bound || cut,
    };
    if !stands {
        decision.actions.push(Action::Promise { term: number, writer: writer.clone() });
        return;
    }
    if let Err(why) = verdict {
        withdraw(cluster, local, term, why, decision);
    }
    close(cluster, local, term, memory, decision);
}

/// Rule 6: replication is open towards the writer and nobody else; towards nobody when we are bound. An address that is
/// not known leaves it as it is.
fn follow(local: &Local<'_>, bound: bool, writer: Option<(&str, u16)>, decision: &mut Decision) {
    let network = local.network;
    if bound {
        if network.source.is_some() || !network.installed {
            decision.actions.push(Action::Follow { source: None });
        }
    } else if let Some((host, port)) = writer {
        let source = Some((host.to_owned(), port));
        if network.source != source || !network.cut.is_empty() {
            decision.actions.push(Action::Follow { source });
        }
    }
}

/// Rule 7: a promise that has lost its reason is taken back, if the writer is provably in office.
fn withdraw(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    why: detach::NotNow,
    decision: &mut Decision,
) {
    let bound = local.phase.is_some()
        || cluster.promises.get(local.me).is_some_and(|p| p.value.term == term.value.term);
    if !bound || why != detach::NotNow::NothingWrong {
        return;
    }
    let Reign::Open { session, .. } = term.value.reign else { return };
    decision.actions.push(Action::WithdrawPromise {
        promise_mod_revision: cluster
            .promises
            .get(local.me)
            .filter(|promise| promise.value.term == term.value.term)
            .map_or(0, |promise| promise.mod_revision),
        term_mod_revision: term.mod_revision,
        writers_session: session,
    });
}
