//! Rule 25: whether etcd has forgotten what this host knows, because it was restored from an older snapshot or rebuilt.
//!
//! A host keeps the last reign that it has seen in force on its own disk. While etcd contradicts that, nothing is promised,
//! closed, opened, withdrawn or let go here: each of them would rest on records that are not the last ones. A person goes
//! on with `holdfast arm`, which puts a newer mode record: terms go on above the highest that any host remembers.

use holdfast_types::record::{Reign, TermRecord};
use holdfast_types::{MemberName, Mode, Term};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::member::term_in_force;

/// The last mode record that a host has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownMode {
    /// The mode.
    pub mode: Mode,
    /// When it was ordered: each order is later than the one that it takes the place of, whatever its clock said. 0 where
    /// it is not known.
    pub at_wall_ms: i64,
}

/// The last reign that a host has seen in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownReign {
    /// Its term.
    pub term: Term,
    /// It is closed.
    pub closed: bool,
    /// Its writer.
    pub holder: MemberName,
}

impl KnownReign {
    /// What is worth remembering of a term record.
    pub fn of(record: &TermRecord) -> Self {
        let closed = matches!(record.reign, Reign::Closed { .. });
        Self { term: record.term, closed, holder: record.holder().clone() }
    }

    /// Whether this member was its writer, it was not closed, and nobody tells of a later term.
    pub fn is_last_of(&self, member: &MemberName, cluster: &Cluster) -> bool {
        !self.closed && self.holder == *member && highest_told(cluster).is_none_or(|told| told <= self.term)
    }

    fn age(&self) -> (Term, bool) {
        (self.term, self.closed)
    }
}

fn highest_told(cluster: &Cluster) -> Option<Term> {
    cluster.facts.values().map(|facts| facts.highest_term).max()
}

/// What etcd has forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// The cluster was armed, and nobody has disarmed it.
    #[error(
        "etcd has no mode record, but this cluster was armed: etcd was rebuilt, or the prefix was deleted. \
         Start all agents of the cluster, then: holdfast arm"
    )]
    ModeGone,
    /// The mode record is an older one than this host has seen.
    #[error(
        "etcd's mode record ({found}) is older than the one that this host has seen ({known}): etcd was restored from an \
         older snapshot. Start all agents of the cluster, then: holdfast arm, or holdfast disarm"
    )]
    ModeWentBack {
        /// What this host has seen.
        known: Mode,
        /// What etcd says.
        found: Mode,
    },
    /// Another host tells of a later term than etcd (rule 21). Each host tells only what its watch has shown it.
    #[error(
        "etcd says term {found}, but another host of the cluster has seen term {told}: etcd was restored from an older \
         snapshot. Start all agents of the cluster, then: holdfast arm"
    )]
    LaterTermTold {
        /// What another host has seen.
        told: Term,
        /// What etcd says.
        found: Term,
    },
    /// The term went back.
    #[error(
        "etcd says term {found}{}, but this host has seen term {known}{}: etcd was restored from an older snapshot. \
         Start all agents of the cluster, then: holdfast arm", closed(*.found_closed), closed(*.known_closed)
    )]
    TermWentBack {
        /// What this host has seen.
        known: Term,
        /// That was closed.
        known_closed: bool,
        /// What etcd says.
        found: Term,
        /// That is closed.
        found_closed: bool,
    },
}

fn closed(closed: bool) -> &'static str {
    if closed { " (closed)" } else { "" }
}

/// Compares what this host remembers with what etcd says. A term record from before the arming is not in force and
/// contradicts nothing: that is how a person goes on.
pub fn contradiction(
    known_mode: KnownMode,
    known: Option<&KnownReign>,
    cluster: &Cluster,
) -> Option<Contradiction> {
    let KnownMode { mode, at_wall_ms } = known_mode;
    if cluster.mode.is_none() && !cluster.mode_unreadable {
        // Without a reign the mode is a guess: of a file that could not be read, or of an arming that nobody took up.
        return (mode == Mode::Armed && known.is_some()).then_some(Contradiction::ModeGone);
    }
    if let Some(found) = cluster.mode.as_ref().filter(|found| found.value.at_wall_ms < at_wall_ms) {
        return Some(Contradiction::ModeWentBack { known: mode, found: found.value.mode });
    }
    let found = KnownReign::of(&term_in_force(cluster)?.value);
    if let Some(told) = highest_told(cluster).filter(|told| *told > found.term)
        && known.is_none_or(|known| known.term < told)
    {
        return Some(Contradiction::LaterTermTold { told, found: found.term });
    }
    let known = known?;
    (found.age() < known.age()).then_some(Contradiction::TermWentBack {
        known: known.term,
        known_closed: known.closed,
        found: found.term,
        found_closed: found.closed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::Revised;
    use crate::testing::{facts, name, term_open};
    use holdfast_types::record::{MemberFacts, ModeRecord};

    fn etcd(term: u64) -> Cluster {
        let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 500 };
        Cluster {
            mode: Some(Revised { value: mode, mod_revision: 50 }),
            term: Some(Revised { value: term_open("a", term, true), mod_revision: 60 }),
            ..Cluster::default()
        }
    }

    fn known(term: u64, closed: bool) -> KnownReign {
        KnownReign { term: Term(term), closed, holder: name("a") }
    }

    fn seen(mode: Mode) -> KnownMode {
        KnownMode { mode, at_wall_ms: 500 }
    }

    fn found(mode: Mode, known: &KnownReign, cluster: &Cluster) -> Option<Contradiction> {
        contradiction(seen(mode), Some(known), cluster)
    }

    #[test]
    fn an_older_mode_record_is_no_persons_order() {
        let mut etcd = etcd(4);
        let mode = &mut etcd.mode.as_mut().unwrap().value;
        (mode.mode, mode.at_wall_ms) = (Mode::Disarmed, 499);
        let back = found(Mode::Armed, &known(4, false), &etcd).unwrap();
        assert_eq!(back, Contradiction::ModeWentBack { known: Mode::Armed, found: Mode::Disarmed });
        etcd.mode.as_mut().unwrap().value.at_wall_ms = 501;
        assert_eq!(found(Mode::Armed, &known(4, false), &etcd), None, "somebody has disarmed it");
        let not_known = KnownMode { at_wall_ms: 0, ..seen(Mode::Armed) };
        etcd.mode.as_mut().unwrap().value.at_wall_ms = 499;
        assert_eq!(contradiction(not_known, Some(&known(4, false)), &etcd), None, "as before an upgrade");
    }

    #[test]
    fn a_host_that_was_away_hears_from_others_that_etcd_went_back() {
        let mut etcd = etcd(4);
        etcd.facts.insert(name("b"), MemberFacts { highest_term: Term(5), ..facts("b") });
        let told = Some(Contradiction::LaterTermTold { told: Term(5), found: Term(4) });
        assert_eq!(found(Mode::Armed, &known(4, false), &etcd), told);
        assert_eq!(contradiction(seen(Mode::Armed), None, &etcd), told, "a host without a memory too");
        etcd.facts.get_mut(&name("b")).unwrap().highest_term = Term(4);
        assert_eq!(found(Mode::Armed, &known(4, false), &etcd), None);
    }

    #[test]
    fn an_etcd_that_is_up_to_date_or_ahead_contradicts_nothing() {
        for term in [4, 5] {
            assert_eq!(found(Mode::Armed, &known(4, false), &etcd(term)), None);
        }
        assert_eq!(
            contradiction(seen(Mode::Observe), None, &Cluster::default()),
            None,
            "a new host knows nothing"
        );
        assert_eq!(
            contradiction(seen(Mode::Armed), None, &Cluster::default()),
            None,
            "nor one that could not read its own"
        );
    }

    #[test]
    fn an_older_snapshot_is_noticed() {
        let back = found(Mode::Armed, &known(5, false), &etcd(4)).unwrap();
        assert!(back.to_string().starts_with("etcd says term 4, but this host has seen term 5: "), "{back}");
        let opened_again = found(Mode::Armed, &known(4, true), &etcd(4)).unwrap();
        assert!(opened_again.to_string().contains("term 4, but this host has seen term 4 (closed)"));
    }

    #[test]
    fn an_etcd_without_a_mode_is_not_taken_for_a_cluster_that_is_observed() {
        assert_eq!(found(Mode::Armed, &known(4, false), &Cluster::default()), Some(Contradiction::ModeGone));
        assert_eq!(found(Mode::Disarmed, &known(4, false), &Cluster::default()), None, "it fences nothing");
        let unreadable = Cluster { mode_unreadable: true, ..Cluster::default() };
        assert_eq!(found(Mode::Armed, &known(4, false), &unreadable), None, "that has its own answer");
    }

    #[test]
    fn arming_again_ends_it() {
        let mut armed_again = etcd(4);
        armed_again.mode.as_mut().unwrap().mod_revision = 70;
        assert_eq!(found(Mode::Armed, &known(5, false), &armed_again), None);
        armed_again.term = None;
        assert_eq!(found(Mode::Armed, &known(5, false), &armed_again), None);
    }

    #[test]
    fn only_the_writer_of_the_last_reign_that_anybody_remembers_goes_on() {
        let mut cluster = Cluster::default();
        assert!(known(5, false).is_last_of(&name("a"), &cluster));
        assert!(!known(5, true).is_last_of(&name("a"), &cluster));
        assert!(!known(5, false).is_last_of(&name("b"), &cluster));
        let facts = MemberFacts { highest_term: Term(6), ..facts("b") };
        cluster.facts.insert(name("b"), facts);
        assert!(!known(5, false).is_last_of(&name("a"), &cluster), "b has seen its own");
    }
}
