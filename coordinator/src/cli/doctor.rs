//! `doctor`: looks at the configuration, the certificate, etcd, the agents and one cluster.

use clap::Args;

use super::agents;
use super::config::OperatorConfig;
use super::exit::{Exit, Failure};
use super::print;
use super::target::{Region, Target, now_wall_ms};
use crate::view::doctor::{DoctorReport, Verdict};

/// Options of `doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorOptions {
    #[command(flatten)]
    target: Target,
}

/// Runs `doctor`. Exits 1 if something does not work, 4 if no etcd server answers.
pub async fn doctor(options: &DoctorOptions) -> Result<Exit, Failure> {
    let target = &options.target;
    let region = target.region()?;
    let mut report = DoctorReport::new();
    report.ok("configuration", format!("{}, region {}", target.config.display(), region.config.name));
    let key = OperatorConfig::load(&target.config)?.key;
    for (what, path) in [("key", Some(&key)), ("password", region.config.etcd_password_file.as_ref())] {
        path.into_iter().for_each(|path| secret(&mut report, what, path));
    }
    report.certificate(&region.who(), region.identity.ends_unix_s(), now_wall_ms() / 1_000);
    let etcd = region.etcd.health().await;
    report.etcd(&etcd);
    ask_agents(&mut report, &region).await;
    if etcd.answering() > 0 {
        match target.session().await {
            Ok(session) => match session.view().await {
                Ok(view) => report.cluster(&view),
                Err(failure) => report.add(Verdict::Bad, "cluster", failure.text, "check --cluster"),
            },
            Err(failure) => report.add(Verdict::Warn, "cluster", failure.text, "check --cluster"),
        }
    }
    print::report(target.output, &report, || report.text());
    Ok(match (etcd.answering(), report.has_faults()) {
        (0, _) => Exit::Unreachable,
        (_, true) => Exit::Failed,
        (_, false) => Exit::Done,
    })
}

/// Nobody but its owner may read the operator's key, or the password for etcd.
fn secret(report: &mut DoctorReport, what: &str, path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777);
    match mode {
        Ok(mode) if mode & 0o077 != 0 => {
            let found = format!("{} has mode {mode:03o}", path.display());
            report.add(Verdict::Warn, what, found, format!("chmod 600 {}", path.display()));
        }
        Ok(mode) => report.ok(what, format!("{}, mode {mode:03o}", path.display())),
        Err(error) => {
            report.add(Verdict::Bad, what, format!("{}: {error}", path.display()), "check the path");
        }
    }
}

/// Whether the agents that are asked when etcd is down answer, and what they find wrong with their hosts.
async fn ask_agents(report: &mut DoctorReport, region: &Region) {
    let answers = agents::ask_all(region).await;
    if answers.is_empty() {
        let remedy = "list agents in the configuration: status asks them when etcd is down";
        report.add(Verdict::Warn, "agents", "none is configured", remedy);
    }
    for answer in &answers {
        report.agent(answer);
    }
}
