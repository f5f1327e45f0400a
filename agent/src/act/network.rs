//! Rule 6: towards whom replication is open on this host.

use anyhow::Result;
use holdfast_agent_core::member::Network;
use holdfast_host::nftables::{Lost, Table};

use crate::config::Instance;
use crate::member::Member;

/// The table of an instance.
pub fn firewall(instance: &Instance) -> Table {
    Table::new(instance.cluster.namespace.as_str(), instance.cluster.scope.as_str(), instance.port)
}

/// Opens replication towards `source` and nobody else, and lifts every cut: whoever is followed or follows us now is
/// decided by the open term.
pub async fn follow(member: &Member, source: Option<&(String, u16)>) -> Result<()> {
    let now = Network { installed: true, source: source.cloned(), ..Network::default() };
    let source = source.map(|(address, port)| (address.as_str(), *port));
    member.change_network(now, member.firewall.follow(source)).await?;
    let source = source.map_or_else(|| "nobody".to_owned(), |(address, port)| format!("{address}:{port}"));
    tracing::info!(cluster = %member.instance.cluster, source, "replication is open");
    Ok(())
}

/// Closes everything between us and a lost writer for PostgreSQL's ports, in both directions, established or not.
pub async fn cut(member: &Member, lost: Lost) -> Result<()> {
    let now = Network { installed: true, source: None, cut: [lost.address.clone()].into() };
    member.change_network(now, member.firewall.cut(&[lost])).await?;
    Ok(())
}
