//! The way out, in the order that never stands in Patroni's way: nothing acts any more, then Patroni forgets the hooks, then
//! the programs behind them go, and what they kept goes last. A hook whose program has gone would end every promotion, and a
//! start gate whose program has gone every start; so the files come before the packages.

use holdfast_types::keys::ClusterKeys;
use holdfast_types::{MemberName, Mode};

use super::{Done, PlanReport, ROLE, all_members, any_file, etcd, file_of, files, patronictl};
use crate::view::cluster::ClusterView;
use crate::view::text;

/// The steps.
pub fn plan(view: &ClusterView) -> PlanReport {
    let mut plan = PlanReport::new("remove", view);
    plan.notes.push("every step up to the packages can be taken back; stop after any of them".into());
    plan.step(
        "here",
        "nothing acts any more, and every agent has seen it: its packet filter is open, its guard holds nobody. From here on Patroni alone decides",
        text::order("disarm --wait", &view.cluster),
        view.mode() != Mode::Armed,
    );
    plan.step(
        "every pooler host",
        "what pointed PgBouncer at the writer before is started again; the target file keeps naming the present writer until then",
        "systemctl enable --now YOUR-CHECK-OF-PATRONI\n# later: the section [databases] in the place of %include, then RELOAD",
        Done::Unknown,
    );
    plan.step(
        "haproxy.cfg on every HAProxy host",
        "where its check asks our agents: it asks Patroni again, before they go",
        files::haproxy_of_patroni(view),
        Done::Unknown,
    );
    hooks(view, &mut plan);
    programs(view, &mut plan);
    traces(view, &mut plan);
    plan
}

fn hooks(view: &ClusterView, plan: &mut PlanReport) {
    let in_config =
        view.patroni.config.as_ref().and_then(|config| config["postgresql"]["pre_promote"].as_str());
    if in_config.is_some_and(is_ours) {
        plan.step(
            "any database host",
            "the hook goes out of Patroni's shared settings",
            patronictl(
                &any_file(view),
                &format!("edit-config {} --force -s postgresql.pre_promote=null", view.cluster.scope),
            ),
            Done::No,
        );
    }
    for member in view.patroni.members.keys() {
        let file = file_of(view, member);
        plan.step(
            format!("{file} on the host of {member}"),
            "pre_promote and bin_name.postgres go out; watchdog as it was before. A reload is enough: PostgreSQL is not restarted, \
             and Patroni reads both at their next use",
            format!(
                "# delete: postgresql.pre_promote, postgresql.bin_name.postgres\n{}",
                patronictl(&file, &format!("reload {} {member} --force", view.cluster.scope))
            ),
            hooks_out(view, member),
        );
    }
}

fn is_ours(command: &str) -> bool {
    command.contains("promote-gate")
}

/// By what its agent told last.
fn hooks_out(view: &ClusterView, member: &MemberName) -> Done {
    let setup = view.facts.get(member).and_then(|facts| facts.setup.as_ref());
    let Some((setup, file)) = setup.and_then(|setup| Some((setup, setup.file.as_ref()?))) else {
        return Done::Unknown;
    };
    let gate = setup.gate_named == Some(true)
        || file.bin_name_postgres.as_deref().is_some_and(|name| name.contains("holdfast"));
    Done::from(!gate && !file.pre_promote.as_deref().is_some_and(is_ours))
}

fn programs(view: &ClusterView, plan: &mut PlanReport) {
    plan.step(
        "every host",
        "the drop-ins go first: Patroni's says Requires=holdfast-boot-deny.service, so stopping that one with the drop-in in force would stop Patroni",
        "rm /etc/systemd/system/{patroni,pgbouncer,etcd}.service.d/holdfast.conf\nsystemctl daemon-reload",
        Done::Unknown,
    );
    let gone = all_members(view, |member| Some(view.agent_alive(member) != Some(true)));
    plan.step(
        "every host",
        "agents and guards are stopped",
        "systemctl disable --now holdfast-agent holdfast-guard holdfast-boot-deny",
        if view.sessions.is_empty() { Done::Yes } else { gone },
    );
    plan.step(
        "every host",
        "no table of ours is left in the packet filter",
        "nft list tables | grep holdfast      # nothing; else: nft delete table inet NAME",
        Done::Unknown,
    );
}

fn traces(view: &ClusterView, plan: &mut PlanReport) {
    let leader = view.patroni.leader.as_ref().map_or("the leader".to_owned(), ToString::to_string);
    plan.step(
        format!("PostgreSQL of {leader}, and every patroni.yml"),
        "the role of the agents, and its lines of pg_hba and pg_ident",
        format!("DROP ROLE {ROLE};"),
        Done::Unknown,
    );
    plan.step(
        "etcd",
        "our keys of this cluster, its history and orders among them; Patroni's are elsewhere",
        format!("etcdctl del --prefix {}", ClusterKeys::new(&view.cluster).prefix()),
        !has_keys(view),
    );
    plan.step(
        "etcd",
        "its users and roles, where authentication is on",
        etcd::users_gone(view),
        Done::Unknown,
    );
    plan.step(
        "every host",
        "the packages and what the agents kept",
        "apt purge holdfast-agent      # or: dnf remove holdfast-agent\n\
         rm -rf /var/lib/holdfast /etc/holdfast\n# in each data directory: holdfast.data_uuid may go too",
        Done::Unknown,
    );
}

/// Whether a record of ours is left.
fn has_keys(view: &ClusterView) -> bool {
    view.mode.is_some()
        || view.term.is_some()
        || view.floor.is_some()
        || !view.facts.is_empty()
        || !view.fences.is_empty()
        || !view.fenced.is_empty()
        || !view.routes.is_empty()
        || !view.events.is_empty()
        || !view.would.is_empty()
        || !view.audits.is_empty()
        || !view.problems.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{Built, db};

    fn done(built: &Built, what: &str) -> Done {
        let plan = plan(&built.view());
        let step = plan.steps.iter().find(|step| step.what.contains(what));
        step.unwrap_or_else(|| panic!("no {what} in {}", plan.text())).done
    }

    #[test]
    fn hooks_go_before_programs_and_drop_ins_before_the_unit_that_they_require() {
        let plan = plan(&Built::healthy().view());
        let at = |what: &str| plan.steps.iter().position(|step| step.what.contains(what)).unwrap();
        assert_eq!(at("nothing acts any more"), 0);
        assert!(at("go out") < at("agents and guards are stopped"));
        assert!(at("it asks Patroni again") < at("agents and guards are stopped"));
        assert!(plan.text().contains("server db3 10.77.0.23:5432 check port 8008"), "{}", plan.text());
        assert!(at("the drop-ins go first") < at("agents and guards are stopped"));
        assert!(at("agents and guards are stopped") < at("our keys"));
        assert!(
            plan.text().contains("etcdctl del --prefix /holdfast/v1/r1/service/main/"),
            "{}",
            plan.text()
        );
    }

    #[test]
    fn what_has_been_done_is_seen() {
        let mut built = Built::healthy();
        assert_eq!(done(&built, "nothing acts any more"), Done::No);
        built.mode(Mode::Disarmed);
        assert_eq!(done(&built, "nothing acts any more"), Done::Yes);
        assert_eq!(done(&built, "go out"), Done::No);
        built.facts(1, |facts| {
            let setup = facts.setup.as_mut().unwrap();
            let file = setup.file.as_mut().unwrap();
            (file.pre_promote, file.bin_name_postgres, setup.gate_named) = (None, None, Some(false));
        });
        assert_eq!(done(&built, "go out"), Done::Yes, "of db1, the first");
        assert_eq!(done(&built, "agents and guards are stopped"), Done::No);
        for n in 1..=4 {
            built.remove_session(n);
        }
        assert_eq!(done(&built, "agents and guards are stopped"), Done::Yes);
        assert_eq!(done(&built, "our keys"), Done::No);
        built.pairs.retain(|key, _| !key.starts_with("/holdfast/"));
        assert_eq!(done(&built, "our keys"), Done::Yes);
        assert_eq!(hooks_out(&built.view(), &db(1)), Done::Unknown, "nobody tells any more");
    }

    #[test]
    fn a_hook_in_the_shared_settings_has_a_step() {
        let mut built = Built::unarmed();
        built.patroni("config", &serde_json::json!({"postgresql": {"pre_promote": "x promote-gate"}}));
        assert_eq!(done(&built, "shared settings"), Done::No);
    }
}
