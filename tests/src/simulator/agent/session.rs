//! The host's session: one lease per boot, kept in `/run`, renewed for as long as the agent lives (rule 23).

use std::rc::Rc;

use holdfast_agent_core::member::OwnSession;
use holdfast_store::{Compare, Read, StoreError, Write, decode};
use holdfast_types::record::{FORMAT, SessionRecord, Stored};
use holdfast_types::{Incarnation, SessionId, keys};

use super::Agent;
use crate::simulator::executor::ms;

impl Agent {
    pub(super) async fn keep_session(self: Rc<Self>) {
        let timings = &self.world.setup.timings;
        let renew_us = ms(timings.renew_interval_ms());
        let mut incarnation = self.here().state_dir.borrow().incarnation + 1;
        while self
            .keep(&format_args!("start {incarnation}"), |dir| dir.incarnation = incarnation)
            .await
            .is_err()
        {
            // The agent does not start without; its supervisor tries again.
            self.world.executor.sleep(ms(1_000)).await;
        }
        let kept = self.here().kept_session.get();
        let mut lease = kept.filter(|(_, boot)| *boot == self.here().boots.get()).map(|(lease, _)| lease);
        loop {
            let record = self.session_record(incarnation);
            let established = match lease {
                Some(lease) => self.renew(lease).await.map(|()| lease),
                None => Err(StoreError::LeaseNotFound { call: "start" }),
            };
            let result = match established {
                Ok(lease) => self.announce(lease, &record).await.map(|()| lease),
                Err(StoreError::LeaseNotFound { .. }) => self.begin_session(&record).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(held) => {
                    self.renew_while_it_lasts(held, renew_us).await;
                    self.say(&"the session in etcd has ended");
                    lease = None;
                    let next = incarnation + 1;
                    while self
                        .keep(&format_args!("start {next}"), |dir| dir.incarnation = next)
                        .await
                        .is_err()
                    {
                        self.world.executor.sleep(renew_us).await;
                    }
                    incarnation = next;
                }
                Err(_) => self.world.executor.sleep(renew_us / 2).await,
            }
        }
    }

    fn session_record(&self, incarnation: u64) -> SessionRecord {
        SessionRecord {
            host: self.here().name.clone(),
            boot_id: self.here().boots.get().to_string(),
            incarnation: Incarnation(incarnation),
            grpc: String::new(),
            version: String::new(),
            reads_format: FORMAT,
        }
    }

    async fn begin_session(&self, record: &SessionRecord) -> Result<i64, StoreError> {
        let lease = self.client.grant(self.world.setup.timings.session_ttl_s()).await?;
        self.step(&format_args!("keeps lease {lease} in /run")).await;
        self.here().kept_session.set(Some((lease, self.here().boots.get())));
        self.renew(lease).await?;
        self.announce(lease, record).await?;
        Ok(lease)
    }

    async fn announce(&self, lease: i64, record: &SessionRecord) -> Result<(), StoreError> {
        let key = keys::session(&self.world.region, &self.here().name);
        loop {
            let found = self.client.read(vec![Read::Key(key.clone())]).await?;
            let old = found.get(&key).and_then(|pair| decode::<SessionRecord>(pair).ok());
            if old.is_some_and(|old| old.body.incarnation > record.incarnation) {
                self.say(&"another agent holds this host's session");
                self.world.executor.sleep(ms(1_000)).await;
                return Err(StoreError::LeaseNotFound { call: "announce" });
            }
            let compare = Compare::ModRevision { key: key.clone(), is: found.mod_revision(&key) };
            let value = Stored::new(record.clone()).encode();
            if self
                .client
                .transact(vec![compare], vec![Write::Put { key: key.clone(), value, lease }])
                .await?
            {
                let own = OwnSession { session: SessionId(lease), incarnation: record.incarnation };
                let until_ms = self.held.get().map_or(0, |(_, until_ms)| until_ms);
                self.held.set(Some((own, until_ms.max(self.pending_until_ms.get()))));
                self.say(&format_args!("session {lease}, start {}", record.incarnation.0));
                self.here().session_revoked.set(false);
                self.session_told.raise();
                self.wake.raise();
                return Ok(());
            }
        }
    }

    /// The deadline counts from the moment at which the renewal was sent.
    async fn renew(&self, lease: i64) -> Result<(), StoreError> {
        let sent_ms = self.now_ms();
        let ttl_ms = self.client.keep_alive(lease).await?;
        self.pending_until_ms.set(sent_ms + ttl_ms);
        self.renewed_ms.set(Some(self.counts_from(sent_ms)));
        self.session_told.raise();
        if let Some((own, _)) = self.held.get() {
            self.held.set(Some((own, sent_ms + ttl_ms)));
        }
        Ok(())
    }

    async fn renew_while_it_lasts(&self, lease: i64, renew_us: u64) {
        let mut wait_us = renew_us;
        loop {
            self.world.executor.sleep(wait_us).await;
            wait_us = match self.renew(lease).await {
                Ok(()) => renew_us,
                Err(StoreError::LeaseNotFound { .. }) => {
                    self.held.set(None);
                    self.session_told.raise();
                    self.wake.raise();
                    return;
                }
                Err(_) => renew_us / 4,
            };
        }
    }
}
