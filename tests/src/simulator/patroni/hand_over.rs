//! `/failover`: an order to hand over, taken up by the leader, and what it means for a race without one.

use std::rc::Rc;

use holdfast_agent_core::cluster::Cluster;
use holdfast_store::{Compare, Write};
use holdfast_types::MemberName;

use super::{DcsError, Patroni};
use crate::simulator::executor::ms;

/// Patroni gives whoever is named this time to take the lock.
const AFTER_RELEASE_US: u64 = ms(2_000);

/// What stands in `/failover`.
struct Order {
    leader: Option<MemberName>,
    candidate: Option<MemberName>,
    mod_revision: i64,
}

impl Patroni {
    fn order(&self) -> Option<Order> {
        let pair = self.mirror.patroni_key(&self.world.keys.patroni_failover())?;
        let value: serde_json::Value = serde_json::from_slice(&pair.value).ok()?;
        let name = |field: &str| value[field].as_str().and_then(|text| MemberName::new(text).ok());
        let order =
            Order { leader: name("leader"), candidate: name("member"), mod_revision: pair.mod_revision };
        (order.leader.is_some() || order.candidate.is_some()).then_some(order)
    }

    /// The leader's part: whether it hands over now.
    pub(super) async fn begin_hand_over(self: &Rc<Self>) -> Result<bool, DcsError> {
        let Some(order) = self.order() else { return Ok(false) };
        let ours = order.leader.as_ref().is_none_or(|leader| leader == self.me());
        let other = order.candidate.as_ref().filter(|candidate| *candidate != self.me());
        let able = other.and_then(|name| self.world.host_of(name)).is_some_and(|host| {
            self.hears_rest_of(host.index) && host.postmaster().is_some_and(|one| one.live.borrow().accepts)
        });
        if ours && able {
            self.say(&format_args!("hands over to {:?}", order.candidate));
            self.world.obeys_order(self.host);
            self.state.borrow_mut().demoting = true;
            self.world.executor.spawn(self.process, Rc::clone(self).hand_over());
            return Ok(true);
        }
        self.say(&"cleans the failover key up");
        let key = self.world.keys.patroni_failover();
        let is = Compare::ModRevision { key: key.clone(), is: order.mod_revision };
        self.client.transact(vec![is], vec![Write::put(key, "{}")]).await?;
        Ok(false)
    }

    /// `demote('graceful')`, beside the loop.
    async fn hand_over(self: Rc<Self>) {
        self.world.pause(ms(100), ms(400)).await;
        self.world.shut_down(self.host);
        while self.here().postmaster().is_some() {
            self.world.executor.sleep(ms(20)).await;
        }
        let key = self.world.keys.patroni_leader();
        let is = self.me().as_str().as_bytes().to_vec();
        let ours = vec![Compare::Value { key: key.clone(), is }];
        let released = self.client.transact(ours, vec![Write::Delete { key }]).await;
        self.say(&format_args!("has stopped PostgreSQL; the lock was given up: {:?}", released.ok()));
        self.state.borrow_mut().is_leader = false;
        self.world.executor.sleep(AFTER_RELEASE_US).await;
        let mut state = self.state.borrow_mut();
        (state.demoting, state.was_primary) = (false, false);
        drop(state);
        self.here().data.borrow_mut().source = None;
    }

    /// While it is stopped: the lock is kept for as long as it is ours.
    pub(super) async fn watch_over_hand_over(&self) -> Result<(), DcsError> {
        if self.has_lock() {
            self.update_lock().await?;
        }
        Ok(())
    }

    /// Without a leader: whether the order decides that we lead, or that we do not. `None`: it decides nothing.
    pub(super) fn decided_by_order(&self, cluster: &Cluster) -> Option<bool> {
        let order = self.order()?;
        if order.leader.as_ref() == Some(self.me()) {
            return Some(false);
        }
        let candidate = order.candidate?;
        if candidate == *self.me() {
            let counts = cluster.sync.as_ref().is_some_and(|sync| sync.sync_standby.contains(self.me()));
            return counts.then_some(true);
        }
        let other = self.world.host_of(&candidate)?;
        self.hears_rest_of(other.index).then_some(false)
    }
}
