//! The answers to the two gates: may PostgreSQL start, may it be promoted.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::expired;
use holdfast_agent_core::local_disarm;
use holdfast_agent_core::member::{OwnSession, term_in_force};
use holdfast_agent_core::open;
use holdfast_agent_core::start_gate::{self, StartAs};
use holdfast_host::clock;
use holdfast_proto::trace::TraceContext;
use holdfast_types::{Class, ClusterId, Mode, Position, Term};
use tokio::sync::watch;

use super::Member;
use crate::act;
use crate::gate::protocol::Answer;

/// The start gate must have decided within 2 s of its birth; etcd gets the smaller part of that.
const READ_DEADLINE: Duration = Duration::from_millis(700);
/// How often the hook looks again when nothing changes.
const HOOK_POLL: Duration = Duration::from_millis(50);
/// Patroni's default `ttl`, for when its configuration cannot be read.
const PATRONI_TTL_MS: u64 = 30_000;
/// A comparison of OPEN failed.
const CHANGED: &str = "etcd has changed since; it is read again";

impl Member {
    /// Rules 9, I5 and I12: whether the postmaster may start now.
    pub async fn may_start(&self, standby: bool) -> Answer {
        let start_as = if standby { StartAs::Standby } else { StartAs::Primary };
        let read = tokio::time::timeout(READ_DEADLINE, self.world.read(&self.keys)).await;
        let cluster = read.ok().and_then(Result::ok);
        let has_terms = self.instance.class != Class::On;
        let contradiction =
            cluster.as_ref().filter(|_| has_terms).and_then(|cluster| self.contradiction(cluster));
        // An etcd that has forgotten what we know is no better than one that does not answer.
        let cluster = cluster.filter(|_| contradiction.is_none());
        let (remembered, local) = {
            let state = self.state();
            (state.remembered.clone(), state.disarmed_here().cloned())
        };
        let fences = has_terms && local.is_none();
        let given_back = cluster.as_ref().is_some_and(|cluster| self.has_given_back(cluster));
        let fenced = match &cluster {
            Some(cluster) => act::why_kept_out(cluster, &self.instance.member),
            None => remembered.fenced,
        };
        let answer = start_gate::decide(&start_gate::View {
            me: &self.instance.member,
            mode: cluster.as_ref().and_then(Cluster::known_mode),
            agent_gone: false,
            contradiction: contradiction.as_deref(),
            last_known_mode: remembered.mode,
            local: local.as_ref(),
            start_as,
            fenced: fenced.as_deref(),
            attesting: remembered.attesting,
            given_back,
            term: cluster.as_ref().and_then(term_in_force).map(|term| &term.value),
            term_unreadable: cluster.as_ref().is_some_and(Cluster::cannot_tell_terms),
            has_terms,
            needs_session: self.instance.class == Class::Off,
            own_session: self.own().map(|own| own.session),
        });
        let is_writer = cluster.as_ref().and_then(term_in_force).is_some_and(|term| {
            fences && !standby && term.value.open_holder() == Some(&self.instance.member)
        });
        if matches!(answer, start_gate::Answer::Pass) && fences {
            self.note_away().await;
        }
        match answer {
            start_gate::Answer::Pass if is_writer => match act::fence::close_before_start(self).await {
                Ok(()) => {
                    self.fence_wake.notify_one();
                    Answer::Pass
                }
                Err(error) => Answer::Refuse { why: format!("its fence cannot be set: {error:#}") },
            },
            start_gate::Answer::Pass => Answer::Pass,
            start_gate::Answer::Refuse(why) => {
                tracing::warn!(cluster = %self.instance.cluster, "PostgreSQL is kept from starting: {why}");
                Answer::Refuse { why }
            }
        }
    }

    /// Rule 10: whether the open term is given back, by what we have decided or by what stands in etcd.
    fn has_given_back(&self, cluster: &Cluster) -> bool {
        let by_us = |term: Term| self.hooks.now().is_given_back(term);
        cluster.attested() || term_in_force(cluster).is_some_and(|term| by_us(term.value.term))
    }

    /// Rules 14 and 16: opens the next term, waits, or refuses. `None` when the hook is gone.
    /// `waited_ms` is the hook's own count, so that a restart of the agent does not begin it again.
    pub async fn may_promote(
        &self,
        waited_ms: u64,
        gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<Promotion> {
        let (begun_ms, start) = (clock::boottime_ms(), SystemTime::now());
        let attempt = || {
            let waited_ms = waited_ms + clock::boottime_ms() - begun_ms;
            async move {
                match self.try_to_open(waited_ms).await {
                    // A PostgreSQL or an etcd that does not answer must not keep the lock for longer than a decision may.
                    Err(error) if waited_ms >= self.hook_wait_ms_max() => {
                        Ok(Attempt::Decided(Promotion::Refuse(format!("{error:#}")), None))
                    }
                    other => other,
                }
            }
        };
        let cluster = &self.instance.cluster;
        let (decided, trace) = until_decided(cluster, self.world.changes(), gone, attempt).await?;
        match &decided {
            Promotion::Refuse(why) => tracing::warn!(%cluster, "not promoted: {why}"),
            Promotion::Pass | Promotion::PassIn(_) => {
                act::trace::step(&self.telemetry, trace, "gate", start, &[])
            }
        }
        Some(decided)
    }

    /// For how long the session of the open term has been seen gone, in milliseconds; 0 while it is there.
    pub fn writer_gone_ms(&self, cluster: &Cluster) -> u64 {
        self.state().gone.look(cluster, clock::boottime_ms())
    }

    /// Rule 16: twice Patroni's ttl, as far as it is known.
    fn hook_wait_ms_max(&self) -> u64 {
        let (cluster, _) = self.world.watched(&self.keys);
        2 * cluster.config.map_or(PATRONI_TTL_MS, |config| config.ttl_ms)
    }

    /// OPEN, and the fence that stands before our promotion. Returns whether the term is ours.
    async fn open(
        &self,
        term: Term,
        own: OwnSession,
        open: impl Future<Output = anyhow::Result<bool>>,
    ) -> anyhow::Result<bool> {
        // Side by side, because both take their time, and neither is cancelled by the other's failure.
        match tokio::join!(open, self.prepare_fence(term)) {
            (Ok(true), Ok(())) => {
                self.fence_for(term, own).await?;
                Ok(true)
            }
            (Ok(false), _) => {
                self.was_not_opened();
                Ok(false)
            }
            (Err(error), _) | (Ok(true), Err(error)) => Err(error),
        }
    }

    async fn try_to_open(&self, waited_ms: u64) -> anyhow::Result<Attempt> {
        if let Some(decided) = self.opened_by_a_person() {
            return Ok(Attempt::Decided(decided, None));
        }
        let setting = self.sql.setting().await?;
        let replayed = act::position::replayed(self).await;
        // Read last: what was seen of PostgreSQL is older than what etcd says, never the other way round.
        let cluster = self.world.read(&self.keys).await?;
        let has_terms = self.instance.class != Class::On;
        if let Some(why) = self.contradiction(&cluster).filter(|_| has_terms) {
            return Ok(Attempt::Wait(why));
        }
        match cluster.known_mode() {
            None => return Ok(Attempt::Wait("the mode record cannot be read; upgrade this host".into())),
            Some(Mode::Armed) => {}
            Some(Mode::Observe | Mode::Disarmed) => return Ok(Attempt::Decided(Promotion::Pass, None)),
        }
        let fenced = act::why_kept_out(&cluster, &self.instance.member);
        if !has_terms {
            let decided = fenced.map_or(Promotion::Pass, Promotion::Refuse);
            return Ok(Attempt::Decided(decided, None));
        }
        let Some(own) = self.own() else {
            return Ok(Attempt::Wait("our own session is not known to be alive".into()));
        };
        if self.instance.class == Class::Off {
            return self.try_to_follow(&cluster, own, fenced.as_deref(), waited_ms).await;
        }
        let suspended = cluster.why_suspended(clock::wall_ms());
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
            wrote_last: cluster.kept_its_data(&self.instance.member),
            given_back: self.has_given_back(&cluster),
            holder_could_lead: cluster.holder_could_lead(),
            overriding: cluster.override_in_force(),
            barred: fenced.as_deref(),
            suspended: suspended.as_deref(),
            waited_ms,
            wait_ms_max: self.hook_wait_ms_max(),
        });
        self.do_as(answer, &cluster, own, replayed).await
    }

    /// What a local disarm that stands says of a promotion here.
    fn opened_by_a_person(&self) -> Option<Promotion> {
        let state = self.state();
        let fenced = state.remembered.fenced.as_deref();
        let opens = local_disarm::opens(state.disarmed_here(), fenced, &self.instance.member)?;
        Some(opens.map_or_else(Promotion::Refuse, |()| Promotion::Pass))
    }

    async fn do_as(
        &self,
        answer: open::Answer,
        cluster: &Cluster,
        own: OwnSession,
        replayed: Option<Position>,
    ) -> anyhow::Result<Attempt> {
        let pass_in = |term| Attempt::Decided(Promotion::PassIn(term), act::trace::of_record(cluster));
        Ok(match answer {
            open::Answer::Open(plan) => {
                let opening = act::open::open(self, cluster, &plan);
                if self.open(plan.opened.term, own, opening).await? {
                    // After OPEN: whoever lost the race for it may have to follow one of these timelines.
                    act::timeline::hold(self, replayed, plan.opened.timeline).await?;
                    pass_in(plan.opened.term)
                } else {
                    Attempt::Wait(CHANGED.into())
                }
            }
            open::Answer::NoTermYet => Attempt::Decided(Promotion::Pass, None),
            open::Answer::AlreadyOpen(term) => {
                self.fence_for(term, own).await?;
                let reserved = term_in_force(cluster).and_then(|record| record.value.timeline);
                act::timeline::hold(self, replayed, reserved).await?;
                pass_in(term)
            }
            open::Answer::Reserve { record, term_mod_revision } => {
                act::term::put(self, cluster, &record, term_mod_revision).await?;
                Attempt::Wait("the timeline id that PostgreSQL takes next is reserved first".into())
            }
            open::Answer::Wait(why) => Attempt::Wait(why),
            open::Answer::Refuse(why) => Attempt::Decided(Promotion::Refuse(why), None),
        })
    }

    /// Class `off`: the last writer's lease is waited for, or its agent's word.
    async fn try_to_follow(
        &self,
        cluster: &Cluster,
        own: OwnSession,
        fenced: Option<&str>,
        waited_ms: u64,
    ) -> anyhow::Result<Attempt> {
        let gone_ms = self.writer_gone_ms(cluster);
        let (granted, remembered) = {
            let state = self.state();
            (clock::boottime_ms() < state.granted_until_ms, state.remembered.clone())
        };
        let answer = expired::decide(&expired::View {
            cluster,
            me: &self.instance.member,
            own,
            known_term: remembered.known_term(),
            gone_ms,
            timings: &self.config.timings,
            granted,
            given_back: remembered.attesting || self.has_given_back(cluster),
            barred: fenced,
            now_wall_ms: clock::wall_ms(),
            waited_ms,
            wait_ms_max: self.hook_wait_ms_max(),
        });
        let pass_in = |term| Attempt::Decided(Promotion::PassIn(term), act::trace::of_incident(cluster));
        Ok(match answer {
            expired::Answer::Open(plan) => {
                let opening = act::expired::open(self, cluster, &plan);
                match self.open(plan.opened.term, own, opening).await? {
                    true => pass_in(plan.opened.term),
                    false => Attempt::Wait(CHANGED.into()),
                }
            }
            expired::Answer::AlreadyOpen(term) => {
                self.fence_for(term, own).await?;
                Attempt::Decided(Promotion::PassIn(term), act::trace::of_record(cluster))
            }
            expired::Answer::Pass => Attempt::Decided(Promotion::Pass, None),
            expired::Answer::Wait(why) => Attempt::Wait(why),
            expired::Answer::Refuse(why) => Attempt::Decided(Promotion::Refuse(why), None),
        })
    }
}

/// Tries until it is decided or the hook is gone. An attempt that has begun is always brought to its end: nobody could
/// tell otherwise whether its transaction was done. A hook that is gone gets no further one.
async fn until_decided<C, A: Future<Output = anyhow::Result<Attempt>>>(
    cluster: &ClusterId,
    mut changes: watch::Receiver<C>,
    mut gone: Pin<&mut impl Future<Output = ()>>,
    mut attempt: impl FnMut() -> A,
) -> Option<(Promotion, Option<TraceContext>)> {
    let mut said = String::new();
    // The first look waits for nothing.
    changes.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = &mut gone => return None,
            _ = changes.changed() => {}
            () = tokio::time::sleep(HOOK_POLL) => {}
        }
        changes.mark_unchanged();
        match attempt().await {
            Ok(Attempt::Decided(decided, trace)) => return Some((decided, trace)),
            Ok(Attempt::Wait(why)) if why == said => {}
            Ok(Attempt::Wait(why)) => {
                tracing::info!(%cluster, "the promotion waits: {why}");
                said = why;
            }
            Err(error) => tracing::info!(%cluster, "the promotion waits: {error:#}"),
        }
    }
}

/// What a promotion hook is to be told.
#[derive(Debug, PartialEq, Eq)]
pub enum Promotion {
    /// Go on: terms do not hold it back (the cluster is not armed, or has none yet).
    Pass,
    /// Go on in this term, which is open for this node, unless it is given back meanwhile.
    PassIn(Term),
    /// This node must not lead.
    Refuse(String),
}

impl Promotion {
    /// The answer, as it is sent.
    pub fn answer(self) -> Answer {
        match self {
            Self::Pass | Self::PassIn(_) => Answer::Pass,
            Self::Refuse(why) => Answer::Refuse { why },
        }
    }
}

/// How one attempt to open the next term ended.
enum Attempt {
    /// With an answer, within this incident.
    Decided(Promotion, Option<TraceContext>),
    /// Look again.
    Wait(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::{Namespace, RegionName, Scope};
    use std::pin::pin;
    use tokio::sync::oneshot;

    fn cluster() -> ClusterId {
        ClusterId {
            region: RegionName::new("r1").unwrap(),
            namespace: Namespace::new("service").unwrap(),
            scope: Scope::new("main").unwrap(),
        }
    }

    #[tokio::test]
    async fn a_hook_that_is_gone_gets_no_further_attempt() {
        let (_sender, changes) = watch::channel(());
        let (hook, gone) = oneshot::channel::<()>();
        let (mut hook, mut attempts) = (Some(hook), 0);
        let gone = pin!(async move { drop(gone.await) });
        let attempt = || {
            attempts += 1;
            if attempts == 3 {
                hook = None;
            }
            async { Ok(Attempt::Wait("not yet".into())) }
        };
        assert!(until_decided(&cluster(), changes, gone, attempt).await.is_none());
        assert_eq!(attempts, 3);
    }

    #[tokio::test]
    async fn an_attempt_that_has_begun_is_brought_to_its_end() {
        let (_sender, changes) = watch::channel(());
        let (hook, gone) = oneshot::channel::<()>();
        let mut hook = Some(hook);
        let gone = pin!(async move { drop(gone.await) });
        // The hook goes while the transaction is under way, and the transaction opens the term.
        let attempt = || {
            hook = None;
            async {
                tokio::time::sleep(HOOK_POLL).await;
                Ok(Attempt::Decided(Promotion::PassIn(Term(5)), None))
            }
        };
        let decided = until_decided(&cluster(), changes, gone, attempt).await;
        assert_eq!(decided.map(|(decided, _)| decided), Some(Promotion::PassIn(Term(5))));
    }
}
