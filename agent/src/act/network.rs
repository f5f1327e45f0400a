//! Rule 6: towards whom replication is open on this host.

use anyhow::Result;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::Network;
use holdfast_host::nftables::Table;

use crate::config::Instance;
use crate::member::Member;

/// The table of an instance.
pub fn firewall(instance: &Instance) -> Table {
    Table::new(instance.cluster.namespace.as_str(), instance.cluster.scope.as_str(), instance.port)
}

/// Opens replication towards `address` and nobody else, and lifts every cut: whoever is followed or follows us now is
/// decided by the open term.
pub async fn follow(member: &Member, _cluster: &Cluster, address: Option<&str>) -> Result<()> {
    member.firewall.follow(address).await?;
    let source = address.map(str::to_owned);
    member.state().network = Network { installed: true, source, ..Network::default() };
    tracing::info!(cluster = %member.instance.cluster, source = address.unwrap_or("nobody"), "replication is open");
    Ok(())
}

/// Closes everything between us and `address` for this instance's port, in both directions, established or not.
pub async fn cut(member: &Member, address: &str, rest_port: u16) -> Result<()> {
    member.firewall.cut(&[(address.to_owned(), rest_port)]).await?;
    let mut state = member.state();
    state.network.installed = true;
    state.network.source = None;
    state.network.cut.insert(address.to_owned());
    Ok(())
}
