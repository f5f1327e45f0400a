//! A preflight: facts, each of which may be unknown.

use holdfast_types::preflight::{
    Archiver, OpenTransaction, OpenTransactions, Preflight, StandbyLag, StandbyPreflight, WriterPreflight,
};

use super::{ConvertError, envelope, instance, opened};
use crate::message::InstanceName;
use crate::wire;

impl From<&InstanceName> for wire::PreflightRequest {
    fn from(name: &InstanceName) -> Self {
        Self { envelope: envelope(), instance: Some(name.into()) }
    }
}

impl TryFrom<wire::PreflightRequest> for InstanceName {
    type Error = ConvertError;
    fn try_from(request: wire::PreflightRequest) -> Result<Self, ConvertError> {
        opened(request.envelope)?;
        instance(request.instance)
    }
}

impl From<&Preflight> for wire::PreflightReply {
    fn from(found: &Preflight) -> Self {
        Self {
            envelope: envelope(),
            server_version_num: found.server_version_num,
            data_free_bytes: found.data_free_bytes,
            wal_free_bytes: found.wal_free_bytes,
            writer: found.writer.as_ref().map(Into::into),
            standby: found.standby.map(|standby| wire::StandbyPreflight {
                replay_bytes: standby.replay_bytes,
                replay_paused: standby.replay_paused,
            }),
            operations: found.operations.clone(),
        }
    }
}

impl TryFrom<wire::PreflightReply> for Preflight {
    type Error = ConvertError;
    fn try_from(reply: wire::PreflightReply) -> Result<Self, ConvertError> {
        opened(reply.envelope)?;
        Ok(Self {
            server_version_num: reply.server_version_num,
            data_free_bytes: reply.data_free_bytes,
            wal_free_bytes: reply.wal_free_bytes,
            writer: reply.writer.map(Into::into),
            standby: reply.standby.map(|standby| StandbyPreflight {
                replay_bytes: standby.replay_bytes,
                replay_paused: standby.replay_paused,
            }),
            operations: reply.operations,
        })
    }
}

impl From<&WriterPreflight> for wire::WriterPreflight {
    fn from(writer: &WriterPreflight) -> Self {
        let standbys = writer.standbys.as_ref();
        Self {
            transactions: writer.transactions.as_ref().map(|open| wire::OpenTransactions {
                count: open.count,
                oldest: open.oldest.iter().map(Into::into).collect(),
            }),
            prepared_transactions: writer.prepared_transactions,
            lost_slots: writer.lost_slots.clone().map(|names| wire::LostSlots { names }),
            archiver: writer.archiver.map(|archiver| wire::Archiver {
                is_on: archiver.is_on,
                fails: archiver.fails,
                waiting: archiver.waiting,
            }),
            wal_since_redo_bytes: writer.wal_since_redo_bytes,
            standbys: standbys
                .map(|all| wire::StandbyLags { standbys: all.iter().map(Into::into).collect() }),
        }
    }
}

impl From<wire::WriterPreflight> for WriterPreflight {
    fn from(writer: wire::WriterPreflight) -> Self {
        Self {
            transactions: writer.transactions.map(|open| OpenTransactions {
                count: open.count,
                oldest: open.oldest.into_iter().map(Into::into).collect(),
            }),
            prepared_transactions: writer.prepared_transactions,
            lost_slots: writer.lost_slots.map(|slots| slots.names),
            archiver: writer.archiver.map(|archiver| Archiver {
                is_on: archiver.is_on,
                fails: archiver.fails,
                waiting: archiver.waiting,
            }),
            wal_since_redo_bytes: writer.wal_since_redo_bytes,
            standbys: writer.standbys.map(|all| all.standbys.into_iter().map(Into::into).collect()),
        }
    }
}

impl From<&OpenTransaction> for wire::OpenTransaction {
    fn from(one: &OpenTransaction) -> Self {
        Self {
            pid: one.pid,
            age_ms: one.age_ms,
            idle_in_transaction: one.idle_in_transaction,
            user: one.user.clone(),
            application_name: one.application_name.clone(),
        }
    }
}

impl From<wire::OpenTransaction> for OpenTransaction {
    fn from(one: wire::OpenTransaction) -> Self {
        Self {
            pid: one.pid,
            age_ms: one.age_ms,
            idle_in_transaction: one.idle_in_transaction,
            user: one.user,
            application_name: one.application_name,
        }
    }
}

impl From<&StandbyLag> for wire::StandbyLag {
    fn from(lag: &StandbyLag) -> Self {
        Self {
            application_name: lag.application_name.clone(),
            state: lag.state.clone(),
            flush_bytes: lag.flush_bytes,
            replay_bytes: lag.replay_bytes,
            replay_ms: lag.replay_ms,
        }
    }
}

impl From<wire::StandbyLag> for StandbyLag {
    fn from(lag: wire::StandbyLag) -> Self {
        Self {
            application_name: lag.application_name,
            state: lag.state,
            flush_bytes: lag.flush_bytes,
            replay_bytes: lag.replay_bytes,
            replay_ms: lag.replay_ms,
        }
    }
}
