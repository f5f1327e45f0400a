//! When a region is healthy: one leader, its quorum, every standby streaming, and a write through each pooler.
//!
//! Decides nothing; looks from the root namespace over Unix sockets. Called by `up`, by `@leader`, and by tests.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use holdfast_types::Class;

use super::plan::{HostPlan, Instance, Plan, RegionPlan};
use super::spec::Role;
use super::sql::At;

const POLL: Duration = Duration::from_millis(100);

/// A cluster as its members see it.
struct Seen<'p> {
    leader: &'p HostPlan,
    synchronous_standby_names: String,
    streaming: Vec<String>,
}

/// The host whose PostgreSQL accepts writes; an error says what is in the way.
pub async fn leader<'p>(region: &'p RegionPlan, instance: &Instance<'_>) -> Result<&'p HostPlan, String> {
    let mut leaders = Vec::new();
    for host in region.of(Role::Database) {
        let (socket_dir, at) = (host.socket_dir(), instance.port);
        let at = At { socket_dir: &socket_dir, port: at, user: "postgres", dbname: "postgres" };
        if let Ok(rows) = at.ask("SELECT pg_is_in_recovery()").await
            && rows.first().and_then(|row| row.get(0)) == Some("f")
        {
            leaders.push(host);
        }
    }
    match leaders.as_slice() {
        [one] => Ok(one),
        [] => Err(format!("{} in {}: no primary yet", instance.cluster.scope, region.name)),
        many => {
            let names: Vec<&str> = many.iter().map(|host| host.name()).collect();
            Err(format!("{} in {}: several primaries: {names:?}", instance.cluster.scope, region.name))
        }
    }
}

/// Waits until the cluster is whole. The error says what was waited for last.
pub async fn wait_whole<'p>(
    region: &'p RegionPlan,
    instance: &Instance<'_>,
    until: Instant,
) -> Result<&'p HostPlan> {
    loop {
        let missing = match look(region, instance).await {
            Ok(seen) => match missing(region, instance, &seen) {
                None => return Ok(seen.leader),
                Some(missing) => missing,
            },
            Err(missing) => missing,
        };
        if Instant::now() >= until {
            bail!("waited for cluster {missing}");
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn look<'p>(region: &'p RegionPlan, instance: &Instance<'_>) -> Result<Seen<'p>, String> {
    let leader = leader(region, instance).await?;
    let socket_dir = leader.socket_dir();
    let at = At { socket_dir: &socket_dir, port: instance.port, user: "postgres", dbname: "postgres" };
    let sql = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming' \
               UNION ALL SELECT current_setting('synchronous_standby_names')";
    let rows = at.ask(sql).await.map_err(|error| format!("{}: {error:#}", leader.name()))?;
    let mut names: Vec<String> = rows.iter().filter_map(|row| row.get(0).map(str::to_owned)).collect();
    let synchronous_standby_names = names.pop().unwrap_or_default();
    Ok(Seen { leader, synchronous_standby_names, streaming: names })
}

fn missing(region: &RegionPlan, instance: &Instance<'_>, seen: &Seen<'_>) -> Option<String> {
    let scope = format!("{} in {}", instance.cluster.scope, region.name);
    let others = || region.of(Role::Database).filter(|host| host.name() != seen.leader.name());
    // One that streams from another standby is not the leader's to see.
    let mut followers = others().filter(|host| !host.host.tags.contains_key("replicatefrom"));
    if let Some(absent) = followers.find(|host| !seen.streaming.iter().any(|name| name == host.name())) {
        return Some(format!("{scope}: {} to stream from {}", absent.name(), seen.leader.name()));
    }
    if instance.cluster.class == Class::Quorum {
        let wanted: Vec<&str> =
            others().filter(|host| host.host.is_synchronous()).map(HostPlan::name).collect();
        let count = instance.cluster.synchronous_node_count.min(wanted.len());
        if !wanted.is_empty() && !is_any(count, &seen.synchronous_standby_names, &wanted) {
            return Some(format!(
                "{scope}: synchronous_standby_names to be ANY {count} of {wanted:?}, it is {:?}",
                seen.synchronous_standby_names
            ));
        }
    }
    None
}

/// Whether the setting is `ANY count (...)` with exactly these names.
fn is_any(count: usize, setting: &str, wanted: &[&str]) -> bool {
    let begin = format!("ANY {count} (");
    let Some(list) = setting.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(')')) else {
        return false;
    };
    let mut names: Vec<&str> = list.split(',').map(|name| name.trim().trim_matches('"')).collect();
    let mut wanted = wanted.to_vec();
    names.sort_unstable();
    wanted.sort_unstable();
    names == wanted
}

/// Waits until a write through the pooler is acknowledged.
pub async fn wait_write(host: &HostPlan, instance: &Instance<'_>, until: Instant) -> Result<()> {
    let socket_dir = host.pooler_socket_dir();
    let at = At { socket_dir: &socket_dir, port: instance.pooler_port, user: "app", dbname: "app" };
    loop {
        match at.ask("SELECT pg_logical_emit_message(true, 'holdfast-lab', 'up')").await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= until => {
                bail!("waited for a write through {}: {error:#}", host.name())
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Sends a pooler's clients to `writer`, as an administrator would.
pub async fn point(pooler: &HostPlan, instance: &Instance<'_>, writer: &HostPlan) -> Result<()> {
    let text = super::render::pgbouncer::target(writer.address, instance.port);
    super::files::write(&pooler.target_file(&instance.pooler_unit()), &text)?;
    let socket_dir = pooler.pooler_socket_dir();
    let at =
        At { socket_dir: &socket_dir, port: instance.pooler_port, user: "pgbouncer", dbname: "pgbouncer" };
    at.ask("RELOAD").await.map(drop)
}

/// Whether the leader of every cluster of the lab is known at this moment, for `list`.
pub async fn leaders(plan: &Plan) -> Vec<(String, String, Option<String>)> {
    let mut found = Vec::new();
    for region in &plan.regions {
        for instance in plan.instances() {
            let leader = leader(region, &instance).await.ok().map(|host| host.name().to_owned());
            found.push((region.name.clone(), instance.cluster.scope.clone(), leader));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quorum_is_read_whatever_the_order_and_the_quotes() {
        assert!(is_any(1, "ANY 1 (db3,db2)", &["db2", "db3"]));
        assert!(is_any(1, "ANY 1 (\"db-3\", db2)", &["db2", "db-3"]));
        assert!(!is_any(1, "ANY 1 (db2)", &["db2", "db3"]));
        assert!(!is_any(1, "ANY 2 (db2,db3)", &["db2", "db3"]));
        assert!(is_any(2, "ANY 2 (db2,db3)", &["db2", "db3"]));
        assert!(!is_any(1, "", &["db2"]));
    }
}
