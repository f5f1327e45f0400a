//! For how long the session of the open term has been seen gone, by one host's own clock.
//!
//! A session may be gone because somebody has revoked it, so a lease by its last renewal may outlive it: whoever closes a
//! term (rule 8) or follows in class `off` waits by this. It decides nothing; the agent keeps one for each cluster, and
//! gives it every cluster that it looks at.

use holdfast_types::SessionId;

use crate::cluster::Cluster;
use crate::member::term_in_force;

/// The session that was seen gone, and since when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gone(Option<(SessionId, u64)>);

impl Gone {
    /// Takes note of a cluster at this moment, by `CLOCK_BOOTTIME` in milliseconds. For how long the session of its open term
    /// has been gone, in milliseconds; 0 while it is there, or no term is open.
    pub fn look(&mut self, cluster: &Cluster, now_ms: u64) -> u64 {
        let session = term_in_force(cluster).and_then(|term| term.value.open_session());
        let gone = session.filter(|session| !cluster.sessions.contains_key(session));
        let known = self.0.filter(|(session, _)| Some(*session) == gone);
        self.0 = known.or(gone.map(|session| (session, now_ms)));
        self.0.map_or(0, |(_, since_ms)| now_ms.saturating_sub(since_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::Revised;
    use crate::testing::{session, term_open};
    use holdfast_types::Mode;
    use holdfast_types::record::{ModeRecord, Reign};

    #[test]
    fn the_time_counts_from_the_first_look_at_a_session_that_is_gone() {
        let armed = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
        let mut cluster = Cluster {
            mode: Some(Revised { value: armed, mod_revision: 50 }),
            term: Some(Revised { value: term_open("a", 4, true), mod_revision: 80 }),
            ..Cluster::default()
        };
        let mut gone = Gone::default();
        assert_eq!((gone.look(&cluster, 1_000), gone.look(&cluster, 1_700)), (0, 700));
        let mut there = cluster.clone();
        there.sessions.insert(SessionId(5), session("a"));
        assert_eq!((gone.look(&there, 1_800), gone.look(&cluster, 1_900)), (0, 0), "it was there in between");
        let mut next = term_open("b", 5, true);
        if let Reign::Open { session, .. } = &mut next.reign {
            *session = SessionId(6);
        }
        cluster.term = Some(Revised { value: next, mod_revision: 90 });
        assert_eq!(gone.look(&cluster, 2_500), 0, "of another reign");
        cluster.term = None;
        assert_eq!(gone.look(&cluster, 9_000), 0);
    }
}
