//! What is known of one PgBouncer, for whoever asks: `status`, the check of a virtual address, a load balancer. Kept by the
//! task that routes and by the one that looks; nothing is looked up for an answer, and none waits.

use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_agent_core::pooler::{self, Clients, Console, Down, Up, View};
use holdfast_agent_core::route::Route;
use holdfast_host::clock;
use holdfast_proto::message::PoolerStatus;
use holdfast_proto::poolers::{PoolerAnswer, PoolerVerdict};
use holdfast_types::MemberName;
use holdfast_types::keys::ClusterKeys;
use tokio::sync::Notify;

use crate::config::{Config, Pooler};
use crate::world::World;

/// After the end of a lost writer's session its term is closed within this.
const CLOSED_MS: u64 = 3_000;

/// What the console said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Said {
    #[default]
    NotAsked,
    Answers(Clients),
    Hangs {
        since_ms: u64,
    },
    Dead {
        since_ms: u64,
        why: String,
    },
}

impl Said {
    pub(super) fn console(&self, now_ms: u64) -> Console {
        match self {
            Self::NotAsked => Console::NotAsked,
            Self::Answers(clients) => Console::Answers(*clients),
            Self::Hangs { since_ms } => Console::Hangs { for_ms: now_ms.saturating_sub(*since_ms) },
            Self::Dead { since_ms, why } => {
                Console::Dead { for_ms: now_ms.saturating_sub(*since_ms), why: why.clone() }
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Where clients should be, and since when.
    wanted: Option<(Route, u64)>,
    applied: Option<Route>,
    disarmed_here: bool,
    target: Option<MemberName>,
    paused: bool,
    said: Said,
    /// When the console was asked last.
    asked_ms: u64,
    unreached_since_ms: Option<u64>,
}

/// One PgBouncer, as it is known.
pub struct Seen {
    pub(super) pooler: Pooler,
    /// `host.name`, as operations call it.
    full_name: String,
    world: Arc<World>,
    keys: ClusterKeys,
    unreached_ms_max: u64,
    state: Mutex<State>,
    /// Another process than before answers.
    pub(super) anew: Notify,
}

impl Seen {
    pub(super) fn new(pooler: &Pooler, config: &Config, world: Arc<World>) -> Self {
        Self {
            pooler: pooler.clone(),
            full_name: format!("{}.{}", config.host, pooler.name),
            keys: ClusterKeys::new(&pooler.cluster),
            world,
            unreached_ms_max: config.timings.session_ttl_ms() + CLOSED_MS,
            state: Mutex::default(),
            anew: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding what is known of a pooler")
    }

    /// Where clients should be from now on; `None`: that is nobody's affair here.
    pub(super) fn want(&self, wanted: Option<&Route>, disarmed_here: bool, now_ms: u64) {
        let mut state = self.lock();
        state.disarmed_here = disarmed_here;
        if state.wanted.as_ref().map(|(route, _)| route) != wanted {
            state.wanted = wanted.map(|route| (route.clone(), now_ms));
        }
    }

    pub(super) fn is_disarmed_here(&self) -> bool {
        self.lock().disarmed_here
    }

    /// Where they are.
    pub(super) fn apply(&self, applied: Option<&Route>) {
        let mut state = self.lock();
        if state.applied.as_ref() != applied {
            state.applied = applied.cloned();
        }
    }

    /// Where they were sent last, for people.
    pub(super) fn show(&self, target: Option<MemberName>, paused: bool) {
        let mut state = self.lock();
        (state.target, state.paused) = (target, paused);
    }

    /// What the console says, which was asked then. Silence goes on since its begin. Returns what it said before, and what it
    /// says now.
    pub(super) fn hear(&self, said: Said, asked_ms: u64) -> (Said, Said) {
        let mut state = self.lock();
        state.asked_ms = asked_ms;
        let said = match (said, &state.said) {
            (Said::Hangs { .. }, Said::Hangs { since_ms }) => Said::Hangs { since_ms: *since_ms },
            (Said::Dead { why, .. }, Said::Dead { since_ms, .. }) => Said::Dead { since_ms: *since_ms, why },
            (other, _) => other,
        };
        let before = std::mem::replace(&mut state.said, said.clone());
        (before, said)
    }

    /// The writer that clients are sent to, if they are.
    pub(super) fn writer(&self) -> Option<(String, u16)> {
        match &self.lock().applied {
            Some(Route::To { address, .. }) => Some(address.clone()),
            _ => None,
        }
    }

    /// Whether clients have waited for so long.
    pub(super) fn wait_for(&self, waited_ms: u64) -> bool {
        matches!(self.lock().said, Said::Answers(clients) if clients.waiting > 0 && clients.waited_ms >= waited_ms)
    }

    /// Whether that writer took a connection just now; true if clients are sent to nobody.
    pub(super) fn reach(&self, reached: bool, now_ms: u64) {
        let mut state = self.lock();
        let since_ms = *state.unreached_since_ms.get_or_insert(now_ms);
        state.unreached_since_ms = (!reached).then_some(since_ms);
    }

    /// Since when it has taken none.
    pub(super) fn is_unreached(&self) -> bool {
        self.lock().unreached_since_ms.is_some()
    }

    /// Whether clients should come.
    fn check(&self) -> Result<Up, Down> {
        let (cluster, connected) = self.world.watched(&self.keys);
        let (state, now_ms) = (self.lock(), clock::boottime_ms());
        let for_ms = |since_ms: u64| now_ms.saturating_sub(since_ms);
        let is_fresh = for_ms(state.asked_ms) <= pooler::LOOK_HOLDS_MS;
        let console = if is_fresh { state.said.console(now_ms) } else { Console::NotAsked };
        let drained = cluster.is_drained(&self.full_name).then(|| {
            let mark = cluster.drained.get(&self.full_name).map(|mark| mark.value.reason.as_str());
            mark.unwrap_or("this build cannot read for what")
        });
        pooler::check(&View {
            cluster: &cluster,
            silent_ms: (!connected).then(|| self.world.silent_ms(now_ms).unwrap_or_default()),
            disarmed_here: state.disarmed_here,
            wanted: state.wanted.as_ref().map(|(route, since_ms)| (route, for_ms(*since_ms))),
            applied: state.applied.as_ref(),
            console: &console,
            unreached_ms: state.unreached_since_ms.map(for_ms),
            unreached_ms_max: self.unreached_ms_max,
            drained,
        })
    }

    /// The same in words.
    pub fn verdict(&self) -> PoolerVerdict {
        let cluster = &self.pooler.cluster;
        let (up, why) = match self.check() {
            Ok(up) => (true, up.to_string()),
            Err(down) => (false, down.to_string()),
        };
        PoolerVerdict {
            pooler: self.pooler.name.clone(),
            cluster: format!("{}/{}", cluster.namespace, cluster.scope),
            up,
            why,
        }
    }

    /// For `status`.
    pub fn status(&self) -> PoolerStatus {
        let verdict = self.verdict();
        let state = self.lock();
        let clients = match state.said {
            Said::Answers(clients) => Some(clients),
            Said::NotAsked | Said::Hangs { .. } | Said::Dead { .. } => None,
        };
        PoolerStatus {
            name: self.pooler.name.clone(),
            namespace: self.pooler.cluster.namespace.clone(),
            scope: self.pooler.cluster.scope.clone(),
            target: state.target.clone(),
            paused: state.paused,
            clients_waiting: clients.map(|clients| clients.waiting),
            waited_ms: clients.map(|clients| clients.waited_ms),
            up: Some(verdict.up),
            why: Some(verdict.why),
        }
    }
}

/// The poolers of this host.
pub type Poolers = Arc<[Arc<Seen>]>;

/// Answers for the pooler of that name, for those of that cluster (`namespace/scope`), or for all of them.
pub fn answer(
    poolers: &[Arc<Seen>],
    name: Option<&str>,
    cluster: Option<&str>,
) -> Result<PoolerAnswer, String> {
    if poolers.is_empty() {
        return Err("the agent of this host has no [[pooler]]".into());
    }
    let all: Vec<PoolerVerdict> = poolers.iter().map(|one| one.verdict()).collect();
    let is_meant = |one: &PoolerVerdict| {
        name.is_none_or(|name| one.pooler == name) && cluster.is_none_or(|cluster| one.cluster == cluster)
    };
    let (meant, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_meant);
    if meant.is_empty() {
        let there: Vec<String> =
            others.iter().map(|one| format!("{} of {}", one.pooler, one.cluster)).collect();
        let (name, cluster) = (name.unwrap_or("at all"), cluster.unwrap_or("any cluster"));
        return Err(format!(
            "this host has no pooler {name} of {cluster}; its agent has {}",
            there.join(", ")
        ));
    }
    Ok(PoolerAnswer::of(meant))
}
