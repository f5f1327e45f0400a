//! Our words for Patroni's plans (`quorum`) against Patroni's own `QuorumStateResolver`.
//!
//! `quorum_resolver.py` runs with the Python of the lab, in which Patroni 4.1 is installed. It is asked for the plan of
//! every view of up to three standbys; a single different plan is a failure.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::node::{A, Node, NodeSet};
use super::quorum::{self, Change, View};
use super::state::Setting;
use crate::bench::command::output;
use crate::lab::plan::patroni;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/model/quorum_resolver.py");
const DEADLINE: Duration = Duration::from_secs(120);

/// One view on its way to Python: members are letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Asked {
    leader: String,
    me: String,
    quorum: u8,
    voters: String,
    count: u8,
    names: String,
    confirmed: u8,
    active: String,
    wanted: u8,
}

/// One step of the hole, as the original planned it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HoleStep {
    /// What happened.
    pub what: String,
    /// `/sync` afterwards: its quorum.
    pub quorum: usize,
    /// `/sync` afterwards: its standbys.
    pub voters: BTreeSet<String>,
    /// Who had flushed the acknowledged write.
    pub flushed: BTreeSet<String>,
}

fn letters(nodes: NodeSet) -> String {
    nodes.iter().map(letter).collect()
}

fn letter(node: Node) -> char {
    char::from(b'a' + node.0)
}

/// Every view of `standbys` members in which a plan may begin: also those that no history leads to.
pub fn views(standbys: usize) -> Vec<View> {
    let all = NodeSet::first(standbys + 1).without(A);
    let mut views = Vec::new();
    for (voters, names, active) in triples(all) {
        for quorum in 0..voters.len().max(1) {
            for count in counts(names) {
                for confirmed in 0..=names.len() {
                    for wanted in [1, 2] {
                        for leader in [A, Node(1)] {
                            let setting = Setting { count, names };
                            views.push(View {
                                leader,
                                me: A,
                                quorum,
                                voters,
                                setting,
                                confirmed,
                                active,
                                wanted,
                            });
                        }
                    }
                }
            }
        }
    }
    // A leader is no standby of its own.
    views.retain(|view| !view.voters.has(view.leader));
    views
}

fn triples(all: NodeSet) -> impl Iterator<Item = (NodeSet, NodeSet, NodeSet)> {
    let pairs = all.subsets().flat_map(move |voters| all.subsets().map(move |names| (voters, names)));
    pairs.flat_map(move |(voters, names)| all.subsets().map(move |active| (voters, names, active)))
}

fn counts(names: NodeSet) -> std::ops::RangeInclusive<u8> {
    if names.is_empty() { 0..=0 } else { 1..=names.len() }
}

/// Compares every plan; the number of views that were compared.
pub async fn compare(standbys: usize) -> anyhow::Result<usize> {
    let views = views(standbys);
    let asked: Vec<Asked> = views
        .iter()
        .map(|view| Asked {
            leader: letter(view.leader).to_string(),
            me: letter(view.me).to_string(),
            quorum: view.quorum,
            voters: letters(view.voters),
            count: view.setting.count,
            names: letters(view.setting.names),
            confirmed: view.confirmed,
            active: letters(view.active),
            wanted: view.wanted,
        })
        .collect();
    let folder = tempfile::tempdir().context("a folder for the plans")?;
    let (questions, answers) = (folder.path().join("views.json"), folder.path().join("plans.json"));
    std::fs::write(&questions, serde_json::to_vec(&asked)?).context("views for Python")?;
    python(&["plans", &questions.to_string_lossy(), &answers.to_string_lossy()]).await?;
    let theirs: Vec<Vec<(String, u8, String)>> = read(&answers)?;
    if theirs.len() != views.len() {
        bail!("{} plans for {} views", theirs.len(), views.len());
    }
    for (view, theirs) in views.iter().zip(&theirs) {
        let ours: Vec<(String, u8, String)> = quorum::plan(view).into_iter().map(spoken).collect();
        if ours != *theirs {
            bail!("Patroni's plan for {view:?} is {theirs:?}, ours is {ours:?}");
        }
    }
    Ok(views.len())
}

/// Patroni's hole, played on its own resolver: `/sync` after each step.
pub async fn hole() -> anyhow::Result<Vec<HoleStep>> {
    Ok(serde_json::from_str(&python(&["hole"]).await?)?)
}

async fn python(arguments: &[&str]) -> anyhow::Result<String> {
    let arguments: Vec<&str> = [SCRIPT].iter().chain(arguments).copied().collect();
    // The lab's own.
    output(patroni(None, "python"), &arguments, DEADLINE)
        .await
        .context("tests/setup installs Patroni into the lab's Python")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_slice(&text)?)
}

fn spoken(change: Change) -> (String, u8, String) {
    match change {
        Change::Sync { quorum, voters } => ("quorum".to_owned(), quorum, letters(voters)),
        Change::Names(Setting { count, names }) => ("sync".to_owned(), count, letters(names)),
        Change::Restart => ("restart".to_owned(), 0, String::new()),
    }
}
