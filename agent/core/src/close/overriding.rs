//! Rules 11 and 18: what a person's override takes the place of. Never the stop: whoever closes by it has that already.

use std::collections::BTreeMap;

use holdfast_types::MemberName;
use holdfast_types::record::{Evidence, FloorRecord, OverrideRecord, Promise, Reign};

use super::{End, LeaderKey, NotYet, Revised, View};

/// Rule 11: a person goes on without the proof. The floor is still the highest position that is known to matter; the hook
/// lets the one successor pass below it. That one must have left the writer, so that its position is final.
pub(super) fn end(
    view: &View<'_>,
    overriding: &OverrideRecord,
    floor: Option<&Revised<FloorRecord>>,
) -> Result<End, NotYet> {
    let record = &view.term.value;
    let counts = |(member, promise): &(&MemberName, &Revised<Promise>)| {
        let promise = &promise.value;
        let same_data = view.data_uuids.get(*member) == Some(&promise.data_uuid);
        **member != *record.holder() && promise.term == record.term && same_data
    };
    let promises: BTreeMap<_, _> = view.promises.iter().filter(counts).collect();
    let (is_open, closed) = match &record.reign {
        Reign::Open { .. } => (true, None),
        // Nobody has received anything since (rule 5 h), and the old writer itself, which never promises, may be named.
        Reign::Closed { floor, .. } => (false, *floor),
    };
    if is_open && !promises.contains_key(&overriding.successor) {
        return Err(NotYet::SuccessorFollows(overriding.successor.clone()));
    }
    let best = promises.values().map(|promise| promise.value.position).max();
    let recorded = floor.map(|floor| floor.value.floor);
    let end = best.into_iter().chain(recorded).chain(closed).max().ok_or(NotYet::NoFloor)?;
    let OverrideRecord { by, reason, .. } = overriding;
    let evidence = Evidence::Override { by: by.clone(), reason: reason.clone() };
    let revisions =
        promises.into_iter().map(|(member, found)| (member.clone(), found.mod_revision)).collect();
    Ok((end, evidence, revisions))
}

/// An override names the one that follows, also where another has the key or the floor.
pub(super) fn to_the_named(view: &View<'_>, successor: &MemberName) -> LeaderKey {
    if view.leader_key.is_some_and(|key| key.value == *successor) {
        return LeaderKey::Leave;
    }
    let named = view.candidates.iter().find(|one| one.member == *successor);
    match named.and_then(|one| Some((one.member.clone(), one.member_lease?))) {
        Some((to, member_lease)) => LeaderKey::Give { to, member_lease },
        None => LeaderKey::Leave,
    }
}
