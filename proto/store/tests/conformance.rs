//! One suite for every implementation of [`Store`](holdfast_store::Store): what the protocol relies on, said once.
#![allow(clippy::unwrap_used)] // Helpers of tests are not seen as tests.

mod server;
mod suite;

use std::sync::Arc;

use etcd_client::Client;
use holdfast_store::MemoryStore;

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

#[tokio::test]
async fn etcd_behaves() {
    let (etcd, store) = server::Etcd::one().await;
    let endpoints = etcd.endpoints();
    suite::run(Arc::new(store), move |revision| {
        let endpoints = endpoints.clone();
        Box::pin(async move {
            let mut client = Client::connect(endpoints, None).await.unwrap();
            client.compact(revision, None).await.unwrap();
        })
    })
    .await;
}
