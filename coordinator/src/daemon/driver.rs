//! The work on one cluster: look, decide, store, and look again.
//!
//! Acts on nothing but the journal: one transaction that compares who coordinates and what was read. All the rest is done by
//! agents, who read it. So this may end at any line, and whoever coordinates next goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use holdfast_coordinator_core::drain::{self, Effect};
use holdfast_coordinator_core::request::{self, Request, Taken, Taker};
use holdfast_coordinator_core::step;
use holdfast_proto::tls::Identity;
use holdfast_store::{Compare, Store, Txn, TxnOutcome, Write};
use holdfast_types::keys::{self, ClusterKeys};
use holdfast_types::record::{OperationPhase, OperationRecord, Stored, Wanted};
use holdfast_types::{ClusterId, HostName};
use tokio::sync::watch;

use super::leader::Lead;
use crate::cli::{agents, now_wall_ms};
use crate::view::cluster::{Asked, ClusterView};
use crate::view::operation;

/// It is looked at this often when nothing changes: deadlines of phases are counted in seconds.
const TICK: Duration = Duration::from_millis(500);
/// After an error, which is said once.
const RETRY: Duration = Duration::from_millis(500);

/// The task of one cluster.
pub struct Driver {
    store: Arc<dyn Store>,
    identity: Identity,
    host: HostName,
    cluster: ClusterId,
    keys: ClusterKeys,
    lead: watch::Receiver<Option<Lead>>,
    /// The phase that an operation was seen in first, and when.
    since: Option<(u64, OperationPhase, Instant)>,
    last_error: String,
}

impl Driver {
    /// Prepares the task.
    pub fn new(
        store: Arc<dyn Store>,
        identity: Identity,
        host: HostName,
        cluster: ClusterId,
        lead: watch::Receiver<Option<Lead>>,
    ) -> Self {
        let keys = ClusterKeys::new(&cluster);
        Self { store, identity, host, cluster, keys, lead, since: None, last_error: String::new() }
    }

    /// Runs until the runtime ends.
    pub async fn run(mut self) {
        let mut changes = self.store.watch(vec![
            self.keys.prefix().to_owned(),
            self.keys.patroni_prefix().to_owned(),
            keys::sessions(&self.cluster.region),
        ]);
        loop {
            let lead = self.lead.borrow_and_update().clone();
            let mut wait = TICK;
            if let Some(lead) = &lead {
                match self.act(lead).await {
                    // Something was stored: there may be more.
                    Ok(true) => continue,
                    Ok(false) => self.last_error.clear(),
                    Err(error) => {
                        self.say(&format!("{error:#}"));
                        wait = RETRY;
                    }
                }
            } else {
                self.since = None;
            }
            tokio::select! {
                _ = changes.next() => {}
                _ = self.lead.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn say(&mut self, error: &str) {
        if self.last_error != error {
            tracing::warn!(cluster = %self.cluster, "{error}; tried again");
            error.clone_into(&mut self.last_error);
        }
    }

    /// One look and what follows from it. `true`: something was stored.
    async fn act(&mut self, lead: &Lead) -> Result<bool> {
        let reading =
            self.store.read(ClusterView::reads(&self.cluster)).await.context("reading the cluster")?;
        let view = ClusterView::new(self.cluster.clone(), &reading, now_wall_ms());
        if view.operation.is_none() && view.operation_revision != 0 {
            anyhow::bail!(
                "the operation's record cannot be read, so none is begun: {}",
                self.keys.operation()
            );
        }
        if let Some(running) = operation::running(&view)
            && self.go_on(lead, &view, &running.record).await?
        {
            return Ok(true);
        }
        for asked in &view.intents {
            if self.take(lead, &view, asked).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next step of the operation that runs.
    async fn go_on(
        &mut self,
        lead: &Lead,
        view: &ClusterView,
        stored: &Stored<OperationRecord>,
    ) -> Result<bool> {
        let record = &stored.body;
        let since = match self.since {
            Some((number, phase, since)) if (number, phase) == (record.number, record.phase) => since,
            _ => {
                let now = Instant::now();
                self.since = Some((record.number, record.phase, now));
                now
            }
        };
        let phase_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut seen = operation::observe(view, &BTreeMap::new());
        if step::asks(record, &seen) {
            seen = operation::observe(view, &agents::preflights(&self.identity, view).await);
        }
        let next = step::step(record, &seen, phase_ms);
        let Some(after) = step::after(record, next, &self.host, now_wall_ms()) else { return Ok(false) };
        let text = operation::line(&after);
        let writes = self.store_operation(stored.with_body(after));
        let stored = self.send(lead, view, Vec::new(), writes).await?;
        if stored {
            tracing::info!(cluster = %self.cluster, "{text}");
        }
        Ok(stored)
    }

    /// Takes a request. One that cannot be read stays where it is, for whoever put it and for `operation list`.
    async fn take(&self, lead: &Lead, view: &ClusterView, asked: &Asked) -> Result<bool> {
        let Ok(intent) = &asked.intent else { return Ok(false) };
        let request = Request { user: asked.user.clone(), id: asked.id.clone(), intent: intent.body.clone() };
        let by = Taker { host: &self.host, number: operation::next_number(view), now_wall_ms: now_wall_ms() };
        let running = operation::running(view);
        // Only a request that could begin needs to know more than etcd does.
        let told = match intent.body.wanted {
            Wanted::Switchover(_) | Wanted::Drain(_) | Wanted::Restart(_) if running.is_none() => {
                agents::preflights(&self.identity, view).await
            }
            _ => BTreeMap::new(),
        };
        let seen = operation::observe(view, &told);
        let taken = request::take(&request, running.map(|running| running.body()), &seen, by);
        let mut writes = vec![Write::Delete { key: asked.key.clone() }];
        let text = match taken {
            Taken::Begins(record) => {
                let text = operation::line(&record);
                writes.extend(self.store_operation(Stored::new(*record)));
                text
            }
            Taken::Ends(record) => {
                let text = operation::line(&record);
                writes.extend(self.effect(&record));
                writes.push(self.keep(&Stored::new(*record)));
                text
            }
            Taken::Stops { other, request } => {
                let text = operation::line(&request);
                let kept = running.map(|running| running.record.with_body((*other).clone()));
                writes.extend(self.store_operation(kept.unwrap_or_else(|| Stored::new(*other))));
                writes.push(self.keep(&Stored::new(*request)));
                text
            }
        };
        let compares = vec![Compare::ModRevision { key: asked.key.clone(), is: asked.revision }];
        let stored = self.send(lead, view, compares, writes).await?;
        if stored {
            tracing::info!(cluster = %self.cluster, by = asked.user, "{text}");
        }
        Ok(stored)
    }

    /// The journal, and once it has ended its place in the ring.
    fn store_operation(&self, record: Stored<OperationRecord>) -> Vec<Write> {
        let mut writes = vec![Write::put(self.keys.operation(), record.encode())];
        if !record.body.runs() {
            writes.push(self.keep(&record));
            writes.extend(self.effect(&record.body));
        }
        writes
    }

    /// What stands in etcd beside the journal once it has ended.
    fn effect(&self, record: &OperationRecord) -> Option<Write> {
        Some(match drain::effect(record)? {
            Effect::Drained(node, mark) => Write::put(self.keys.drained(&node), Stored::new(mark).encode()),
            Effect::Undrained(node) => Write::Delete { key: self.keys.drained(&node) },
        })
    }

    fn keep(&self, record: &Stored<OperationRecord>) -> Write {
        Write::put(self.keys.ended_operation(record.body.number), record.encode())
    }

    /// `false`: something had changed since it was read.
    async fn send(
        &self,
        lead: &Lead,
        view: &ClusterView,
        mut compares: Vec<Compare>,
        writes: Vec<Write>,
    ) -> Result<bool> {
        compares.push(lead.compare());
        compares.push(Compare::ModRevision { key: self.keys.operation(), is: view.operation_revision });
        let txn = Txn { compares, writes, otherwise_read: Vec::new() };
        let outcome = self.store.txn(txn).await.context("storing the operation")?;
        Ok(matches!(outcome, TxnOutcome::Succeeded { .. }))
    }
}
