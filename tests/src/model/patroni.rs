//! Patroni as it is: its lock, its cached view, `/sync` and the setting one after the other, the promotion hook.
//!
//! Everything that Patroni leaves to chance may happen here at any time: any member may take a free lock, a primary
//! again without a hook; a primary whose lock is gone goes on until it sees another's (failsafe mode, a hung Patroni and
//! an outage of etcd all look like this).

use super::action::Action;
use super::mutant::Mutant;
use super::node::Node;
use super::postgres::become_standby;
use super::quorum::{self, Change};
use super::state::{Postgres, Setting, State, Sync};
use super::world::World;

/// `synchronous_node_count`.
const WANTED: u8 = 1;

impl World {
    pub(super) fn offer_patroni(&self, state: &State, offered: &mut Vec<Action>) {
        let free_to_move = state.spent.locks < self.bounds.locks;
        for node in state.nodes().take(self.bounds.nodes).filter(|node| state.host(*node).up) {
            let host = state.host(node);
            if host.postgres == Postgres::Primary {
                self.offer_changes(state, node, offered);
            }
            if host.postgres == Postgres::Primary || state.leader_key == Some(node) {
                offered.push(Action::Look(node));
            }
            if state.leader_key.is_none() && free_to_move && host.postgres != Postgres::Stopped {
                offered.push(Action::TakeLock(node));
            }
            if state.leader_key == Some(node) && host.postgres == Postgres::Replica && host.allowed == 0 {
                offered.push(Action::CallHook(node));
            }
            if host.allowed != 0 {
                offered.push(Action::Promote(node));
            }
        }
        if state.sync_on_its_way.is_some() {
            offered.push(Action::SyncLands);
        }
        if state.leader_key.is_some() && free_to_move {
            offered.push(Action::LockExpires);
        }
    }

    /// The next change of Patroni's plan, whatever it takes for confirmed: that check is not trusted.
    fn offer_changes(&self, state: &State, node: Node, offered: &mut Vec<Action>) {
        let host = state.host(node);
        if !host.believes_leader {
            return;
        }
        let active = state.streaming_from(node);
        let first = offered.len();
        for confirmed in 0..=host.setting.names.both(active).len() {
            let plan = quorum::plan(&quorum::View {
                leader: state.sync.leader,
                me: node,
                quorum: state.sync.quorum,
                voters: state.sync.standbys,
                setting: host.setting,
                confirmed,
                active,
                wanted: WANTED,
            });
            let action = match plan.first() {
                Some(Change::Sync { quorum, voters }) => Action::WriteSync(node, *quorum, *voters),
                Some(Change::Names(Setting { count, names })) => Action::SetNames(node, *count, *names),
                Some(Change::Restart) | None => continue,
            };
            if offered[first..].contains(&action) {
                continue;
            }
            offered.push(action);
            if let Action::WriteSync(node, quorum, voters) = action
                && state.spent.late_writes < self.bounds.late_writes
            {
                offered.push(Action::SendSync(node, quorum, voters));
            }
        }
    }

    pub(super) fn step_patroni(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Look(node) => look(state, node),
            Action::LockExpires => {
                state.leader_key = None;
                state.spent.locks += 1;
            }
            Action::TakeLock(node) => {
                state.leader_key = Some(node);
                state.spent.locks += 1;
                if state.host(node).postgres == Postgres::Primary {
                    look(state, node);
                }
            }
            Action::SetNames(node, count, names) => self.set_names(state, node, Setting { count, names })?,
            Action::WriteSync(node, quorum, standbys) => {
                may_write_sync(state, node)?;
                state.sync = Sync { leader: node, standbys, quorum };
                state.sync_changed(node);
            }
            Action::SendSync(node, quorum, standbys) => {
                may_write_sync(state, node)?;
                state.sync_on_its_way = Some(Sync { leader: node, standbys, quorum });
                state.spent.late_writes += 1;
            }
            Action::SyncLands => {
                state.sync = state.sync_on_its_way?;
                // Its author never hears of it: the cached version is stale for the author too.
                let author = state.sync.leader;
                state.sync_changed(author);
                state.host_mut(author).sync_is_cached = false;
            }
            Action::CallHook(node) => call_hook(state, node),
            Action::Promote(node) => Self::promote(state, node),
            _ => return None,
        }
        Some(())
    }

    /// `pg_ctl promote` after the hook, without another look at the lock.
    fn promote(state: &mut State, node: Node) {
        let host = state.host_mut(node);
        if host.postgres == Postgres::Replica {
            host.postgres = Postgres::Primary;
            host.term = host.allowed;
            // PostgreSQL takes the next id after those of which it has seen a history file.
            let seen = host.log.end().timeline.max(1);
            host.timeline = seen.max(host.held) + 1;
            host.upstream = None;
        }
        (host.allowed, host.held) = (0, 0);
        host.in_hook = false;
    }

    /// Assumption G: once a later term is open, a deposed writer has been stopped, or could not do this.
    fn set_names(&self, state: &mut State, node: Node, setting: Setting) -> Option<()> {
        let deposed = state.term > state.host(node).term;
        if deposed && !self.bounds.deposed_run && !self.is(Mutant::DeposedWriterRuns) {
            return None;
        }
        state.host_mut(node).setting = setting;
        Some(())
    }
}

fn look(state: &mut State, node: Node) {
    let leads = state.leader_key == Some(node);
    let another_leads = !leads && state.leader_key.is_some();
    let host = state.host_mut(node);
    host.believes_leader = leads;
    host.sync_is_cached = leads;
    if another_leads && host.postgres == Postgres::Primary {
        become_standby(state, node);
    }
}

/// The transaction compares the version that was loaded with the view.
fn may_write_sync(state: &State, node: Node) -> Option<()> {
    state.host(node).sync_is_cached.then_some(())
}

/// `process_sync_replication_prepromote`: the setting comes from `/sync` as Patroni sees it, before the hook.
fn call_hook(state: &mut State, node: Node) {
    let named = state.sync.standbys.with(state.sync.leader);
    let outside = u8::from(!named.has(node));
    let count = (named.len() + outside).saturating_sub(state.sync.quorum + 1);
    let host = state.host_mut(node);
    host.in_hook = true;
    host.believes_leader = true;
    host.sync_is_cached = true;
    host.setting = Setting { count, names: named.without(node) };
}
