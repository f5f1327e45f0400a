//! How each kind of fault is done to a world, and healed.

use std::rc::Rc;

use holdfast_store::{Store, Write};

use super::{Fault, Kind};
use crate::simulator::executor::{ProcessId, ms};
use crate::simulator::ladder::DeadMan;
use crate::simulator::postgres::DataDir;
use crate::simulator::world::{ETCD, Filter, Host, Program, World};

impl World {
    pub(super) fn act(self: &Rc<Self>, fault: &Fault, host: usize) {
        let here = &self.hosts[host];
        match fault.kind {
            Kind::PowerCycle => self.power_off(host),
            Kind::HostFreeze => {
                here.frozen.set(true);
                here.processes().into_iter().for_each(|process| self.executor.freeze(process));
            }
            // As if a ttl had passed in which it was not heard.
            Kind::LockTaken => {
                if let Some(process) = frozen_by(fault.kind, here) {
                    self.executor.freeze(process);
                }
                if let Some(patroni) = self.truth().members.get(&here.member) {
                    let lease = patroni.lease;
                    let _ = self.apply(|store| store.revoke(lease));
                }
            }
            Kind::SessionLost => {
                self.end_agent(host);
                self.hold_down(host, Program::Agent, fault.for_us);
                let session = here.kept_session.get();
                if let Some((lease, _)) = session {
                    here.session_revoked.set(true);
                    let _ = self.apply(|store| store.revoke(lease));
                }
            }
            Kind::AgentKill => self.end_agent(host),
            Kind::AgentKillAtStep => here.crash_in.set(Some(fault.count)),
            Kind::AgentLosesRun => {
                self.end_agent(host);
                here.kept_session.set(None);
            }
            Kind::AgentDown => {
                self.end_agent(host);
                self.hold_down(host, Program::Agent, fault.for_us);
            }
            Kind::PatroniKill => self.end_patroni(host),
            Kind::PatroniDown => {
                self.end_patroni(host);
                self.hold_down(host, Program::Patroni, fault.for_us);
            }
            Kind::AgentFreeze | Kind::PatroniFreeze | Kind::PostgresFreeze => {
                if let Some(process) = frozen_by(fault.kind, here) {
                    self.executor.freeze(process);
                }
            }
            Kind::PostmasterKill => self.end_postgres(host, false),
            Kind::PostgresRestart => self.end_postgres(host, true),
            Kind::NftFlush => {
                *here.filter.borrow_mut() = Filter::default();
                here.dead_man.set(DeadMan::default());
            }
            Kind::GuardKill => self.end_guard(host),
            Kind::Reinit => self.lose_data(host),
            Kind::DiskFull => here.disk_full.set(true),
            Kind::StandbyLags => here.lag_us.set(ms(5 + 300 * u64::from(fault.count))),
            Kind::Pause => self.put_config(true),
            _ => self.act_on_wires(fault, host),
        }
    }

    /// Links, etcd, and what passes between.
    fn act_on_wires(&self, fault: &Fault, host: usize) {
        match fault.kind {
            Kind::EtcdDown => self.etcd.up.set(false),
            Kind::EtcdSlow => self.etcd.slow_us.set(ms(50 + 30 * u64::from(fault.count))),
            Kind::AnswersLost => drop(self.answers_lost.borrow_mut().insert(host)),
            Kind::WatchLate => self.watch_delay_us.borrow_mut()[host] = fault.for_us / 3,
            Kind::Duplicates => drop(self.duplicates.borrow_mut().insert(host)),
            Kind::CloseLate => self.close_late_us.set(ms(100 + 200 * u64::from(fault.count))),
            Kind::AnswersLate => {
                self.answers_late_us.borrow_mut()[host] = ms(300 + 20 * u64::from(fault.count))
            }
            kind => {
                let cut = self.links_of(kind, host, fault.peer);
                self.links_cut.borrow_mut().extend(cut);
            }
        }
    }

    pub(super) fn heal(self: &Rc<Self>, kind: Kind, host: usize, peer: usize) {
        let here = &self.hosts[host];
        match kind {
            Kind::PowerCycle => self.power_on(host),
            Kind::HostFreeze => {
                here.frozen.set(false);
                here.thawed_us.set(self.executor.now_us());
                here.processes().into_iter().for_each(|process| self.executor.thaw(process));
            }
            Kind::EtcdDown => self.etcd.up.set(true),
            Kind::EtcdSlow => self.etcd.slow_us.set(0),
            Kind::AnswersLost => drop(self.answers_lost.borrow_mut().remove(&host)),
            Kind::WatchLate => self.watch_delay_us.borrow_mut()[host] = 0,
            Kind::Duplicates => drop(self.duplicates.borrow_mut().remove(&host)),
            Kind::AnswersLate => self.answers_late_us.borrow_mut()[host] = 0,
            Kind::CloseLate => self.close_late_us.set(0),
            Kind::AgentKillAtStep => here.crash_in.set(None),
            Kind::AgentFreeze | Kind::PatroniFreeze | Kind::PostgresFreeze | Kind::LockTaken => {
                if let Some(process) = frozen_by(kind, here).filter(|_| !here.frozen.get()) {
                    self.executor.thaw(process);
                }
            }
            Kind::DiskFull => here.disk_full.set(false),
            Kind::StandbyLags => here.lag_us.set(0),
            Kind::Pause => self.put_config(false),
            _ => {
                for link in self.links_of(kind, host, peer) {
                    self.links_cut.borrow_mut().remove(&link);
                }
            }
        }
    }

    /// Ends every fault that still lasts.
    pub fn heal_all(self: &Rc<Self>) {
        self.say(&"FAULT", &"everything is healed");
        self.waiting_faults.borrow_mut().clear();
        self.links_cut.borrow_mut().clear();
        self.answers_lost.borrow_mut().clear();
        self.etcd.up.set(true);
        self.etcd.slow_us.set(0);
        self.watch_delay_us.borrow_mut().fill(0);
        self.duplicates.borrow_mut().clear();
        self.close_late_us.set(0);
        self.answers_late_us.borrow_mut().fill(0);
        for host in &self.hosts {
            host.crash_in.set(None);
            host.disk_full.set(false);
            host.lag_us.set(0);
            if host.frozen.replace(false) {
                host.thawed_us.set(self.executor.now_us());
            }
            host.processes().into_iter().for_each(|process| self.executor.thaw(process));
            for program in &host.held_down_us {
                program.set(0);
            }
            self.power_on(host.index);
        }
        self.put_config(false);
        self.heal_outside();
    }

    fn links_of(&self, kind: Kind, host: usize, peer: usize) -> Vec<(usize, usize)> {
        let others = || (0..self.hosts.len()).chain([ETCD]).filter(move |other| *other != host);
        let outwards = || others().map(move |other| (host, other));
        let inwards = || others().map(move |other| (other, host));
        match kind {
            Kind::LinksCut => outwards().chain(inwards()).collect(),
            Kind::LinksCutOutwards => outwards().collect(),
            Kind::LinksCutInwards => inwards().collect(),
            Kind::PeersCut => outwards().chain(inwards()).filter(|(a, b)| *a != ETCD && *b != ETCD).collect(),
            Kind::PeerCut if peer != host => vec![(host, peer), (peer, host)],
            Kind::PeerCutOneWay if peer != host => vec![(host, peer)],
            Kind::EtcdCut => vec![(host, ETCD), (ETCD, host)],
            Kind::EtcdCutOneWay => vec![(ETCD, host)],
            _ => Vec::new(),
        }
    }

    fn hold_down(&self, host: usize, program: Program, for_us: u64) {
        self.hosts[host].held_down_us[program as usize].set(self.executor.now_us() + for_us);
    }

    /// A standby's data are thrown away, as `patronictl reinit` does; Patroni refuses it for whoever has the lock.
    fn lose_data(self: &Rc<Self>, host: usize) {
        let here = &self.hosts[host];
        if self.truth().leader_key.as_ref().is_some_and(|leader| leader.value == here.member) {
            return;
        }
        if self.writer() == host || here.postmaster().is_some_and(|postmaster| postmaster.is_primary()) {
            return;
        }
        self.end_postgres(host, true);
        *here.data.borrow_mut() = DataDir::new(false);
    }

    /// Patroni's dynamic configuration, written by a person.
    pub fn put_config(&self, paused: bool) {
        let (ttl, wait) = (self.setup.ttl_ms / 1_000, self.setup.loop_wait_ms / 1_000);
        // A coordinator goes by it.
        let class = self.setup.operations.as_ref().map_or("", |_| r#","synchronous_mode":"quorum""#);
        let value =
            format!(r#"{{"ttl":{ttl},"loop_wait":{wait},"pause":{paused},"failsafe_mode":true{class}}}"#);
        let present = self.truth().config.map(|config| config.paused);
        if present != Some(paused) {
            self.order(Write::put(self.keys.patroni_config(), value));
        }
    }

    /// A person's order: it arrives.
    pub fn order(&self, write: Write) {
        let txn = holdfast_store::Txn { writes: vec![write], ..Default::default() };
        self.apply(|store| store.txn(txn)).expect("a write without a lease is never refused");
    }
}

fn frozen_by(kind: Kind, host: &Host) -> Option<ProcessId> {
    match kind {
        Kind::AgentFreeze => host.agent.borrow().as_ref().map(|agent| agent.process),
        Kind::PatroniFreeze | Kind::LockTaken => {
            host.patroni.borrow().as_ref().map(|patroni| patroni.process)
        }
        _ => host.postmaster().map(|postmaster| postmaster.process),
    }
}
