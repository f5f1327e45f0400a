//! The answers to the two gates: may PostgreSQL start, may it be promoted.

use std::time::{Duration, SystemTime};

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::term_in_force;
use holdfast_agent_core::open;
use holdfast_agent_core::start_gate::{self, StartAs};
use holdfast_host::clock;
use holdfast_proto::trace::TraceContext;
use holdfast_types::{Class, Mode};

use super::Member;
use crate::act;
use crate::gate::protocol::Answer;

/// The start gate must have decided within 2 s of its birth; etcd gets the smaller part of that.
const READ_DEADLINE: Duration = Duration::from_millis(700);
/// How often the hook looks again when nothing changes.
const HOOK_POLL: Duration = Duration::from_millis(50);
/// Patroni's default `ttl`, for when its configuration cannot be read.
const PATRONI_TTL_MS: u64 = 30_000;

impl Member {
    /// Rules 9, I5 and I12: whether the postmaster may start now.
    pub async fn may_start(&self, standby: bool) -> Answer {
        let start_as = if standby { StartAs::Standby } else { StartAs::Primary };
        let read = tokio::time::timeout(READ_DEADLINE, self.world.read(&self.keys)).await;
        let cluster = read.ok().and_then(Result::ok);
        let remembered = self.state().remembered.clone();
        let fenced = match &cluster {
            Some(cluster) => act::why_kept_out(cluster, &self.instance.member),
            None => remembered.fenced,
        };
        let answer = start_gate::decide(&start_gate::View {
            me: &self.instance.member,
            mode: cluster.as_ref().and_then(Cluster::known_mode),
            agent_gone: false,
            last_known_mode: remembered.mode,
            start_as,
            fenced: fenced.as_deref(),
            attesting: remembered.attesting,
            term: cluster.as_ref().and_then(term_in_force).map(|term| &term.value),
            term_unreadable: cluster.as_ref().is_some_and(Cluster::cannot_tell_terms),
            has_terms: self.instance.class == Class::Quorum,
        });
        match answer {
            start_gate::Answer::Pass => Answer::Pass,
            start_gate::Answer::Refuse(why) => {
                tracing::warn!(cluster = %self.instance.cluster, "PostgreSQL is kept from starting: {why}");
                Answer::Refuse { why }
            }
        }
    }

    /// Rules 14 and 16: opens the next term, waits, or refuses.
    /// `waited_ms` is the hook's own count, so that a restart of the agent does not begin it again.
    pub async fn may_promote(&self, waited_ms: u64) -> Answer {
        let (begun_ms, start) = (clock::boottime_ms(), SystemTime::now());
        let mut changes = self.world.changes();
        let mut said = String::new();
        loop {
            changes.mark_unchanged();
            match self.try_to_open(waited_ms + clock::boottime_ms() - begun_ms).await {
                Ok(Attempt::Pass(trace)) => {
                    act::trace::step(&self.telemetry, trace, "gate", start, &[]);
                    return Answer::Pass;
                }
                Ok(Attempt::Refuse(why)) => {
                    tracing::warn!(cluster = %self.instance.cluster, "not promoted: {why}");
                    return Answer::Refuse { why };
                }
                Ok(Attempt::Wait(why)) if why == said => {}
                Ok(Attempt::Wait(why)) => {
                    tracing::info!(cluster = %self.instance.cluster, "the promotion waits: {why}");
                    said = why;
                }
                Err(error) => {
                    tracing::info!(cluster = %self.instance.cluster, "the promotion waits: {error:#}")
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(HOOK_POLL) => {}
            }
        }
    }

    async fn try_to_open(&self, waited_ms: u64) -> anyhow::Result<Attempt> {
        let setting = self.sql.setting().await?;
        let replayed = act::position::replayed(self).await;
        // Read last: what was seen of PostgreSQL is older than what etcd says, never the other way round.
        let cluster = self.world.read(&self.keys).await?;
        match cluster.known_mode() {
            None => return Ok(Attempt::Wait("the mode record cannot be read; upgrade this host".into())),
            Some(Mode::Armed) => {}
            Some(Mode::Observe | Mode::Disarmed) => return Ok(Attempt::Pass(None)),
        }
        let fenced = act::why_kept_out(&cluster, &self.instance.member);
        if self.instance.class != Class::Quorum {
            return Ok(fenced.map_or(Attempt::Pass(None), Attempt::Refuse));
        }
        let Some(own) = self.own() else {
            return Ok(Attempt::Wait("our own session is not known to be alive".into()));
        };
        let answer = open::decide(&open::View {
            me: &self.instance.member,
            incarnation: own.incarnation,
            session: own.session,
            term: term_in_force(&cluster),
            term_unreadable: cluster.cannot_tell_terms(),
            data_uuids: &cluster.data_uuids(),
            leader_key: cluster.leader_key.as_ref(),
            sync: cluster.sync.as_ref(),
            replayed,
            actual: setting.as_ref(),
            holder_could_lead: cluster.holder_could_lead(),
            barred: fenced.as_deref(),
            waited_ms,
            wait_ms_max: 2 * cluster.config.map_or(PATRONI_TTL_MS, |config| config.ttl_ms),
        });
        Ok(match answer {
            open::Answer::Open(plan) if act::open::open(self, &cluster, &plan).await? => {
                Attempt::Pass(act::trace::of_record(&cluster))
            }
            open::Answer::NoTermYet => Attempt::Pass(None),
            open::Answer::AlreadyOpen => Attempt::Pass(act::trace::of_record(&cluster)),
            open::Answer::Open(_) => Attempt::Wait("etcd has changed since; it is read again".into()),
            open::Answer::Wait(why) => Attempt::Wait(why),
            open::Answer::Refuse(why) => Attempt::Refuse(why),
        })
    }
}

/// How one attempt to open the next term ended.
enum Attempt {
    /// It is open, within this incident; or the cluster is not armed.
    Pass(Option<TraceContext>),
    /// Look again.
    Wait(String),
    /// This node must not lead.
    Refuse(String),
}
