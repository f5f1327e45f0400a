//! Whether a cluster is whole, for work that takes one node away for a while.

use holdfast_types::{Class, MemberName};

use crate::check::Check;
use crate::observation::{MemberSeen, Observation};

/// Adds a blocker for each member beside `writer` and `exempt` that is not there as it should be.
pub fn check(seen: &Observation, writer: &MemberName, exempt: &[&MemberName], check: &mut Check) {
    for (name, member) in &seen.members {
        if name == writer || exempt.contains(&name) {
            continue;
        }
        if let Some((why, fix)) = hindrance(member) {
            check.block(format!("{name} {why}: the cluster is not whole"), fix);
        }
    }
}

/// Why a standby does not take part as it should; the first reason.
fn hindrance(member: &MemberSeen) -> Option<(&'static str, &'static str)> {
    match member {
        _ if member.fenced => Some(("is fenced", "holdfast unfence")),
        _ if member.disarmed_locally => {
            Some(("is on a host that is disarmed locally", "holdfast disarm --local --undo"))
        }
        _ if !member.agent_alive => Some(("has an agent without a session", "start its holdfast-agent")),
        _ if member.streaming != Some(true) => Some(("does not stream", "holdfast list")),
        _ => None,
    }
}

/// Whether commits are confirmed without `gone`: by a synchronous standby that streams and that nobody is about to stop. Always,
/// where commits wait for nobody.
pub fn confirms_without(seen: &Observation, gone: &MemberName) -> bool {
    let left = |(name, _): &(&MemberName, &MemberSeen)| *name != gone && !seen.is_drained(name.as_str());
    seen.class != Some(Class::Quorum) || seen.streaming_synchronous().any(|one| left(&one))
}

/// Whether a standby takes part again: it streams, and in class `quorum` it counts if it `counted` before.
pub fn is_back(seen: &Observation, name: &MemberName, counted: bool) -> bool {
    let counts = counted && seen.class == Some(Class::Quorum);
    seen.members.get(name).is_some_and(|member| {
        member.agent_alive && member.streaming == Some(true) && (!counts || member.synchronous)
    })
}
