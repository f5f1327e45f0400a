//! A lab as a stage for scripted faults: who writes, who stands by, what a server says, and what becomes of one row.
//!
//! It breaks what it is told to and reports what it sees; which end is the right one is decided by its callers:
//! [`hole`] and, in test builds, the table of mutants.

pub mod hole;
mod keys;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::bench::case::Mode;
use crate::bench::command::output;
use crate::bench::health;
use crate::bench::lab::Lab;
use crate::checker::describe::Describe;
use crate::lab::files;
use crate::lab::plan::Plan;
use crate::lab::sql::At;

/// A commit that needs no table and waits for a standby.
pub const COMMIT: &str = "SELECT pg_logical_emit_message(true, 'holdfast-lab', '')";
/// The same for a commit that waits for nobody.
pub const COMMIT_ALONE: &str = "BEGIN; SET LOCAL synchronous_commit = local; \
     SELECT pg_logical_emit_message(true, 'holdfast-lab', ''); COMMIT";
const POLL: Duration = Duration::from_millis(100);
const PSQL: Duration = Duration::from_secs(6);

/// A whole lab and the roles in it at the beginning.
pub struct Scene {
    /// The lab.
    pub lab: Lab,
    /// What it was made of.
    pub plan: Plan,
    /// Its description.
    pub describe: Describe,
    /// The writer.
    pub writer: String,
    /// The synchronous standbys.
    pub standbys: [String; 2],
}

impl Scene {
    /// Waits until the lab is whole.
    pub async fn enter(lab: &Lab) -> Result<Self> {
        let (writer, _) = health::wait_whole(lab, Mode::Quorum).await?;
        let (describe, plan) = (lab.describe().await?, files::load(&lab.name)?);
        let (region, ..) = lab.place(&describe)?;
        let stands_by = |host: &&crate::checker::describe::Host| {
            host.role == "database" && host.tags["nosync"] != true && host.name != writer
        };
        let names: Vec<String> =
            region.hosts.iter().filter(stands_by).map(|host| host.name.clone()).take(2).collect();
        let standbys = names.try_into().ok().context("the lab needs two synchronous standbys")?;
        Ok(Self { lab: lab.clone(), plan, describe, writer, standbys })
    }

    /// Breaks something, until everything is healed.
    pub async fn fault(&self, words: &[&str]) -> Result<()> {
        self.lab.inject(words).await.with_context(|| words.join(" ")).map(drop)
    }

    /// The first column of what a server says to a superuser over its own socket.
    pub async fn ask(&self, host: &str, sql: &str) -> Result<Vec<String>> {
        let (_, host) = self.plan.named_host(host)?;
        let instance = self.plan.named_instance(None)?;
        let socket_dir = host.socket_dir();
        let at = At { socket_dir: &socket_dir, port: instance.port, user: "postgres", dbname: "postgres" };
        let rows = at.ask(sql).await?;
        Ok(rows.iter().map(|row| row.get(0).unwrap_or_default().to_owned()).collect())
    }

    /// Whether a client acknowledges a commit over TCP on this very host.
    pub async fn commits_over_tcp(&self, host: &str) -> Result<bool> {
        let (_, of_host) = self.plan.named_host(host)?;
        let (.., client) = self.lab.place(&self.describe)?;
        let (_, cluster) = self.describe.choose(&self.lab.choice)?;
        let libpq = cluster.routes.iter().find(|route| route.kind == "libpq").context("no libpq route")?;
        let own: Vec<String> = libpq
            .dsn
            .split(' ')
            .filter(|word| !word.starts_with("host=") && !word.starts_with("target_session_attrs="))
            .map(str::to_owned)
            .chain([format!("host={}", of_host.address)])
            .collect();
        let dsn = own.join(" ");
        let words = ["netns", "exec", &client.netns, "timeout", "3", "psql", "-qAtX", &dsn, "-c", COMMIT];
        Ok(output("ip", &words, PSQL).await.is_ok())
    }

    /// The member other than `not` that accepts writes.
    pub async fn writer_other_than(&self, not: &str) -> Option<String> {
        for host in self.databases().filter(|host| *host != not) {
            let recovery = self.ask(host, "SELECT pg_is_in_recovery()").await;
            if recovery.is_ok_and(|said| said == ["f"]) {
                return Some(host.to_owned());
            }
        }
        None
    }

    /// Waits for it.
    pub async fn next_writer(&self, deadline: Duration) -> Option<String> {
        let begin = Instant::now();
        while begin.elapsed() < deadline {
            if let Some(found) = self.writer_other_than(&self.writer).await {
                return Some(found);
            }
            tokio::time::sleep(POLL).await;
        }
        None
    }

    /// Every database host.
    pub fn databases(&self) -> impl Iterator<Item = &str> {
        let hosts = self.describe.regions.iter().flat_map(|region| &region.hosts);
        hosts.filter(|host| host.role == "database").map(|host| host.name.as_str())
    }

    /// Commits a row on the writer, and says whether it was acknowledged.
    pub async fn write_row(&self, row: &str) -> Result<bool> {
        self.ask(&self.writer, "CREATE TABLE IF NOT EXISTS holdfast_scene (id text PRIMARY KEY)").await?;
        Ok(self.ask(&self.writer, &format!("INSERT INTO holdfast_scene VALUES ('{row}')")).await.is_ok())
    }

    /// Whether a server has a row; it may lack the table too.
    pub async fn has_row(&self, host: &str, row: &str) -> Result<bool> {
        if self.ask(host, "SELECT to_regclass('holdfast_scene')").await? == [""] {
            return Ok(false);
        }
        let sql = format!("SELECT count(*) FROM holdfast_scene WHERE id = '{row}'");
        Ok(self.ask(host, &sql).await? == ["1"])
    }

    /// What `holdfast status` says.
    pub async fn status(&self) -> Result<serde_json::Value> {
        let said = self.lab.operator(&["status", "-o", "json"]).await?;
        serde_json::from_str(&said).context("holdfast status")
    }

    /// Heals everything and waits until the lab is whole.
    pub async fn leave(&self) -> Result<()> {
        self.lab.heal_all().await?;
        health::wait_whole(&self.lab, Mode::Quorum).await.map(drop)
    }

    /// Waits until something holds; `false` when it does not in time.
    pub async fn until<F>(&self, deadline: Duration, mut holds: impl FnMut() -> F) -> Result<bool>
    where
        F: Future<Output = Result<bool>>,
    {
        let begin = Instant::now();
        loop {
            if holds().await? {
                return Ok(true);
            }
            if begin.elapsed() > deadline {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Cuts the link between two hosts, and nothing else.
    pub async fn cut(&self, one: &str, other: &str) -> Result<()> {
        self.fault(&["link-cut", one, "--peer", other]).await
    }

    /// Ends a standby's stream on the writer's side.
    pub async fn end_stream(&self, standby: &str) -> Result<()> {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = '{standby}'"
        );
        match self.ask(&self.writer, &sql).await?.as_slice() {
            [] => bail!("{standby} does not stream from {}", self.writer),
            _ => Ok(()),
        }
    }

    /// Starts PostgreSQL by Patroni's way through the gate, as a primary, on the data directory of a standby that runs; that
    /// it runs keeps a second postmaster from coming up if the gate lets it pass. Returns what was said.
    pub async fn start_as_primary(&self, host: &str) -> Result<String> {
        let (_, plan) = self.plan.named_host(host)?;
        let instance = self.plan.named_instance(None)?;
        let data = plan.data_dir(&instance.cluster.scope).display().to_string();
        let gate = format!(
            "mv {data}/standby.signal {data}/standby.signal.away; \
             HOLDFAST_CONFIG={config} setpriv --reuid postgres --regid postgres --init-groups timeout 5 {gate} -D {data} 2>&1; \
             mv {data}/standby.signal.away {data}/standby.signal; true",
            config = plan.agent_config().display(),
            gate = plan.dir.join("bin/postgres").display(),
        );
        self.lab.on_host(host, &["sh", "-c", &gate]).await
    }
}
