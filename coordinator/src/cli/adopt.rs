//! `adopt plan`, `adopt check` and `remove plan`: what a person does to bring a cluster in or out. They read and print.

use clap::{Args, Subcommand};
use holdfast_types::Profile;

use super::exit::{Exit, Failure};
use super::print;
use super::target::Target;
use crate::view::adoption::{self, CheckReport};

/// The way in.
#[derive(Debug, Clone, Subcommand)]
pub enum AdoptVerb {
    /// Every step from a cluster of Patroni alone to an armed one, with its exact text; changes nothing
    Plan(AdoptOptions),
    /// What is missing until it may be armed (exit code 3 if something is)
    Check(TargetOptions),
}

/// The way out.
#[derive(Debug, Clone, Subcommand)]
pub enum RemoveVerb {
    /// Every step back to Patroni alone, in the order that never stands in its way; changes nothing
    Plan(TargetOptions),
}

/// Options of `adopt plan`.
#[derive(Debug, Clone, Args)]
pub struct AdoptOptions {
    #[command(flatten)]
    target: Target,
    /// The timings that the agents will have: fast, normal or wide
    #[arg(long, default_value_t, value_name = "NAME")]
    profile: Profile,
}

/// Options of the others.
#[derive(Debug, Clone, Args)]
pub struct TargetOptions {
    #[command(flatten)]
    target: Target,
}

/// Runs the verbs of `adopt`.
pub async fn adopt(verb: &AdoptVerb) -> Result<Exit, Failure> {
    match verb {
        AdoptVerb::Plan(options) => {
            let session = options.target.session().await?;
            let view = session.view().await?;
            let report = adoption::adopt(&view, options.profile, &session.region.config.etcd);
            print::report(options.target.output, &report, || report.text());
            Ok(Exit::Done)
        }
        AdoptVerb::Check(options) => {
            let report = CheckReport::new(&options.target.session().await?.view().await?);
            print::report(options.target.output, &report, || report.text());
            Ok(if report.missing.is_empty() { Exit::Done } else { Exit::Refused })
        }
    }
}

/// Runs the verb of `remove`.
pub async fn remove(RemoveVerb::Plan(options): &RemoveVerb) -> Result<Exit, Failure> {
    let report = adoption::remove(&options.target.session().await?.view().await?);
    print::report(options.target.output, &report, || report.text());
    Ok(Exit::Done)
}
