//! Rule 9: whether the writer's own PostgreSQL hangs, and for how long it has.
//!
//! Hung is told from slow by independent signs that agree. Processes hang when a question on a session that was open, and a
//! connection that is made anew, have both been without a byte for all that time, and none of PostgreSQL's processes has
//! used the processor meanwhile: a server that is starved, overloaded, out of connections, starting or in recovery answers
//! something, or at least runs. A disk hangs when a small write of ours beside PostgreSQL's does not reach it, and no WAL has
//! become durable meanwhile: a checkpoint or another's load slows both down, but WAL goes on. What is not known counts for
//! life. No promise rests on the verdict: whoever is ended for it is ended in the same way, and seen ended, as after a crash.
//!
//! Called by the writer's agent a few times a second while an answer is outstanding. It never acts.

use holdfast_types::Timings;

use crate::mutant::{Mutant, left_out};

/// Processor time that hung processes cannot use: two ticks of the kernel's accounting.
const RAN_MS_MAX: u64 = 20;

/// What was seen of the writer. Times are those in which this agent itself ran: a host that stands still proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs {
    /// For how long a question on an open session is without an answer, in milliseconds; `None`: it was answered, with
    /// whatever, or could not be asked.
    pub session_silent_ms: Option<u64>,
    /// The same of a connection that was begun after that question.
    pub connection_silent_ms: Option<u64>,
    /// Processor time of PostgreSQL's processes since the connection was begun, in milliseconds; `None`: not known.
    pub ran_ms: Option<u64>,
    /// For how long a write of ours has not reached the disk, in milliseconds; `None`: it has, or there is none.
    pub disk_silent_ms: Option<u64>,
    /// For how long no WAL is known to have become durable, in milliseconds.
    pub wal_stands_ms: u64,
    /// The file system refuses writes.
    pub disk_is_read_only: bool,
}

/// What hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// PostgreSQL's processes.
    Processes,
    /// The file system of its data or of its WAL.
    Disk,
    /// That file system has turned read-only.
    ReadOnly,
}

/// A writer that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hung {
    /// What of it.
    pub cause: Cause,
    /// For how long it is known to, in milliseconds.
    pub for_ms: u64,
}

/// What is felt of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing speaks for a hang.
    Beats,
    /// It hangs, maybe only for a moment.
    Hung(Hung),
}

impl Pulse {
    /// For how long it hangs, in milliseconds; 0 when it does not.
    pub fn hung_ms(self) -> u64 {
        match self {
            Self::Beats => 0,
            Self::Hung(hung) => hung.for_ms,
        }
    }
}

impl Hung {
    /// Whether it has lasted long enough to give the term away. A file system that refuses writes does not come back.
    pub fn is_over(self, timings: &Timings) -> bool {
        let waits = left_out(Mutant::HungWaitedFor);
        self.cause == Cause::ReadOnly || (self.for_ms >= timings.hung_after_ms() && !waits)
    }
}

impl std::fmt::Display for Hung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.cause {
            Cause::Processes => {
                write!(f, "PostgreSQL does not answer and does not run, for {} ms", self.for_ms)
            }
            Cause::Disk => write!(f, "the disk of PostgreSQL takes no writes, for {} ms", self.for_ms),
            Cause::ReadOnly => write!(f, "the file system of PostgreSQL is read-only"),
        }
    }
}

/// Judges the signs.
pub fn judge(signs: &Signs) -> Pulse {
    if signs.disk_is_read_only {
        return Pulse::Hung(Hung { cause: Cause::ReadOnly, for_ms: 0 });
    }
    let runs = signs.ran_ms.is_none_or(|ran_ms| ran_ms >= RAN_MS_MAX);
    let processes_ms = match (signs.session_silent_ms, signs.connection_silent_ms) {
        (Some(session_ms), Some(connection_ms)) if !runs => session_ms.min(connection_ms),
        _ => 0,
    };
    let disk_ms = signs.disk_silent_ms.map_or(0, |silent_ms| silent_ms.min(signs.wal_stands_ms));
    match (processes_ms, disk_ms) {
        (0, 0) => Pulse::Beats,
        // A disk that hangs stops processes too: it is the cause.
        (processes_ms, disk_ms) if disk_ms >= processes_ms => {
            Pulse::Hung(Hung { cause: Cause::Disk, for_ms: disk_ms })
        }
        (processes_ms, _) => Pulse::Hung(Hung { cause: Cause::Processes, for_ms: processes_ms }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::timings::Profile;

    fn stopped() -> Signs {
        Signs {
            session_silent_ms: Some(5_000),
            connection_silent_ms: Some(4_800),
            ran_ms: Some(0),
            wal_stands_ms: 5_200,
            ..Signs::default()
        }
    }

    fn disk() -> Signs {
        Signs { disk_silent_ms: Some(4_500), wal_stands_ms: 4_700, ..Signs::default() }
    }

    fn hung(cause: Cause, for_ms: u64) -> Pulse {
        Pulse::Hung(Hung { cause, for_ms })
    }

    #[test]
    fn processes_hang_for_as_long_as_all_signs_say_so() {
        assert_eq!(judge(&stopped()), hung(Cause::Processes, 4_800));
        assert_eq!(judge(&Signs::default()), Pulse::Beats);
    }

    #[test]
    fn each_sign_of_life_will_do() {
        let beats = |change: fn(&mut Signs)| {
            let mut signs = stopped();
            change(&mut signs);
            assert_eq!(judge(&signs), Pulse::Beats, "{signs:?}");
        };
        // An answer on the open session: the postmaster alone hangs, and whoever is connected goes on.
        beats(|s| s.session_silent_ms = None);
        // "too many clients", "the database system is starting up": the postmaster makes backends.
        beats(|s| s.connection_silent_ms = None);
        // Starved or overloaded: it runs.
        beats(|s| s.ran_ms = Some(RAN_MS_MAX));
        // Not known is no silence.
        beats(|s| s.ran_ms = None);
    }

    #[test]
    fn a_disk_hangs_when_neither_we_nor_postgresql_get_anything_onto_it() {
        assert_eq!(judge(&disk()), hung(Cause::Disk, 4_500));
        // Our write waits behind a checkpoint, and WAL goes on.
        assert_eq!(judge(&Signs { wal_stands_ms: 0, ..disk() }), Pulse::Beats);
        assert_eq!(judge(&Signs { wal_stands_ms: 300, ..disk() }), hung(Cause::Disk, 300));
        // Nobody commits, and our write arrives.
        assert_eq!(judge(&Signs { disk_silent_ms: None, ..disk() }), Pulse::Beats);
        let both = Signs { disk_silent_ms: Some(4_900), ..stopped() };
        assert_eq!(judge(&both), hung(Cause::Disk, 4_900));
    }

    #[test]
    fn a_stall_is_waited_for_and_a_read_only_file_system_is_not() {
        for profile in [Profile::Fast, Profile::Normal, Profile::Wide] {
            let timings = Timings::of(profile);
            let of = |cause, for_ms| Hung { cause, for_ms }.is_over(&timings);
            for cause in [Cause::Processes, Cause::Disk] {
                assert!(!of(cause, timings.hung_after_ms() - 1), "{profile:?}");
                assert!(of(cause, timings.hung_after_ms()), "{profile:?}");
            }
            assert!(of(Cause::ReadOnly, 0));
        }
        let read_only = Signs { disk_is_read_only: true, ..Signs::default() };
        assert_eq!(judge(&read_only), hung(Cause::ReadOnly, 0));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn each_rule_that_can_be_left_out_is_what_these_tests_rest_on() {
        use crate::mutant::{Mutant, without};
        let hung = Hung { cause: Cause::Processes, for_ms: 60_000 };
        assert!(!without(Mutant::HungWaitedFor, || hung.is_over(&Timings::of(Profile::Fast))));
    }
}
