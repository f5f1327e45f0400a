//! The record of an incident: which steps it took and when, from the first promise to the proving write.
//!
//! It is written beside the protocol and never waited for by it: CLOSE puts the event in its own transaction, every
//! later step is added by a task of its own. The last one, the proof, writes the incident's one ERROR line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use holdfast_agent_core::close::{ClosePlan, LeaderKey};
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::term_in_force;
use holdfast_agent_core::planned;
use holdfast_host::clock;
use holdfast_proto::trace::TraceContext;
use holdfast_store::{Compare, Read, Store, Txn, TxnOutcome, Write};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{EventRecord, HoldRecord, Reign, Step};
use holdfast_types::{HostName, MemberName, Term};

use super::{armed_txn, encoded, trace, txn};
use crate::member::Member;
use crate::telemetry::Telemetry;

/// How often a step is tried again when others write the same event at the same moment.
const ATTEMPTS: u32 = 8;
/// The proving write waits for a synchronous standby that may still be on its way to the new writer.
const PROOF_DEADLINE: Duration = Duration::from_secs(10);
const PROOF_ATTEMPTS: u32 = 6;

/// The event as CLOSE knows it. A term that was given back (rule 10) belongs to the incident in which it was opened: that
/// one goes on under the next number, with the writer that was really lost and the moment at which it was.
pub fn at_close(member: &Member, cluster: &Cluster, plan: &ClosePlan, trace: Option<&str>) -> EventRecord {
    let term = plan.closed.term;
    let promised = cluster.promises.values().filter(|promise| promise.value.term == term);
    let heard = promised.clone().filter_map(|promise| promise.value.heard_wall_ms).max();
    let promised: Vec<i64> = promised.map(|promise| promise.value.at_wall_ms).collect();
    let attested = cluster.attestation.as_ref().map(|found| found.value.at_wall_ms);
    let detected = attested.or_else(|| promised.iter().min().copied());
    let (floor, evidence) = match &plan.closed.reign {
        Reign::Closed { floor, evidence, .. } => (*floor, evidence.to_string()),
        Reign::Open { .. } => (None, String::new()),
    };
    let to = match &plan.leader_key {
        LeaderKey::Give { to, .. } => Some(to.clone()),
        LeaderKey::Delete | LeaderKey::Leave => None,
    };
    let mut steps_wall_ms = BTreeMap::from([(Step::Closed, clock::wall_ms())]);
    steps_wall_ms.extend(attested.or(heard).map(|at| (Step::Heard, at)));
    steps_wall_ms.extend(detected.map(|at| (Step::Detected, at)));
    steps_wall_ms.extend(promised.iter().max().map(|at| (Step::Promised, *at)));
    let begun = continued(cluster, plan);
    for step in [Step::Heard, Step::Detected, Step::Promised] {
        steps_wall_ms.extend(begun.and_then(|begun| Some((step, *begun.steps_wall_ms.get(&step)?))));
    }
    let before = begun.map(|begun| format!("{}; then ", begun.text)).unwrap_or_default();
    EventRecord {
        number: term.0,
        term,
        from: begun.map_or(plan.closed.holder(), |begun| &begun.from).clone(),
        to,
        floor,
        trace_id: trace.and_then(|trace| trace.split('-').nth(1)).map(str::to_owned),
        steps_wall_ms,
        text: format!(
            "{before}term {term} of {} was closed by {}: {evidence}",
            plan.closed.holder(),
            member.instance.member
        ) + &by_override(cluster),
        route_commands: BTreeMap::new(),
    }
}

/// What a person has accepted, for the line of the incident; empty without an override.
fn by_override(cluster: &Cluster) -> String {
    cluster.override_in_force().map(|found| format!("; {}", found.value)).unwrap_or_default()
}

/// The event of the incident in which a term that is given back now was opened.
pub fn continued<'c>(cluster: &'c Cluster, plan: &ClosePlan) -> Option<&'c EventRecord> {
    let mut events = cluster.events.iter().map(|event| &event.value);
    events.find(|event| plan.closed.was_given_back() && event.term.next() == plan.closed.term)
}

/// Adds `step` to the event of `term`, with a change of your own, if the event is there.
pub async fn add_step(
    store: &Arc<dyn Store>,
    keys: &ClusterKeys,
    term: Term,
    step: Step,
    change: impl Fn(&mut EventRecord),
) -> Result<Option<EventRecord>> {
    let at_wall_ms = clock::wall_ms();
    let add = |event: &mut EventRecord| {
        event.steps_wall_ms.insert(step, at_wall_ms);
        change(event);
    };
    change_event(store, keys, term, add).await
}

/// Keeps how the command that follows the writer went on this host, in the incident that ended `closed`.
pub async fn route_command(
    store: &Arc<dyn Store>,
    keys: &ClusterKeys,
    closed: Term,
    host: &HostName,
    outcome: &str,
) -> Result<()> {
    let keep = |event: &mut EventRecord| drop(event.route_commands.insert(host.clone(), outcome.to_owned()));
    change_event(store, keys, closed, keep).await.map(drop)
}

/// Changes the event of `term`, if it is there.
async fn change_event(
    store: &Arc<dyn Store>,
    keys: &ClusterKeys,
    term: Term,
    change: impl Fn(&mut EventRecord),
) -> Result<Option<EventRecord>> {
    let key = keys.event(term.0);
    for _ in 0..ATTEMPTS {
        let found = store.read(vec![Read::Key(key.clone())]).await?;
        let Some(stored) = holdfast_store::decode_from::<EventRecord>(&found, &key)? else { return Ok(None) };
        if stored.body.term != term {
            return Ok(None);
        }
        let mut event = stored.body.clone();
        change(&mut event);
        let txn = Txn {
            compares: vec![Compare::ModRevision { key: key.clone(), is: found.mod_revision(&key) }],
            writes: vec![Write::put(key.clone(), stored.with_body(event.clone()).encode())],
            otherwise_read: Vec::new(),
        };
        if let TxnOutcome::Succeeded { .. } = store.txn(txn).await? {
            return Ok(Some(event));
        }
    }
    bail!("the event is being changed by others all the time")
}

/// What a task that outlives the decision needs.
struct Follower {
    store: Arc<dyn Store>,
    keys: ClusterKeys,
    sql: Arc<crate::member::sql::Sql>,
    me: MemberName,
    cluster: String,
    telemetry: Telemetry,
    trace: Option<TraceContext>,
    /// The term of a hold: its incident has had its ERROR line already.
    held: Option<Term>,
    /// The term of a planned operation that hands over: nobody has to act.
    planned: Option<Term>,
}

impl Follower {
    fn of(member: &Member, cluster: &Cluster) -> Self {
        Self {
            store: Arc::clone(&member.world.store),
            keys: member.keys.clone(),
            sql: Arc::clone(&member.sql),
            me: member.instance.member.clone(),
            cluster: member.instance.cluster.to_string(),
            telemetry: member.telemetry.clone(),
            trace: trace::of_record(cluster),
            held: cluster.hold.as_ref().map(|hold| hold.value.term),
            planned: planned::hands_over(cluster),
        }
    }

    async fn step(&self, term: Term, step: Step) -> Option<EventRecord> {
        let me = self.me.clone();
        match add_step(&self.store, &self.keys, term, step, |event| event.to = Some(me.clone())).await {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(cluster = self.cluster, %error, "a step of the incident is not recorded");
                None
            }
        }
    }

    async fn prove(&self, closed: Term) {
        let start = SystemTime::now();
        let text = format!("{} {} writes in term {}", self.cluster, self.me, closed.next());
        for attempt in 1..=PROOF_ATTEMPTS {
            match self.sql.prove(&text, PROOF_DEADLINE).await {
                Ok(()) => {
                    let Some(event) = self.step(closed, Step::Proved).await else {
                        tracing::error!(
                            cluster = self.cluster, term = closed.0, to = %self.me,
                            "the writer was lost and replaced, and the incident's end cannot be recorded; see: holdfast status"
                        );
                        return;
                    };
                    let attempts = [("holdfast.attempts", attempt.to_string())];
                    trace::step(&self.telemetry, self.trace, "verification", start, &attempts);
                    trace::incident(&self.telemetry, self.trace, &event);
                    return self.say_replaced(closed, &event);
                }
                Err(error) => {
                    tracing::warn!(cluster = self.cluster, attempt, %error, "the new writer is not proved yet")
                }
            }
        }
        tracing::error!(
            cluster = self.cluster, to = %self.me,
            "the new writer cannot commit: no synchronous standby acknowledges; look at holdfast status"
        );
    }

    /// One incident, one ERROR line: the hold had it, if there was one.
    fn say_replaced(&self, closed: Term, event: &EventRecord) {
        let gap_ms = gap_ms(event).unwrap_or_default();
        let (from, to) = (&event.from, &self.me);
        let trace_id = event.trace_id.as_deref().unwrap_or("none");
        let text = "the writer was lost and replaced; see: holdfast events";
        if self.planned == Some(closed) {
            tracing::info!(cluster = self.cluster, term = closed.0, %from, %to, gap_ms, trace_id, "the writer was handed over as planned");
        } else if self.held == Some(closed) {
            tracing::warn!(cluster = self.cluster, term = closed.0, %from, %to, gap_ms, trace_id, "{text}");
        } else {
            tracing::error!(cluster = self.cluster, term = closed.0, %from, %to, gap_ms, trace_id, "{text}");
        }
    }
}

/// From the writer's last sign to the proof, in milliseconds by the wall clocks of the hosts that took the steps.
fn gap_ms(event: &EventRecord) -> Option<i64> {
    let first = event.steps_wall_ms.get(&Step::Heard).or(event.steps_wall_ms.get(&Step::Detected))?;
    let last = event.steps_wall_ms.get(&Step::Proved)?;
    Some(last - first)
}

/// A person has named the successor of a closed term: its incident says so.
pub fn overridden(member: &Member, cluster: &Cluster) {
    let Some(closed) = term_in_force(cluster).map(|term| term.value.term) else { return };
    let (follower, said) = (Follower::of(member, cluster), by_override(cluster));
    tokio::spawn(async move {
        let say = |event: &mut EventRecord| {
            if !event.text.contains(&said) {
                event.text.push_str(&said);
            }
        };
        if let Err(error) = change_event(&follower.store, &follower.keys, closed, say).await {
            tracing::warn!(cluster = follower.cluster, %error, "the override is not told in the incident");
        }
    });
}

/// Our hook has opened the term after the closed one.
pub fn opened(member: &Member, cluster: &Cluster) {
    let Some(closed) = term_in_force(cluster).map(|term| term.value.term) else { return };
    let follower = Follower::of(member, cluster);
    tokio::spawn(async move { follower.step(closed, Step::Opened).await });
}

/// Our PostgreSQL has left recovery: says so in the event.
pub fn promoted(member: &Member, cluster: &Cluster) {
    let Some(term) = term_in_force(cluster).map(|term| term.value.term) else { return };
    let closed = Term(term.0.saturating_sub(1));
    if let Some(start) = member.state().opened_at.take() {
        trace::step(&member.telemetry, trace::of_record(cluster), "promotion", start, &[]);
    }
    let follower = Follower::of(member, cluster);
    tokio::spawn(async move { follower.step(closed, Step::Promoted).await });
}

/// Proves the reign after `closed` by a write, and ends its incident.
pub fn prove(member: &Member, cluster: &Cluster, closed: Term) {
    let follower = Follower::of(member, cluster);
    tokio::spawn(async move { follower.prove(closed).await });
}

/// A second failover so soon is held: says so in etcd, and pages.
pub async fn hold(member: &Member, cluster: &Cluster, term: Term, last_failover_wall_ms: i64) -> Result<()> {
    let key = member.keys.hold();
    let record = HoldRecord {
        term,
        last_failover_wall_ms,
        text: format!(
            "the writer of term {term} is gone so soon after the last failover that its cause may be the same; \
             look first, then let it go on with: holdfast hold end"
        ),
        released_by: None,
        released_why: None,
        paged: None,
    };
    let is = cluster.hold.as_ref().map_or(0, |hold| hold.mod_revision);
    let compares = vec![Compare::ModRevision { key: key.clone(), is }];
    let value = encoded(cluster, &key, record.clone());
    let write = Write::put(key, value);
    if !armed_txn(member, cluster, txn(compares, vec![write])).await? {
        bail!("etcd has changed since it was read");
    }
    tracing::error!(cluster = %member.instance.cluster, "{}", record.text);
    super::page::page(member, &record);
    Ok(())
}
