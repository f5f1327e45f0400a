//! The spans of an incident: each host puts its own steps below the context that all of them derive alike.

use std::time::{Duration, SystemTime};

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::term_in_force;
use holdfast_proto::trace::TraceContext;
use holdfast_types::record::{EventRecord, FencedRecord, Reign, RestartRecord, Step};
use holdfast_types::{MemberName, Term};

use crate::telemetry::Telemetry;

/// The context of the incident that ends the open term, or that has ended the closed one: the same on every host that
/// derives it, so that the first span does not have to wait for anybody's message.
pub fn of_incident(cluster: &Cluster) -> Option<TraceContext> {
    let term = term_in_force(cluster)?;
    match &term.value.reign {
        Reign::Open { holder, session, incarnation, .. } => {
            let seed = format!("{}/{holder}/{}/{}", term.value.term, session.0, incarnation.0);
            let trace = fnv(FNV_START, seed.as_bytes());
            let span = fnv(trace, b"incident") as u64;
            format!("00-{trace:032x}-{span:016x}-01").parse().ok()
        }
        Reign::Closed { .. } => of_record(cluster),
    }
}

/// The context that the term record carries: of the incident that closed it, or that opened it.
pub fn of_record(cluster: &Cluster) -> Option<TraceContext> {
    term_in_force(cluster)?.value.trace.as_ref()?.parse().ok()
}

/// A hung Patroni was ended over a healthy PostgreSQL: an incident of its own, with one host and no change of writer.
pub fn restarted(
    telemetry: &Telemetry,
    cluster: &Cluster,
    member: &MemberName,
    (start, end): (SystemTime, SystemTime),
) {
    let millis = start.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let term = term_in_force(cluster).map_or(0, |term| term.value.term.0);
    let trace = fnv(FNV_START, format!("patroni-hung/{member}/{millis}").as_bytes());
    let span = fnv(trace, b"incident") as u64;
    let Ok(context) = format!("00-{trace:032x}-{span:016x}-01").parse::<TraceContext>() else { return };
    let attributes = [("holdfast.term", term.to_string()), ("holdfast.member", member.to_string())];
    telemetry.span("patroni restart", &context, start, end, &attributes);
    telemetry.root("incident", &context, start, end, &attributes);
}

/// The context of a restart in place: an incident of one host.
pub fn of_restart(member: &MemberName, term: Term, gone_wall_ms: i64) -> Option<TraceContext> {
    let trace = fnv(FNV_START, format!("restart/{member}/{term}/{gone_wall_ms}").as_bytes());
    let span = fnv(trace, b"incident") as u64;
    format!("00-{trace:032x}-{span:016x}-01").parse().ok()
}

/// The W3C trace id of a context.
pub fn id(context: &TraceContext) -> Option<String> {
    context.to_string().split('-').nth(1).map(str::to_owned)
}

/// Records a restart in place, from the last sign of life to the write that proved it.
pub fn restart(telemetry: &Telemetry, context: Option<TraceContext>, record: &RestartRecord) {
    let Some(context) = context else { return };
    let attributes = [
        ("holdfast.term", record.term.to_string()),
        ("holdfast.member", record.member.to_string()),
        ("holdfast.cause", record.ended.to_string()),
    ];
    let trace = context.to_string();
    telemetry.incident(Some(&trace), (record.gone_wall_ms, record.back_wall_ms), &attributes);
}

const FNV_START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;

/// FNV-1a of 128 bits: the same in every build, which the standard library's hashers do not promise.
fn fnv(start: u128, bytes: &[u8]) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(start, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// Records one step that began at `start` and has just ended.
pub fn step(
    telemetry: &Telemetry,
    parent: Option<TraceContext>,
    name: &'static str,
    start: SystemTime,
    attributes: &[(&'static str, String)],
) {
    if let Some(parent) = parent {
        telemetry.span(name, &parent, start, SystemTime::now(), attributes);
    }
}

/// Records a fence of the incident, from the moment when it was due.
pub fn fence(telemetry: &Telemetry, parent: Option<TraceContext>, record: &FencedRecord) {
    let Some(parent) = parent else { return };
    let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let attributes = [
        ("holdfast.member", record.node.to_string()),
        ("holdfast.term", record.term.map(|term| term.to_string()).unwrap_or_default()),
        ("holdfast.layer", word(&record.layer)),
        ("holdfast.verified", record.verified.clone()),
    ];
    let end = SystemTime::UNIX_EPOCH + Duration::from_millis(record.done_wall_ms.unsigned_abs());
    let start = end - Duration::from_millis(record.took_ms.unwrap_or(0));
    telemetry.span("fence", &parent, start, end, &attributes);
}

/// Records the incident itself, from its first sign to its proof. Only the new writer does so.
pub fn incident(telemetry: &Telemetry, context: Option<TraceContext>, event: &EventRecord) {
    let Some(context) = context else { return };
    let at = |step: Step| event.steps_wall_ms.get(&step).copied();
    let (Some(start), Some(end)) = (at(Step::Heard).or(at(Step::Detected)), at(Step::Proved)) else { return };
    let to = event.to.as_ref().map_or_else(String::new, ToString::to_string);
    let attributes = [
        ("holdfast.term", event.term.to_string()),
        ("holdfast.from", event.from.to_string()),
        ("holdfast.to", to),
    ];
    telemetry.incident(Some(&context.to_string()), (start, end), &attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_fnv_1a() {
        assert_eq!(fnv(FNV_START, b""), FNV_START);
        assert_eq!(fnv(FNV_START, b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
