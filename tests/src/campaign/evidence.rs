//! What is kept of a step that went wrong: every log, every fault, the recording, and what the operator's command and etcd
//! say. Kept before anything is taken down.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::bench::command::output;
use crate::bench::etcd::Etcd;
use crate::bench::lab::Lab;
use crate::lab::plan;

const COPY: Duration = Duration::from_secs(60);

/// Copies it into a new folder below `into`, and says where. What cannot be had is left out and named.
pub async fn keep(lab: &Lab, recording: &Path, into: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let folder = into.join(name);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let said = |what: &str, result: anyhow::Result<String>| match result {
        Ok(text) => write(&folder.join(what), &text),
        Err(error) => write(&folder.join(what), &format!("{error:#}\n")),
    };
    said("describe.json", lab.describe_text().await);
    for words in [["status", "-o", "json"].as_slice(), &["status"], &["events"], &["history"], &["doctor"]] {
        said(&format!("holdfast-{}.txt", words.join("_")), lab.operator(words).await);
    }
    said("etcd.txt", keys(lab).await);
    let run = plan::dir(&lab.name);
    let (hosts, faults) = (run.join("hosts"), run.join("faults"));
    copy(&faults, &folder.join("faults")).await;
    copy(recording, &folder.join("recording")).await;
    for host in std::fs::read_dir(&hosts).into_iter().flatten().flatten() {
        copy(&host.path().join("logs"), &folder.join(host.file_name())).await;
    }
    Ok(folder)
}

async fn keys(lab: &Lab) -> anyhow::Result<String> {
    let describe = lab.describe().await?;
    let keys = Etcd::new(lab, &describe)?.below("/").await?;
    let line = |(name, key): (&String, &crate::bench::etcd::Key)| {
        format!("{name} (created {}, changed {}): {}\n", key.create_revision, key.mod_revision, key.value)
    };
    Ok(keys.iter().map(line).collect())
}

async fn copy(from: &Path, to: &Path) {
    let words = ["--archive".to_owned(), from.display().to_string(), to.display().to_string()];
    if let Err(error) = output("cp", &words, COPY).await {
        eprintln!("campaign: {error:#}");
    }
}

fn write(path: &Path, text: &str) {
    if let Err(error) = std::fs::write(path, text) {
        eprintln!("campaign: {}: {error}", path.display());
    }
}
