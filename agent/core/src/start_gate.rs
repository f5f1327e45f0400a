//! Whether a postmaster may start (promises I5 and I12, rule 9).
//!
//! The gate runs in the place of `postgres` for every start by Patroni and must answer within 2 s of its birth: a gate
//! that took 5 s made a restarted Patroni start a second postmaster every 11 s (DESIGN section 4).

use holdfast_types::record::{LocalDisarm, TermRecord};
use holdfast_types::{MemberName, Mode, SessionId};

use crate::local_disarm;
use crate::mutant::{Mutant, left_out};

/// How PostgreSQL would come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAs {
    /// `standby.signal` is there: it only receives.
    Standby,
    /// It would accept writes after recovery.
    Primary,
}

/// What the gate knows.
#[derive(Debug, Clone)]
pub struct View<'o> {
    /// The member that would start.
    pub me: &'o MemberName,
    /// The mode, by a read of etcd; `None` when that could not be done in time.
    pub mode: Option<Mode>,
    /// The agent itself did not answer.
    pub agent_gone: bool,
    /// etcd answers, and has forgotten what this host knows (rule 25): its mode and term are not passed here.
    pub contradiction: Option<&'o str>,
    /// The last mode that was seen and kept on this host's disk.
    pub last_known_mode: Mode,
    /// A person's order to this host alone that stands.
    pub local: Option<&'o LocalDisarm>,
    /// How it would start.
    pub start_as: StartAs,
    /// A fence record, on disk or in etcd, with its reason for people.
    pub fenced: Option<&'o str>,
    /// This node attests, or is about to attest, that it has stopped: the gate is shut until the attestation is used or
    /// withdrawn.
    pub attesting: bool,
    /// Rule 10: this node gives the open term back. Its PostgreSQL must come up in recovery, or not at all.
    pub given_back: bool,
    /// The term record that is in force; `None` when there is none since the arming.
    pub term: Option<&'o TermRecord>,
    /// There is a term record that cannot be read.
    pub term_unreadable: bool,
    /// Terms gate starts: the cluster is not of class `on`. There only a fence does.
    pub has_terms: bool,
    /// Class `off`: the writer of the open term starts only under the session that the term record names. Its lease can only
    /// come from that one, and nobody may open the next term while it is there.
    pub needs_session: bool,
    /// Our session, while it is known to be alive.
    pub own_session: Option<SessionId>,
}

/// The gate's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Become `postgres`.
    Pass,
    /// Exit 1: cause, and the next safe command.
    Refuse(String),
}

/// Decides whether the postmaster may start.
pub fn decide(view: &View<'_>) -> Answer {
    if view.mode.unwrap_or(view.last_known_mode) != Mode::Armed || left_out(Mutant::StartGateOpen) {
        return Answer::Pass;
    }
    let me = view.me;
    match local_disarm::opens(view.local, view.fenced, me) {
        Some(Ok(())) => return Answer::Pass,
        Some(Err(why)) => return refuse(why),
        None => {}
    }
    if let Some(why) = view.fenced.filter(|_| !left_out(Mutant::FenceIgnored)) {
        return refuse(format!("{me} is fenced ({why}); validate and clear it with: holdfast unfence {me}"));
    }
    if view.attesting {
        return refuse(format!("{me} has attested that it stopped; it may start when the next term is open"));
    }
    if !view.has_terms || view.start_as == StartAs::Standby {
        return Answer::Pass;
    }
    if view.mode.is_none() {
        return refuse(if let Some(why) = view.contradiction {
            format!("{me} would start as primary: {why}")
        } else if view.agent_gone {
            format!(
                "{me} would start as primary and its agent does not answer; start the agent: systemctl start holdfast-agent"
            )
        } else {
            format!("{me} would start as primary and etcd does not answer; see: holdfast doctor")
        });
    }
    match view.term.map(|term| (term, term.open_holder())) {
        Some((term, Some(holder))) if holder == me && view.given_back => {
            refuse(format!("{me} would start as primary but has given term {} back", term.term))
        }
        Some((term, Some(holder)))
            if holder == me && view.needs_session && term.open_session() != view.own_session =>
        {
            refuse(format!(
                "{me} would start as primary and term {} is not renewed under this host's session yet; Patroni tries again",
                term.term
            ))
        }
        Some((_, Some(holder))) if holder == me => Answer::Pass,
        // Patroni starts a former primary without standby.signal to finish crash recovery before pg_rewind, in
        // single-user mode, which does not come through here as a postmaster.
        Some((term, Some(holder))) => {
            refuse(format!("{me} would start as primary but term {} is {holder}'s", term.term))
        }
        Some((term, None)) => refuse(format!("{me} would start as primary but term {} is closed", term.term)),
        None if view.term_unreadable => refuse(format!(
            "{me} would start as primary and the term record cannot be read; upgrade this host"
        )),
        // Armed, and the first term not yet opened: its opening needs a running primary, so a refusal would last for ever.
        None => Answer::Pass,
    }
}

fn refuse(why: String) -> Answer {
    Answer::Refuse(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{lasting, name};
    use holdfast_types::record::Reign;
    use holdfast_types::{Incarnation, Term};

    fn judge<'o>(change: impl FnOnce(&mut View<'o>)) -> bool {
        let mut view = View {
            me: lasting(name("a")),
            mode: Some(Mode::Armed),
            agent_gone: false,
            contradiction: None,
            last_known_mode: Mode::Armed,
            local: None,
            start_as: StartAs::Primary,
            fenced: None,
            attesting: false,
            given_back: false,
            term: Some(lasting(open("a"))),
            term_unreadable: false,
            has_terms: true,
            needs_session: false,
            own_session: Some(SessionId(1)),
        };
        change(&mut view);
        decide(&view) == Answer::Pass
    }

    fn open(holder: &str) -> TermRecord {
        let reign = Reign::Open {
            holder: name(holder),
            incarnation: Incarnation(1),
            session: SessionId(1),
            writable: true,
            floor: None,
        };
        TermRecord { term: Term(3), reign, trace: None, timeline: None }
    }

    #[test]
    fn without_promises_the_writer_starts_only_under_the_session_of_its_term() {
        let starts = |session: Option<i64>| {
            judge(|v| (v.needs_session, v.own_session) = (true, session.map(SessionId)))
        };
        assert!(starts(Some(1)));
        assert!(!starts(Some(2)) && !starts(None));
        assert!(judge(|v| v.own_session = None), "with promises its agent writes the record again");
        let standby = |v: &mut View<'_>| (v.needs_session, v.start_as) = (true, StartAs::Standby);
        assert!(judge(|v| {
            standby(v);
            v.own_session = None;
        }));
    }

    #[test]
    fn only_the_holder_of_the_open_term_starts_as_primary() {
        assert!(judge(|_| ()));
        let anothers = open("b");
        assert!(!judge(|v| v.term = Some(&anothers)));
        assert!(!judge(|v| (v.term, v.term_unreadable) = (None, true)));
        assert!(judge(|v| v.term = None), "the first term is opened by a primary that runs");
        assert!(judge(|v| (v.start_as, v.term) = (StartAs::Standby, Some(&anothers))));
    }

    #[test]
    fn who_gives_its_term_back_starts_as_a_standby_only() {
        assert!(!judge(|v| v.given_back = true));
        assert!(judge(|v| (v.given_back, v.start_as) = (true, StartAs::Standby)));
    }

    #[test]
    fn a_fence_keeps_even_a_standby_out() {
        assert!(!judge(|v| (v.fenced, v.start_as) = (Some("by ann"), StartAs::Standby)));
        assert!(!judge(|v| (v.attesting, v.start_as) = (true, StartAs::Standby)));
        assert!(!judge(|v| (v.fenced, v.has_terms) = (Some("by ann"), false)), "without terms too");
        let anothers = open("b");
        assert!(judge(|v| (v.term, v.has_terms) = (Some(&anothers), false)));
    }

    #[test]
    fn without_the_agent_a_standby_passes_and_a_primary_does_not() {
        assert!(judge(|v| (v.mode, v.term, v.start_as) = (None, None, StartAs::Standby)));
        assert!(!judge(|v| (v.mode, v.term) = (None, None)));
    }

    #[test]
    fn in_observe_and_disarmed_everything_passes() {
        for mode in [Mode::Observe, Mode::Disarmed] {
            assert!(judge(|v| (v.mode, v.fenced, v.term) = (Some(mode), Some("x"), None)));
            assert!(judge(|v| (v.mode, v.last_known_mode, v.term) = (None, mode, None)));
        }
    }

    #[test]
    fn a_local_disarm_opens_everything_but_a_fence() {
        let local = crate::local_disarm::tests::disarmed(false);
        let anothers = open("b");
        for agent_gone in [true, false] {
            let judge = |change: &dyn Fn(&mut View<'_>)| {
                judge(|v| {
                    (v.local, v.term, v.agent_gone) = (Some(&local), Some(&anothers), agent_gone);
                    change(v);
                })
            };
            assert!(judge(&|v| (v.mode, v.attesting, v.given_back) = (None, true, true)));
            assert!(judge(&|v| v.contradiction = Some("term 4, not 5")));
            assert!(!judge(&|v| v.fenced = Some("by ann")), "promise I5");
        }
        let over = crate::local_disarm::tests::disarmed(true);
        assert!(judge(|v| (v.local, v.fenced) = (Some(&over), Some("by ann"))));
        let ended = crate::local_disarm::tests::ended();
        assert!(!judge(|v| (v.local, v.mode, v.term) = (Some(&ended), None, None)));
    }

    #[test]
    fn an_etcd_that_has_forgotten_us_starts_no_primary() {
        let forgotten = |start_as| {
            judge(|v| {
                (v.mode, v.term, v.contradiction, v.start_as) = (None, None, Some("term 4, not 5"), start_as)
            })
        };
        assert!(!forgotten(StartAs::Primary));
        assert!(forgotten(StartAs::Standby));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn each_rule_that_can_be_left_out_is_what_these_tests_rest_on() {
        use crate::mutant::without;
        let fenced = || judge(|v| v.fenced = Some("test"));
        assert!(without(Mutant::FenceIgnored, fenced));
        let others = open("b");
        let primary = || judge(|v| v.term = Some(&others));
        assert!(without(Mutant::StartGateOpen, primary));
    }
}
