//! Watches the writer of the open term for signs of life (rule 4), so that a death costs no time when it is certain.
//!
//! At rest it asks etcd once in a while what is left of the writer's session. When the renewals are overdue it begins to
//! probe the writer's PostgreSQL port and to watch what arrives from it. It decides nothing; what it saw stands in
//! [`Suspicion`] for the next decision.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast_agent_core::detach::Life;
use holdfast_agent_core::member::{Suspicion, term_in_force};
use holdfast_host::clock;
use holdfast_types::record::Reign;
use holdfast_types::{Mode, SessionId};

use super::Member;
use crate::observe::life;

/// How many probes are kept.
const PROBES_KEPT: usize = 4;
/// Pause between two probes that answer at once.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// The writer that is being watched.
struct Writer {
    session: SessionId,
    address: String,
    port: u16,
}

impl Member {
    /// Runs until the runtime ends.
    pub(super) async fn suspect(self: Arc<Self>) {
        let interval = Duration::from_millis(self.config.timings.renew_interval_ms().clamp(500, 1_000));
        loop {
            tokio::time::sleep(interval).await;
            let Some(writer) = self.writer_to_watch() else { continue };
            if self.is_late(&writer).await {
                self.state().suspected_at = Some(SystemTime::now());
                self.watch_for_life(&writer).await;
                let mut state = self.state();
                state.suspicion = Suspicion::default();
                state.suspected_at = None;
            }
        }
    }

    fn writer_to_watch(&self) -> Option<Writer> {
        let (cluster, connected) = self.world.watched(&self.keys);
        if !connected || cluster.mode() != Mode::Armed {
            return None;
        }
        let Reign::Open { holder, session, .. } = &term_in_force(&cluster)?.value.reign else { return None };
        if *holder == self.instance.member {
            return None;
        }
        let (address, port) = cluster.address(holder)?;
        Some(Writer { session: *session, address: address.to_owned(), port })
    }

    /// Whether etcd says that the writer's renewals are overdue. No answer is no sign of anything.
    async fn is_late(&self, writer: &Writer) -> bool {
        match self.world.store.remaining(writer.session.0).await {
            Ok(Some(left_ms)) => left_ms <= self.config.timings.late_when_remaining_ms(),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// An idle stream is silent for seconds. When the renewals were seen overdue, the last of them was this old or older.
    fn last_renewal_at_the_latest_ms(&self) -> Option<i64> {
        let timings = &self.config.timings;
        let overdue = timings.session_ttl_ms().saturating_sub(timings.late_when_remaining_ms());
        let seen = self.state().suspected_at?.checked_sub(Duration::from_millis(overdue))?;
        i64::try_from(seen.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis()).ok()
    }

    /// Probes until the writer is in time again or is no longer the writer.
    async fn watch_for_life(&self, writer: &Writer) {
        let deadline = Duration::from_millis(self.config.timings.probe_deadline_ms());
        let mut last_sign = None;
        let mut silent_since_ms = clock::boottime_ms();
        let mut probes: Vec<Life> = Vec::new();
        let mut asked_ms = clock::boottime_ms();
        while self.writer_to_watch().is_some_and(|now| now.session == writer.session) {
            if let Ok(standby) = self.sql.standby().await {
                let renewed_ms = self.last_renewal_at_the_latest_ms();
                self.state().heard_wall_ms = standby.heard_wall_ms.max(renewed_ms);
                let sign = Some((standby.received, standby.last_message));
                if last_sign.is_some() && last_sign != sign {
                    silent_since_ms = clock::boottime_ms();
                    probes.clear();
                }
                last_sign = sign;
            }
            let probe = life::probe(&writer.address, writer.port, deadline).await;
            if probe == Life::Alive {
                silent_since_ms = clock::boottime_ms();
            }
            probes.push(probe);
            if probes.len() > PROBES_KEPT {
                probes.remove(0);
            }
            let silent_ms = clock::boottime_ms().saturating_sub(silent_since_ms);
            self.state().suspicion = Suspicion { late: true, silent_ms, probes: probes.clone() };
            self.wake.notify_one();
            if clock::boottime_ms().saturating_sub(asked_ms) >= 1_000 {
                asked_ms = clock::boottime_ms();
                if !self.is_late(writer).await {
                    return;
                }
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }
}
