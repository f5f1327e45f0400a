//! Rule 16: whether a member may lead, as its own agent publishes it. Others choose a successor by it.
//!
//! Not whether it streams: nobody does once the writer is gone, and that is when a successor is chosen. Called when an agent
//! writes its facts; what comes of the word is decided elsewhere.

use crate::cluster::{Cluster, PatroniMember};
use crate::member::{Postgres, term_in_force};
use holdfast_types::MemberName;

/// What an agent sees of its own host.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// The postmaster.
    pub postgres: Postgres,
    /// Patroni's process is there.
    pub patroni_alive: bool,
    /// It does not answer.
    pub patroni_hung: bool,
    /// Its directories do not lie where they belong: a start would be refused (promise I12).
    pub misplaced: bool,
}

/// Whether `me`, the member of this key of Patroni's, may lead. One that is drained may not, unless it writes all the same: then
/// the word says that it could go on.
pub fn decide(cluster: &Cluster, me: &MemberName, patroni: &PatroniMember, host: Host) -> bool {
    let runs = matches!(patroni.state.as_deref(), Some("running" | "streaming"));
    let allowed = !patroni.nofailover && patroni.failover_priority > 0;
    let paused = cluster.config.is_some_and(|config| config.paused);
    let up = matches!(host.postgres, Postgres::Running { .. });
    // It is about to be ended; it comes back as a standby (rule 15).
    let is_deposed = host.postgres == Postgres::Running { in_recovery: Some(false) }
        && term_in_force(cluster).is_some_and(|term| term.value.open_holder().is_none());
    let holds = term_in_force(cluster).is_some_and(|term| term.value.open_holder() == Some(me));
    let is_drained = cluster.is_drained(me.as_str()) && !holds;
    let is_misplaced = host.misplaced && !holds;
    runs && allowed
        && !is_misplaced
        && !is_drained
        && !paused
        && up
        && !is_deposed
        && host.patroni_alive
        && !host.patroni_hung
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::Revised;
    use crate::cluster::PatroniConfig;
    use crate::testing::{name, patroni_config, patroni_member, term_open};
    use holdfast_types::Mode;
    use holdfast_types::record::{Evidence, ModeRecord, Reign};

    fn decide(cluster: &Cluster, patroni: &PatroniMember, host: Host) -> bool {
        super::decide(cluster, &name("a"), patroni, host)
    }

    const HOST: Host = Host {
        postgres: Postgres::Running { in_recovery: Some(true) },
        patroni_alive: true,
        patroni_hung: false,
        misplaced: false,
    };

    #[test]
    fn a_standby_whose_patroni_runs_may_lead_and_what_keeps_one_from_it() {
        let cluster = Cluster::default();
        assert!(decide(&cluster, &patroni_member(7), HOST));
        assert!(!decide(&cluster, &PatroniMember { nofailover: true, ..patroni_member(7) }, HOST));
        assert!(!decide(&cluster, &PatroniMember { failover_priority: 0, ..patroni_member(7) }, HOST));
        assert!(!decide(
            &cluster,
            &PatroniMember { state: Some("starting".into()), ..patroni_member(7) },
            HOST
        ));
        assert!(!decide(&cluster, &PatroniMember { state: None, ..patroni_member(7) }, HOST));
        assert!(!decide(&cluster, &patroni_member(7), Host { patroni_hung: true, ..HOST }));
        assert!(!decide(&cluster, &patroni_member(7), Host { patroni_alive: false, ..HOST }));
        assert!(!decide(&cluster, &patroni_member(7), Host { misplaced: true, ..HOST }));
        assert!(!decide(&cluster, &patroni_member(7), Host { postgres: Postgres::Gone, ..HOST }));
        assert!(!decide(&cluster, &patroni_member(7), Host { postgres: Postgres::Unknown, ..HOST }));
        let config = Some(PatroniConfig { paused: true, ..patroni_config() });
        assert!(!decide(&Cluster { config, ..Cluster::default() }, &patroni_member(7), HOST));
    }

    #[test]
    fn who_is_drained_may_not_lead_unless_it_writes() {
        let mut cluster = Cluster::default();
        cluster.unreadable_drains.insert("A".into());
        assert!(!super::decide(&cluster, &name("a"), &patroni_member(7), HOST));
        assert!(super::decide(&cluster, &name("b"), &patroni_member(7), HOST));
        let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
        cluster.mode = Some(Revised { value: mode, mod_revision: 1 });
        cluster.term = Some(Revised { value: term_open("a", 4, true), mod_revision: 2 });
        assert!(super::decide(&cluster, &name("a"), &patroni_member(7), HOST), "nobody else could");
    }

    #[test]
    fn a_primary_whose_term_is_closed_may_not_lead() {
        let primary = Host { postgres: Postgres::Running { in_recovery: Some(false) }, ..HOST };
        let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
        let mut cluster = Cluster {
            mode: Some(Revised { value: mode, mod_revision: 1 }),
            term: Some(Revised { value: term_open("a", 4, true), mod_revision: 2 }),
            ..Cluster::default()
        };
        assert!(decide(&cluster, &patroni_member(7), primary));
        cluster.term.as_mut().unwrap().value.reign = Reign::Closed {
            holder: name("a"),
            floor: None,
            sync_version: 1,
            evidence: Evidence::AttestedClean,
            successor: None,
            at_wall_ms: 0,
        };
        assert!(!decide(&cluster, &patroni_member(7), primary));
        assert!(decide(&cluster, &patroni_member(7), HOST), "it has come back as a standby");
    }
}
