//! The two gates that Patroni runs, and the agent's answers to them: `agent/src/gate/*.rs`, `agent/src/member/gates.rs`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::term_in_force;
use holdfast_agent_core::start_gate::{self, StartAs};
use holdfast_agent_core::{open, timeline};
use holdfast_types::record::Reign;
use holdfast_types::{Mode, Position, Term, Timeline};

use super::{Agent, Done};
use crate::simulator::executor::{Signal, join, ms, wait};
use crate::simulator::mutant::Mutant;
use crate::simulator::world::Sim;

const ANSWER_DEADLINE_US: u64 = ms(1_400);
const READ_DEADLINE_US: u64 = ms(700);
const HOOK_POLL_US: u64 = ms(50);
const HOOK_WAIT_MAX_US: u64 = ms(90_000);
const HOOK_RETRY_US: u64 = ms(100);
const PATRONI_TTL_MS: u64 = 30_000;

/// A question over the agent's socket: answered by a task of the agent's process. `None`: it did not answer in time, or died.
async fn ask<T: 'static, F: Future<Output = T> + 'static>(
    world: &Sim,
    host: usize,
    deadline_us: u64,
    question: impl FnOnce(Rc<Agent>) -> F,
) -> Option<T> {
    let agent = world.hosts[host].agent.borrow().clone()?;
    let (answer, answered) = (Rc::new(RefCell::new(None)), Signal::new(&world.executor));
    let (slot, signal, process) = (Rc::clone(&answer), Rc::clone(&answered), agent.process);
    let work = question(agent);
    world.executor.spawn(process, async move {
        *slot.borrow_mut() = Some(work.await);
        signal.raise();
    });
    let until_us = world.executor.now_us() + deadline_us;
    loop {
        let left_us = until_us.saturating_sub(world.executor.now_us());
        if answer.borrow().is_some() || left_us == 0 || !world.executor.lives(process) {
            return answer.borrow_mut().take();
        }
        wait(&world.executor, left_us.min(ms(100)), &[(&answered, 0)]).await;
    }
}

/// The start gate: it asks the agent, and decides by what is on disk when that does not answer.
pub async fn may_start(world: &Sim, host: usize, standby: bool) -> bool {
    world.pause(ms(2), ms(20)).await;
    let answer = ask(world, host, ANSWER_DEADLINE_US, |agent| async move { agent.may_start(standby).await });
    if let Some(answer) = answer.await {
        return answer;
    }
    let here = &world.hosts[host];
    let remembered = here.state_dir.borrow().remembered.clone();
    let answer = start_gate::decide(&start_gate::View {
        local: None,
        me: &here.member,
        mode: None,
        agent_gone: true,
        last_known_mode: remembered.mode,
        start_as: if standby { StartAs::Standby } else { StartAs::Primary },
        fenced: remembered.fenced.as_deref(),
        attesting: remembered.attesting,
        given_back: false,
        contradiction: None,
        term: None,
        term_unreadable: true,
        has_terms: true,
        needs_session: false,
        own_session: None,
    });
    answer == start_gate::Answer::Pass
}

/// Raised when the hook goes, however it goes.
struct Gone(Rc<Cell<bool>>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// The promotion hook: it waits for the agent's answer; with the agent gone it waits for it to come back.
pub async fn promotion_hook(world: &Sim, host: usize) -> bool {
    let gone = Gone(Rc::default());
    if world.is_mutant(Mutant::HookPasses) {
        return true;
    }
    let begun_us = world.executor.now_us();
    loop {
        let waited_us = world.executor.now_us() - begun_us;
        let Some(left_us) = HOOK_WAIT_MAX_US.checked_sub(waited_us).filter(|left| *left > 0) else {
            return false;
        };
        let cancelled = Rc::clone(&gone.0);
        let question =
            |agent: Rc<Agent>| async move { agent.may_promote(waited_us / 1_000, &cancelled).await };
        if let Some(answer) = ask(world, host, left_us, question).await {
            return answer;
        }
        if world.hosts[host].state_dir.borrow().remembered.mode != Mode::Armed {
            return true;
        }
        world.executor.sleep(HOOK_RETRY_US).await;
    }
}

/// How one attempt to open the next term ended.
enum Attempt {
    /// In this term; none while nothing is armed or open.
    Pass(Option<Term>),
    Wait(String),
    Refuse(String),
}

impl Agent {
    async fn may_start(&self, standby: bool) -> bool {
        let read = self.world.executor.timeout(READ_DEADLINE_US, self.client.cluster()).await;
        let cluster = read.and_then(Result::ok);
        let remembered = self.state.borrow().remembered.clone();
        let me = &self.here().member;
        let fenced = match &cluster {
            Some(cluster) => cluster.fenced(me).then(|| "by a record".to_owned()),
            None => remembered.fenced,
        };
        let answer = start_gate::decide(&start_gate::View {
            local: None,
            me,
            mode: cluster.as_ref().and_then(Cluster::known_mode),
            agent_gone: false,
            last_known_mode: remembered.mode,
            start_as: if standby { StartAs::Standby } else { StartAs::Primary },
            fenced: fenced.as_deref(),
            attesting: remembered.attesting,
            given_back: cluster.as_ref().is_some_and(|cluster| self.has_given_back(cluster)),
            contradiction: None,
            term: cluster.as_ref().and_then(term_in_force).map(|term| &term.value),
            term_unreadable: cluster.as_ref().is_some_and(Cluster::cannot_tell_terms),
            has_terms: true,
            needs_session: false,
            own_session: None,
        });
        let is_writer = cluster
            .as_ref()
            .and_then(term_in_force)
            .is_some_and(|term| !standby && term.value.open_holder() == Some(me));
        match answer {
            start_gate::Answer::Pass if is_writer => {
                self.close_before_start().await;
                self.fence_wake.raise();
                true
            }
            start_gate::Answer::Pass => true,
            start_gate::Answer::Refuse(why) => {
                self.say(&format_args!("start gate: {why}"));
                false
            }
        }
    }

    fn has_given_back(&self, cluster: &Cluster) -> bool {
        let by_us = |term| self.hooks.borrow().is_given_back(term);
        cluster.attested() || term_in_force(cluster).is_some_and(|term| by_us(term.value.term))
    }

    async fn may_promote(&self, waited_ms: u64, cancelled: &Cell<bool>) -> bool {
        self.hooks.borrow_mut().came();
        self.wake.raise();
        let passes = self.decide_promotion(waited_ms, cancelled).await;
        self.hooks.borrow_mut().went();
        self.wake.raise();
        passes
    }

    /// A hook that is gone is told nothing, and gets no further attempt; one that has begun is brought to its end.
    async fn decide_promotion(&self, waited_ms: u64, cancelled: &Cell<bool>) -> bool {
        let begun_ms = self.now_ms();
        let mut said = String::new();
        loop {
            let told = self.mirror.told.count();
            let waited_ms = waited_ms + self.now_ms() - begun_ms;
            match self.try_to_open(waited_ms).await {
                Ok(Attempt::Pass(None)) => return true,
                Ok(Attempt::Pass(Some(_))) if cancelled.get() => return false,
                Ok(Attempt::Pass(Some(term))) => {
                    let mut hooks = self.hooks.borrow_mut();
                    if hooks.may_pass(term) {
                        hooks.passed(term);
                        return true;
                    }
                }
                Ok(Attempt::Refuse(why)) => {
                    self.say(&format_args!("not promoted: {why}"));
                    return false;
                }
                Err(super::Failed(why)) if waited_ms >= self.hook_wait_ms_max() => {
                    self.say(&format_args!("not promoted: {why}"));
                    return false;
                }
                Ok(Attempt::Wait(why)) | Err(super::Failed(why)) => {
                    if why != said {
                        self.say(&format_args!("the promotion waits: {why}"));
                    }
                    said = why;
                }
            }
            wait(&self.world.executor, HOOK_POLL_US, &[(&self.mirror.told, told)]).await;
            if cancelled.get() {
                return false;
            }
        }
    }

    fn hook_wait_ms_max(&self) -> u64 {
        2 * self.mirror.cluster().config.map_or(PATRONI_TTL_MS, |config| config.ttl_ms)
    }

    async fn try_to_open(&self, waited_ms: u64) -> Done<Attempt> {
        let setting = self.setting().await?;
        let replayed = self.replayed().await;
        let mut cluster = self.client.cluster().await?;
        if cluster.known_mode() != Some(Mode::Armed) {
            return Ok(Attempt::Pass(None));
        }
        if self.world.is_mutant(Mutant::OpenWithoutFloor)
            && let Some(term) = &mut cluster.term
            && let Reign::Closed { floor, .. } = &mut term.value.reign
        {
            *floor = None;
        }
        let me = &self.here().member;
        let fenced = cluster.fenced(me).then_some("by a record");
        let Some(own) = self.own() else {
            return Ok(Attempt::Wait("our own session is not known to be alive".into()));
        };
        let answer = open::decide(&open::View {
            me,
            incarnation: own.incarnation,
            session: own.session,
            term: term_in_force(&cluster),
            term_unreadable: cluster.cannot_tell_terms(),
            data_uuids: &cluster.data_uuids(),
            leader_key: cluster.leader_key.as_ref(),
            sync: cluster.sync.as_ref(),
            replayed,
            actual: setting.as_ref(),
            wrote_last: cluster.kept_its_data(me),
            given_back: self.has_given_back(&cluster),
            holder_could_lead: cluster.holder_could_lead(),
            overriding: cluster.override_in_force(),
            barred: fenced,
            suspended: None,
            waited_ms,
            wait_ms_max: self.hook_wait_ms_max(),
        });
        Ok(match answer {
            open::Answer::Open(plan) => {
                // Side by side, and neither is cancelled by the other's failure.
                let fence = self.prepare_fence(plan.opened.term);
                match join(self.open(&cluster, &plan), fence).await {
                    (Ok(true), Ok(())) => {
                        self.fence_for(plan.opened.term, own).await?;
                        self.hold_timelines(replayed, plan.opened.timeline).await?;
                        Attempt::Pass(Some(plan.opened.term))
                    }
                    (Ok(false), _) => {
                        self.was_not_opened();
                        Attempt::Wait("etcd has changed since; it is read again".into())
                    }
                    (Err(error), _) | (Ok(true), Err(error)) => return Err(error),
                }
            }
            open::Answer::NoTermYet => Attempt::Pass(None),
            open::Answer::AlreadyOpen(term) => {
                self.fence_for(term, own).await?;
                let reserved = term_in_force(&cluster).and_then(|record| record.value.timeline);
                self.hold_timelines(replayed, reserved).await?;
                Attempt::Pass(Some(term))
            }
            open::Answer::Reserve { record, term_mod_revision } => {
                self.put_term(&cluster, &record, term_mod_revision).await?;
                Attempt::Wait("the timeline id that PostgreSQL takes next is reserved first".into())
            }
            open::Answer::Wait(why) => Attempt::Wait(why),
            open::Answer::Refuse(why) => Attempt::Refuse(why),
        })
    }

    /// `agent/src/act/timeline.rs`: PostgreSQL takes the id that OPEN reserved.
    async fn hold_timelines(&self, replayed: Option<Position>, reserved: Option<Timeline>) -> Done {
        if self.world.is_mutant(Mutant::TimelineNotHeld) {
            return Ok(());
        }
        let Some(reserved) = reserved else { return Ok(()) };
        let own = replayed.ok_or("local WAL is not all replayed")?.timeline;
        let ids = timeline::to_hold(own, reserved).ok_or("no history of one cluster")?;
        for id in ids {
            self.step(&format_args!("holds timeline {}", id.0)).await;
            self.here().data.borrow_mut().history_files.insert(id.0);
        }
        Ok(())
    }
}
