//! The operator's verbs. This side reads files and clocks, connects, asks and prints; what is true of a cluster and
//! what stands in the way of an order is decided by [`crate::view`].

mod adopt;
pub mod agents;
mod arm;
pub mod check;
mod config;
pub mod disk;
mod doctor;
mod drain;
pub mod etcd_users;
mod exit;
mod failover;
mod fence;
mod hold;
mod local_disarm;
mod maintenance;
mod operation;
mod order;
#[cfg(test)]
mod permissions;
pub mod print;
mod report;
mod restart;
mod rolling;
mod show;
mod switchover;
mod target;
mod upgrade;
mod watch;
mod yaml;

use std::process::ExitCode;

use clap::Subcommand;

pub use self::exit::{Exit, Failure};
pub use self::target::{Output, now_wall_ms};

/// The verbs on a cluster.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// What is wrong, who writes, who would follow
    Status(show::StatusOptions),
    /// The members, as patronictl lists them
    List(show::StatusOptions),
    /// Patroni's timelines and our terms
    History(show::HistoryOptions),
    /// The last incidents: trace id, write gap, what each step took
    Events(show::EventsOptions),
    /// What an observing Holdfast would have done, the outage that Patroni had instead, and how late renewals were
    Report(report::ReportOptions),
    /// Every change as it happens
    Watch(watch::WatchOptions),
    /// Let Holdfast act on a cluster
    Arm(arm::ArmOptions),
    /// Take Holdfast out of the way: Patroni alone decides
    Disarm(arm::DisarmOptions),
    /// Make another member the writer, and let no client notice
    Switchover(switchover::SwitchoverOptions),
    /// Make a node ready to be stopped: a writer hands over, and it is no candidate until it is taken back
    Drain(drain::DrainOptions),
    /// Take a drained node back
    Undrain(drain::UndrainOptions),
    /// Have PostgreSQL restarted, one member after the other, the writer's last by a switchover
    Restart(restart::RestartOptions),
    /// Run a command for one node after the other
    #[command(subcommand)]
    Rolling(rolling::RollingVerb),
    /// Planned work: what runs, what ran, how it ended
    #[command(subcommand)]
    Operation(operation::OperationVerb),
    /// Make a member the writer although acknowledged writes may be lost by it
    Failover(failover::FailoverOptions),
    /// Keep a node out until it has been validated
    Fence(fence::FenceOptions),
    /// Validate a fenced node and let it in again
    Unfence(fence::UnfenceOptions),
    /// A second failover that waits for a person
    #[command(subcommand)]
    Hold(hold::HoldVerb),
    /// Suspend automatic action while a person works on a cluster
    #[command(subcommand)]
    Maintenance(maintenance::MaintenanceVerb),
    /// Which builds run, and which format of records they may write
    #[command(subcommand)]
    Upgrade(upgrade::UpgradeVerb),
    /// Faults of the installation, each with its remedy
    Doctor(doctor::DoctorOptions),
    /// Bring a running cluster of Patroni in
    #[command(subcommand)]
    Adopt(adopt::AdoptVerb),
    /// Take Holdfast out again
    #[command(subcommand)]
    Remove(adopt::RemoveVerb),
}

/// Runs a verb to its end and says how the process exits.
pub fn run(verb: &Verb) -> ExitCode {
    run_to_end(dispatch(verb))
}

/// Runs one piece of work to its end and says how the process exits.
pub fn run_to_end(work: impl Future<Output = Result<Exit, Failure>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(Failure::new(Exit::Failed, format!("no runtime: {error}"))),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            print::prose(&format!("holdfast: {failure}"));
            failure.exit.into()
        }
    }
}

async fn dispatch(verb: &Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Status(options) => show::status(options).await,
        Verb::List(options) => show::list(options).await,
        Verb::History(options) => show::history(options).await,
        Verb::Events(options) => show::events(options).await,
        Verb::Report(options) => report::report(options).await,
        Verb::Watch(options) => watch::watch(options).await,
        Verb::Arm(options) => arm::arm(options).await,
        Verb::Disarm(options) => arm::disarm(options).await,
        Verb::Switchover(options) => switchover::switchover(options).await,
        Verb::Drain(options) => drain::drain(options).await,
        Verb::Undrain(options) => drain::undrain(options).await,
        Verb::Restart(options) => restart::restart(options).await,
        Verb::Rolling(verb) => Box::pin(rolling::run(verb)).await,
        Verb::Operation(verb) => operation::run(verb).await,
        Verb::Failover(options) => failover::failover(options).await,
        Verb::Fence(options) => fence::fence(options).await,
        Verb::Unfence(options) => fence::unfence(options).await,
        Verb::Doctor(options) => doctor::doctor(options).await,
        Verb::Upgrade(verb) => upgrade::run(verb).await,
        Verb::Maintenance(verb) => maintenance::run(verb).await,
        Verb::Hold(hold::HoldVerb::End(options)) => hold::end(options).await,
        Verb::Adopt(verb) => adopt::adopt(verb).await,
        Verb::Remove(verb) => adopt::remove(verb).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(command: &clap::Command, words: &[String], found: &mut Vec<String>) {
        let words = [words, &[command.get_name().to_owned()]].concat();
        if command.get_subcommands().next().is_none() {
            found.push(words[1..].join(" "));
        }
        for inner in command.get_subcommands() {
            leaves(inner, &words, found);
        }
    }

    #[test]
    fn every_verb_has_one_line_among_the_permissions() {
        let (mut verbs, mut lines) = (Vec::new(), Vec::new());
        leaves(&Verb::augment_subcommands(clap::Command::new("holdfast")), &[], &mut verbs);
        lines.extend(permissions::TABLE.iter().map(|(words, _, _)| words.join(" ")));
        verbs.sort_unstable();
        lines.sort_unstable();
        assert_eq!(lines, verbs, "who may give the new verb? Say so in permissions.rs");
    }
}
