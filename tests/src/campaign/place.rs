//! From the roles that a step names to the hosts that have them at this moment. Pure.

use anyhow::bail;

use super::blow::Place;
use super::schedule::Planned;
use crate::checker::describe::{Describe, Host};
use crate::lab::fault::{Direction, Kind};

/// The words of `holdfast-lab fault LAB` for a fault while `writer` is the primary.
pub fn words(describe: &Describe, fault: &Planned, writer: &str) -> Vec<String> {
    let host = host(describe, fault.place, fault.pick, writer);
    let mut words = vec![fault.blow.kind.to_string()];
    words.extend(host.clone());
    words.extend(fault.blow.target.map(str::to_owned));
    if fault.blow.kind == Kind::ClockJump {
        words.push(fault.jump_s.to_string());
    }
    if fault.blow.has_peer
        && let Some(peer) = host.and_then(|host| peer(describe, &host, fault.pick))
    {
        words.extend(["--peer".to_owned(), peer]);
    }
    match fault.blow.direction {
        Some(Direction::In) => words.extend(["--direction".to_owned(), "in".to_owned()]),
        Some(Direction::Out) => words.extend(["--direction".to_owned(), "out".to_owned()]),
        None => {}
    }
    words
}

/// Refuses a lab in which a campaign has nothing to choose from.
pub fn check(describe: &Describe) -> anyhow::Result<()> {
    for place in [Place::Standby, Place::Replica, Place::Pooler, Place::Etcd] {
        if host(describe, place, 0, "").is_none() {
            bail!("the lab {} has no host for {place:?}", describe.lab);
        }
    }
    Ok(())
}

fn hosts(describe: &Describe) -> impl Iterator<Item = &Host> {
    describe.regions.iter().flat_map(|region| &region.hosts)
}

fn host(describe: &Describe, place: Place, pick: u32, writer: &str) -> Option<String> {
    let is_asynchronous = |host: &Host| host.tags["nosync"] == true;
    let is_another = |host: &Host| host.role == "database" && host.name != writer;
    let fits = |host: &&Host| match place {
        Place::Writer => host.name == writer,
        Place::Standby => is_another(host) && !is_asynchronous(host),
        Place::Replica => is_another(host) && is_asynchronous(host),
        Place::Pooler => host.role == "pooler",
        Place::Etcd => host.role == "etcd",
        Place::Everywhere => false,
    };
    let found = chosen(hosts(describe).filter(fits), pick);
    // While the replica itself is the primary there is no other: a standby is struck.
    if found.is_none() && place == Place::Replica {
        host(describe, Place::Standby, pick, writer)
    } else {
        found
    }
}

/// Another host that it may talk to: clients measure, and backup hosts are empty.
fn peer(describe: &Describe, host: &str, pick: u32) -> Option<String> {
    let talks = |other: &&Host| ["database", "etcd", "pooler"].contains(&other.role.as_str());
    // Another part of the number than the one that chose the host.
    chosen(hosts(describe).filter(talks).filter(|other| other.name != host), pick >> 8)
}

fn chosen<'d>(candidates: impl Iterator<Item = &'d Host>, pick: u32) -> Option<String> {
    let names: Vec<&str> = candidates.map(|host| host.name.as_str()).collect();
    let at = (pick as usize).checked_rem(names.len())?;
    Some(names[at].to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::blow::Blow;
    use super::*;

    fn describe() -> Describe {
        let host = |name: &str, role: &str, nosync: bool| serde_json::json!({ "name": name, "role": role, "netns": "", "tags": { "nosync": nosync } });
        let hosts = [
            host("e1", "etcd", false),
            host("db1", "database", false),
            host("db2", "database", false),
            host("db3", "database", false),
            host("db4", "database", true),
            host("pool1", "pooler", false),
            host("client", "client", false),
        ];
        let region = serde_json::json!({ "name": "r1", "clusters": [], "hosts": hosts });
        Describe::parse(&serde_json::json!({ "lab": "x", "regions": [region] }).to_string()).unwrap()
    }

    fn words_of(name: &str, place: Place, pick: u32) -> String {
        let blow = Blow::named(name).unwrap();
        let (after, hold) = (Duration::ZERO, Duration::ZERO);
        words(&describe(), &Planned { blow, place, pick, jump_s: -30, after, hold }, "db2").join(" ")
    }

    #[test]
    fn roles_become_hosts() {
        assert_eq!(words_of("host-death", Place::Writer, 7), "host-death db2");
        assert_eq!(words_of("stop-agent", Place::Standby, 1), "stop db3 agent");
        assert_eq!(words_of("clock-jump", Place::Replica, 5), "clock-jump db4 -30");
        assert_eq!(words_of("etcd-down", Place::Everywhere, 5), "etcd-down");
        assert_eq!(
            words_of("link-cut-out", Place::Writer, 1 << 8),
            "link-cut db2 --peer db1 --direction out"
        );
        assert_eq!(words_of("etcd-member-down", Place::Etcd, 2), "etcd-down e1");
        check(&describe()).unwrap();
        assert_eq!(host(&describe(), Place::Replica, 4, "db4").as_deref(), Some("db2"));
    }
}
