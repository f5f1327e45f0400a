//! What this member answers to a load balancer: what was seen last, put together. Decides nothing and waits for nothing:
//! `holdfast-agent-core`'s `routing` judges it.

use holdfast_agent_core::member::Postgres;
use holdfast_agent_core::routing::{self, Down, Up, View};
use holdfast_host::clock;
use serde_json::{Value, json};

use super::{Member, TICK};

/// What a client is to do on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Write.
    Writer,
    /// Read, from a standby.
    Replica {
        /// The most that it may be behind.
        max_lag_bytes: Option<u64>,
    },
}

/// The answer, for the one who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether this host is to be used.
    pub is_up: bool,
    why: String,
    cluster: String,
    member: String,
    writer: Option<String>,
    term: Option<u64>,
}

impl Answer {
    /// For the body of the answer.
    pub fn to_json(&self) -> Value {
        let Self { is_up, why, cluster, member, writer, term } = self;
        json!({ "up": is_up, "why": why, "cluster": cluster, "member": member, "writer": writer, "term": term })
    }
}

impl Member {
    /// Answers from what was seen last.
    pub fn route(&self, purpose: &Purpose) -> Answer {
        let (cluster, _) = self.world.watched(&self.keys);
        let now_ms = clock::boottime_ms();
        let session_ttl_ms = self.config.timings.session_ttl_ms();
        let tick_ms = u64::try_from(TICK.as_millis()).expect("a tick is short");
        let view = {
            let state = self.state();
            View {
                me: &self.instance.member,
                cluster: &cluster,
                silent_ms: self.world.silent_ms(now_ms),
                look_age_ms: state.looked_ms.map(|looked_ms| now_ms.saturating_sub(looked_ms)),
                // A look is made once in a tick.
                look_age_ms_max: session_ttl_ms + tick_ms,
                silence_ms_max: session_ttl_ms,
                now_ms,
                postgres: state.postgres.unwrap_or(Postgres::Unknown),
                left_recovery: state.left_recovery,
                patroni_answers: state.patroni_alive && !state.patroni_hung,
                streaming: state.streaming,
                replayed: state.replayed,
                fence: state.fence.or(state.fence_until_done),
            }
        };
        let judged: Result<Up, Down> = match purpose {
            Purpose::Writer => routing::writer(&view),
            Purpose::Replica { max_lag_bytes } => routing::replica(&view, *max_lag_bytes),
        };
        let writer = routing::writer_of(&cluster);
        Answer {
            is_up: judged.is_ok(),
            why: judged.map_or_else(|down| down.to_string(), |up| up.to_string()),
            cluster: self.instance.cluster.to_string(),
            member: self.instance.member.to_string(),
            writer: writer.map(|(writer, _)| writer.to_string()),
            term: writer.and_then(|(_, term)| term).map(|term| term.0),
        }
    }
}
