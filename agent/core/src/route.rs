//! Where a pooler sends its clients: it follows the term record, never Patroni's REST API.
//!
//! A candidate answers `/primary` with 200 while it still waits in its hook (`facts/baseline.md` 5.2), so REST would
//! send clients to a node that is read-only. OPEN comes before the promotion, so the route waits for `writable`.

use std::collections::BTreeSet;

use holdfast_types::record::Reign;
use holdfast_types::{MemberName, Term};

use crate::cluster::Cluster;
use crate::member::term_in_force;
use crate::mutant::{Mutant, left_out};

/// What a pooler should do with its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Leave everything as it is: not armed, or not known.
    Leave,
    /// Send them to the writer.
    To {
        /// Its term.
        term: Term,
        /// Who.
        writer: MemberName,
        /// Its address and port.
        address: (String, u16),
    },
    /// Let them wait: there is no writer.
    Hold {
        /// The term that has no writer.
        term: Term,
        /// The writer that was lost, if its address is known: connections to it are closed and refused.
        lost: Option<(String, u16)>,
    },
}

/// Decides the route. `applied` is the term of the last route that was put in place; an older one is never gone back to
/// (promise I10).
pub fn decide(cluster: &Cluster, applied: Option<Term>) -> Route {
    let Some(term) = term_in_force(cluster).filter(|_| cluster.is_armed()) else {
        return Route::Leave;
    };
    let number = term.value.term;
    if applied.is_some_and(|applied| number < applied) && !left_out(Mutant::OlderTermRouted) {
        return Route::Leave;
    }
    let address =
        |member: &MemberName| cluster.address(member).map(|(address, port)| (address.to_owned(), port));
    match &term.value.reign {
        Reign::Open { holder, writable: true, .. } if !cluster.attested() => match address(holder) {
            Some(address) => Route::To { term: number, writer: holder.clone(), address },
            None => Route::Leave,
        },
        // Not yet promoted. In class `off` this is the first word that the last writer is lost: no CLOSE came before.
        Reign::Open { writable: false, .. } => {
            let ended = cluster.events.iter().map(|event| &event.value);
            let ended = ended.filter(|event| event.term.next() == number).map(|event| &event.from);
            let lost = ended.filter(|member| is_away(cluster, member)).find_map(address);
            Route::Hold { term: number, lost }
        }
        // Given back before it wrote (rule 10): no client was ever sent there.
        Reign::Closed { .. } if term.value.was_given_back() => Route::Hold { term: number, lost: None },
        Reign::Open { holder, .. } | Reign::Closed { holder, .. } => {
            Route::Hold { term: number, lost: address(holder) }
        }
    }
}

/// The same for a pooler whose clients are held for a planned operation: they wait, and nobody is refused, for as long as the
/// writer is in office. Anything else is as it is without one.
pub fn decide_held(cluster: &Cluster, applied: Option<Term>, held: bool) -> Route {
    match decide(cluster, applied) {
        Route::To { term, .. } if held => Route::Hold { term, lost: None },
        other => other,
    }
}

/// The writers that an application host should refuse, so that a client which tries every member of the cluster in turn
/// does not wait for a dead one: libpq's shortest `connect_timeout` is 2 s, for every attempt.
///
/// A writer that is lost, until the next is there; after that, the writers of recent incidents whose agents have not come
/// back. Never the writer in office, and never a member that was only a standby: its readers are not our business.
/// `None`: not armed or not known, so everybody is let through.
pub fn lost_writers(cluster: &Cluster) -> Option<BTreeSet<(String, u16)>> {
    let term = term_in_force(cluster).filter(|_| cluster.is_armed())?;
    let in_office = match &term.value.reign {
        Reign::Open { holder, .. } if !cluster.attested() => Some(holder),
        Reign::Open { .. } | Reign::Closed { .. } => None,
    };
    let never_wrote = cluster.given_back() || term.value.was_given_back();
    let lost = (in_office.is_none() && !never_wrote).then(|| term.value.holder());
    let from = cluster.events.iter().map(|event| &event.value.from);
    let gone = from.filter(|member| is_away(cluster, member));
    let all = lost.into_iter().chain(gone).filter(|member| Some(*member) != in_office);
    Some(
        all.filter_map(|member| cluster.address(member))
            .map(|(address, port)| (address.to_owned(), port))
            .collect(),
    )
}

/// Its agent has not come back: who it was that was lost is still to be refused.
fn is_away(cluster: &Cluster, member: &MemberName) -> bool {
    cluster.facts.get(member).is_some_and(|facts| !cluster.agent_alive(&facts.host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::Revised;
    use crate::testing::{event, facts, name, session, term_open};
    use holdfast_types::Mode;
    use holdfast_types::record::{MemberFacts, ModeRecord};

    fn cluster(writable: bool) -> Cluster {
        let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
        let facts = MemberFacts {
            host: holdfast_types::HostName::new("h").unwrap(),
            address: "10.0.0.1".into(),
            ..facts("a")
        };
        Cluster {
            mode: Some(Revised { value: mode, mod_revision: 1 }),
            term: Some(Revised { value: term_open("a", 4, writable), mod_revision: 2 }),
            facts: [(name("a"), facts)].into(),
            ..Cluster::default()
        }
    }

    #[test]
    fn clients_wait_until_the_new_writer_is_promoted() {
        assert!(matches!(decide(&cluster(true), None), Route::To { term: Term(4), .. }));
        assert_eq!(decide(&cluster(false), None), Route::Hold { term: Term(4), lost: None });
    }

    #[test]
    fn clients_that_are_held_wait_for_the_writer_in_office_and_refuse_nobody() {
        let kept = Route::Hold { term: Term(4), lost: None };
        assert_eq!(decide_held(&cluster(true), None, true), kept);
        assert!(matches!(decide_held(&cluster(true), None, false), Route::To { .. }));
        let mut stopped = cluster(true);
        let word = crate::testing::stopped("a", 4);
        stopped.attestation = Some(Revised { value: word, mod_revision: 3 });
        let lost = Some(("10.0.0.1".to_owned(), 5432));
        assert_eq!(decide_held(&stopped, None, true), Route::Hold { term: Term(4), lost });
        let mut observed = cluster(true);
        observed.mode = None;
        assert_eq!(decide_held(&observed, None, true), Route::Leave);
    }

    #[test]
    fn who_was_lost_is_left_at_the_latest_when_the_next_term_opens() {
        let mut cluster = cluster(false);
        let b = MemberFacts {
            host: holdfast_types::HostName::new("hb").unwrap(),
            address: "10.0.0.2".into(),
            ..cluster.facts[&name("a")].clone()
        };
        cluster.facts.insert(name("b"), b);
        cluster.events = vec![Revised { value: event(3, "b", 0), mod_revision: 1 }];
        let lost = Some(("10.0.0.2".to_owned(), 5432));
        assert_eq!(decide(&cluster, None), Route::Hold { term: Term(4), lost });
        assert_eq!(lost_writers(&cluster), Some([("10.0.0.2".to_owned(), 5432)].into()));
        let kept = Route::Hold { term: Term(4), lost: None };
        cluster.events[0].value.term = Term(2);
        assert_eq!(decide(&cluster, None), kept, "of an earlier incident");
        cluster.events[0].value.term = Term(3);
        cluster.sessions.insert(holdfast_types::SessionId(9), session("hb"));
        assert_eq!(decide(&cluster, None), kept, "its agent lives, and has ended it by an order");
    }

    #[test]
    fn an_older_term_is_never_gone_back_to() {
        assert_eq!(decide(&cluster(true), Some(Term(5))), Route::Leave);
        assert!(matches!(decide(&cluster(true), Some(Term(4))), Route::To { .. }));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn each_rule_that_can_be_left_out_is_what_these_tests_rest_on() {
        let older = || decide(&cluster(true), Some(Term(5)));
        assert!(matches!(crate::mutant::without(Mutant::OlderTermRouted, older), Route::To { .. }));
    }

    #[test]
    fn nothing_is_done_unless_armed() {
        let mut observed = cluster(true);
        observed.mode = None;
        assert_eq!(decide(&observed, None), Route::Leave);
    }

    #[test]
    fn who_gave_its_term_back_is_refused_by_nobody() {
        use holdfast_types::record::{Attestation, Evidence, StopKind};
        use holdfast_types::{Incarnation, SessionId};
        let mut cluster = cluster(false);
        let word = Attestation {
            term: Term(4),
            holder: name("a"),
            incarnation: Incarnation(1),
            session: SessionId(5),
            stop: StopKind::Relinquished,
            stuck: Vec::new(),
            at_wall_ms: 0,
        };
        cluster.attestation = Some(Revised { value: word, mod_revision: 3 });
        let hold = Route::Hold { term: Term(4), lost: None };
        assert_eq!((decide(&cluster, None), lost_writers(&cluster)), (hold.clone(), Some(BTreeSet::new())));
        cluster.term.as_mut().unwrap().value.reign = Reign::Closed {
            holder: name("a"),
            floor: None,
            sync_version: 1,
            evidence: Evidence::Relinquished,
            successor: None,
            at_wall_ms: 0,
        };
        assert_eq!((decide(&cluster, None), lost_writers(&cluster)), (hold, Some(BTreeSet::new())));
    }

    #[test]
    fn an_application_host_refuses_a_writer_that_is_gone_and_no_other() {
        use holdfast_types::{HostName, SessionId};
        let mut cluster = cluster(true);
        assert_eq!(
            lost_writers(&cluster),
            Some(BTreeSet::new()),
            "the writer in office, whatever its agent does"
        );
        let b = MemberFacts {
            host: HostName::new("hb").unwrap(),
            address: "10.0.0.2".into(),
            ..cluster.facts[&name("a")].clone()
        };
        cluster.facts.insert(name("b"), b);
        cluster.events = vec![Revised { value: event(3, "b", 0), mod_revision: 1 }];
        assert_eq!(lost_writers(&cluster), Some([("10.0.0.2".to_owned(), 5432)].into()));
        cluster.sessions.insert(SessionId(9), session("hb"));
        assert_eq!(lost_writers(&cluster), Some(BTreeSet::new()), "it is back");
        let floor = None;
        let evidence = holdfast_types::record::Evidence::AttestedClean;
        let term = cluster.term.as_mut().unwrap();
        term.value.reign = Reign::Closed {
            holder: name("a"),
            floor,
            sync_version: 1,
            evidence,
            successor: None,
            at_wall_ms: 0,
        };
        assert_eq!(lost_writers(&cluster), Some([("10.0.0.1".to_owned(), 5432)].into()));
        cluster.mode = None;
        assert_eq!(lost_writers(&cluster), None);
    }
}
