//! The writer is gone: who may follow, and who must (rules 1, 2, 8, 12, 14 and 16).

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use serde_json::Value;

use super::{
    FAILOVER, Outcome, PASSED, closed, is_followed, replica, row_of_one, unless_followed, with_hung_patroni,
};
use crate::scene::{COMMIT_ALONE, Scene, hole};

/// The writer's agent looks at `/sync` as soon as it has changed.
const LOOK: Duration = Duration::from_secs(2);
/// Beyond everything that a lab writes.
const UNREACHED: &str = "7F/0";

pub(super) async fn resolver_hole(scene: &Scene) -> Outcome {
    // Whoever has the row would be named even by too few promises: it is away, and comes back in the end.
    let away = [scene.standbys[0].as_str(), replica(scene)?];
    let ended = hole::play(scene, &away).await?;
    Ok((6, ended.is_lost().then(|| format!("a row is lost: {ended:?}"))))
}

/// What the next writer, if there is one, lacks.
async fn lost(scene: &Scene, row: &str, deadline: Duration) -> Result<Option<String>> {
    let Some(next) = scene.next_writer(deadline).await else { return Ok(None) };
    let kept = scene.has_row(&next, row).await?;
    Ok((!kept).then(|| format!("{next} writes without an acknowledged row")))
}

pub(super) async fn one_voter(scene: &Scene) -> Outcome {
    let row = row_of_one(scene).await?;
    let [with_row, _] = &scene.standbys;
    scene.fault(&["stop", with_row, "agent"]).await?;
    scene.fault(&["host-death", &scene.writer]).await?;
    Ok((4, lost(scene, &row, FAILOVER).await?))
}

pub(super) async fn behind_floor(scene: &Scene) -> Outcome {
    let row = row_of_one(scene).await?;
    let [with_row, without] = &scene.standbys;
    // It could fetch the row.
    scene.cut(without, with_row).await?;
    let end = async {
        scene.fault(&["host-death", &scene.writer]).await?;
        closed(scene).await?;
        // Nobody names it: neither CLOSE nor, without the vote of the other, Patroni.
        scene.give_lock(without).await?;
        lost(scene, &row, PASSED).await
    };
    Ok((6, with_hung_patroni(scene, &[with_row], end).await?))
}

pub(super) async fn floor_ahead(scene: &Scene) -> Outcome {
    scene.fault(&["freeze", replica(scene)?]).await?;
    for standby in &scene.standbys {
        scene.cut(standby, &scene.writer).await?;
    }
    scene.ask(&scene.writer, COMMIT_ALONE).await?;
    scene.put_sync(|_| ()).await?;
    tokio::time::sleep(LOOK).await;
    scene.fault(&["host-death", &scene.writer]).await?;
    Ok((5, unless_followed(is_followed(scene).await?)))
}

pub(super) async fn floor_unreached(scene: &Scene) -> Outcome {
    let (floor, _) = scene.record("floor").await?.context("there is no floor record")?;
    let mut ahead = floor.clone();
    ahead["floor"]["lsn"] = UNREACHED.into();
    scene.put_record("floor", &ahead).await?;
    scene.fault(&["host-death", &scene.writer]).await?;
    let next = scene.next_writer(PASSED).await;
    // With the right one somebody follows, and the lab can be mended.
    scene.put_record("floor", &floor).await?;
    Ok((2, next.map(|next| format!("{next} writes, and has not what every standby had flushed"))))
}

/// The writer is dead, its reign closed, and no Patroni can take it up before `/sync` has changed.
async fn sync_changed(scene: &Scene, change: impl FnOnce(&mut Value)) -> Result<()> {
    scene.fault(&["freeze", replica(scene)?]).await?;
    let standbys = scene.standbys.each_ref().map(String::as_str);
    let changed = async {
        scene.fault(&["host-death", &scene.writer]).await?;
        closed(scene).await?;
        scene.put_sync(change).await
    };
    with_hung_patroni(scene, &standbys, changed).await
}

pub(super) async fn sync_touched(scene: &Scene) -> Outcome {
    sync_changed(scene, |_| ()).await?;
    Ok((5, unless_followed(is_followed(scene).await?)))
}

pub(super) async fn sync_moved(scene: &Scene) -> Outcome {
    let all = [scene.standbys.join(","), replica(scene)?.to_owned()].join(",");
    sync_changed(scene, |sync| {
        (sync["sync_standby"], sync["quorum"]) = (all.clone().into(), 2.into());
    })
    .await?;
    scene.give_lock(&scene.standbys[0]).await?;
    let next = scene.next_writer(PASSED).await;
    let text = |next| format!("{next} writes, though {all} may have acknowledged and not all have promised");
    Ok((6, next.map(text)))
}

pub(super) async fn host_death(scene: &Scene) -> Outcome {
    scene.fault(&["host-death", &scene.writer]).await?;
    Ok((1, unless_followed(is_followed(scene).await?)))
}
