//! A lab, driven by the verbs of `holdfast-lab` (DESIGN section 10).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::case::{Mode, System};
use super::command::{output, sibling};
use crate::checker::clients::{Route, routes};
use crate::checker::connect::Target;
use crate::checker::describe::{Choice, Cluster, Describe, Host, Region};
use crate::checker::record::RouteKind;

/// Four labs at once on two cores took 40 s each to come up.
const UP: Duration = Duration::from_secs(300);
const VERB: Duration = Duration::from_secs(90);

/// What a lab has beside what every system has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Beside {
    /// Disks of the hosts' own, which can break.
    pub own_disk: bool,
    /// HAProxy.
    pub haproxy: bool,
}

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Its name.
    pub name: String,
    /// The cluster of it that is meant.
    pub choice: Choice,
    program: PathBuf,
}

impl Lab {
    /// The lab of that name if it is up already, else a new one.
    pub async fn up(name: &str, system: System, mode: Mode, with: Beside) -> anyhow::Result<Self> {
        let lab = Self::named(name, Choice::default())?;
        if lab.describe().await.is_ok() {
            eprintln!("bench: the lab {name} is up already and is used");
            return Ok(lab);
        }
        eprintln!("bench: lab {name} comes up ({})", system.spec());
        Self::of_text(name, &specification(system, mode, with)?).await
    }

    /// A new lab of a specification that is in no file.
    pub async fn of_text(name: &str, specification: &str) -> anyhow::Result<Self> {
        let lab = Self::named(name, Choice::default())?;
        let file = tempfile::NamedTempFile::new().context("a temporary file")?;
        std::fs::write(file.path(), specification).context("the specification")?;
        output(&lab.program, &["up", &file.path().display().to_string(), "--name", name], UP).await?;
        Ok(lab)
    }

    /// A lab that somebody else has brought up.
    pub async fn existing(name: &str, choice: Choice) -> anyhow::Result<Self> {
        let lab = Self::named(name, choice)?;
        let describe = lab.describe().await.with_context(|| format!("there is no lab {name}"))?;
        describe.choose(&lab.choice)?;
        Ok(lab)
    }

    fn named(name: &str, choice: Choice) -> anyhow::Result<Self> {
        Ok(Self { name: name.to_owned(), choice, program: sibling("holdfast-lab")? })
    }

    /// Refuses a lab that Holdfast only observes: its figures would be Patroni's.
    pub async fn require_armed(&self) -> anyhow::Result<()> {
        let describe = self.describe().await?;
        match describe.choose(&self.choice)?.1.armed.as_deref() {
            None | Some("armed") => Ok(()),
            Some(other) => bail!("the cluster of the lab {} is not armed: {other}", self.name),
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

    /// Injects what the words after `holdfast-lab fault LAB` say.
    pub async fn inject(&self, words: &[&str]) -> anyhow::Result<Injected> {
        let arguments = [&["fault", &self.name], words].concat();
        injected(&output(&self.program, &arguments, VERB).await?)
    }

    /// Ends a fault by its id, or what is wrong with a host.
    pub async fn heal(&self, which: &str) -> anyhow::Result<()> {
        output(&self.program, &["heal", &self.name, which], VERB).await.map(drop)
    }

    /// Ends every fault.
    pub async fn heal_all(&self) -> anyhow::Result<()> {
        output(&self.program, &["heal", &self.name], VERB).await.map(drop)
    }

    /// What the operator's command prints, called on the client's host.
    pub async fn operator(&self, words: &[&str]) -> anyhow::Result<String> {
        let describe = self.describe().await?;
        let (_, _, client) = self.place(&describe)?;
        self.on_host(&client.name, &[&["holdfast"], words].concat()).await
    }

    /// What a command on a host says.
    pub async fn on_host(&self, host: &str, command: &[&str]) -> anyhow::Result<String> {
        let arguments = [&["exec", &self.name, host, "--"], command].concat();
        output(&self.program, &arguments, VERB).await
    }

    /// Ends it.
    pub async fn down(&self) -> anyhow::Result<()> {
        output(&self.program, &["down", &self.name], VERB).await.map(drop)
    }

    /// The sockets of the database hosts as user postgres, in the database of the clients.
    pub async fn sockets(&self) -> anyhow::Result<Vec<(String, Target)>> {
        let describe = self.describe().await?;
        let (region, cluster) = describe.choose(&self.choice)?;
        let dbname = self.client_route(&describe)?.target.dbname().to_owned();
        let instances = region.instances(&cluster.scope);
        let target = |instance: &crate::checker::describe::Instance| {
            Target::socket(&instance.socket_dir, instance.port(), "postgres", &dbname)
        };
        Ok(instances.into_iter().map(|(host, instance)| (host.to_owned(), target(instance))).collect())
    }

    /// The libpq route: the one whose database the clients use.
    pub fn client_route(&self, describe: &Describe) -> anyhow::Result<Route> {
        let mut all = routes(describe, &self.choice)?.into_iter();
        all.find(|route| route.kind == RouteKind::Libpq).context("the lab has no libpq route")
    }

    /// The region and the cluster that are meant, and the host of their clients.
    pub fn place<'d>(&self, describe: &'d Describe) -> anyhow::Result<(&'d Region, &'d Cluster, &'d Host)> {
        let (region, cluster) = describe.choose(&self.choice)?;
        Ok((region, cluster, describe.client_host(region)?))
    }
}

/// A fault as the lab recorded it.
#[derive(Debug, PartialEq, Eq)]
pub struct Injected {
    /// Its name, for `heal`.
    pub id: String,
    /// Where; none for the whole etcd.
    pub host: Option<String>,
    /// The moment just before its first step, [`crate::checker::monotonic_us`].
    pub at_us: u64,
}

/// Reads the record. A run whose fault has no moment cannot be judged.
fn injected(said: &str) -> anyhow::Result<Injected> {
    #[derive(serde::Deserialize)]
    struct Record {
        id: String,
        host: Option<String>,
        at_monotonic_ns: u64,
    }
    let record: Record = serde_json::from_str(said)
        .with_context(|| format!("holdfast-lab fault printed no record of the fault: {:?}", said.trim()))?;
    Ok(Injected { id: record.id, host: record.host, at_us: record.at_monotonic_ns / 1000 })
}

/// The specification to bring up: that of the system, with what the mode and the case need.
fn specification(system: System, mode: Mode, with: Beside) -> anyhow::Result<String> {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("specs/{}.toml", system.spec()));
    let text =
        std::fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let own_disk = if with.own_disk { "own_disk = true\n" } else { "" };
    let haproxy = if with.haproxy { "haproxy = true\n" } else { "" };
    let after = match mode {
        Mode::Quorum => "",
        Mode::Off => "\n[[cluster]]\nscope = \"main\"\nclass = \"off\"\n",
    };
    Ok(format!("{own_disk}{haproxy}{text}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_without_a_moment_is_an_error() {
        let record = injected(r#"{"id":"f3","host":"db1","at_monotonic_ns":12345678}"#).unwrap();
        assert_eq!(record, Injected { id: "f3".into(), host: Some("db1".into()), at_us: 12_345 });
        for said in ["", "injected", r#"{"id":"f3"}"#, r#"{"id":"f3","at_monotonic_ns":"soon"}"#] {
            let error = injected(said).unwrap_err().to_string();
            assert!(error.contains("no record of the fault"), "{error}");
        }
    }

    #[test]
    fn an_asynchronous_cluster_has_a_specification_of_its_own() {
        let with = Beside { own_disk: true, haproxy: true };
        let text = specification(System::HoldfastNormal, Mode::Off, with).unwrap();
        let spec: toml::Value = toml::from_str(&text).unwrap();
        assert_eq!((spec["own_disk"].as_bool(), spec["haproxy"].as_bool()), (Some(true), Some(true)));
        assert_eq!(spec["cluster"][0]["class"].as_str(), Some("off"));
        assert_eq!(spec["profile"].as_str(), Some("normal"));
    }
}
