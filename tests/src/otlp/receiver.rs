//! The gRPC side of the receiver.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1 as wire;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use super::{Broken, Span, Tree};

/// More than a lab's agents send in a day; the oldest are kept, because the first incident is the one under test.
const SPANS_MAX: usize = 100_000;
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<Span>>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Vec<Span>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver that listens until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    kept: Kept,
    server: JoinHandle<()>,
}

impl Receiver {
    /// Listens on `address`; port 0 picks a free one. A host's own network namespace is entered by the caller.
    pub async fn listen(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let kept = Kept::default();
        let service = TraceServiceServer::new(kept.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tokio::spawn(async move {
            let served =
                tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
            if let Err(error) = served.await {
                eprintln!("the receiver of traces has ended: {error}");
            }
        });
        Ok(Self { address, kept, server })
    }

    /// What agents are told: `telemetry.otlp_endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that has arrived, in the order of arrival.
    pub fn spans(&self) -> Vec<Span> {
        self.kept.lock().clone()
    }

    /// The tree of one trace as it is now. An exporter may repeat a batch; repeated spans count once.
    pub fn tree(&self, trace_id: u128) -> Result<Tree, Broken> {
        Tree::of(self.kept.lock().iter().filter(|span| span.trace_id == trace_id).cloned().collect())
    }

    /// Waits until the trace is one tree with spans of at least `hosts` hosts. After `deadline` the error says what is
    /// still missing.
    pub async fn one_tree(&self, trace_id: u128, hosts: usize, deadline: Duration) -> Result<Tree, Broken> {
        let started = Instant::now();
        loop {
            let found = match self.tree(trace_id) {
                Ok(tree) if tree.hosts().len() >= hosts => return Ok(tree),
                Ok(tree) => Err(Broken::FewHosts { wanted: hosts, found: tree.hosts() }),
                Err(broken) => Err(broken),
            };
            if started.elapsed() >= deadline {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut arrived = Vec::new();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let host = attributes.into_iter().find(|attribute| attribute.key == "host.name");
            let host = host.map(|attribute| text(attribute.value)).unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                arrived.push(read(&host, span)?);
            }
        }
        let mut kept = self.lock();
        if kept.len() + arrived.len() > SPANS_MAX {
            return Err(Status::resource_exhausted(format!("{SPANS_MAX} spans are kept, and no more")));
        }
        kept.extend(arrived);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn read(host: &str, span: wire::Span) -> Result<Span, Status> {
    let wrong = |what: &str| Status::invalid_argument(format!("span {:?} has {what}", span.name));
    let trace_id: [u8; 16] = span.trace_id.as_slice().try_into().map_err(|_| wrong("no trace id"))?;
    let span_id: [u8; 8] = span.span_id.as_slice().try_into().map_err(|_| wrong("no span id"))?;
    let parent = match span.parent_span_id.as_slice() {
        [] => None,
        bytes => Some(u64::from_be_bytes(bytes.try_into().map_err(|_| wrong("half a parent"))?)),
    };
    let attribute = |KeyValue { key, value, .. }| (key, text(value));
    Ok(Span {
        trace_id: u128::from_be_bytes(trace_id),
        span_id: u64::from_be_bytes(span_id),
        parent: parent.filter(|id| *id != 0),
        name: span.name.clone(),
        host: host.to_owned(),
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        attributes: span.attributes.into_iter().map(attribute).collect(),
    })
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
    use opentelemetry_proto::tonic::resource::v1::Resource;

    fn sent(host: &str, id: u8, parent: Option<u8>) -> ExportTraceServiceRequest {
        let host = AnyValue { value: Some(Value::StringValue(host.into())) };
        let attributes = vec![KeyValue { key: "host.name".into(), value: Some(host), ..Default::default() }];
        let span = wire::Span {
            trace_id: vec![7; 16],
            span_id: vec![id; 8],
            parent_span_id: parent.map_or_else(Vec::new, |parent| vec![parent; 8]),
            name: "step".into(),
            ..Default::default()
        };
        let scope_spans = vec![wire::ScopeSpans { spans: vec![span], ..Default::default() }];
        let resource = Some(Resource { attributes, ..Default::default() });
        let resource_spans = vec![wire::ResourceSpans { resource, scope_spans, ..Default::default() }];
        ExportTraceServiceRequest { resource_spans }
    }

    #[tokio::test]
    async fn spans_of_three_hosts_are_found_as_one_tree() {
        let receiver = Receiver::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let trace = u128::from_be_bytes([7; 16]);
        let mut exporter = TraceServiceClient::connect(receiver.endpoint()).await.unwrap();
        exporter.export(sent("db2", 2, Some(1))).await.unwrap();
        assert!(matches!(receiver.tree(trace), Err(Broken::Orphans(_))));
        exporter.export(sent("db3", 1, None)).await.unwrap();
        let few = receiver.one_tree(trace, 3, Duration::ZERO).await;
        assert!(matches!(few, Err(Broken::FewHosts { wanted: 3, .. })), "{few:?}");
        let late = async {
            exporter.export(sent("pool1", 3, Some(2))).await.unwrap();
        };
        let (tree, ()) = tokio::join!(receiver.one_tree(trace, 3, Duration::from_secs(20)), late);
        assert_eq!(tree.unwrap().hosts().into_iter().collect::<Vec<_>>(), ["db2", "db3", "pool1"]);
    }

    #[tokio::test]
    async fn a_span_without_ids_is_refused() {
        let receiver = Receiver::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut exporter = TraceServiceClient::connect(receiver.endpoint()).await.unwrap();
        let mut bad = sent("db2", 2, None);
        bad.resource_spans[0].scope_spans[0].spans[0].span_id.clear();
        assert_eq!(exporter.export(bad).await.unwrap_err().code(), tonic::Code::InvalidArgument);
        assert_eq!(receiver.spans(), []);
    }
}
