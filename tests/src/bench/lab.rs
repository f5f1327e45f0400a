//! A lab, driven by the verbs of `holdfast-lab` (DESIGN section 10).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::case::{Fault, Mode, System};
use super::command::{output, sibling};
use crate::checker::clients::{Route, routes};
use crate::checker::connect::Target;
use crate::checker::describe::Describe;
use crate::checker::monotonic_us;
use crate::checker::record::RouteKind;

/// Four labs at once on two cores took 40 s each to come up.
const UP: Duration = Duration::from_secs(300);
const VERB: Duration = Duration::from_secs(90);

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Its name.
    pub name: String,
    program: PathBuf,
}

impl Lab {
    /// The lab of that name if it is up already, else a new one.
    pub async fn up(name: &str, system: System, mode: Mode) -> anyhow::Result<Self> {
        let lab = Self { name: name.to_owned(), program: sibling("holdfast-lab")? };
        if lab.describe().await.is_ok() {
            eprintln!("bench: the lab {name} is up already and is used");
            return Ok(lab);
        }
        let (_folder, spec) = specification(system, mode)?;
        eprintln!("bench: lab {name} comes up ({})", system.spec());
        output(&lab.program, &["up", &spec, "--name", name], UP).await?;
        Ok(lab)
    }

    /// A lab that somebody else has brought up.
    pub async fn existing(name: &str) -> anyhow::Result<Self> {
        let lab = Self { name: name.to_owned(), program: sibling("holdfast-lab")? };
        lab.describe().await.with_context(|| format!("there is no lab {name}"))?;
        Ok(lab)
    }

    /// Refuses a lab that Holdfast only observes: its figures would be Patroni's.
    pub async fn require_armed(&self) -> anyhow::Result<()> {
        let describe = self.describe().await?;
        match describe.cluster()?.1.armed.as_deref() {
            None | Some("armed") => Ok(()),
            Some(other) => anyhow::bail!("the cluster of the lab {} is not armed: {other}", self.name),
        }
    }

    /// What it is made of, now.
    pub async fn describe(&self) -> anyhow::Result<Describe> {
        Ok(Describe::parse(&self.describe_text().await?)?)
    }

    /// The same as text.
    pub async fn describe_text(&self) -> anyhow::Result<String> {
        output(&self.program, &["describe", &self.name], VERB).await
    }

    /// Injects a fault and returns the moment just before its first step, [`monotonic_us`].
    pub async fn fault(&self, fault: Fault, host: &str) -> anyhow::Result<u64> {
        let mut arguments = vec!["fault", &self.name, fault.kind, host];
        arguments.extend(fault.target);
        let before_us = monotonic_us();
        let said = output(&self.program, &arguments, VERB).await?;
        let record: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        let at_ns = record.get("at_monotonic_ns").and_then(serde_json::Value::as_u64);
        Ok(at_ns.map_or(before_us, |ns| ns / 1000))
    }

    /// Heals what is wrong with a host.
    pub async fn heal(&self, host: &str) -> anyhow::Result<()> {
        output(&self.program, &["heal", &self.name, host], VERB).await.map(drop)
    }

    /// Ends it.
    pub async fn down(&self) -> anyhow::Result<()> {
        output(&self.program, &["down", &self.name], VERB).await.map(drop)
    }

    /// The sockets of the database hosts as user postgres, in the database of the clients.
    pub async fn sockets(&self) -> anyhow::Result<Vec<(String, Target)>> {
        let describe = self.describe().await?;
        let (region, cluster) = describe.cluster()?;
        let dbname = client_route(&describe)?.target.dbname().to_owned();
        let instances = region.instances(&cluster.scope);
        let target = |instance: &crate::checker::describe::Instance| {
            Target::socket(&instance.socket_dir, instance.port(), "postgres", &dbname)
        };
        Ok(instances.into_iter().map(|(host, instance)| (host.to_owned(), target(instance))).collect())
    }
}

/// The libpq route: the one whose database the clients use.
pub fn client_route(describe: &Describe) -> anyhow::Result<Route> {
    let mut all = routes(describe)?.into_iter();
    all.find(|route| route.kind == RouteKind::Libpq).context("the lab has no libpq route")
}

/// The specification to bring up: a name, or for asynchronous clusters a file of our own, which lives as long as the
/// folder that comes with it.
fn specification(system: System, mode: Mode) -> anyhow::Result<(tempfile::TempDir, String)> {
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("specs/{}.toml", system.spec()));
    if mode == Mode::Quorum {
        return Ok((folder, source.display().to_string()));
    }
    let text =
        std::fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let file = folder.path().join("off.toml");
    std::fs::write(&file, format!("{text}\n[[cluster]]\nscope = \"main\"\nclass = \"off\"\n"))?;
    Ok((folder, file.display().to_string()))
}
