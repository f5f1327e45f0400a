//! What is done to etcd as a whole, by `etcdctl` and by its HTTP gateway, from one of its hosts and with its certificate.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::json;

use crate::lab::etcdctl;
use crate::lab::failure::{Exit, Failure};
use crate::lab::plan::RegionPlan;
use crate::lab::render::etcd::CLIENT_PORT;
use crate::lab::shell;
use crate::lab::spec::EtcdAuth;

const DEADLINE_MS: u64 = 10_000;

/// One member, as it says itself.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    endpoint: String,
    id: u64,
    leader: u64,
}

/// Raises the alarm that a member raises when its file has reached its quota: from then on writes are refused.
pub async fn raise_no_space(region: &RegionPlan) -> Result<()> {
    if region.etcd_auth != EtcdAuth::Off {
        let text = "the alarm is raised over etcd's gateway, which takes no certificate of ours where etcd has users";
        return Err(Failure::with(Exit::Refused, text.to_owned()));
    }
    let host = etcdctl::host(region)?;
    let members = members(region).await?;
    let id = members.first().context("etcd names no member")?.id;
    let body = json!({ "action": "ACTIVATE", "memberID": id.to_string(), "alarm": "NOSPACE" }).to_string();
    let url = format!("https://{}:{CLIENT_PORT}/v3/maintenance/alarm", host.address);
    let [ca, cert, key] = etcdctl::certificate(host);
    let line = [
        "ip",
        "netns",
        "exec",
        &host.netns,
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "5",
        "--cacert",
        &ca,
        "--cert",
        &cert,
        "--key",
        &key,
        "--data",
        &body,
        &url,
    ];
    shell::run(DEADLINE_MS, &line).await.map(drop)
}

/// Ends every alarm.
pub async fn disarm(region: &RegionPlan) -> Result<()> {
    etcdctl::run(region, None, &["alarm", "disarm"]).await.map(drop)
}

/// Makes another member the leader.
pub async fn move_leader(region: &RegionPlan) -> Result<()> {
    let members = members(region).await?;
    let (leader, next) = succession(&members).context("etcd has no leader, or nobody to follow it")?;
    etcdctl::run(region, Some(&leader.endpoint), &["move-leader", &format!("{:x}", next.id)]).await.map(drop)
}

/// The leader, and the member after it.
fn succession(members: &[Member]) -> Option<(&Member, &Member)> {
    let at = members.iter().position(|member| member.id == member.leader)?;
    let next = &members[(at + 1) % members.len()];
    (members.len() > 1).then_some((&members[at], next))
}

async fn members(region: &RegionPlan) -> Result<Vec<Member>> {
    read_members(&etcdctl::run(region, None, &["endpoint", "status", "-w", "json"]).await?)
}

fn read_members(said: &str) -> Result<Vec<Member>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Endpoint {
        endpoint: String,
        status: Status,
    }
    #[derive(Deserialize)]
    struct Status {
        header: Header,
        leader: u64,
    }
    #[derive(Deserialize)]
    struct Header {
        member_id: u64,
    }
    let all: Vec<Endpoint> =
        serde_json::from_str(said).with_context(|| format!("etcdctl endpoint status said {said:?}"))?;
    let member = |one: Endpoint| Member {
        endpoint: one.endpoint,
        id: one.status.header.member_id,
        leader: one.status.leader,
    };
    Ok(all.into_iter().map(member).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_leader_is_another_member() {
        // etcdctl 3.4.23, shortened.
        let said = r#"[{"Endpoint":"10.77.0.11:2379","Status":{"header":{"cluster_id":1,"member_id":5},"leader":17298741651206439938}},
            {"Endpoint":"10.77.0.12:2379","Status":{"header":{"cluster_id":1,"member_id":17298741651206439938},"leader":17298741651206439938}}]"#;
        let members = read_members(said).unwrap();
        let (leader, next) = succession(&members).unwrap();
        assert_eq!((leader.endpoint.as_str(), next.id), ("10.77.0.12:2379", 5));
        assert_eq!(succession(&members[..1]), None);
        assert!(read_members("{}").is_err());
    }
}
