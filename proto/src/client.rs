//! Speaking to an agent, in domain types and with a deadline on everything.

use std::time::Duration;

use holdfast_types::preflight::Preflight;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::convert::{ConvertError, envelope};
use crate::message::{
    GrantAnswer, GrantQuestion, HostReport, HostStatus, InstanceName, LifeAnswer, LifeQuestion,
};
use crate::tls::{Connector, Identity, Peer, Protocol, channel};
use crate::trace::TraceContext;
use crate::wire::{self, agent_client};

/// Why an agent has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It understood, and will not.
    #[error("{agent} refuses: {text}")]
    Refused {
        /// Whom we asked.
        agent: String,
        /// Its reason.
        text: String,
    },
    /// It could not be asked, or did not answer in time.
    #[error("{agent} does not answer: {text}")]
    Unreachable {
        /// Whom we asked.
        agent: String,
        /// What happened.
        text: String,
    },
    /// It answered, but not in a form that this build understands.
    #[error("{agent} answers in a form that is not understood: {error}")]
    Answer {
        /// Whom we asked.
        agent: String,
        /// Why.
        error: ConvertError,
    },
}

/// A host's view of itself has a few kilobytes for each instance, its report some hundred at most.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// One agent. Connects at the first call, and again after a loss; clones share the connection.
#[derive(Debug, Clone)]
pub struct AgentClient {
    address: String,
    calls: agent_client::AgentClient<Channel>,
}

impl AgentClient {
    /// The agent at `address` (`host:port`). With `expected`, nobody else who answers there is believed. No call takes
    /// longer than `deadline`, connecting included.
    pub fn new(
        identity: Identity,
        address: impl Into<String>,
        expected: Option<Peer>,
        deadline: Duration,
    ) -> Self {
        let address = address.into();
        let mut connector = Connector::new(identity, &address, Protocol::Http2, deadline);
        if let Some(peer) = expected {
            connector = connector.expect(peer);
        }
        let calls = agent_client::AgentClient::new(channel(connector, deadline));
        Self { address, calls: calls.max_decoding_message_size(ANSWER_BYTES_MAX) }
    }

    /// The host's own view.
    pub async fn status(&self) -> Result<HostStatus, CallError> {
        let request = wire::GetStatusRequest { envelope: envelope() };
        let reply = self.calls.clone().get_status(request).await.map_err(|status| self.failure(&status))?;
        reply.into_inner().try_into().map_err(|error| self.answer(error))
    }

    /// A sign of life of one of its instances, asked for within an incident.
    pub async fn life(
        &self,
        question: &LifeQuestion,
        trace: Option<&TraceContext>,
    ) -> Result<LifeAnswer, CallError> {
        let request = traced(wire::LifeRequest::from(question), trace);
        let reply = self.calls.clone().life(request).await.map_err(|status| self.failure(&status))?;
        reply.into_inner().try_into().map_err(|error| self.answer(error))
    }

    /// A write lease from one of its instances (rule 22).
    pub async fn grant(&self, question: &GrantQuestion) -> Result<GrantAnswer, CallError> {
        let request = wire::GrantRequest::from(question);
        let reply = self.calls.clone().grant(request).await.map_err(|status| self.failure(&status))?;
        reply.into_inner().try_into().map_err(|error| self.answer(error))
    }

    /// What the host has kept since a moment: wall clock, milliseconds since 1970.
    pub async fn report(&self, since_wall_ms: i64) -> Result<HostReport, CallError> {
        let request = wire::GetReportRequest { envelope: envelope(), since_wall_ms };
        let reply = self.calls.clone().get_report(request).await.map_err(|status| self.failure(&status))?;
        reply.into_inner().try_into().map_err(|error| self.answer(error))
    }

    /// What one of its instances sees before a planned change of the writer.
    pub async fn preflight(&self, instance: &InstanceName) -> Result<Preflight, CallError> {
        let request = wire::PreflightRequest::from(instance);
        let reply = self.calls.clone().preflight(request).await.map_err(|status| self.failure(&status))?;
        reply.into_inner().try_into().map_err(|error| self.answer(error))
    }

    fn answer(&self, error: ConvertError) -> CallError {
        CallError::Answer { agent: self.address.clone(), error }
    }

    fn failure(&self, status: &Status) -> CallError {
        let agent = self.address.clone();
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unimplemented => CallError::Refused { agent, text: status.message().to_owned() },
            _ => CallError::Unreachable { agent, text: causes(status) },
        }
    }
}

fn traced<T>(message: T, trace: Option<&TraceContext>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(trace) = trace {
        trace.inject(request.metadata_mut());
    }
    request
}

/// tonic's own message is "transport error"; what happened is in the innermost cause.
fn causes(status: &Status) -> String {
    use std::error::Error as _;
    let mut cause = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}
