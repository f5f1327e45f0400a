//! Patroni's way of changing `/sync` and `synchronous_standby_names`, one after the other.
//!
//! In our own words what `QuorumStateResolver` of Patroni 4.1 does; `quorum_resolver.py` compares every plan with the
//! original's (see `resolver`). The protocol does not rest on any of it being right: rule 1 looks at the actual setting.

use super::node::{Node, NodeSet};
use super::state::Setting;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `/sync`: `quorum` of `voters`.
    Sync {
        /// `quorum`.
        quorum: u8,
        /// `sync_standby`.
        voters: NodeSet,
    },
    /// `synchronous_standby_names`.
    Names(Setting),
    /// Look again: nothing can be decided yet.
    Restart,
}

/// What a primary's Patroni sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// `/sync.leader`.
    pub leader: Node,
    /// Itself.
    pub me: Node,
    /// `/sync.quorum`.
    pub quorum: u8,
    /// `/sync.sync_standby`.
    pub voters: NodeSet,
    /// The actual setting.
    pub setting: Setting,
    /// How many of its names are known to have caught up.
    pub confirmed: u8,
    /// Members that stream.
    pub active: NodeSet,
    /// `synchronous_node_count`.
    pub wanted: u8,
}

/// Patroni gives up in the middle: what was planned before stands.
struct GaveUp;

/// A plan in the making: signed numbers, because Patroni's sums may pass through less than nothing.
struct Plan {
    view: View,
    quorum: i8,
    voters: NodeSet,
    count: i8,
    names: NodeSet,
    confirmed: i8,
    changes: Vec<Change>,
}

/// The changes that Patroni plans, in their order.
pub fn plan(view: &View) -> Vec<Change> {
    let mut plan = Plan {
        view: *view,
        quorum: view.quorum as i8,
        voters: view.voters,
        count: view.setting.count.min(view.setting.names.len()) as i8,
        names: view.setting.names,
        confirmed: view.confirmed as i8,
        changes: Vec::new(),
    };
    if plan.make().is_err() {
        // The real one raises out of the list: nothing of it is done.
        return Vec::new();
    }
    merged(plan.changes)
}

/// Of two changes of one kind in a row only the second is made; after a restart nothing.
fn merged(changes: Vec<Change>) -> Vec<Change> {
    let same_kind = |a: &Change, b: &Change| std::mem::discriminant(a) == std::mem::discriminant(b);
    let mut kept: Vec<Change> = Vec::new();
    for change in changes {
        match kept.last_mut() {
            Some(Change::Restart) => break,
            Some(last) if same_kind(last, &change) => *last = change,
            _ => kept.push(change),
        }
    }
    kept
}

fn len(set: NodeSet) -> i8 {
    set.len() as i8
}

impl Plan {
    fn make(&mut self) -> Result<(), GaveUp> {
        if self.view.leader != self.view.me {
            let followed = self.follow_failover();
            match followed {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(GaveUp) => self.reset_sync()?,
            }
        } else if self.check().is_err() {
            self.reset_sync()?;
        }
        if self.view.leader != self.view.me {
            return Err(GaveUp);
        }
        if self.confirmed == 0 && !self.names.both(self.view.active).is_empty() {
            self.confirmed = len(self.names.both(self.view.active)).min(len(self.voters) - self.quorum);
        }
        self.finish_what_was_begun()?;
        self.remove_gone()?;
        self.add_new()?;
        self.change_count()
    }

    /// After a promotion the old leader becomes a voter. `false`: nobody streams yet, wait a loop.
    fn follow_failover(&mut self) -> Result<bool, GaveUp> {
        let voters = self.voters.without(self.view.me).with(self.view.leader);
        if self.names.is_empty() {
            self.set_names(len(voters) - self.quorum, voters)?;
        }
        self.set_sync_as(self.view.me, self.quorum, voters)?;
        Ok(!self.names.both(self.view.active).is_empty())
    }

    fn reset_sync(&mut self) -> Result<(), GaveUp> {
        self.set_sync(len(self.names) - self.count, self.names, true)
    }

    /// Patroni's invariant: whoever may acknowledge overlaps with whoever may promote.
    fn check(&self) -> Result<(), GaveUp> {
        let voters = self.voters.with(self.view.leader);
        let names = self.names.with(self.view.me);
        let overlap = self.voters.is_empty() || len(voters.union(names)) <= self.quorum + self.count + 1;
        let nested = voters.within(names) || names.within(voters);
        if overlap && nested { Ok(()) } else { Err(GaveUp) }
    }

    fn set_sync_as(&mut self, leader: Node, quorum: i8, voters: NodeSet) -> Result<(), GaveUp> {
        Self::check_quorum(quorum, voters)?;
        let old = std::mem::replace(&mut self.view.leader, leader);
        self.put_sync(old == leader, quorum, voters)
    }

    fn set_sync(&mut self, quorum: i8, voters: NodeSet, raise: bool) -> Result<(), GaveUp> {
        Self::check_quorum(quorum, voters)?;
        let (quorum, voters) = if self.confirmed == 0 && self.voters.is_empty() {
            // Nobody is known to have caught up: nobody may be named.
            (0, NodeSet::EMPTY)
        } else if raise {
            (quorum + (self.count - self.confirmed).max(0), voters)
        } else {
            (quorum, voters)
        };
        self.put_sync(true, quorum, voters)
    }

    fn check_quorum(quorum: i8, voters: NodeSet) -> Result<(), GaveUp> {
        if quorum < 0 || quorum > 0 && quorum >= len(voters) { Err(GaveUp) } else { Ok(()) }
    }

    fn put_sync(&mut self, same_leader: bool, quorum: i8, voters: NodeSet) -> Result<(), GaveUp> {
        if same_leader && quorum == self.quorum && voters == self.voters {
            if !self.voters.is_empty() {
                return Ok(());
            }
            self.changes.push(Change::Restart);
        }
        self.quorum = quorum;
        self.voters = voters;
        self.check()?;
        self.changes.push(Change::Sync { quorum: quorum as u8, voters });
        Ok(())
    }

    fn set_names(&mut self, count: i8, names: NodeSet) -> Result<(), GaveUp> {
        if count < 0 || count > len(names) {
            return Err(GaveUp);
        }
        self.count = count;
        self.names = names;
        self.check()?;
        self.changes.push(Change::Names(Setting { count: count as u8, names }));
        Ok(())
    }

    /// A plan that was broken off left the two sets unequal.
    fn finish_what_was_begun(&mut self) -> Result<(), GaveUp> {
        if self.names != self.voters && self.names.within(self.voters) {
            self.shrink_voters()?;
        } else if self.names != self.voters && self.voters.within(self.names) {
            self.grow_voters()?;
        }
        if self.voters != self.names {
            return Err(GaveUp);
        }
        let wanted = self.view.wanted as i8;
        let spare = self.quorum + self.count.min(self.confirmed) - len(self.voters);
        if spare > 0 {
            if self.count > wanted {
                return self.set_names(wanted.max(len(self.voters) - self.quorum), self.names);
            }
            return self.set_sync(len(self.names) - self.count, self.voters, true);
        }
        let spare = self.quorum + self.count - len(self.voters);
        if self.count == wanted && spare > 0 && self.count > self.confirmed {
            self.set_sync(len(self.names) - self.count, self.voters, true)?;
        }
        Ok(())
    }

    fn shrink_voters(&mut self) -> Result<(), GaveUp> {
        let dead = self.voters.minus(self.names.union(self.view.active));
        if !dead.is_empty() {
            let raise = self.names.within(self.view.active);
            self.set_sync(len(self.voters) - len(dead) - self.count, self.voters.minus(dead), raise)?;
        }
        let back = self.voters.both(self.view.active).minus(self.names);
        if !back.is_empty() {
            self.set_names(self.count, self.names.union(back))?;
        }
        Ok(())
    }

    fn grow_voters(&mut self) -> Result<(), GaveUp> {
        let alive = self.names.both(self.view.active);
        let dead = self.names.minus(self.view.active);
        let in_common = self.voters.is_empty() || !alive.both(self.voters).is_empty();
        if !dead.is_empty() && !alive.is_empty() && in_common {
            self.set_names(self.count.min(len(alive)), alive)?;
        }
        let new = self.names.minus(self.voters).both(self.view.active);
        if !new.is_empty() {
            let voters = self.voters.union(new);
            self.set_sync(len(voters) - self.count, voters, true)?;
        }
        let surplus = self.names.minus(self.voters);
        if !surplus.is_empty() {
            let names = self.names.minus(surplus);
            self.set_names(self.count.min(len(names)), names)?;
        }
        Ok(())
    }

    fn remove_gone(&mut self) -> Result<(), GaveUp> {
        let mut gone = self.names.minus(self.view.active);
        if gone.is_empty() {
            return Ok(());
        }
        if gone == self.names {
            self.set_sync(0, NodeSet::EMPTY, false)?;
            return self.set_names(0, NodeSet::EMPTY);
        }
        let wanted = self.view.wanted as i8;
        if self.quorum > 0 {
            // The last names first, as many as the quorum can spare.
            let removed: NodeSet = gone.iter().rev().take(self.quorum as usize).collect();
            let names = self.names.minus(removed);
            self.set_names(wanted.max(self.count).min(len(names)), names)?;
            let voters = self.voters.minus(removed);
            gone = gone.both(self.names);
            self.set_sync(len(voters) - self.count, voters, gone.is_empty())?;
        }
        if gone.is_empty() {
            return Ok(());
        }
        if self.quorum != 0 {
            return Err(GaveUp);
        }
        let (count, names, voters) =
            (self.count - len(gone), self.names.minus(gone), self.voters.minus(gone));
        let decrease = count - wanted.min(len(names));
        let quorum = if decrease == 0 { 0 } else { decrease.min(len(voters) - 1) };
        self.set_sync(quorum, voters, false)?;
        self.set_names(count, names)
    }

    fn add_new(&mut self) -> Result<(), GaveUp> {
        let mut new = self.view.active.minus(self.names);
        if new.is_empty() {
            return Ok(());
        }
        let wanted = (self.view.wanted as i8).min(len(self.names.union(new)));
        let increase = wanted - self.count;
        if increase > 0 {
            let some: NodeSet =
                if self.names.is_empty() { new } else { new.iter().take(increase as usize).collect() };
            let increase = if self.names.is_empty() { increase } else { len(some) };
            self.set_names(self.count + increase, self.names.union(some))?;
            let voters = self.voters.union(some);
            self.set_sync(len(voters) - wanted, voters, true)?;
            new = new.minus(self.names);
        }
        if new.is_empty() {
            return Ok(());
        }
        let voters = self.voters.union(new);
        self.set_sync(len(voters) - wanted, voters, wanted > self.confirmed)?;
        self.set_names(wanted, self.names.union(new))
    }

    fn change_count(&mut self) -> Result<(), GaveUp> {
        let wanted = self.view.wanted as i8;
        let increase = wanted.min(len(self.names)) - self.count;
        if increase > 0 {
            self.set_names(self.count + increase, self.names)?;
            self.set_sync(len(self.voters) - self.count, self.voters, true)?;
        } else if increase < 0 {
            if self.quorum - increase < len(self.voters) {
                let quorum = len(self.voters) - self.count - increase;
                self.set_sync(quorum, self.voters, wanted > self.confirmed)?;
            }
            self.set_names(self.count + increase, self.names)?;
        }
        Ok(())
    }
}
