//! A small lab of one version of Patroni, without Holdfast, whose hook and start gate are ours to answer and to look at.
//!
//! Decides nothing: [`super::seen`] says what is done on it, and what must be seen.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bench::etcd::{Etcd, Key};
use crate::bench::lab::Lab;
use crate::checker::describe::Describe;
use crate::lab::plan::{PG_BIN, Plan};
use crate::lab::sql::At;
use crate::lab::{files, spec};

const POLL: Duration = Duration::from_millis(50);
/// The first of the two members: it begins as the leader.
pub const FIRST: &str = "db1";
/// The other.
pub const SECOND: &str = "db2";
/// Patroni's prefix in etcd.
pub const PREFIX: &str = "/service/main/";
/// Patroni's own pace. A wake-up is told from it.
pub const LOOP_WAIT: Duration = Duration::from_secs(8);

/// Says what happens to it, and ends with the code that it is told; by itself after 20 s.
const HOOK: &str = r#"#!/bin/sh
folder=$(dirname "$0")
trap 'echo terminated >>"$folder/said-$1"; exit 1' TERM
echo called >>"$folder/said-$1"
tries=0
while [ $tries -lt 400 ]; do
  if [ -f "$folder/answer-$1" ]; then
    code=$(cat "$folder/answer-$1")
    rm -f "$folder/answer-$1"
    echo "ends with $code" >>"$folder/said-$1"
    exit "$code"
  fi
  tries=$((tries + 1))
  sleep 0.05
done
echo "was told nothing" >>"$folder/said-$1"
exit 1
"#;

/// The lab, and the folder of its hook and its gate.
pub struct Stage {
    lab: Lab,
    plan: Plan,
    etcd: Etcd,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Brings it up.
    pub async fn enter(version: Option<&str>, name: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for hook and gate")?;
        // User postgres writes into it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        program(&folder.path().join("hook"), HOOK)?;
        let gate =
            format!("#!/bin/sh\necho \"$*\" >>\"$(dirname \"$0\")/starts\"\nexec {PG_BIN}/postgres \"$@\"\n");
        program(&folder.path().join("gate"), &gate)?;
        let lab = Lab::of_text(name, &specification(version, folder.path())?).await?;
        let describe: Describe = lab.describe().await?;
        Ok(Self { etcd: Etcd::new(&lab, &describe)?, plan: files::load(name)?, lab, folder })
    }

    /// Takes it down.
    pub async fn leave(&self) -> Result<()> {
        self.lab.down().await
    }

    /// All keys of Patroni, by their names below its prefix.
    pub async fn keys(&self) -> Result<BTreeMap<String, Key>> {
        let keys = self.etcd.below(PREFIX).await?;
        Ok(keys.into_iter().map(|(name, key)| (name[PREFIX.len()..].to_owned(), key)).collect())
    }

    /// A key as JSON.
    pub async fn json(&self, name: &str) -> Result<Value> {
        let keys = self.keys().await?;
        let key = keys.get(name).with_context(|| format!("{PREFIX}{name} is not there"))?;
        serde_json::from_str(&key.value).with_context(|| name.to_owned())
    }

    /// Whose the lock is.
    pub async fn leader(&self) -> Result<Option<String>> {
        Ok(self.keys().await?.get("leader").map(|key| key.value.clone()))
    }

    /// The lease of a key.
    pub async fn lease(&self, name: &str) -> Result<Option<i64>> {
        self.etcd.lease_of(&format!("{PREFIX}{name}")).await
    }

    /// Puts the lock for a member, on the lease of its own key, as CLOSE does; for somebody who is none, on no lease.
    pub async fn give_lock(&self, member: &str) -> Result<()> {
        let lease = self.lease(&format!("members/{member}")).await?;
        self.etcd.put(&format!("{PREFIX}leader"), member, lease).await
    }

    /// Frees the lock.
    pub async fn free_lock(&self) -> Result<()> {
        self.etcd.delete(&format!("{PREFIX}leader")).await
    }

    /// What a member's PostgreSQL says; `None` while it does not answer.
    pub async fn ask(&self, member: &str, sql: &str) -> Option<String> {
        let (_, host) = self.plan.named_host(member).ok()?;
        let instance = self.plan.named_instance(None).ok()?;
        let socket_dir = host.socket_dir();
        let at = At { socket_dir: &socket_dir, port: instance.port, user: "postgres", dbname: "postgres" };
        let rows = at.ask(sql).await.ok()?;
        Some(rows.first()?.get(0).unwrap_or_default().to_owned())
    }

    /// Whether a member's PostgreSQL accepts writes; `None` while it does not answer.
    pub async fn writes(&self, member: &str) -> Option<bool> {
        self.ask(member, "SELECT pg_is_in_recovery()").await.map(|said| said == "f")
    }

    /// What the hook of a member has said so far.
    pub fn hook(&self, member: &str) -> Vec<String> {
        self.lines(&format!("said-{member}"))
    }

    /// How often it was called.
    pub fn calls(&self, member: &str) -> usize {
        self.hook(member).iter().filter(|line| *line == "called").count()
    }

    /// Lets the hook of a member end with that code.
    pub fn answer(&self, member: &str, code: i32) -> Result<()> {
        let (file, draft) =
            (self.folder.path().join(format!("answer-{member}")), self.folder.path().join("draft"));
        fs::write(&draft, code.to_string()).context("the hook's answer")?;
        fs::rename(draft, file).context("the hook's answer")
    }

    /// The arguments of each start of a member's PostgreSQL through the gate; questions such as `--version` are none.
    pub fn starts(&self, member: &str) -> Vec<String> {
        let data = self.plan.named_host(member).map(|(_, host)| host.data_dir("main").display().to_string());
        let data = data.unwrap_or_default();
        let is_start =
            |line: &String| line.contains(&data) && !line.contains(" -C ") && !line.contains("--describe");
        self.lines("starts").into_iter().filter(is_start).collect()
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What a member's Patroni has logged.
    pub fn log(&self, member: &str) -> String {
        let Ok((_, host)) = self.plan.named_host(member) else { return String::new() };
        fs::read_to_string(host.logs().join("patroni-main.log")).unwrap_or_default()
    }

    /// Breaks something.
    pub async fn fault(&self, words: &[&str]) -> Result<()> {
        self.lab.inject(words).await.with_context(|| words.join(" ")).map(drop)
    }

    /// Waits for something; the time that it took, or `None` when it did not come.
    pub async fn until<F>(&self, deadline: Duration, mut holds: impl FnMut() -> F) -> Option<Duration>
    where
        F: Future<Output = bool>,
    {
        let begin = Instant::now();
        while begin.elapsed() < deadline {
            if holds().await {
                return Some(begin.elapsed());
            }
            tokio::time::sleep(POLL).await;
        }
        None
    }
}

fn program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| path.display().to_string())
}

fn specification(version: Option<&str>, folder: &Path) -> Result<String> {
    let host = |name: &str, role| spec::Host {
        name: name.into(),
        role,
        tags: BTreeMap::new(),
        tablespaces: Vec::new(),
        pgbouncer: false,
    };
    let mut hosts = vec![
        host("e1", spec::Role::Etcd),
        host(FIRST, spec::Role::Database),
        host(SECOND, spec::Role::Database),
        host("client", spec::Role::Client),
    ];
    hosts[2].tags.insert("clonefrom".into(), true.into());
    let spec = spec::Spec {
        holdfast: false,
        patroni: spec::Patroni {
            ttl: 20,
            loop_wait: u32::try_from(LOOP_WAIT.as_secs())?,
            retry_timeout: 4,
            failsafe_mode: true,
            version: version.map(str::to_owned),
            hook: Some(folder.join("hook")),
            gate: Some(folder.join("gate")),
        },
        region: vec![spec::Region { name: "r1".into(), host: hosts }],
        ..spec::Spec::default()
    };
    toml::to_string(&spec).context("a specification as text")
}
