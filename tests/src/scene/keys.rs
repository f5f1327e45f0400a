//! What a scene reads of etcd, and what it changes there by hand, as a person, another Patroni or a rollback would.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Scene;
use crate::bench::etcd::{Etcd, Key};

impl Scene {
    fn etcd(&self) -> Result<Etcd> {
        Etcd::new(&self.lab, &self.describe)
    }

    fn patroni_path(&self, name: &str) -> Result<String> {
        let (_, cluster, _) = self.lab.place(&self.describe)?;
        Ok(format!("/{}/{}/{name}", cluster.namespace.trim_matches('/'), cluster.scope))
    }

    /// The key of a record of Holdfast's about the cluster: `term`, `floor`, `promise/db2/3`.
    fn path(&self, name: &str) -> Result<String> {
        let (region, cluster, _) = self.lab.place(&self.describe)?;
        let namespace = cluster.namespace.trim_matches('/').replace('/', "%2F");
        Ok(format!("/holdfast/v1/{}/{namespace}/{}/{name}", region.name, cluster.scope))
    }

    /// The value of a key in etcd, below Patroni's prefix of the cluster.
    pub async fn patroni_key(&self, name: &str) -> Result<Option<String>> {
        let key = self.patroni_path(name)?;
        let keys = self.etcd()?.below(&key).await?;
        Ok(keys.get(&key).map(|key| key.value.clone()))
    }

    /// Puts Patroni's `/sync`: the value that it has, changed or not. Its revision moves either way.
    pub async fn put_sync(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let said = self.patroni_key("sync").await?.context("/sync is gone")?;
        let mut sync: Value = serde_json::from_str(&said).context("/sync")?;
        change(&mut sync);
        self.etcd()?.put(&self.patroni_path("sync")?, &sync.to_string(), None).await
    }

    /// Puts Patroni's leader key for a host, on the lease of its member key, as CLOSE does for a successor.
    pub async fn give_lock(&self, host: &str) -> Result<()> {
        let etcd = self.etcd()?;
        let member = self.patroni_path(&format!("members/{host}"))?;
        let lease = etcd.lease_of(&member).await?.with_context(|| format!("Patroni of {host} has no key"))?;
        etcd.put(&self.patroni_path("leader")?, host, Some(lease)).await
    }

    /// A record of Holdfast's about the cluster, with its revisions.
    pub async fn record(&self, name: &str) -> Result<Option<(Value, Key)>> {
        let key = self.path(name)?;
        let Some(found) = self.etcd()?.below(&key).await?.remove(&key) else { return Ok(None) };
        let value = serde_json::from_str(&found.value).with_context(|| key)?;
        Ok(Some((value, found)))
    }

    /// Puts it.
    pub async fn put_record(&self, name: &str, record: &Value) -> Result<()> {
        self.etcd()?.put(&self.path(name)?, &record.to_string(), None).await
    }

    /// Deletes it.
    pub async fn forget_record(&self, name: &str) -> Result<()> {
        self.etcd()?.delete(&self.path(name)?).await
    }

    /// The number of the term in etcd.
    pub async fn term(&self) -> Result<u64> {
        let (term, _) = self.record("term").await?.context("there is no term record")?;
        term["term"].as_u64().context("a term record without a number")
    }

    /// Ends the session of a host's agent in etcd, as if its lease had run out.
    pub async fn end_session(&self, host: &str) -> Result<()> {
        let lease = self.session(host).await?.with_context(|| format!("{host} has no session"))?;
        self.etcd()?.revoke(lease).await
    }

    /// The lease of the session of a host's agent.
    pub async fn session(&self, host: &str) -> Result<Option<i64>> {
        let (region, ..) = self.lab.place(&self.describe)?;
        self.etcd()?.lease_of(&format!("/holdfast/v1/{}/session/{host}", region.name)).await
    }
}
