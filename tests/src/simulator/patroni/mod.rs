//! Patroni 4.1 in quorum mode: its loop, its lock, its race, its failsafe. What it does to PostgreSQL is in [`roles`], how
//! it keeps `/sync` in [`sync`] and [`quorum`].
//!
//! It knows the cluster from a cache that its watch fills, and writes from cached versions, as the real one does; where
//! the real one is more careful than this one, this one may do more harm, and must not succeed in it.

mod hand_over;
mod quorum;
mod race;
mod roles;
mod sync;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use holdfast_agent_core::cluster::Cluster;
use holdfast_store::{Compare, StoreError, Write};
use holdfast_types::MemberName;
use serde_json::json;

use super::etcd::{Client, Mirror};
use super::executor::{ProcessId, ms, wait};
use super::world::{Host, Sim, World};

/// Patroni waits this long for etcd in one call.
const CALL_DEADLINE_US: u64 = ms(2_500);

/// One start of Patroni.
pub struct Patroni {
    /// Its process.
    pub process: ProcessId,
    /// The hook that it has started: a process of its own.
    pub hook: RefCell<Option<ProcessId>>,
    world: Sim,
    host: usize,
    client: Client,
    mirror: Rc<Mirror>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    lease: i64,
    /// The lock was ours when it was looked at last.
    is_leader: bool,
    /// PostgreSQL ran as a primary under this Patroni.
    was_primary: bool,
    /// A start of PostgreSQL was tried last.
    recovering: bool,
    /// `pg_ctl promote` is on its way: it can no longer be called back.
    promotes: bool,
    /// The lock was given back after the hook refused.
    released_us: Option<u64>,
    /// Members that have caught up since they were named in the setting.
    ready: BTreeSet<MemberName>,
    /// Where the writer stood when the setting was changed.
    setting_changed_at: usize,
    /// What our member key says.
    published: String,
    /// Members that were seen last: whom failsafe asks.
    known: BTreeSet<usize>,
    leader_mod_revision: i64,
    failover_mod_revision: i64,
    /// It stops PostgreSQL by an order to hand over.
    demoting: bool,
}

/// etcd did not answer.
struct DcsError;

impl From<StoreError> for DcsError {
    fn from(_: StoreError) -> Self {
        Self
    }
}

impl World {
    /// Starts Patroni on a host.
    pub fn start_patroni(self: &Rc<Self>, host: usize) {
        let process = self.executor.process();
        let patroni = Rc::new(Patroni {
            process,
            hook: RefCell::default(),
            world: Rc::clone(self),
            host,
            client: Client::new(self, host, CALL_DEADLINE_US),
            mirror: Mirror::start(self, host, process),
            state: RefCell::default(),
        });
        *self.hosts[host].patroni.borrow_mut() = Some(Rc::clone(&patroni));
        self.executor.spawn(process, async move { patroni.run().await });
    }

    /// `kill -9` of Patroni alone; its hook, a child, lives on.
    pub fn end_patroni(&self, host: usize) {
        if let Some(patroni) = self.hosts[host].patroni.borrow_mut().take() {
            self.executor.end(patroni.process);
        }
    }

    /// Ends everything in the cgroup of an instance: Patroni, its hook, PostgreSQL.
    pub fn end_instance(self: &Rc<Self>, host: usize) {
        let hook = self.hosts[host].patroni.borrow().as_ref().and_then(|patroni| *patroni.hook.borrow());
        if let Some(hook) = hook {
            self.executor.end(hook);
        }
        self.end_patroni(host);
        self.end_postgres(host, false);
    }
}

impl Patroni {
    fn here(&self) -> &Host {
        &self.world.hosts[self.host]
    }

    fn me(&self) -> &MemberName {
        &self.here().member
    }

    fn say(&self, what: &dyn std::fmt::Display) {
        self.world.say(&format_args!("{}.patroni", self.me()), what);
    }

    async fn run(self: Rc<Self>) {
        self.world.pause(ms(100), ms(600)).await;
        loop {
            let told = self.mirror.told.count();
            if self.cycle().await.is_err() {
                self.dcs_failed().await;
            }
            self.rest(told).await;
        }
    }

    /// Until `loop_wait` is over, or the leader key has changed.
    async fn rest(&self, mut told: u64) {
        let executor = &self.world.executor;
        let until_us = executor.now_us() + ms(self.world.setup.loop_wait_ms);
        loop {
            let left_us = until_us.saturating_sub(executor.now_us());
            let leader = self.mirror.cluster().leader_key.as_ref().map_or(0, |leader| leader.mod_revision);
            let order = self.mirror.cluster().failover_mod_revision;
            let (known, known_order) = {
                let state = self.state.borrow();
                (state.leader_mod_revision, state.failover_mod_revision)
            };
            if left_us == 0 || leader != known || order != known_order {
                return;
            }
            wait(executor, left_us, &[(&self.mirror.told, told)]).await;
            told = self.mirror.told.count();
        }
    }

    fn has_lock(&self) -> bool {
        self.mirror.cluster().leader_key.as_ref().is_some_and(|leader| leader.value == *self.me())
    }

    async fn cycle(self: &Rc<Self>) -> Result<(), DcsError> {
        let cluster = self.mirror.cluster();
        {
            let mut state = self.state.borrow_mut();
            state.leader_mod_revision = cluster.leader_key.as_ref().map_or(0, |leader| leader.mod_revision);
            state.failover_mod_revision = cluster.failover_mod_revision;
        }
        if !self.mirror.connected.get() {
            return Err(DcsError);
        }
        let known = cluster.members.keys().filter_map(|member| self.world.host_of(member));
        self.state.borrow_mut().known = known.map(|host| host.index).collect();
        self.touch_member().await?;
        if self.is_promoting() {
            return self.watch_over_promotion().await;
        }
        if self.state.borrow().demoting {
            return self.watch_over_hand_over().await;
        }
        let paused = cluster.paused() == Some(true);
        let Some(postmaster) = self.here().postmaster() else {
            return if paused { Ok(()) } else { self.without_postgres(&cluster).await };
        };
        if !postmaster.live.borrow().accepts {
            if self.has_lock() {
                self.update_lock().await?;
            }
            return Ok(());
        }
        self.state.borrow_mut().recovering = false;
        if postmaster.is_primary() {
            self.state.borrow_mut().was_primary = true;
        }
        match &cluster.leader_key {
            None => self.race(&cluster, paused).await,
            Some(leader) if leader.value == *self.me() => self.lead(&cluster, paused).await,
            Some(leader) => {
                self.state.borrow_mut().is_leader = false;
                if paused {
                    return Ok(());
                }
                self.follow(Some(&leader.value.clone())).await;
                Ok(())
            }
        }
    }

    /// Keeps the member key on our lease.
    async fn touch_member(&self) -> Result<(), DcsError> {
        self.refresh_lease().await?;
        let state = self.postgres_state();
        let value = json!({
            "conn_url": format!("postgres://{}:5432/postgres", self.here().address),
            "state": state,
        });
        let value = format!("{value}{}", self.state.borrow().lease);
        if self.state.borrow().published == value && self.mirror.cluster().members.contains_key(self.me()) {
            return Ok(());
        }
        let lease = self.state.borrow().lease;
        let bytes = value.trim_end_matches(|letter: char| letter.is_ascii_digit()).as_bytes().to_vec();
        let key = self.world.keys.patroni_member(self.me());
        self.client.transact(Vec::new(), vec![Write::Put { key, value: bytes, lease }]).await?;
        self.state.borrow_mut().published = value;
        Ok(())
    }

    fn postgres_state(&self) -> &'static str {
        match self.here().postmaster() {
            None => "stopped",
            Some(postmaster) if !postmaster.live.borrow().accepts => "starting",
            Some(postmaster) if postmaster.live.borrow().receiver.is_some() => "streaming",
            Some(_) => "running",
        }
    }

    /// Returns whether the lease is another one than before.
    async fn refresh_lease(&self) -> Result<bool, DcsError> {
        let lease = self.state.borrow().lease;
        if lease != 0 {
            match self.client.keep_alive(lease).await {
                Ok(_) => return Ok(false),
                Err(StoreError::LeaseNotFound { .. }) => {}
                Err(_) => return Err(DcsError),
            }
        }
        let ttl_s = i64::try_from(self.world.setup.ttl_ms / 1_000).expect("seconds");
        let lease = self.client.grant(ttl_s).await?;
        self.state.borrow_mut().lease = lease;
        Ok(true)
    }

    /// Patroni's `_update_leader`: with an unchanged lease it does not look at the key.
    async fn update_lock(&self) -> Result<bool, DcsError> {
        if !self.refresh_lease().await? {
            return Ok(true);
        }
        let (key, lease) = (self.world.keys.patroni_leader(), self.state.borrow().lease);
        let value = self.me().as_str().as_bytes().to_vec();
        let put = Write::Put { key: key.clone(), value: value.clone(), lease };
        let ours = vec![Compare::Value { key: key.clone(), is: value }];
        if self.client.transact(ours, vec![put.clone()]).await? {
            return Ok(true);
        }
        Ok(self.client.transact(vec![Compare::CreateRevision { key, is: 0 }], vec![put]).await?)
    }

    /// The lock is ours.
    async fn lead(self: &Rc<Self>, cluster: &Cluster, paused: bool) -> Result<(), DcsError> {
        let postmaster = self.here().postmaster();
        let is_primary = postmaster.as_ref().is_some_and(|one| one.is_primary());
        if paused && !is_primary {
            return self.release().await;
        }
        if !self.update_lock().await? {
            self.state.borrow_mut().is_leader = false;
            if is_primary && !paused {
                self.demote("the lock cannot be updated").await;
            }
            return Ok(());
        }
        self.state.borrow_mut().is_leader = true;
        if is_primary {
            if self.begin_hand_over().await? {
                return Ok(());
            }
            self.write_history().await?;
            return self.process_quorum_replication(cluster).await;
        }
        self.begin_promotion(cluster).await;
        Ok(())
    }

    /// `/history`: what a former leader compares its timeline with.
    async fn write_history(&self) -> Result<(), DcsError> {
        let key = format!("{}history", self.world.keys.patroni_prefix());
        let value = self.here().data.borrow().timeline.to_string().into_bytes();
        if self.mirror.patroni_key(&key).is_none_or(|pair| pair.value != value) {
            self.client.transact(Vec::new(), vec![Write::put(key, value)]).await?;
        }
        Ok(())
    }

    fn cluster_timeline(&self) -> u32 {
        let key = format!("{}history", self.world.keys.patroni_prefix());
        let pair = self.mirror.patroni_key(&key);
        pair.and_then(|pair| String::from_utf8(pair.value).ok()?.parse().ok()).unwrap_or(0)
    }

    async fn release(&self) -> Result<(), DcsError> {
        self.say(&"gives the lock back");
        let key = self.world.keys.patroni_leader();
        let is = self.me().as_str().as_bytes().to_vec();
        self.client
            .transact(vec![Compare::Value { key: key.clone(), is }], vec![Write::Delete { key }])
            .await?;
        let mut state = self.state.borrow_mut();
        (state.is_leader, state.released_us) = (false, Some(self.world.executor.now_us()));
        Ok(())
    }
}
