//! `permissions etcd`: prints what the users of etcd need. It connects to nothing: it works before there is anything.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use holdfast_proto::tls::PersonName;
use holdfast_types::{ClusterId, HostName, MemberName, Namespace, RegionName, Scope};

use super::exit::{Exit, Failure};
use super::print;
use crate::view::etcd_users::{self, Login, Site};

/// What the users of another program need.
#[derive(Debug, Clone, Subcommand)]
pub enum Permissions {
    /// Users, roles and permissions of etcd for one cluster, as a table, JSON or commands of etcdctl
    Etcd(EtcdOptions),
}

/// How it is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    #[default]
    Table,
    /// For programs; carries `format`
    Json,
    /// Commands of etcdctl, to be read and run by a person
    Sh,
}

/// Options of `permissions etcd`.
#[derive(Debug, Clone, Args)]
pub struct EtcdOptions {
    /// The region
    #[arg(long, env = "HOLDFAST_REGION", value_name = "NAME")]
    region: String,
    /// Patroni's namespace
    #[arg(long, default_value = "service", value_name = "NAME")]
    namespace: String,
    /// Patroni's scope
    #[arg(long, value_name = "NAME")]
    scope: String,
    /// A host with a member of the cluster, and Patroni's name of that if it is another; may be repeated
    #[arg(long = "database", value_name = "HOST[/MEMBER]", required = true)]
    databases: Vec<String>,
    /// A host with a pooler, and its name there (`name` in agent.toml); may be repeated
    #[arg(long = "pooler", value_name = "HOST/POOLER")]
    poolers: Vec<String>,
    /// A host for backups, or of applications, with an agent; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    others: Vec<String>,
    /// A host with a coordinator; may be repeated
    #[arg(long = "coordinator", value_name = "HOST")]
    coordinators: Vec<String>,
    /// A person who may give orders; may be repeated
    #[arg(long = "operator", value_name = "NAME")]
    operators: Vec<String>,
    /// A person who may only look; may be repeated
    #[arg(long = "viewer", value_name = "NAME")]
    viewers: Vec<String>,
    /// How hosts and people log in; Patroni has a password in any case
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    login: Login,
    /// With -o sh: passwords come from files in this folder, one for each user by its name, and are not asked for
    #[arg(long, value_name = "FOLDER")]
    passwords: Option<String>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    output: Form,
}

/// Runs it.
pub fn run(Permissions::Etcd(options): Permissions) -> ExitCode {
    let exit = match etcd(&options) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            print::prose(&format!("holdfast: {failure}"));
            failure.exit
        }
    };
    exit.into()
}

fn etcd(options: &EtcdOptions) -> Result<(), Failure> {
    let users = etcd_users::of(&site(options)?, options.login).map_err(usage)?;
    match options.output {
        Form::Table => print::data(&users.table()),
        Form::Json => print::json(&users),
        Form::Sh => print::data(&users.script(options.passwords.as_deref())),
    }
    Ok(())
}

fn usage(error: impl ToString) -> Failure {
    Failure::usage(error.to_string())
}

fn site(options: &EtcdOptions) -> Result<Site, Failure> {
    let cluster = ClusterId {
        region: RegionName::new(options.region.as_str()).map_err(usage)?,
        namespace: Namespace::new(options.namespace.trim_matches('/')).map_err(usage)?,
        scope: Scope::new(options.scope.as_str()).map_err(usage)?,
    };
    let host = |name: &str| HostName::new(name).map_err(usage);
    let people = |names: &[String]| {
        names.iter().map(|name| PersonName::new(name.as_str()).map_err(usage)).collect::<Result<Vec<_>, _>>()
    };
    let database = |text: &String| {
        let (name, member) = text.split_once('/').unwrap_or((text, text));
        Ok((host(name)?, MemberName::new(member).map_err(usage)?))
    };
    let pooler = |text: &String| match text.split_once('/') {
        Some((name, pooler)) if !pooler.is_empty() => Ok((host(name)?, pooler.to_owned())),
        _ => Err(Failure::usage(format!("--pooler {text}: say the pooler's name too, as HOST/POOLER"))),
    };
    Ok(Site {
        cluster,
        databases: options.databases.iter().map(database).collect::<Result<_, Failure>>()?,
        poolers: options.poolers.iter().map(pooler).collect::<Result<_, Failure>>()?,
        others: options.others.iter().map(|name| host(name)).collect::<Result<_, _>>()?,
        coordinators: options.coordinators.iter().map(|name| host(name)).collect::<Result<_, _>>()?,
        operators: people(&options.operators)?,
        viewers: people(&options.viewers)?,
    })
}
