//! What the agent sees of its own host, and what its PostgreSQL answers it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use holdfast_agent_core::attest::ControlState;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::{AfterStop, Network, Postgres, term_in_force};
use holdfast_agent_core::sync::AnySetting;
use holdfast_types::record::Reign;
use holdfast_types::{Lsn, MemberName, Mode, Position, Timeline};

use super::{Agent, Done, Failed};
use crate::simulator::executor::{ProcessId, ms};
use crate::simulator::mutant::Mutant;
use crate::simulator::postgres::{Control, Postmaster, SyncNames, lsn};

const QUIET_TICKS: u32 = 5;
const SQL_DEADLINE_US: u64 = ms(1_000);
const FOLLOWERS_DEADLINE_US: u64 = ms(300);

/// What is carried from look to look.
#[derive(Default)]
pub struct Eyes {
    /// The postmaster that was seen last.
    pub postmaster: Option<Rc<Postmaster>>,
    patroni: Option<ProcessId>,
    looks: u32,
    revision: i64,
}

/// `StandbyState` of `agent/src/member/sql.rs`.
pub struct Standby {
    /// `pg_last_wal_receive_lsn()`.
    pub received: Option<Lsn>,
    /// `pg_last_wal_replay_lsn()`.
    pub replayed: Option<Lsn>,
    /// `received_tli`.
    pub received_timeline: Option<Timeline>,
    /// Of the control file.
    pub control_timeline: Timeline,
    /// By the names of the WAL files.
    pub timeline_on_disk: Timeline,
    /// The startup process waits.
    pub waits_for_wal: bool,
    /// A walreceiver streams.
    pub streaming: bool,
    /// When something came last.
    pub heard_us: u64,
}

/// `WriterState` of the same file.
pub struct Writer {
    /// `pg_current_wal_flush_lsn()`.
    pub flushed: Position,
    /// The setting, if it is `ANY`.
    pub setting: Option<AnySetting>,
    /// What each standby reports.
    pub standbys: BTreeMap<MemberName, Position>,
}

impl Agent {
    pub(super) async fn look(&self, eyes: &mut Eyes, cluster: &Cluster) {
        self.look_at_network();
        let changed = cluster.revision != eyes.revision;
        eyes.revision = cluster.revision;
        eyes.looks = eyes.looks.wrapping_add(1);
        let needs_id = {
            let state = self.state.borrow();
            state.remembered.mode == Mode::Armed && state.data_uuid.is_none()
        };
        let postmaster = self.here().postmaster();
        let patroni = self.here().patroni.borrow().as_ref().map(|patroni| patroni.process);
        let number = |one: &Option<Rc<Postmaster>>| one.as_ref().map(|one| one.number);
        let glance = postmaster.is_some()
            && patroni.is_some()
            && number(&postmaster) == number(&eyes.postmaster)
            && patroni == eyes.patroni;
        let thorough = eyes.looks % QUIET_TICKS == 1 || needs_id;
        if thorough || !glance {
            self.look_at_disk().await;
        }
        if postmaster.is_some() && number(&postmaster) != number(&eyes.postmaster) {
            let mut state = self.state.borrow_mut();
            (state.killed, state.postgres, state.reached) = (false, None, None);
        }
        let stopped = patroni.is_some_and(|process| self.world.executor.is_frozen(process));
        {
            let mut state = self.state.borrow_mut();
            (state.patroni_alive, state.patroni_hung) = (patroni.is_some() && !stopped, stopped);
        }
        (eyes.postmaster, eyes.patroni) = (postmaster.clone(), patroni);
        if postmaster.is_none() {
            if self.here().single_user.get() {
                // A process without a postmaster's file: neither can be told.
                let mut state = self.state.borrow_mut();
                (state.postgres, state.streaming, state.after_stop) = (Some(Postgres::Unknown), None, None);
                return;
            }
            {
                let mut state = self.state.borrow_mut();
                (state.postgres, state.streaming) = (Some(Postgres::Gone), Some(false));
                state.stream_lost_ms = None;
            }
            return self.look_after_stop(cluster).await;
        }
        self.state.borrow_mut().after_stop = None;
        let unsettled = {
            let state = self.state.borrow();
            !matches!(state.postgres, Some(Postgres::Running { in_recovery: Some(_) }))
                || state.streaming != Some(true)
        };
        if changed || thorough || unsettled || self.promotion_is_due(cluster) {
            self.ask_postgres(cluster).await;
        }
    }

    fn look_at_network(&self) {
        let filter = self.here().filter.borrow();
        let address = |host: usize| self.world.hosts[host].address.clone();
        if self.world.is_mutant(Mutant::PromiseWithoutCut) && self.state.borrow().phase.is_some() {
            let (source, mut state) = (filter.source, self.state.borrow_mut());
            let cut = source.map(address).into_iter().collect();
            state.network = Network { installed: true, source: None, cut };
            return;
        }
        self.state.borrow_mut().network = Network {
            installed: filter.installed,
            source: filter.source.map(|source| (address(source), 5_432)),
            cut: filter.cut.iter().map(|host| address(*host)).collect(),
        };
    }

    async fn look_at_disk(&self) {
        self.world.pause(100, ms(2)).await;
        let may_write = self.state.borrow().remembered.mode == Mode::Armed;
        let me = &self.here().member;
        let mut data = self.here().data.borrow_mut();
        let known = data.id_file.as_ref().filter(|(owner, _)| owner == me).map(|(_, id)| *id);
        let id = known.or_else(|| {
            (may_write && data.whole).then(|| {
                let id = self.world.next_number();
                data.id_file = Some((me.clone(), id));
                id
            })
        });
        let mut state = self.state.borrow_mut();
        state.started_as_primary = !data.standby_signal;
        state.data_uuid = id.map(|id| id.to_string());
    }

    fn promotion_is_due(&self, cluster: &Cluster) -> bool {
        let me = &self.here().member;
        term_in_force(cluster).is_some_and(
            |term| matches!(&term.value.reign, Reign::Open { holder, writable: false, .. } if holder == me),
        )
    }

    async fn ask_postgres(&self, cluster: &Cluster) {
        let in_recovery = self.is_in_recovery().await.ok();
        let (before, now) = {
            let mut state = self.state.borrow_mut();
            let before = state.accepts_writes();
            state.postgres = Some(Postgres::Running { in_recovery });
            (before, state.accepts_writes())
        };
        if before != now {
            self.fence_wake.raise();
        }
        match in_recovery {
            Some(true) => {
                let Ok(standby) = self.standby().await else { return };
                let now_ms = self.now_ms();
                let reached = self.position(&standby).ok();
                let mut state = self.state.borrow_mut();
                state.stream_lost_ms = match (standby.streaming, state.streaming) {
                    (true, _) => None,
                    (false, Some(true)) => Some(now_ms),
                    (false, Some(false) | None) => state.stream_lost_ms,
                };
                state.streaming = Some(standby.streaming);
                state.reached = reached;
                if standby.received_timeline.is_some() {
                    state.received_timeline = standby.received_timeline;
                }
            }
            Some(false) => {
                {
                    let mut state = self.state.borrow_mut();
                    (state.streaming, state.reached) = (Some(true), None);
                }
                // A floor record is also due when a member's data have moved under an unchanged `/sync`.
                let recorded = cluster.floor.as_ref().map(|floor| floor.value.sync_mod_revision);
                let unread = self.state.borrow().setting.is_none();
                if unread || cluster.sync.as_ref().map(|sync| sync.mod_revision) != recorded {
                    let setting = self.setting().await.ok().flatten();
                    self.state.borrow_mut().setting = setting;
                }
            }
            None => self.state.borrow_mut().streaming = None,
        }
    }

    async fn look_after_stop(&self, cluster: &Cluster) {
        let me = &self.here().member;
        let ours = term_in_force(cluster).is_some_and(|term| term.value.open_holder() == Some(me));
        if !ours {
            self.state.borrow_mut().after_stop = None;
            return;
        }
        let control = {
            let data = self.here().data.borrow();
            match data.control {
                _ if !data.whole => ControlState::Other("unreadable".into()),
                Control::InProduction => ControlState::InProduction,
                Control::ShutDown => ControlState::ShutDown { end: data.end() },
                Control::InRecovery => ControlState::Other("in archive recovery".into()),
            }
        };
        let asked = |seen: &&AfterStop| seen.control == ControlState::InProduction;
        let known = self.state.borrow().after_stop.as_ref().filter(asked).map(|seen| seen.answering.clone());
        let mut answering = BTreeSet::new();
        if control == ControlState::InProduction {
            answering = known.unwrap_or_default();
            let more = self.followers(cluster, &answering).await;
            answering.extend(more);
        }
        let mut state = self.state.borrow_mut();
        let processes_gone = matches!(control, ControlState::ShutDown { .. }) || state.killed;
        state.after_stop = Some(AfterStop { processes_gone, control, answering });
    }

    /// `agent/src/member/followers.rs`: who answers in the moment of a crash.
    async fn followers(&self, cluster: &Cluster, known: &BTreeSet<MemberName>) -> BTreeSet<MemberName> {
        let world = &self.world;
        let follows = |host: &usize| {
            let facts = cluster.facts.get(&world.hosts[*host].member);
            facts.is_some_and(|facts| facts.streaming == Some(true) && cluster.agent_alive(&facts.host))
                && !known.contains(&world.hosts[*host].member)
        };
        let asked: Vec<usize> =
            (0..world.hosts.len()).filter(|host| *host != self.host && follows(host)).collect();
        let answers = |host: &usize| {
            let other = &world.hosts[*host];
            let frozen = |process| world.executor.is_frozen(process);
            let agent = other.agent.borrow().as_ref().is_some_and(|agent| !frozen(agent.process));
            let postgres = other.postmaster().filter(|one| !frozen(one.process));
            let accepts = postgres.is_some_and(|one| one.live.borrow().accepts);
            agent && accepts && world.connected(self.host, *host)
        };
        world.pause(200, ms(10)).await;
        if !asked.iter().all(answers) {
            world.executor.sleep(FOLLOWERS_DEADLINE_US).await;
        }
        asked.into_iter().filter(answers).map(|host| world.hosts[host].member.clone()).collect()
    }

    /// A statement on the local socket, within its deadline.
    pub(super) async fn sql(&self) -> Done<Rc<Postmaster>> {
        self.world.pause(80, 900).await;
        let (executor, started_us) = (&self.world.executor, self.world.executor.now_us());
        loop {
            let postmaster = self.here().postmaster().ok_or_else(|| Failed("PostgreSQL is gone".into()))?;
            if !postmaster.live.borrow().accepts {
                return Err("PostgreSQL is starting up".into());
            }
            if !executor.is_frozen(postmaster.process) {
                return Ok(postmaster);
            }
            if executor.now_us() - started_us >= SQL_DEADLINE_US {
                return Err("PostgreSQL did not answer".into());
            }
            executor.sleep(ms(50)).await;
        }
    }

    pub(super) async fn is_in_recovery(&self) -> Done<bool> {
        Ok(self.sql().await?.live.borrow().in_recovery)
    }

    /// What a standby has received and replayed; the wait is read before the positions.
    pub(super) async fn standby(&self) -> Done<Standby> {
        let postmaster = self.sql().await?;
        let live = postmaster.live.borrow();
        let data = self.here().data.borrow();
        Ok(Standby {
            received: live.received.map(lsn),
            replayed: Some(lsn(live.replayed)),
            received_timeline: live.received_timeline.map(Timeline),
            control_timeline: Timeline(data.control_timeline),
            timeline_on_disk: Timeline(data.timeline),
            waits_for_wal: live.waits_for_wal && live.replayed >= data.wal.len(),
            streaming: live.receiver.is_some(),
            heard_us: live.heard_us,
        })
    }

    pub(super) async fn setting(&self) -> Done<Option<AnySetting>> {
        Ok(any(&self.sql().await?.live.borrow().sync_names))
    }

    pub(super) async fn writer(&self) -> Done<Writer> {
        let postmaster = self.sql().await?;
        if !postmaster.is_primary() {
            return Err("recovery is in progress".into());
        }
        let flushed = self.here().data.borrow().end();
        let live = postmaster.live.borrow();
        let at = |length: usize| Position { timeline: flushed.timeline, lsn: lsn(length) };
        let standbys = live
            .senders
            .iter()
            .map(|(host, sender)| (self.world.hosts[*host].member.clone(), at(sender.flushed)))
            .collect();
        Ok(Writer { flushed, setting: any(&live.sync_names), standbys })
    }
}

fn any(names: &SyncNames) -> Option<AnySetting> {
    match names {
        SyncNames::Any(setting) => Some(setting.clone()),
        SyncNames::Empty | SyncNames::Anybody(_) => None,
    }
}
