//! Serving an agent: the gRPC service in front of whatever answers for the host.
//!
//! It turns messages into domain types and refusals into status codes, and bounds what callers may cost. Who may call is
//! decided before it, in [`crate::authorisation`]; what happens is decided behind it.

use std::sync::Arc;
use std::time::Duration;

use holdfast_types::RegionName;
use holdfast_types::preflight::Preflight;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::authorisation::Authorisation;
use crate::convert::{ConvertError, opened};
use crate::message::{
    GrantAnswer, GrantQuestion, HostReport, HostStatus, InstanceName, LifeAnswer, LifeQuestion, Refusal,
};
use crate::tls::{AcceptLimits, Caller, Identity, incoming};
use crate::trace::TraceContext;
use crate::wire::{self, agent_server};

/// Longer than any handler waits; a call that reaches it was forgotten by its handler.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// A caller has a handful of questions at a time.
const CALLS_PER_CONNECTION_MAX: usize = 16;
/// The largest request is a question with its names.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The metadata of a call: a trace and what gRPC adds.
const METADATA_BYTES_MAX: u32 = 16 * 1024;
/// A connection is made again after this time, so that a certificate that has been revoked, or was replaced under another
/// name, is looked at again. Nobody notices: calls in flight end, the next goes over a new connection.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// Who asks, and within which incident.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Name and address.
    pub caller: Caller,
    /// The incident's trace, if the caller named one.
    pub trace: Option<TraceContext>,
}

/// What answers for a host.
#[tonic::async_trait]
pub trait Host: Send + Sync + 'static {
    /// Its own view. Never waits: it is what was seen last.
    async fn status(&self) -> HostStatus;
    /// A sign of life of one instance.
    async fn life(&self, question: LifeQuestion, asker: Asker) -> Result<LifeAnswer, Refusal>;
    /// A write lease for the writer of a term, from one instance (rule 22).
    async fn grant(&self, question: GrantQuestion, asker: Asker) -> Result<GrantAnswer, Refusal>;
    /// What it has kept since a moment: wall clock, milliseconds since 1970. Never waits either.
    async fn report(&self, since_wall_ms: i64) -> HostReport;
    /// What one instance sees before a planned change of the writer.
    async fn preflight(&self, instance: InstanceName) -> Result<Preflight, Refusal>;
}

/// Serves until `until` is ready, then finishes the calls in flight.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    region: RegionName,
    host: Arc<dyn Host>,
    until: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let service =
        agent_server::AgentServer::new(Service { host }).max_decoding_message_size(REQUEST_BYTES_MAX);
    Server::builder()
        .timeout(CALL_DEADLINE)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .max_concurrent_streams(u32::try_from(CALLS_PER_CONNECTION_MAX).ok())
        .http2_max_header_list_size(METADATA_BYTES_MAX)
        .max_connection_age(CONNECTION_AGE_MAX)
        // A caller that was cut off leaves its slot to others.
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .layer(Authorisation::new(region))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener, identity, AcceptLimits::default()), until)
        .await
}

struct Service {
    host: Arc<dyn Host>,
}

fn asker<T>(request: &Request<T>) -> Result<Asker, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    let caller =
        caller.ok_or_else(|| Status::unauthenticated("the connection has no verified certificate"))?;
    Ok(Asker { caller, trace: TraceContext::extract(request.metadata()) })
}

#[tonic::async_trait]
impl agent_server::Agent for Service {
    async fn get_status(
        &self,
        request: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::HostStatus>, Status> {
        opened(request.into_inner().envelope)?;
        Ok(Response::new((&self.host.status().await).into()))
    }

    async fn life(&self, request: Request<wire::LifeRequest>) -> Result<Response<wire::LifeReply>, Status> {
        let asker = asker(&request)?;
        Ok(Response::new(self.host.life(request.into_inner().try_into()?, asker).await?.into()))
    }

    async fn grant(
        &self,
        request: Request<wire::GrantRequest>,
    ) -> Result<Response<wire::GrantReply>, Status> {
        let asker = asker(&request)?;
        Ok(Response::new(self.host.grant(request.into_inner().try_into()?, asker).await?.into()))
    }

    async fn get_report(
        &self,
        request: Request<wire::GetReportRequest>,
    ) -> Result<Response<wire::HostReport>, Status> {
        let request = request.into_inner();
        opened(request.envelope)?;
        Ok(Response::new((&self.host.report(request.since_wall_ms).await).into()))
    }

    async fn preflight(
        &self,
        request: Request<wire::PreflightRequest>,
    ) -> Result<Response<wire::PreflightReply>, Status> {
        let instance = request.into_inner().try_into()?;
        Ok(Response::new((&self.host.preflight(instance).await?).into()))
    }
}

impl From<ConvertError> for Status {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::TooNew(_) => Self::failed_precondition(error.to_string()),
            _ => Self::invalid_argument(error.to_string()),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::NotHere(_) => Self::not_found(text),
            Refusal::Rule(_) => Self::failed_precondition(text),
        }
    }
}
