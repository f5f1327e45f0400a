//! The agents: sessions, promises, floor records, CLOSE, OPEN.
//!
//! A transaction whose comparisons all hold is the same as one that reads and writes at a single moment, so CLOSE and
//! OPEN are single steps; only a mutant that leaves out a comparison needs the time in between.

use holdfast_agent_core::detach::{self, NextStep, NotNow, Progress};
use holdfast_types::{Lsn, Position, Timeline};

use super::action::Action;
use super::log::End;
use super::mutant::Mutant;
use super::node::{Node, NodeSet};
use super::product::Hook;
use super::state::{Configurations, Postgres, Promise, State};
use super::world::World;

impl World {
    pub(super) fn offer_agents(&self, state: &State, offered: &mut Vec<Action>) {
        for node in state.nodes().take(self.bounds.nodes).filter(|node| state.host(*node).up) {
            if !state.sessions.has(node) {
                offered.push(Action::SessionBack(node));
            } else if node == state.holder && state.spent.sessions < self.bounds.sessions {
                offered.push(Action::SessionLost(node));
            }
            if state.host(node).postgres == Postgres::Replica {
                offered.extend([Action::Leave(node), Action::Promise(node), Action::Withdraw(node)]);
                if self.is(Mutant::PositionBeforeCut) {
                    offered.push(Action::ReadEarly(node));
                }
            }
            if state.host(node).in_hook {
                offered.push(Action::Open(node));
            }
            if !state.open {
                offered.push(Action::NameNext(node));
            }
            if state.writes(node) && state.host(node).term < state.term {
                offered.push(Action::KillDeposed(node));
            }
        }
        if state.term < self.bounds.terms {
            offered.extend([Action::Close { eligible: true }, Action::Close { eligible: false }]);
            offered.extend([Action::Attest { clean: false }, Action::Attest { clean: true }]);
            offered.push(Action::WithdrawAttestation);
            if self.is(Mutant::SyncNotComparedAtClose) {
                offered.push(Action::CountEvidence);
            }
        }
        offered.extend([Action::BeginFloor, Action::PublishFloor, Action::DeleteStaleLock]);
    }

    pub(super) fn step_agents(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::SessionLost(node) => {
                state.sessions = state.sessions.without(node);
                state.spent.sessions += 1;
                Some(())
            }
            Action::SessionBack(node) => {
                state.sessions = state.sessions.with(node);
                Some(())
            }
            Action::Leave(node) => self.leave(state, node),
            Action::ReadEarly(node) => self.read_early(state, node),
            Action::Promise(node) => self.promise(state, node),
            Action::Withdraw(node) => self.withdraw(state, node),
            Action::Attest { clean } => attest(state, clean),
            Action::WithdrawAttestation => {
                state.attested.take()?;
                state.open.then_some(())
            }
            Action::BeginFloor => self.begin_floor(state),
            Action::PublishFloor => self.publish_floor(state),
            Action::CountEvidence => {
                state.evidence = Some(self.product.close(state, true)?.floor);
                Some(())
            }
            Action::Close { eligible } => self.close(state, eligible),
            Action::DeleteStaleLock => {
                let stale = !state.open && state.leader_key == Some(state.holder);
                stale.then(|| state.leader_key = None)
            }
            Action::NameNext(node) => {
                let may = !state.open && self.product.may_be_named(state, node);
                may.then(|| state.leader_key = Some(node))
            }
            Action::Open(node) => self.open(state, node),
            Action::KillDeposed(node) => {
                state.stop_postgres(node);
                state.open.then_some(())
            }
            _ => None,
        }
    }

    /// What the product asks for next, seen from a standby that leaves its writer.
    fn next_step(&self, state: &State, node: Node) -> NextStep {
        let host = state.host(node);
        let early = host.early.filter(|(term, _)| *term == state.term);
        let end = early.map_or(host.log.end(), |(_, end)| end);
        detach::next_step(&Progress {
            cut_in_place: host.cut,
            walreceiver_gone: host.upstream.is_none(),
            replay_settled: !host.replaying || self.is(Mutant::PositionWhileReplaying),
            position: Some(position(end)),
        })
    }

    fn leave(&self, state: &mut State, node: Node) -> Option<()> {
        self.product.may_promise(state, node).ok()?;
        if state.promise(node).is_some() {
            return None;
        }
        state.host_mut(node).left = state.term;
        loop {
            match self.next_step(state, node) {
                NextStep::Cut => state.host_mut(node).cut = true,
                NextStep::EndWalreceiver => state.host_mut(node).upstream = None,
                NextStep::WaitForReplay | NextStep::ReadPosition | NextStep::Persist(_) => return Some(()),
            }
        }
    }

    fn read_early(&self, state: &mut State, node: Node) -> Option<()> {
        self.product.may_promise(state, node).ok()?;
        let (term, end) = (state.term, state.host(node).log.end());
        state.host_mut(node).early = Some((term, end));
        Some(())
    }

    /// The last steps of rule 5; the transaction compares the term record.
    fn promise(&self, state: &mut State, node: Node) -> Option<()> {
        if !state.open || state.host(node).left != state.term || state.promise(node).is_some() {
            return None;
        }
        let NextStep::Persist(at) = self.next_step(state, node) else { return None };
        let mut end = End { timeline: at.timeline.0 as u8, length: at.lsn.0 as u8 };
        if state.host(node).replaying {
            // Only a mutant comes here: replay stands before the last record that was flushed and acknowledged.
            end = state.host(node).log.cut(end.length.saturating_sub(1)).end();
        }
        state.promises[node.index()] = Some(Promise { term: state.term, end, of_present_data: true });
        state.host_mut(node).early = None;
        Some(())
    }

    fn withdraw(&self, state: &mut State, node: Node) -> Option<()> {
        if state.host(node).left != state.term {
            return None;
        }
        let alone = self.is(Mutant::WithdrawnAlone);
        if !alone {
            let in_office = self.product.may_promise(state, node) == Err(NotNow::NothingWrong);
            if !(in_office && state.open && state.writers_session()) {
                return None;
            }
            state.promises[node.index()] = None;
        }
        let host = state.host_mut(node);
        host.left = 0;
        host.cut = false;
        let follows = alone && state.open && state.writes(state.holder);
        if follows && state.host(node).log.begins(&state.host(state.holder).log) {
            state.host_mut(node).upstream = Some(state.holder);
        }
        Some(())
    }

    fn begin_floor(&self, state: &mut State) -> Option<()> {
        let writer = state.holder;
        let reigns = state.open && state.writes(writer) && state.host(writer).term == state.term;
        // In its first loop Patroni takes the old leader for a voter: the record waits until /sync is the writer's.
        if !reigns || !state.writers_session() || !self.product.floor_may_begin(state) {
            return None;
        }
        state.floor_begun = Some(state.host(writer).log.end());
        Some(())
    }

    fn publish_floor(&self, state: &mut State) -> Option<()> {
        let floor = state.floor_begun?;
        let (writer, session) = (state.holder, state.writers_session());
        if !state.open || !session || !self.product.floor_may_be_published(state, floor) {
            return None;
        }
        state.floor = floor;
        state.floor_begun = None;
        state.in_force = Configurations::only(state.sync.counted(writer));
        for node in state.nodes() {
            state.host_mut(node).data_replaced = false;
        }
        Some(())
    }

    fn close(&self, state: &mut State, eligible: bool) -> Option<()> {
        let others = NodeSet::first(self.bounds.nodes).without(state.holder);
        if !others.iter().any(|node| state.host(node).up) {
            return None;
        }
        if self.is(Mutant::NotClosedAgain) && !state.open {
            return None;
        }
        let closed = self.close_as_mutated(state, eligible)?;
        state.open = false;
        state.closed_floor = closed.floor;
        state.timeline = closed.timeline;
        state.leader_key = closed.leader_key;
        state.sync_is_closes = true;
        state.attested = None;
        state.evidence = None;
        state.floor_begun = None;
        if !self.is(Mutant::SyncNotBumped) {
            for node in state.nodes() {
                state.host_mut(node).sync_is_cached = false;
            }
            state.sync_on_its_way = None;
        }
        Some(())
    }

    fn close_as_mutated(&self, state: &State, eligible: bool) -> Option<super::product::Closed> {
        use super::product::Closed;
        let timeline = state.timeline;
        let without_holder = state.leader_key.filter(|leader| *leader != state.holder);
        match self.mutant {
            Some(Mutant::SessionAlone) if state.open && !state.writers_session() => {
                Some(Closed { floor: End::default(), leader_key: without_holder, timeline })
            }
            Some(Mutant::SyncNotComparedAtClose) if state.open => {
                Some(Closed { floor: state.evidence?, leader_key: without_holder, timeline })
            }
            _ => self.product.close(state, eligible),
        }
    }

    fn open(&self, state: &mut State, node: Node) -> Option<()> {
        if state.host(node).postgres != Postgres::Replica || !state.sessions.has(node) {
            return None;
        }
        let own = state.host(node).log.end();
        let reserved = match self.product.hook(state, node) {
            Hook::No => return None,
            Hook::AlreadyOpen => {
                let held = self.product.held(own, state.timeline);
                let term = state.term;
                let host = state.host_mut(node);
                (host.allowed, host.held) = (term, held);
                return Some(());
            }
            Hook::Reserves(reserved) => {
                state.timeline = reserved;
                return Some(());
            }
            Hook::Opens(reserved) => reserved,
        };
        if state.term >= self.bounds.terms {
            return None;
        }
        state.term += 1;
        state.holder = node;
        state.open = true;
        state.closed_floor = End::default();
        state.sync_is_closes = false;
        state.timeline = reserved;
        state.floor = own;
        state.floor_begun = None;
        state.evidence = None;
        state.in_force = Configurations::only(state.sync.counted(node));
        for other in state.nodes() {
            state.host_mut(other).data_replaced = false;
        }
        let term = state.term;
        let held = self.product.held(own, reserved);
        let host = state.host_mut(node);
        (host.allowed, host.held) = (term, held);
        host.in_hook = false;
        host.upstream = None;
        if !state.acknowledged.minus(state.host(node).log.writes()).is_empty() {
            state.lost_at_open = true;
        }
        Some(())
    }
}

fn position(end: End) -> Position {
    Position { timeline: Timeline(u32::from(end.timeline)), lsn: Lsn(u64::from(end.length)) }
}

fn attest(state: &mut State, clean: bool) -> Option<()> {
    let holder = state.host(state.holder);
    let stopped = holder.up && holder.postgres == Postgres::Stopped;
    let may = state.open && state.writers_session() && stopped && state.attested.is_none();
    may.then(|| state.attested = Some(clean))
}
