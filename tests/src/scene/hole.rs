//! Patroni's resolver hole (the first of the weaker rules that `PROTOCOL.md` was designed against), played on real servers.
//!
//! c loses the other database hosts, though not etcd, so that b alone flushes and acknowledges a row; then b's stream ends
//! too. Patroni drops b from `/sync` and names c, which has nothing, with quorum 0; then the primary dies. By Patroni's
//! rules c follows, though b lives and has the row; b may not without c's vote. Holdfast counts promises in every configuration that may be in force, so b's position is
//! the floor.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use super::Scene;
use crate::bench::case::{Mode, System};
use crate::bench::lab::{Beside, Lab};
use crate::checker::monotonic_us;

/// Patroni takes a few looks to take b out and to lower the quorum.
const DROPPED_DEADLINE: Duration = Duration::from_secs(60);
/// Longer than Patroni's lock lives, and its race after it.
const NEXT_DEADLINE: Duration = Duration::from_secs(75);

/// What is asked of `resolver-hole`.
#[derive(Debug, Args)]
pub struct Options {
    /// The systems on which it is played
    #[arg(long, value_enum, value_delimiter = ',', default_value = "patroni-tuned,holdfast-fast")]
    systems: Vec<System>,
    /// How often on each
    #[arg(long, default_value_t = 1)]
    n: u32,
}

/// How it ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// The writer that died, the standby with the row, and the one without.
    pub roles: [String; 3],
    /// Patroni's `/sync` when the writer died.
    pub sync: String,
    /// The writer's `synchronous_standby_names` then.
    pub setting: String,
    /// Who came next; none within the deadline.
    pub next: Option<String>,
    /// Seconds from the writer's death until then.
    pub after_s: f64,
    /// Whether the next writer has the acknowledged row; `None` without a next writer.
    pub has_row: Option<bool>,
}

impl Ended {
    /// An acknowledged row is lost.
    pub fn is_lost(&self) -> bool {
        self.has_row == Some(false)
    }
}

/// Plays it up to the end of the wait for the next writer; `away` are hosts that freeze just before. Everything is left broken: [`Scene::leave`] heals.
pub async fn play(scene: &Scene, away: &[&str]) -> Result<Ended> {
    let (writer, [b, c]) = (&scene.writer, &scene.standbys);
    let row = format!("hole-{}", monotonic_us());
    // From all of them: by Patroni's rules whoever gets c's vote may follow too, and then it depends on who looks first.
    for other in scene.databases().filter(|host| host != c) {
        scene.cut(c, other).await?;
    }
    if !scene.write_row(&row).await? {
        bail!("{b} alone does not acknowledge a row");
    }
    scene.cut(b, writer).await?;
    scene.end_stream(b).await?;
    let only_c = async || {
        let sync = scene.patroni_key("sync").await?.unwrap_or_default();
        let sync: serde_json::Value = serde_json::from_str(&sync).unwrap_or_default();
        Ok(sync["sync_standby"] == c.as_str() && sync["quorum"] == 0)
    };
    if !scene.until(DROPPED_DEADLINE, only_c).await? {
        bail!("Patroni did not take {b} out of /sync: {:?}", scene.patroni_key("sync").await?);
    }
    let sync = scene.patroni_key("sync").await?.context("/sync is gone")?;
    let setting = scene.ask(writer, "SHOW synchronous_standby_names").await?.concat();
    for host in away {
        scene.fault(&["freeze", host]).await?;
    }
    scene.fault(&["host-death", writer]).await?;
    let died = Instant::now();
    let next = scene.next_writer(NEXT_DEADLINE).await;
    let after_s = died.elapsed().as_secs_f64();
    let has_row = match &next {
        Some(next) => Some(scene.has_row(next, &row).await?),
        None => None,
    };
    Ok(Ended { roles: [writer.clone(), b.clone(), c.clone()], sync, setting, next, after_s, has_row })
}

/// Plays it on each system and prints the table. An error only if it could not be played, or Holdfast lost the row.
pub async fn run(options: &Options) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "system",
        "/sync when the writer died",
        "setting",
        "next writer",
        "after s",
        "acknowledged row",
    ]);
    let (mut broken, mut lines) = (0, Vec::new());
    for system in &options.systems {
        let name = format!("hole_{}", if system.has_agents() { "h" } else { "p" });
        let lab = Lab::up(&name, *system, Mode::Quorum, Beside::default()).await?;
        let played = on(&lab, *system, options.n).await;
        lab.down().await?;
        for ended in played? {
            broken += u32::from(system.has_agents() && ended.has_row != Some(true));
            lines.push(row(*system, &ended));
        }
    }
    table.add_rows(lines);
    println!("{table}");
    if broken > 0 { bail!("Holdfast kept the row in all but {broken}") } else { Ok(()) }
}

async fn on(lab: &Lab, system: System, n: u32) -> Result<Vec<Ended>> {
    if system.has_agents() {
        lab.require_armed().await?;
    }
    let mut all = Vec::new();
    for _ in 0..n {
        let scene = Scene::enter(lab).await?;
        let ended = play(&scene, &[]).await?;
        eprintln!("resolver-hole: {}: {}", system.name(), serde_json::to_string(&ended)?);
        scene.leave().await?;
        all.push(ended);
    }
    Ok(all)
}

fn row(system: System, ended: &Ended) -> [String; 6] {
    let [writer, with_row, without] = &ended.roles;
    let kept = match ended.has_row {
        Some(true) => "kept",
        Some(false) => "LOST",
        None => "no writer to ask",
    };
    let sync = format!("{} ({writer} writes, {with_row} has the row, {without} has not)", ended.sync);
    let next = ended.next.clone().unwrap_or_else(|| "nobody".into());
    [system.name(), sync, ended.setting.clone(), next, format!("{:.1}", ended.after_s), kept.into()]
}
