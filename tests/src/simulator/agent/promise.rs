//! `agent/src/act/{promise,position,network}.rs`: leaves a writer step by step, and comes back.

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::detach::{self, NextStep, Phase, Progress};
use holdfast_agent_core::member::Network;
use holdfast_store::{Compare, Write};
use holdfast_types::record::{Promise, Stored};
use holdfast_types::{MemberName, Position, SessionId, Term, Timeline, keys};

use super::look::Standby;
use super::{Agent, Done, Failed};
use crate::simulator::executor::ms;
use crate::simulator::mutant::Mutant;
use crate::simulator::world::Filter;

const POSITION_POLL_US: u64 = ms(10);
const POSITION_DEADLINE_US: u64 = ms(1_500);

impl Agent {
    pub(super) async fn promise(&self, cluster: &Cluster, term: Term, writer: &MemberName) -> Done {
        let standing = self.state.borrow().phase.clone().filter(|phase| phase.term() == term);
        let positioned = match standing {
            Some(Phase::Positioned { promise } | Phase::Promised { promise })
                if self.is_cut(cluster, writer).await =>
            {
                promise
            }
            other => {
                if other.is_none() {
                    self.intend(term, writer).await?;
                }
                self.leave(cluster, term, writer).await?
            }
        };
        self.put_promise(cluster, positioned).await
    }

    /// From its first line on we grant no lease.
    async fn intend(&self, term: Term, writer: &MemberName) -> Done {
        if !self.begin_promising() {
            return Err("a write lease granted by this node has not run out".into());
        }
        let done = self.intend_alone(term, writer).await;
        let settled = done.is_ok() || self.set_phase(None).await.is_ok();
        self.state.borrow_mut().promising = !settled;
        done
    }

    async fn intend_alone(&self, term: Term, writer: &MemberName) -> Done {
        let remembered = self.state.borrow().received_timeline;
        let received_timeline = match self.standby().await {
            Ok(standby) => standby.received_timeline.max(remembered),
            Err(_) => remembered,
        };
        self.state.borrow_mut().received_timeline = received_timeline;
        self.set_phase(Some(Phase::Intended { term, writer: writer.clone(), received_timeline })).await
    }

    fn address_of(&self, cluster: &Cluster, writer: &MemberName) -> Done<usize> {
        let address = cluster.address(writer).map(|(address, _)| address);
        let host = address.and_then(|address| self.world.host_at(address));
        host.ok_or_else(|| Failed(format!("the address of {writer} is not known")))
    }

    async fn is_cut(&self, cluster: &Cluster, writer: &MemberName) -> bool {
        self.world.pause(ms(1), ms(4)).await;
        let Ok(lost) = self.address_of(cluster, writer) else { return false };
        let filter = self.here().filter.borrow();
        filter.installed && filter.source.is_none() && filter.cut.contains(&lost)
    }

    async fn leave(&self, cluster: &Cluster, term: Term, writer: &MemberName) -> Done<Promise> {
        let lost = self.address_of(cluster, writer)?;
        let mut progress = Progress::default();
        if self.world.is_mutant(Mutant::PositionBeforeCut) {
            progress.position = Some(self.received().await?);
        }
        loop {
            match detach::next_step(&progress) {
                NextStep::Cut => {
                    if !self.world.is_mutant(Mutant::PromiseWithoutCut) {
                        self.cut(lost).await;
                    }
                    progress.cut_in_place = true;
                }
                NextStep::EndWalreceiver => {
                    self.step(&"ends the walreceiver").await;
                    self.world.end_walreceiver(self.host);
                    progress.walreceiver_gone = true;
                    if progress.position.is_some() {
                        progress.replay_settled = true;
                    }
                }
                NextStep::WaitForReplay | NextStep::ReadPosition => {
                    progress.position = Some(self.received().await?);
                    progress.replay_settled = true;
                }
                NextStep::Persist(position) => {
                    let own = self.own().ok_or("our own session is not known to be alive")?;
                    let data_uuid = self.state.borrow().data_uuid.clone();
                    let promise = Promise {
                        term,
                        writer: writer.clone(),
                        position,
                        data_uuid: data_uuid.ok_or("the data directory has no id")?,
                        incarnation: own.incarnation,
                        heard_wall_ms: None,
                        at_wall_ms: self.wall_ms(),
                    };
                    self.set_phase(Some(Phase::Positioned { promise: promise.clone() })).await?;
                    return Ok(promise);
                }
            }
        }
    }

    async fn put_promise(&self, cluster: &Cluster, promise: Promise) -> Done {
        let record = cluster.term.as_ref().ok_or("the term record is gone")?;
        let key = self.world.keys.promise(&self.here().member, promise.term);
        let value = Stored::keeping(promise.clone(), cluster.unknown.get(&key)).encode();
        self.step(&format_args!("promises term {} at {}", promise.term, promise.position)).await;
        let compares = vec![self.term_is(record.mod_revision)];
        if !self.armed_txn(cluster, compares, vec![Write::put(key, value)]).await? {
            return Err("the term record has changed since it was read".into());
        }
        self.set_phase(Some(Phase::Promised { promise })).await
    }

    pub(super) async fn withdraw_promise(
        &self,
        cluster: &Cluster,
        promise_mod_revision: i64,
        term_mod_revision: i64,
        writers_session: SessionId,
    ) -> Done {
        let record = cluster.term.as_ref().ok_or("the term record is gone")?;
        let key = self.world.keys.promise(&self.here().member, record.value.term);
        let session = cluster.sessions.get(&writers_session).ok_or("the writer's session is gone")?;
        let mut compares = vec![
            self.term_is(term_mod_revision),
            Compare::ModRevision { key: key.clone(), is: promise_mod_revision },
            Compare::Lease { key: keys::session(&self.world.region, &session.host), is: writers_session.0 },
        ];
        let writes = if promise_mod_revision == 0 { Vec::new() } else { vec![Write::Delete { key }] };
        self.step(&"withdraws its promise").await;
        if self.world.is_mutant(Mutant::WithdrawWithoutTransaction) {
            compares.clear();
            let writer = record.value.open_holder().map(|writer| self.address_of(cluster, writer));
            if let Some(Ok(writer)) = writer {
                self.follow(Some(writer)).await;
            }
            self.client.transact(compares, writes).await?;
        } else if !self.armed_txn(cluster, compares, writes).await? {
            return Err("etcd has changed since it was read".into());
        }
        self.set_phase(None).await
    }

    pub(super) async fn forget_phase(&self, cluster: &Cluster) -> Done {
        let term = cluster.term.as_ref().ok_or("the term record is gone")?;
        let me = &self.here().member;
        if let Some(old) = cluster.promises.get(me).filter(|old| old.value.term < term.value.term) {
            let key = self.world.keys.promise(me, old.value.term);
            let compares = vec![
                self.term_is(term.mod_revision),
                Compare::ModRevision { key: key.clone(), is: old.mod_revision },
            ];
            self.step(&"deletes a promise of a term that is over").await;
            if !self.armed_txn(cluster, compares, vec![Write::Delete { key }]).await? {
                return Err("etcd has changed since it was read".into());
            }
        }
        self.set_phase(None).await
    }

    /// The end of what was received and flushed, once nothing more can come.
    async fn received(&self) -> Done<Position> {
        self.until(|now| now.received.is_some() || now.waits_for_wal).await
    }

    /// The same for the hook: all local WAL is replayed.
    pub(super) async fn replayed(&self) -> Option<Position> {
        let settled =
            |now: &Standby| now.waits_for_wal || (now.received.is_some() && now.received <= now.replayed);
        self.until(settled).await.ok()
    }

    async fn until(&self, settled: impl Fn(&Standby) -> bool) -> Done<Position> {
        let started_us = self.world.executor.now_us();
        loop {
            let now = self.standby().await?;
            if settled(&now) {
                return self.position(&now);
            }
            if self.world.executor.now_us() - started_us >= POSITION_DEADLINE_US {
                return Err("local WAL is still being replayed".into());
            }
            self.world.executor.sleep(POSITION_POLL_US).await;
        }
    }

    pub(super) fn position(&self, standby: &Standby) -> Done<Position> {
        let lsn = standby.received.max(standby.replayed).ok_or("PostgreSQL says no position")?;
        let received: Option<Timeline> = standby.received_timeline.max(self.state.borrow().received_timeline);
        let timeline = received.max(Some(standby.timeline_on_disk)).max(Some(standby.control_timeline));
        let timeline = timeline.ok_or("no timeline")?;
        Ok(Position { timeline, lsn })
    }

    /// Opens replication towards `source` and nobody else, and lifts every cut.
    pub(super) async fn follow(&self, source: Option<usize>) {
        let name = source.map_or("nobody", |source| self.world.hosts[source].member.as_str());
        self.step(&format_args!("opens replication towards {name}")).await;
        let filter = Filter { installed: true, source, ..Filter::default() };
        self.change_network(filter);
    }

    async fn cut(&self, lost: usize) {
        self.step(&format_args!("cuts {} off", self.world.hosts[lost].member)).await;
        self.change_network(Filter { installed: true, source: None, cut: [lost].into() });
    }

    fn change_network(&self, filter: Filter) {
        let address = |host: &usize| self.world.hosts[*host].address.clone();
        self.state.borrow_mut().network = Network {
            installed: filter.installed,
            source: filter.source.map(|source| (address(&source), 5_432)),
            cut: filter.cut.iter().map(address).collect(),
        };
        *self.here().filter.borrow_mut() = filter;
    }
}
