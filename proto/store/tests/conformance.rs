//! One suite for every implementation of [`Store`]: what the protocol relies on, said once.

mod suite;

use std::sync::Arc;

use holdfast_store::{MemoryStore, Store};

#[tokio::test]
async fn memory_behaves() {
    let memory = MemoryStore::new();
    let compactor = memory.clone();
    suite::run(Arc::new(memory), move |revision| {
        compactor.compact(revision);
        Box::pin(std::future::ready(()))
    })
    .await;
}
