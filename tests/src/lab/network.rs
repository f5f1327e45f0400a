//! The lab's network: one namespace per host, and one that holds a bridge per region and routes between them.
//!
//! Nothing lies in the root namespace, so all labs use the same addresses. A host's cable is its port at the bridge.

use anyhow::{Context as _, Result};

use super::plan::{HostPlan, Plan, RegionPlan};
use super::shell;

const DEADLINE_MS: u64 = 10_000;
/// Prefix of the tables that faults make: a boot of the host leaves them, because the network is broken, not the host.
const FAULT_TABLE: &str = "lab_";

/// Makes the namespaces, bridges, links and routes.
pub async fn create(plan: &Plan) -> Result<()> {
    let names = std::iter::once(plan.switch()).chain(plan.hosts().map(|(_, host)| host.netns.clone()));
    let add: String = names.map(|name| format!("netns add {name}\n")).collect();
    ip(None, &add).await?;
    ip(Some(&plan.switch()), &switch_lines(plan)).await?;
    for region in &plan.regions {
        for host in &region.hosts {
            ip(Some(&host.netns), &host_lines(region, host)).await?;
        }
    }
    let forward: [&str; 7] =
        ["ip", "netns", "exec", &plan.switch(), "sysctl", "-qw", "net.ipv4.ip_forward=1"];
    shell::run(DEADLINE_MS, &forward).await?;
    if let Some(rate) = plan.spec.link.rate_mbit {
        for region in &plan.regions {
            limit(plan, region, rate).await?;
        }
    }
    Ok(())
}

fn switch_lines(plan: &Plan) -> String {
    let mut lines = String::from("link set lo up\n");
    for region in &plan.regions {
        let bridge = bridge(region);
        lines += &format!("link add {bridge} type bridge\naddr add {}/24 dev {bridge}\n", gateway(region));
        lines += &format!("link set {bridge} up\n");
        for host in &region.hosts {
            let port = port(host);
            lines += &format!("link add {port} type veth peer name eth0 netns {}\n", host.netns);
            lines += &format!("link set {port} master {bridge} up\n");
        }
    }
    lines
}

fn host_lines(region: &RegionPlan, host: &HostPlan) -> String {
    format!(
        "link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\nroute add default via {}\n",
        host.address,
        gateway(region)
    )
}

/// What is routed from other regions leaves through the bridge's own device; what stays in the region does not.
async fn limit(plan: &Plan, region: &RegionPlan, rate_mbit: u32) -> Result<()> {
    let (switch, bridge, rate) = (plan.switch(), bridge(region), format!("{rate_mbit}mbit"));
    let line = [
        "tc", "-n", &switch, "qdisc", "add", "dev", &bridge, "root", "tbf", "rate", &rate, "burst", "256kb",
        "latency", "50ms",
    ];
    shell::run(DEADLINE_MS, &line).await.map(drop)
}

/// Plugs a host's cable in or pulls it.
pub async fn set_link(plan: &Plan, host: &HostPlan, up: bool) -> Result<()> {
    let (switch, port) = (plan.switch(), port(host));
    let line = ["ip", "-n", &switch, "link", "set", &port, if up { "up" } else { "down" }];
    shell::run(DEADLINE_MS, &line).await.map(drop)
}

/// Drops packets of a host by rules of nftables (the bodies of an input and an output chain; none lets that way through),
/// until `undrop`.
pub async fn drop_packets(
    host: &HostPlan,
    fault: &str,
    input: Option<&str>,
    output: Option<&str>,
) -> Result<()> {
    let chain = |name: &str, body: Option<&str>| {
        let body = body.map(|body| format!("{body} drop;")).unwrap_or_default();
        format!("chain {name} {{ type filter hook {name} priority -300; {body} }}\n")
    };
    let table = table(fault);
    let script = format!("table inet {table} {{\n{}{}}}\n", chain("input", input), chain("output", output));
    let line = ["ip", "netns", "exec", &host.netns, "nft", "-f", "-"];
    shell::with_input(DEADLINE_MS, &line, &script).await.map(drop)
}

/// Removes those rules; it does not matter whether they are still there.
pub async fn undrop(host: &HostPlan, fault: &str) -> Result<()> {
    let table = table(fault);
    let script = format!("table inet {table} {{}}\ndelete table inet {table}\n");
    let line = ["ip", "netns", "exec", &host.netns, "nft", "-f", "-"];
    shell::with_input(DEADLINE_MS, &line, &script).await.map(drop)
}

/// Removes what a boot would remove: every table of the namespace that we are in, except those of faults.
pub async fn forget_tables() -> Result<()> {
    delete_tables(&[]).await
}

/// Does to a host what `nft flush ruleset` does, but for the tables by which other faults break its network: those stand
/// for a broken network, which nobody mends on a host.
pub async fn flush(host: &HostPlan) -> Result<()> {
    delete_tables(&["ip", "netns", "exec", &host.netns]).await
}

/// Deletes them in one transaction; `place` comes before the command.
async fn delete_tables(place: &[&str]) -> Result<()> {
    let listed = shell::run(DEADLINE_MS, &[place, &["nft", "list", "tables"]].concat()).await?;
    let script: String = listed
        .stdout
        .lines()
        .filter(|line| !line.rsplit(' ').next().is_some_and(|name| name.starts_with(FAULT_TABLE)))
        .map(|line| format!("delete {line}\n"))
        .collect();
    shell::with_input(DEADLINE_MS, &[place, &["nft", "-f", "-"]].concat(), &script).await.map(drop)
}

/// Removes the lab's namespaces, and with them every link, rule and route in them.
pub async fn remove(plan: &Plan) -> Result<()> {
    let names: Vec<String> =
        std::iter::once(plan.switch()).chain(plan.hosts().map(|(_, host)| host.netns.clone())).collect();
    let there = existing()?;
    let lines: String = names
        .iter()
        .filter(|name| there.contains(name))
        .map(|name| format!("netns delete {name}\n"))
        .collect();
    ip(None, &lines).await
}

/// Names of all network namespaces of the machine.
pub fn existing() -> Result<Vec<String>> {
    match std::fs::read_dir("/run/netns") {
        Ok(entries) => {
            Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("/run/netns"),
    }
}

async fn ip(netns: Option<&str>, lines: &str) -> Result<()> {
    let mut line = vec!["ip"];
    if let Some(netns) = netns {
        line.extend(["-n", netns]);
    }
    line.extend(["-batch", "-"]);
    shell::with_input(DEADLINE_MS, &line, lines).await.map(drop)
}

fn bridge(region: &RegionPlan) -> String {
    format!("br{}", region.number)
}

fn gateway(region: &RegionPlan) -> String {
    format!("10.77.{}.1", region.number)
}

fn port(host: &HostPlan) -> String {
    format!("p-{}", host.name())
}

fn table(fault: &str) -> String {
    format!("{FAULT_TABLE}{}", fault.replace('-', "_"))
}
