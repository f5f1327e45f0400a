//! Rule 22, the other side: whether a member grants the writer a lease, and for how long it then helps nobody else.
//!
//! A grant is kept in memory only. An agent that has started again does not know what it granted, so it promises nothing
//! until a grant of its last moment would have run out ([`crate::detach::View::up_long_enough`]); that holds over a
//! reboot and needs no disk. The shell gives a grant and begins a promise under one lock, so that only one of them wins.

use holdfast_types::record::{Reign, TermRecord};
use holdfast_types::{Incarnation, MemberName, Term};

/// What a writer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The term under which it writes.
    pub term: Term,
    /// The writer.
    pub writer: MemberName,
    /// The start of its agent.
    pub incarnation: Incarnation,
}

impl Asked {
    /// What the writer of this open term asks for. A start of its agent that has announced itself asks in its own name: it may
    /// have put itself into the term record without having heard of it, and others know.
    pub fn of(term: &TermRecord, me: &MemberName, own: Option<Incarnation>) -> Option<Self> {
        let Reign::Open { incarnation, .. } = term.reign else { return None };
        Some(Self { term: term.term, writer: me.clone(), incarnation: own.unwrap_or(incarnation) })
    }
}

/// What the member knows that is asked.
#[derive(Debug, Clone)]
pub struct View<'o> {
    /// Ourselves.
    pub me: &'o MemberName,
    /// Our cluster was armed when it was last heard.
    pub armed: bool,
    /// The term record as we saw it last; it may be older than the writer's.
    pub term: Option<&'o TermRecord>,
    /// The highest term that our disk binds us to by a promise, begun or given.
    pub promised: Option<Term>,
    /// A promise is being begun in this moment.
    pub promising: bool,
    /// Our own PostgreSQL accepts writes.
    pub accepts_writes: bool,
}

/// Why a lease is not granted. The writer is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Our mode record says otherwise.
    #[error("the cluster is not armed on this host")]
    NotArmed,
    /// It is out of office, or about to be.
    #[error("this node has promised, or is promising, to leave the writer of term {0}")]
    Promised(Term),
    /// A later reign has begun.
    #[error("this node knows of term {known} with writer {holder}")]
    Superseded {
        /// The term that is known here.
        known: Term,
        /// Its writer, present or last.
        holder: MemberName,
    },
    /// The term is closed: nobody can take that back.
    #[error("term {0} is closed")]
    Closed(Term),
    /// A later start of the writer's agent holds the term.
    #[error("the term is held by incarnation {} of the writer's agent", .0.0)]
    Restarted(Incarnation),
    /// There are two writers, and we are one of them.
    #[error("the PostgreSQL of this node accepts writes itself")]
    WritesItself,
}

/// For how long at most a lease lasts that this host may have granted, in milliseconds: what is kept on disk for the next
/// start of the agent, and waited for after this one. `kept_ms` is what the starts before have kept. Another timing profile
/// may have shorter grants, but those that were given under the last one still run.
pub fn longest_ms(kept_ms: u64, own_ms: u64, uptime_ms: u64) -> u64 {
    if uptime_ms < kept_ms { kept_ms.max(own_ms) } else { own_ms }
}

/// Whether the lease is granted.
pub fn decide(asked: &Asked, view: &View<'_>) -> Result<(), Refused> {
    if !view.armed {
        return Err(Refused::NotArmed);
    }
    if view.accepts_writes || asked.writer == *view.me {
        return Err(Refused::WritesItself);
    }
    if let Some(promised) = view.promised.filter(|promised| *promised >= asked.term) {
        return Err(Refused::Promised(promised));
    }
    if view.promising {
        return Err(Refused::Promised(asked.term));
    }
    // A writer may know of its term before we do; what we know must not contradict it.
    let Some(record) = view.term.filter(|record| record.term >= asked.term) else { return Ok(()) };
    if record.term > asked.term || *record.holder() != asked.writer {
        return Err(Refused::Superseded { known: record.term, holder: record.holder().clone() });
    }
    match record.reign {
        Reign::Closed { .. } => Err(Refused::Closed(record.term)),
        Reign::Open { incarnation, .. } if incarnation > asked.incarnation => {
            Err(Refused::Restarted(incarnation))
        }
        Reign::Open { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{lasting, name, term_open};

    fn asked() -> Asked {
        Asked { term: Term(3), writer: name("a"), incarnation: Incarnation(1) }
    }

    #[test]
    fn the_start_of_the_agent_that_asks_names_itself() {
        let term = term_open("a", 3, true);
        let me = name("a");
        assert_eq!(Asked::of(&term, &me, None), Some(asked()));
        let later = Asked { incarnation: Incarnation(2), ..asked() };
        assert_eq!(Asked::of(&term, &me, Some(Incarnation(2))), Some(later.clone()));
        // Its own record has reached the others, and not itself.
        let mut rewritten = term;
        let Reign::Open { incarnation, .. } = &mut rewritten.reign else { unreachable!("it is open") };
        *incarnation = Incarnation(2);
        let seen = View { term: Some(&rewritten), ..view() };
        assert_eq!(decide(&asked(), &seen), Err(Refused::Restarted(Incarnation(2))));
        assert_eq!(decide(&later, &seen), Ok(()));
    }

    fn view() -> View<'static> {
        View {
            me: lasting(name("b")),
            armed: true,
            term: Some(lasting(term_open("a", 3, true))),
            promised: None,
            promising: false,
            accepts_writes: false,
        }
    }

    #[test]
    fn the_writer_of_the_known_term_gets_its_lease() {
        assert_eq!(decide(&asked(), &view()), Ok(()));
        assert_eq!(decide(&asked(), &View { promised: Some(Term(2)), ..view() }), Ok(()), "that is over");
    }

    #[test]
    fn a_member_that_has_not_heard_of_the_term_yet_grants_it() {
        assert_eq!(
            decide(&asked(), &View { term: Some(lasting(term_open("c", 2, true))), ..view() }),
            Ok(())
        );
        assert_eq!(decide(&asked(), &View { term: None, ..view() }), Ok(()));
    }

    #[test]
    fn a_shorter_profile_does_not_shorten_what_was_granted_before() {
        assert_eq!(longest_ms(15_000, 3_000, 3_000), 15_000);
        assert_eq!(longest_ms(15_000, 3_000, 15_000), 3_000, "all of them have run out");
        assert_eq!(longest_ms(3_000, 15_000, 0), 15_000);
        assert_eq!(longest_ms(0, 3_000, 0), 3_000, "a record of an older build does not say");
    }

    #[test]
    fn a_promise_and_a_grant_exclude_each_other() {
        let promised = View { promised: Some(Term(3)), ..view() };
        assert_eq!(decide(&asked(), &promised), Err(Refused::Promised(Term(3))));
        assert_eq!(decide(&asked(), &View { promising: true, ..view() }), Err(Refused::Promised(Term(3))));
    }

    #[test]
    fn what_contradicts_the_writer_is_refused() {
        let later = View { term: Some(lasting(term_open("b", 4, true))), ..view() };
        assert!(matches!(decide(&asked(), &later), Err(Refused::Superseded { known: Term(4), .. })));
        let anothers = View { term: Some(lasting(term_open("c", 3, true))), ..view() };
        assert!(matches!(decide(&asked(), &anothers), Err(Refused::Superseded { .. })));
        let mut newer = term_open("a", 3, true);
        if let Reign::Open { incarnation, .. } = &mut newer.reign {
            *incarnation = Incarnation(2);
        }
        assert_eq!(
            decide(&asked(), &View { term: Some(&newer), ..view() }),
            Err(Refused::Restarted(Incarnation(2)))
        );
        assert_eq!(decide(&asked(), &View { accepts_writes: true, ..view() }), Err(Refused::WritesItself));
        assert_eq!(decide(&asked(), &View { armed: false, ..view() }), Err(Refused::NotArmed));
    }
}
