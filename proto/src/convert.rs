//! Wire to domain and back: the only place that sees both.
//!
//! What arrives is checked here once: names, enumerations, the envelope. An unknown enumeration value of a newer build is
//! unknown, never a guess.

mod preflight;
mod report;

use holdfast_types::record::FORMAT;
use holdfast_types::{
    Class, HostName, Incarnation, Lsn, MemberName, Mode, NameError, Namespace, Position, RegionName, Scope,
    Term, Timeline,
};

use crate::message::{
    GrantAnswer, GrantQuestion, HostStatus, InstanceName, InstanceStatus, Life, LifeAnswer, LifeQuestion,
    PoolerStatus, PromiseHeld, Role, TermSeen,
};
use crate::wire;

/// Why a message cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A part that has no default is absent.
    #[error("{0} is missing from the message")]
    Missing(&'static str),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Written by a newer build.
    #[error("the message needs a reader of format {0}, this build reads up to {FORMAT}: upgrade this host")]
    TooNew(u64),
    /// An enumeration value without which the message means nothing.
    #[error("{field} has the unknown value {value}: the sender is of another version")]
    Enumeration {
        /// The field.
        field: &'static str,
        /// The number on the wire.
        value: i32,
    },
}

type Result<T> = std::result::Result<T, ConvertError>;

pub(crate) fn envelope() -> Option<wire::Envelope> {
    let (format, min_reader) = holdfast_types::record::envelope();
    Some(wire::Envelope {
        format,
        min_reader,
        #[cfg(feature = "as-newer-build")]
        newer: 1,
    })
}

pub(crate) fn opened(envelope: Option<wire::Envelope>) -> Result<()> {
    match envelope.ok_or(ConvertError::Missing("envelope"))?.min_reader {
        newer if newer > FORMAT => Err(ConvertError::TooNew(newer)),
        _ => Ok(()),
    }
}

impl From<&InstanceName> for wire::Instance {
    fn from(name: &InstanceName) -> Self {
        Self {
            namespace: name.namespace.to_string(),
            scope: name.scope.to_string(),
            member: name.member.to_string(),
        }
    }
}

fn instance(found: Option<wire::Instance>) -> Result<InstanceName> {
    let found = found.ok_or(ConvertError::Missing("instance"))?;
    Ok(InstanceName {
        namespace: Namespace::new(found.namespace)?,
        scope: Scope::new(found.scope)?,
        member: MemberName::new(found.member)?,
    })
}

impl From<Position> for wire::Position {
    fn from(position: Position) -> Self {
        Self { timeline: position.timeline.0, lsn: position.lsn.0 }
    }
}

impl From<wire::Position> for Position {
    fn from(position: wire::Position) -> Self {
        Self { timeline: Timeline(position.timeline), lsn: Lsn(position.lsn) }
    }
}

impl From<&HostStatus> for wire::HostStatus {
    fn from(status: &HostStatus) -> Self {
        Self {
            envelope: envelope(),
            region: status.region.to_string(),
            host: status.host.to_string(),
            incarnation: status.incarnation.0,
            version: status.version.clone(),
            at_wall_ms: status.at_wall_ms,
            etcd_reachable: status.etcd_reachable,
            instances: status.instances.iter().map(Into::into).collect(),
            poolers: status.poolers.iter().map(Into::into).collect(),
            problems: status.problems.clone(),
        }
    }
}

impl TryFrom<wire::HostStatus> for HostStatus {
    type Error = ConvertError;
    fn try_from(status: wire::HostStatus) -> Result<Self> {
        opened(status.envelope)?;
        Ok(Self {
            region: RegionName::new(status.region)?,
            host: HostName::new(status.host)?,
            incarnation: Incarnation(status.incarnation),
            version: status.version,
            at_wall_ms: status.at_wall_ms,
            etcd_reachable: status.etcd_reachable,
            instances: status.instances.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            poolers: status.poolers.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            problems: status.problems,
        })
    }
}

impl From<&InstanceStatus> for wire::InstanceStatus {
    fn from(status: &InstanceStatus) -> Self {
        let class = match status.class {
            Class::Quorum => wire::Class::Quorum,
            Class::On => wire::Class::On,
            Class::Off => wire::Class::Off,
        };
        let mode = match status.mode {
            Mode::Observe => wire::Mode::Observe,
            Mode::Armed => wire::Mode::Armed,
            Mode::Disarmed => wire::Mode::Disarmed,
        };
        let role = match status.role {
            None => wire::Role::Unspecified,
            Some(Role::Primary) => wire::Role::Primary,
            Some(Role::Standby) => wire::Role::Standby,
            Some(Role::Stopped) => wire::Role::Stopped,
        };
        Self {
            instance: Some((&status.name).into()),
            class: class.into(),
            mode: mode.into(),
            role: role.into(),
            position: status.position.map(Into::into),
            term: status.term.as_ref().map(Into::into),
            promise: status.promise.as_ref().map(Into::into),
            fenced: status.fenced.clone(),
            patroni_state: status.patroni_state.clone(),
            waits: status.waits.clone(),
            would: status.would.clone(),
            problems: status.problems.clone(),
            hung_ms: status.hung_ms,
        }
    }
}

impl TryFrom<wire::InstanceStatus> for InstanceStatus {
    type Error = ConvertError;
    fn try_from(status: wire::InstanceStatus) -> Result<Self> {
        let class = match status.class() {
            wire::Class::Quorum => Class::Quorum,
            wire::Class::On => Class::On,
            wire::Class::Off => Class::Off,
            wire::Class::Unspecified => {
                return Err(ConvertError::Enumeration { field: "class", value: status.class });
            }
        };
        let mode = match status.mode() {
            wire::Mode::Observe => Mode::Observe,
            wire::Mode::Armed => Mode::Armed,
            wire::Mode::Disarmed => Mode::Disarmed,
            wire::Mode::Unspecified => {
                return Err(ConvertError::Enumeration { field: "mode", value: status.mode });
            }
        };
        let role = match status.role() {
            wire::Role::Unspecified => None,
            wire::Role::Primary => Some(Role::Primary),
            wire::Role::Standby => Some(Role::Standby),
            wire::Role::Stopped => Some(Role::Stopped),
        };
        Ok(Self {
            name: instance(status.instance)?,
            class,
            mode,
            role,
            position: status.position.map(Into::into),
            term: status.term.map(TryInto::try_into).transpose()?,
            promise: status.promise.map(Into::into),
            fenced: status.fenced,
            patroni_state: status.patroni_state,
            waits: status.waits,
            would: status.would,
            problems: status.problems,
            hung_ms: status.hung_ms,
        })
    }
}

impl From<&TermSeen> for wire::TermSeen {
    fn from(seen: &TermSeen) -> Self {
        Self { term: seen.term.0, holder: seen.holder.to_string(), open: seen.open, writable: seen.writable }
    }
}

impl TryFrom<wire::TermSeen> for TermSeen {
    type Error = ConvertError;
    fn try_from(seen: wire::TermSeen) -> Result<Self> {
        let holder = MemberName::new(seen.holder)?;
        Ok(Self { term: Term(seen.term), holder, open: seen.open, writable: seen.writable })
    }
}

impl From<&PromiseHeld> for wire::PromiseHeld {
    fn from(held: &PromiseHeld) -> Self {
        Self { term: held.term.0, position: held.position.map(Into::into) }
    }
}

impl From<wire::PromiseHeld> for PromiseHeld {
    fn from(held: wire::PromiseHeld) -> Self {
        Self { term: Term(held.term), position: held.position.map(Into::into) }
    }
}

impl From<&PoolerStatus> for wire::PoolerStatus {
    fn from(status: &PoolerStatus) -> Self {
        Self {
            name: status.name.clone(),
            namespace: status.namespace.to_string(),
            scope: status.scope.to_string(),
            target: status.target.as_ref().map(ToString::to_string),
            paused: status.paused,
            clients_waiting: status.clients_waiting,
            waited_ms: status.waited_ms,
            up: status.up,
            why: status.why.clone(),
        }
    }
}

impl TryFrom<wire::PoolerStatus> for PoolerStatus {
    type Error = ConvertError;
    fn try_from(status: wire::PoolerStatus) -> Result<Self> {
        Ok(Self {
            name: status.name,
            namespace: Namespace::new(status.namespace)?,
            scope: Scope::new(status.scope)?,
            target: status.target.map(MemberName::new).transpose()?,
            paused: status.paused,
            clients_waiting: status.clients_waiting,
            waited_ms: status.waited_ms,
            up: status.up,
            why: status.why,
        })
    }
}

impl From<&LifeQuestion> for wire::LifeRequest {
    fn from(question: &LifeQuestion) -> Self {
        Self { envelope: envelope(), instance: Some((&question.instance).into()), term: question.term.0 }
    }
}

impl TryFrom<wire::LifeRequest> for LifeQuestion {
    type Error = ConvertError;
    fn try_from(request: wire::LifeRequest) -> Result<Self> {
        opened(request.envelope)?;
        Ok(Self { instance: instance(request.instance)?, term: Term(request.term) })
    }
}

impl From<LifeAnswer> for wire::LifeReply {
    fn from(answer: LifeAnswer) -> Self {
        use wire::life_reply::Life as Wire;
        let life = match answer.life {
            Life::Alive => Wire::Alive,
            Life::Stopped => Wire::Stopped,
            Life::Unknown => Wire::Unspecified,
        };
        Self { envelope: envelope(), term: answer.term.0, life: life.into(), age_ms: answer.age_ms }
    }
}

impl TryFrom<wire::LifeReply> for LifeAnswer {
    type Error = ConvertError;
    fn try_from(reply: wire::LifeReply) -> Result<Self> {
        use wire::life_reply::Life as Wire;
        opened(reply.envelope)?;
        let life = match reply.life() {
            Wire::Alive => Life::Alive,
            Wire::Stopped => Life::Stopped,
            Wire::Unspecified => Life::Unknown,
        };
        Ok(Self { term: Term(reply.term), life, age_ms: reply.age_ms })
    }
}

impl From<&GrantQuestion> for wire::GrantRequest {
    fn from(question: &GrantQuestion) -> Self {
        Self {
            envelope: envelope(),
            instance: Some((&question.instance).into()),
            term: question.term.0,
            writer: question.writer.to_string(),
            incarnation: question.incarnation.0,
        }
    }
}

impl TryFrom<wire::GrantRequest> for GrantQuestion {
    type Error = ConvertError;
    fn try_from(request: wire::GrantRequest) -> Result<Self> {
        opened(request.envelope)?;
        Ok(Self {
            instance: instance(request.instance)?,
            term: Term(request.term),
            writer: MemberName::new(request.writer)?,
            incarnation: Incarnation(request.incarnation),
        })
    }
}

impl From<GrantAnswer> for wire::GrantReply {
    fn from(answer: GrantAnswer) -> Self {
        Self { envelope: envelope(), duration_ms: answer.duration_ms }
    }
}

impl TryFrom<wire::GrantReply> for GrantAnswer {
    type Error = ConvertError;
    fn try_from(reply: wire::GrantReply) -> Result<Self> {
        opened(reply.envelope)?;
        Ok(Self { duration_ms: reply.duration_ms })
    }
}

#[cfg(test)]
mod tests;
