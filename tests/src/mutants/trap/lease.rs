//! A writer that must stop, or must not (rules 9 and 19 to 22).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use holdfast_host::clock;

use super::{FAILOVER, Outcome};
use crate::checker::monotonic_us;
use crate::scene::{COMMIT_ALONE, Scene};

/// Longer than a lease and its grace.
const EXPIRED: Duration = Duration::from_secs(6);
/// An outage of etcd that a healthy primary must not notice.
const OUTAGE: Duration = Duration::from_secs(8);
/// Before Patroni's own lock of 20 s has run out.
const HUNG: Duration = Duration::from_secs(12);
/// Shorter than a grant of the profile `fast`, less the time between two of them: 3 s and 0.3 s. Without the rule a promise takes
/// silence and two probes: 1.4 s.
const GRANTED_MS: i64 = 2_500;

/// A commit of a local session that waits for nobody, while another writes.
async fn two_writers(scene: &Scene) -> Result<Option<String>> {
    // An outage is no second writer: that shows nothing of these rules.
    let next = scene.next_writer(FAILOVER).await.context("nobody has followed, so there is no verdict")?;
    let old = &scene.writer;
    let both = scene.ask(old, COMMIT_ALONE).await.is_ok();
    Ok(both.then(|| format!("{old} acknowledges a local commit while {next} writes")))
}

pub(super) async fn hung_postgres(scene: &Scene) -> Outcome {
    scene.fault(&["stop", &scene.writer, "postgres"]).await?;
    let next = scene.next_writer(HUNG).await;
    let text = || format!("nobody writes {} s after {} has hung", HUNG.as_secs(), scene.writer);
    Ok((1, next.is_none().then(text)))
}

pub(super) async fn hung_agent(scene: &Scene) -> Outcome {
    // Its Patroni would end PostgreSQL when another has the lock.
    scene.fault(&["stop", &scene.writer, "patroni"]).await?;
    scene.fault(&["stop", &scene.writer, "agent"]).await?;
    Ok((2, two_writers(scene).await?))
}

pub(super) async fn isolated(scene: &Scene) -> Outcome {
    scene.fault(&["link-cut", &scene.writer]).await?;
    Ok((1, two_writers(scene).await?))
}

pub(super) async fn hung_agent_and_guard(scene: &Scene) -> Outcome {
    scene.fault(&["stop", &scene.writer, "guard"]).await?;
    scene.fault(&["stop", &scene.writer, "agent"]).await?;
    tokio::time::sleep(EXPIRED).await;
    let open = scene.commits_over_tcp(&scene.writer).await?;
    Ok((2, open.then(|| format!("{} acknowledges over TCP without a lease", scene.writer))))
}

pub(super) async fn etcd_gone(scene: &Scene) -> Outcome {
    scene.fault(&["etcd-down"]).await?;
    tokio::time::sleep(OUTAGE).await;
    let goes_on = scene.commits_over_tcp(&scene.writer).await?;
    Ok((1, (!goes_on).then(|| format!("{} acknowledges nothing while etcd is down", scene.writer))))
}

pub(super) async fn granted(scene: &Scene) -> Outcome {
    let writer = scene.writer.as_str();
    let term = scene.term().await?;
    scene.fault(&["etcd-cut", writer]).await?;
    let is_gone = async || Ok(scene.session(writer).await?.is_none());
    if !scene.until(OUTAGE, is_gone).await? {
        bail!("the session of {writer} outlives its way to etcd");
    }
    let cut_us = scene.lab.inject(&["link-cut", writer]).await?.at_us;
    let since_cut_us = monotonic_us().saturating_sub(cut_us);
    let cut_wall_ms = clock::wall_ms() - i64::try_from(since_cut_us / 1_000)?;
    let begin = Instant::now();
    while begin.elapsed() < OUTAGE {
        for standby in &scene.standbys {
            let Some((promise, _)) = scene.record(&format!("promise/{standby}/{term}")).await? else {
                continue;
            };
            let at_wall_ms = promise["at_wall_ms"].as_i64().context("a promise without a time")?;
            let after_ms = at_wall_ms - cut_wall_ms;
            let text = || format!("{standby} promises {after_ms} ms after a lease was last granted");
            return Ok((2, (after_ms < GRANTED_MS).then(text)));
        }
    }
    Ok((2, None))
}
