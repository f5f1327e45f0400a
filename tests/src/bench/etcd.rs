//! What `etcdctl` says of the lab's etcd: records with their revisions, and how far its log has come.
//!
//! But for `revoke`, `put` and `delete` it reads only, and no read of it adds to the log: `get` asks for a read index,
//! `endpoint status` one server. `settle` and `writes` call it, from the network namespace of the clients.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use super::command::output;
use super::lab::Lab;
use crate::checker::describe::Describe;

const DEADLINE: Duration = Duration::from_secs(10);

/// A way to the etcd of one region.
pub struct Etcd {
    place: Vec<String>,
}

/// One key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Key {
    /// Revision of its creation.
    pub create_revision: i64,
    /// Revision of its last change.
    pub mod_revision: i64,
    /// Changes since its creation.
    pub version: i64,
    /// Its value.
    pub value: String,
}

/// How far one server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Entries of the log that it has applied.
    pub applied_index: u64,
    /// Revision of its data then: raised by one with each transaction that changed something.
    pub revision: u64,
}

impl Etcd {
    /// The etcd of the lab's region.
    pub fn new(lab: &Lab, describe: &Describe) -> anyhow::Result<Self> {
        let (region, _, client) = lab.place(describe)?;
        let etcd = &region.etcd;
        let first = etcd.endpoints.first().with_context(|| format!("region {} has no etcd", region.name))?;
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let place = ["netns", "exec", client.netns.as_str(), "env", "ETCDCTL_API=3", "etcdctl"];
        let mut place: Vec<String> = place.iter().map(|word| (*word).to_owned()).collect();
        // One server: index and revision of two servers do not belong together.
        place.push(format!("--endpoints={first}"));
        place.extend([flag("cacert", &etcd.ca), flag("cert", &etcd.cert), flag("key", &etcd.key)]);
        Ok(Self { place })
    }

    async fn ask(&self, question: &[&str]) -> anyhow::Result<String> {
        let words: Vec<&str> =
            self.place.iter().map(String::as_str).chain(question.iter().copied()).collect();
        output("ip", &words, DEADLINE).await
    }

    /// All keys below a prefix.
    pub async fn below(&self, prefix: &str) -> anyhow::Result<BTreeMap<String, Key>> {
        keys(&self.ask(&["get", "--prefix", prefix, "-w", "fields"]).await?)
    }

    /// The lease of a key; none without the key.
    pub async fn lease_of(&self, key: &str) -> anyhow::Result<Option<i64>> {
        let said = self.ask(&["get", key, "-w", "fields"]).await?;
        let lease = said.lines().find_map(|line| line.strip_prefix("\"Lease\" : "));
        lease.map(|lease| lease.parse().with_context(|| format!("etcdctl printed {lease:?}"))).transpose()
    }

    /// Ends a lease and what hangs on it.
    pub async fn revoke(&self, lease: i64) -> anyhow::Result<()> {
        self.ask(&["lease", "revoke", &format!("{lease:x}")]).await.map(drop)
    }

    /// Puts a key, on a lease or on none.
    pub async fn put(&self, key: &str, value: &str, lease: Option<i64>) -> anyhow::Result<()> {
        let lease = lease.map(|lease| format!("--lease={lease:x}"));
        let words: Vec<&str> =
            ["put"].into_iter().chain(lease.as_deref()).chain(["--", key, value]).collect();
        self.ask(&words).await.map(drop)
    }

    /// Deletes a key.
    pub async fn delete(&self, key: &str) -> anyhow::Result<()> {
        self.ask(&["del", key]).await.map(drop)
    }

    /// How far the server has come.
    pub async fn progress(&self) -> anyhow::Result<Progress> {
        progress(&self.ask(&["endpoint", "status", "-w", "json"]).await?)
    }
}

/// `"Key" : "/holdfast/..."`, `"CreateRevision" : 5` and so on, one field a line, `"Lease"` the last of a key.
fn keys(said: &str) -> anyhow::Result<BTreeMap<String, Key>> {
    let (mut found, mut name, mut key) = (BTreeMap::new(), None, Key::default());
    for line in said.lines() {
        let Some((field, value)) = line.split_once(" : ") else { continue };
        let odd = || format!("etcdctl printed {line:?}");
        // Go quotes a text as JSON does, but for what no record of ours holds: control characters.
        let text = || serde_json::from_str::<String>(value).with_context(odd);
        let number = || value.parse::<i64>().with_context(odd);
        match field {
            "\"Key\"" => name = Some(text()?),
            "\"CreateRevision\"" => key.create_revision = number()?,
            "\"ModRevision\"" => key.mod_revision = number()?,
            "\"Version\"" => key.version = number()?,
            "\"Value\"" => key.value = text()?,
            "\"Lease\"" => {
                let name = name.take().with_context(odd)?;
                found.insert(name, std::mem::take(&mut key));
            }
            _ => {}
        }
    }
    Ok(found)
}

fn progress(said: &str) -> anyhow::Result<Progress> {
    #[derive(Deserialize)]
    struct Endpoint {
        #[serde(rename = "Status")]
        status: Status,
    }
    #[derive(Deserialize)]
    struct Status {
        header: Header,
        #[serde(rename = "raftAppliedIndex")]
        applied_index: u64,
    }
    #[derive(Deserialize)]
    struct Header {
        revision: u64,
    }
    let all: Vec<Endpoint> =
        serde_json::from_str(said).with_context(|| format!("etcdctl endpoint status said {said:?}"))?;
    let one = all.into_iter().next().context("etcdctl endpoint status named no server")?;
    Ok(Progress { applied_index: one.status.applied_index, revision: one.status.header.revision })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_etcdctl_prints_them() {
        // etcdctl 3.4.23.
        let said = r#""ClusterID" : 1
"Revision" : 90
"Key" : "/holdfast/v1/r1/service/main/mode"
"CreateRevision" : 40
"ModRevision" : 71
"Version" : 3
"Value" : "{\"format\":1,\"mode\":\"armed\",\"reason\":\"grün\"}"
"Lease" : 0
"Key" : "/holdfast/v1/r1/session/db1"
"CreateRevision" : 30
"ModRevision" : 30
"Version" : 1
"Value" : ""
"Lease" : 7587864738
"More" : false
"Count" : 2
"#;
        let keys = keys(said).unwrap();
        let mode = &keys["/holdfast/v1/r1/service/main/mode"];
        assert_eq!((mode.create_revision, mode.mod_revision, mode.version), (40, 71, 3));
        assert_eq!(mode.value, r#"{"format":1,"mode":"armed","reason":"grün"}"#);
        assert_eq!(keys["/holdfast/v1/r1/session/db1"].value, "");
        assert!(super::keys("\"Key\" : nothing\n").is_err());
    }

    #[test]
    fn progress_is_read_as_etcdctl_prints_it() {
        // etcdctl 3.4.23.
        let said = r#"[{"Endpoint":"https://10.77.0.11:2379","Status":{"header":{"cluster_id":1,"member_id":2,
            "revision":57,"raft_term":2},"version":"3.4.23","dbSize":20480,"leader":3,"raftIndex":91,"raftTerm":2,
            "raftAppliedIndex":90,"dbSizeInUse":16384}}]"#;
        assert_eq!(progress(said).unwrap(), Progress { applied_index: 90, revision: 57 });
        assert!(progress("[]").is_err() && progress("{}").is_err());
    }
}
