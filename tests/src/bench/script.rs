//! What a case does to a lab: what breaks where and when, and what is mended while other things stay broken.
//!
//! Data, and the one function that plays it. It decides no length of its own and judges nothing. `run` calls it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::etcd::Etcd;
use super::lab::Lab;
use super::watch::Watch;
use crate::checker::describe::Describe;
use crate::checker::monotonic_us;
use crate::lab::plan::{PATRONI_ROOT, RUN_ROOT};

/// How often the leader key is looked at by whoever waits for another leader.
const LEADER_POLL: Duration = Duration::from_millis(20);

/// What is done, and how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// For how long what is broken after the last step is held.
    pub hold: Hold,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub when: When,
    /// What.
    pub what: What,
}

/// When a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long after the first one.
    After(Duration),
    /// As soon as another member has Patroni's leader key, or after so long.
    LeaderMovedOrAfter(Duration),
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Injects a fault.
    Break {
        /// Where.
        place: Place,
        /// KIND of `holdfast-lab fault`.
        kind: &'static str,
        /// TARGET of it.
        target: Option<&'static str>,
        /// It needs a heal.
        lasts: bool,
    },
    /// Ends a unit of ours in order (SIGTERM); its supervisor starts it again.
    Terminate {
        /// Where.
        place: Place,
        /// Which.
        unit: &'static str,
    },
    /// Orders that another becomes the writer, and waits for the end of the order: by our command where agents run, else by
    /// Patroni's.
    HandOver(Place),
    /// Heals what the step of that number, from 0, broke. The gap is counted from here too.
    Heal(usize),
}

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The host that was the primary when the run began.
    Primary,
    /// The synchronous standby of this number that does not have the leader key.
    Standby(usize),
    /// The member of etcd of this number.
    Etcd(usize),
    /// All of etcd.
    Everywhere,
}

/// For how long a fault is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// So long from the first step on, whatever the clients see.
    Fixed(Duration),
    /// Until every route acknowledges again, or the deadline of a run, and so much longer: a second writer may show
    /// only then.
    UntilReturnAnd(Duration),
}

/// How it went.
pub struct Played {
    /// The moment just before the first fault.
    pub fault_us: u64,
    /// How long the first injection took, in milliseconds.
    pub injection_ms: u64,
    /// When the first fault was injected.
    pub begin: Instant,
    /// The moment just after the last heal of a step.
    pub mended_us: Option<u64>,
    /// What is still broken.
    pub lasting: Vec<String>,
}

impl Script {
    /// One fault.
    pub fn single(
        place: Place,
        kind: &'static str,
        target: Option<&'static str>,
        lasts: bool,
        hold: Hold,
    ) -> Self {
        let what = What::Break { place, kind, target, lasts };
        Self { steps: vec![Step { when: When::After(Duration::ZERO), what }], hold }
    }

    /// Whether something has to be healed in the end.
    pub fn heals(&self) -> bool {
        let lasting = |what: &What| matches!(what, What::Break { lasts: true, .. });
        let broken = self.steps.iter().filter(|step| lasting(&step.what)).count();
        let healed = self.steps.iter().filter(|step| matches!(step.what, What::Heal(_))).count();
        broken > healed
    }
}

/// Takes every step.
pub async fn play(lab: &Lab, watch: &mut Watch, script: &Script, primary: &str) -> anyhow::Result<Played> {
    let describe = lab.describe().await?;
    let stage = Stage { lab, describe: &describe, leader: Leader::new(lab, &describe)?, primary };
    let mut begin = Instant::now();
    let mut ids: Vec<Option<String>> = Vec::new();
    let (mut first, mut mended_us) = (None, None);
    for step in &script.steps {
        let leader = stage.wait(watch, step.when, begin).await?;
        match step.what {
            What::Break { place, kind, target, lasts } => {
                let host = stage.host(place, leader.as_deref())?;
                let words: Vec<&str> = [kind].into_iter().chain(host.as_deref()).chain(target).collect();
                let injected = lab.inject(&words).await.with_context(|| words.join(" "))?;
                if first.is_none() {
                    first = Some((injected.at_us, (monotonic_us() - injected.at_us) / 1000));
                    begin = Instant::now();
                }
                ids.push(lasts.then_some(injected.id));
            }
            What::Terminate { place, unit } => {
                let at_us = monotonic_us();
                stage.terminate(place, unit)?;
                if first.is_none() {
                    first = Some((at_us, 0));
                    begin = Instant::now();
                }
                ids.push(None);
            }
            What::HandOver(place) => {
                let at_us = monotonic_us();
                stage.hand_over(place).await?;
                if first.is_none() {
                    first = Some((at_us, (monotonic_us() - at_us) / 1000));
                    begin = Instant::now();
                }
                ids.push(None);
            }
            What::Heal(number) => {
                let id = ids.get_mut(number).and_then(Option::take).context("it heals what was broken")?;
                lab.heal(&id).await.context("a heal between")?;
                mended_us = Some(monotonic_us());
                ids.push(None);
            }
        }
    }
    let (fault_us, injection_ms) = first.context("a script breaks something")?;
    Ok(Played { fault_us, injection_ms, begin, mended_us, lasting: ids.into_iter().flatten().collect() })
}

/// Where a script is played: nothing of it is asked for again, because a step may have to come within a moment.
struct Stage<'a> {
    lab: &'a Lab,
    describe: &'a Describe,
    leader: Leader,
    primary: &'a str,
}

impl Stage<'_> {
    /// Waits for the moment of a step, and returns the other leader that it has waited for.
    async fn wait(&self, watch: &mut Watch, when: When, begin: Instant) -> anyhow::Result<Option<String>> {
        match when {
            When::After(time) => {
                while begin.elapsed() < time {
                    // The clients are watched meanwhile: a run without them is worth nothing.
                    watch.look_within(time.saturating_sub(begin.elapsed())).await?;
                }
            }
            When::LeaderMovedOrAfter(time) => {
                while begin.elapsed() < time {
                    let leader = self.leader.now().await?;
                    if leader.as_deref().is_some_and(|leader| leader != self.primary) {
                        return Ok(leader);
                    }
                    tokio::time::sleep(LEADER_POLL).await;
                }
            }
        }
        Ok(None)
    }

    fn terminate(&self, place: Place, unit: &str) -> anyhow::Result<()> {
        let name = self.host(place, None)?.context("a unit is on a host")?;
        let (region, ..) = self.lab.place(self.describe)?;
        let cgroup = region.host(&name).and_then(|host| host.cgroup.as_ref()).context("the host's cgroup")?;
        let file = cgroup.join(unit).join("cgroup.procs");
        let processes = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        for pid in processes.lines() {
            let pid = nix::unistd::Pid::from_raw(pid.parse().context("a process id")?);
            nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM)
                .with_context(|| format!("SIGTERM to {pid}"))?;
        }
        Ok(())
    }

    async fn hand_over(&self, place: Place) -> anyhow::Result<()> {
        let to = self.host(place, None)?.context("somebody is to follow")?;
        let (_, cluster, _) = self.lab.place(self.describe)?;
        if cluster.armed.is_some() {
            let order =
                ["switchover", "--to", &to, "--reason", "bench", "--yes", "--wait", "--timeout", "60"];
            return self.lab.operator(&order).await.map(drop);
        }
        let program = format!("{PATRONI_ROOT}/venv/bin/patronictl");
        let file = format!("{RUN_ROOT}/{}/hosts/{to}/etc/patroni-{}.yml", self.lab.name, cluster.scope);
        let order = ["switchover", &cluster.scope, "--leader", self.primary, "--candidate", &to, "--force"];
        self.lab.on_host(&to, &[&[program.as_str(), "-c", &file], &order[..]].concat()).await.map(drop)
    }

    /// The host that is meant; none for the whole etcd.
    fn host(&self, place: Place, leader: Option<&str>) -> anyhow::Result<Option<String>> {
        let (region, ..) = self.lab.place(self.describe)?;
        let of_role = |role: &'static str| region.hosts.iter().filter(move |host| host.role == role);
        let found = match place {
            Place::Everywhere => return Ok(None),
            Place::Primary => Some(self.primary),
            Place::Etcd(number) => of_role("etcd").nth(number).map(|host| host.name.as_str()),
            Place::Standby(number) => {
                let stands_by = |name: &str| name != self.primary && Some(name) != leader;
                let mut standbys =
                    of_role("database").filter(|host| host.tags["nosync"] != true && stands_by(&host.name));
                standbys.nth(number).map(|host| host.name.as_str())
            }
        };
        match found {
            Some(host) => Ok(Some(host.to_owned())),
            None => bail!("the lab {} has no host for {place:?}", self.lab.name),
        }
    }
}

/// Patroni's leader key.
struct Leader {
    etcd: Etcd,
    key: String,
}

impl Leader {
    fn new(lab: &Lab, describe: &Describe) -> anyhow::Result<Self> {
        let (_, cluster, _) = lab.place(describe)?;
        let key = format!("/{}/{}/leader", cluster.namespace.trim_matches('/'), cluster.scope);
        Ok(Self { etcd: Etcd::new(lab, describe)?, key })
    }

    /// Who has it; none while nobody has it.
    async fn now(&self) -> anyhow::Result<Option<String>> {
        let keys = self.etcd.below(&self.key).await?;
        Ok(keys.get(&self.key).map(|key| key.value.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_healed_on_the_way_needs_no_heal_in_the_end() {
        let hold = Hold::Fixed(Duration::ZERO);
        let mut script = Script::single(Place::Everywhere, "etcd-down", None, true, hold);
        assert!(script.heals());
        script.steps.push(Step { when: When::After(Duration::from_secs(1)), what: What::Heal(0) });
        assert!(!script.heals());
        assert!(!Script::single(Place::Primary, "kill", Some("agent"), false, hold).heals());
    }
}
