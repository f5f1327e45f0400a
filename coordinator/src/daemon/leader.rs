//! Which coordinator works: one key on one lease. Whoever holds it acts, and each of its transactions compares that key, so
//! one that has lost it without knowing changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_store::{Compare, Read, Store, StoreError, Txn, TxnOutcome, Write};
use holdfast_types::record::{CoordinatorRecord, Stored};
use holdfast_types::{HostName, RegionName, keys};
use tokio::sync::watch;

use crate::cli::now_wall_ms;

/// Another takes over after this: operations wait as long, clients do not (each pooler has a clock of its own).
const TTL_S: i64 = 5;
const RENEW: Duration = Duration::from_millis(1_000);

/// The right to act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    key: String,
    lease: i64,
}

impl Lead {
    /// What every transaction compares.
    pub fn compare(&self) -> Compare {
        Compare::Lease { key: self.key.clone(), is: self.lease }
    }
}

/// The task that stands for election.
pub struct Candidate {
    store: Arc<dyn Store>,
    key: String,
    host: HostName,
    lead: watch::Sender<Option<Lead>>,
}

impl Candidate {
    /// Prepares it; [`Candidate::run`] stands.
    pub fn new(
        store: Arc<dyn Store>,
        region: &RegionName,
        host: &HostName,
    ) -> (Self, watch::Receiver<Option<Lead>>) {
        let (lead, receiver) = watch::channel(None);
        (Self { store, key: keys::coordinator(region), host: host.clone(), lead }, receiver)
    }

    /// Stands until the runtime ends.
    pub async fn run(self) {
        let mut last = String::new();
        loop {
            if let Err(error) = self.stand().await {
                let error = error.to_string();
                if error != last {
                    tracing::warn!(%error, "not elected: etcd does not answer; tried again");
                }
                last = error;
            }
            self.lead.send_replace(None);
            tokio::time::sleep(RENEW).await;
        }
    }

    /// Begins a lease, takes the key if it is free, and holds it for as long as it lasts.
    async fn stand(&self) -> Result<(), StoreError> {
        let lease = self.store.grant(TTL_S).await?;
        let result = self.hold(lease).await;
        // Best effort: it runs out by itself.
        drop(self.store.revoke(lease).await);
        result
    }

    async fn hold(&self, lease: i64) -> Result<(), StoreError> {
        let record = CoordinatorRecord {
            host: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            since_wall_ms: now_wall_ms(),
        };
        let value = Stored::new(record).encode();
        loop {
            let renewal = self.store.keep_alive(lease).await?;
            let until = renewal.sent + Duration::from_millis(renewal.ttl_ms);
            let found = self.store.read(vec![Read::Key(self.key.clone())]).await?;
            match found.get(&self.key) {
                None => {
                    let txn = Txn {
                        compares: vec![Compare::ModRevision { key: self.key.clone(), is: 0 }],
                        writes: vec![Write::Put { key: self.key.clone(), value: value.clone(), lease }],
                        otherwise_read: Vec::new(),
                    };
                    if let TxnOutcome::Succeeded { .. } = self.store.txn(txn).await? {
                        tracing::info!(host = %self.host, "this coordinator works now");
                    }
                    continue;
                }
                Some(pair) if pair.lease == lease => {
                    let lead = Lead { key: self.key.clone(), lease };
                    self.lead.send_if_modified(|now| {
                        let changed = now.as_ref() != Some(&lead);
                        *now = Some(lead);
                        changed
                    });
                }
                Some(_) => drop(self.lead.send_replace(None)),
            }
            if Instant::now() >= until {
                return Err(StoreError::LeaseNotFound { call: "coordinator" });
            }
            tokio::time::sleep(RENEW).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_store::MemoryStore;

    #[tokio::test]
    async fn one_works_and_another_takes_over() {
        let memory = MemoryStore::with_manual_clock();
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let region = RegionName::new("r1").unwrap();
        let stand = |host: &str| {
            let (candidate, lead) =
                Candidate::new(Arc::clone(&store), &region, &HostName::new(host).unwrap());
            (tokio::spawn(candidate.run()), lead)
        };
        let (first, mut one) = stand("a");
        one.wait_for(Option::is_some).await.unwrap();
        let (_second, mut other) = stand("b");
        // Long enough for its first look.
        tokio::time::sleep(RENEW / 2).await;
        assert_eq!(*other.borrow(), None);
        first.abort();
        memory.advance(Duration::from_secs(6));
        other.wait_for(Option::is_some).await.unwrap();
    }
}
