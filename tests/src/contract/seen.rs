//! The facts that take a running Patroni: one pass over a small lab, in which each step is the begin of the next.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::Answer;
use super::stage::{FIRST, LOOP_WAIT, SECOND, Stage};

/// Half of Patroni's own pace: what comes sooner was woken.
const WOKEN: Duration = Duration::from_secs(LOOP_WAIT.as_secs() / 2);
const SOON: Duration = Duration::from_secs(20);
const RELOAD: Duration = Duration::from_secs(2);
/// Longer than one ttl: a node that was refused is out for so long.
const LATER: Duration = Duration::from_secs(45);

/// Plays it, and takes the lab down.
pub async fn play(version: Option<&str>, own: &str, name: &str) -> Result<Vec<Answer>> {
    let stage = Stage::enter(version, name).await?;
    let answers = all(&stage, own).await;
    stage.leave().await?;
    answers
}

async fn all(stage: &Stage, own: &str) -> Result<Vec<Answer>> {
    let mut answers = keys(stage, own).await?;
    let boot = starts(stage);
    answers.push(crash(stage, &boot).await?);
    let crashed = starts(stage);
    answers.extend(under_the_lock(stage).await?);
    answers.push(lost_lock(stage).await?);
    answers.extend(refused_and_allowed(stage).await?);
    answers.push(every_start(stage, boot, crashed));
    answers.push(failsafe(stage).await?);
    Ok(answers)
}

async fn keys(stage: &Stage, own: &str) -> Result<Vec<Answer>> {
    // Each look of Patroni completes its keys.
    let complete = async || {
        let names = stage.json("failsafe").await.unwrap_or_default();
        let member = stage.json(&format!("members/{SECOND}")).await.unwrap_or_default();
        names[FIRST].is_string() && names[SECOND].is_string() && member["timeline"].is_u64()
    };
    stage.until(SOON, complete).await;
    let leader = stage.leader().await?;
    let leases = (stage.lease("leader").await?, stage.lease(&format!("members/{FIRST}")).await?);
    let held = leader.as_deref() == Some(FIRST) && leases.0.is_some() && leases.0 == leases.1;
    let sync = stage.json("sync").await?;
    let whole = sync["leader"] == FIRST && sync["sync_standby"] == SECOND && sync["quorum"] == 0;
    let members =
        (stage.json(&format!("members/{FIRST}")).await?, stage.json(&format!("members/{SECOND}")).await?);
    let (config, status) = (stage.json("config").await?, stage.json("status").await?);
    let failsafe = stage.json("failsafe").await?;
    let rest = config["ttl"] == 20
        && config["synchronous_mode"] == "quorum"
        && status["optime"].is_u64()
        && failsafe[FIRST].is_string()
        && failsafe[SECOND].is_string();
    Ok(vec![
        Answer::new("leader-key", held, format!("{leader:?}, leases {leases:?}")),
        Answer::new("sync-key", whole, sync.to_string()),
        Answer::new(
            "member-key",
            member(&members.0, "primary", own) && standby(&members.1, own),
            members.1.to_string(),
        ),
        Answer::new("other-keys", rest, format!("status {status}, failsafe {failsafe}")),
    ])
}

fn member(key: &Value, role: &str, own: &str) -> bool {
    let address = |field: &str, scheme: &str| key[field].as_str().is_some_and(|url| url.starts_with(scheme));
    address("conn_url", "postgres://")
        && address("api_url", "https://")
        && key["role"] == role
        && key["version"] == own
        && key["state"].is_string()
        && key["xlog_location"].is_u64()
        && key["timeline"].is_u64()
}

fn standby(key: &Value, own: &str) -> bool {
    // `eligible` reads these words, and the tags.
    let word = ["running", "streaming"].iter().any(|word| key["state"] == *word);
    member(key, "replica", own) && word && key["tags"]["clonefrom"] == true
}

fn starts(stage: &Stage) -> [usize; 2] {
    [FIRST, SECOND].map(|name| stage.starts(name).len())
}

/// The postmaster is killed: Patroni starts it again as the primary that it was.
async fn crash(stage: &Stage, before: &[usize; 2]) -> Result<Answer> {
    stage.fault(&["kill", FIRST, "postmaster"]).await?;
    let back = stage
        .until(SOON, async || starts(stage)[0] > before[0] && stage.writes(FIRST).await == Some(true))
        .await;
    let leader = stage.leader().await?;
    let in_place = back.is_some() && leader.as_deref() == Some(FIRST) && stage.hook(FIRST).is_empty();
    let evidence = format!("accepts writes after {back:?}, lock {leader:?}, hook {:?}", stage.hook(FIRST));
    Ok(Answer::new("crash-restarts-in-place", in_place, evidence))
}

/// The lock is put for the standby, as CLOSE does it.
async fn under_the_lock(stage: &Stage) -> Result<Vec<Answer>> {
    let streams = async || {
        let sql = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'";
        stage.ask(FIRST, sql).await.as_deref() == Some("quorum")
            && stage.json("sync").await.is_ok_and(|sync| sync["sync_standby"] == SECOND)
    };
    let whole = stage.until(LATER, streams).await;
    let before = stage.keys().await?.remove("sync").unwrap_or_default();
    stage.give_lock(SECOND).await?;
    let woken = stage.until(SOON, async || stage.calls(SECOND) == 1).await;
    let called = stage.calls(SECOND);
    let (leader, writes) = (stage.leader().await?, stage.writes(SECOND).await);
    // It comes with a reload, which is not waited for.
    let is_made = async || setting(stage).await.is_some_and(|text| text.starts_with("ANY 1 ("));
    stage.until(RELOAD, is_made).await;
    let setting = setting(stage).await;
    let after = stage.keys().await?.remove("sync").unwrap_or_default();
    let under = called == 1
        && leader.as_deref() == Some(SECOND)
        && writes == Some(false)
        && setting.as_deref() == Some("ANY 1 (db1)")
        && before.mod_revision == after.mod_revision;
    let stopped = stage.until(SOON, async || stage.writes(FIRST).await != Some(true)).await;
    Ok(vec![
        Answer::new(
            "put-wakes-the-named",
            woken.is_some_and(|after| after < WOKEN),
            format!("whole after {whole:?}; hook called {woken:?} after the put, loop_wait {LOOP_WAIT:?}"),
        ),
        Answer::new(
            "hook-under-the-lock",
            under,
            format!(
                "lock {leader:?}, accepts writes {writes:?}, setting {setting:?}, /sync revision {} and {}",
                before.mod_revision, after.mod_revision
            ),
        ),
        Answer::new("deposed-stops", stopped.is_some(), format!("after {stopped:?}")),
    ])
}

async fn setting(stage: &Stage) -> Option<String> {
    stage.ask(SECOND, "SHOW synchronous_standby_names").await
}

/// While the hook waits, the lock becomes somebody else's, who is no member: nobody else's Patroni acts on it.
async fn lost_lock(stage: &Stage) -> Result<Answer> {
    stage.give_lock("nobody").await?;
    let ended = stage.until(SOON, async || stage.hook(SECOND).iter().any(|line| line == "terminated")).await;
    let promoted = stage.writes(SECOND).await;
    let evidence = format!("{:?}, {ended:?} after the put; accepts writes {promoted:?}", stage.hook(SECOND));
    Ok(Answer::new("lost-lock-terminates", ended.is_some() && promoted == Some(false), evidence))
}

/// The lock is free: whoever takes it first is refused, and the next may lead.
async fn refused_and_allowed(stage: &Stage) -> Result<Vec<Answer>> {
    let before = [FIRST, SECOND].map(|name| stage.calls(name));
    let called = |at: usize| stage.calls([FIRST, SECOND][at]) > before[at];
    stage.free_lock().await?;
    let first = stage.until(LATER, async || called(0) || called(1)).await;
    let refused = if called(0) { FIRST } else { SECOND };
    stage.answer(refused, 1)?;
    let given_back = stage
        .until(SOON, async || stage.leader().await.is_ok_and(|who| who.as_deref() != Some(refused)))
        .await;
    let promoted = stage.writes(refused).await;
    // The other may have been called already.
    let (other, at) = if refused == FIRST { (SECOND, 1) } else { (FIRST, 0) };
    let again = stage.calls(refused);
    let next_after = stage.until(LATER, async || called(at) || stage.calls(refused) > again).await;
    let allowed = if called(at) { other } else { refused };
    stage.answer(allowed, 0)?;
    let led = stage.until(SOON, async || stage.writes(allowed).await == Some(true)).await;
    let back = given_back.is_some() && promoted == Some(false);
    Ok(vec![
        Answer::new(
            "refused-gives-back",
            back,
            format!(
                "{refused} was called after {first:?}, free after {given_back:?}, accepts writes {promoted:?}"
            ),
        ),
        Answer::new(
            "allowed-promotes",
            led.is_some(),
            format!("{allowed} was called after {next_after:?}, accepts writes {led:?} after the answer"),
        ),
    ])
}

fn every_start(stage: &Stage, boot: [usize; 2], crashed: [usize; 2]) -> Answer {
    let now = starts(stage);
    let by_gate = boot[0] > 0 && boot[1] > 0 && crashed[0] > boot[0] && now[0] > crashed[0];
    let alone = stage.starts(FIRST).iter().filter(|line| line.contains("--single")).count();
    let evidence = format!(
        "at boot {boot:?}, after the crash {crashed:?}, after the demotion {now:?}, {alone} in single-user mode"
    );
    Answer::new("every-start-by-bin-name", by_gate, evidence)
}

/// etcd goes: the primary goes on as long as the other answers.
async fn failsafe(stage: &Stage) -> Result<Answer> {
    let (primary, standby) =
        if stage.writes(FIRST).await == Some(true) { (FIRST, SECOND) } else { (SECOND, FIRST) };
    let whole = async || {
        let sql = "SELECT state FROM pg_stat_replication";
        stage.ask(primary, sql).await.as_deref() == Some("streaming")
            && stage.json("failsafe").await.is_ok_and(|names| names[standby].is_string())
    };
    let whole = stage.until(LATER, whole).await;
    let words = "because failsafe mode is enabled and all members are accessible";
    stage.fault(&["etcd-down", "e1"]).await?;
    let goes_on = stage.until(LATER, async || stage.log(primary).contains(words)).await;
    let writes = stage.writes(primary).await;
    stage.fault(&["stop", standby, "patroni"]).await?;
    let demoted = stage.until(LATER, async || stage.writes(primary).await != Some(true)).await;
    let holds = goes_on.is_some() && writes == Some(true) && demoted.is_some();
    let evidence = format!(
        "whole after {whole:?}; goes on {goes_on:?} after etcd went; demoted {demoted:?} after {standby}'s Patroni stopped"
    );
    Ok(Answer::new("failsafe-goes-on", holds, evidence))
}
