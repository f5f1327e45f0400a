//! etcd as a program sees it over a network: the store crate's own in-memory implementation, which one conformance suite
//! holds to the real one, driven by simulated time; around it requests and answers that are late or lost.
//!
//! A request that is on its way arrives even if its sender has given up or has died: its outcome is unknown to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_agent_core::cluster::Cluster;
use holdfast_store::{
    BoxFuture, Compare, KeyValue, MemoryStore, Read, Reading, Store, StoreError, Txn, TxnOutcome, Write,
};
use holdfast_types::keys::{self, ClusterKeys};

use super::decode;
use super::executor::{Executor, ProcessId, Signal, ms, wait};
use super::world::{ETCD, Sim, World};

/// etcd ends leases in rounds of this length.
const LEASE_ROUND_US: u64 = ms(500);
/// A packet that finds its link cut is sent again this often, and forgotten after some time.
const RESEND_US: u64 = ms(200);
const RESENDS: u32 = 20;
/// A watch whose link is silent counts as heard for this long (`proto/store/src/etcd/link.rs`: ping interval and timeout).
const WATCH_SILENCE_US: u64 = ms(10_000);
/// Earlier values of `/sync` that a read looks up at most, as `agent/src/world/mod.rs` does.
const SYNC_HISTORY_MAX: usize = 32;

/// A view, by the revisions of our keys and of Patroni's.
type Decoded = ((i64, i64), Rc<Cluster>);

/// The servers, taken together.
pub struct Etcd {
    executor: Rc<Executor>,
    store: MemoryStore,
    advanced_us: Cell<u64>,
    /// It has a leader.
    pub up: Cell<bool>,
    /// Every write takes this much longer.
    pub slow_us: Cell<u64>,
    /// Raised at every change.
    pub changed: Rc<Signal>,
    snapshot: RefCell<Rc<Reading>>,
    decoded: RefCell<Vec<Decoded>>,
}

impl Etcd {
    /// An empty store.
    pub fn new(executor: &Rc<Executor>) -> Self {
        let snapshot = Reading { revision: 0, cluster_id: 0, pairs: Vec::new() };
        Self {
            executor: Rc::clone(executor),
            store: MemoryStore::with_manual_clock(),
            advanced_us: Cell::new(0),
            up: Cell::new(true),
            slow_us: Cell::new(0),
            changed: Signal::new(executor),
            snapshot: RefCell::new(Rc::new(snapshot)),
            decoded: RefCell::default(),
        }
    }

    fn advance(&self) {
        let now_us = self.executor.now_us();
        self.store.advance(Duration::from_micros(now_us - self.advanced_us.replace(now_us)));
    }

    /// What is there now.
    pub fn snapshot(&self) -> Rc<Reading> {
        Rc::clone(&self.snapshot.borrow())
    }

    /// The view of both prefixes, each at its revision.
    fn decode(&self, world: &World, ours: &Rc<Reading>, patronis: &Rc<Reading>) -> Rc<Cluster> {
        let at = (ours.revision, patronis.revision);
        let mut decoded = self.decoded.borrow_mut();
        if let Some((_, known)) = decoded.iter().rev().find(|(revisions, _)| *revisions == at) {
            return Rc::clone(known);
        }
        let of_patroni = |pair: &&KeyValue| pair.key.starts_with(world.keys.patroni_prefix());
        let pairs = ours.pairs.iter().filter(|pair| !of_patroni(pair));
        let pairs = pairs.chain(patronis.pairs.iter().filter(of_patroni));
        let revision = ours.revision.max(patronis.revision);
        let cluster = Rc::new(decode::cluster(&world.keys, &world.region, revision, pairs));
        if decoded.len() > 64 {
            decoded.drain(..32);
        }
        decoded.push((at, Rc::clone(&cluster)));
        cluster
    }
}

/// The in-memory store answers at once.
fn at_once<T>(mut future: BoxFuture<T>) -> T {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("the in-memory store never waits"),
    }
}

impl World {
    /// Runs one call on the store, as it arrives there.
    pub fn apply<T>(
        &self,
        call: impl FnOnce(&MemoryStore) -> BoxFuture<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.etcd.advance();
        let result = at_once(call(&self.etcd.store));
        self.publish();
        result
    }

    /// Tells watches and the checker what has changed.
    fn publish(&self) {
        let prefixes = [
            keys::sessions(&self.region),
            self.keys.prefix().to_owned(),
            self.keys.patroni_prefix().to_owned(),
        ];
        let known = self.etcd.snapshot.borrow().revision;
        // Revision first: a read of one absent key costs nothing.
        let Ok(head) = at_once(self.etcd.store.read(Vec::new())) else { return };
        if head.revision == known {
            return;
        }
        let reading = at_once(self.etcd.store.read(prefixes.into_iter().map(Read::Prefix).collect()));
        let reading = Rc::new(reading.expect("the in-memory store is never out of reach"));
        *self.etcd.snapshot.borrow_mut() = Rc::clone(&reading);
        let truth = self.etcd.decode(self, &reading, &reading);
        self.checker.saw(self, &truth);
        self.saw_operation(&truth);
        self.etcd.changed.raise();
    }

    /// The cluster as it is, which no program sees.
    pub fn truth(&self) -> Rc<Cluster> {
        let reading = self.etcd.snapshot();
        self.etcd.decode(self, &reading, &reading)
    }

    /// Ends leases as etcd does: in rounds.
    pub fn run_leases(self: &Rc<Self>) {
        let world = Rc::clone(self);
        self.executor.after(LEASE_ROUND_US, move || {
            if world.etcd.up.get() {
                world.etcd.advance();
                world.publish();
            }
            world.run_leases();
        });
    }

    fn send(self: &Rc<Self>, from: usize, to: usize, resends: u32, arrive: Box<dyn FnOnce(&Sim)>) {
        let world = Rc::clone(self);
        let delay_us = self.latency_us() + if to == ETCD { self.etcd.slow_us.get() } else { 0 };
        self.executor.after(if resends == RESENDS { delay_us } else { RESEND_US }, move || {
            if world.link(from, to) && world.etcd.up.get() {
                arrive(&world);
            } else if resends > 0 {
                world.send(from, to, resends - 1, arrive);
            }
        });
    }
}

/// A program's connection to etcd.
#[derive(Clone)]
pub struct Client {
    world: Sim,
    host: usize,
    deadline_us: u64,
}

type Answer<T> = Rc<RefCell<Option<Result<T, StoreError>>>>;

impl Client {
    /// A connection of a host whose calls end after `deadline_us`.
    pub fn new(world: &Sim, host: usize, deadline_us: u64) -> Self {
        Self { world: Rc::clone(world), host, deadline_us }
    }

    async fn call<T: 'static>(
        &self,
        name: &'static str,
        call: impl Fn(&MemoryStore) -> BoxFuture<Result<T, StoreError>> + 'static,
    ) -> Result<T, StoreError> {
        let answer: Answer<T> = Rc::default();
        let answered = Signal::new(&self.world.executor);
        let (slot, signal, host) = (Rc::clone(&answer), Rc::clone(&answered), self.host);
        let arrive = Rc::new(move |world: &Sim| {
            let result = world.apply(&call);
            if world.answers_lost.borrow().contains(&host) && world.random(0, 1) == 0 {
                return;
            }
            let (slot, signal) = (Rc::clone(&slot), Rc::clone(&signal));
            let back = move |_: &Sim| {
                // Of two answers the first one counts.
                slot.borrow_mut().get_or_insert(result);
                signal.raise();
            };
            let late_us = world.answers_late_us.borrow()[host];
            let (sender, back) = (Rc::clone(world), Box::new(back));
            world.executor.after(late_us, move || sender.send(ETCD, host, RESENDS, back));
        });
        if self.world.duplicates.borrow().contains(&host) {
            let (again, sender) = (Rc::clone(&arrive), Rc::clone(&self.world));
            let delay_us = self.world.random(0, ms(2_000));
            let arrive = Box::new(move |world: &Sim| again(world));
            self.world.executor.after(delay_us, move || sender.send(host, ETCD, RESENDS, arrive));
        }
        self.world.send(self.host, ETCD, RESENDS, Box::new(move |world: &Sim| arrive(world)));
        wait(&self.world.executor, self.deadline_us, &[(&answered, 0)]).await;
        let result = answer.borrow_mut().take();
        result.unwrap_or(Err(StoreError::DeadlineExceeded {
            call: name,
            deadline_ms: self.deadline_us / 1_000,
        }))
    }

    /// See [`Store::txn`].
    pub async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.call("txn", move |store| store.txn(txn.clone())).await
    }

    /// Comparisons and writes; whether it happened.
    pub async fn transact(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<bool, StoreError> {
        let outcome = self.txn(Txn { compares, writes, otherwise_read: Vec::new() }).await?;
        Ok(matches!(outcome, TxnOutcome::Succeeded { .. }))
    }

    /// See [`Store::grant`].
    pub async fn grant(&self, ttl_s: i64) -> Result<i64, StoreError> {
        self.call("grant", move |store| store.grant(ttl_s)).await
    }

    /// See [`Store::keep_alive`]; the lease's length in milliseconds.
    pub async fn keep_alive(&self, lease: i64) -> Result<u64, StoreError> {
        self.call("keep_alive", move |store| store.keep_alive(lease)).await.map(|renewal| renewal.ttl_ms)
    }

    /// See [`Store::revoke`].
    pub async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.call("revoke", move |store| store.revoke(lease)).await
    }

    /// See [`Store::remaining`].
    pub async fn remaining(&self, lease: i64) -> Result<Option<u64>, StoreError> {
        self.call("remaining", move |store| store.remaining(lease)).await
    }

    /// See [`Store::read`].
    pub async fn read(&self, what: Vec<Read>) -> Result<Reading, StoreError> {
        self.call("read", move |store| store.read(what.clone())).await
    }

    /// The cluster by a linearizable read, with the history of `/sync` that rule 2 needs: `World::read` of the agent.
    pub async fn cluster(&self) -> Result<Cluster, StoreError> {
        let world = &self.world;
        let what = [
            keys::sessions(&world.region),
            world.keys.prefix().to_owned(),
            world.keys.patroni_prefix().to_owned(),
        ];
        let reading = Rc::new(self.read(what.into_iter().map(Read::Prefix).collect()).await?);
        let mut cluster = (*world.etcd.decode(world, &reading, &reading)).clone();
        self.sync_history(&world.keys, &mut cluster).await?;
        Ok(cluster)
    }

    async fn sync_history(&self, keys: &ClusterKeys, cluster: &mut Cluster) -> Result<(), StoreError> {
        let (Some(floor), Some(sync)) = (&cluster.floor, &cluster.sync) else { return Ok(()) };
        let known = floor.value.sync_version;
        let (mut version, mut revision) = (sync.version, sync.mod_revision);
        while version > known + 1 && cluster.sync_history.len() < SYNC_HISTORY_MAX {
            let (key, before) = (keys.patroni_sync(), revision - 1);
            match self.call("read_at", move |store| store.read_at(key.clone(), before)).await {
                Ok(Some(pair)) => {
                    let Ok(older) = decode::sync(&pair) else { return Ok(()) };
                    (version, revision) = (older.version, older.mod_revision);
                    cluster.sync_history.push(older);
                }
                Ok(None) | Err(StoreError::Compacted { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What a program's watch has told it: late, and one prefix sometimes ahead of the other.
pub struct Mirror {
    /// Whether etcd counts as heard.
    pub connected: Cell<bool>,
    /// Raised at every change of what is known.
    pub told: Rc<Signal>,
    cluster: RefCell<Rc<Cluster>>,
    patroni: RefCell<Rc<Reading>>,
}

impl Mirror {
    /// Starts the watch of a program.
    pub fn start(world: &Sim, place: usize, process: ProcessId) -> Rc<Self> {
        let empty = Rc::new(Reading { revision: 0, cluster_id: 0, pairs: Vec::new() });
        let mirror = Rc::new(Self {
            connected: Cell::new(false),
            told: Signal::new(&world.executor),
            cluster: RefCell::default(),
            patroni: RefCell::new(Rc::clone(&empty)),
        });
        let (inner, watched) = (Rc::clone(world), Rc::clone(&mirror));
        world.executor.spawn(process, async move { watched.follow(inner, place, empty).await });
        mirror
    }

    /// The view of the cluster.
    pub fn cluster(&self) -> Rc<Cluster> {
        Rc::clone(&self.cluster.borrow())
    }

    /// One of Patroni's own keys.
    pub fn patroni_key(&self, key: &str) -> Option<KeyValue> {
        self.patroni.borrow().get(key).cloned()
    }

    async fn follow(self: Rc<Self>, world: Sim, host: usize, mut ours: Rc<Reading>) {
        let mut heard_us = world.executor.now_us();
        loop {
            let seen = world.etcd.changed.count();
            let snapshot = world.etcd.snapshot();
            if world.etcd.up.get() && world.connected(host, ETCD) {
                let late_us = world.watch_delay_us.borrow()[host];
                world.executor.sleep(world.latency_us() + late_us).await;
                if world.etcd.up.get() && world.link(ETCD, host) {
                    heard_us = world.executor.now_us();
                    let patroni_first = world.random(0, 9) == 0;
                    if patroni_first {
                        self.tell(&world, &ours, &snapshot);
                        world.pause(100, ms(20)).await;
                    }
                    ours = Rc::clone(&snapshot);
                    self.tell(&world, &ours, &snapshot);
                }
            } else if self.connected.get() {
                let silent_us = world.executor.now_us() - heard_us;
                if !world.etcd.up.get() || silent_us > WATCH_SILENCE_US {
                    self.connected.set(false);
                    self.told.raise();
                }
            }
            wait(&world.executor, ms(500), &[(&world.etcd.changed, seen)]).await;
        }
    }

    fn tell(&self, world: &World, ours: &Rc<Reading>, patronis: &Rc<Reading>) {
        let cluster = world.etcd.decode(world, ours, patronis);
        let same = self.connected.get() && Rc::ptr_eq(&cluster, &self.cluster.borrow());
        *self.patroni.borrow_mut() = Rc::clone(patronis);
        if !same {
            self.connected.set(true);
            *self.cluster.borrow_mut() = cluster;
            self.told.raise();
        }
    }
}
