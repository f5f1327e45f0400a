//! The store over real etcd servers.
//!
//! One HTTP/2 connection carries everything. Whenever an answer is overdue the connection is given up and the next one
//! goes to the next endpoint, because a hung server neither answers nor closes; a watch follows to the new connection.
//! Reads and renewals are tried a second time when the connection broke under them; a transaction never is. With users and
//! passwords a connection begins with a token. The client asks for another when that is over; whatever else is wrong with
//! it (a role was changed, etcd has got its users only now) costs the connection, and the call, which was not followed, is
//! made again on the next one, a transaction too.

mod connector;
mod credentials;
mod errors;
mod health;
mod keeper;
mod link;
mod metrics;
mod watch;
mod wire;

use std::sync::Arc;

use etcd_client::GetOptions;
use rustls::ClientConfig;

pub use self::credentials::EtcdUser;
pub use self::health::{EndpointHealth, EndpointStatus, EtcdHealth};
use self::keeper::Keepers;
use self::link::Link;
use crate::{BoxFuture, KeyValue, Read, Reading, Renewal, Store, StoreError, Txn, TxnOutcome, Watch};

/// Gives the present TLS configuration; asked at each connect, so that renewed certificates are taken. Its ALPN list
/// must hold `h2`.
pub type TlsSource = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `host:port` of each server.
    pub endpoints: Vec<String>,
    /// TLS; without it the connection is plain, which only tests do.
    pub tls: Option<TlsSource>,
    /// Who we are by a password. Without it etcd knows us by our certificate's common name, or knows no users.
    pub user: Option<EtcdUser>,
    /// Deadline of one call in milliseconds; an endpoint that misses it is left.
    pub call_deadline_ms: u64,
    /// Deadline of one TCP and TLS handshake in milliseconds; then the next endpoint is tried within the same call.
    pub connect_deadline_ms: u64,
}

impl EtcdOptions {
    /// Options with deadlines that suit servers within a region (round trips of a few milliseconds): 1 s for a call,
    /// 400 ms for a handshake.
    pub fn new(endpoints: Vec<String>, tls: Option<TlsSource>) -> Self {
        Self { endpoints, tls, user: None, call_deadline_ms: 1_000, connect_deadline_ms: 400 }
    }
}

/// A store over etcd. Clones share one connection.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    keepers: Keepers,
}

impl EtcdStore {
    /// Makes a store without connecting: the first call does.
    pub fn new(options: EtcdOptions) -> Self {
        Self { inner: Arc::new(Inner { link: Link::new(options), keepers: Keepers::default() }) }
    }

    /// Asks every endpoint for its health, each on a connection of its own and all at once: three calls' deadlines at
    /// most.
    pub async fn health(&self) -> EtcdHealth {
        health::ask(self.inner.link.options()).await
    }

    /// Runs `call` on a clone of the inner parts, so that the future owns what it needs.
    fn with<T, F>(&self, call: impl FnOnce(Arc<Inner>) -> F) -> BoxFuture<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        Box::pin(call(Arc::clone(&self.inner)))
    }
}

impl Inner {
    async fn read(&self, what: &[Read]) -> Result<Reading, StoreError> {
        let run = || {
            let txn = wire::read_txn(what);
            self.link.call("read", move |client| async move { client.kv_client().txn(txn).await })
        };
        Ok(wire::reading(&again_if_broken(run).await?))
    }
}

/// Runs a call once more if it was not followed because etcd did not know whose it was.
async fn again_if_unknown<T, F>(run: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match run().await {
        Err(StoreError::Unauthenticated { .. }) => run().await,
        result => result,
    }
}

/// Runs a call that changes nothing once more if the connection broke under it too.
async fn again_if_broken<T, F>(run: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match run().await {
        Err(StoreError::Broken { .. } | StoreError::Unauthenticated { .. }) => run().await,
        result => result,
    }
}

/// A lease that is gone has a time of -1. A server that has won the leadership a moment ago knows no end of any lease yet, and
/// says 292 years (12 of 20,418 answers over 119 changes of the leader, etcd 3.4): that is no answer.
fn left_ms(ttl_s: i64, granted_s: i64) -> Result<Option<u64>, StoreError> {
    if ttl_s > granted_s {
        let why = format!(
            "a lease of {granted_s} s is said to last for {ttl_s} s: the server has only begun to lead"
        );
        return Err(StoreError::Broken { call: "remaining", why });
    }
    Ok(u64::try_from(ttl_s).ok().map(|ttl_s| ttl_s * 1_000))
}

impl Store for EtcdStore {
    fn read(&self, what: Vec<Read>) -> BoxFuture<Result<Reading, StoreError>> {
        self.with(move |inner| async move { inner.read(&what).await })
    }

    fn read_at(&self, key: String, revision: i64) -> BoxFuture<Result<Option<KeyValue>, StoreError>> {
        self.with(move |inner| async move {
            let run = || {
                let key = key.clone();
                inner.link.call("read_at", move |client| async move {
                    let options = GetOptions::new().with_revision(revision);
                    client.kv_client().get(key, Some(options)).await
                })
            };
            match again_if_broken(run).await {
                Ok(answer) => Ok(answer.kvs().first().map(wire::pair)),
                Err(StoreError::Compacted { call, .. }) => Err(StoreError::Compacted { call, revision }),
                Err(error) => Err(error),
            }
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<Result<TxnOutcome, StoreError>> {
        self.with(move |inner| async move {
            let txn = wire::txn(txn);
            let run = || {
                let txn = txn.clone();
                inner.link.call("txn", move |client| async move { client.kv_client().txn(txn).await })
            };
            Ok(wire::outcome(&again_if_unknown(run).await?))
        })
    }

    fn grant(&self, ttl_s: i64) -> BoxFuture<Result<i64, StoreError>> {
        self.with(move |inner| async move {
            let run = || {
                inner.link.call("grant", move |client| async move {
                    client.lease_client().grant(ttl_s, None).await
                })
            };
            Ok(again_if_unknown(run).await?.id())
        })
    }

    fn keep_alive(&self, lease: i64) -> BoxFuture<Result<Renewal, StoreError>> {
        self.with(move |inner| async move {
            again_if_broken(|| inner.keepers.keep_alive(&inner.link, lease)).await
        })
    }

    fn revoke(&self, lease: i64) -> BoxFuture<Result<(), StoreError>> {
        self.with(move |inner| async move {
            let run = || {
                inner
                    .link
                    .call("revoke", move |client| async move { client.lease_client().revoke(lease).await })
            };
            again_if_unknown(run).await.map(|_| ())
        })
    }

    fn remaining(&self, lease: i64) -> BoxFuture<Result<Option<u64>, StoreError>> {
        self.with(move |inner| async move {
            let run = || {
                inner.link.call("remaining", move |client| async move {
                    client.lease_client().time_to_live(lease, None).await
                })
            };
            let answer = again_if_broken(run).await?;
            left_ms(answer.ttl(), answer.granted_ttl())
        })
    }

    fn watch(&self, prefixes: Vec<String>) -> Watch {
        let inner = Arc::clone(&self.inner);
        Watch::spawn(move |events| watch::follow(inner, prefixes, events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_no_longer_than_it_was_granted_for() {
        assert_eq!(left_ms(2, 3), Ok(Some(2_000)));
        assert_eq!(left_ms(0, 3), Ok(Some(0)));
        assert_eq!(left_ms(-1, 0), Ok(None));
        assert!(matches!(left_ms(i64::MAX / 1_000_000_000, 3), Err(StoreError::Broken { .. })));
    }
}
