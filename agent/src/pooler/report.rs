//! What a pooler's agent says of itself: where its clients are, and how the phases of an operation went here.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::planned::{self, Duty};
use holdfast_agent_core::route::Route;
use holdfast_store::{Txn, Write};
use holdfast_types::Term;
use holdfast_types::record::{PhaseDone, RouteRecord, Step, Stored};
use tokio::sync::oneshot;

use super::Router;
use super::verify::Proof;
use crate::act::{incident, trace};

impl Router {
    /// Keeps what was put in place, and records how long clients waited.
    pub(super) fn note(&mut self, route: &Route, cluster: &Cluster) {
        let target = match route {
            Route::To { writer, .. } => Some(writer.clone()),
            Route::Hold { .. } | Route::Leave => None,
        };
        match (&target, self.held_at) {
            (Some(writer), Some(since)) => {
                let attributes =
                    [("holdfast.pooler", self.pooler.name.clone()), ("holdfast.to", writer.to_string())];
                trace::step(&self.telemetry, trace::of_record(cluster), "route", since, &attributes);
                self.held_at = None;
            }
            (None, None) => self.held_at = Some(SystemTime::now()),
            _ => {}
        }
        let paused = target.is_none();
        self.seen.show(target, paused);
    }

    /// Answers for a phase of an operation, or begins what it takes to answer.
    pub(super) fn answer(&mut self, cluster: &Cluster, now_ms: u64) {
        if let Some(not_held) = self.planned.why_not_held(cluster, &self.full_name, now_ms) {
            self.done = Some(not_held);
        }
        match planned::duty(cluster, &self.full_name, self.applied.as_ref(), self.done.as_ref()) {
            Some(duty @ Duty::Release { .. }) => self.done = Some(answered(&duty, Ok(None))),
            Some(duty @ Duty::Verify { .. }) => self.prove(duty),
            None => {}
        }
    }

    /// In a task of its own: clients may have to be held again meanwhile.
    fn prove(&mut self, duty: Duty) {
        let (Duty::Verify { operation, old }, Some(Route::To { writer, .. })) = (&duty, &self.applied) else {
            return;
        };
        if self.proof.as_ref().is_some_and(|(of, _)| of == operation) {
            return;
        }
        let proof = Proof {
            pooler: self.pooler.clone(),
            admin: self.admin.clone(),
            old: old.clone(),
            writer: writer.clone(),
        };
        let (sender, receiver) = oneshot::channel();
        self.proof = Some((*operation, receiver));
        tokio::spawn(async move { drop(sender.send(answered(&duty, proof.run().await))) });
    }

    /// Says in etcd where the clients are and how the last phase went, unless that stands there already.
    pub(super) async fn report(&mut self) -> Result<()> {
        let (term, target) = match &self.applied {
            Some(Route::To { term, writer, .. }) => (*term, Some(writer.clone())),
            Some(Route::Hold { term, .. }) => (*term, None),
            Some(Route::Leave) | None => return Ok(()),
        };
        let record = RouteRecord { term, paused: target.is_none(), target, done: self.done.clone() };
        if self.reported.as_ref() == Some(&record) {
            return Ok(());
        }
        let key = self.keys.route(&self.config.host, &self.pooler.name);
        let write = Write::put(key, Stored::new(record.clone()).encode());
        self.world.store.txn(Txn { writes: vec![write], ..Txn::default() }).await?;
        if record.target.is_some() && self.routed != Some(term) {
            self.routed = Some(term);
            self.add_to_incident(Term(term.0.saturating_sub(1)));
        }
        self.reported = Some(record);
        Ok(())
    }

    fn add_to_incident(&self, closed: Term) {
        let (store, keys) = (Arc::clone(&self.world.store), self.keys.clone());
        tokio::spawn(async move {
            if let Err(error) = incident::add_step(&store, &keys, closed, Step::Routed, |_| ()).await {
                tracing::warn!(%error, "that clients were sent to the writer is not recorded in the incident");
            }
        });
    }
}

fn answered(duty: &Duty, outcome: Result<Option<String>, String>) -> PhaseDone {
    let (operation, phase) = duty.place();
    let (problem, remark) = match outcome {
        Ok(remark) => (None, remark),
        Err(problem) => (Some(problem), None),
    };
    PhaseDone { operation, phase, problem, remark }
}
