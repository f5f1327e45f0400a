//! Mode `observe`: every decision is computed, recorded as *would have ...*, and nothing acts.

use std::path::Path;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::{Action, Decision, Postgres};
use holdfast_agent_core::observe;
use holdfast_agent_core::observed::Look;
use holdfast_host::clock;
use holdfast_store::{Compare, Read, Txn, TxnOutcome, Write};
use holdfast_types::record::{ObservedRecord, Stored, WouldLine, WouldRecord};
use holdfast_types::renewals::DAYS_KEPT;
use holdfast_types::{Mode, Position};

use super::{Member, State};
use crate::act;
use crate::history::History;

const FILE: &str = "observed.jsonl";
/// A record has a kilobyte or two, and the file must stay readable in one go.
const OBSERVED_MAX: usize = 200;
/// For how long incidents are kept, in milliseconds.
const OBSERVED_MS: i64 = DAYS_KEPT * 86_400_000;

impl Member {
    /// The cluster that decisions are made on: as it is, or, while observing, as if it were armed.
    pub(super) fn considered(&self, cluster: Cluster) -> Cluster {
        if cluster.known_mode() != Some(Mode::Observe) {
            return cluster;
        }
        let term = {
            let mut state = self.state();
            state.shadow = observe::imagine(state.shadow.as_ref(), &cluster);
            state.shadow.clone()
        };
        match term {
            Some(term) => observe::as_if_armed(cluster, term),
            None => cluster,
        }
    }

    /// Records what is new in a decision that is not acted on: in the log, for `status`, in etcd, where the other members see
    /// what they would have closed a reign by, and on disk as part of an incident.
    pub(super) async fn record_would(&self, cluster: &Cluster, decision: &Decision) {
        let said_to_hang = self.state().said.as_ref().is_some_and(|said| said.stop.is_some());
        // How long it has hung by now is said once.
        let is_told = |action: &Action| said_to_hang && matches!(action, Action::EndHung(_));
        let worth_saying = |action: &&Action| observe::is_worth_saying(action) && !is_told(action);
        let worth_saying = decision.actions.iter().filter(worth_saying);
        let would: Vec<String> = worth_saying.map(act::describe).collect();
        let position = self.position_to_say(decision).await;
        let (new, said, has_changed) = self.note_would(cluster, decision, &would, position);
        for line in &new {
            tracing::info!(cluster = %self.instance.cluster, "would have {line}");
        }
        if has_changed || !new.is_empty() {
            match self.keep_would(&new, &said).await {
                Ok(()) => self.state().said = Some(said),
                Err(error) => {
                    // Looked at anew: what etcd has of it is not known.
                    self.state().said = None;
                    tracing::warn!(cluster = %self.instance.cluster, %error, "what would have been done is not recorded in etcd");
                }
            }
        }
        self.observe_incident(cluster, decision, &would).await;
    }

    /// Takes note of what would have been done: the lines that are new, what would have been promised and attested by now, and
    /// whether that is new.
    fn note_would(
        &self,
        cluster: &Cluster,
        decision: &Decision,
        would: &[String],
        position: Option<Position>,
    ) -> (Vec<String>, WouldRecord, bool) {
        let me = &self.instance.member;
        let mut state = self.state();
        state.waits.clone_from(&decision.waits);
        let new = would.iter().filter(|line| !state.would.contains(line)).cloned().collect();
        state.would = would.to_vec();
        // An earlier start of the agent may have said something.
        let before = state.said.clone().or_else(|| cluster.would.get(me).cloned()).unwrap_or_default();
        let said = observe::said(&before, cluster, me, &decision.actions, position, clock::wall_ms());
        let has_changed = said != before;
        (new, said, has_changed)
    }

    /// How far we have come, read as for a promise; only where one would be given.
    async fn position_to_say(&self, decision: &Decision) -> Option<Position> {
        let promises = decision.actions.iter().any(|action| matches!(action, Action::Promise { .. }));
        if promises { act::position::received(self).await.ok() } else { None }
    }

    async fn keep_would(&self, new: &[String], said: &WouldRecord) -> anyhow::Result<()> {
        let key = self.keys.would(&self.instance.member);
        let found = self.world.store.read(vec![Read::Key(key.clone())]).await?;
        let stored = holdfast_store::decode_from::<WouldRecord>(&found, &key)?
            .unwrap_or_else(|| Stored::new(WouldRecord::default()));
        let mut record = stored.body.clone();
        let at_wall_ms = clock::wall_ms();
        for text in new {
            record.push(WouldLine { at_wall_ms, text: text.clone() });
        }
        (record.promise, record.stop) = (said.promise.clone(), said.stop.clone());
        let compares = vec![Compare::ModRevision { key: key.clone(), is: found.mod_revision(&key) }];
        let writes = vec![Write::put(key, stored.with_body(record).encode())];
        match self.world.store.txn(Txn { compares, writes, otherwise_read: Vec::new() }).await? {
            TxnOutcome::Succeeded { .. } => Ok(()),
            TxnOutcome::Refused { .. } => anyhow::bail!("somebody else has written it meanwhile"),
        }
    }

    /// Keeps what belongs to an incident.
    async fn observe_incident(&self, cluster: &Cluster, decision: &Decision, would: &[String]) {
        let now_wall_ms = clock::wall_ms();
        let (file, bytes) = {
            let mut state = self.state();
            let look = Look {
                cluster,
                me: &self.instance.member,
                id: &self.instance.cluster,
                actions: &decision.actions,
                would,
                waits: &decision.waits,
                postgres: state.postgres.unwrap_or(Postgres::Unknown),
                last_sign_wall_ms: last_sign_wall_ms(&state, now_wall_ms),
                now_wall_ms,
            };
            let Some(record) = state.observer.look(&look) else { return };
            let Some(observed) = &mut state.observed else { return };
            let (noticed, oldest) = (record.noticed_wall_ms, now_wall_ms - OBSERVED_MS);
            observed.put(record, |old| old.noticed_wall_ms == noticed, |old| old.noticed_wall_ms >= oldest);
            (observed.file().to_owned(), observed.encode())
        };
        if let Err(error) = self.disk.keep(file.clone(), Some(bytes)).await {
            tracing::warn!(path = %file.display(), %error, "an observed incident is not on disk; the next one takes it along");
        }
    }
}

/// The last sign of life of a PostgreSQL: of our own, if that is the writer, or of the writer that we stream from.
fn last_sign_wall_ms(state: &State, now_wall_ms: i64) -> Option<i64> {
    match state.postgres {
        Some(Postgres::Running { in_recovery: Some(false) }) => {
            let hung_ms = state.pulse.map_or(0, |pulse| pulse.hung_ms());
            Some(now_wall_ms.saturating_sub_unsigned(hung_ms))
        }
        Some(Postgres::Gone) => state.gone_wall_ms,
        _ => state.heard_wall_ms,
    }
}

/// The incidents that an earlier start of the agent has kept; `folder` is the cluster's.
pub(super) fn load(folder: &Path) -> History<ObservedRecord> {
    History::load(folder.join(FILE), OBSERVED_MAX)
}
