//! What is wrong in Patroni's setup for the promises that an armed cluster makes: cause, effect, remedy. One list for
//! `doctor`, `status` and `arm`.
//!
//! `/config` is read from etcd; what only a host can see (`patroni.yml`, its postmaster, the setting in force) is in the
//! facts that its agent publishes. What nobody has seen is said to be unknown, never guessed.

use holdfast_types::record::{PatroniFile, SetupSeen};
use holdfast_types::{Class, MemberName, Timings};

use super::cluster::ClusterView;
use super::text;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What was seen.
    pub cause: String,
    /// What follows from it.
    pub effect: &'static str,
    /// What to do about it.
    pub remedy: String,
}

/// Everything that is wrong, of the cluster first.
pub fn faults(view: &ClusterView) -> Vec<Fault> {
    let mut faults = of_cluster(view);
    for (member, setup) in seen(view) {
        of_member(view, member, setup, &mut faults);
    }
    faults
}

/// What nobody can say, one line each.
pub fn unknown(view: &ClusterView) -> Vec<String> {
    let untold: Vec<&MemberName> =
        view.facts.iter().filter(|(_, facts)| facts.setup.is_none()).map(|(member, _)| member).collect();
    let mut lines = Vec::new();
    if !untold.is_empty() {
        let who = text::list(untold);
        lines.push(format!("watchdog, pre_promote and bin_name in patroni.yml of {who} are unknown: their agents have not told"));
    }
    for (member, setup) in seen(view) {
        if let Some(problem) = &setup.file_problem {
            lines.push(format!("Patroni's file on the host of {member} is unknown: {problem}"));
        }
    }
    lines
}

fn seen(view: &ClusterView) -> impl Iterator<Item = (&MemberName, &SetupSeen)> {
    view.facts.iter().filter_map(|(member, facts)| Some((member, facts.setup.as_ref()?)))
}

fn of_cluster(view: &ClusterView) -> Vec<Fault> {
    let patroni = &view.patroni;
    let mut faults = Vec::new();
    let mut add =
        |cause: String, effect, remedy: &str| faults.push(Fault { cause, effect, remedy: remedy.to_owned() });
    if patroni.class() == Some(Class::On) {
        add(
            "synchronous_mode is on, not quorum".into(),
            "Patroni writes /sync before the hook, so every promotion would be refused",
            "patronictl edit-config -s synchronous_mode=quorum",
        );
    }
    if patroni.switch("failsafe_mode") == Some(false) {
        add(
            "failsafe_mode is off".into(),
            "a loss of etcd alone would stop the primary",
            "patronictl edit-config -s failsafe_mode=true",
        );
    }
    for (member, source) in cascading(view) {
        add(
            format!("{member} is to stream from {source} (tag replicatefrom)"),
            "the packet filter of its host lets replication pass from the writer only: it receives nothing while the cluster is armed",
            &format!("take replicatefrom out of the tags of {member}, then patronictl reload"),
        );
    }
    let ttl_s = patroni.config.as_ref().map(|config| config["ttl"].as_u64().unwrap_or(PATRONI_TTL_S));
    let mut profiles: Vec<_> = seen(view).filter_map(|(_, setup)| setup.profile).collect();
    profiles.dedup();
    for profile in profiles {
        if let Some(ttl_s) = ttl_s
            && let Err(why) = Timings::of(profile).check_patroni_ttl(ttl_s * 1_000)
        {
            add(
                format!(
                    "Patroni's ttl of {ttl_s} s is too small for the timing profile {}: {why}",
                    word(profile)
                ),
                "Patroni's lock could move before the last layer of the fence has acted",
                "patronictl edit-config -s ttl=30, or a faster profile on every host",
            );
        }
    }
    faults
}

/// The members that are to stream from another standby, and from which.
fn cascading(view: &ClusterView) -> impl Iterator<Item = (&MemberName, &str)> {
    view.patroni.members.iter().filter_map(|(member, patroni)| {
        let source = patroni.tags.get("replicatefrom")?.as_str()?;
        (!source.is_empty()).then_some((member, source))
    })
}

/// Patroni's default.
const PATRONI_TTL_S: u64 = 30;

fn word(profile: holdfast_types::Profile) -> &'static str {
    match profile {
        holdfast_types::Profile::Fast => "fast",
        holdfast_types::Profile::Normal => "normal",
        holdfast_types::Profile::Wide => "wide",
    }
}

fn of_member(view: &ClusterView, member: &MemberName, setup: &SetupSeen, faults: &mut Vec<Fault>) {
    let mut add = |cause: String, effect, remedy: String| faults.push(Fault { cause, effect, remedy });
    if let Some(file) = &setup.file {
        let in_config = view.patroni.config.as_ref().and_then(|config| config["watchdog"]["mode"].as_str());
        // Where neither says anything, Patroni's default counts.
        let mode = file.watchdog_mode.as_deref().or(in_config).unwrap_or("automatic");
        if !mode.eq_ignore_ascii_case("off") {
            add(
                format!("Patroni's own watchdog is {mode} on {member}"),
                "/dev/watchdog has one owner, holdfast-guard: two of them reset a host that was fenced well, or neither does",
                format!("watchdog: mode: off in {}, then patronictl reload", file.path),
            );
        }
        hook(view, member, file, &mut add);
    }
    if setup.through_gate == Some(false) {
        let place = setup.file.as_ref().map_or("patroni.yml", |file| file.path.as_str());
        add(
            format!(
                "the PostgreSQL of {member} was not started through the start gate: bin_name.postgres is not ours, or somebody started it by hand"
            ),
            "a fenced or deposed node would start, and accept writes, without being asked",
            format!(
                "postgresql: bin_name: postgres: /usr/lib/holdfast/postgres in {place}, then patronictl restart {member}"
            ),
        );
    }
    if let Some(names) = setup.synchronous_standby_names.as_deref().filter(|names| lets_anybody(names)) {
        add(
            format!("synchronous_standby_names of {member} is {names:?}"),
            "anybody who streams acknowledges commits, so no standby can be trusted to have them",
            "patronictl edit-config -s synchronous_mode_strict=false, or bring a synchronous standby back"
                .into(),
        );
    }
}

/// The file's word takes the place of the one in `/config`.
fn hook(
    view: &ClusterView,
    member: &MemberName,
    file: &PatroniFile,
    add: &mut impl FnMut(String, &'static str, String),
) {
    let in_config =
        view.patroni.config.as_ref().and_then(|config| config["postgresql"]["pre_promote"].as_str());
    let cause = match file.pre_promote.as_deref().or(in_config) {
        Some(command) if command.contains("promote-gate") => return,
        Some(command) => format!("pre_promote on {member} is not Holdfast's: {command}"),
        None => format!("pre_promote is missing on {member}"),
    };
    let command = format!(
        "holdfast-agent promote-gate --namespace {} --scope {}",
        view.cluster.namespace, view.cluster.scope
    );
    add(
        cause,
        "it would be promoted without a new term: acknowledged writes can be lost, and two nodes can acknowledge",
        format!("postgresql: pre_promote: {command} in {}, then patronictl reload", file.path),
    );
}

/// `*` stands for any name where it is a name of its own, and not part of a quoted one.
fn lets_anybody(setting: &str) -> bool {
    let outside_quotes = setting.split('"').step_by(2);
    outside_quotes
        .flat_map(|part| part.split(|c: char| c.is_whitespace() || "(),".contains(c)))
        .any(|name| name == "*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;
    use serde_json::json;

    fn causes(change: impl FnOnce(&mut Built)) -> Vec<String> {
        let mut built = Built::healthy();
        change(&mut built);
        faults(&built.view()).into_iter().map(|fault| fault.cause).collect()
    }

    fn of_db2(change: impl FnOnce(&mut SetupSeen)) -> Vec<String> {
        causes(|built| built.facts(2, |facts| change(facts.setup.as_mut().unwrap())))
    }

    #[test]
    fn a_good_setup_has_no_fault_and_nothing_unknown() {
        let view = Built::healthy().view();
        assert_eq!((faults(&view), unknown(&view)), (vec![], vec![]));
    }

    #[test]
    fn settings_of_the_cluster_are_named() {
        let config = json!({"synchronous_mode": true, "failsafe_mode": false, "ttl": 5});
        let found = causes(|built| built.patroni("config", &config));
        assert_eq!(found[..2], ["synchronous_mode is on, not quorum", "failsafe_mode is off"]);
        assert!(
            found[2].starts_with("Patroni's ttl of 5 s is too small for the timing profile fast"),
            "{found:?}"
        );
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_cascading_replica_is_named_with_its_source() {
        let tagged =
            |tags: serde_json::Value| causes(|built| built.patroni_member(4, json!({ "tags": tags })));
        assert_eq!(
            tagged(json!({"nosync": true, "replicatefrom": "db2"})),
            ["db4 is to stream from db2 (tag replicatefrom)"]
        );
        assert_eq!(tagged(json!({"replicatefrom": ""})), [""; 0], "an empty tag is none");
    }

    #[test]
    fn what_a_host_sees_is_named_with_the_host() {
        let watchdog = |mode: Option<&str>| {
            of_db2(|setup| setup.file.as_mut().unwrap().watchdog_mode = mode.map(str::to_owned))
        };
        assert_eq!(watchdog(Some("required")), ["Patroni's own watchdog is required on db2"]);
        assert_eq!(watchdog(None), ["Patroni's own watchdog is automatic on db2"], "Patroni's default");
        assert_eq!(watchdog(Some("OFF")), [""; 0]);
        let gate = of_db2(|setup| setup.through_gate = Some(false));
        assert!(
            gate[0].starts_with("the PostgreSQL of db2 was not started through the start gate"),
            "{gate:?}"
        );
        assert_eq!(of_db2(|setup| setup.through_gate = None), [""; 0], "unknown is no fault");
    }

    #[test]
    fn the_hook_is_the_files_or_the_clusters() {
        let hook = |own: Option<&str>| {
            of_db2(|setup| setup.file.as_mut().unwrap().pre_promote = own.map(str::to_owned))
        };
        assert_eq!(hook(None), ["pre_promote is missing on db2"]);
        assert_eq!(hook(Some("/bin/true")), ["pre_promote on db2 is not Holdfast's: /bin/true"]);
        let both = causes(|built| {
            let config = json!({"ttl": 20, "synchronous_mode": "quorum", "failsafe_mode": true,
                                "postgresql": {"pre_promote": "holdfast-agent promote-gate"}});
            built.patroni("config", &config);
            built.facts(2, |facts| facts.setup.as_mut().unwrap().file.as_mut().unwrap().pre_promote = None);
        });
        assert_eq!(both, [""; 0]);
        let asynchronous = causes(|built| {
            built.asynchronous();
            built.facts(2, |facts| facts.setup.as_mut().unwrap().file.as_mut().unwrap().pre_promote = None);
        });
        assert_eq!(
            asynchronous,
            ["pre_promote is missing on db2"],
            "the last writer's end is waited for there too"
        );
    }

    #[test]
    fn a_star_lets_anybody_acknowledge() {
        for star in ["*", "ANY 1 (*)", "ANY 2 (db2, *)", "1(*)"] {
            assert!(lets_anybody(star), "{star}");
        }
        for named in ["", "ANY 1 (db2,db3)", "ANY 1 (\"*\")", "ANY 1 (\"a*\",b)"] {
            assert!(!lets_anybody(named), "{named}");
        }
        let found = of_db2(|setup| setup.synchronous_standby_names = Some("ANY 1 (*)".into()));
        assert_eq!(found, ["synchronous_standby_names of db2 is \"ANY 1 (*)\""]);
    }

    #[test]
    fn what_nobody_has_seen_is_said() {
        let mut built = Built::healthy();
        built.facts(3, |facts| facts.setup = None);
        built.facts(4, |facts| {
            let setup = facts.setup.as_mut().unwrap();
            (setup.file, setup.file_problem) = (None, Some("/etc/p.yml: denied".into()));
        });
        let lines = unknown(&built.view());
        assert!(lines[0].contains("patroni.yml of db3 are unknown"), "{lines:?}");
        assert_eq!(lines[1], "Patroni's file on the host of db4 is unknown: /etc/p.yml: denied");
        assert_eq!(faults(&built.view()), []);
    }
}
