//! `agent/src/member/suspect.rs`: signs of life of the writer of the open term.

use std::rc::Rc;

use holdfast_agent_core::detach::Life;
use holdfast_agent_core::member::{Suspicion, term_in_force};
use holdfast_agent_core::renewed::Renewed;
use holdfast_types::record::Reign;
use holdfast_types::{Lsn, Mode, SessionId};

use super::Agent;
use crate::simulator::executor::ms;

const PROBES_KEPT: usize = 4;
const PROBE_PAUSE_US: u64 = ms(100);

/// The writer that is being watched.
#[derive(Clone, Copy)]
struct Writer {
    host: usize,
    session: SessionId,
}

/// What was seen of one writer since its renewals were overdue.
#[derive(Default)]
struct Watching {
    last_sign: Option<(Option<Lsn>, u64)>,
    silent_since_ms: u64,
    probes: Vec<Life>,
    asked_ms: u64,
    session_at_zero_ms: Option<(u64, u64)>,
    renewed: Renewed,
}

impl Agent {
    pub(super) async fn suspect(self: Rc<Self>) {
        let interval_us = ms(self.world.setup.timings.renew_interval_ms().clamp(500, 1_000));
        loop {
            self.world.executor.sleep(interval_us).await;
            let Some(writer) = self.writer_to_watch() else { continue };
            if self.is_late(writer).await {
                self.state.borrow_mut().suspected_at_ms = Some(self.now_ms());
                self.watch_for_life(writer).await;
                let mut state = self.state.borrow_mut();
                state.suspicion = Suspicion::default();
                state.suspected_at_ms = None;
            }
        }
    }

    fn writer_to_watch(&self) -> Option<Writer> {
        if !self.mirror.connected.get() {
            return None;
        }
        let cluster = self.mirror.cluster();
        let Reign::Open { holder, session, .. } = &term_in_force(&cluster)?.value.reign else { return None };
        if *holder == self.here().member {
            return None;
        }
        let (address, _) = cluster.address(holder)?;
        Some(Writer { host: self.world.host_at(address)?, session: *session })
    }

    async fn is_late(&self, writer: Writer) -> bool {
        match self.client.remaining(writer.session.0).await {
            Ok(Some(left_ms)) => left_ms <= self.world.setup.timings.late_when_remaining_ms(),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Its PostgreSQL's port, and beside it its own agent: either will do.
    async fn probe(&self, writer: Writer, deadline_ms: u64) -> Life {
        let world = &self.world;
        let other = &world.hosts[writer.host];
        let began_us = world.executor.now_us();
        world.pause(200, ms(3)).await;
        loop {
            let frozen = |process| world.executor.is_frozen(process);
            let postgres = other.postmaster().filter(|one| !frozen(one.process));
            let passes = world.postgres_passes(self.host, writer.host, writer.host)
                && world.postgres_passes(writer.host, self.host, writer.host);
            if postgres.is_some() && passes {
                return Life::Alive;
            }
            let agent = other.agent.borrow().as_ref().is_some_and(|agent| !frozen(agent.process));
            let answers = postgres.as_ref().is_some_and(|one| one.live.borrow().accepts);
            if agent && answers && world.connected(self.host, writer.host) {
                return Life::Alive;
            }
            let refused = postgres.is_none() && other.postmaster().is_none() && passes;
            let agent_said_no = !agent || !world.connected(self.host, writer.host) || !answers;
            if (refused && agent_said_no) || world.executor.now_us() - began_us >= ms(deadline_ms) {
                return Life::None;
            }
            world.executor.sleep(ms(20)).await;
        }
    }

    async fn watch_for_life(&self, writer: Writer) {
        let timings = &self.world.setup.timings;
        let mut watching = Watching { silent_since_ms: self.now_ms(), ..Watching::default() };
        while self.writer_to_watch().is_some_and(|now| now.session == writer.session) {
            self.listen(&mut watching).await;
            let probe = self.probe(writer, timings.probe_deadline_ms()).await;
            if probe == Life::Alive {
                watching.silent_since_ms = self.now_ms();
            }
            watching.probes.push(probe);
            if watching.probes.len() > PROBES_KEPT {
                watching.probes.remove(0);
            }
            let silent_ms = self.now_ms().saturating_sub(watching.silent_since_ms);
            let probes = watching.probes.clone();
            let unrenewed_ms = watching.renewed.unrenewed_ms(self.now_ms());
            self.state.borrow_mut().suspicion = Suspicion { late: true, silent_ms, probes, unrenewed_ms };
            self.wake.raise();
            let silent = silent_ms >= timings.suspect_after_ms();
            if !self.is_still_late(writer, &mut watching, silent).await {
                return;
            }
            self.world.executor.sleep(PROBE_PAUSE_US).await;
        }
    }

    async fn listen(&self, watching: &mut Watching) {
        let Ok(standby) = self.standby().await else {
            watching.silent_since_ms = self.now_ms();
            return;
        };
        {
            let mut state = self.state.borrow_mut();
            state.received_timeline = standby.received_timeline.max(state.received_timeline);
        }
        let sign = Some((standby.received, standby.heard_us));
        if watching.last_sign.is_some() && watching.last_sign != sign {
            watching.silent_since_ms = self.now_ms();
            watching.probes.clear();
        }
        watching.last_sign = sign;
    }

    async fn is_still_late(&self, writer: Writer, watching: &mut Watching, silent: bool) -> bool {
        let now_ms = self.now_ms();
        if !silent && now_ms.saturating_sub(watching.asked_ms) < 1_000 {
            return true;
        }
        watching.asked_ms = now_ms;
        let left = self.client.remaining(writer.session.0).await;
        if let Ok(left_ms) = left {
            watching.renewed.answer(now_ms, self.now_ms(), left_ms, &self.world.setup.timings);
        }
        match left {
            Ok(Some(0)) => {
                let at_ms = self.now_ms();
                let seen_throughout = |(_, until_ms): &(u64, u64)| at_ms.saturating_sub(*until_ms) < 1_000;
                let since_ms =
                    watching.session_at_zero_ms.filter(seen_throughout).map_or(at_ms, |(since, _)| since);
                watching.session_at_zero_ms = Some((since_ms, at_ms));
                let run_out = at_ms.saturating_sub(since_ms) >= 1_000;
                let armed = self.state.borrow().remembered.mode == Mode::Armed;
                if silent && run_out && armed {
                    let _ = self.client.revoke(writer.session.0).await;
                }
                true
            }
            Ok(Some(left_ms)) => {
                watching.session_at_zero_ms = None;
                left_ms <= self.world.setup.timings.late_when_remaining_ms()
            }
            Ok(None) => true,
            Err(_) => {
                watching.session_at_zero_ms = None;
                true
            }
        }
    }
}
