//! What a fence device said when a peer asked it to end a writer's host (rule 11): who asked, how often, each answer.

use serde::{Deserialize, Serialize};

use super::{Reign, TermRecord};
use crate::{HostName, Incarnation, MemberName, SessionId, Term};

/// The longest text of a device that is kept, in bytes.
pub const DEVICE_TEXT_BYTES_MAX: usize = 200;

/// One peer's questions to the device of one writer's host. Each peer has one key, and the next incident is written over
/// the last: etcd holds a bounded number of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideRecord {
    /// The term that was open when the device was asked.
    pub term: Term,
    /// Its writer.
    pub writer: MemberName,
    /// The writer's host.
    pub host: HostName,
    /// The session of the term record at that moment, gone by then: a writer that is in office again has another.
    pub session: SessionId,
    /// The start of the asking agent: one that has ended brings nothing to its end.
    pub incarnation: Incarnation,
    /// The device, by the name of its configuration.
    pub device: String,
    /// What came of it.
    pub state: OutsideState,
    /// Each attempt, the first first; bounded by the configuration.
    #[serde(default)]
    pub tries: Vec<DeviceTry>,
    /// When the first one was begun: wall clock of the asker, milliseconds since 1970.
    pub began_wall_ms: i64,
    /// How long all of them took, in milliseconds; absent while it asks.
    #[serde(default)]
    pub took_ms: Option<u64>,
}

/// What came of asking a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutsideState {
    /// It is being asked.
    Asking,
    /// It switched the host off, and says so when it is asked again. The only one that is evidence.
    Off,
    /// It failed, hung, or contradicts itself: nothing rests on it.
    NotProved,
}

/// One attempt: the order, and the question whether it was followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTry {
    /// The answer to `off`.
    pub off: DeviceAnswer,
    /// The answer to `status`, which is asked only after an `off` that was said to be done.
    #[serde(default)]
    pub status: Option<DeviceAnswer>,
    /// Both together, in milliseconds.
    pub took_ms: u64,
}

/// How one call of a fence agent's program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ended")]
pub enum DeviceAnswer {
    /// With an exit code.
    Exit {
        /// 0: done, or (status) on. 2: (status) off. Anything else: it could not.
        code: i32,
        /// The last line of what it complained about, without secrets.
        #[serde(default)]
        text: String,
    },
    /// It was killed at its deadline.
    Hung,
    /// It was not run, or ended without an exit code.
    NotRun {
        /// Why.
        why: String,
    },
}

impl OutsideRecord {
    /// Whether it proves that the writer of this open term has stopped: the host is off, and was switched off under the
    /// session of the record. One that was switched on again has another.
    pub fn proves(&self, record: &TermRecord) -> bool {
        match &record.reign {
            Reign::Open { holder, session, .. } => {
                self.state == OutsideState::Off
                    && (self.term, &self.writer, self.session) == (record.term, holder, *session)
            }
            Reign::Closed { .. } => false,
        }
    }
}

impl std::fmt::Display for DeviceAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit { code, text } if text.is_empty() => write!(f, "exit code {code}"),
            Self::Exit { code, text } => write!(f, "exit code {code} ({text})"),
            Self::Hung => write!(f, "hung and was killed"),
            Self::NotRun { why } => write!(f, "{why}"),
        }
    }
}

impl std::fmt::Display for OutsideRecord {
    /// For people: what came of it, and the last answer.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, device, tries, .. } = self;
        let tried = match tries.len() {
            0 => String::new(),
            1 => " once".into(),
            many => format!(" {many} times"),
        };
        match self.state {
            OutsideState::Asking => write!(f, "{device} is being asked to switch {host} off"),
            OutsideState::Off => write!(f, "{device} was asked{tried}: {host} is off"),
            OutsideState::NotProved => {
                write!(f, "{device} was asked{tried} to switch {host} off, which is not proved")?;
                match tries.last() {
                    None => Ok(()),
                    Some(DeviceTry { off, status: None, .. }) => write!(f, "; off: {off}"),
                    Some(DeviceTry { off, status: Some(status), .. }) => {
                        write!(f, "; off: {off}, then status: {status}")
                    }
                }
            }
        }
    }
}
