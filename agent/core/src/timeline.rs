//! Rule 14: on which timeline id the next reign writes.
//!
//! PostgreSQL takes the id after the newest of which it has seen a history file. A reign that nobody followed left its
//! file on its own disk only, so the next writer would take the same id for another history. Then positions cannot be
//! compared, PostgreSQL and Patroni take one history for the other (neither rewinds between equal ids), and a promise
//! names a floor that the acknowledged history does not reach. So the id is reserved in etcd, by OPEN, and a candidate
//! that has not seen all ids below it is given files that hold their places. Called by OPEN, CLOSE and the hook.

use holdfast_types::Timeline;

/// More ids than this between a candidate's and the reserved one are no history of ours: that many reigns in a row that
/// nobody followed.
const HELD_MAX: u32 = 64;

/// The id on which the next reign writes: above every id that a reign may have used, and above the opener's own.
pub fn reserve(recorded: Option<Timeline>, own: Timeline) -> Timeline {
    Timeline(recorded.map_or(own, |recorded| recorded.max(own)).0 + 1)
}

/// What the record of a closed term names. A reign that was given back before its PostgreSQL left recovery wrote no
/// history file; its id would be a gap in the archive for ever.
pub fn used(recorded: Option<Timeline>, unused: bool) -> Option<Timeline> {
    recorded.map(|Timeline(id)| Timeline(if unused { id.saturating_sub(1) } else { id }))
}

/// The ids that a candidate must know as taken before it is promoted: those between its own and the reserved one.
/// `None`: too many to be true.
pub fn to_hold(own: Timeline, reserved: Timeline) -> Option<Vec<Timeline>> {
    let between = own.0.saturating_add(1)..reserved.0;
    (between.len() <= HELD_MAX as usize).then(|| between.map(Timeline).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_id_is_above_every_one_that_was_reserved() {
        assert_eq!(reserve(Some(Timeline(4)), Timeline(2)), Timeline(5));
        assert_eq!(
            reserve(Some(Timeline(2)), Timeline(6)),
            Timeline(7),
            "the archive had more history files"
        );
        assert_eq!(reserve(None, Timeline(3)), Timeline(4), "a record of a build before this rule");
    }

    #[test]
    fn an_id_that_was_never_written_on_is_given_back() {
        assert_eq!(used(Some(Timeline(4)), true), Some(Timeline(3)));
        assert_eq!(used(Some(Timeline(4)), false), Some(Timeline(4)));
        assert_eq!(used(None, true), None);
    }

    #[test]
    fn the_places_of_reigns_that_nobody_followed_are_held() {
        let held = |own, reserved| to_hold(Timeline(own), Timeline(reserved));
        assert_eq!(held(1, 2), Some(Vec::new()), "PostgreSQL takes it by itself");
        assert_eq!(held(1, 4), Some(vec![Timeline(2), Timeline(3)]));
        assert_eq!(held(5, 4), Some(Vec::new()), "already beyond it");
        assert_eq!(held(1, 2 + HELD_MAX).map(|held| held.len()), Some(64));
        assert_eq!(held(1, 3 + HELD_MAX), None);
    }
}
