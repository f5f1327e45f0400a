//! A PostgreSQL that must not run as what it is, and clients that must not be sent to it (start gate, promises I5, I10, I12).

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{BOOT, FAILOVER, Outcome, is_followed, with_hung_patroni};
use crate::bench::command::output;
use crate::scene::{COMMIT_ALONE, Scene};

/// An agent that sees it ends it at once; a pooler is told within a second.
const SEEN: Duration = Duration::from_secs(6);
const PSQL: Duration = Duration::from_secs(4);

pub(super) async fn fenced_boot(scene: &Scene) -> Outcome {
    let standby = scene.standbys[0].as_str();
    let order = |verb: &'static str| [verb, standby, "--reason", "test", "--yes"];
    scene.lab.operator(&order("fence")).await?;
    let is_out = async || Ok(scene.ask(standby, "SELECT 1").await.is_err());
    scene.until(BOOT, is_out).await?;
    scene.fault(&["power-cycle", standby]).await?;
    // Its agent ends what has started all the same: it must not have answered for a moment.
    let answers = async || Ok(scene.ask(standby, "SELECT 1").await.is_ok());
    let runs = scene.until(BOOT, answers).await?;
    scene.lab.operator(&order("unfence")).await?;
    Ok((1, runs.then(|| format!("the PostgreSQL of {standby}, which is fenced, runs"))))
}

pub(super) async fn started_by_hand(scene: &Scene) -> Outcome {
    let said = scene.start_as_primary(&scene.standbys[0]).await?;
    let refused = said.contains("PostgreSQL is not started");
    Ok((1, (!refused).then(|| format!("the gate lets a second primary start: {}", said.trim()))))
}

pub(super) async fn promoted_by_hand(scene: &Scene) -> Outcome {
    let promoted = scene.standbys[1].as_str();
    let ends = async {
        // It may be ended before it has answered.
        let _ = scene.ask(promoted, "SELECT pg_promote()").await;
        let writes_not = async || Ok(scene.ask(promoted, COMMIT_ALONE).await.is_err());
        scene.until(SEEN, writes_not).await
    };
    // Its Patroni would end it too, as long as it is there.
    let ended = with_hung_patroni(scene, &[promoted], ends).await?;
    let text = || format!("{promoted} acknowledges beside {} for {} s", scene.writer, SEEN.as_secs());
    Ok((2, (!ended).then(text)))
}

/// Whether the pooler's clients are at a server that cannot write.
async fn pooled_at_standby(scene: &Scene) -> Result<bool> {
    let (.., client) = scene.lab.place(&scene.describe)?;
    let (_, cluster) = scene.describe.choose(&scene.lab.choice)?;
    let pool = cluster.routes.iter().find(|route| route.kind == "pgbouncer").context("no pooler")?;
    let ask = "SELECT pg_is_in_recovery()";
    let words = ["netns", "exec", &client.netns, "timeout", "3", "psql", "-qAtX", &pool.dsn, "-c", ask];
    // A client that waits, or is refused, is not sent anywhere.
    Ok(output("ip", &words, PSQL).await.is_ok_and(|said| said.trim() == "t"))
}

pub(super) async fn older_term(scene: &Scene) -> Outcome {
    let old = scene.writer.as_str();
    let (before, _) = scene.record("term").await?.context("there is no term record")?;
    scene.fault(&["kill", old, "postmaster"]).await?;
    if !is_followed(scene).await? {
        bail!("nobody has followed {old}");
    }
    let follows =
        async || Ok(scene.ask(old, "SELECT pg_is_in_recovery()").await.is_ok_and(|said| said == ["t"]));
    if !scene.until(FAILOVER, follows).await? {
        bail!("{old} has not come back");
    }
    let (after, _) = scene.record("term").await?.context("there is no term record")?;
    scene.put_record("term", &before).await?;
    let sent_back = scene.until(SEEN, async || pooled_at_standby(scene).await).await?;
    scene.put_record("term", &after).await?;
    Ok((2, sent_back.then(|| format!("the pooler sends its clients to {old}, the writer of an older term"))))
}
