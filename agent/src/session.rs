//! The host's session in etcd: one lease per boot, one key on it, renewed for as long as the agent lives (rule 23).
//!
//! The lease id is kept in the run directory, which a boot empties: an agent that is killed and started again goes on
//! with the same session under a higher incarnation. The session is left to run out when the agent ends, never revoked.
//! Deadlines count from the *send* time of the last confirmed renewal (rule 19).

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use holdfast_agent_core::member::OwnSession;
use holdfast_host::{clock, durable};
use holdfast_store::{Compare, Read, Store, StoreError, Txn, TxnOutcome, Write};
use holdfast_types::record::{SessionRecord, Stored};
use holdfast_types::{Incarnation, SessionId, keys};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::watch;

use crate::config::Config;
use crate::disk::Disk;
use crate::renewals::Renewals;
use crate::world::Mirror;

/// What is known of our session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    own: Option<OwnSession>,
    valid_until_ms: u64,
    /// When the last confirmed renewal was sent, `CLOCK_BOOTTIME` in milliseconds.
    pub renewed_ms: Option<u64>,
}

impl Held {
    /// The start of the agent, once it has announced a session, whether or not that has run out by our own clock.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.own.map(|own| own.incarnation)
    }

    /// The session, if by our own clock it has not run out.
    pub fn alive(&self) -> Option<OwnSession> {
        self.own.filter(|_| clock::boottime_ms() < self.valid_until_ms)
    }
}

/// What the run directory keeps.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    lease: i64,
    boot_id: String,
}

/// The task that holds the session.
pub struct Keeper {
    store: Arc<dyn Store>,
    key: String,
    kept: PathBuf,
    counter: PathBuf,
    ttl_s: i64,
    renew: Duration,
    disk: Disk,
    renewals: Renewals,
    record: SessionRecord,
    held: watch::Sender<Held>,
    world: watch::Receiver<Mirror>,
    /// The revision at which our key was put last.
    announced: AtomicI64,
}

impl Keeper {
    /// Prepares the session of this host; [`Keeper::run`] holds it.
    pub fn new(
        config: &Config,
        store: Arc<dyn Store>,
        renewals: Renewals,
        world: watch::Receiver<Mirror>,
    ) -> anyhow::Result<(Self, watch::Receiver<Held>)> {
        let counter = config.state_dir.join("incarnation");
        let incarnation = next_incarnation(&counter)?;
        let (held, receiver) = watch::channel(Held::default());
        let keeper = Self {
            store,
            key: keys::session(&config.region, &config.host),
            kept: config.run_dir.join("session"),
            counter,
            ttl_s: config.timings.session_ttl_s(),
            renew: Duration::from_millis(config.timings.renew_interval_ms()),
            disk: Disk::default(),
            renewals,
            record: SessionRecord {
                host: config.host.clone(),
                boot_id: clock::boot_id().context("cannot read the boot id of the kernel")?,
                incarnation,
                grpc: config.grpc_listen.to_string(),
                version: crate::BUILD.into(),
                reads_format: holdfast_types::record::FORMAT,
            },
            held,
            world,
            announced: AtomicI64::new(0),
        };
        Ok((keeper, receiver))
    }

    /// Holds the session until the runtime ends.
    pub async fn run(mut self) {
        let mut lease = self.lease_of_this_boot();
        loop {
            let established = match lease {
                Some(lease) => self.renew(lease).await.map(|()| lease),
                None => Err(StoreError::LeaseNotFound { call: "start" }),
            };
            let result = match established {
                Ok(lease) => self.announce(lease).await.map(|()| lease),
                Err(StoreError::LeaseNotFound { .. }) => self.begin().await,
                Err(error) => Err(error),
            };
            match result {
                Ok(held) => {
                    let why = self.renew_while_it_lasts(held).await;
                    tracing::warn!(%why, "the session in etcd has ended; a new one is begun");
                    lease = None;
                    let mut said = false;
                    while let Err(error) = self.raise_incarnation().await {
                        if !said {
                            tracing::error!(
                                error = format!("{error:#}"),
                                "the incarnation cannot be kept on disk; no session is begun without it"
                            );
                        }
                        said = true;
                        tokio::time::sleep(self.renew).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no session yet");
                    tokio::time::sleep(self.renew / 2).await;
                }
            }
        }
    }

    fn lease_of_this_boot(&self) -> Option<i64> {
        let bytes = durable::read_optional(&self.kept).ok()??;
        let kept = Stored::<Kept>::decode(&self.kept.display().to_string(), &bytes).ok()?.body;
        (kept.boot_id == self.record.boot_id).then_some(kept.lease)
    }

    async fn raise_incarnation(&mut self) -> anyhow::Result<()> {
        let counter = self.counter.clone();
        let next = move || next_incarnation(&counter).map_err(std::io::Error::other);
        self.record.incarnation = self.disk.write(next).await?;
        Ok(())
    }

    async fn begin(&self) -> Result<i64, StoreError> {
        let lease = self.store.grant(self.ttl_s).await?;
        let kept = Kept { lease, boot_id: self.record.boot_id.clone() };
        let bytes = Stored::new(kept).encode();
        if let Err(error) = self.disk.keep(self.kept.clone(), Some(bytes)).await {
            tracing::warn!(%error, path = %self.kept.display(), "the lease id cannot be kept: a restart of the agent will look like a boot");
        }
        self.renew(lease).await?;
        self.announce(lease).await?;
        Ok(lease)
    }

    /// Puts the session's key, unless a later start of this host's agent has put its own: then there is no session for us.
    async fn announce(&self, lease: i64) -> Result<(), StoreError> {
        loop {
            let found = self.store.read(vec![Read::Key(self.key.clone())]).await?;
            let old = found.get(&self.key);
            let decoded = old.and_then(|pair| holdfast_store::decode::<SessionRecord>(pair).ok());
            if let Some(record) = &decoded
                && record.body.incarnation > self.record.incarnation
            {
                // Two hosts with one name, or a state directory from a backup. Whoever came later goes on; this one must not
                // take its place, and must not be silent.
                tracing::error!(
                    ours = self.record.incarnation.0,
                    theirs = record.body.incarnation.0,
                    file = %self.counter.display(),
                    "another agent holds this host's session: two hosts have one name, or the state directory is an old one; \
                     stop one agent, or write the higher number into the file"
                );
                tokio::time::sleep(self.renew).await;
                return Err(StoreError::LeaseNotFound { call: "announce" });
            }
            let stored = decoded
                .map_or_else(|| Stored::new(self.record.clone()), |old| old.with_body(self.record.clone()));
            let txn = Txn {
                compares: vec![Compare::ModRevision {
                    key: self.key.clone(),
                    is: found.mod_revision(&self.key),
                }],
                writes: vec![Write::Put { key: self.key.clone(), value: stored.encode(), lease }],
                otherwise_read: Vec::new(),
            };
            if let TxnOutcome::Succeeded { revision } = self.store.txn(txn).await? {
                self.announced.store(revision, Relaxed);
                let own = OwnSession { session: SessionId(lease), incarnation: self.record.incarnation };
                self.held.send_modify(|held| held.own = Some(own));
                tracing::info!(session = %own.session, incarnation = own.incarnation.0, "session announced");
                return Ok(());
            }
        }
    }

    async fn renew(&self, lease: i64) -> Result<(), StoreError> {
        let renewal = self.store.keep_alive(lease).await?;
        let age_ms = u64::try_from(renewal.sent.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now_ms = clock::boottime_ms();
        let sent_ms = now_ms.saturating_sub(age_ms);
        // A lease counts from when the last confirmed renewal was sent to the confirmation of the next, whatever was lost in
        // between, the session too.
        let before_ms = self.held.borrow().renewed_ms;
        if let Some(before_ms) = before_ms {
            self.renewals.note(now_ms.saturating_sub(before_ms));
        }
        self.held.send_modify(|held| {
            (held.valid_until_ms, held.renewed_ms) = (sent_ms + renewal.ttl_ms, Some(sent_ms));
        });
        Ok(())
    }

    /// Somebody has deleted our key, and its lease lives on: others would take this host for gone.
    async fn put_again(&self, lease: i64) {
        let is_lost = self.world.borrow().has_lost(&self.key, self.announced.load(Relaxed));
        if !is_lost {
            return;
        }
        tracing::warn!(key = self.key, "the key of our session was deleted: it is put again");
        // The next renewal tries again.
        if let Err(error) = self.announce(lease).await {
            tracing::debug!(%error, "the key of our session is not back yet");
        }
    }

    async fn renew_while_it_lasts(&self, lease: i64) -> StoreError {
        let mut wait = self.renew;
        loop {
            tokio::time::sleep(wait).await;
            wait = match self.renew(lease).await {
                Ok(()) => {
                    self.put_again(lease).await;
                    self.renew
                }
                Err(error @ StoreError::LeaseNotFound { .. }) => {
                    self.held.send_modify(|held| held.own = None);
                    return error;
                }
                // The renewal may or may not have arrived; only the send time of a confirmed one counts.
                Err(_) => self.renew / 4,
            };
        }
    }
}

/// Raises the durable count of starts, before it is used.
fn next_incarnation(path: &Path) -> anyhow::Result<Incarnation> {
    let at = || path.display().to_string();
    let before = match durable::read_optional(path).with_context(at)? {
        Some(bytes) => String::from_utf8_lossy(&bytes).trim().parse::<u64>().with_context(|| {
            format!("{} does not hold a number; write the highest incarnation that etcd shows for this host into it", at())
        })?,
        None => 0,
    };
    durable::write(path, (before + 1).to_string().as_bytes()).with_context(at)?;
    Ok(Incarnation(before + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_store::MemoryStore;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_state_directory_that_hangs_holds_back_no_renewal_and_lets_no_new_session_begin() {
        let folder = tempfile::tempdir().unwrap();
        let (held, receiver) = watch::channel(Held::default());
        let mut keeper = Keeper {
            store: Arc::new(MemoryStore::new()),
            key: "session/db1".into(),
            kept: folder.path().join("session"),
            counter: folder.path().join("incarnation"),
            ttl_s: 3,
            renew: Duration::from_millis(600),
            disk: Disk::default(),
            renewals: Renewals::below(folder.path(), holdfast_types::Profile::Fast),
            record: SessionRecord {
                host: holdfast_types::HostName::new("db1").unwrap(),
                boot_id: "boot".into(),
                incarnation: next_incarnation(&folder.path().join("incarnation")).unwrap(),
                grpc: String::new(),
                version: String::new(),
                reads_format: holdfast_types::record::FORMAT,
            },
            held,
            world: watch::channel(Mirror::default()).1,
            announced: AtomicI64::new(0),
        };
        let lease = keeper.begin().await.unwrap();
        let (release, hang) = mpsc::channel::<()>();
        // Until the test lets go of it.
        let hung = keeper.disk.write(move || {
            let _ = hang.recv();
            Ok(())
        });
        assert!(hung.await.is_err());
        let before_ms = receiver.borrow().renewed_ms;
        tokio::time::sleep(Duration::from_millis(5)).await;
        keeper.renew(lease).await.unwrap();
        assert!(receiver.borrow().renewed_ms > before_ms && receiver.borrow().alive().is_some());
        let counted: u64 = keeper.renewals.days().iter().map(|day| day.late.count()).sum();
        assert_eq!(counted, 1, "from one renewal to the next");
        assert!(keeper.raise_incarnation().await.is_err());
        assert_eq!(keeper.record.incarnation, Incarnation(1), "not before it is durable");
        drop(release);
    }
}
