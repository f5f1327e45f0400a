//! The store seam: everything that Holdfast reads from etcd or writes to it goes through [`Store`].
//!
//! The trait says no more than the protocol needs: a read of several keys at one revision, a transaction with
//! comparisons, leases, and a watch that survives everything. [`EtcdStore`] speaks to real servers, [`MemoryStore`]
//! has the same semantics without them; one suite (`tests/conformance.rs`) holds both to it.
//!
//! What this crate never does: decide. It knows no record beyond the convenience of [`decode`], retries no write, and
//! reports an unknown outcome as unknown. Called by the agent and by the operator's command line.

mod error;
mod etcd;
mod memory;
mod model;
mod store;
mod typed;
mod watch;

pub use error::StoreError;
pub use etcd::{EndpointHealth, EndpointStatus, EtcdHealth, EtcdOptions, EtcdStore, EtcdUser, TlsSource};
pub use memory::MemoryStore;
pub use model::{Compare, KeyValue, Read, Reading, Renewal, Txn, TxnOutcome, Write};
pub use store::{BoxFuture, Store};
pub use typed::{decode, decode_from};
pub use watch::{Watch, WatchEvent};
