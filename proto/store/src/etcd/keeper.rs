//! Renewals of leases over one open stream: a renewal is then one small frame each way.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use etcd_client::{Error, LeaseKeepAliveStream, LeaseKeeper};

use super::link::Link;
use crate::{Renewal, StoreError};

/// The stream of the lease that was renewed last; a host has one.
#[derive(Default)]
pub(super) struct Keepers {
    last: Mutex<Option<Keeper>>,
}

struct Keeper {
    lease: i64,
    generation: u64,
    requests: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Keepers {
    pub async fn keep_alive(&self, link: &Link, lease: i64) -> Result<Renewal, StoreError> {
        let call = "keep_alive";
        // Taken out while in use: a caller that is dropped in between takes the stream along, so that nobody can take
        // an old answer for a new one.
        let open = self.take().filter(|open| open.lease == lease && open.generation == link.generation());
        let mut sent = Instant::now();
        if let Some(mut open) = open {
            match link.call(call, |_| async move { open.renew().await.map(|ttl_s| (ttl_s, open)) }).await {
                Ok((ttl_s, open)) if ttl_s > 0 => return Ok(self.keep(open, sent, ttl_s)),
                Ok(_) => return Err(StoreError::LeaseNotFound { call }),
                // The server has ended the stream, for example at an election, or at the end of a token: open another.
                Err(StoreError::Broken { .. } | StoreError::Unauthenticated { .. }) => {}
                Err(error) => return Err(error),
            }
            sent = Instant::now();
        }
        let generation = link.generation();
        let (ttl_s, open) = link
            .call(call, |client| async move {
                // The client reads the first answer itself and keeps its time to live for itself; ask again.
                let (requests, answers) = client.lease_client().keep_alive(lease).await?;
                let mut open = Keeper { lease, generation, requests, answers };
                open.renew().await.map(|ttl_s| (ttl_s, open))
            })
            .await?;
        if ttl_s <= 0 {
            return Err(StoreError::LeaseNotFound { call });
        }
        Ok(self.keep(open, sent, ttl_s))
    }

    fn take(&self) -> Option<Keeper> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep(&self, open: Keeper, sent: Instant, ttl_s: i64) -> Renewal {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(open);
        Renewal { ttl_ms: u64::try_from(ttl_s).unwrap_or(0) * 1_000, sent }
    }
}

impl Keeper {
    /// Sends one renewal and returns the time to live that the server answers, in seconds.
    async fn renew(&mut self) -> Result<i64, Error> {
        self.requests.keep_alive().await?;
        match self.answers.message().await? {
            Some(answer) => Ok(answer.ttl()),
            None => Err(Error::WatchError("the server ended the stream of renewals".into())),
        }
    }
}
