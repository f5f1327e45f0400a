//! Whether clients should come to a PgBouncer of this host, and when one that hangs is ended.
//!
//! A virtual address or a load balancer goes elsewhere on a no, so a no is said only for what another pooler could do better: a
//! PgBouncer that is dead or hangs, clients that are not sent to the writer of the term in force, a writer that is not reached
//! from here. Clients that wait because nobody writes, or for a planned operation, wait on every pooler: that is a yes. So is
//! silence of etcd, which would otherwise take all poolers away at once and with them a writer that is well.
//! It asks nobody and does nothing. Called by the agent's `pooler` for each question, and once a second.

use holdfast_types::{MemberName, Mode, Term};

use crate::cluster::Cluster;
use crate::member::term_in_force;
use crate::route::Route;

/// Putting a route in place takes milliseconds; one that takes longer hangs at something of this host.
pub const BEHIND_MS: u64 = 1_000;
/// PgBouncer answers its console between two events; a machine that is busy makes that a second or two. No client gets on
/// while its event loop stands still.
pub const HANGS_MS: u64 = 5_000;
/// A PgBouncer that was ended is not ended again within this.
pub const AGAIN_MS: u64 = 60_000;
/// Its unit starts it after 0.1 s; one that does not answer so long after that is a person's affair.
pub const NO_HELP_MS: u64 = 10_000;

/// What was seen last is what is so for this long: a look is over after 2.5 s at most, and the next begins within a second.
pub const LOOK_HOLDS_MS: u64 = 5_000;

/// What the admin console says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Console {
    /// It was not asked yet by this start of the agent, or not lately.
    NotAsked,
    /// It answers.
    Answers(Clients),
    /// It takes a connection, or has taken one, and does not answer.
    Hangs {
        /// For so long.
        for_ms: u64,
    },
    /// It cannot be connected to, or does not let the agent ask.
    Dead {
        /// For so long.
        for_ms: u64,
        /// Why.
        why: String,
    },
}

/// Clients without a server connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clients {
    /// How many wait.
    pub waiting: u64,
    /// For how long the first of them has, in milliseconds.
    pub waited_ms: u64,
}

/// The process behind the console, as the kernel counts it: a sign that owes nothing to what it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// The state that `/proc` shows.
    pub state: char,
    /// Processor time that it has used, in milliseconds.
    pub ran_ms: u64,
    /// How often it has waited of its own accord. PgBouncer's event loop does so three times a second with nothing to do: its
    /// janitor has a period of 1/3 s.
    pub waits: u64,
    /// When this was read, in milliseconds of this host's clock.
    pub at_ms: u64,
}

/// Whether its event loop has not gone round once between two readings: it is stopped, blocks in a call, or loops. One that
/// gets no processor time, or is held by the kernel, is another matter, which its end would not help.
pub fn stood_still(before: &Process, now: &Process) -> bool {
    let elapsed_ms = now.at_ms.saturating_sub(before.at_ms);
    let ran_ms = now.ran_ms.saturating_sub(before.ran_ms);
    let is_its_own = match now.state {
        'T' | 't' | 'S' => true,
        'R' => ran_ms.saturating_mul(2) >= elapsed_ms,
        _ => false,
    };
    before.pid == now.pid && before.waits == now.waits && is_its_own
}

/// What is known at the moment of the question; nothing is looked up for it.
#[derive(Debug, Clone)]
pub struct View<'v> {
    /// The cluster as the watch shows it, or showed it last.
    pub cluster: &'v Cluster,
    /// For how long etcd has not been heard, in milliseconds; `None` while it is.
    pub silent_ms: Option<u64>,
    /// A person has disarmed this host alone.
    pub disarmed_here: bool,
    /// Where clients should be, as it was decided last, and since how many milliseconds.
    pub wanted: Option<(&'v Route, u64)>,
    /// Where they are.
    pub applied: Option<&'v Route>,
    /// Its console.
    pub console: &'v Console,
    /// For how long the writer that clients are sent to has taken no connection from this host, in milliseconds.
    pub unreached_ms: Option<u64>,
    /// So long the loss of a writer may take to be noticed; until then it is everybody's.
    pub unreached_ms_max: u64,
    /// Why a person wants no clients here.
    pub drained: Option<&'v str>,
}

/// Why clients should come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The texts are the meaning.
pub enum Up {
    #[error("its clients reach {writer}, the writer of term {term}")]
    Writer { writer: MemberName, term: Term },
    #[error("its clients are being sent to {writer}, the writer of term {term}")]
    Following { writer: MemberName, term: Term },
    #[error("its clients wait, as on every pooler: term {0} has no writer yet, or hands over")]
    Waits(Term),
    #[error("mode {0}: who routes its clients is not Holdfast")]
    NotRouted(Mode),
    #[error("armed, and the first term is not open yet: its clients stay where they are")]
    NoTerm,
    #[error("etcd has not been heard for {silent_ms} ms: its clients stay with the last writer")]
    Silent { silent_ms: u64 },
    #[error("etcd was not heard yet: its clients stay with the last writer")]
    NotHeard,
}

/// Why they should not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Down {
    #[error("it has not been looked at yet, or not lately")]
    NotAsked,
    #[error("PgBouncer hangs: its admin console has not answered for {for_ms} ms")]
    Hangs { for_ms: u64 },
    #[error("PgBouncer cannot be asked: {why}")]
    Dead { why: String },
    #[error("it is drained: {0}")]
    Drained(String),
    #[error("this host is disarmed locally: its clients follow nobody")]
    DisarmedHere,
    #[error("the mode or term record cannot be read; upgrade this host")]
    Unreadable,
    #[error("its clients are not sent to {writer}, the writer of term {term}, for {for_ms} ms")]
    Behind { writer: MemberName, term: Term, for_ms: u64 },
    #[error("where the writer of term {0} is, or an older one, is not known here")]
    NoRoute(Term),
    #[error("the writer takes no connection from this host for {for_ms} ms")]
    Unreached { for_ms: u64 },
}

/// The answer.
pub fn check(view: &View<'_>) -> Result<Up, Down> {
    match view.console {
        Console::NotAsked => return Err(Down::NotAsked),
        Console::Hangs { for_ms } => return Err(Down::Hangs { for_ms: *for_ms }),
        Console::Dead { why, .. } => return Err(Down::Dead { why: why.clone() }),
        Console::Answers(_) => {}
    }
    if let Some(why) = view.drained {
        return Err(Down::Drained(why.to_owned()));
    }
    let reached = || match view.unreached_ms {
        Some(for_ms) if for_ms > view.unreached_ms_max => Err(Down::Unreached { for_ms }),
        _ => Ok(()),
    };
    if view.cluster.revision == 0 {
        return Ok(Up::NotHeard);
    }
    let mode = view.cluster.known_mode().ok_or(Down::Unreadable)?;
    if mode != Mode::Armed {
        return Ok(Up::NotRouted(mode));
    }
    if view.disarmed_here {
        return Err(Down::DisarmedHere);
    }
    if let Some(silent_ms) = view.silent_ms {
        return reached().map(|()| Up::Silent { silent_ms });
    }
    if view.cluster.term.is_none() && view.cluster.cannot_tell_terms() {
        return Err(Down::Unreadable);
    }
    let Some(in_force) = term_in_force(view.cluster) else { return Ok(Up::NoTerm) };
    match view.wanted {
        Some((Route::Hold { term, .. }, _)) => Ok(Up::Waits(*term)),
        Some((route @ Route::To { term, writer, .. }, for_ms)) => {
            let (writer, term) = (writer.clone(), *term);
            if view.applied == Some(route) {
                reached().map(|()| Up::Writer { writer, term })
            } else if for_ms <= BEHIND_MS {
                Ok(Up::Following { writer, term })
            } else {
                Err(Down::Behind { writer, term, for_ms })
            }
        }
        Some((Route::Leave, for_ms)) if for_ms > BEHIND_MS => Err(Down::NoRoute(in_force.value.term)),
        Some((Route::Leave, _)) | None => Ok(Up::NoTerm),
    }
}

/// What is to be done about a PgBouncer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Nothing.
    Nothing,
    /// It hangs: it is ended, and its unit starts it again.
    End,
    /// That has not helped, or its unit does not start it: a person is called.
    Call,
}

/// Decides it. `still_ms` is for how long its process has stood still: two signs that know nothing of each other must agree
/// before it is ended. `ended_ms` is how long ago it was ended last; `may_act` is false unless the cluster is armed and nobody
/// has suspended automatic action.
pub fn care(console: &Console, still_ms: Option<u64>, ended_ms: Option<u64>, may_act: bool) -> Care {
    let stands_still = still_ms.is_some_and(|still_ms| still_ms >= HANGS_MS);
    let is_time = ended_ms.is_none_or(|ago_ms| ago_ms >= AGAIN_MS);
    match *console {
        Console::NotAsked | Console::Answers(_) => Care::Nothing,
        Console::Dead { for_ms, .. } if for_ms >= NO_HELP_MS => Care::Call,
        Console::Hangs { for_ms } if for_ms >= HANGS_MS && stands_still && may_act && is_time => Care::End,
        // One that was ended for this very silence, that goes on working, or whose silence nobody may end.
        Console::Hangs { for_ms } if for_ms >= HANGS_MS + NO_HELP_MS => Care::Call,
        Console::Dead { .. } | Console::Hangs { .. } => Care::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::Revised;
    use crate::testing::{name, term_open};
    use holdfast_types::record::ModeRecord;

    fn cluster(mode: Mode) -> Cluster {
        let mode = ModeRecord { mode, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
        Cluster {
            revision: 9,
            mode: Some(Revised { value: mode, mod_revision: 1 }),
            term: Some(Revised { value: term_open("a", 4, true), mod_revision: 2 }),
            ..Cluster::default()
        }
    }

    fn to(writer: &str, term: u64) -> Route {
        Route::To { term: Term(term), writer: name(writer), address: ("10.0.0.1".into(), 5432) }
    }

    const WELL: Console = Console::Answers(Clients { waiting: 0, waited_ms: 0 });

    fn view<'v>(cluster: &'v Cluster, wanted: &'v Route, applied: Option<&'v Route>) -> View<'v> {
        View {
            cluster,
            silent_ms: None,
            disarmed_here: false,
            wanted: Some((wanted, 300)),
            applied,
            console: &WELL,
            unreached_ms: None,
            unreached_ms_max: 6_000,
            drained: None,
        }
    }

    #[test]
    fn clients_come_where_they_reach_the_writer_in_force() {
        let (armed, now, before) = (cluster(Mode::Armed), to("a", 4), to("b", 3));
        let well = view(&armed, &now, Some(&now));
        assert_eq!(check(&well), Ok(Up::Writer { writer: name("a"), term: Term(4) }));
        let behind = View { wanted: Some((&now, 1_000)), ..view(&armed, &now, Some(&before)) };
        assert_eq!(check(&behind), Ok(Up::Following { writer: name("a"), term: Term(4) }));
        let behind = View { wanted: Some((&now, 1_001)), ..behind };
        assert_eq!(
            check(&behind),
            Err(Down::Behind { writer: name("a"), term: Term(4), for_ms: 1_001 }),
            "another pooler has followed"
        );
        let drained = View { drained: Some("kernel"), ..well.clone() };
        assert_eq!(check(&drained), Err(Down::Drained("kernel".into())));
        let local = View { disarmed_here: true, ..well.clone() };
        assert_eq!(check(&local), Err(Down::DisarmedHere));
        let away = |unreached_ms| check(&View { unreached_ms: Some(unreached_ms), ..well.clone() });
        assert!(away(6_000).is_ok(), "its loss may be everybody's, and not noticed yet");
        assert_eq!(away(6_001), Err(Down::Unreached { for_ms: 6_001 }));
    }

    #[test]
    fn what_every_pooler_waits_for_takes_no_client_away() {
        let armed = cluster(Mode::Armed);
        let hold = Route::Hold { term: Term(4), lost: None };
        let long = View { wanted: Some((&hold, 60_000)), ..view(&armed, &hold, None) };
        assert_eq!(check(&long), Ok(Up::Waits(Term(4))), "PAUSE may wait for a transaction");
        let silent = View { silent_ms: Some(90_000), ..view(&armed, &hold, None) };
        assert_eq!(check(&silent), Ok(Up::Silent { silent_ms: 90_000 }));
        let cut_off = View { unreached_ms: Some(9_000), ..silent };
        assert_eq!(check(&cut_off), Err(Down::Unreached { for_ms: 9_000 }));
        let never = Cluster::default();
        assert_eq!(check(&view(&never, &Route::Leave, None)), Ok(Up::NotHeard));
        let observed = cluster(Mode::Observe);
        assert_eq!(check(&view(&observed, &Route::Leave, None)), Ok(Up::NotRouted(Mode::Observe)));
        let unreadable = Cluster { mode_unreadable: true, ..cluster(Mode::Armed) };
        assert_eq!(check(&view(&unreadable, &hold, None)), Err(Down::Unreadable));
    }

    #[test]
    fn a_dead_and_a_hung_pgbouncer_are_left_by_their_clients_whatever_else_is_so() {
        let (observed, hold) = (cluster(Mode::Observe), Route::Hold { term: Term(4), lost: None });
        let with = |console: &Console| check(&View { console, ..view(&observed, &hold, None) });
        assert_eq!(with(&Console::NotAsked), Err(Down::NotAsked));
        assert_eq!(with(&Console::Hangs { for_ms: 7 }), Err(Down::Hangs { for_ms: 7 }));
        let dead = Console::Dead { for_ms: 0, why: "refused".into() };
        assert_eq!(with(&dead), Err(Down::Dead { why: "refused".into() }));
    }

    #[test]
    fn one_that_hangs_is_ended_once_and_then_a_person_is_called() {
        let hangs = |for_ms| Console::Hangs { for_ms };
        let still = Some(HANGS_MS);
        assert_eq!(care(&hangs(HANGS_MS - 1), still, None, true), Care::Nothing);
        assert_eq!(care(&hangs(HANGS_MS), still, None, true), Care::End);
        assert_eq!(
            care(&hangs(HANGS_MS), still, Some(AGAIN_MS - 1), true),
            Care::Nothing,
            "not again so soon"
        );
        assert_eq!(care(&hangs(HANGS_MS + NO_HELP_MS), still, Some(10_000), true), Care::Call);
        assert_eq!(care(&hangs(AGAIN_MS), still, Some(AGAIN_MS), true), Care::End);
        assert_eq!(care(&hangs(HANGS_MS), still, None, false), Care::Nothing, "suspended, or not armed");
        assert_eq!(care(&hangs(HANGS_MS + NO_HELP_MS), still, None, false), Care::Call, "it is said");
        for not_still in [None, Some(HANGS_MS - 1)] {
            assert_eq!(care(&hangs(HANGS_MS), not_still, None, true), Care::Nothing, "its process works");
            assert_eq!(care(&hangs(HANGS_MS + NO_HELP_MS), not_still, None, true), Care::Call);
        }
        let dead = |for_ms| Console::Dead { for_ms, why: String::new() };
        assert_eq!(
            [0, NO_HELP_MS].map(|for_ms| care(&dead(for_ms), still, None, true)),
            [Care::Nothing, Care::Call],
            "its unit starts it"
        );
        assert_eq!(care(&WELL, still, None, true), Care::Nothing);
    }

    #[test]
    fn a_process_stands_still_that_is_stopped_blocks_or_loops() {
        let before = Process { pid: 7, state: 'S', ran_ms: 100, waits: 50, at_ms: 1_000 };
        let later = |state, ran_ms, waits| Process { pid: 7, state, ran_ms, waits, at_ms: 6_000 };
        for (now, is_still) in [
            (later('T', 100, 50), true),
            (later('S', 100, 50), true),
            (later('R', 2_600, 50), true),
            (later('R', 2_599, 50), false), // It gets too little processor time.
            (later('S', 110, 51), false),
            (later('D', 100, 50), false),
            (later('Z', 100, 50), false),
            (Process { pid: 8, ..later('S', 100, 50) }, false),
        ] {
            assert_eq!(stood_still(&before, &now), is_still, "{now:?}");
        }
    }
}
