//! Who leads when nobody does, and when etcd is not heard: Patroni's race, and its failsafe.

use std::rc::Rc;

use holdfast_agent_core::cluster::Cluster;
use holdfast_store::{Compare, Write};

use super::{DcsError, Patroni};
use crate::simulator::executor::{ProcessId, ms};

impl Patroni {
    /// There is no leader.
    pub(super) async fn race(self: &Rc<Self>, cluster: &Cluster, paused: bool) -> Result<(), DcsError> {
        if !self.is_healthiest(cluster, paused) {
            if !paused {
                self.follow(None).await;
            }
            return Ok(());
        }
        let (key, lease) = (self.world.keys.patroni_leader(), self.state.borrow().lease);
        let put = Write::Put { key: key.clone(), value: self.me().as_str().as_bytes().to_vec(), lease };
        if self.client.transact(vec![Compare::CreateRevision { key, is: 0 }], vec![put]).await? {
            self.say(&"has acquired the lock");
            self.state.borrow_mut().is_leader = true;
            let is_primary = self.here().postmaster().is_some_and(|one| one.is_primary());
            if is_primary {
                return self.process_quorum_replication(cluster).await;
            }
            self.begin_promotion(&self.mirror.cluster()).await;
        } else if !paused {
            self.follow(None).await;
        }
        Ok(())
    }

    fn is_healthiest(&self, cluster: &Cluster, paused: bool) -> bool {
        let now_us = self.world.executor.now_us();
        let backs_off = |released_us: u64| now_us - released_us < ms(self.world.setup.ttl_ms);
        if self.state.borrow().released_us.is_some_and(backs_off) {
            return false;
        }
        let Some(postmaster) = self.here().postmaster().filter(|one| one.live.borrow().accepts) else {
            return false;
        };
        if let Some(decided) = self.decided_by_order(cluster) {
            return decided;
        }
        if postmaster.is_primary() {
            return self.here().data.borrow().timeline >= self.cluster_timeline();
        }
        if paused {
            return false;
        }
        let Some(sync) = cluster.sync.as_ref().filter(|sync| sync.leader.is_some()) else { return false };
        let mut voters = sync.sync_standby.clone();
        voters.extend(sync.leader.clone());
        let mut votes = if voters.contains(self.me()) { 0 } else { -1 };
        let mut ahead = 0;
        let length = self.here().data.borrow().wal.len();
        for voter in voters.iter().filter(|voter| *voter != self.me()) {
            let Some(other) = self.world.host_of(voter).filter(|other| self.hears_rest_of(other.index))
            else {
                continue;
            };
            let Some(running) = other.postmaster().filter(|one| one.live.borrow().accepts) else { continue };
            if running.is_primary() {
                return false;
            }
            if other.data.borrow().wal.len() > length {
                ahead += 1;
                if sync.leader.as_ref() != Some(voter) {
                    return false;
                }
            } else {
                votes += 1;
            }
        }
        let quorum = i64::try_from(sync.quorum).unwrap_or(i64::MAX);
        votes >= quorum || (ahead == 0 && sync.leader.as_ref() == Some(self.me()))
    }

    /// Whether another Patroni's REST API answers us, and its PostgreSQL it.
    pub(super) fn hears_rest_of(&self, other: usize) -> bool {
        let host = &self.world.hosts[other];
        let runs = |process: ProcessId| !self.world.executor.is_frozen(process);
        let patroni = host.patroni.borrow().as_ref().is_some_and(|patroni| runs(patroni.process));
        let postgres = host.postmaster().is_some_and(|postmaster| runs(postmaster.process));
        patroni && postgres && self.world.connected(self.host, other) && !self.is_cut_off(other)
    }

    /// Our table, or theirs, rejects the REST port too.
    fn is_cut_off(&self, other: usize) -> bool {
        let cut = |at: usize, from: usize| self.world.hosts[at].filter.borrow().cut.contains(&from);
        cut(self.host, other) || cut(other, self.host)
    }

    /// etcd is out of reach: a leader goes on if all the others say so.
    pub(super) async fn dcs_failed(self: &Rc<Self>) {
        let is_primary = self.here().postmaster().is_some_and(|one| one.is_primary());
        if !is_primary || self.mirror.cluster().paused() == Some(true) {
            return;
        }
        self.world.pause(ms(1), ms(200)).await;
        let known = self.state.borrow().known.clone();
        let all = known.iter().all(|other| {
            let host = &self.world.hosts[*other];
            let answers = host
                .patroni
                .borrow()
                .as_ref()
                .is_some_and(|patroni| !self.world.executor.is_frozen(patroni.process));
            let other_is_primary =
                *other != self.host && host.postmaster().is_some_and(|one| one.is_primary());
            *other == self.host || (answers && !other_is_primary && self.world.connected(self.host, *other))
        });
        if !self.state.borrow().is_leader || !all {
            self.demote("etcd is not heard and not every member agrees").await;
        }
    }
}
