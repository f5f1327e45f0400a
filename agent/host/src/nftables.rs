//! Our tables in the kernel's packet filter: towards whom replication is open, and which lost writer a pooler refuses.
//!
//! A table is always written whole, in one transaction of `nft`, so that no moment lies between two of its rules and a
//! crash leaves the old one or the new one. It names PostgreSQL's port (and, for a cut, the port of Patroni's REST API)
//! and never another: gRPC and etcd stay open. Tables of others are not touched.
//!
//! *Rejects with a reset*, because whoever asks must learn at once: a host that does not answer costs a candidate its
//! timeout of 2 s. The reset is delivered through `lo`; an input rule that dropped it there cost 3-10 s
//! (`facts/baseline.md` section 5).

pub(crate) mod dead_man;
pub(crate) mod generation;
pub(crate) mod listing;
pub(crate) mod netlink;
mod ours;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::run::{self, Command, RunError};

/// Changing a table takes 10-20 ms; a kernel that needs this long is reported.
const DEADLINE_MS: u64 = 2_000;

/// Why the filter is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// Not an address.
    #[error("{0:?} is not an IP address; names cannot be filtered: set addresses in the configuration")]
    Address(String),
    /// `nft` did not end.
    #[error(transparent)]
    Run(#[from] RunError),
    /// `nft` refused.
    #[error(
        "nft refused table {table}: {stderr}; is nftables installed and does the process have CAP_NET_ADMIN?"
    )]
    Refused {
        /// The table.
        table: String,
        /// What it said.
        stderr: String,
    },
    /// `nft` listed something else than a table.
    #[error("nft lists table {table} in a form that is not understood: {why}")]
    Listing {
        /// The table.
        table: String,
        /// What is missing.
        why: String,
    },
}

/// What a table in the kernel lets through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Replication is open towards this address and port.
    pub source: Option<(String, u16)>,
    /// Everything between us and these addresses is closed.
    pub cut: BTreeSet<String>,
}

/// A writer that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Its address.
    pub address: String,
    /// The port of its PostgreSQL, which need not be ours.
    pub port: u16,
    /// The port of its Patroni's REST API, if that is refused too.
    pub rest_port: Option<u16>,
}

/// The count of changes to the packet filter of this network namespace, by whomever: a state that was read at a count is
/// the state for as long as the count is the same. Costs three system calls, where a listing costs a process.
pub use generation::{Generation, read as generation};

/// The one way through to a writer's PostgreSQL, which closes by itself.
pub use dead_man::{DeadMan, DeadManError, Door};

/// All of our tables on a host.
pub use ours::{ours, remove_ours};

/// The table of one PostgreSQL instance.
#[derive(Debug, Clone)]
pub struct Table {
    name: String,
    port: u16,
}

impl Table {
    /// The table of the instance with this namespace, scope and port.
    pub fn new(namespace: &str, scope: &str, port: u16) -> Self {
        Self { name: format!("holdfast_{}_{}", folded(namespace), folded(scope)), port }
    }

    /// Replication is open towards `source` and nobody else, and nobody is cut off.
    pub async fn follow(&self, source: Option<(&str, u16)>) -> Result<(), NftError> {
        self.load(source, &[]).await
    }

    /// Replication is closed, and everything between us and these writers for PostgreSQL's ports, theirs and ours,
    /// established or not; their Patroni is refused too where that is wanted.
    pub async fn cut(&self, lost: &[Lost]) -> Result<(), NftError> {
        self.load(None, lost).await
    }

    /// Removes the table: nothing of ours is in the way any more.
    pub async fn remove(&self) -> Result<(), NftError> {
        load(&self.name, "").await
    }

    /// What the kernel has in force now: an agent that starts finds there what its last start left, and whoever flushes
    /// the whole packet filter takes our tables with it. `None`: no table, or none that we would write.
    pub async fn state(&self) -> Result<Option<State>, NftError> {
        let arguments = ["-j", "list", "table", "inet", &self.name];
        let output = run::run(Command::new("nft").args(arguments).deadline_ms(DEADLINE_MS)).await?;
        let table = || self.name.clone();
        if output.success() {
            listing::parse(&output.stdout).map_err(|why| NftError::Listing { table: table(), why })
        } else if output.stderr.contains("No such file or directory") {
            Ok(None)
        } else {
            Err(NftError::Refused { table: table(), stderr: output.stderr.trim().to_owned() })
        }
    }

    async fn load(&self, source: Option<(&str, u16)>, lost: &[Lost]) -> Result<(), NftError> {
        load(&self.name, &self.chains(source, lost)?).await
    }

    fn chains(&self, source: Option<(&str, u16)>, lost: &[Lost]) -> Result<String, NftError> {
        let ours = self.port;
        let (mut output, mut input) = (String::new(), String::new());
        for writer in lost {
            let (family, address) = family(&writer.address)?;
            let theirs = writer.port;
            for refused in [Some(theirs), writer.rest_port].into_iter().flatten() {
                rule(
                    &mut output,
                    &format!("{family} daddr {address} tcp dport {refused} reject with tcp reset"),
                );
            }
            rule(&mut output, &format!("{family} daddr {address} tcp sport {ours} drop"));
            rule(&mut input, &format!("{family} saddr {address} tcp sport {theirs} drop"));
            rule(&mut input, &format!("{family} saddr {address} tcp dport {ours} drop"));
        }
        if let Some((source, port)) = source {
            let (family, address) = family(source)?;
            rule(&mut output, &format!("{family} daddr {address} tcp dport {port} accept"));
        }
        // Our own port stands for everybody else: a member with another port is closed when it is the writer that is left,
        // and another cluster on these hosts keeps its port.
        rule(&mut output, &format!("tcp dport {ours} reject with tcp reset"));
        Ok(chains(&output, &input))
    }
}

/// The table of one pooler: the lost writers that it refuses.
#[derive(Debug, Clone)]
pub struct Refuse {
    name: String,
}

impl Refuse {
    /// The table of the pooler with this name.
    pub fn new(pooler: &str) -> Self {
        Self { name: format!("holdfast_pooler_{}", folded(pooler)) }
    }

    /// Refuses connections to these addresses and ports, established or not, and no others.
    pub async fn only(&self, lost: &[(String, u16)]) -> Result<(), NftError> {
        if lost.is_empty() {
            return load(&self.name, "").await;
        }
        let (mut output, mut input) = (String::new(), String::new());
        for (address, port) in lost {
            let (family, address) = family(address)?;
            rule(&mut output, &format!("{family} daddr {address} tcp dport {port} reject with tcp reset"));
            rule(&mut input, &format!("{family} saddr {address} tcp sport {port} drop"));
        }
        load(&self.name, &chains(&output, &input)).await
    }
}

fn rule(chain: &mut String, text: &str) {
    writeln!(chain, "    {text}").expect("writing to a String does not fail");
}

fn chains(output: &str, input: &str) -> String {
    // Loopback first: sessions over it are the guard's business, and our own resets come back through it. A reset carries
    // no data: one that may not leave would keep the other side's walsender waiting for minutes, and with it the
    // shutdown of a demoted writer (seen in the lab).
    format!(
        "  chain output {{\n    type filter hook output priority -10; policy accept;\n    oifname \"lo\" accept\n    \
         tcp flags & rst == rst accept\n{output}  }}\n  \
         chain input {{\n    type filter hook input priority -10; policy accept;\n    iifname \"lo\" accept\n{input}  }}\n"
    )
}

/// Replaces the table by one with this content; without content it is removed.
async fn load(name: &str, content: &str) -> Result<(), NftError> {
    // `table` before `delete`: deleting what is not there would fail the transaction.
    let mut script = format!("table inet {name}\ndelete table inet {name}\n");
    if !content.is_empty() {
        script += &format!("table inet {name} {{\n{content}}}\n");
    }
    let output =
        run::run(Command::new("nft").args(["-f", "-"]).stdin(script).deadline_ms(DEADLINE_MS)).await?;
    if output.success() {
        Ok(())
    } else {
        Err(NftError::Refused { table: name.to_owned(), stderr: output.stderr.trim().to_owned() })
    }
}

fn family(address: &str) -> Result<(&'static str, IpAddr), NftError> {
    match address.parse() {
        Ok(address @ IpAddr::V4(_)) => Ok(("ip", address)),
        Ok(address @ IpAddr::V6(_)) => Ok(("ip6", address)),
        Err(_) => Err(NftError::Address(address.to_owned())),
    }
}

/// Names of tables hold letters, digits and underscores; everything else becomes its code, so that two names that
/// differ stay different.
fn folded(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("_{:x}", u32::from(c)) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_names_the_lost_writer_and_only_its_ports() {
        let lost = Lost { address: "10.0.0.1".into(), port: 5432, rest_port: Some(8008) };
        let text = Table::new("service", "main", 5432).chains(None, std::slice::from_ref(&lost)).unwrap();
        assert!(text.contains("ip daddr 10.0.0.1 tcp dport 5432 reject with tcp reset"), "{text}");
        assert!(text.contains("ip daddr 10.0.0.1 tcp dport 8008 reject with tcp reset"), "{text}");
        let patroni_lives = Lost { rest_port: None, ..lost };
        let without = Table::new("service", "main", 5432).chains(None, &[patroni_lives]).unwrap();
        assert!(!without.contains("8008"), "{without}");
        assert!(text.find("iifname \"lo\" accept").unwrap() < text.find("saddr").unwrap(), "{text}");
        assert!(!text.contains("accept\n    tcp dport"), "{text}");
    }

    #[test]
    fn only_the_source_is_let_through() {
        let text = Table::new("service", "main", 5432).chains(Some(("fd00::1", 5432)), &[]).unwrap();
        let accept = text.find("ip6 daddr fd00::1 tcp dport 5432 accept").unwrap();
        assert!(accept < text.find("tcp dport 5432 reject").unwrap(), "{text}");
    }

    #[test]
    fn members_may_listen_on_different_ports() {
        let lost = Lost { address: "10.0.0.1".into(), port: 5433, rest_port: Some(8008) };
        let text = Table::new("service", "main", 5432).chains(None, &[lost]).unwrap();
        for expected in [
            "ip daddr 10.0.0.1 tcp dport 5433 reject",
            "ip daddr 10.0.0.1 tcp dport 8008 reject",
            "ip saddr 10.0.0.1 tcp sport 5433 drop",
            "ip saddr 10.0.0.1 tcp dport 5432 drop",
            "    tcp dport 5432 reject",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let text = Table::new("service", "main", 5432).chains(Some(("10.0.0.1", 5433)), &[]).unwrap();
        assert!(text.contains("ip daddr 10.0.0.1 tcp dport 5433 accept"), "{text}");
    }

    #[test]
    fn names_stay_apart() {
        assert_ne!(Table::new("a-b", "c", 1).name, Table::new("a.b", "c", 1).name);
        assert!(matches!(family("db1"), Err(NftError::Address(_))));
    }
}
