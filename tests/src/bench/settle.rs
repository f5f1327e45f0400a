//! When a change of mode has arrived everywhere: as the agents see it, not as the order says it.
//!
//! Armed: the term in force is newer than the mode record, and its writer is writable. Disarmed: no table of ours is left
//! in the packet filter of a host, and every pooler lets clients through. It waits, bounded, and changes nothing.
//! `armed` calls it before each run of pgbench.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use holdfast_types::record::{Reign, Stored, TermRecord};

use super::command::output;
use super::etcd::{Etcd, Key};
use super::lab::Lab;
use super::writes::OURS;
use crate::checker::describe::Describe;

/// Agents see a change within a round trip, and act on it at once; their slowest look is 10 s.
const DEADLINE: Duration = Duration::from_secs(30);
const QUESTION: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until the cluster is armed.
pub async fn armed(lab: &Lab, describe: &Describe) -> anyhow::Result<()> {
    let etcd = Etcd::new(lab, describe)?;
    let (region, cluster, _) = lab.place(describe)?;
    let namespace = cluster.namespace.trim_matches('/').replace('/', "%2F");
    let prefix = format!("{OURS}v1/{}/{namespace}/{}/", region.name, cluster.scope);
    until("armed", async || {
        let keys = etcd.below(&prefix).await?;
        let key = |name: &str| keys.get(&format!("{prefix}{name}"));
        Ok(not_armed(key("mode"), key("term")))
    })
    .await?;
    poolers_let_through(lab, describe).await
}

/// Why the term does not count yet; none when it does.
fn not_armed(mode: Option<&Key>, term: Option<&Key>) -> Option<String> {
    let Some(mode) = mode else { return Some("there is no mode record".into()) };
    let Some(term) = term else { return Some("no term was opened".into()) };
    if term.mod_revision <= mode.mod_revision {
        return Some("the term is older than the mode".into());
    }
    match Stored::<TermRecord>::decode("the term record", term.value.as_bytes()) {
        Ok(record) => match record.body.reign {
            Reign::Open { writable: true, .. } => None,
            Reign::Open { holder, .. } => Some(format!("{holder} is not writable")),
            Reign::Closed { holder, .. } => Some(format!("the term of {holder} is closed")),
        },
        Err(error) => Some(error.to_string()),
    }
}

/// Waits until nothing of ours is in Patroni's way.
pub async fn disarmed(lab: &Lab, describe: &Describe) -> anyhow::Result<()> {
    let (region, cluster, _) = lab.place(describe)?;
    let databases = region.instances(&cluster.scope);
    until("disarmed", async || {
        for host in &region.hosts {
            if !databases.contains_key(host.name.as_str()) && host.role != "pooler" {
                continue;
            }
            let question = ["netns", "exec", &host.netns, "nft", "list", "tables"];
            let listed = output("ip", &question, QUESTION).await?;
            let left = tables_left(&listed, &cluster.scope);
            if !left.is_empty() {
                return Ok(Some(format!("{} still filters: {}", host.name, left.join(", "))));
            }
        }
        Ok(None)
    })
    .await?;
    poolers_let_through(lab, describe).await
}

/// Our tables of a cluster or of poolers in the output of `nft list tables`.
fn tables_left<'t>(listed: &'t str, scope: &str) -> Vec<&'t str> {
    let scope = format!("_{}", scope.replace(['-', '.'], "_"));
    let names = listed.lines().filter_map(|line| line.strip_prefix("table inet "));
    let is_ours = |name: &&str| {
        name.strip_prefix("holdfast_")
            .is_some_and(|rest| rest.starts_with("pooler_") || rest.ends_with(&scope))
    };
    names.map(str::trim).filter(is_ours).collect()
}

/// Waits until a question through each pooler reaches a writer: none of them is paused, and none refuses.
async fn poolers_let_through(lab: &Lab, describe: &Describe) -> anyhow::Result<()> {
    let (_, cluster, client) = lab.place(describe)?;
    until("reachable through its poolers", async || {
        for route in cluster.routes.iter().filter(|route| route.kind == "pgbouncer") {
            let sql = "select pg_is_in_recovery()";
            let question = ["netns", "exec", &client.netns, "psql", "-qAtX", &route.dsn, "-c", sql];
            let pooler = route.host.as_deref().unwrap_or("the pooler");
            match output("ip", &question, QUESTION).await {
                Ok(said) if said.trim() == "f" => {}
                Ok(_) => return Ok(Some(format!("{pooler} leads to a standby"))),
                Err(error) => return Ok(Some(format!("{pooler}: {error:#}"))),
            }
        }
        Ok(None)
    })
    .await
}

/// Asks again and again what is in the way. Whatever cannot be asked is in the way.
async fn until(
    what: &str,
    mut in_the_way: impl AsyncFnMut() -> anyhow::Result<Option<String>>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let waits_for = match in_the_way().await {
            Ok(None) => return Ok(()),
            Ok(Some(waits_for)) => waits_for,
            Err(error) if begin.elapsed() >= DEADLINE => {
                return Err(error).with_context(|| format!("whether the cluster is {what}"));
            }
            Err(error) => format!("{error:#}"),
        };
        if begin.elapsed() >= DEADLINE {
            bail!("the cluster is not {what} after {} s: {waits_for}", DEADLINE.as_secs());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(mod_revision: i64, value: &str) -> Key {
        Key { mod_revision, value: value.to_owned(), ..Key::default() }
    }

    fn term(mod_revision: i64, writable: bool) -> Key {
        let reign =
            format!(r#"{{"state":"open","holder":"db1","incarnation":3,"session":7,"writable":{writable}}}"#);
        key(mod_revision, &format!(r#"{{"format":1,"min_reader":1,"term":4,"reign":{reign}}}"#))
    }

    #[test]
    fn only_a_writable_term_that_is_newer_than_the_mode_is_armed() {
        let mode = key(70, "{}");
        assert_eq!(not_armed(Some(&mode), Some(&term(71, true))), None);
        let because = |mode: Option<&Key>, term: Option<&Key>| not_armed(mode, term).unwrap();
        assert_eq!(because(Some(&mode), Some(&term(69, true))), "the term is older than the mode");
        assert_eq!(because(Some(&mode), Some(&term(71, false))), "db1 is not writable");
        assert_eq!(because(Some(&mode), None), "no term was opened");
        assert_eq!(because(None, Some(&term(71, true))), "there is no mode record");
        assert!(because(Some(&mode), Some(&key(71, "{"))).contains("the term record"));
    }

    #[test]
    fn only_our_tables_are_in_the_way() {
        let listed = "table inet lab_x\ntable inet holdfast_service_main\ntable ip holdfast_service_main\n\
             table inet holdfast_service_other\ntable inet holdfast_pooler_main\n";
        assert_eq!(tables_left(listed, "main"), ["holdfast_service_main", "holdfast_pooler_main"]);
        assert_eq!(tables_left("", "main"), [""; 0]);
        assert_eq!(tables_left("table inet holdfast_service_my_db\n", "my-db"), ["holdfast_service_my_db"]);
    }

    #[tokio::test]
    async fn a_condition_is_asked_again() {
        let mut left = 3;
        let arrived = until("x", async || {
            left -= 1;
            if left == 2 { bail!("no answer") } else { Ok((left > 0).then(|| "more".to_owned())) }
        });
        arrived.await.unwrap();
        assert_eq!(left, 0);
    }
}
