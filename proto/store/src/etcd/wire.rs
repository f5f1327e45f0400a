//! Between our types and the client's. Pure.

use etcd_client::{
    Compare as EtcdCompare, CompareOp, DeleteOptions, GetOptions, KeyValue as EtcdPair, PutOptions,
    ResponseHeader, Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse,
};

use crate::{Compare, KeyValue, Read, Reading, Txn, TxnOutcome, Write};

pub(super) fn pair(pair: &EtcdPair) -> KeyValue {
    KeyValue {
        key: String::from_utf8_lossy(pair.key()).into_owned(),
        value: pair.value().to_vec(),
        create_revision: pair.create_revision(),
        mod_revision: pair.mod_revision(),
        version: pair.version(),
        lease: pair.lease(),
    }
}

/// A transaction without comparisons: etcd answers all of it at one revision, without a write to the log.
pub(super) fn read_txn(what: &[Read]) -> EtcdTxn {
    let gets: Vec<TxnOp> = what
        .iter()
        .map(|read| match read {
            Read::Key(key) => TxnOp::get(key.as_str(), None),
            Read::Prefix(prefix) => TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix())),
        })
        .collect();
    EtcdTxn::new().and_then(gets)
}

pub(super) fn txn(txn: Txn) -> EtcdTxn {
    let compares: Vec<EtcdCompare> = txn.compares.into_iter().map(compare).collect();
    let writes: Vec<TxnOp> = txn.writes.into_iter().map(write).collect();
    let reads: Vec<TxnOp> = txn.otherwise_read.into_iter().map(|key| TxnOp::get(key, None)).collect();
    EtcdTxn::new().when(compares).and_then(writes).or_else(reads)
}

fn compare(compare: Compare) -> EtcdCompare {
    let equal = CompareOp::Equal;
    match compare {
        Compare::ModRevision { key, is } => EtcdCompare::mod_revision(key, equal, is),
        Compare::CreateRevision { key, is } => EtcdCompare::create_revision(key, equal, is),
        Compare::Version { key, is } => EtcdCompare::version(key, equal, is),
        Compare::Lease { key, is } => EtcdCompare::lease(key, equal, is),
        Compare::Value { key, is } => EtcdCompare::value(key, equal, is),
    }
}

fn write(write: Write) -> TxnOp {
    match write {
        Write::Put { key, value, lease } => TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease))),
        Write::PutSameValue { key } => {
            TxnOp::put(key, "", Some(PutOptions::new().with_ignore_value().with_ignore_lease()))
        }
        Write::Delete { key } => TxnOp::delete(key, None),
        Write::DeletePrefix { prefix } => TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix())),
    }
}

pub(super) fn reading(answer: &TxnResponse) -> Reading {
    let header = answer.header();
    Reading {
        revision: header.map_or(0, ResponseHeader::revision),
        cluster_id: header.map_or(0, ResponseHeader::cluster_id),
        pairs: pairs(answer),
    }
}

pub(super) fn outcome(answer: &TxnResponse) -> TxnOutcome {
    let revision = answer.header().map_or(0, ResponseHeader::revision);
    if answer.succeeded() {
        TxnOutcome::Succeeded { revision }
    } else {
        TxnOutcome::Refused { revision, read: pairs(answer) }
    }
}

fn pairs(answer: &TxnResponse) -> Vec<KeyValue> {
    let mut all = Vec::new();
    for response in answer.op_responses() {
        if let TxnOpResponse::Get(get) = response {
            all.extend(get.kvs().iter().map(pair));
        }
    }
    all
}
