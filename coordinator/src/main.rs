//! `holdfast`: the operator's command line.

mod cli;
mod daemon;
mod pki;
mod view;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Holdfast owns the node: fencing, gates and failover beside Patroni.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, about, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Cluster(cli::Verb),
    /// What the users of etcd need, printed and never done
    #[command(subcommand)]
    Permissions(cli::etcd_users::Permissions),
    /// What PostgreSQL's directories lie on, on the host where it is run
    #[command(subcommand)]
    Disk(cli::disk::DiskVerb),
    /// Whether a part of this host does its work, for whoever moves addresses and traffic
    #[command(subcommand)]
    Check(cli::check::Check),
    /// Carry operations out, as a service on one to three hosts of a region
    Coordinator(daemon::CoordinatorOptions),
    /// Make certificates for hosts, people and PostgreSQL roles
    Pki(pki::Pki),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Cluster(verb) => cli::run(&verb),
        Command::Permissions(permissions) => cli::etcd_users::run(permissions),
        Command::Disk(verb) => cli::run_to_end(cli::disk::run(&verb)),
        Command::Check(check) => cli::run_to_end(cli::check::run(&check)),
        Command::Coordinator(options) => cli::run_to_end(daemon::run(&options)),
        Command::Pki(pki) => make(pki),
    }
}

/// `pki` needs no region: it works before there is one.
fn make(pki: pki::Pki) -> ExitCode {
    let output = pki.output;
    match pki::run(pki) {
        Ok(made) => {
            cli::print::report(output, &made, || made.table());
            cli::print::prose(&made.text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            cli::print::prose(&format!("holdfast: {error}"));
            let exit = match error {
                _ if error.is_usage() => cli::Exit::Usage,
                pki::PkiError::Exists { .. } | pki::PkiError::OtherAuthority { .. } => cli::Exit::Refused,
                _ => cli::Exit::Failed,
            };
            exit.into()
        }
    }
}
