//! What a receiver gets, over real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;
use tonic::{Request, Response};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq)]
struct Got {
    host: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    nanoseconds: (u64, u64),
}

/// A receiver that keeps what it got.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<Got>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, tonic::Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let host = attributes.iter().find(|one| one.key == "host.name");
            let host = match host.and_then(|one| one.value.clone()?.value) {
                Some(Value::StringValue(host)) => host,
                other => panic!("no host.name: {other:?}"),
            };
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| Got {
                host: host.clone(),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                nanoseconds: (span.start_time_unix_nano, span.end_time_unix_nano),
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    async fn serve(&self, listener: TcpListener) {
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
    }

    async fn wait_for(&self, count: usize) -> Vec<Got> {
        let started = Instant::now();
        loop {
            let got = self.0.lock().unwrap().clone();
            if got.len() >= count {
                return got;
            }
            assert!(started.elapsed() < DEADLINE, "{count} spans not within {DEADLINE:?}: {got:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    (listener, endpoint)
}

fn telemetry(endpoint: &str, host: &str) -> Telemetry {
    Telemetry::new(Some(endpoint), &RegionName::new("r1").unwrap(), &HostName::new(host).unwrap()).unwrap()
}

fn at(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(ms)
}

#[tokio::test]
async fn three_hosts_make_one_tree() {
    let (listener, endpoint) = listener().await;
    let receiver = Receiver::default();
    receiver.serve(listener).await;
    let [db2, db3, pooler] = ["db2", "db3", "pool1"].map(|host| telemetry(&endpoint, host));

    // As it travels: a text in the term record, read by each host for itself.
    let incident = TraceContext::new_root().to_string();
    let context: TraceContext = incident.parse().unwrap();
    db3.span("promise", &context, at(1_000), at(1_040), &[("holdfast.term", "4".into())]);
    db2.span("promise", &context, at(1_000), at(1_050), &[]);
    let close = db2.span("close", &context, at(1_060), at(1_070), &[]);
    db2.span("hand_over", &close, at(1_065), at(1_070), &[]);
    let wall_ms = 1_700_000_000_000;
    pooler.span("route", &context, at(1_300), at(1_310), &[]);
    pooler.incident(None, (0, 0), &[]);
    pooler.incident(Some("nonsense"), (0, 0), &[]);
    let attributes = [("db.system.name", "postgresql".into())];
    db2.incident(Some(&incident), (wall_ms + 900, wall_ms + 1_400), &attributes);
    for one in [&db2, &db3, &pooler] {
        one.shutdown(DEADLINE).await;
    }

    let got = receiver.wait_for(6).await;
    assert_eq!(got.len(), 6, "{got:?}");
    let hosts: BTreeSet<&str> = got.iter().map(|span| span.host.as_str()).collect();
    assert_eq!(hosts, BTreeSet::from(["db2", "db3", "pool1"]));
    assert!(got.iter().all(|span| span.trace == context.trace_id().to_be_bytes()), "{got:?}");
    let by_id: BTreeMap<&[u8], &Got> = got.iter().map(|span| (span.id.as_slice(), span)).collect();
    assert_eq!(by_id.len(), got.len(), "an id is there twice");
    let (roots, others): (Vec<_>, Vec<_>) = got.iter().partition(|span| span.parent.is_empty());
    assert_eq!(roots.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["incident"]);
    for span in others {
        assert!(by_id.contains_key(span.parent.as_slice()), "the parent of {span:?} was never exported");
    }
    let parent =
        |name: &str| &by_id[got.iter().find(|span| span.name == name).unwrap().parent.as_slice()].name;
    assert_eq!((parent("hand_over").as_str(), parent("route").as_str()), ("close", "incident"));
    let root = roots[0];
    assert_eq!(root.nanoseconds.1 - root.nanoseconds.0, 500_000_000);
}

#[tokio::test]
async fn spans_of_an_outage_come_later() {
    let (listener, endpoint) = listener().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let db2 = telemetry(&endpoint, "db2");
    db2.span("promise", &TraceContext::new_root(), at(0), at(1), &[]);
    let started = Instant::now();
    while db2.failures() == 0 {
        assert!(started.elapsed() < DEADLINE, "no attempt was made");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let receiver = Receiver::default();
    receiver.serve(TcpListener::bind(address).await.unwrap()).await;
    assert_eq!(receiver.wait_for(1).await[0].name, "promise");
    assert_eq!(db2.dropped(), 0);
}

#[tokio::test]
async fn a_silent_endpoint_costs_the_caller_nothing_and_memory_a_bound() {
    let (_listener, endpoint) = listener().await;
    let db2 = telemetry(&endpoint, "db2");
    let context = TraceContext::new_root();
    let started = Instant::now();
    for _ in 0..5_000 {
        db2.span("step", &context, at(0), at(1), &[]);
    }
    assert!(started.elapsed() < Duration::from_secs(5), "recording waits");
    assert!(db2.dropped() >= 5_000 - 2 * 512, "only {} were dropped", db2.dropped());
    let started = Instant::now();
    db2.shutdown(Duration::from_millis(300)).await;
    assert!(started.elapsed() < Duration::from_secs(5), "shutdown waits");
}

#[tokio::test]
async fn without_an_endpoint_nothing_happens() {
    let none = Telemetry::new(None, &RegionName::new("r1").unwrap(), &HostName::new("h").unwrap()).unwrap();
    let context = TraceContext::new_root();
    let own = none.span("step", &context, at(0), at(1), &[]);
    assert_eq!(own.trace_id(), context.trace_id());
    none.shutdown(DEADLINE).await;
    assert_eq!(none.dropped(), 0);
}

#[tokio::test]
async fn a_wrong_endpoint_is_named() {
    let error =
        Telemetry::new(Some("not a uri"), &RegionName::new("r1").unwrap(), &HostName::new("h").unwrap());
    assert!(error.unwrap_err().to_string().contains("telemetry.otlp_endpoint \"not a uri\""));
}

#[test]
fn a_long_value_is_cut_between_letters() {
    assert_eq!(clipped(&"é".repeat(VALUE_BYTES_MAX)).len(), VALUE_BYTES_MAX);
    assert_eq!(clipped(&format!("x{}", "é".repeat(VALUE_BYTES_MAX))).len(), VALUE_BYTES_MAX - 1);
}
