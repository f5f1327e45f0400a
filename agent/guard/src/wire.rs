//! What agent and guard say to each other: fixed-size messages, each packet one of them. Pure.
//!
//! An agent of a newer build meets an older guard during an upgrade, so every message carries the version, and a guard
//! that does not know it answers [`Refusal::Malformed`]. Decoding accepts exactly what encoding makes: a message with
//! anything else in a byte that its kind does not use is refused.

mod bytes;

use bytes::{Reader, Writer};

/// Where the guard listens unless told otherwise.
pub const SOCKET: &str = "/run/holdfast/guard.sock";
/// The version of the messages below.
pub const VERSION: u16 = 1;
/// The size of every request.
pub const REQUEST_BYTES: usize = 98;
/// The size of every reply.
pub const REPLY_BYTES: usize = 172;
/// The longest name of an instance.
pub const NAME_BYTES_MAX: usize = 63;
/// How many instances one guard keeps.
pub const INSTANCES_MAX: usize = 16;
/// How far ahead a deadline may lie. The longest profile gives a writer 11 s; a minute is a mistake in a unit.
pub const DEADLINE_AHEAD_MAX_NS: u64 = 60_000_000_000;
/// How many processes that cannot be killed a reply names.
pub const STUCK_MAX: usize = 8;

const REQUEST_MAGIC: [u8; 4] = *b"HFGq";
const REPLY_MAGIC: [u8; 4] = *b"HFGa";

/// The name of an instance: 1 to 63 printable ASCII characters without space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    length: u8,
    bytes: [u8; NAME_BYTES_MAX],
}

impl Name {
    /// Takes a name; `None` if it is empty, too long, or has other characters.
    pub fn new(text: &str) -> Option<Self> {
        let length = u8::try_from(text.len()).ok()?;
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| {
            let mut bytes = [0; NAME_BYTES_MAX];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            Self { length, bytes }
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("a name is ASCII")
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// What the agent asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Guard this instance. Its cgroup directory comes with the packet as an open descriptor. An instance that is known
    /// keeps its term, its deadline and its proof and gets the new directory: Patroni's unit has a new one at each start.
    Register {
        /// Which.
        name: Name,
        /// The port of its PostgreSQL, kept for whoever reads the proof.
        port: u16,
        /// Its postmaster's process id; `None`: none runs, or it is not known.
        postmaster: Option<i32>,
    },
    /// The writer of this term may live until the deadline, which takes the place of the last one.
    Extend {
        /// Which.
        name: Name,
        /// The term of its lease.
        term: u64,
        /// `CLOCK_BOOTTIME` in nanoseconds, the guard's grace included.
        deadline_ns: u64,
        /// Its postmaster's process id; `None`: none runs, or it is not known.
        postmaster: Option<i32>,
    },
    /// No writer runs any more, or the duty went to somebody else: nothing is killed until the next extension.
    Release {
        /// Which.
        name: Name,
        /// The term that is over.
        term: u64,
    },
    /// What the guard knows of this instance.
    Query {
        /// Which.
        name: Name,
    },
    /// What the guard knows of the instance in this place, 0 up to [`INSTANCES_MAX`].
    QueryPlace {
        /// The place.
        place: u16,
    },
    /// A person takes Holdfast out of the way on this host: nothing is guarded any more, whoever has asked for it, and the
    /// watchdog is let go of. Until the next extension. Answered by [`Reply::Absent`]; a guard of a build before it answers
    /// [`Refusal::Malformed`].
    StandDown,
}

/// What the guard answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Done, or asked: this is how the instance stands now.
    State(State),
    /// Not done, nothing has changed.
    Refused(Refusal),
    /// No such instance; after [`Request::StandDown`]: none any more.
    Absent,
}

/// How an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Which.
    pub name: Name,
    /// The port of its PostgreSQL.
    pub port: u16,
    /// What the guard does for it.
    pub phase: Phase,
    /// The highest term it has heard of.
    pub term: u64,
    /// The deadline in force; 0 unless armed.
    pub deadline_ns: u64,
    /// Where its postmaster is.
    pub postmaster: Postmaster,
    /// What the watchdog gets.
    pub watchdog: Watchdog,
    /// The last kill since the guard started.
    pub last_kill: Option<Kill>,
}

/// What the guard does for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: registered or released.
    Idle,
    /// Kills at the deadline.
    Armed,
    /// The deadline has passed and somebody is still there.
    Killing,
    /// All are gone; [`State::last_kill`] is the proof.
    Killed,
}

/// Where the postmaster was when the agent last named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Postmaster {
    /// Not named, or gone.
    Unknown,
    /// In the guarded cgroup.
    Inside,
    /// Not in it (started by hand): held by a descriptor, and killed with its children.
    Outside,
}

/// What the watchdog gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watchdog {
    /// There is none, or it is not needed.
    None,
    /// Food.
    Fed,
    /// Nothing: a deadline has passed and somebody is still there, or a former guard's duty has not been taken over.
    Withheld,
}

/// One kill. All times are `CLOCK_BOOTTIME` in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// The term whose deadline passed.
    pub term: u64,
    /// The deadline.
    pub deadline_ns: u64,
    /// When the kill was begun.
    pub begun_ns: u64,
    /// When all were seen gone; `None`: not yet.
    pub empty_ns: Option<u64>,
    /// How many are still there.
    pub left: u32,
    /// Those of them that are in uninterruptible sleep (the first eight): they end when the kernel lets them go.
    pub stuck: Stuck,
}

/// The first few process ids in uninterruptible sleep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stuck {
    count: u8,
    pids: [i32; STUCK_MAX],
}

impl Stuck {
    /// Adds one; what does not fit is dropped.
    pub fn push(&mut self, pid: i32) {
        if let Some(place) = self.pids.get_mut(usize::from(self.count)) {
            *place = pid;
            self.count += 1;
        }
    }

    /// The process ids.
    pub fn pids(&self) -> &[i32] {
        &self.pids[..usize::from(self.count)]
    }
}

/// Why the guard refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not a message of this version.
    Malformed,
    /// Nobody has registered this instance.
    UnknownInstance,
    /// There is no room for one more instance.
    Full,
    /// The deadline lies in the past.
    Past,
    /// The deadline lies further ahead than [`DEADLINE_AHEAD_MAX_NS`].
    TooFar,
    /// A higher term has been heard of.
    LowerTerm,
    /// The last deadline has passed: what it guarded is being killed.
    Killing,
    /// The descriptor is missing, or not that of a cgroup v2 directory below the root.
    NotACgroup,
    /// The guard itself is in that cgroup.
    OwnCgroup,
    /// The process id is none that PostgreSQL can have.
    BadProcess,
    /// The cgroup that was registered has been removed: whoever runs now runs in another one.
    CgroupGone,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malformed => {
                "it does not understand the message: agent and guard are of different versions"
            }
            Self::UnknownInstance => "the instance is not registered: register it again",
            Self::Full => "it guards 16 instances already: restart the guard to forget those that are gone",
            Self::Past => "the deadline lies in the past",
            Self::TooFar => "the deadline lies more than 60 s ahead",
            Self::LowerTerm => "it has heard of a higher term",
            Self::Killing => "the last deadline has passed and the kill has not ended",
            Self::NotACgroup => "the descriptor is not that of a cgroup v2 directory below the root",
            Self::OwnCgroup => "the guard itself runs in that cgroup: give it a unit of its own",
            Self::BadProcess => "this process id cannot be PostgreSQL's",
            Self::CgroupGone => "the cgroup has been removed, register the one that took its place",
        })
    }
}

/// A request with the number that its reply repeats.
pub fn encode_request(serial: u32, request: &Request) -> [u8; REQUEST_BYTES] {
    let mut writer = Writer::<REQUEST_BYTES>::new(REQUEST_MAGIC);
    let mut put = |kind: u16,
                   short: u16,
                   pid: Option<i32>,
                   term: u64,
                   deadline_ns: u64,
                   name: Option<&Name>| {
        writer.u16(kind).u32(serial).u16(short).i32(pid.unwrap_or(0)).u64(term).u64(deadline_ns).name(name);
    };
    match request {
        Request::Register { name, port, postmaster } => put(1, *port, *postmaster, 0, 0, Some(name)),
        Request::Extend { name, term, deadline_ns, postmaster } => {
            put(2, 0, *postmaster, *term, *deadline_ns, Some(name));
        }
        Request::Release { name, term } => put(3, 0, None, *term, 0, Some(name)),
        Request::Query { name } => put(4, 0, None, 0, 0, Some(name)),
        Request::QueryPlace { place } => put(5, *place, None, 0, 0, None),
        Request::StandDown => put(6, 0, None, 0, 0, None),
    }
    writer.finish()
}

/// Reads a request; `None` if it is not one of ours.
pub fn decode_request(packet: &[u8]) -> Option<(u32, Request)> {
    let mut reader = Reader::open::<REQUEST_BYTES>(packet, REQUEST_MAGIC)?;
    let (kind, serial, short, pid) = (reader.u16()?, reader.u32()?, reader.u16()?, reader.i32()?);
    let (term, deadline_ns, name) = (reader.u64()?, reader.u64()?, reader.name()?);
    let postmaster = (pid != 0).then_some(pid);
    let request = match kind {
        1 => Request::Register { name: name?, port: short, postmaster },
        2 => Request::Extend { name: name?, term, deadline_ns, postmaster },
        3 => Request::Release { name: name?, term },
        4 => Request::Query { name: name? },
        5 => Request::QueryPlace { place: short },
        6 => Request::StandDown,
        _ => return None,
    };
    // What a kind does not use must be zero, and so must the rest of the name: one message, one form.
    (encode_request(serial, &request) == packet).then_some((serial, request))
}

/// The number of a packet that may not be a request at all; 0 if it has none.
pub fn serial_of(packet: &[u8]) -> u32 {
    packet.get(8..12).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// A reply to the request with this number.
pub fn encode_reply(serial: u32, reply: &Reply) -> [u8; REPLY_BYTES] {
    let mut writer = Writer::<REPLY_BYTES>::new(REPLY_MAGIC);
    match reply {
        Reply::Absent => {
            writer.u16(1).u32(serial);
        }
        Reply::Refused(refusal) => {
            writer.u16(2).u32(serial).u16(code(&REFUSALS, refusal));
        }
        Reply::State(state) => {
            writer.u16(3).u32(serial).u16(state.port);
            writer.u16(code(&PHASES, &state.phase)).u16(code(&POSTMASTERS, &state.postmaster));
            writer.u16(code(&WATCHDOGS, &state.watchdog)).u64(state.term).u64(state.deadline_ns);
            writer.name(Some(&state.name));
            if let Some(kill) = &state.last_kill {
                writer.u16(1).u16(u16::from(kill.stuck.count)).u64(kill.term).u64(kill.deadline_ns);
                writer.u64(kill.begun_ns).u64(kill.empty_ns.unwrap_or(0)).u32(kill.left);
                for pid in kill.stuck.pids() {
                    writer.i32(*pid);
                }
            }
        }
    }
    writer.finish()
}

/// Reads a reply; `None` if it is not one of ours.
pub fn decode_reply(packet: &[u8]) -> Option<(u32, Reply)> {
    let mut reader = Reader::open::<REPLY_BYTES>(packet, REPLY_MAGIC)?;
    let (kind, serial) = (reader.u16()?, reader.u32()?);
    let reply = match kind {
        1 => Reply::Absent,
        2 => Reply::Refused(*REFUSALS.get(usize::from(reader.u16()?))?),
        3 => Reply::State(decode_state(&mut reader)?),
        _ => return None,
    };
    (encode_reply(serial, &reply) == packet).then_some((serial, reply))
}

fn decode_state(reader: &mut Reader<'_>) -> Option<State> {
    let port = reader.u16()?;
    let phase = *PHASES.get(usize::from(reader.u16()?))?;
    let postmaster = *POSTMASTERS.get(usize::from(reader.u16()?))?;
    let watchdog = *WATCHDOGS.get(usize::from(reader.u16()?))?;
    let (term, deadline_ns, name) = (reader.u64()?, reader.u64()?, reader.name()??);
    let last_kill = match reader.u16()? {
        0 => None,
        _ => Some(decode_kill(reader)?),
    };
    Some(State { name, port, phase, term, deadline_ns, postmaster, watchdog, last_kill })
}

fn decode_kill(reader: &mut Reader<'_>) -> Option<Kill> {
    let stuck_count = reader.u16()?;
    let (term, deadline_ns, begun_ns, empty_ns) =
        (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
    let left = reader.u32()?;
    let mut stuck = Stuck::default();
    for _ in 0..stuck_count {
        stuck.push(reader.i32()?);
    }
    let empty_ns = (empty_ns != 0).then_some(empty_ns);
    Some(Kill { term, deadline_ns, begun_ns, empty_ns, left, stuck })
}

const PHASES: [Phase; 4] = [Phase::Idle, Phase::Armed, Phase::Killing, Phase::Killed];
const POSTMASTERS: [Postmaster; 3] = [Postmaster::Unknown, Postmaster::Inside, Postmaster::Outside];
const WATCHDOGS: [Watchdog; 3] = [Watchdog::None, Watchdog::Fed, Watchdog::Withheld];
const REFUSALS: [Refusal; 11] = [
    Refusal::Malformed,
    Refusal::UnknownInstance,
    Refusal::Full,
    Refusal::Past,
    Refusal::TooFar,
    Refusal::LowerTerm,
    Refusal::Killing,
    Refusal::NotACgroup,
    Refusal::OwnCgroup,
    Refusal::BadProcess,
    Refusal::CgroupGone,
];

/// The place of a value in its list: lists only ever grow at their end.
fn code<T: PartialEq>(list: &[T], value: &T) -> u16 {
    let place = list.iter().position(|listed| listed == value).expect("the list names every value");
    u16::try_from(place).expect("the lists are short")
}

#[cfg(test)]
mod tests;
