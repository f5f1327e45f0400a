//! Rule 16: to whom CLOSE gives Patroni's leader key.
//!
//! One pure choice, so that every agent that runs CLOSE names the same successor from the same observation. Giving the
//! key to a node whose Patroni does not run left a cluster without a writer for 25.6 s, hence *eligible*.

use holdfast_types::{MemberName, Position};

/// A member as a possible successor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub member: MemberName,
    /// What it has received.
    pub position: Position,
    /// By its own agent's eyes: Patroni's loop advances, state running, not paused, no `nofailover`, priority above 0.
    pub eligible: bool,
    /// Tag `nosync`: Patroni never makes it a synchronous standby, so its own race would not consider it. It has reached the
    /// floor all the same, and is better than nobody. `false` for one that a person has named.
    pub nosync: bool,
    /// Patroni's `failover_priority`.
    pub priority: i64,
    /// The lease of its Patroni member key, on which the leader key is put.
    pub member_lease: Option<i64>,
}

/// The member that gets the leader key, if any can lead: one without `nosync`, then highest priority, then position,
/// then name.
///
/// Only those that have reached `floor`: the hook would refuse any other, and a refused node is out for one ttl.
pub fn choose(candidates: &[Candidate], floor: Position) -> Option<&Candidate> {
    let order = |a: &&Candidate, b: &&Candidate| {
        let (of_a, of_b) = ((!a.nosync, a.priority, a.position), (!b.nosync, b.priority, b.position));
        of_a.cmp(&of_b).then_with(|| b.member.cmp(&a.member))
    };
    candidates
        .iter()
        .filter(|one| one.eligible && one.member_lease.is_some() && one.position >= floor)
        .max_by(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, name};

    fn candidate(member: &str, lsn: u64) -> Candidate {
        Candidate {
            member: name(member),
            position: at(1, lsn),
            eligible: true,
            nosync: false,
            priority: 1,
            member_lease: Some(7),
        }
    }

    #[test]
    fn priority_then_position_then_name() {
        let (b, c) = (candidate("b", 100), candidate("c", 200));
        assert_eq!(choose(&[b.clone(), c.clone()], at(1, 50)), Some(&c));
        let preferred = Candidate { priority: 2, ..b.clone() };
        assert_eq!(choose(&[preferred.clone(), c], at(1, 50)), Some(&preferred));
        let tie = [candidate("c", 100), b.clone()];
        assert_eq!(choose(&tie, at(1, 50)), Some(&b));
    }

    #[test]
    fn a_member_that_is_never_synchronous_comes_last() {
        let asynchronous = Candidate { nosync: true, priority: 5, ..candidate("b", 300) };
        let c = candidate("c", 200);
        assert_eq!(choose(&[asynchronous.clone(), c.clone()], at(1, 50)), Some(&c));
        let behind = candidate("c", 49);
        let alone = [asynchronous.clone(), behind];
        assert_eq!(choose(&alone, at(1, 50)), Some(&asynchronous), "nobody else has reached the floor");
    }

    #[test]
    fn behind_the_floor_ineligible_or_without_a_lease_is_no_successor() {
        let behind = candidate("b", 49);
        let stopped = Candidate { eligible: false, ..candidate("c", 90) };
        let gone = Candidate { member_lease: None, ..candidate("d", 90) };
        assert_eq!(choose(&[behind, stopped, gone], at(1, 50)), None);
    }
}
