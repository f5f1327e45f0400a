//! The verbs against a real etcd with planted records: what they print, what they write, how they exit.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // Helpers of tests are not seen as tests.

#[path = "verbs/etcd_users.rs"]
mod etcd_users;
mod ground;
#[path = "../src/cli/permissions.rs"]
mod permissions;

use ground::built::{Built, db, position};
use ground::built_host::{host_report, host_status};
use ground::{Ground, run_alone};
use holdfast_proto::message::Role;
use holdfast_types::record::{ObservedReason, ObservedRecord};
use holdfast_types::{Mode, Profile};
use serde_json::json;

#[tokio::test]
async fn reading_verbs_show_what_is_there() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    built.event(1, Some(2));
    built.route("a", Some(1));
    ground.plant(&built).await;

    let status = ground.run(&["status"]).await;
    assert_eq!(status.code, 0, "{status:?}");
    assert!(status.out.starts_with("healthy: db1 writes in term 4\n"), "{}", status.out);
    assert!(status.out.contains("etcd 1 of 1 answer, quorum, alarms -"), "{}", status.out);
    let json = ground.run(&["status", "--region", "r1", "--cluster", "main", "-o", "json"]).await.json();
    assert_eq!(
        (&json["format"], &json["healthy"], &json["source"]),
        (&1.into(), &true.into(), &"etcd".into())
    );
    assert_eq!((&json["etcd"]["answering"], &json["etcd"]["has_quorum"]), (&1.into(), &true.into()));
    assert!(json["etcd"]["read_us"].as_u64().is_some_and(|read_us| read_us > 0), "{}", json["etcd"]);
    assert!(json["etcd"]["fsync_p99_us"].as_u64().is_some_and(|us| us >= 1_000), "{}", json["etcd"]);

    let list = ground.run(&["list", "--cluster", "service/main", "-o", "json"]).await.json();
    assert_eq!(list["members"][1]["role"], "quorum_standby");
    let events = ground.run(&["events", "-o", "json"]).await.json();
    assert_eq!(events["events"][0]["write_gap_ms"], 1_420);
    let history = ground.run(&["history"]).await;
    assert!(history.code == 0 && history.out.contains("no recovery target specified"), "{history:?}");
    let watch = ground.run(&["watch", "--lines", "1", "-o", "json"]).await.json();
    assert_eq!((&watch["what"], &watch["text"]), (&"health".into(), &"healthy: db1 writes in term 4".into()));

    built.hold();
    ground.plant(&built).await;
    let held = ground.run(&["status"]).await;
    assert_eq!(held.code, 0, "the command was done; the cluster is not well");
    assert!(held.out.starts_with("OUTAGE: the failover of term 4 is held"), "{}", held.out);
}

#[tokio::test]
async fn arming_is_checked_then_written_then_waited_for() {
    let ground = Ground::new().await;
    let mut built = Built::unarmed();
    built.nobody_answers();
    ground.plant(&built).await;
    let arm = ["arm", "--cluster", "main", "--reason", "go live", "--yes", "--accept-unmeasured"];
    let with = |more: &[&'static str]| [&arm[..], more].concat();

    let asked = ground.run(&["arm", "--reason", "go live", "--accept-unmeasured"]).await;
    assert_eq!(asked.code, 2, "nobody can be asked: {asked:?}");
    let why = ground.run(&["arm", "--yes"]).await;
    assert!(why.code == 2 && why.err.contains("--reason"), "every order has a reason: {why:?}");
    let unmeasured = ground.run(&["arm", "--dry-run"]).await;
    assert!(
        unmeasured.code == 3 && unmeasured.err.contains("nothing is known of the stalls of db1"),
        "{unmeasured:?}"
    );
    let other = ground.run(&["arm", "--dry-run", "--accept-unmeasured", "--profile", "normal"]).await;
    assert!(other.code == 3 && other.err.contains("runs the timing profile fast, not normal"), "{other:?}");
    let dry =
        ground.run(&["arm", "--dry-run", "--accept-unmeasured", "--profile", "fast", "-o", "json"]).await;
    assert_eq!((dry.code, &dry.json()["result"]), (0, &"would_do".into()));
    assert_eq!(ground.stored(&built.keys.mode()).await, None, "a dry run writes nothing");

    built.remove_session(3);
    ground.plant(&built).await;
    let refused = ground.run(&arm).await;
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.err.contains("blocker 1: the agent of db3 has no live session"), "{}", refused.err);
    assert_eq!(ground.stored(&built.keys.mode()).await, None);

    built.session(3);
    ground.plant(&built).await;
    let armed = ground.run(&with(&["-o", "json"])).await;
    assert_eq!((armed.code, &armed.json()["result"]), (0, &"done".into()), "{armed:?}");
    let mode = ground.stored(&built.keys.mode()).await.unwrap();
    assert_eq!((&mode["mode"], &mode["reason"]), (&"armed".into(), &"go live".into()));
    assert_eq!(mode["by"], "holdfast://operator/ann");
    let order = ground.stored(&built.keys.audit(0)).await.unwrap();
    assert_eq!((&order["verb"], &order["reason"]), (&"arm".into(), &"go live".into()));

    let nobody = ground.run(&with(&["--wait", "--timeout", "1"])).await;
    assert_eq!(nobody.code, 5, "no agent opens the term: {nobody:?}");
    assert!(
        nobody.err.contains("armed, but no term has been opened since"),
        "the state is printed: {}",
        nobody.err
    );
    built.mode(Mode::Armed);
    built.open(1, 1);
    built.floor(1);
    built.stale(&built.keys.term());
    ground.plant(&built).await;
    let earlier = ground.run(&with(&["--wait", "--timeout", "1"])).await;
    assert!(earlier.code == 5 && earlier.out.contains("of an earlier arming"), "{earlier:?}");
    built.stale.clear();
    ground.plant(&built).await;
    let arrived = ground.run(&with(&["--wait"])).await;
    assert!(arrived.code == 0 && arrived.out.contains("term 1 is open for db1"), "{arrived:?}");

    let disarmed = ground.run(&["disarm", "--reason", "drill", "--yes"]).await;
    assert_eq!(disarmed.code, 0, "{disarmed:?}");
    assert_eq!(ground.stored(&built.keys.mode()).await.unwrap()["mode"], "disarmed");
    let again = ground.run(&["disarm", "--reason", "drill", "--yes", "-o", "json"]).await;
    assert_eq!((again.code, &again.json()["result"]), (0, &"unchanged".into()));
}

#[tokio::test]
async fn disarming_is_waited_for_until_the_agents_show_it() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    let mut status = host_status("db3", Role::Standby, true);
    let armed = ground.serve_agent(status.clone()).await;
    status.instances[0].mode = Mode::Disarmed;
    let disarmed = ground.serve_agent(status).await;
    for n in [1, 2, 4] {
        built.remove_session(n);
    }
    for n in 1..=4 {
        // The three without a session are asked in vain.
        built.facts(n, |facts| facts.grpc = if n == 3 { armed.clone() } else { "127.0.0.1:1".into() });
    }
    ground.plant(&built).await;
    let disarm = ["disarm", "--reason", "drill", "--yes", "--wait", "--timeout", "1"];
    let behind = ground.run(&disarm).await;
    assert!(behind.code == 5 && behind.out.contains("the agent of db3 still sees armed"), "{behind:?}");
    built.mode(Mode::Disarmed);
    built.facts(3, |facts| facts.grpc = disarmed.clone());
    ground.plant(&built).await;
    let seen = ground.run(&disarm).await;
    assert!(seen.code == 0 && seen.out.contains("seen by the agents of db3;"), "{seen:?}");
    assert!(seen.out.contains("not known: db1, db2, db4"), "{seen:?}");
}

#[tokio::test]
async fn a_report_says_what_agents_saw_and_who_is_silent_and_a_slow_host_is_not_armed() {
    let ground = Ground::new().await;
    let mut built = Built::unarmed();
    let mut kept = host_report("db3", Profile::Fast, &[(10_000, 604), (20, 1_500)]);
    let now_wall_ms = jiff::Timestamp::now().as_millisecond();
    kept.incidents.push(ObservedRecord {
        namespace: built.cluster.namespace.clone(),
        scope: built.cluster.scope.clone(),
        member: db(3),
        writer: db(1),
        noticed_wall_ms: now_wall_ms - 60_000,
        reason: ObservedReason::SessionGone,
        last_sign_wall_ms: Some(now_wall_ms - 63_000),
        would: Vec::new(),
        waits: Vec::new(),
        would_close_wall_ms: Some(now_wall_ms - 59_500),
        would_name: Some(db(2)),
        next: Some(db(3)),
        led_wall_ms: Some(now_wall_ms - 40_000),
        writable_wall_ms: Some(now_wall_ms - 39_900),
    });
    let agent = ground.serve_agent_with(host_status("db3", Role::Standby, true), kept).await;
    for n in 1..=4 {
        built.facts(n, |facts| facts.grpc = if n == 3 { agent.clone() } else { "127.0.0.1:1".into() });
    }
    ground.plant(&built).await;
    let report = ground.run(&["report", "--since", "1h"]).await;
    assert_eq!(report.code, 0, "{report:?}");
    assert!(report.out.contains("3500 ms after the last sign of life and named db2"), "{}", report.out);
    assert!(report.out.contains("db3 led; nobody wrote for 23100 ms"), "{}", report.out);
    assert!(report.out.contains("the agent of db1 does not answer"), "{}", report.out);
    let json = ground.run(&["report", "-o", "json"]).await.json();
    assert_eq!((&json["format"], &json["incidents"][0]["outage_ms"]), (&1.into(), &23_100.into()), "{json}");
    assert_eq!(json["silent"].as_array().unwrap().len(), 3, "{json}");
    assert_eq!(json["hosts"][0]["profiles"][0]["leases_ended"], 0, "{json}");
    let slow = ground.run(&["arm", "--dry-run", "--accept-unmeasured"]).await;
    assert!(slow.code == 3 && slow.err.contains("fast needs less than 600 ms"), "{slow:?}");

    ground.configure(&[("r1", &["127.0.0.1:1".to_owned()])]);
    ground.configure_agents(&[agent, "127.0.0.1:2".to_owned()]);
    let alone = ground.run(&["report", "--cluster", "main"]).await;
    assert!(
        alone.code == 0 && alone.out.contains("named db2") && alone.out.contains("127.0.0.1:2"),
        "{alone:?}"
    );
    assert_eq!(ground.run(&["report", "--since", "soon"]).await.code, 2);
}

#[tokio::test]
async fn a_format_is_finalised_once_every_agent_reads_it() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    built.session_that_reads(2, 0);
    ground.plant(&built).await;
    let status = ground.run(&["upgrade", "status"]).await;
    assert!(
        status.code == 0
            && status.out.contains("the agent of db2 (version 0.1.0) reads records up to format 0"),
        "{status:?}"
    );
    let finalize = ["upgrade", "finalize", "--reason", "all hosts done", "--yes", "-o", "json"];
    let refused = ground.run(&finalize).await;
    assert!(refused.code == 3 && refused.err.contains("the agent of db2"), "{refused:?}");
    assert_eq!(ground.stored(&built.keys.format()).await, None);
    built.session_that_reads(2, 1);
    ground.plant(&built).await;
    let done = ground.run(&finalize).await;
    assert_eq!((done.code, &done.json()["result"]), (0, &"done".into()), "{done:?}");
    let record = ground.stored(&built.keys.format()).await.unwrap();
    assert_eq!((&record["finalised"], &record["by"]), (&1.into(), &"holdfast://operator/ann".into()));
    assert_eq!(ground.run(&finalize).await.json()["result"], "unchanged");
    let json = ground.run(&["upgrade", "status", "-o", "json"]).await.json();
    assert_eq!(
        (&json["written_format"], &json["agents"][0]["reads_format"]),
        (&1.into(), &1.into()),
        "{json}"
    );
}

#[tokio::test]
async fn class_off_is_armed_with_its_loss_stated_and_class_on_is_refused() {
    let ground = Ground::new().await;
    let mut built = Built::unarmed();
    built.nobody_answers();
    built.patroni("config", &json!({"synchronous_mode": true, "failsafe_mode": true}));
    built.would(1, &["open the first term"]);
    ground.plant(&built).await;
    let arm = ["arm", "--reason", "go live", "--yes", "--accept-unmeasured", "--wait", "--timeout", "1"];
    let on = ground.run(&arm).await;
    assert!(on.code == 3 && on.err.contains("every promotion would be refused"), "{on:?}");
    assert!(on.err.contains("edit-config -s synchronous_mode=quorum"), "{on:?}");
    let observing = ground.run(&["status"]).await;
    assert!(observing.out.contains("open the first term"), "{}", observing.out);
    let would = ground.run(&["events", "-o", "json"]).await.json()["would"][0].clone();
    assert_eq!((&would["member"], &would["text"]), (&"db1".into(), &"open the first term".into()));

    built.asynchronous();
    ground.plant(&built).await;
    let off = ground.run(&arm).await;
    assert!(off.code == 5 && off.err.contains("note: class off: acknowledged writes can be lost"), "{off:?}");
    built.mode(Mode::Armed);
    built.open(1, 1);
    ground.plant(&built).await;
    let arrived = ground.run(&arm).await;
    assert!(arrived.code == 0 && arrived.out.contains("term 1 is open for db1; class off"), "{arrived:?}");
    let status = ground.run(&["status"]).await;
    assert!(status.out.starts_with("healthy: db1 writes in term 1\n"), "{}", status.out);
    assert_eq!(ground.run(&["doctor"]).await.code, 0);
}

#[tokio::test]
async fn fences_are_set_and_lifted_only_where_it_is_safe() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    ground.plant(&built).await;

    let writer = ground.run(&["fence", "db1", "--reason", "x", "--yes"]).await;
    assert!(writer.code == 3 && writer.err.contains("present writer"), "{writer:?}");
    let unconfirmed = ground.run(&["fence", "db1", "--reason", "x", "--accept-outage"]).await;
    assert_eq!(unconfirmed.code, 2, "{unconfirmed:?}");
    let unknown = ground.run(&["fence", "db9", "--reason", "x", "--yes"]).await;
    assert!(unknown.code == 2 && unknown.err.contains("db1, db2, db3, db4"), "{unknown:?}");

    let fenced = ground.run(&["fence", "DB4", "--reason", "bad disk", "--yes"]).await;
    assert_eq!(fenced.code, 0, "{fenced:?}");
    let record = ground.stored(&built.keys.fence(&db(4))).await.unwrap();
    assert_eq!(
        (&record["why"]["by"], &record["why"]["text"]),
        (&"holdfast://operator/ann".into(), &"bad disk".into())
    );
    let again = ground.run(&["fence", "db4", "--reason", "other", "--yes", "-o", "json"]).await;
    assert_eq!(again.json()["result"], "unchanged");
    let back = ground.run(&["unfence", "db4", "--reason", "new disk", "--yes"]).await;
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(ground.stored(&built.keys.fence(&db(4))).await, None);
    let orders = ground.run(&["events", "-o", "json"]).await.json()["orders"].clone();
    let told = |n: usize| {
        let order = |field: &str| orders[n][field].to_string().replace('"', "");
        ["id", "verb", "node", "by", "reason"].map(order).join(" ")
    };
    assert_eq!(told(0), "1 unfence db4 holdfast://operator/ann new disk");
    assert_eq!(told(1), "0 fence db4 holdfast://operator/ann bad disk");
    assert!(orders[0]["from"].as_str().is_some_and(|from| !from.is_empty()), "{orders}");

    built.fence_deposed(3, 3);
    built.patroni_member(3, json!({"timeline": 1, "xlog_location": 0x0400_1000, "replication_state": null}));
    ground.plant(&built).await;
    let beyond = ground.run(&["unfence", "db3", "--reason", "rewound", "--yes"]).await;
    assert!(beyond.code == 3 && beyond.err.contains("beyond the fork at 0/4000000"), "{beyond:?}");
    assert!(ground.stored(&built.keys.fence(&db(3))).await.is_some(), "it stays fenced");
}

#[tokio::test]
async fn a_loss_is_accepted_by_name_and_only_where_nothing_else_helps() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    ground.plant(&built).await;
    let alive = ground.run(&["failover", "db3", "--reason", "x", "--accept-data-loss", "--yes"]).await;
    assert!(alive.code == 3 && alive.err.contains("db1 is the writer, and its agent lives"), "{alive:?}");

    // The writer and one of two that count are gone.
    for gone in [1, 2] {
        built.remove_session(gone);
    }
    built.promise(3, 4);
    ground.plant(&built).await;
    let status = ground.run(&["status"]).await;
    let first = status.out.lines().next().unwrap();
    assert!(first.starts_with("OUTAGE: the writer is gone, and of db2, db3 only 1 have"), "{first}");
    assert!(first.contains("holdfast failover db3 --accept-data-loss --dry-run --region r1"), "{first}");
    let silent = ground.run(&["failover", "db3", "--reason", "x", "--yes"]).await;
    assert!(
        silent.code == 3 && silent.err.contains("blocker 1: acknowledged writes may be lost"),
        "{silent:?}"
    );
    let dry = ground.run(&["failover", "db3", "--accept-data-loss", "--dry-run"]).await;
    assert!(
        dry.code == 0 && dry.out.contains("would make db3 the writer; lost: nothing that is known"),
        "{dry:?}"
    );
    assert!(dry.err.contains("db2 did not say that it has left db1"), "{dry:?}");
    assert_eq!(ground.stored(&built.keys.overriding()).await, None);

    let done = ground.run(&["failover", "DB3", "--reason", "burnt", "--accept-data-loss", "--yes"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let record = ground.stored(&built.keys.overriding()).await.unwrap();
    assert_eq!(
        (&record["successor"], &record["term"], &record["reason"]),
        (&"db3".into(), &4.into(), &"burnt".into())
    );
    let orders = ground.run(&["events", "-o", "json"]).await.json()["orders"].clone();
    assert_eq!(
        (&orders[0]["verb"], &orders[0]["by"]),
        (&"failover".into(), &"holdfast://operator/ann".into())
    );
    assert!(orders[0]["accepted"].as_str().unwrap().contains("is not known"), "{orders}");
    ground.become_viewer();
    let viewer = ground.run(&["failover", "db3", "--reason", "x", "--accept-data-loss", "--yes"]).await;
    assert_eq!(viewer.code, 3, "{viewer:?}");
}

#[tokio::test]
async fn a_viewer_looks_and_does_not_act() {
    let ground = Ground::new().await;
    ground.plant(&Built::healthy()).await;
    ground.become_viewer();
    assert_eq!(ground.run(&["status"]).await.code, 0);
    let order = ground.run(&["disarm", "--reason", "x", "--yes"]).await;
    assert!(order.code == 3 && order.err.contains("holdfast://viewer/bob"), "{order:?}");
}

#[test]
fn certificates_are_told_as_a_table_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let init = run_alone(&["pki", "init", "--dir", &at("pki")]);
    assert!(init.code == 0 && init.out.contains("ca.key | key"), "{init:?}");
    assert!(init.err.contains("keep ca.key away"), "prose stands beside the answer: {init:?}");
    let ann = ["pki", "operator", "--dir", &at("pki"), "--name", "ann", "--out", &at("ann"), "-o", "json"];
    let made = run_alone(&ann).json();
    assert_eq!((&made["format"], &made["action"]), (&1.into(), &"pki operator".into()));
    assert_eq!(made["name"], "holdfast://operator/ann");
    let files = made["files"].as_array().unwrap();
    let holds: Vec<_> = files.iter().map(|file| file["holds"].as_str().unwrap()).collect();
    assert_eq!(holds, ["certificate", "key", "authority"]);
    assert!(
        files.iter().all(|file| std::path::Path::new(file["path"].as_str().unwrap()).is_file()),
        "{made}"
    );
    let again = run_alone(&ann);
    assert!(again.code == 3 && again.out.is_empty(), "nothing is overwritten: {again:?}");
}

#[tokio::test]
async fn a_hold_is_ended_with_a_name() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    built.hold();
    ground.plant(&built).await;
    let ended = ground.run(&["hold", "end", "--reason", "looked at it", "--yes"]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let record = ground.stored(&built.keys.hold()).await.unwrap();
    assert_eq!((&record["released_by"], &record["term"]), (&"holdfast://operator/ann".into(), &4.into()));
    assert_eq!(record["released_why"], "looked at it");
    let orders = ground.run(&["events"]).await;
    assert!(orders.out.contains("hold end") && orders.out.contains("looked at it"), "{orders:?}");
    let again = ground.run(&["hold", "end", "--reason", "again", "--yes", "-o", "json"]).await;
    assert_eq!(again.json()["result"], "unchanged");
}

#[tokio::test]
async fn maintenance_begins_is_replaced_and_ends() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    built.closed(4, 1);
    ground.plant(&built).await;
    let on = ["maintenance", "on", "--for", "30m", "--reason", "new switch", "--yes"];
    let halfway = ground.run(&on).await;
    assert!(halfway.code == 3 && halfway.err.contains("blocker 1: term 4 is closed"), "{halfway:?}");
    built.open(4, 1);
    ground.plant(&built).await;
    for wrong in ["30s", "25h", "soon"] {
        let refused = ground.run(&["maintenance", "on", "--for", wrong, "--reason", "x", "--yes"]).await;
        assert_eq!(refused.code, 2, "{refused:?}");
    }
    let dry = ground.run(&["maintenance", "on", "--for", "30m", "--dry-run", "-o", "json"]).await;
    assert_eq!((dry.code, &dry.json()["result"]), (0, &"would_do".into()));
    assert_eq!(ground.stored(&built.keys.maintenance()).await, None, "a dry run writes nothing");

    let begun = ground.run(&on).await;
    assert!(begun.code == 0 && begun.out.contains("maintenance until"), "{begun:?}");
    let record = ground.stored(&built.keys.maintenance()).await.unwrap();
    let moment = |field: &str| record[field].as_i64().unwrap();
    assert_eq!(moment("until_wall_ms") - moment("since_wall_ms"), 1_800_000);
    assert_eq!((&record["by"], &record["reason"]), (&"holdfast://operator/ann".into(), &"new switch".into()));
    assert_eq!((&record["format"], &record["min_reader"]), (&1.into(), &1.into()));
    let status = ground.run(&["status"]).await;
    assert!(
        status.out.starts_with("AT RISK: maintenance by holdfast://operator/ann until"),
        "{}",
        status.out
    );
    let longer =
        ground.run(&["maintenance", "on", "--for", "2h", "--reason", "longer", "--yes", "--wait"]).await;
    assert!(longer.code == 0 && longer.err.contains("this replaces: maintenance by"), "{longer:?}");
    let doctor = ground.run(&["doctor"]).await;
    assert!(doctor.out.contains("| maintenance by holdfast://operator/ann"), "{}", doctor.out);

    let off = ["maintenance", "off", "--reason", "done", "--yes"];
    assert_eq!(ground.run(&off).await.code, 0);
    assert_eq!(ground.stored(&built.keys.maintenance()).await, None);
    let again = ground.run(&[&off[..], &["-o", "json"]].concat()).await;
    assert_eq!((again.code, &again.json()["result"]), (0, &"unchanged".into()));
    built.raw(&built.keys.maintenance(), br#"{"format":9,"min_reader":9}"#);
    ground.plant(&built).await;
    let unreadable = ground.run(&off).await;
    assert!(unreadable.code == 0, "what cannot be read can be ended: {unreadable:?}");
    assert_eq!(ground.stored(&built.keys.maintenance()).await, None);
}

#[tokio::test]
async fn wrong_commands_and_dead_servers_have_their_codes() {
    let ground = Ground::new().await;
    assert_eq!(run_alone(&["status", "--config", "/nowhere/operator.toml"]).code, 2);
    assert_eq!(run_alone(&["frobnicate"]).code, 2);
    let endpoints = ground.etcd.endpoints();
    ground.configure(&[("r1", &endpoints), ("r2", &endpoints)]);
    let which = ground.run(&["status"]).await;
    assert!(which.code == 2 && which.err.contains("r1, r2"), "{which:?}");
    let nothing = ground.run(&["status", "--region", "r1", "--cluster", "none"]).await;
    assert!(nothing.code == 2 && nothing.err.contains("no cluster r1/service/none"), "{nothing:?}");

    ground.configure(&[("r1", &["127.0.0.1:1".to_owned()])]);
    let dead = ground.run(&["status", "--cluster", "main"]).await;
    assert!(dead.code == 4 && dead.err.contains("127.0.0.1:1"), "{dead:?}");
    let dead = ground.run(&["arm", "--cluster", "main", "--reason", "x", "--yes"]).await;
    assert_eq!(dead.code, 4, "{dead:?}");
}

#[tokio::test]
async fn the_doctor_names_faults_and_remedies() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    ground.plant(&built).await;
    let well = ground.run(&["doctor", "-o", "json"]).await;
    assert_eq!(well.code, 0, "{well:?}");
    let looks = well.json()["looks"].as_array().unwrap().clone();
    assert!(looks.iter().any(|look| look["found"].as_str().unwrap().starts_with("holdfast://operator/ann")));
    built.patroni("config", &json!({"synchronous_mode": "quorum"}));
    ground.plant(&built).await;
    let ill = ground.run(&["doctor"]).await;
    assert!(ill.code == 1 && ill.out.contains("failsafe_mode=true"), "{ill:?}");
    ground.configure(&[("r1", &["127.0.0.1:1".to_owned()])]);
    assert_eq!(ground.run(&["doctor"]).await.code, 4);
}

#[tokio::test]
async fn without_etcd_the_agents_are_asked() {
    let ground = Ground::new().await;
    let agent = ground.serve_agent(host_status("db3", Role::Primary, false)).await;
    ground.configure(&[("r1", &["127.0.0.1:1".to_owned()])]);
    ground.configure_agents(&[agent, "127.0.0.1:2".to_owned()]);
    let status = ground.run(&["status", "--cluster", "main"]).await;
    assert_eq!(
        status.code, 4,
        "the state is shown, and the code says that the store was not there: {status:?}"
    );
    assert!(status.out.starts_with("AT RISK: etcd of region r1 is lost"), "{}", status.out);
    assert!(
        status.out.contains("db3 goes on as primary") && status.out.contains("127.0.0.1:2: "),
        "{}",
        status.out
    );
    let json = ground.run(&["status", "--cluster", "main", "-o", "json"]).await.json();
    assert_eq!((&json["format"], &json["source"]), (&1.into(), &"agents".into()));
    assert_eq!(json["hosts"][0]["status"]["instances"][0]["role"], "primary");
    let doctor = ground.run(&["doctor"]).await;
    assert!(doctor.code == 4 && doctor.out.contains("does not reach etcd"), "{doctor:?}");
}

#[tokio::test]
async fn a_stopped_member_comes_back_by_its_agents_word() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    built.fence_deposed(3, 3);
    built.patroni_member(3, json!({"state": "stopped", "xlog_location": null, "replication_state": null}));
    ground.plant(&built).await;
    let unknown = ground.run(&["unfence", "db3", "--reason", "rewound", "--yes"]).await;
    assert!(unknown.code == 3 && unknown.err.contains("unknown"), "{unknown:?}");

    let mut status = host_status("db3", Role::Stopped, true);
    status.instances[0].position = Some(position(1, 0x0400_0000));
    let before_the_fork = ground.serve_agent(status.clone()).await;
    status.instances[0].position = Some(position(1, 0x0400_2000));
    let beyond_the_fork = ground.serve_agent(status).await;
    built.facts(3, |facts| facts.grpc = beyond_the_fork.clone());
    ground.plant(&built).await;
    let refused = ground.run(&["unfence", "db3", "--reason", "rewound", "--yes"]).await;
    assert!(refused.code == 3 && refused.err.contains("beyond the fork"), "{refused:?}");
    built.facts(3, |facts| facts.grpc = before_the_fork.clone());
    ground.plant(&built).await;
    let back = ground.run(&["unfence", "db3", "--reason", "rewound", "--yes"]).await;
    assert_eq!(back.code, 0, "{back:?}");
}

#[tokio::test]
async fn a_person_says_that_a_writer_which_was_lost_in_a_pause_is_off() {
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    built.held();
    built.remove_session(1);
    ground.plant(&built).await;
    let ended = ground.run(&["hold", "end", "--reason", "power is off", "--yes"]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ground.stored(&built.keys.held()).await, None);
    let orders = ground.run(&["events"]).await;
    assert!(orders.out.contains("power is off"), "{orders:?}");
}

#[tokio::test]
async fn the_way_in_and_the_way_out_are_printed_and_nothing_is_written() {
    let ground = Ground::new().await;
    let mut built = Built::unarmed();
    built.remove_session(3);
    ground.plant(&built).await;
    let before = ground.revision().await;
    let plan = ground.run(&["adopt", "plan", "--cluster", "main", "-o", "json"]).await.json();
    let steps = plan["steps"].as_array().unwrap();
    assert_eq!(
        (&plan["format"], &plan["plan"], &steps[0]["number"]),
        (&1.into(), &"adopt".into(), &1.into())
    );
    assert!(steps.iter().all(|step| step["where"].is_string() && step["text"].is_string()), "{plan}");
    let done: Vec<&serde_json::Value> = steps.iter().map(|step| &step["done"]).collect();
    assert!(
        done.contains(&&true.into()) && done.contains(&&false.into()) && done.contains(&&"unknown".into())
    );
    let people = ground.run(&["adopt", "plan"]).await;
    assert!(people.code == 0 && people.out.contains("(there already)"), "{people:?}");
    let missing = ground.run(&["adopt", "check"]).await;
    assert!(
        missing.code == 3 && missing.out.contains("1. the agent of db3 has no live session"),
        "{missing:?}"
    );
    let yaml = ground.run(&["adopt", "check", "-o", "yaml"]).await;
    assert!(yaml.code == 3 && yaml.out.contains("cluster: \"r1/service/main\"\n"), "{yaml:?}");
    let out = ground.run(&["remove", "plan", "-o", "yaml"]).await;
    assert!(out.code == 0 && out.out.contains("plan: \"remove\"\n"), "{out:?}");
    assert_eq!(ground.revision().await, before, "nothing is written");
    built.session(3);
    ground.plant(&built).await;
    let nothing = ground.run(&["adopt", "check"]).await;
    assert!(nothing.code == 0 && nothing.out.contains("nothing is missing"), "{nothing:?}");
}

/// Every verb with every certificate: who may not is refused before anything is written.
#[tokio::test]
async fn every_line_of_the_permissions_holds_for_every_certificate() {
    const BY_NAME: (i32, &str) = (3, "may look, not act");
    let ground = Ground::new().await;
    let mut built = Built::healthy();
    built.nobody_answers();
    built.fence(3);
    let ended = br#"{"format":1,"min_reader":1,"number":1,"operation":"switchover","by":"operator/ann","intent":"i1",
        "reason":"x","coordinator":"backup1","phase":"settle","ended":{"state":"done","text":"x","at_wall_ms":0}}"#;
    built.raw(&built.keys.operation(), ended);
    ground.plant(&built).await;
    let before = ground.revision().await;
    let everyone = async |what: &str, look: &[i32], act: (i32, &str)| {
        for (words, more, who) in permissions::TABLE {
            let run = ground.run(&[*words, *more].concat()).await;
            if *who == permissions::Who::Operator {
                assert!(run.code == act.0 && run.err.contains(act.1), "{what}: {words:?}: {run:?}");
            } else {
                assert!(look.contains(&run.code), "{what}: {words:?}: {run:?}");
            }
        }
        assert_eq!(ground.revision().await, before, "{what} has written");
    };
    // The doctor ends with 1 where it finds something, the report with 4 where no agent answers.
    let may_look: &[i32] = &[0, 1, 4];
    let host = |region, name| ["host", "--region", region, "--host", name, "--address", "127.0.0.1"];
    ground.become_holder(&["viewer", "--name", "wall"]);
    everyone("a viewer", may_look, BY_NAME).await;
    for (what, region, name) in [
        ("a pooler", "r1", "pool1"),
        ("a member's host", "r1", "db1"),
        ("another region's host", "r2", "db1"),
    ] {
        ground.become_holder(&host(region, name));
        everyone(what, may_look, BY_NAME).await;
    }
    ground.become_outdated("holdfast://operator/ann", true);
    everyone("an operator of the past", &[2], (2, "ended on")).await;
    ground.become_outdated("holdfast://operator/ann", false);
    everyone("an operator of another authority", &[2], (2, "is not accepted by the authority")).await;
    ground.become_holder(&["operator", "--name", "eve"]);
    ground.revoke_operator();
    everyone("a revoked operator", &[2], (2, "Revoked")).await;
}
