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
        misplaced(member, setup, &mut faults);
        of_member(view, member, setup, &mut faults);
    }
    faults
}

/// The start gate of a host would refuse PostgreSQL its disks (promise I12).
fn misplaced(member: &MemberName, setup: &SetupSeen, faults: &mut Vec<Fault>) {
    faults.extend(setup.misplaced.iter().map(|why| Fault {
        cause: format!("{member}: {why}"),
        effect: "a start of PostgreSQL there is refused, and it is not chosen as successor",
        remedy: "holdfast disk list on its host, and if it is meant: holdfast disk adopt --reason WHY".into(),
    }));
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

/// What holds, and should be known: proofs that are weaker than they could be, and what an agent cannot look at.
pub fn notes(view: &ClusterView) -> Vec<String> {
    let mut lines = Vec::new();
    for (member, setup) in seen(view) {
        let weak = setup.standbys_without_certificate.as_deref().filter(|names| !names.is_empty());
        if let Some(names) = weak {
            lines.push(format!(
                "{} stream from {member} without a client certificate: they are known by their address and role alone, \
                 the weaker proof. Whoever has the password and takes such an address could acknowledge in its place; \
                 a certificate for each (sslcert, and cert in pg_hba.conf) rules that out",
                text::list(names)
            ));
        }
        if let Some(problem) = &setup.rest_problem {
            lines.push(format!("the agent of {member} would not notice a Patroni that hangs: {problem}"));
        }
    }
    lines.extend(gate_not_asked_yet(view));
    lines
}

/// What holds later than people may think: the start gate is named, and no start has asked it yet.
fn gate_not_asked_yet(view: &ClusterView) -> Option<String> {
    let later = |setup: &SetupSeen| setup.through_gate == Some(false) && setup.gate_named == Some(true);
    let members: Vec<&MemberName> =
        seen(view).filter(|(_, setup)| later(setup)).map(|(member, _)| member).collect();
    if members.is_empty() {
        return None;
    }
    let who = text::list(members);
    Some(format!(
        "the PostgreSQL of {who} was started before Patroni's file named the start gate, or by hand: its next start by Patroni asks the gate"
    ))
}

/// What is wrong with one member's own setup; `None` when its host has not told enough to say that nothing is.
pub fn faults_of(view: &ClusterView, member: &MemberName) -> Option<Vec<Fault>> {
    let setup = view.facts.get(member)?.setup.as_ref()?;
    let mut faults = Vec::new();
    of_member(view, member, setup, &mut faults);
    (setup.file.is_some() || !faults.is_empty()).then_some(faults)
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
                format!("Patroni's ttl of {ttl_s} s is too small for the timing profile {profile}: {why}"),
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
pub(super) const PATRONI_TTL_S: u64 = 30;

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
    of_gate(member, setup, &mut add);
    if let (Some(own), Some(class)) = (setup.class, view.patroni.class())
        && own != class
        // One fault is enough: the cluster's own.
        && class != Class::On
    {
        add(
            format!(
                "the agent of {member} is configured for class {own}, and Patroni's synchronous_mode makes it {class}"
            ),
            "it would fence and promise by rules that this cluster does not keep",
            format!(
                "class = \"{class}\" of the [[instance]] in that host's agent.toml, then systemctl restart holdfast-agent"
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

/// Patroni reads the name of PostgreSQL's binary at each start: once its file has it, a PostgreSQL that runs needs no restart.
fn of_gate(member: &MemberName, setup: &SetupSeen, add: &mut impl FnMut(String, &'static str, String)) {
    let place = setup.file.as_ref().map_or("patroni.yml", |file| file.path.as_str());
    let effect = "a fenced or deposed node would start, and accept writes, without being asked";
    let set = format!("postgresql: bin_name: postgres: /usr/lib/holdfast/postgres in {place}");
    match (setup.gate_named, setup.through_gate) {
        (Some(false), _) => add(
            format!("bin_name.postgres on {member} does not lead to the start gate"),
            effect,
            format!("{set}, then patronictl reload; PostgreSQL goes on running"),
        ),
        // Its agent does not look at the name.
        (None, Some(false)) => add(
            format!(
                "the PostgreSQL of {member} was not started through the start gate: bin_name.postgres is not ours, or somebody started it by hand"
            ),
            effect,
            format!("{set}, then patronictl restart {member}"),
        ),
        (Some(true) | None, _) => {}
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
        let class = of_db2(|setup| setup.class = Some(Class::Off));
        assert_eq!(
            class,
            ["the agent of db2 is configured for class off, and Patroni's synchronous_mode makes it quorum"]
        );
    }

    #[test]
    fn a_gate_that_is_named_counts_from_the_next_start() {
        let mut built = Built::healthy();
        let set = |setup: &mut SetupSeen, named| {
            (setup.through_gate, setup.gate_named) = (Some(false), Some(named));
        };
        built.facts(2, |facts| set(facts.setup.as_mut().unwrap(), true));
        let view = built.view();
        assert_eq!(faults(&view), [], "PostgreSQL is not restarted for Holdfast");
        assert!(
            notes(&view)[0].starts_with("the PostgreSQL of db2 was started before"),
            "{:?}",
            notes(&view)
        );
        built.facts(2, |facts| set(facts.setup.as_mut().unwrap(), false));
        let found = faults(&built.view());
        assert_eq!(found[0].cause, "bin_name.postgres on db2 does not lead to the start gate");
        assert!(found[0].remedy.ends_with("PostgreSQL goes on running") && found.len() == 1);
        assert_eq!(faults_of(&built.view(), &crate::view::testing::db(2)), Some(found));
        assert_eq!(faults_of(&Built::empty().view(), &crate::view::testing::db(2)), None);
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
    fn a_weaker_proof_and_a_rest_api_that_cannot_be_asked_are_notes_and_no_faults() {
        let mut built = Built::healthy();
        assert_eq!(notes(&built.view()), [""; 0]);
        built.facts(1, |facts| {
            let setup = facts.setup.as_mut().unwrap();
            setup.standbys_without_certificate = Some(vec![holdfast_types::MemberName::new("db3").unwrap()]);
        });
        built.facts(2, |facts| facts.setup.as_mut().unwrap().rest_problem = Some("another authority".into()));
        let view = built.view();
        let lines = notes(&view);
        assert!(
            lines[0].starts_with("db3 stream from db1") && lines[0].contains("weaker proof"),
            "{lines:?}"
        );
        assert!(
            lines[1].contains("the agent of db2") && lines[1].ends_with("another authority"),
            "{lines:?}"
        );
        assert_eq!((lines.len(), faults(&view).len()), (2, 0));
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
