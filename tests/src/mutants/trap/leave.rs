//! A standby that must not leave its writer, and one that has left it (rules 4 to 6).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use holdfast_types::Lsn;

use super::{Outcome, PASSED, with_hung_patroni};
use crate::scene::Scene;

/// The writer's agent is hung for so long: well within what is left of a lease of the profile `fast` at the least, 1.2 s.
const AWAY: Duration = Duration::from_millis(500);
/// Longer than silence, probes and a promise take.
const LEFT: Duration = Duration::from_secs(8);
/// For so long a standby that has left is watched.
const WATCHED: Duration = Duration::from_secs(4);
/// Two of the kernel's own choice are far from that.
const PORTS: &str = "32768 60999";
/// Commits in the background, more than a second of them for each second that they are needed.
const LOAD: &str = "DO $$ BEGIN FOR i IN 1..30000 LOOP \
    PERFORM pg_logical_emit_message(true, 'holdfast-lab', repeat('x', 500)); COMMIT; END LOOP; END $$";

pub(super) async fn session_lost(scene: &Scene) -> Outcome {
    let writer = scene.writer.as_str();
    // A new one is there within milliseconds, unless the agent hangs meanwhile.
    scene.fault(&["stop", writer, "agent"]).await?;
    scene.end_session(writer).await?;
    tokio::time::sleep(AWAY).await;
    scene.fault(&["continue", writer, "agent"]).await?;
    let another = scene.next_writer(LEFT).await;
    Ok((2, another.map(|next| format!("{next} took the place of {writer}, which was healthy"))))
}

/// The first synchronous standby that has promised to leave the writer of the term.
async fn has_left(scene: &Scene, term: u64, deadline: Duration) -> Result<Option<String>> {
    let begin = Instant::now();
    while begin.elapsed() < deadline {
        for standby in &scene.standbys {
            if scene.record(&format!("promise/{standby}/{term}")).await?.is_some() {
                return Ok(Some(standby.clone()));
            }
        }
    }
    Ok(None)
}

/// The local ports that connections of a host may have.
async fn ports(scene: &Scene, host: &str, range: &str) -> Result<()> {
    let set = format!("net.ipv4.ip_local_port_range={range}");
    scene.lab.on_host(host, &["sysctl", "-q", "-w", &set]).await.map(drop)
}

pub(super) async fn no_port_left(scene: &Scene) -> Outcome {
    let writer = scene.writer.as_str();
    let term = scene.term().await?;
    for standby in &scene.standbys {
        let sql = format!("SELECT client_port FROM pg_stat_replication WHERE application_name = '{standby}'");
        let port = scene.ask(writer, &sql).await?.concat();
        // The only port that is left is the one of the stream itself; towards any other host it is free.
        ports(scene, standby, &format!("{port} {port}")).await?;
    }
    scene.fault(&["stop", writer, "guard"]).await?;
    scene.fault(&["stop", writer, "agent"]).await?;
    let left = has_left(scene, term, LEFT).await?;
    for standby in &scene.standbys {
        ports(scene, standby, PORTS).await?;
    }
    Ok((4, left.map(|left| format!("{left} left {writer}, of which it could see nothing"))))
}

pub(super) async fn left_alive(scene: &Scene) -> Outcome {
    let [leaves, hung] = &scene.standbys;
    let load = scene.ask(&scene.writer, LOAD);
    scene.fault(&["stop", hung, "agent"]).await?;
    let left = async {
        // The lock is another's: reason enough to leave. The promise of the other would close the reign.
        scene.give_lock(hung).await?;
        let term = scene.term().await?;
        if has_left(scene, term, PASSED).await?.as_ref() != Some(leaves) {
            bail!("{leaves} has not promised");
        }
        let name = format!("promise/{leaves}/{term}");
        if let Some(found) = received_more(scene, leaves, &name).await? {
            return Ok(Some(found));
        }
        resumed(scene, leaves, &name).await
    };
    // The writer's would end it, the standby's would send it to the holder of the lock.
    let hung_hosts = [scene.writer.as_str(), leaves];
    let left = with_hung_patroni(scene, &hung_hosts, left);
    // The answer of the load comes after all is over; the backend does not notice that nobody waits for it.
    let (found, _) = tokio::join!(left, load);
    Ok((4, found?))
}

/// Rules 5 and 6: what a standby has beyond its promise.
async fn received_more(scene: &Scene, standby: &str, name: &str) -> Result<Option<String>> {
    let begin = Instant::now();
    while begin.elapsed() < WATCHED {
        let (promise, before) = scene.record(name).await?.context("the promise is gone")?;
        let said = scene
            .ask(standby, "SELECT greatest(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn())")
            .await?;
        let (_, after) = scene.record(name).await?.context("the promise is gone")?;
        if after.version > 1 {
            let again = after.version - 1;
            return Ok(Some(format!(
                "{standby} was let near its writer after its promise, and gave it {again} times again"
            )));
        }
        let promised: Lsn =
            promise["position"]["lsn"].as_str().context("a promise without a position")?.parse()?;
        let has: Lsn = said.concat().parse()?;
        if before == after && has > promised {
            return Ok(Some(format!("{standby} has {has}, and has promised {promised}")));
        }
    }
    Ok(None)
}

/// Promise I9, rule 25: etcd forgets the promise, its giver is killed; what the next one goes on with is the same promise.
async fn resumed(scene: &Scene, standby: &str, name: &str) -> Result<Option<String>> {
    let (given, _) = scene.record(name).await?.context("the promise is gone")?;
    scene.fault(&["kill", standby, "agent"]).await?;
    scene.forget_record(name).await?;
    let is_there = async || Ok(scene.record(name).await?.is_some());
    if !scene.until(PASSED, is_there).await? {
        return Ok(Some(format!("{standby} knows nothing of its promise after a kill")));
    }
    let (now, _) = scene.record(name).await?.context("the promise is gone")?;
    Ok((now != given).then(|| format!("{standby} has promised anew after a kill: {given}, now {now}")))
}
