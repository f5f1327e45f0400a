//! Hosts and PostgreSQL: writes, streams, crashes, starts.

use super::action::Action;
use super::log::{Log, Record};
use super::mutant::Mutant;
use super::node::Node;
use super::state::{Postgres, State};
use super::world::World;

impl World {
    pub(super) fn offer_postgres(&self, state: &State, offered: &mut Vec<Action>) {
        let (bounds, spent) = (&self.bounds, &state.spent);
        for node in state.nodes().take(bounds.nodes) {
            let host = state.host(node);
            if !host.up {
                if !bounds.dead_stay_dead {
                    offered.push(Action::HostBoots(node));
                }
                continue;
            }
            if spent.crashes < bounds.crashes {
                offered.push(Action::HostDies(node));
                if host.postgres != Postgres::Stopped {
                    offered.push(Action::PostgresDies(node));
                }
            }
            match host.postgres {
                Postgres::Stopped => {
                    offered.extend([Action::StartAsPrimary(node), Action::StartAsStandby(node)]);
                }
                Postgres::Primary => {
                    if spent.writes < bounds.writes {
                        offered.push(Action::Write(node));
                    }
                }
                Postgres::Replica => {
                    offered.extend([Action::Flush(node), Action::Attach(node)]);
                    if host.replaying {
                        offered.push(Action::Replayed(node));
                    }
                    if spent.disconnects < bounds.disconnects {
                        offered.push(Action::Disconnect(node));
                    }
                    if spent.replacements < bounds.replacements {
                        offered.push(Action::Reinitialise(node));
                    }
                }
            }
        }
    }

    pub(super) fn step_postgres(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Write(node) => write(state, node),
            Action::Flush(node) => flush(state, node),
            Action::Attach(node) => self.attach(state, node),
            Action::Disconnect(node) => {
                state.host_mut(node).upstream.take()?;
                state.spent.disconnects += 1;
                Some(())
            }
            Action::HostDies(node) => {
                self.host_dies(state, node);
                Some(())
            }
            Action::HostBoots(node) => {
                let host = state.host_mut(node);
                host.up = true;
                // Rule 6: before PostgreSQL starts.
                host.cut |= !self.is(Mutant::PromiseForgotten);
                Some(())
            }
            Action::PostgresDies(node) => {
                state.stop_postgres(node);
                state.spent.crashes += 1;
                Some(())
            }
            Action::StartAsPrimary(node) => {
                let promoted_before = state.host(node).term == state.term;
                let may = promoted_before && self.product.may_start(state, node, true);
                may.then(|| {
                    let host = state.host_mut(node);
                    host.postgres = Postgres::Primary;
                    host.replaying = false;
                })
            }
            Action::StartAsStandby(node) => {
                self.product.may_start(state, node, false).then(|| become_standby(state, node))
            }
            Action::Replayed(node) => {
                state.host_mut(node).replaying = false;
                Some(())
            }
            Action::Reinitialise(node) => reinitialise(state, node),
            _ => None,
        }
    }

    fn host_dies(&self, state: &mut State, node: Node) {
        state.stop_postgres(node);
        state.sessions = state.sessions.without(node);
        let host = state.host_mut(node);
        host.up = false;
        host.early = None;
        host.believes_leader = false;
        host.sync_is_cached = false;
        if self.is(Mutant::PromiseForgotten) {
            host.left = 0;
            host.cut = false;
        }
        if node == state.holder {
            state.floor_begun = None;
        }
        state.spent.crashes += 1;
    }

    /// Streams from the holder of the open term, if rule 6 lets it; rewinds first where the histories differ.
    fn attach(&self, state: &mut State, node: Node) -> Option<()> {
        let host = *state.host(node);
        if host.upstream.is_some() || host.allowed != 0 {
            return None;
        }
        // Nothing was cut after the boot, and nothing on disk forbids it: the old primary_conninfo is followed.
        let unbound = self.is(Mutant::PromiseForgotten) && host.left == 0 && !host.cut;
        let writer = if unbound && node != super::node::A && state.writes(super::node::A) {
            super::node::A
        } else {
            state.holder
        };
        let in_office = state.writes(writer) && (unbound || state.host(writer).term == state.term);
        if writer == node || !in_office || !(unbound || self.product.may_follow(state, node)) {
            return None;
        }
        let theirs = state.host(writer).log;
        if !host.log.begins(&theirs) {
            state.replace_data(node, host.log.common(&theirs));
        }
        let host = state.host_mut(node);
        host.upstream = Some(writer);
        host.cut = false;
        Some(())
    }
}

fn write(state: &mut State, node: Node) -> Option<()> {
    let write = state.spent.writes;
    let host = state.host_mut(node);
    if host.postgres != Postgres::Primary || host.log.is_full() {
        return None;
    }
    host.log.push(Record { timeline: host.timeline, write });
    state.spent.writes += 1;
    Some(())
}

/// Receives, flushes and reports the next record.
fn flush(state: &mut State, node: Node) -> Option<()> {
    let host = *state.host(node);
    let writer = host.upstream?;
    let theirs = state.host(writer).log;
    if host.cut || !state.writes(writer) || !host.log.begins(&theirs) {
        return None;
    }
    if host.log.len() < theirs.len() {
        state.host_mut(node).log.push(theirs.record(host.log.len()));
    }
    let length = state.host(node).log.len();
    let reported = &mut state.reported[writer.index()][node.index()];
    *reported = length.max(*reported);
    Some(())
}

fn reinitialise(state: &mut State, node: Node) -> Option<()> {
    let source_runs = state.open && state.writes(state.holder) && node != state.holder;
    // Without a writer from the archive, by a method of Patroni's that needs no leader: whatever the backup had.
    let from_archive = !state.open && node == state.holder;
    (source_runs || from_archive).then(|| {
        state.host_mut(node).upstream = None;
        state.replace_data(node, Log::default());
        state.spent.replacements += 1;
    })
}

/// Starts, or starts again, as a standby.
pub(super) fn become_standby(state: &mut State, node: Node) {
    state.stop_postgres(node);
    let host = state.host_mut(node);
    host.postgres = Postgres::Replica;
    host.setting = super::state::Setting::default();
    host.replaying = true;
}
