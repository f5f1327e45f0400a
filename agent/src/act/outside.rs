//! Rule 11: asks the fence device of a silent writer's host, in a task of its own that nothing waits for.
//!
//! The record says that it is being asked before it is, and holds each answer afterwards. Whether the host may still be
//! switched off is looked at before each attempt, and what the answers prove is judged by `holdfast-agent-core`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::outside::{Target, judge, still_wanted};
use holdfast_host::clock;
use holdfast_host::run::{self, Command, RunError};
use holdfast_store::{Compare, Txn, TxnOutcome, Write};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{
    DEVICE_TEXT_BYTES_MAX, DeviceAnswer, DeviceTry, OutsideRecord, OutsideState, Stored,
};
use holdfast_types::{Incarnation, MemberName};

use super::trace;
use crate::config::Device;
use crate::disk;
use crate::member::Member;
use crate::telemetry::Telemetry;
use crate::world::World;

/// Between two attempts: a management controller that was busy is given a moment.
const PAUSE: Duration = Duration::from_secs(1);
/// How often, and how far apart, what came of it is put when etcd does not take it.
const PUTS_MAX: u32 = 30;
const PUT_AGAIN: Duration = Duration::from_secs(1);
/// A password is one line; a larger file is another one.
const SECRET_BYTES_MAX: u64 = 4_096;

/// Begins to ask, unless this member is asking already.
pub fn ask(member: &Member, target: &Target) {
    let device = member.config.outside.iter().find(|device| device.host == target.host);
    let (Some(device), Some(own)) = (device.cloned(), member.own()) else { return };
    let busy = Arc::clone(&member.asking_outside);
    if busy.swap(true, Ordering::AcqRel) {
        return;
    }
    let asker = Asker {
        world: Arc::clone(&member.world),
        keys: member.keys.clone(),
        cluster: member.instance.cluster.to_string(),
        me: member.instance.member.clone(),
        telemetry: member.telemetry.clone(),
        incarnation: own.incarnation,
        target: target.clone(),
        device,
    };
    tokio::spawn(async move {
        if let Err(error) = asker.run().await {
            let (cluster, host) = (&asker.cluster, &asker.target.host);
            tracing::warn!(cluster, %host, "the fence device is not asked: {error:#}");
        }
        busy.store(false, Ordering::Release);
    });
}

struct Asker {
    world: Arc<World>,
    keys: ClusterKeys,
    cluster: String,
    me: MemberName,
    telemetry: Telemetry,
    incarnation: Incarnation,
    target: Target,
    device: Device,
}

impl Asker {
    async fn run(&self) -> Result<()> {
        let (start, begun_ms) = (SystemTime::now(), clock::boottime_ms());
        let mut record = OutsideRecord {
            term: self.target.term,
            writer: self.target.writer.clone(),
            host: self.target.host.clone(),
            session: self.target.session,
            incarnation: self.incarnation,
            device: self.device.name.clone(),
            state: OutsideState::Asking,
            tries: Vec::new(),
            began_wall_ms: clock::wall_ms(),
            took_ms: None,
        };
        let (cluster, revision) = self.begin(&record).await?;
        tracing::warn!(cluster = self.cluster, host = %self.target.host, device = self.device.name, "asks the fence device to switch a silent writer's host off");
        for attempt in 0..=self.device.retries {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
                if let Err(error) = self.may(&self.world.watched(&self.keys).0) {
                    tracing::info!(cluster = self.cluster, "the fence device is not asked again: {error}");
                    break;
                }
            }
            record.tries.push(self.attempt().await);
            record.state = judge(&record.tries);
            if record.state == OutsideState::Off {
                break;
            }
        }
        record.took_ms = Some(clock::boottime_ms().saturating_sub(begun_ms));
        let came = [("holdfast.host", self.target.host.to_string()), ("holdfast.device", record.to_string())];
        trace::step(&self.telemetry, trace::of_incident(&cluster), "outside", start, &came);
        tracing::warn!(cluster = self.cluster, term = record.term.0, took_ms = record.took_ms, "{record}");
        self.put(&record, revision).await
    }

    /// Whether automatic action may switch the host off at this moment.
    fn may(&self, cluster: &Cluster) -> Result<()> {
        if !cluster.is_armed() {
            bail!("the cluster is not armed");
        }
        if cluster.suspended(clock::wall_ms()) != Some(false) {
            bail!("{}", cluster.why_suspended(clock::wall_ms()).unwrap_or_default());
        }
        if !still_wanted(cluster, &self.target) {
            bail!("the agent of {} is back, or the incident is over", self.target.host);
        }
        Ok(())
    }

    /// Says in etcd that the device is being asked, compared with everything that allows it.
    async fn begin(&self, record: &OutsideRecord) -> Result<(Cluster, i64)> {
        let cluster = self.world.read(&self.keys).await?;
        self.may(&cluster)?;
        let revision = |key: String, is: i64| Compare::ModRevision { key, is };
        let own = cluster.outside.get(&self.me).map_or(0, |found| found.mod_revision);
        let compares = vec![
            revision(self.keys.mode(), cluster.mode.as_ref().map_or(0, |mode| mode.mod_revision)),
            revision(self.keys.patroni_config(), cluster.config.map_or(0, |config| config.mod_revision)),
            revision(
                self.keys.maintenance(),
                cluster.maintenance.as_ref().map_or(0, |found| found.mod_revision),
            ),
            revision(self.keys.outside(&self.me), own),
        ];
        let unknown = cluster.unknown.get(&self.keys.outside(&self.me));
        let value = Stored::keeping(record.clone(), unknown).encode();
        let writes = vec![Write::put(self.keys.outside(&self.me), value)];
        match self.world.store.txn(Txn { compares, writes, otherwise_read: Vec::new() }).await? {
            TxnOutcome::Succeeded { revision } => Ok((cluster, revision)),
            TxnOutcome::Refused { .. } => bail!("etcd has changed since it was read"),
        }
    }

    /// What came of it is told whatever the mode is by now: it has happened.
    async fn put(&self, record: &OutsideRecord, revision: i64) -> Result<()> {
        let key = self.keys.outside(&self.me);
        let txn = Txn {
            compares: vec![Compare::ModRevision { key: key.clone(), is: revision }],
            writes: vec![Write::put(key, Stored::new(record.clone()).encode())],
            otherwise_read: Vec::new(),
        };
        for _ in 1..PUTS_MAX {
            if self.world.store.txn(txn.clone()).await.is_ok() {
                // Refused: an earlier one of these was done and its answer lost. Nobody else writes this key.
                return Ok(());
            }
            tokio::time::sleep(PUT_AGAIN).await;
        }
        self.world.store.txn(txn).await.map(drop).context("what the fence device said is not recorded")
    }

    /// The order, and the question whether it was followed.
    async fn attempt(&self) -> DeviceTry {
        let begun_ms = clock::boottime_ms();
        let off = self.call("off").await;
        let status = match off {
            DeviceAnswer::Exit { code: 0, .. } => Some(self.call("status").await),
            _ => None,
        };
        DeviceTry { off, status, took_ms: clock::boottime_ms().saturating_sub(begun_ms) }
    }

    async fn call(&self, action: &str) -> DeviceAnswer {
        let secrets = match self.secrets().await {
            Ok(secrets) => secrets,
            Err(error) => return DeviceAnswer::NotRun { why: format!("{error:#}") },
        };
        let command = Command::new(self.device.program.as_os_str())
            .stdin(self.input(action, &secrets).into_bytes())
            .deadline_ms(self.device.timeout_ms);
        match run::run(command).await {
            Ok(run::Output { code: Some(code), stderr, .. }) => {
                DeviceAnswer::Exit { code, text: last_line(&stderr, &secrets) }
            }
            Ok(run::Output { code: None, .. }) => {
                DeviceAnswer::NotRun { why: "it was ended by a signal".into() }
            }
            Err(RunError::Deadline { .. } | RunError::Stuck { .. }) => DeviceAnswer::Hung,
            Err(error) => DeviceAnswer::NotRun { why: error.to_string() },
        }
    }

    /// The documented input: one `name=value` a line, the node always named, the last one of a name counts.
    fn input(&self, action: &str, secrets: &[(String, String)]) -> String {
        let options = self.device.options.iter().chain(secrets.iter().map(|(name, value)| (name, value)));
        let mut text = format!("nodename={}\n", self.target.host);
        for (name, value) in options {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{name}={value}");
        }
        let _ = writeln!(text, "action={action}");
        text
    }

    async fn secrets(&self) -> Result<Vec<(String, String)>> {
        let files = self.device.secrets.clone();
        let read = move || {
            let one = |(name, file): (String, std::path::PathBuf)| {
                let text = holdfast_proto::read_text(&file, SECRET_BYTES_MAX)
                    .with_context(|| file.display().to_string())?;
                match text.trim_end_matches(['\n', '\r']) {
                    value if value.contains(['\n', '\r']) => bail!("{} is not of one line", file.display()),
                    value => Ok((name, value.to_owned())),
                }
            };
            files.into_iter().map(one).collect()
        };
        disk::look(read).await?
    }
}

/// What a device complained about last, short, and without what it must not repeat.
fn last_line(stderr: &str, secrets: &[(String, String)]) -> String {
    let mut line = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
    for (_, secret) in secrets.iter().filter(|(_, secret)| !secret.is_empty()) {
        line = line.replace(secret, "***");
    }
    let end = (0..=line.len().min(DEVICE_TEXT_BYTES_MAX)).rev().find(|end| line.is_char_boundary(*end));
    line.truncate(end.unwrap_or(0));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_device_is_short_and_holds_no_secret() {
        let secrets = [("password".to_owned(), "hunter2".to_owned())];
        assert_eq!(last_line("connecting\nlogin as x:hunter2 failed\n\n", &secrets), "login as x:*** failed");
        assert_eq!(last_line(&"ä".repeat(300), &[]).len(), DEVICE_TEXT_BYTES_MAX);
        assert_eq!(last_line("", &secrets), "");
    }
}
