//! The effects of a member's decisions, one kind a file. Each does what its action says and reports how it went.
//!
//! Nothing here chooses: a transaction compares what the decision rested on, and a refusal is seen by the next look.

pub mod attest;
pub mod close;
pub mod expired;
pub mod facts;
pub mod fence;
pub mod fenced;
pub mod floor;
pub mod incident;
pub mod kill;
pub mod network;
pub mod open;
pub mod outside;
pub mod page;
pub mod places;
pub mod position;
pub mod promise;
pub mod suspension;
pub mod term;
pub mod timeline;
pub mod trace;

use anyhow::Result;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::Action;
use holdfast_store::{Compare, Txn, TxnOutcome, Write};
use holdfast_types::MemberName;
use holdfast_types::record::{FenceReason, FenceRecord, StopKind, Stored};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::member::Member;

/// Does one action.
pub async fn perform(member: &Member, cluster: &Cluster, action: &Action) -> Result<()> {
    match action {
        Action::OpenFirst { term, term_mod_revision } => {
            open::open_first(member, cluster, *term, *term_mod_revision).await
        }
        Action::KeepTerm { record, term_mod_revision } => {
            term::put(member, cluster, record, *term_mod_revision).await
        }
        Action::SayWritable { record, term_mod_revision } => {
            term::say_writable(member, cluster, record, *term_mod_revision).await
        }
        Action::FollowPatroni(plan) => expired::follow(member, cluster, plan).await,
        Action::NameMembers { floor, floor_mod_revision, term_mod_revision } => {
            expired::name_members(member, cluster, floor, (*floor_mod_revision, *term_mod_revision)).await
        }
        Action::EndDeposed => kill::end_deposed(member, cluster).await,
        Action::GiveLock(plan) => expired::give_lock(member, cluster, plan).await,
        Action::SayHeld { record, held_mod_revision, term_mod_revision } => {
            suspension::say_held(member, cluster, record, (*held_mod_revision, *term_mod_revision)).await
        }
        Action::SayBound { held_mod_revision, term_mod_revision } => {
            suspension::say_bound(member, cluster, (*held_mod_revision, *term_mod_revision)).await
        }
        Action::KeepFloor(begun) => floor::publish(member, cluster, begun).await,
        Action::ShutGate => attest::shut_gate(member).await,
        Action::ShutGateAndKill => kill::shut_gate_and_kill(member).await,
        Action::EndHung(hung) => kill::end_hung(member, *hung).await,
        Action::Attest { term, stop: StopKind::Relinquished } => {
            attest::relinquish(member, cluster, *term).await
        }
        Action::Attest { term, stop } => attest::attest(member, cluster, *term, stop.clone()).await,
        Action::WithdrawAttestation { attestation_mod_revision, term_mod_revision } => {
            attest::withdraw(member, cluster, *attestation_mod_revision, *term_mod_revision).await
        }
        Action::OpenGate => attest::open_gate(member).await,
        Action::RestartPatroni => kill::restart_patroni(member, cluster),
        Action::KillDeposed => kill::deposed(member, cluster).await,
        Action::KillFenced => kill::fenced(member, cluster).await,
        Action::Follow { source } => network::follow(member, source.as_ref()).await,
        Action::Promise { term, writer } => promise::promise(member, cluster, *term, writer).await,
        Action::WithdrawPromise { promise_mod_revision, term_mod_revision, writers_session } => {
            promise::withdraw(member, cluster, *promise_mod_revision, *term_mod_revision, *writers_session)
                .await
        }
        Action::ForgetPhase => promise::forget(member, cluster).await,
        Action::Close(plan) => close::close(member, cluster, plan).await,
        Action::Hold { term, last_failover_wall_ms } => {
            incident::hold(member, cluster, *term, *last_failover_wall_ms).await
        }
        Action::TakeLeaderKey { leader_mod_revision, term_mod_revision } => {
            close::take_leader_key(member, cluster, *leader_mod_revision, *term_mod_revision).await
        }
        Action::NameNext {
            to,
            member_lease,
            leader_mod_revision,
            term_mod_revision,
            override_mod_revision,
        } => {
            let revisions = (*leader_mod_revision, *term_mod_revision);
            close::name_next(member, cluster, to, *member_lease, revisions, *override_mod_revision).await
        }
        Action::Prove { .. } | Action::TellRestart | Action::AskOutside(_) => {
            begin(member, cluster, action);
            Ok(())
        }
    }
}

/// What is begun and not waited for: a later observation sees what became of it.
fn begin(member: &Member, cluster: &Cluster, action: &Action) {
    match action {
        Action::Prove { closed } => incident::prove(member, cluster, *closed),
        Action::TellRestart => member.restart_wake.notify_one(),
        Action::AskOutside(target) => outside::ask(member, target),
        _ => {}
    }
}

/// The action in a few words, for the log and for observe mode.
pub fn describe(action: &Action) -> String {
    match action {
        Action::OpenFirst { term, .. } => format!("opened term {term} for the present leader"),
        Action::KeepTerm { record, .. } => format!("kept term {} under this start of the agent", record.term),
        Action::SayWritable { record, .. } => {
            format!("said that the writer of term {} is promoted", record.term)
        }
        Action::KeepFloor(begun) => format!("published a floor for version {} of /sync", begun.sync.version),
        Action::SayHeld { record, .. } => {
            format!("said that nobody may close term {} meanwhile", record.term)
        }
        Action::SayBound { .. } => "said that the fence of the writer stands again".into(),
        Action::ShutGate => "shut the start gate after a shutdown".into(),
        Action::ShutGateAndKill => {
            "shut the start gate and killed Patroni with what is left of PostgreSQL".into()
        }
        Action::EndHung(hung) => format!("shut the start gate and the port, and killed PostgreSQL: {hung}"),
        Action::Attest { term, stop: StopKind::Relinquished } => {
            format!("given term {term} back, because its hook was lost before it was answered")
        }
        Action::Attest { term, .. } => format!("attested that the writer of term {term} has stopped"),
        Action::WithdrawAttestation { .. } => "withdrawn the attestation".into(),
        Action::OpenGate => "opened the start gate".into(),
        Action::RestartPatroni => "killed a hung Patroni; its supervisor starts it again".into(),
        Action::KillDeposed => "killed a PostgreSQL that accepts writes in a term that is not its own".into(),
        Action::KillFenced => "killed the PostgreSQL of a fenced node".into(),
        Action::Prove { closed } => format!("proved the writer that followed term {closed} by a write"),
        Action::TellRestart => "recorded that the writer was away and is back in its term".into(),
        Action::FollowPatroni(plan) => format!("opened term {} for Patroni's leader", plan.opened.term),
        Action::NameMembers { .. } => "named the members that are asked for a lease without etcd".into(),
        Action::EndDeposed => {
            "shut the start gate and killed a PostgreSQL whose lock Patroni has given to another".into()
        }
        Action::GiveLock(plan) => {
            format!("gave Patroni's lock of {}, whose lease is over, to {}", plan.writer, plan.to)
        }
        Action::Follow { source: Some((address, _)) } => format!("opened replication towards {address}"),
        Action::Follow { source: None } => "closed replication towards everybody".into(),
        Action::Promise { term, writer } => {
            format!("left {writer}, the writer of term {term}, and promised so")
        }
        Action::WithdrawPromise { .. } => "withdrawn the promise".into(),
        Action::ForgetPhase => "forgotten a promise of a term that is over".into(),
        Action::Close(plan) => {
            format!("closed term {}, with Patroni's lock {}", plan.closed.term, plan.leader_key)
        }
        Action::Hold { term, .. } => format!("held the failover of term {term} and paged"),
        Action::TakeLeaderKey { .. } => "taken Patroni's leader key from the old writer".into(),
        Action::AskOutside(target) => format!("asked the fence device of {} to switch it off", target.host),
        Action::NameNext { to, .. } => format!("named {to} as the next successor"),
    }
}

/// Why a node is fenced, for people.
pub fn why_fenced(record: &FenceRecord) -> String {
    match &record.why {
        FenceReason::Operator { by, text } => format!("by {by}: {text}"),
        FenceReason::Deposed { term } => format!("it was the writer of term {term} when that was closed"),
    }
}

/// Why a member is kept out; a fence record that this build cannot read keeps it out too.
pub fn why_kept_out(cluster: &Cluster, member: &MemberName) -> Option<String> {
    let unreadable = cluster.unreadable_fences.contains(member);
    let fence = cluster.fences.get(member).map(|fence| why_fenced(&fence.value));
    fence.or_else(|| {
        unreadable.then(|| "by a record that this build cannot read; upgrade this host".to_owned())
    })
}

/// Compares that no fence record stands against a member.
pub fn not_fenced(member: &Member, who: &MemberName) -> Compare {
    Compare::ModRevision { key: member.keys.fence(who), is: 0 }
}

/// Compares the revision of a person's override.
pub fn override_is(member: &Member, is: i64) -> Compare {
    Compare::ModRevision { key: member.keys.overriding(), is }
}

/// Runs a transaction that only an armed cluster may see: it compares the mode record beside what it is given, so that
/// `disarm` is the end of everything that was on its way. `false` means that a comparison failed.
pub async fn armed_txn(member: &Member, cluster: &Cluster, mut txn: Txn) -> Result<bool> {
    let is = cluster.mode.as_ref().map_or(0, |mode| mode.mod_revision);
    txn.compares.push(Compare::ModRevision { key: member.keys.mode(), is });
    Ok(matches!(member.world.store.txn(txn).await?, TxnOutcome::Succeeded { .. }))
}

/// The bytes of a record of ours that takes the place of the one under `key`, if there is one: what a newer build wrote
/// into that is kept.
pub fn encoded<T: Serialize + DeserializeOwned>(cluster: &Cluster, key: &str, body: T) -> Vec<u8> {
    Stored::keeping(body, cluster.unknown.get(key)).encode()
}

/// Compares the term record's revision.
pub fn term_is(member: &Member, mod_revision: i64) -> Compare {
    Compare::ModRevision { key: member.keys.term(), is: mod_revision }
}

/// A transaction of comparisons and writes.
pub fn txn(compares: Vec<Compare>, writes: Vec<Write>) -> Txn {
    Txn { compares, writes, otherwise_read: Vec::new() }
}
