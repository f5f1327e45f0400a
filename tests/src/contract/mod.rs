//! What the protocol rests on in Patroni, asked of each version of it: of its code ([`asked`]) and of its servers ([`seen`]).
//!
//! [`fact`] is the list. Called by `holdfast-lab contract` and by `tests/tests/untimed/contract.rs`. A version whose facts all hold
//! may stand in `holdfast_types::patroni_versions`.

mod asked;
pub mod fact;
mod seen;
mod stage;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::bench::command::output;
use crate::lab::failure::{Exit, Failure};
use crate::lab::plan::{PATRONI_ROOT, patroni};
use fact::FACTS;

const VERSION_DEADLINE: Duration = Duration::from_secs(30);

/// What is asked of `contract`.
#[derive(Debug, Args)]
pub struct Options {
    /// Versions as tests/setup --patroni has installed them: 4.0, 4.1.5, newest. Without any: the lab's own
    #[arg(long)]
    pub patroni: Vec<String>,
    /// All that are installed
    #[arg(long, conflicts_with = "patroni")]
    pub all: bool,
    /// Only what can be asked without servers
    #[arg(long)]
    pub without_servers: bool,
    /// Name of the lab
    #[arg(long, default_value = "contract")]
    pub name: String,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // The names are the meaning.
pub enum Output {
    Table,
    Json,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The fact's name.
    pub fact: String,
    /// Whether it holds; `None`: it could not be asked.
    pub holds: Option<bool>,
    /// What was seen.
    pub evidence: String,
}

impl Answer {
    fn new(fact: &str, holds: bool, evidence: impl Into<String>) -> Self {
        Self { fact: fact.to_owned(), holds: Some(holds), evidence: evidence.into() }
    }
}

/// All answers of one version.
#[derive(Debug, Clone, Serialize)]
pub struct Version {
    /// As it calls itself.
    pub version: String,
    /// One for each fact that was asked.
    pub answers: Vec<Answer>,
}

impl Version {
    /// The facts that do not hold, or could not be asked.
    pub fn broken(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|answer| answer.holds != Some(true))
    }

    fn answer(&self, fact: &str) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.fact == fact)
    }
}

/// Asks them all and prints what they said. An error if a fact does not hold, or could not be asked.
pub async fn run(options: &Options) -> Result<()> {
    let mut versions = Vec::new();
    for version in chosen(options)? {
        versions.push(of(version.as_deref(), options).await?);
    }
    match options.output {
        Output::Table => print_table(&versions),
        Output::Json => println!("{}", serde_json::to_string_pretty(&versions)?),
    }
    let broken: Vec<String> = versions
        .iter()
        .flat_map(|one| one.broken().map(|answer| format!("{} of {}", answer.fact, one.version)))
        .collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(Failure::with(Exit::Failed, format!("not as the protocol needs it: {}", broken.join(", "))))
}

fn chosen(options: &Options) -> Result<Vec<Option<String>>> {
    if !options.all {
        let named: Vec<_> = options.patroni.iter().cloned().map(Some).collect();
        return Ok(if named.is_empty() { vec![None] } else { named });
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(PATRONI_ROOT).context(PATRONI_ROOT)? {
        let name = entry.context(PATRONI_ROOT)?.file_name().to_string_lossy().into_owned();
        found.extend(name.strip_prefix("patroni-").map(|version| Some(version.to_owned())));
    }
    found.sort();
    found.insert(0, None);
    Ok(found)
}

/// Asks one version.
async fn of(version: Option<&str>, options: &Options) -> Result<Version> {
    let program = patroni(version, "patroni");
    if !program.exists() {
        let how = version.map(|version| format!(" --patroni {version}")).unwrap_or_default();
        bail!("{} is missing; tests/setup{how} installs it", program.display());
    }
    let said = output(&program, &["--version"], VERSION_DEADLINE).await?;
    let own = said.split_whitespace().last().unwrap_or_default().to_owned();
    eprintln!("contract: Patroni {own}");
    let mut answers = asked::ask(version).await?;
    if !options.without_servers {
        answers.extend(seen::play(version, &own, &options.name).await?);
    }
    let mut all = Version { version: own, answers };
    let unasked = FACTS.iter().filter(|fact| !(options.without_servers && fact.needs_servers));
    let missing: Vec<Answer> = unasked
        .filter(|fact| all.answer(fact.name).is_none())
        .map(|fact| Answer { fact: fact.name.into(), holds: None, evidence: "nobody asked".into() })
        .collect();
    all.answers.extend(missing);
    Ok(all)
}

fn print_table(versions: &[Version]) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    let names = versions.iter().map(|one| one.version.clone());
    table.set_header(
        ["fact", "it says"].map(str::to_owned).into_iter().chain(names).chain(["evidence".into()]),
    );
    for fact in FACTS {
        let answers: Vec<_> = versions.iter().map(|one| one.answer(fact.name)).collect();
        let word = |answer: &Option<&Answer>| match answer.map(|answer| answer.holds) {
            Some(Some(true)) => "holds",
            Some(Some(false)) => "does not hold",
            Some(None) => "not testable",
            None => "",
        };
        let words = answers.iter().map(|answer| word(answer).to_owned());
        let evidence = answers.iter().flatten().next_back().map(|answer| answer.evidence.clone());
        let begin = [fact.name, fact.says].map(str::to_owned).into_iter();
        table.add_row(begin.chain(words).chain([evidence.unwrap_or_default()]));
    }
    println!("{table}");
}
