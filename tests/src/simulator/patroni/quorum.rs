//! Patroni 4.1's `QuorumStateResolver` (`patroni/quorum.py`), step by step: in which order `/sync` and
//! `synchronous_standby_names` change. Names and cases are Patroni's, so that the two can be read side by side.

use std::collections::BTreeSet;

use holdfast_types::MemberName;

type Names = BTreeSet<MemberName>;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Put `/sync`.
    Quorum {
        /// Its leader.
        leader: MemberName,
        /// Its quorum.
        quorum: usize,
        /// Its standbys.
        voters: Names,
    },
    /// Set `synchronous_standby_names`.
    Sync {
        /// How many must acknowledge.
        numsync: usize,
        /// Of whom.
        sync: Names,
    },
    /// Look again in a second.
    Restart,
}

/// What the next steps follow from.
#[derive(Debug, Clone)]
pub struct Resolver {
    /// Leader of `/sync`.
    pub leader: MemberName,
    /// Its quorum.
    pub quorum: usize,
    /// Its standbys.
    pub voters: Names,
    /// Of the setting.
    pub numsync: usize,
    /// Of the setting.
    pub sync: Names,
    /// Standbys known to have caught up.
    pub numsync_confirmed: usize,
    /// Standbys that stream.
    pub active: Names,
    /// `synchronous_node_count`.
    pub sync_wanted: usize,
    /// Ourselves.
    pub leader_wanted: MemberName,
    steps: Vec<Transition>,
}

/// An invariant does not hold, or a number is out of its range.
struct QuorumError;

type Step = Result<(), QuorumError>;

/// The inputs of a [`Resolver`] beside `/sync`.
pub struct Seen {
    /// Of the setting.
    pub numsync: usize,
    /// Of the setting.
    pub sync: Names,
    /// See [`Resolver::numsync_confirmed`].
    pub confirmed: usize,
    /// See [`Resolver::active`].
    pub active: Names,
}

impl Resolver {
    /// For `me`, from `/sync` and what was seen.
    pub fn new(
        (leader, quorum, voters): (MemberName, usize, Names),
        seen: Seen,
        sync_wanted: usize,
        me: MemberName,
    ) -> Self {
        let Seen { numsync, sync, confirmed, active } = seen;
        let numsync = numsync.min(sync.len());
        Self {
            leader,
            quorum,
            voters,
            numsync,
            sync,
            numsync_confirmed: confirmed,
            active,
            sync_wanted,
            leader_wanted: me,
            steps: Vec::new(),
        }
    }

    /// The steps; two of one kind in a row are one. After an error the steps before it stand.
    pub fn transitions(mut self) -> Vec<Transition> {
        let _ = self.generate();
        let mut merged: Vec<Transition> = Vec::new();
        for step in self.steps {
            let same = merged.last().is_some_and(|last| {
                matches!(
                    (last, &step),
                    (Transition::Quorum { .. }, Transition::Quorum { .. })
                        | (Transition::Sync { .. }, Transition::Sync { .. })
                        | (Transition::Restart, Transition::Restart)
                )
            });
            if same {
                merged.pop();
            }
            merged.push(step);
        }
        match merged.iter().position(|step| *step == Transition::Restart) {
            Some(restart) => merged[..=restart].to_vec(),
            None => merged,
        }
    }

    fn check(&self) -> Step {
        let mut voters = self.voters.clone();
        voters.insert(self.leader.clone());
        let mut sync = self.sync.clone();
        sync.insert(self.leader_wanted.clone());
        let overlap = self.voters.is_empty() || voters.union(&sync).count() <= self.quorum + self.numsync + 1;
        if overlap && (voters.is_subset(&sync) || sync.is_subset(&voters)) {
            Ok(())
        } else {
            Err(QuorumError)
        }
    }

    fn quorum_update(
        &mut self,
        quorum: Option<usize>,
        voters: Names,
        leader: Option<MemberName>,
        adjust: bool,
    ) -> Step {
        let mut quorum = quorum.ok_or(QuorumError)?;
        let mut voters = voters;
        if quorum > 0 && quorum >= voters.len() {
            return Err(QuorumError);
        }
        let old_leader = self.leader.clone();
        if let Some(leader) = leader {
            self.leader = leader;
        } else if self.numsync_confirmed == 0 && self.voters.is_empty() {
            (quorum, voters) = (0, Names::new());
        } else if adjust {
            quorum += self.numsync.saturating_sub(self.numsync_confirmed);
        }
        if (&self.leader, quorum, &voters) == (&old_leader, self.quorum, &self.voters) {
            if !self.voters.is_empty() {
                return Ok(());
            }
            self.steps.push(Transition::Restart);
        }
        (self.quorum, self.voters) = (quorum, voters);
        self.check()?;
        let (leader, quorum, voters) = (self.leader.clone(), self.quorum, self.voters.clone());
        self.steps.push(Transition::Quorum { leader, quorum, voters });
        Ok(())
    }

    fn sync_update(&mut self, numsync: Option<usize>, sync: Names) -> Step {
        let numsync = numsync.filter(|numsync| *numsync <= sync.len()).ok_or(QuorumError)?;
        (self.numsync, self.sync) = (numsync, sync.clone());
        self.check()?;
        self.steps.push(Transition::Sync { numsync, sync });
        Ok(())
    }

    fn generate(&mut self) -> Step {
        if self.leader_wanted != self.leader {
            let mut voters = without(&self.voters, &[self.leader_wanted.clone()].into());
            voters.insert(self.leader.clone());
            let failover = self.failover(voters);
            if failover.is_err() {
                let sync = self.sync.clone();
                self.quorum_update(sync.len().checked_sub(self.numsync), sync, None, true)?;
            } else if both(&self.sync, &self.active).is_empty() {
                return Ok(());
            }
        } else if self.check().is_err() {
            let sync = self.sync.clone();
            self.quorum_update(sync.len().checked_sub(self.numsync), sync, None, true)?;
        }
        let streaming = both(&self.sync, &self.active).len();
        if self.numsync_confirmed == 0 && streaming > 0 {
            self.numsync_confirmed = streaming.min(self.voters.len().saturating_sub(self.quorum));
        }
        self.non_steady()?;
        self.remove_gone()?;
        self.add_new()?;
        self.change_factor()
    }

    fn failover(&mut self, voters: Names) -> Step {
        if self.sync.is_empty() {
            self.sync_update(voters.len().checked_sub(self.quorum), voters.clone())?;
        }
        self.quorum_update(Some(self.quorum), voters, Some(self.leader_wanted.clone()), true)
    }

    fn non_steady(&mut self) -> Step {
        if self.sync != self.voters && self.sync.is_subset(&self.voters) {
            self.case_1()?;
        } else if self.sync != self.voters && self.voters.is_subset(&self.sync) {
            self.case_2()?;
        }
        if self.voters != self.sync {
            return Err(QuorumError);
        }
        let nodes = self.voters.len();
        if self.quorum + self.numsync.min(self.numsync_confirmed) > nodes {
            if self.numsync > self.sync_wanted {
                let numsync = self.sync_wanted.max(nodes.saturating_sub(self.quorum));
                self.sync_update(Some(numsync), self.sync.clone())
            } else {
                self.quorum_update(nodes.checked_sub(self.numsync), self.voters.clone(), None, true)
            }
        } else if self.numsync == self.sync_wanted
            && self.quorum + self.numsync > nodes
            && self.numsync > self.numsync_confirmed
        {
            self.quorum_update(nodes.checked_sub(self.numsync), self.voters.clone(), None, true)
        } else {
            Ok(())
        }
    }

    fn case_1(&mut self) -> Step {
        let known = self.sync.union(&self.active).cloned().collect();
        let gone = without(&self.voters, &known);
        if !gone.is_empty() {
            let quorum = self.voters.len().checked_sub(gone.len() + self.numsync);
            let adjust = without(&self.sync, &self.active).is_empty();
            self.quorum_update(quorum, without(&self.voters, &gone), None, adjust)?;
        }
        let add = without(&both(&self.voters, &self.active), &self.sync);
        if !add.is_empty() {
            self.sync_update(Some(self.numsync), self.sync.union(&add).cloned().collect())?;
        }
        Ok(())
    }

    fn case_2(&mut self) -> Step {
        let gone = without(&self.sync, &self.active);
        let sync = without(&self.sync, &gone);
        if !gone.is_empty()
            && !sync.is_empty()
            && (self.voters.is_empty() || !both(&sync, &self.voters).is_empty())
        {
            self.sync_update(Some(self.numsync.min(sync.len())), sync)?;
        }
        let add = both(&without(&self.sync, &self.voters), &self.active);
        if !add.is_empty() {
            let voters: Names = self.voters.union(&add).cloned().collect();
            self.quorum_update(voters.len().checked_sub(self.numsync), voters, None, true)?;
        }
        let left = without(&self.sync, &self.voters);
        if !left.is_empty() {
            let sync = without(&self.sync, &left);
            self.sync_update(Some(self.numsync.min(sync.len())), sync)?;
        }
        Ok(())
    }

    fn remove_gone(&mut self) -> Step {
        let mut gone = without(&self.sync, &self.active);
        if gone.is_empty() {
            return Ok(());
        }
        if gone == self.sync {
            self.quorum_update(Some(0), Names::new(), None, false)?;
            return self.sync_update(Some(0), Names::new());
        }
        if self.quorum > 0 {
            let remove: Names = gone.iter().rev().take(self.quorum).cloned().collect();
            let sync = without(&self.sync, &remove);
            self.sync_update(Some(self.sync_wanted.max(self.numsync).min(sync.len())), sync)?;
            let voters = without(&self.voters, &remove);
            gone = both(&gone, &self.sync);
            self.quorum_update(voters.len().checked_sub(self.numsync), voters, None, gone.is_empty())?;
        }
        if !gone.is_empty() {
            let numsync = self.numsync.checked_sub(gone.len()).ok_or(QuorumError)?;
            let (sync, voters) = (without(&self.sync, &gone), without(&self.voters, &gone));
            let decrease = numsync as i64 - self.sync_wanted.min(sync.len()) as i64;
            let quorum = if decrease == 0 { 0 } else { decrease.min(voters.len() as i64 - 1) };
            self.quorum_update(usize::try_from(quorum).ok(), voters, None, false)?;
            self.sync_update(Some(numsync), sync)?;
        }
        Ok(())
    }

    fn add_new(&mut self) -> Step {
        let mut new = without(&self.active, &self.sync);
        if new.is_empty() {
            return Ok(());
        }
        let wanted = self.sync_wanted.min(self.sync.union(&new).count());
        if wanted > self.numsync {
            let mut more = wanted - self.numsync;
            let add: Names = if self.sync.is_empty() {
                new.clone()
            } else {
                let add: Names = new.iter().take(more).cloned().collect();
                more = add.len();
                add
            };
            self.sync_update(Some(self.numsync + more), self.sync.union(&add).cloned().collect())?;
            let voters: Names = self.voters.union(&add).cloned().collect();
            self.quorum_update(voters.len().checked_sub(wanted), voters, None, true)?;
            new = without(&new, &self.sync);
        }
        if !new.is_empty() {
            let voters: Names = self.voters.union(&new).cloned().collect();
            let adjust = wanted > self.numsync_confirmed;
            self.quorum_update(voters.len().checked_sub(wanted), voters, None, adjust)?;
            self.sync_update(Some(wanted), self.sync.union(&new).cloned().collect())?;
        }
        Ok(())
    }

    fn change_factor(&mut self) -> Step {
        let wanted = self.sync_wanted.min(self.sync.len());
        if wanted > self.numsync {
            self.sync_update(Some(wanted), self.sync.clone())?;
            self.quorum_update(self.voters.len().checked_sub(self.numsync), self.voters.clone(), None, true)?;
        } else if wanted < self.numsync {
            let less = self.numsync - wanted;
            if self.quorum + less < self.voters.len() {
                let quorum = (self.voters.len() + less).checked_sub(self.numsync);
                let adjust = self.sync_wanted > self.numsync_confirmed;
                self.quorum_update(quorum, self.voters.clone(), None, adjust)?;
            }
            self.sync_update(Some(wanted), self.sync.clone())?;
        }
        Ok(())
    }
}

fn without(from: &Names, these: &Names) -> Names {
    from.difference(these).cloned().collect()
}

fn both(one: &Names, other: &Names) -> Names {
    one.intersection(other).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).unwrap()
    }

    fn names(list: &[&str]) -> Names {
        list.iter().copied().map(name).collect()
    }

    fn resolve(quorum: usize, voters: &[&str], seen: Seen) -> Vec<Transition> {
        Resolver::new((name("a"), quorum, names(voters)), seen, 1, name("a")).transitions()
    }

    /// The three of `patroni/tests/test_quorum.py` that our clusters go through.
    #[test]
    fn the_first_standbys_a_lost_one_and_the_last_lost_one() {
        let first = Seen { numsync: 0, sync: names(&[]), confirmed: 0, active: names(&["b", "c"]) };
        assert_eq!(
            resolve(0, &[], first),
            [Transition::Sync { numsync: 1, sync: names(&["b", "c"]) }, Transition::Restart]
        );
        let lost = Seen { numsync: 1, sync: names(&["b", "c"]), confirmed: 1, active: names(&["c"]) };
        let quorum = Transition::Quorum { leader: name("a"), quorum: 0, voters: names(&["c"]) };
        assert_eq!(
            resolve(1, &["b", "c"], lost),
            [Transition::Sync { numsync: 1, sync: names(&["c"]) }, quorum]
        );
        let all = Seen { numsync: 1, sync: names(&["c"]), confirmed: 0, active: names(&[]) };
        let nobody = Transition::Quorum { leader: name("a"), quorum: 0, voters: names(&[]) };
        assert_eq!(resolve(0, &["c"], all), [nobody, Transition::Sync { numsync: 0, sync: names(&[]) }]);
    }
}
