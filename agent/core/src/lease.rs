//! Rules 19 and 22: until when the writer may accept writes, and what the fence on its own host must be set to.
//!
//! A lease comes from the session in etcd, or, while etcd is out of reach, from grants of enough members of the floor
//! record's configuration. It counts from the *send* time of what was confirmed, on `CLOCK_BOOTTIME`. Called by the
//! writer's agent at each renewal and at each change; it never renews anything itself, and a lease that it does not see
//! is not there.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::record::{FloorRecord, Reign, TermRecord};
use holdfast_types::{MemberName, Term, Timings};

use crate::member::OwnSession;
use crate::mutant::{Mutant, left_out};

/// What the writer's agent knows when it asks itself how long it may write.
#[derive(Debug, Clone)]
pub struct View<'o> {
    /// `CLOCK_BOOTTIME` in milliseconds.
    pub now_ms: u64,
    /// Ourselves.
    pub me: &'o MemberName,
    /// The cluster is armed: only then anything is fenced.
    pub fences: bool,
    /// Class `off`: whom a floor record of ours names, though we may not have heard of that yet. All of them must grant.
    /// `None`: class `quorum`.
    pub named: Option<&'o BTreeSet<MemberName>>,
    /// The term in force as it was seen last, over whatever loss of etcd.
    pub term: Option<&'o TermRecord>,
    /// The watch that brought the term is alive: without it a session that is renewed says nothing about the term.
    pub term_is_heard: bool,
    /// Our session; `None` when it is not known to be alive.
    pub own: Option<OwnSession>,
    /// When the last renewal of our session was sent that was confirmed while the watch was heard, `CLOCK_BOOTTIME` in
    /// milliseconds. A renewal says nothing about a term that could have changed unheard.
    pub renewed_ms: Option<u64>,
    /// When the last question was sent that each member answered with a grant for this term.
    pub grants: &'o BTreeMap<MemberName, u64>,
    /// The floor record.
    pub floor: Option<&'o FloorRecord>,
    /// Whether our PostgreSQL accepts writes, as far as that is known.
    pub accepts_writes: Option<bool>,
    /// The term that a promotion hook of ours is opening, or has opened without our having heard of it yet.
    pub opening: Option<Term>,
    /// etcd has forgotten what this host knows; and whether, by all that is told, our reign was the last one (rule 25).
    pub forgotten: Option<bool>,
    /// A PostgreSQL that hung was ended here, and something of it may be left in the kernel (rule 9).
    pub ends_hung: bool,
    /// Our PostgreSQL is gone. Without etcd nobody starts it as primary, and with etcd the session gives the lease.
    pub has_stopped: bool,
    /// Somebody works on the cluster by hand: Patroni was paused, or there was a maintenance, when it was last heard.
    pub paused: bool,
    /// Rule 24: the record stands by which nobody closes our term meanwhile.
    pub held: bool,
    /// The timings in force.
    pub timings: &'o Timings,
}

/// What the fence of this host must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// No fence: not armed, or neither the writer nor one that was.
    None,
    /// Open, and closing by itself at this moment; the guard kills a grace later.
    Until {
        /// The term of the lease.
        term: Term,
        /// `CLOCK_BOOTTIME` in milliseconds.
        deadline_ms: u64,
    },
    /// Open without an end: automatic action is suspended, and there is no lease for much longer (rule 24).
    Paused,
    /// As it is, without an end: etcd has forgotten us, and nobody who remembers helps another (rule 25). What is closed
    /// stays closed.
    Kept,
    /// No lease now: what stands closes by itself, and nothing opens it.
    Expiring,
    /// The term is another's, or closed: shut at once.
    Closed,
    /// A PostgreSQL that hung is being ended: shut at once, whoever's the term is. The guard goes on until it has been seen
    /// ended.
    Ended,
}

/// Decides the fence.
pub fn decide(view: &View<'_>) -> Fence {
    if !view.fences {
        return Fence::None;
    }
    if view.ends_hung {
        return Fence::Ended;
    }
    if let Some(ours) = view.forgotten {
        // No agent that remembers promises, closes or opens anything: the last writer has no rival, and nobody else gets
        // a lease.
        return if ours { Fence::Kept } else { Fence::Expiring };
    }
    let Some(term) = view.term else {
        // Armed, and no term is in force yet: the first one is opened by a primary that runs.
        return if view.term_is_heard { Fence::None } else { Fence::Expiring };
    };
    if term.open_holder() != Some(view.me) {
        return match view.accepts_writes {
            // The hook has set the fence of its term; what is heard of an earlier one does not lift it.
            _ if view.opening > Some(term.term) => Fence::Expiring,
            Some(true) => Fence::Closed,
            Some(false) => Fence::None,
            None => Fence::Expiring,
        };
    }
    let deadline_ms = by_session(view, term).max(by_grants(view, term)).max(by_itself(view));
    // While people work on the cluster the fence is lifted before it closes, not after it has.
    let lifts = view.paused && view.held;
    let needed_ms = if lifts { view.now_ms + view.timings.renew_interval_ms() * 3 / 2 } else { view.now_ms };
    match deadline_ms.filter(|deadline_ms| *deadline_ms > needed_ms) {
        Some(deadline_ms) => Fence::Until { term: term.term, deadline_ms },
        None if lifts => Fence::Paused,
        None => Fence::Expiring,
    }
}

/// Whether members must be asked for grants: the session gives no lease, or its renewal is overdue by a quarter of an
/// interval. A writer that has stopped, or is ended because it hung, asks for none: whoever granted it one could not leave it
/// for as long. An agent that was started meanwhile held its own successor up by it (4.5 s in the lab), and so did one that had
/// stood still for 2.2 s while the guard ended its PostgreSQL: it woke up without a lease and asked before it had looked
/// (6.0 s from the last write to the next, 3.2 of them between its attestation and the first promise).
pub fn needs_grants(view: &View<'_>) -> bool {
    if view.ends_hung || view.has_stopped {
        return false;
    }
    let Some(term) = view.term.filter(|term| view.fences && term.open_holder() == Some(view.me)) else {
        return false;
    };
    let overdue =
        |sent_ms: u64| view.now_ms.saturating_sub(sent_ms) > view.timings.renew_interval_ms() * 5 / 4;
    if left_out(Mutant::GrantsNotAsked) {
        return false;
    }
    !view.term_is_heard || by_session(view, term).is_none() || view.renewed_ms.is_none_or(overdue)
}

fn by_itself(view: &View<'_>) -> Option<u64> {
    left_out(Mutant::LeaseNeverEnds).then(|| view.now_ms + view.timings.write_lease_ms())
}

fn by_session(view: &View<'_>, term: &TermRecord) -> Option<u64> {
    let Reign::Open { session, incarnation, .. } = term.reign else { return None };
    view.own.filter(|own| (own.session, own.incarnation) == (session, incarnation))?;
    view.renewed_ms.map(|sent_ms| sent_ms + view.timings.write_lease_ms())
}

/// The moment until which at least `|M| - q` members have said that they help nobody else: any `q + 1` members, which a
/// CLOSE needs, include one of them.
fn by_grants(view: &View<'_>, term: &TermRecord) -> Option<u64> {
    let floor = view.floor.filter(|floor| floor.term == term.term)?;
    if let Some(named) = view.named {
        return by_all(view, floor, named);
    }
    let needed = floor.configuration.acknowledgers_needed();
    let mut sent_ms: Vec<u64> = view
        .grants
        .iter()
        .filter(|(member, _)| floor.configuration.members.contains(*member))
        .map(|(_, sent_ms)| *sent_ms)
        .collect();
    sent_ms.sort_unstable_by(|a, b| b.cmp(a));
    let last_needed = sent_ms.get(needed.checked_sub(1)?)?;
    Some(last_needed + view.timings.write_lease_ms())
}

/// Class `off`: whoever is named may open the next term alone, so every one of them must have said that it does not. With
/// nobody named there is nobody who may.
fn by_all(view: &View<'_>, floor: &FloorRecord, named: &BTreeSet<MemberName>) -> Option<u64> {
    // A record of class quorum names fewer than may follow.
    let members = (floor.configuration.quorum == 0).then_some(&floor.configuration.members)?;
    let sent_ms: Option<Vec<u64>> =
        members.union(named).map(|member| view.grants.get(member).copied()).collect();
    Some(sent_ms?.into_iter().min().unwrap_or(view.now_ms) + view.timings.write_lease_ms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lasting, name, names, term_open};
    use holdfast_types::timings::Profile;
    use holdfast_types::{Configuration, Incarnation, SessionId};

    const LEASE_MS: u64 = 1_800;

    fn floor(members: &[&str], quorum: usize) -> FloorRecord {
        FloorRecord {
            term: Term(3),
            sync_version: 1,
            sync_mod_revision: 1,
            sync_create_revision: 1,
            configuration: Configuration { members: names(members), quorum },
            data_uuids: BTreeMap::new(),
            floor: at(1, 1),
        }
    }

    fn granted(list: &[(&str, u64)]) -> &'static BTreeMap<MemberName, u64> {
        lasting(list.iter().map(|(member, sent_ms)| (name(member), *sent_ms)).collect())
    }

    fn view() -> View<'static> {
        View {
            now_ms: 10_000,
            me: lasting(name("a")),
            fences: true,
            named: None,
            term: Some(lasting(term_open("a", 3, true))),
            term_is_heard: true,
            own: Some(OwnSession { session: SessionId(5), incarnation: Incarnation(1) }),
            renewed_ms: Some(10_000),
            grants: granted(&[]),
            floor: Some(lasting(floor(&["b", "c"], 1))),
            accepts_writes: Some(true),
            opening: None,
            forgotten: None,
            ends_hung: false,
            has_stopped: false,
            paused: false,
            held: false,
            timings: lasting(Timings::of(Profile::Fast)),
        }
    }

    fn until(deadline_ms: u64) -> Fence {
        Fence::Until { term: Term(3), deadline_ms }
    }

    #[test]
    fn a_lease_counts_from_the_send_time_of_the_last_confirmed_renewal() {
        assert_eq!(decide(&view()), until(10_000 + LEASE_MS));
    }

    #[test]
    fn a_lease_that_has_run_out_is_none() {
        assert_eq!(decide(&View { now_ms: 10_000 + LEASE_MS - 1, ..view() }), until(10_000 + LEASE_MS));
        assert_eq!(decide(&View { now_ms: 10_000 + LEASE_MS, ..view() }), Fence::Expiring);
    }

    #[test]
    fn only_the_holder_with_its_own_session_has_a_lease() {
        let others = View { term: Some(lasting(term_open("b", 3, true))), ..view() };
        assert_eq!(decide(&others), Fence::Closed);
        let another_start = OwnSession { session: SessionId(5), incarnation: Incarnation(2) };
        assert_eq!(decide(&View { own: Some(another_start), ..view() }), Fence::Expiring);
        assert_eq!(decide(&View { own: None, ..view() }), Fence::Expiring);
        assert_eq!(decide(&View { renewed_ms: None, ..view() }), Fence::Expiring);
    }

    #[test]
    fn without_etcd_as_many_members_as_acknowledge_a_commit_must_grant() {
        let alone = View { own: None, term_is_heard: false, ..view() };
        let with = |grants| decide(&View { grants: granted(grants), ..alone.clone() });
        assert_eq!(with(&[]), Fence::Expiring);
        assert_eq!(with(&[("b", 20_000)]), until(20_000 + LEASE_MS), "ANY 1 of two: one of them is enough");
        assert_eq!(with(&[("d", 20_000)]), Fence::Expiring, "an asynchronous replica has no say");
        let two_needed = lasting(floor(&["b", "c", "d"], 1));
        let with =
            |grants| decide(&View { grants: granted(grants), floor: Some(two_needed), ..alone.clone() });
        assert_eq!(with(&[("b", 20_000)]), Fence::Expiring);
        assert_eq!(with(&[("b", 20_000), ("c", 19_000), ("d", 18_000)]), until(19_000 + LEASE_MS));
    }

    #[test]
    fn in_class_off_every_member_that_is_named_must_grant() {
        let everybody = lasting(floor(&["b", "c"], 0));
        let nobody = lasting(names(&[]));
        let alone =
            View { own: None, term_is_heard: false, floor: Some(everybody), named: Some(nobody), ..view() };
        let with = |grants| decide(&View { grants: granted(grants), ..alone.clone() });
        assert_eq!(with(&[("b", 20_000)]), Fence::Expiring, "c may open alone");
        assert_eq!(with(&[("b", 20_000), ("c", 19_000)]), until(19_000 + LEASE_MS));
        let unheard = lasting(names(&["d"]));
        let both = granted(&[("b", 20_000), ("c", 20_000)]);
        let named = View { grants: both, named: Some(unheard), ..alone.clone() };
        assert_eq!(decide(&named), Fence::Expiring, "d may know that it is named before we do");
        let counted = lasting(floor(&["b", "c"], 1));
        assert_eq!(decide(&View { grants: both, floor: Some(counted), ..alone.clone() }), Fence::Expiring);
        let single = View { floor: Some(lasting(floor(&[], 0))), ..alone.clone() };
        assert_eq!(decide(&single), until(10_000 + LEASE_MS), "nobody may follow");
        assert_eq!(decide(&View { floor: None, ..alone }), Fence::Expiring);
    }

    #[test]
    fn a_floor_record_of_another_term_or_without_members_gives_no_lease() {
        let alone = View { own: None, grants: granted(&[("b", 20_000)]), ..view() };
        let old = FloorRecord { term: Term(2), ..floor(&["b", "c"], 1) };
        assert_eq!(decide(&View { floor: Some(&old), ..alone.clone() }), Fence::Expiring);
        assert_eq!(decide(&View { floor: Some(&floor(&[], 0)), ..alone }), Fence::Expiring);
    }

    #[test]
    fn the_later_of_both_leases_counts() {
        let both = View { grants: granted(&[("b", 10_500)]), ..view() };
        assert_eq!(decide(&both), until(10_500 + LEASE_MS));
        assert_eq!(decide(&View { grants: granted(&[("b", 9_500)]), ..view() }), until(10_000 + LEASE_MS));
    }

    #[test]
    fn the_fence_follows_the_term_and_not_whether_postgresql_runs() {
        for accepts_writes in [None, Some(false), Some(true)] {
            assert_eq!(decide(&View { accepts_writes, ..view() }), until(10_000 + LEASE_MS));
        }
    }

    #[test]
    fn a_standby_is_not_fenced_and_who_is_not_armed_neither() {
        let others = View { term: Some(lasting(term_open("b", 3, true))), ..view() };
        assert_eq!(decide(&View { accepts_writes: Some(false), ..others.clone() }), Fence::None);
        assert_eq!(
            decide(&View { accepts_writes: None, ..others }),
            Fence::Expiring,
            "unknown opens nothing"
        );
        assert_eq!(decide(&View { fences: false, own: None, ..view() }), Fence::None);
        assert_eq!(decide(&View { term: None, ..view() }), Fence::None, "the first term is not open yet");
        assert_eq!(
            decide(&View { term: None, term_is_heard: false, ..view() }),
            Fence::Expiring,
            "a writer that was started without etcd knows no term"
        );
    }

    #[test]
    fn what_is_heard_of_an_earlier_term_does_not_lift_the_fence_of_a_promotion() {
        let standby =
            View { term: Some(lasting(term_open("b", 3, true))), accepts_writes: Some(false), ..view() };
        assert_eq!(decide(&View { opening: Some(Term(4)), ..standby.clone() }), Fence::Expiring);
        assert_eq!(decide(&View { opening: Some(Term(3)), ..standby }), Fence::None, "another has opened it");
    }

    #[test]
    fn an_etcd_that_has_forgotten_us_stops_nobody_and_lets_nobody_in() {
        let forgotten = |ours| View { term: None, forgotten: Some(ours), ..view() };
        assert_eq!(decide(&forgotten(true)), Fence::Kept);
        assert_eq!(decide(&forgotten(false)), Fence::Expiring);
        assert_eq!(decide(&View { fences: false, ..forgotten(false) }), Fence::None, "disarmed is disarmed");
    }

    #[test]
    fn a_pause_keeps_a_writer_open_that_nothing_else_does() {
        let alone = View { own: None, paused: true, held: true, ..view() };
        assert_eq!(decide(&alone), Fence::Paused);
        assert_eq!(decide(&View { paused: true, ..view() }), until(10_000 + LEASE_MS));
        let near_its_end = View { paused: true, held: true, now_ms: 10_000 + LEASE_MS - 900, ..view() };
        assert_eq!(decide(&near_its_end), Fence::Paused, "the session is not known to have ended yet");
        assert_eq!(decide(&View { paused: false, ..near_its_end.clone() }), until(10_000 + LEASE_MS));
        let unsaid = View { held: false, ..near_its_end.clone() };
        assert_eq!(decide(&unsaid), until(10_000 + LEASE_MS), "others may still close the term");
        assert_eq!(decide(&View { held: false, ..alone.clone() }), Fence::Expiring);
        let granted_once = View { now_ms: 90_000, grants: granted(&[("b", 20_000)]), ..alone.clone() };
        assert_eq!(decide(&granted_once), Fence::Paused, "a grant that has run out is none");
        let deposed = View { term: Some(lasting(term_open("b", 3, true))), ..alone };
        assert_eq!(decide(&deposed), Fence::Closed, "a pause gives nobody the term of another");
    }

    #[test]
    fn a_writer_that_hung_and_was_ended_has_no_lease_whatever_else_holds() {
        let ended = View { ends_hung: true, ..view() };
        assert_eq!(decide(&ended), Fence::Ended);
        assert!(
            needs_grants(&View { own: None, ..view() })
                && !needs_grants(&View { own: None, ..ended.clone() })
        );
        assert_eq!(decide(&View { paused: true, ..ended.clone() }), Fence::Ended);
        let after_close = View { term: Some(lasting(term_open("b", 3, true))), ..ended.clone() };
        assert_eq!(decide(&View { accepts_writes: Some(false), ..after_close }), Fence::Ended);
        assert_eq!(decide(&View { fences: false, ..ended }), Fence::None, "disarmed is disarmed");
    }

    #[test]
    fn a_writer_that_has_stopped_asks_nobody_and_keeps_the_lease_that_it_has() {
        let restarted = View { own: None, accepts_writes: Some(false), ..view() };
        assert!(needs_grants(&restarted), "it may come back in its term");
        let stopped = View { has_stopped: true, ..restarted };
        assert!(!needs_grants(&stopped), "a grant would hold its successor up");
        assert_eq!(decide(&View { has_stopped: true, ..view() }), until(10_000 + LEASE_MS));
    }

    #[test]
    fn members_are_asked_once_a_renewal_is_overdue() {
        assert!(!needs_grants(&View { now_ms: 10_700, ..view() }));
        assert!(needs_grants(&View { now_ms: 10_751, ..view() }));
        assert!(needs_grants(&View { renewed_ms: None, ..view() }));
        assert!(needs_grants(&View { term_is_heard: false, ..view() }));
        let another_start = OwnSession { session: SessionId(5), incarnation: Incarnation(2) };
        assert!(needs_grants(&View { own: Some(another_start), ..view() }), "the term is not kept yet");
        assert!(!needs_grants(&View { now_ms: 99_000, fences: false, ..view() }));
        let others = View { term: Some(lasting(term_open("b", 3, true))), ..view() };
        assert!(!needs_grants(&View { now_ms: 99_000, ..others }));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn each_rule_that_can_be_left_out_is_what_these_tests_rest_on() {
        use crate::mutant::without;
        let alone = View { own: None, ..view() };
        assert_eq!(without(Mutant::LeaseNeverEnds, || decide(&alone)), until(10_000 + LEASE_MS));
        assert!(!without(Mutant::GrantsNotAsked, || needs_grants(&alone)));
    }
}
