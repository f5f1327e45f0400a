//! The trace of an incident: one span per step, exported over OTLP; and the host's metrics ([`metrics`], [`scrape`]).
//!
//! Steps are recorded after they happened, with the times at which they began and ended, so that nothing of this stands
//! in the way of a failover: recording a span puts it into a bounded queue and returns. Without an endpoint nothing is
//! done at all.
//!
//! The spans of all hosts form one tree. Its root is named by the incident's context, which travels in the term record
//! and in gRPC metadata; every host puts its steps below that context, and whoever ends the incident records the root
//! itself with [`Telemetry::root`], once.

mod export;
pub mod metrics;
pub mod scrape;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast_proto::trace::TraceContext;
use holdfast_types::{HostName, RegionName};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use export::Exporting;

/// Longest value of an attribute: a reason that a person wrote, not a document.
const VALUE_BYTES_MAX: usize = 1_024;

/// Where a host's steps of incidents go. Clones are the same.
#[derive(Debug, Clone)]
pub struct Telemetry {
    exporting: Option<Arc<Exporting>>,
    scope: InstrumentationScope,
}

/// The endpoint cannot be used at all; one that is merely down is tried again.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.otlp_endpoint {endpoint:?}: {why}; expected the form http://10.0.0.1:4317")]
pub struct TelemetryError {
    endpoint: String,
    why: String,
}

impl Telemetry {
    /// Begins to export to `otlp_endpoint`, or to nowhere. Call it inside the runtime; nothing is connected yet.
    pub fn new(
        otlp_endpoint: Option<&str>,
        region: &RegionName,
        host: &HostName,
    ) -> Result<Self, TelemetryError> {
        let exporting = match otlp_endpoint {
            None => None,
            Some(endpoint) => {
                let started = Exporting::start(endpoint, &resource(region, host));
                let failed = |why: String| TelemetryError { endpoint: endpoint.to_owned(), why };
                Some(Arc::new(started.map_err(failed)?))
            }
        };
        let scope = InstrumentationScope::builder("holdfast").with_version(crate::BUILD).build();
        Ok(Self { exporting, scope })
    }

    /// Records a step below `parent`. The returned context is the step's own, for steps below it. Never waits.
    pub fn span(
        &self,
        name: &'static str,
        parent: &TraceContext,
        start: SystemTime,
        end: SystemTime,
        attributes: &[(&'static str, String)],
    ) -> TraceContext {
        let own = parent.child();
        self.record(name, &own, Some(parent), (start, end), attributes);
        own
    }

    /// Records the span that `context` itself names: the whole incident. Exactly one host does so. Never waits.
    pub fn root(
        &self,
        name: &'static str,
        context: &TraceContext,
        start: SystemTime,
        end: SystemTime,
        attributes: &[(&'static str, String)],
    ) {
        self.record(name, context, None, (start, end), attributes);
    }

    /// The whole incident as records know it; see [`Self::root`].
    pub fn incident(
        &self,
        trace: Option<&str>,
        (start_wall_ms, end_wall_ms): (i64, i64),
        attributes: &[(&'static str, String)],
    ) {
        if let Some(context) = trace.and_then(|trace| trace.parse().ok()) {
            self.root("incident", &context, wall(start_wall_ms), wall(end_wall_ms), attributes);
        }
    }

    /// Spans that were lost since the start: the queue was full, or the endpoint was away for too long.
    pub fn dropped(&self) -> u64 {
        self.exporting.as_ref().map_or(0, |exporting| exporting.dropped())
    }

    /// Exports that failed since the start; their spans were kept.
    pub fn failures(&self) -> u64 {
        self.exporting.as_ref().map_or(0, |exporting| exporting.failures())
    }

    /// Exports what is left and ends, within `deadline`.
    pub async fn shutdown(&self, deadline: Duration) {
        if let Some(exporting) = &self.exporting {
            exporting.shutdown(deadline).await;
        }
    }

    fn record(
        &self,
        name: &'static str,
        own: &TraceContext,
        parent: Option<&TraceContext>,
        (start, end): (SystemTime, SystemTime),
        attributes: &[(&'static str, String)],
    ) {
        let Some(exporting) = self.exporting.as_ref().filter(|_| own.is_sampled()) else { return };
        let trace_id = TraceId::from_bytes(own.trace_id().to_be_bytes());
        let span_id = |context: &TraceContext| SpanId::from_bytes(context.span_id().to_be_bytes());
        let span_context =
            SpanContext::new(trace_id, span_id(own), TraceFlags::SAMPLED, false, TraceState::default());
        exporting.enqueue(SpanData {
            span_context,
            parent_span_id: parent.map_or(SpanId::INVALID, span_id),
            // A parent may be of any host: nobody here keeps which.
            parent_span_is_remote: parent.is_some(),
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: start,
            // Wall clocks are set back now and then; a span that ends before it begins is refused by some receivers.
            end_time: end.max(start),
            attributes: attributes.iter().map(|(key, value)| KeyValue::new(*key, clipped(value))).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

/// Who exports; `host.name` and the `service` names are OpenTelemetry's own conventions.
fn resource(region: &RegionName, host: &HostName) -> Resource {
    Resource::builder_empty()
        .with_service_name("holdfast-agent")
        .with_attributes([
            KeyValue::new("service.version", crate::BUILD),
            KeyValue::new("service.instance.id", format!("{region}/{host}")),
            KeyValue::new("host.name", host.to_string()),
            KeyValue::new("holdfast.region", region.to_string()),
        ])
        .build()
}

fn wall(ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

fn clipped(value: &str) -> String {
    value[..value.floor_char_boundary(VALUE_BYTES_MAX)].to_owned()
}
