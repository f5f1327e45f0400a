//! What an order of maintenance means to a person: what stands in its way, and how `status` tells of it.

use serde::Serialize;

use super::arming::Check;
use super::cluster::ClusterView;
use super::text;

/// The maintenance that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MaintenanceReport {
    /// When it ends by itself, RFC 3339; absent when the record cannot be read.
    pub until: Option<String>,
    /// When it was ordered.
    pub since: Option<String>,
    /// Who.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// All of it in one line, as it stands after the cluster's name.
    pub text: String,
}

/// The report of the maintenance in force; a record that cannot be read counts, because agents take it for one.
pub fn report(view: &ClusterView) -> Option<MaintenanceReport> {
    if view.maintenance_unreadable() {
        let text = "maintenance, by a record that this build cannot read".to_owned();
        return Some(MaintenanceReport { until: None, since: None, by: None, reason: None, text });
    }
    let found = view.maintenance_in_force()?;
    let until = text::moment(found.until_wall_ms);
    let ahead = text::ahead(found.until_wall_ms, view.read_wall_ms);
    Some(MaintenanceReport {
        text: format!("maintenance by {} until {until}, {ahead}: {}", found.by, found.reason),
        until: Some(until),
        since: Some(text::moment(found.since_wall_ms)),
        by: Some(found.by.clone()),
        reason: Some(found.reason.clone()),
    })
}

/// What stands in the way of beginning one. A failover that is under way would stop half-way, with no writer until the
/// maintenance is over.
pub fn check_on(view: &ClusterView) -> Check {
    let mut check = Check::default();
    let wait = text::command("status --watch 1", &view.cluster);
    match view.reign() {
        Some(term) if term.open_holder().is_none() => {
            check.block(format!("term {} is closed and the next is not open yet", term.term), wait);
        }
        Some(term) if view.attestations.iter().any(|attestation| attestation.term == term.term) => {
            let problem = format!("{} attests that its PostgreSQL has stopped", term.holder());
            check.block(problem, format!("a failover is under way: {wait}"));
        }
        Some(term) => {
            let bound = view.promises.iter().filter(|(_, promise)| promise.term == term.term);
            let bound = text::list(bound.map(|(member, _)| member));
            if bound != "-" {
                check.warn(format!("{bound} left the writer and stays so until the maintenance is over"));
            }
        }
        None => check.warn(format!("mode {}: Holdfast does not act here anyway", view.mode())),
    }
    if let Some(before) = report(view) {
        check.warn(format!("this replaces: {}", before.text));
    }
    check
}

/// What to know when one ends.
pub fn check_off(view: &ClusterView) -> Check {
    let mut check = Check::default();
    if view.patroni.switch("pause") == Some(true) {
        check.warn("Patroni is paused: nothing automatic is done until patronictl resume");
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::events::EventsReport;
    use crate::view::status::StatusReport;
    use crate::view::testing::{Built, NOW_WALL_MS};
    use holdfast_types::Mode;

    fn problems(change: impl FnOnce(&mut Built)) -> Vec<String> {
        let mut built = Built::healthy();
        change(&mut built);
        check_on(&built.view()).blockers.into_iter().map(|blocker| blocker.problem).collect()
    }

    #[test]
    fn a_failover_is_not_stopped_half_way() {
        assert_eq!(problems(|_| ()), [""; 0]);
        assert_eq!(problems(|built| built.closed(4, 1)), ["term 4 is closed and the next is not open yet"]);
        assert_eq!(problems(|built| built.attest(4)), ["db1 attests that its PostgreSQL has stopped"]);
        assert_eq!(problems(|built| built.attest(3)), [""; 0], "an old one means nothing");
    }

    #[test]
    fn what_goes_on_is_said() {
        let mut built = Built::healthy();
        built.promise(2, 4);
        built.maintenance(NOW_WALL_MS + 60_000);
        let warnings = check_on(&built.view()).warnings;
        assert!(warnings[0].starts_with("db2 left the writer"), "{warnings:?}");
        assert!(warnings[1].starts_with("this replaces: maintenance by holdfast://operator/ann until"));
        built.mode(Mode::Observe);
        assert!(check_on(&built.view()).warnings[0].starts_with("mode observe"));
        assert_eq!(check_off(&built.view()).warnings, [""; 0]);
        built.patroni("config", &serde_json::json!({"pause": true}));
        assert!(check_off(&built.view()).warnings[0].contains("patronictl resume"));
    }

    #[test]
    fn status_says_it_first_and_the_expired_one_not_at_all() {
        let mut built = Built::healthy();
        built.remove_session(4);
        built.maintenance(NOW_WALL_MS + 1_680_000);
        let report = StatusReport::new(&built.view(), None);
        let first = report.text().lines().next().unwrap().to_owned();
        let expected = "AT RISK: maintenance by holdfast://operator/ann until 2026-11-24T00:28:00.000Z, in 28 min: new \
                        switch; nothing is failed over, closed or restarted by itself; next: holdfast maintenance off \
                        --reason WHY --region r1 --cluster main";
        assert_eq!(first, expected);
        assert_eq!(report.maintenance.unwrap().reason.as_deref(), Some("new switch"));
        built.maintenance(NOW_WALL_MS);
        let over = StatusReport::new(&built.view(), None);
        assert_eq!((over.maintenance, over.findings.len()), (None, 1));
        built.session(4);
        built.raw(&built.keys.maintenance(), br#"{"format":9,"min_reader":9}"#);
        let unreadable = StatusReport::new(&built.view(), None);
        assert!(
            unreadable.headline().starts_with("AT RISK: maintenance, by a record"),
            "{}",
            unreadable.headline()
        );
    }

    #[test]
    fn an_observing_cluster_shows_it_and_its_order_is_recorded() {
        let mut built = Built::unarmed();
        built.maintenance(NOW_WALL_MS + 60_000);
        built.audit(0, "maintenance on", "new switch");
        let report = StatusReport::new(&built.view(), None);
        assert!(
            report.healthy && report.text().contains("\nmaintenance by holdfast://operator/ann"),
            "{}",
            report.text()
        );
        assert!(EventsReport::new(&built.view(), 10).text().contains("| maintenance on |"));
    }
}
