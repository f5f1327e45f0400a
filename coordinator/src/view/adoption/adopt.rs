//! The way in: everything that can be prepared while nothing acts, in an order in which no step breaks what runs.
//!
//! The programs come before the hooks that call them; `/config` and the hooks are taken in by a reload, and PostgreSQL is never
//! restarted. Patroni reads `bin_name` at each start of PostgreSQL and `pre_promote` at each promotion, so a reload is enough.

use holdfast_types::{Class, MemberName, Mode, Profile, Timings};

use super::{Done, PlanReport, ROLE, all_members, any_file, etcd, file_of, files, patronictl};
use crate::view::arming::{self, Blocker};
use crate::view::cluster::ClusterView;
use crate::view::{class, setup, text, unsupported};

/// What is proposed where the present one does not fit, the first that does.
const TTLS_S: [u64; 4] = [20, 30, 60, 90];
const DATABASES: &str = "every database host";
const POOLERS: &str = "every pooler host";
const HAPROXIES: &str = "haproxy.cfg on every HAProxy host";

/// The steps, for agents of this timing profile and the etcd servers that this command itself uses.
pub fn plan(view: &ClusterView, profile: Profile, etcd_servers: &[String]) -> PlanReport {
    let mut plan = PlanReport::new("adopt", view);
    before(view, &mut plan);
    programs(view, &mut plan);
    role(view, &mut plan);
    agents(view, profile, etcd_servers, &mut plan);
    config(view, profile, &mut plan);
    hooks(view, &mut plan);
    poolers(view, profile, etcd_servers, &mut plan);
    plan.step(
        HAPROXIES,
        "where clients come through HAProxy: its check asks our agents, who never say yes for a candidate that is still read-only. In \
         mode observe they go by Patroni's leader key, so this changes nothing until you arm; a reload ends no connection",
        files::haproxy(view),
        Done::Unknown,
    );
    last(view, &mut plan);
    plan
}

/// What no step mends, and what to know.
fn before(view: &ClusterView, plan: &mut PlanReport) {
    let refusals = unsupported::refusals(view).into_iter();
    plan.refused.extend(refusals.map(|(problem, fix)| Blocker { problem, fix }));
    if view.patroni.config.as_ref().is_some_and(|config| config["standby_cluster"].is_object()) {
        let fix = "prepare it now, and arm it after its promotion".into();
        plan.refused.push(Blocker { problem: "this is a standby cluster".into(), fix });
    }
    plan.notes.extend(unsupported::warnings(view));
    plan.notes.extend(class::loss(&view.patroni));
    if all_members(view, |member| view.agent_alive(member)) != Done::Yes {
        plan.notes.push(
            "not every member has an agent: what stands in its patroni.yml, and whether vip-manager runs beside it, is unknown".into(),
        );
    }
}

fn programs(view: &ClusterView, plan: &mut PlanReport) {
    let running = all_members(view, |member| view.agent_alive(member));
    let installed = if running == Done::Yes { Done::Yes } else { Done::Unknown };
    plan.step(
        "one safe machine",
        "certificates: one authority, one certificate for each host and person (or your own authority, with the same names)",
        files::certificates(view),
        installed,
    );
    plan.step("etcd", "permissions, where its authentication is on", etcd::permissions(view), Done::Unknown);
    plan.step(
        format!("{DATABASES} and {POOLERS}"),
        "the packages: programs, units and drop-ins; nothing is started, and the drop-ins restart nothing",
        "apt install holdfast-agent      # or: dnf install holdfast-agent\n\
         # /etc/systemd/system/patroni.service.d/holdfast.conf, pgbouncer.service.d/holdfast.conf (pooler), etcd.service.d/holdfast.conf (etcd)\n\
         systemctl daemon-reload",
        installed,
    );
}

/// A member whose agent knows whether it streams, or who its standbys are, has been asked over SQL.
fn role(view: &ClusterView, plan: &mut PlanReport) {
    let answers = all_members(view, |member| {
        Some(view.facts.get(member)?.streaming.is_some()).filter(|_| view.agent_alive(member) == Some(true))
    });
    let answers = if answers == Done::Yes { Done::Yes } else { Done::Unknown };
    let leader = view.patroni.leader.as_ref().map_or("the leader".to_owned(), ToString::to_string);
    plan.step(
        format!("PostgreSQL of {leader}, in database postgres"),
        "the role of the agents, with the least rights",
        files::role(),
        answers,
    );
    plan.step(
        format!("patroni.yml of {DATABASES}"),
        "how that role gets in (where Patroni does not write pg_hba.conf and pg_ident.conf: the same lines there, then pg_ctl reload)",
        format!(
            "{}\n# then: {}",
            files::login(),
            patronictl(&any_file(view), &format!("reload {} --force", view.cluster.scope))
        ),
        answers,
    );
}

fn agents(view: &ClusterView, profile: Profile, etcd_servers: &[String], plan: &mut PlanReport) {
    for member in view.patroni.members.keys() {
        let alive = view.agent_alive(member);
        let done = if alive == Some(true) { Done::Yes } else { Done::No };
        plan.step(
            format!("/etc/holdfast/agent.toml on the host of {member}"),
            "the agent's configuration; then: holdfast-agent check-config",
            files::agent(view, member, profile, etcd_servers),
            done,
        );
    }
    let running = all_members(view, |member| Some(view.agent_alive(member) == Some(true)));
    plan.step(
        DATABASES,
        "guard and agent are started, and watch: the mode is observe, in which nothing acts and every hook lets pass. \
         The agent's packet filter is its own tables inet holdfast_* (none while it observes); no rule of yours is changed",
        "systemctl enable --now holdfast-guard holdfast-boot-deny holdfast-agent\nnft list tables | grep holdfast",
        running,
    );
}

/// The settings of `/config` that must be otherwise, as `edit-config` takes them.
fn wanted(view: &ClusterView, profile: Profile) -> (Vec<String>, Vec<String>) {
    let patroni = &view.patroni;
    let (mut change, mut there) = (Vec::new(), Vec::new());
    match patroni.switch("failsafe_mode") {
        Some(true) => there.push("failsafe_mode=true".to_owned()),
        Some(false) | None => change.push("failsafe_mode=true".to_owned()),
    }
    match patroni.class() {
        Some(Class::Quorum) => there.push("synchronous_mode=quorum".into()),
        Some(Class::On) => change.push("synchronous_mode=quorum".into()),
        // Nobody is made synchronous behind his back: it costs latency.
        Some(Class::Off) | None => {}
    }
    let ttl_s =
        patroni.config.as_ref().and_then(|config| config["ttl"].as_u64()).unwrap_or(setup::PATRONI_TTL_S);
    let fits = |ttl_s: &u64| Timings::of(profile).check_patroni_ttl(ttl_s * 1_000).is_ok();
    match fits(&ttl_s) {
        true => there.push(format!("ttl={ttl_s}")),
        false => change.extend(TTLS_S.iter().find(|ttl_s| fits(ttl_s)).map(|ttl_s| format!("ttl={ttl_s}"))),
    }
    (change, there)
}

fn config(view: &ClusterView, profile: Profile, plan: &mut PlanReport) {
    let (change, there) = wanted(view, profile);
    let known = view.patroni.config.is_some();
    let mut lines = Vec::new();
    if !there.is_empty() {
        lines.push(format!("# there already: {}", there.join(", ")));
    }
    if view.patroni.class() == Some(Class::Off) {
        lines.push(
            "# synchronous_mode stays off: the promises then are those of class off, see the note above"
                .into(),
        );
    }
    if !change.is_empty() {
        let settings: Vec<String> = change.iter().map(|one| format!("-s {one}")).collect();
        let edit = format!("edit-config {} --force {}", view.cluster.scope, settings.join(" "));
        lines.push(patronictl(&any_file(view), &edit));
    }
    let done = if known { Done::from(change.is_empty()) } else { Done::Unknown };
    plan.step(
        "any database host",
        "Patroni's shared settings: losing etcd stops no primary; the quorum of standbys that the promises count; a lock that \
         moves after the last layer of the fence",
        lines.join("\n"),
        done,
    );
}

fn hooks(view: &ClusterView, plan: &mut PlanReport) {
    for (member, data) in &view.patroni.members {
        let file = file_of(view, member);
        let reload = patronictl(&file, &format!("reload {} {member} --force", view.cluster.scope));
        plan.step(
            format!("{file} on the host of {member}"),
            format!(
                "the hooks, and no second owner of /dev/watchdog. A reload is enough, PostgreSQL ({}) is not restarted: Patroni \
                 reads bin_name at the next start and pre_promote at the next promotion. The hook lets pass while the cluster is not \
                 armed. pre_promote may stand in /config instead, once every host has the program",
                data.state.as_deref().unwrap_or(text::UNKNOWN)
            ),
            format!("{}\n# then: {reload}", files::hooks(view)),
            hooks_done(view, member),
        );
    }
}

fn hooks_done(view: &ClusterView, member: &MemberName) -> Done {
    match setup::faults_of(view, member) {
        None => Done::Unknown,
        Some(faults) => Done::from(faults.is_empty()),
    }
}

fn poolers(view: &ClusterView, profile: Profile, etcd_servers: &[String], plan: &mut PlanReport) {
    plan.step(
        format!("pgbouncer.ini on {POOLERS}"),
        "one admin console that the agent reaches, short retries, and a file of its own that names the writer; RELOAD takes it in",
        files::pgbouncer(),
        Done::Unknown,
    );
    plan.step(
        format!("/etc/holdfast/agent.toml on {POOLERS}"),
        "the pooler's agent; while the cluster is not armed it leaves PgBouncer alone, and what routes today goes on",
        format!(
            "{}# then: systemctl enable --now holdfast-agent",
            files::pooler_agent(view, profile, etcd_servers)
        ),
        Done::Unknown,
    );
}

fn last(view: &ClusterView, plan: &mut PlanReport) {
    let armed = view.mode() == Mode::Armed;
    let check = arming::check(view);
    plan.step(
        "here",
        "watch for as long as you like: status tells what each agent would have done; check says what is missing",
        [
            text::command("status", &view.cluster),
            text::command("doctor", &view.cluster),
            text::command("adopt check", &view.cluster),
        ]
        .join("\n"),
        armed || check.blockers.is_empty(),
    );
    plan.step(
        POOLERS,
        "what points PgBouncer at the writer today is stopped just before arming: two who write the same file fight",
        "systemctl disable --now YOUR-CHECK-OF-PATRONI",
        if armed { Done::Unknown } else { Done::No },
    );
    plan.step(
        "here",
        format!("arm; from then on agents act, as role {ROLE}. The way back is: disarm"),
        [text::order("arm --dry-run", &view.cluster), text::order("arm --wait", &view.cluster)].join("\n"),
        armed,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::adoption::Step;
    use crate::view::testing::Built;
    use serde_json::json;

    const ETCD: [&str; 1] = ["10.77.0.11:2379"];

    fn made(built: &Built) -> PlanReport {
        plan(&built.view(), Profile::Normal, &ETCD.map(str::to_owned))
    }

    fn step<'p>(plan: &'p PlanReport, place: &str, what: &str) -> &'p Step {
        let found = plan.steps.iter().find(|step| step.place.contains(place) && step.what.contains(what));
        found.unwrap_or_else(|| panic!("no {place}, {what} in {}", plan.text()))
    }

    /// Patroni alone: nothing of ours has ever run.
    fn alone() -> Built {
        let mut built = Built::unarmed();
        for n in 1..=4 {
            built.pairs.remove(&built.keys.facts(&crate::view::testing::db(n)));
            built.remove_session(n);
            built.patroni_member(n, json!({"api_url": format!("https://10.77.0.2{n}:8008/patroni")}));
        }
        let config = json!({"ttl": 20, "synchronous_mode": true});
        built.patroni("config", &config);
        built
    }

    #[test]
    fn a_cluster_of_patroni_alone_is_told_everything() {
        let plan = made(&alone());
        assert_eq!(plan.refused, []);
        let settings = step(&plan, "any database host", "shared settings");
        assert_eq!(settings.done, Done::No);
        assert!(
            settings.text.ends_with(
                "patronictl -c /etc/patroni/config.yml edit-config main --force -s failsafe_mode=true -s synchronous_mode=quorum"
            ),
            "{}",
            settings.text
        );
        assert!(settings.text.starts_with("# there already: ttl=20"), "{}", settings.text);
        let hooks = step(&plan, "host of db3", "the hooks");
        assert_eq!(hooks.done, Done::Unknown);
        assert!(
            hooks.text.contains(
                "pre_promote: /usr/bin/holdfast-agent promote-gate --namespace service --scope main"
            )
        );
        assert!(hooks.text.ends_with("reload main db3 --force"), "{}", hooks.text);
        let agent = step(&plan, "agent.toml on the host of db2", "configuration");
        let table: toml::Table = agent.text.parse().unwrap();
        let instance = &table["instance"].as_array().unwrap()[0];
        assert_eq!(instance["patroni_url"].as_str(), Some("https://10.77.0.22:8008"));
        assert_eq!((instance["port"].as_integer(), instance["class"].as_str()), (Some(5432), Some("quorum")));
        assert_eq!(table["etcd"]["endpoints"][0].as_str(), Some("10.77.0.11:2379"));
        let haproxy = &step(&plan, "haproxy.cfg", "its check asks our agents").text;
        for line in [
            "option httpchk OPTIONS /writer?cluster=service/main",
            "server db2 10.77.0.22:5432 check port 7462 check-ssl verify required ca-file /etc/holdfast/tls/ca.crt",
        ] {
            assert!(haproxy.lines().any(|found| found == line), "{haproxy}");
        }
        let places: Vec<&str> = plan.steps.iter().map(|step| step.place.as_str()).collect();
        let at = |what: &str| plan.steps.iter().position(|step| step.what.contains(what)).unwrap();
        assert!(at("are started") < at("the hooks"), "the program is there before its hook: {places:?}");
        assert!(at("the hooks") < at("arm; from then on"), "{places:?}");
        let haproxy = at("its check asks our agents");
        assert!(at("are started") < haproxy && haproxy < at("arm; from then on"), "{places:?}");
        assert_eq!(plan.steps.last().unwrap().number, plan.steps.len());
    }

    #[test]
    fn what_is_right_is_said_to_be_there() {
        let mut built = Built::unarmed();
        for n in 1..=4 {
            built.facts(n, |facts| facts.setup.as_mut().unwrap().gate_named = Some(true));
        }
        let plan = made(&built);
        assert_eq!(step(&plan, "any database host", "shared settings").done, Done::Yes);
        assert_eq!(step(&plan, "host of db3", "the hooks").done, Done::Yes);
        assert_eq!(step(&plan, DATABASES, "are started").done, Done::Yes);
        assert_eq!(step(&plan, "here", "arm; from then on").done, Done::No);
        assert!(plan.text().contains("(there already)"), "{}", plan.text());
        built.facts(3, |facts| facts.setup.as_mut().unwrap().file.as_mut().unwrap().pre_promote = None);
        assert_eq!(step(&made(&built), "host of db3", "the hooks").done, Done::No);
    }

    #[test]
    fn class_off_stays_off_with_its_loss_and_an_untested_patroni_is_named_first() {
        let mut built = alone();
        built.asynchronous();
        built.patroni_member(2, json!({"version": "5.0.0"}));
        let plan = made(&built);
        assert!(plan.notes.iter().any(|note| note.starts_with("class off: acknowledged writes can be lost")));
        assert!(plan.refused[0].problem.starts_with("Patroni 5.0.0 of db2"));
        let settings = step(&plan, "any database host", "shared settings");
        assert!(!settings.text.contains("synchronous_mode=quorum"), "{}", settings.text);
        assert!(
            step(&plan, "agent.toml on the host of db1", "configuration").text.contains("class = \"off\"")
        );
    }

    #[test]
    fn a_ttl_that_does_not_fit_is_replaced_by_the_first_that_does() {
        let mut built = alone();
        built.patroni("config", &json!({"ttl": 5, "failsafe_mode": true, "synchronous_mode": "quorum"}));
        let text = &step(&made(&built), "any database host", "shared settings").text.clone();
        let ttl_s = text.rsplit_once("ttl=").and_then(|(_, ttl)| ttl.parse::<u64>().ok()).unwrap();
        assert!(Timings::of(Profile::Normal).check_patroni_ttl(ttl_s * 1_000).is_ok(), "{text}");
    }

    #[test]
    fn done_is_true_false_or_unknown_in_json() {
        let words = |done: Done| serde_json::to_value(done).unwrap();
        assert_eq!(
            [Done::Yes, Done::No, Done::Unknown].map(words),
            [json!(true), json!(false), json!("unknown")]
        );
    }
}
