//! The one connection, who uses it, and when it is given up.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions};
use tokio::sync::{Mutex, watch as signal};
use tonic::transport::Endpoint;

use super::connector::Connector;
use super::{EtcdOptions, errors};
use crate::StoreError;

/// etcd cuts connections that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(7);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// A watch whose reader is slow fills its own stream's window (64 KiB); the connection's must be larger, or it would
/// stop renewals too.
const CONNECTION_WINDOW_BYTES: u32 = 1_024 * 1_024;

pub(super) struct Link {
    options: EtcdOptions,
    connector: Connector,
    current: Mutex<Option<Arc<Client>>>,
    /// Counts the connections that were given up; a watch listens to it.
    given_up: signal::Sender<u64>,
}

impl Link {
    pub fn new(options: EtcdOptions) -> Self {
        let connector = Connector::new(&options);
        Self { options, connector, current: Mutex::new(None), given_up: signal::Sender::new(0) }
    }

    pub fn options(&self) -> &EtcdOptions {
        &self.options
    }

    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.options.call_deadline_ms)
    }

    /// The number of the present connection.
    pub fn generation(&self) -> u64 {
        *self.given_up.borrow()
    }

    /// Wakes when the present connection has been given up.
    pub fn on_given_up(&self) -> signal::Receiver<u64> {
        self.given_up.subscribe()
    }

    /// The client of the present connection and its number. Does not wait for the network.
    pub async fn client(&self) -> Result<(u64, Arc<Client>), StoreError> {
        let mut current = self.current.lock().await;
        let client = match &*current {
            Some(client) => Arc::clone(client),
            None => Arc::clone(current.insert(Arc::new(self.build().await?))),
        };
        Ok((self.generation(), client))
    }

    async fn build(&self) -> Result<Client, StoreError> {
        // An https:// address would make tonic ask for its own TLS; ours is in the connector.
        let endpoint = Endpoint::from_static("http://etcd")
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = Channel::Tonic(endpoint.connect_with_connector_lazy(self.connector.clone()));
        // A server that has lost its leader then says so, instead of being silent.
        let options = ConnectOptions::new().with_require_leader(true);
        Client::from_channel(channel, Some(options)).await.map_err(|error| errors::read("connect", error))
    }

    /// Gives the connection up, unless somebody else already has: the next call opens one to the next endpoint.
    pub async fn give_up(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if self.generation() == generation {
            *current = None;
            self.given_up.send_modify(|count| *count += 1);
        }
    }

    /// Runs one call under the deadline.
    pub async fn call<T, F>(
        &self,
        name: &'static str,
        run: impl FnOnce(Arc<Client>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let (generation, client) = self.client().await?;
        let error = match tokio::time::timeout(self.deadline(), run(client)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => errors::read(name, error),
            Err(_) => StoreError::DeadlineExceeded { call: name, deadline_ms: self.options.call_deadline_ms },
        };
        if error.outcome_unknown() {
            tracing::debug!(%error, generation, "leaving this etcd connection");
            self.give_up(generation).await;
        }
        Err(error)
    }
}
