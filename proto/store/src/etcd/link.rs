//! The one connection, who uses it, and when it is given up.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Channel, Client, ConnectOptions};
use tokio::sync::{Mutex, watch as signal};
use tonic::transport::Endpoint;

use super::connector::Connector;
use super::credentials::Credentials;
use super::{EtcdOptions, errors};
use crate::StoreError;

/// etcd cuts connections that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(7);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// A watch whose reader is slow fills its own stream's window (64 KiB); the connection's must be larger, or it would
/// stop renewals too.
const CONNECTION_WINDOW_BYTES: u32 = 1_024 * 1_024;

/// A missing permission is logged at most this often.
const DENIED_PAUSE: Duration = Duration::from_secs(60);

pub(super) struct Link {
    options: EtcdOptions,
    connector: Connector,
    credentials: Option<Credentials>,
    current: Mutex<Option<Connected>>,
    /// Counts the connections that were given up; a watch listens to it.
    given_up: signal::Sender<u64>,
    denied: std::sync::Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Connected {
    client: Arc<Client>,
    /// Whether etcd has given us a token for our password; it gives none while it has no users.
    has_token: bool,
}

impl Link {
    pub fn new(options: EtcdOptions) -> Self {
        let (connector, credentials) = (Connector::new(&options), options.user.clone().map(Credentials::new));
        let given_up = signal::Sender::new(0);
        Self {
            options,
            connector,
            credentials,
            current: Mutex::new(None),
            given_up,
            denied: std::sync::Mutex::new(None),
        }
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

    /// The present connection and its number. Waits for the network only where a password has to be shown first; whoever
    /// comes meanwhile waits for the same answer.
    async fn connected(&self) -> Result<(u64, Connected), StoreError> {
        let mut current = self.current.lock().await;
        let connected = match &*current {
            Some(connected) => connected.clone(),
            None => current.insert(self.connect().await?).clone(),
        };
        Ok((self.generation(), connected))
    }

    async fn connect(&self) -> Result<Connected, StoreError> {
        // A server that has lost its leader then says so, instead of being silent.
        let options = ConnectOptions::new().with_require_leader(true);
        let Some(credentials) = &self.credentials else {
            return Ok(Connected { client: self.client(options).await?, has_token: false });
        };
        let password = credentials.password().await?;
        let shown = options.clone().with_user(credentials.name(), password.clone());
        match self.client(shown.with_auto_token_refresh(true)).await {
            Ok(client) => Ok(Connected { client, has_token: true }),
            Err(error) if errors::has_no_users(&error) => {
                Ok(Connected { client: self.client(options).await?, has_token: false })
            }
            Err(StoreError::Unauthenticated { why, .. }) => Err(credentials.refused(password, &why)),
            Err(error) => Err(error),
        }
    }

    async fn client(&self, options: ConnectOptions) -> Result<Arc<Client>, StoreError> {
        // An https:// address would make tonic ask for its own TLS; ours is in the connector.
        let endpoint = Endpoint::from_static("http://etcd")
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = Channel::Tonic(endpoint.connect_with_connector_lazy(self.connector.clone()));
        let client = Client::from_channel(channel, Some(options)).await;
        client.map(Arc::new).map_err(|error| errors::read("authenticate", error))
    }

    /// Gives the connection up, unless somebody else already has: the next call opens one to the next endpoint.
    pub async fn give_up(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if self.generation() == generation {
            *current = None;
            self.given_up.send_modify(|count| *count += 1);
        }
    }

    /// Runs one call under the deadline, the way to a connection included.
    pub async fn call<T, F>(
        &self,
        name: &'static str,
        run: impl FnOnce(Arc<Client>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut of = None;
        let work = async {
            let (generation, connected) = self.connected().await?;
            of = Some((generation, connected.has_token));
            run(connected.client).await.map_err(|error| errors::read(name, error))
        };
        let error = match tokio::time::timeout(self.deadline(), work).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => StoreError::DeadlineExceeded { call: name, deadline_ms: self.options.call_deadline_ms },
        };
        // Without a connection there is none to leave: the next attempt opens one to the next endpoint.
        match of {
            Some((generation, has_token)) => Err(self.judge(error, generation, has_token).await),
            None => Err(error),
        }
    }

    /// Leaves a connection that is of no use any more.
    async fn judge(&self, error: StoreError, generation: u64, has_token: bool) -> StoreError {
        // etcd has got its users since we connected.
        let unknown = self.credentials.is_some() && !has_token && errors::is_permission(&error);
        let error = match error {
            StoreError::Refused { call, why } if unknown => StoreError::Unauthenticated { call, why },
            error => error,
        };
        if error.outcome_unknown() || matches!(error, StoreError::Unauthenticated { .. }) {
            tracing::debug!(%error, generation, "leaving this etcd connection");
            self.give_up(generation).await;
        } else if errors::is_permission(&error) && self.is_to_be_said() {
            tracing::error!("{error}");
        }
        error
    }

    fn is_to_be_said(&self) -> bool {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        let due = denied.is_none_or(|last| last.elapsed() >= DENIED_PAUSE);
        if due {
            *denied = Some(Instant::now());
        }
        due
    }
}
