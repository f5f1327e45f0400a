//! `holdfast pki`: a small authority for fleets that have none of their own.
//!
//! It makes what mutual TLS between agents, etcd, Patroni, PostgreSQL and people needs, and nothing else: no revocation
//! and no renewal; certificates are replaced by issuing into a new folder and swapping the files, which running agents
//! take without a restart. Sites with an authority of their own issue the same names from it.

mod authority;
mod certificate;
mod files;
mod made;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use holdfast_proto::tls::{Peer, PeerError, PersonName};
use holdfast_types::{HostName, NameError, RegionName};

use authority::{Authority, CERTIFICATE};
use certificate::{DnsName, Subject};
use files::NewFile;
pub use made::Made;
use made::MadeFile;

use crate::cli::Output;

/// The command.
#[derive(Debug, Args)]
pub struct Pki {
    #[command(subcommand)]
    verb: Verb,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, global = true, value_name = "FORM")]
    pub output: Output,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an authority: ca.crt and ca.key
    Init {
        /// Folder of the authority
        #[arg(long)]
        dir: PathBuf,
        /// Validity in days
        #[arg(long, default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Certificate of a host: host.crt, host.key, ca.crt
    Host(HostArgs),
    /// Certificate of a person who may give orders: operator.crt, operator.key, ca.crt
    Operator(PersonArgs),
    /// Certificate of a person who may only look: viewer.crt, viewer.key, ca.crt
    Viewer(PersonArgs),
    /// Certificate without a common name, for Patroni's connection to an etcd that has users: etcd-client.crt,
    /// etcd-client.key, ca.crt
    EtcdClient(Issue),
    /// Certificate of a PostgreSQL role for logins by certificate: NAME.crt, NAME.key, ca.crt
    User(PersonArgs),
}

#[derive(Debug, Args)]
struct Issue {
    /// Folder of the authority
    #[arg(long)]
    dir: PathBuf,
    /// Folder for the new files
    #[arg(long)]
    out: PathBuf,
    /// Validity in days; never beyond the authority's own
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Debug, Args)]
struct HostArgs {
    #[command(flatten)]
    issue: Issue,
    /// Region of the host
    #[arg(long)]
    region: String,
    /// Name of the host in its region
    #[arg(long)]
    host: String,
    /// Address that others connect to; may be repeated
    #[arg(long = "address", value_name = "IP", required_unless_present = "dns")]
    addresses: Vec<IpAddr>,
    /// DNS name that others connect to; may be repeated
    #[arg(long, value_name = "NAME")]
    dns: Vec<DnsName>,
}

#[derive(Debug, Args)]
struct PersonArgs {
    #[command(flatten)]
    issue: Issue,
    /// Name of the person or role
    #[arg(long)]
    name: String,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name that cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name that would be ambiguous.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// PostgreSQL's limit, and no path may be made of a name.
    #[error(
        "role name {0:?} must have 1 to 63 bytes, no slash or control character, and not begin with a dot"
    )]
    RoleName(String),
    /// Nothing is overwritten.
    #[error("{} is there already and is not overwritten; remove it, or choose another folder", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Mixing two authorities in one folder would break whoever trusts the first.
    #[error("{} is the certificate of another authority; choose another folder", path.display())]
    OtherAuthority {
        /// The file.
        path: PathBuf,
    },
    /// There is no authority yet.
    #[error("{} is missing; make an authority with `holdfast pki init`", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
    },
    /// The authority's certificate is over.
    #[error("the authority {} has ended: it can sign nothing any more; make a new one in another folder", path.display())]
    AuthorityEnded {
        /// The file.
        path: PathBuf,
    },
    /// The authority's files were mixed up.
    #[error("{} is not the key of {}", key.display(), certificate.display())]
    KeyOfAnother {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// A file with other content.
    #[error("{} cannot be understood: {why}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file that cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file that cannot be written.
    #[error("{} cannot be written: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The library refused.
    #[error("the certificate cannot be made: {0}")]
    Generate(rcgen::Error),
}

impl PkiError {
    /// Whether the command line was wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Peer(_) | Self::RoleName(_))
    }
}

/// Runs the command and says what was made.
pub fn run(pki: Pki) -> Result<Made, PkiError> {
    let now = SystemTime::now();
    match pki.verb {
        Verb::Init { dir, days } => {
            authority::create(&dir, days, now)?;
            let files = vec![
                MadeFile::new(&dir.join(CERTIFICATE), "authority"),
                MadeFile::new(&dir.join(authority::KEY), "key"),
            ];
            let text = format!("authority made in {}; keep ca.key away from the hosts", dir.display());
            Ok(Made::new("pki init", None, files, text))
        }
        Verb::Host(args) => {
            let (region, host) = (RegionName::new(args.region)?, HostName::new(args.host)?);
            let peer = Peer::host(region, host)?;
            issue(
                "pki host",
                &args.issue,
                "host",
                &Subject::Host { peer, addresses: args.addresses, dns: args.dns },
                now,
            )
        }
        Verb::Operator(PersonArgs { issue: to, name }) => {
            let peer = Peer::Operator(PersonName::new(name)?);
            issue("pki operator", &to, "operator", &Subject::Person { peer }, now)
        }
        Verb::Viewer(PersonArgs { issue: to, name }) => {
            let peer = Peer::Viewer(PersonName::new(name)?);
            issue("pki viewer", &to, "viewer", &Subject::Person { peer }, now)
        }
        Verb::EtcdClient(to) => issue("pki etcd-client", &to, "etcd-client", &Subject::EtcdClient, now),
        Verb::User(PersonArgs { issue: to, name }) => {
            let name = role_name(name)?;
            issue("pki user", &to, &name.clone(), &Subject::PostgresUser { name }, now)
        }
    }
}

fn issue(
    action: &'static str,
    to: &Issue,
    stem: &str,
    subject: &Subject,
    now: SystemTime,
) -> Result<Made, PkiError> {
    let authority = Authority::load(&to.dir, now)?;
    let pair = authority.sign(subject, to.days, now)?;
    let at = |extension: &str| to.out.join(format!("{stem}.{extension}"));
    let files = [
        NewFile::key(at("key"), pair.key),
        NewFile::certificate(at("crt"), pair.certificate),
        NewFile::authority_copy(to.out.join(CERTIFICATE), authority.certificate().to_owned()),
    ];
    files::write_all(&to.out, &files)?;
    let name = match subject {
        Subject::Host { peer, .. } | Subject::Person { peer, .. } => Some(peer.to_string()),
        Subject::PostgresUser { name } => Some(name.clone()),
        Subject::EtcdClient => None,
    };
    let made = vec![
        MadeFile::new(&at("crt"), "certificate"),
        MadeFile::new(&at("key"), "key"),
        MadeFile::new(&to.out.join(CERTIFICATE), "authority"),
    ];
    let text = format!("{} and {} made", at("crt").display(), at("key").display());
    Ok(Made::new(action, name, made, text))
}

/// A role's name becomes a file's name.
fn role_name(name: String) -> Result<String, PkiError> {
    let fits = (1..=63).contains(&name.len()) && !name.starts_with('.') && name != "ca";
    if fits && !name.chars().any(|c| c == '/' || c.is_control()) {
        Ok(name)
    } else {
        Err(PkiError::RoleName(name))
    }
}
