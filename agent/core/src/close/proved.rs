//! Rules 8, 9 and 10: where what was acknowledged in a reign ends, and what proves that nothing more comes after it.
//!
//! Called by CLOSE for every reign that no person gives up; what an override says instead stands in `overriding`.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::record::{Evidence, FloorRecord, Promise, Reign, StopKind, TermRecord};
use holdfast_types::{Configuration, MemberName, Position};

use super::{End, NotYet, Revised, View};
use crate::in_force;
use crate::mutant::{Mutant, left_out};
use crate::sync::SyncKey;

/// The end of the reign, or what is missing before it can be told.
pub(super) fn end(
    view: &View<'_>,
    stop: Option<&StopKind>,
    floor: Option<&Revised<FloorRecord>>,
    sync: &SyncKey,
) -> Result<End, NotYet> {
    let floor = &floor.ok_or(NotYet::NoFloor)?.value;
    if let Some(end) = unused(&view.term.value, stop, floor, sync) {
        return Ok((end, Evidence::Relinquished, BTreeMap::new()));
    }
    let (best, promises) = count(view, floor, sync)?;
    let promisers = promises.keys().cloned().collect();
    let (end, evidence) = by_promises(stop, best, promisers, view.outside.map(|(asker, _)| asker));
    Ok((end, evidence, promises))
}

/// Rule 10: the floor of a reign that was given back before anything was acknowledged in it. It is the floor over which
/// that reign was opened, so nobody needs to promise again. Only while `/sync` is what OPEN compared: once it has changed,
/// a writer before the last may have been let go of its standbys, and promises are counted as for any other stop.
fn unused(
    record: &TermRecord,
    stop: Option<&StopKind>,
    opened: &FloorRecord,
    sync: &SyncKey,
) -> Option<Position> {
    let Reign::Open { floor, .. } = &record.reign else { return None };
    let unchanged = sync.mod_revision == opened.sync_mod_revision;
    // The opener's own position, where the floor is not known: it was not below it.
    (stop == Some(&StopKind::Relinquished) && unchanged).then(|| floor.unwrap_or(opened.floor))
}

/// Rules 8 and 9: the floor of a reign in which something may have been acknowledged, and what says that it is over.
fn by_promises(
    stop: Option<&StopKind>,
    best: Position,
    promisers: BTreeSet<MemberName>,
    outside: Option<&MemberName>,
) -> (Position, Evidence) {
    // A "shut down" control file alone is no floor: Patroni's crash recovery in single-user mode writes one too, with a
    // checkpoint that no standby ever received (seen in the lab: every promotion was refused for ever). It is clean only
    // if somebody has it; otherwise it is a stop like any other.
    match stop {
        Some(StopKind::Clean { end }) if best >= *end => (*end, Evidence::AttestedClean),
        Some(StopKind::Clean { .. } | StopKind::Stopped | StopKind::Relinquished) => {
            (best, Evidence::AttestedStopped { promisers })
        }
        None => (best, Evidence::Revoked { promisers, outside: outside.cloned() }),
    }
}

/// Rule 8: the promises that count, and the best position among them.
fn count(
    view: &View<'_>,
    floor: &FloorRecord,
    sync: &SyncKey,
) -> Result<(Position, BTreeMap<MemberName, i64>), NotYet> {
    let record = &view.term.value;
    let writer = record.holder();
    let in_force: Vec<Configuration> = in_force::configurations(floor, sync, view.sync_history, writer)?;
    // A promise of a data directory that has been replaced since says nothing about what is there now; and what has been
    // replaced since the floor record says nothing about what was acknowledged.
    let same_data = |member: &MemberName, uuid: &String| {
        view.data_uuids.get(member) == Some(uuid)
            && floor.data_uuids.get(member).is_none_or(|recorded| recorded == uuid)
    };
    let valid = |(member, promise): &(&MemberName, &Revised<Promise>)| {
        *member != writer
            && promise.value.term == record.term
            && promise.value.writer == *writer
            && same_data(member, &promise.value.data_uuid)
    };
    let promises: Vec<_> = view.promises.iter().filter(valid).collect();
    let promisers: BTreeSet<MemberName> = promises.iter().map(|(member, _)| (*member).clone()).collect();
    let weaker = |one: &Configuration| left_out(Mutant::QuorumIsEnough) && one.promised(&promisers) > 0;
    if let Some(open) = in_force.iter().find(|one| !one.is_closed_by(&promisers) && !weaker(one)) {
        let (promised, members, quorum) = (open.promised(&promisers), open.members.len(), open.quorum);
        return Err(NotYet::Promises { promised, members, quorum });
    }
    let best = promises.iter().map(|(_, promise)| promise.value.position).max();
    let best = best.expect("a configuration that is closed has a promiser");
    if best < floor.floor && !left_out(Mutant::FloorNotReached) {
        return Err(NotYet::BehindFloor { best, floor: floor.floor });
    }
    let revisions =
        promises.into_iter().map(|(member, promise)| (member.clone(), promise.mod_revision)).collect();
    Ok((best, revisions))
}
