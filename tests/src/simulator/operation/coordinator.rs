//! `holdfast coordinator`: `coordinator/src/daemon/leader.rs` and `driver.rs`, step by step, around the real decisions.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use holdfast_coordinator_core::drain::{self, Effect};
use holdfast_coordinator_core::observation::Observation;
use holdfast_coordinator_core::request::{self, Taken, Taker};
use holdfast_coordinator_core::step::{self, Step};
use holdfast_store::{Compare, Read, StoreError, Write};
use holdfast_types::preflight::{OPERATIONS, OpenTransactions, Preflight, StandbyPreflight, WriterPreflight};
use holdfast_types::record::{
    CoordinatorRecord, OperationPhase, OperationRecord, OperationState, Stored, Wanted,
};
use holdfast_types::{MemberName, keys};

use super::view::{Asked, ClusterView, next_number, observe, running};
use super::{Place, clock_ms, wall_ms};
use crate::simulator::etcd::{Client, Mirror};
use crate::simulator::executor::{ProcessId, Signal, ms, wait};
use crate::simulator::mutant::Mutant;
use crate::simulator::world::Sim;

const TTL_S: i64 = 5;
const RENEW_US: u64 = ms(1_000);
const TICK_US: u64 = ms(500);
const CALL_DEADLINE_US: u64 = ms(1_000);
/// An agent that does not say in this time how it stands is not waited for.
const PREFLIGHT_DEADLINE_US: u64 = ms(2_000);

struct Coordinator {
    world: Sim,
    at: usize,
    process: ProcessId,
    client: Client,
    mirror: Rc<Mirror>,
    key: String,
    lead: Cell<Option<i64>>,
    lead_told: Rc<Signal>,
    since: Cell<Option<(u64, OperationPhase, u64)>>,
}

/// Starts the one of a host.
pub(super) fn start(world: &Sim, at: usize) -> ProcessId {
    let process = world.executor.process();
    let number = world.outside.places[at].number;
    let coordinator = Rc::new(Coordinator {
        world: Rc::clone(world),
        at,
        process,
        client: Client::new(world, number, CALL_DEADLINE_US),
        mirror: Mirror::start(world, number, process),
        key: keys::coordinator(&world.region),
        lead: Cell::new(None),
        lead_told: Signal::new(&world.executor),
        since: Cell::new(None),
    });
    coordinator.say(&"starts");
    world.executor.spawn(process, Rc::clone(&coordinator).stand());
    world.executor.spawn(process, coordinator.drive());
    process
}

impl Coordinator {
    fn place(&self) -> &Place {
        &self.world.outside.places[self.at]
    }

    fn say(&self, what: &dyn std::fmt::Display) {
        self.world.say(&self.place().name, what);
    }

    fn set_lead(&self, lead: Option<i64>) {
        if self.lead.replace(lead) != lead {
            self.say(&if lead.is_some() { "works now" } else { "works no longer" });
            self.lead_told.raise();
        }
    }

    async fn stand(self: Rc<Self>) {
        loop {
            if let Ok(lease) = self.client.grant(TTL_S).await {
                let _ = self.hold(lease).await;
                let _ = self.client.revoke(lease).await;
            }
            self.set_lead(None);
            self.world.executor.sleep(RENEW_US).await;
        }
    }

    async fn hold(&self, lease: i64) -> Result<(), StoreError> {
        let record = CoordinatorRecord {
            host: self.place().name.clone(),
            version: String::new(),
            since_wall_ms: wall_ms(&self.world),
        };
        let value = Stored::new(record).encode();
        loop {
            let sent_us = self.world.executor.now_us();
            let until_us = sent_us + ms(self.client.keep_alive(lease).await?);
            let found = self.client.read(vec![Read::Key(self.key.clone())]).await?;
            match found.get(&self.key) {
                None => {
                    let free = Compare::ModRevision { key: self.key.clone(), is: 0 };
                    let put = Write::Put { key: self.key.clone(), value: value.clone(), lease };
                    self.client.transact(vec![free], vec![put]).await?;
                    continue;
                }
                Some(pair) if pair.lease == lease => self.set_lead(Some(lease)),
                Some(_) => self.set_lead(None),
            }
            if self.world.executor.now_us() >= until_us {
                return Err(StoreError::LeaseNotFound { call: "coordinator" });
            }
            self.world.executor.sleep(RENEW_US).await;
        }
    }

    async fn drive(self: Rc<Self>) {
        loop {
            let (told, lead_told) = (self.mirror.told.count(), self.lead_told.count());
            match self.lead.get() {
                Some(lead) => {
                    if let Ok(true) = self.act(lead).await {
                        continue;
                    }
                }
                None => self.since.set(None),
            }
            let signals = [(&self.mirror.told, told), (&self.lead_told, lead_told)];
            wait(&self.world.executor, TICK_US, &signals).await;
        }
    }

    async fn act(&self, lead: i64) -> Result<bool, StoreError> {
        let reading = self.client.read(ClusterView::reads(&self.world.cluster)).await?;
        let view = ClusterView::new(self.world.cluster.clone(), &reading, wall_ms(&self.world));
        if view.operation.is_none() && view.operation_revision != 0 {
            return Ok(false);
        }
        if let Some(found) = running(&view)
            && self.go_on(lead, &view, &found.record).await?
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

    async fn go_on(
        &self,
        lead: i64,
        view: &ClusterView,
        stored: &Stored<OperationRecord>,
    ) -> Result<bool, StoreError> {
        let record = &stored.body;
        let now_ms = clock_ms(&self.world);
        let since_ms = match self.since.get() {
            Some((number, phase, since)) if (number, phase) == (record.number, record.phase) => since,
            _ => {
                self.since.set(Some((record.number, record.phase, now_ms)));
                now_ms
            }
        };
        let mut seen = self.observe(view, &BTreeMap::new());
        if step::asks(record, &seen) {
            let told = self.preflights(view).await;
            seen = self.observe(view, &told);
        }
        let mut next = step::step(record, &seen, now_ms - since_ms);
        let is_overtaken = matches!(next, Step::End { state: OperationState::Overtaken, .. });
        if is_overtaken && self.world.is_mutant(Mutant::NotOvertaken) {
            next = Step::Wait;
        }
        let Some(after) = step::after(record, next, &self.place().name, wall_ms(&self.world)) else {
            return Ok(false);
        };
        let writes = self.store_operation(&stored.with_body(after));
        self.send(lead, view, Vec::new(), writes).await
    }

    async fn take(&self, lead: i64, view: &ClusterView, asked: &Asked) -> Result<bool, StoreError> {
        let Ok(intent) = &asked.intent else { return Ok(false) };
        let request =
            request::Request { user: asked.user.clone(), id: asked.id.clone(), intent: intent.body.clone() };
        let by =
            Taker { host: &self.place().name, number: next_number(view), now_wall_ms: wall_ms(&self.world) };
        let running = running(view);
        let told = match intent.body.wanted {
            Wanted::Switchover(_) | Wanted::Drain(_) | Wanted::Restart(_) if running.is_none() => {
                self.preflights(view).await
            }
            _ => BTreeMap::new(),
        };
        let seen = self.observe(view, &told);
        let taken = request::take(&request, running.map(|running| running.body()), &seen, by);
        let mut writes = vec![Write::Delete { key: asked.key.clone() }];
        match taken {
            Taken::Begins(record) => writes.extend(self.store_operation(&Stored::new(*record))),
            Taken::Ends(record) => {
                self.say(&format_args!("operation {} ends at once: {:?}", record.number, record.ended));
                self.world.outside.watch.ended_at_once(&record);
                writes.extend(self.effect(&record));
                writes.push(self.keep(&Stored::new(*record)));
            }
            Taken::Stops { other, request } => {
                let kept = running.map(|running| running.record.with_body((*other).clone()));
                writes.extend(self.store_operation(&kept.unwrap_or_else(|| Stored::new(*other))));
                writes.push(self.keep(&Stored::new(*request)));
            }
        }
        let compares = vec![Compare::ModRevision { key: asked.key.clone(), is: asked.revision }];
        self.send(lead, view, compares, writes).await
    }

    fn observe(&self, view: &ClusterView, told: &BTreeMap<MemberName, Preflight>) -> Observation {
        // Maintenance is not simulated.
        let suspended = (view.patroni.switch("pause") != Some(false)).then(|| "Patroni is paused".to_owned());
        observe(view, told, suspended)
    }

    /// What the agents say that are there: nothing is open, and there is room.
    async fn preflights(&self, view: &ClusterView) -> BTreeMap<MemberName, Preflight> {
        let world = &self.world;
        let members = view.members();
        let answers = |name: &MemberName| {
            let host = world.host_of(name)?;
            let here = self.place().number;
            let runs = |process| world.executor.lives(process) && !world.executor.is_frozen(process);
            let agent = host.agent.borrow().as_ref().is_some_and(|agent| runs(agent.process));
            let postgres = host.postmaster().filter(|one| runs(one.process) && one.live.borrow().accepts);
            (agent && world.connected(here, host.index)).then_some(())?;
            let in_recovery = postgres.map(|one| one.live.borrow().in_recovery);
            Some(Preflight {
                server_version_num: Some(150_018),
                data_free_bytes: Some(1 << 40),
                wal_free_bytes: Some(1 << 40),
                writer: (in_recovery == Some(false)).then(quiet),
                standby: (in_recovery == Some(true))
                    .then_some(StandbyPreflight { replay_bytes: Some(0), replay_paused: Some(false) }),
                operations: OPERATIONS.map(str::to_owned).to_vec(),
            })
        };
        world.pause(ms(1), ms(20)).await;
        if !members.iter().all(|name| answers(name).is_some()) {
            world.executor.sleep(PREFLIGHT_DEADLINE_US).await;
        }
        members.into_iter().filter_map(|name| answers(&name).map(|told| (name, told))).collect()
    }

    fn store_operation(&self, record: &Stored<OperationRecord>) -> Vec<Write> {
        let mut writes = vec![Write::put(self.world.keys.operation(), record.encode())];
        if !record.body.runs() {
            writes.push(self.keep(record));
            writes.extend(self.effect(&record.body));
        }
        writes
    }

    fn effect(&self, record: &OperationRecord) -> Option<Write> {
        let keys = &self.world.keys;
        Some(match drain::effect(record)? {
            Effect::Drained(node, mark) => Write::put(keys.drained(&node), Stored::new(mark).encode()),
            Effect::Undrained(node) => Write::Delete { key: keys.drained(&node) },
        })
    }

    fn keep(&self, record: &Stored<OperationRecord>) -> Write {
        Write::put(self.world.keys.ended_operation(record.body.number), record.encode())
    }

    async fn send(
        &self,
        lead: i64,
        view: &ClusterView,
        mut compares: Vec<Compare>,
        writes: Vec<Write>,
    ) -> Result<bool, StoreError> {
        let stall_us = self.world.outside.stalls_before_storing_us.take();
        if stall_us > 0 {
            self.say(&"stands still before it stores something");
            self.world.freeze_for(self.process, stall_us).await;
        }
        if !self.world.is_mutant(Mutant::StaleCoordinator) {
            compares.push(Compare::Lease { key: self.key.clone(), is: lead });
            compares
                .push(Compare::ModRevision { key: self.world.keys.operation(), is: view.operation_revision });
        }
        self.client.transact(compares, writes).await
    }
}

fn quiet() -> WriterPreflight {
    WriterPreflight {
        transactions: Some(OpenTransactions::default()),
        prepared_transactions: Some(0),
        lost_slots: Some(Vec::new()),
        ..WriterPreflight::default()
    }
}
