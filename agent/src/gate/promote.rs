//! The promotion gate: Patroni's `pre_promote`. Exit 0 promotes, exit 1 gives the lock back.
//!
//! It waits for the agent's answer (Patroni goes on renewing the lock meanwhile, measured over 40 s), at most
//! [`WAIT_MAX`], by its own clock: an agent that hangs, or starts again and again, must not hold the lock for ever. It
//! ends at once on SIGTERM, by the signal's default action: Patroni's loop would block 10 s otherwise. With the agent gone
//! it waits for it to come back. A person's order to this host alone ([`local_disarm`]) is looked for all the time, also while an
//! agent that hangs keeps the question.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use holdfast_agent_core::local_disarm as order;
use holdfast_types::record::LocalDisarm;
use holdfast_types::{ClusterId, Mode, Namespace, Scope};

use super::protocol::{Answer, Question, SOCKET, ask};
use super::remembered::Remembered;
use super::{local_disarm, without_configuration};
use crate::config::Config;

/// The agent refuses after twice Patroni's ttl. This is for an agent that cannot, and longer than twice the default of 30 s.
const WAIT_MAX: Duration = Duration::from_secs(90);
const RETRY: Duration = Duration::from_millis(100);
/// Between two looks for a local disarm while the agent thinks.
const LOOK: Duration = Duration::from_millis(500);

/// Asks until there is an answer; returns the exit code.
pub fn run(config: &Config, namespace: Namespace, scope: Scope) -> u8 {
    let cluster = ClusterId { region: config.region.clone(), namespace, scope };
    let begun = Instant::now();
    loop {
        if let Some(local) = local_disarm::standing(&config.state_dir) {
            return opened(config, &cluster, &local);
        }
        let waited = begun.elapsed();
        let Some(left) = WAIT_MAX.checked_sub(waited).filter(|left| !left.is_zero()) else {
            eprintln!(
                "holdfast: not promoted: the agent has not decided within {} s; see: systemctl status holdfast-agent",
                WAIT_MAX.as_secs()
            );
            return 1;
        };
        let question = Question::Promote {
            namespace: cluster.namespace.clone(),
            scope: cluster.scope.clone(),
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        };
        match ask_looking(config, question, left) {
            Asked::Opened(local) => return opened(config, &cluster, &local),
            Asked::Answered(Ok(Answer::Pass)) => return 0,
            Asked::Answered(Ok(Answer::Refuse { why })) => {
                eprintln!("holdfast: not promoted: {why}");
                return 1;
            }
            Asked::Answered(Err(error)) => match Remembered::load(&config.state_dir, &cluster) {
                Ok(Remembered { mode: Mode::Observe | Mode::Disarmed, .. }) => {
                    eprintln!(
                        "holdfast: the agent does not answer ({error}); {cluster} was not armed: promoted"
                    );
                    return 0;
                }
                _ => std::thread::sleep(RETRY),
            },
        }
    }
}

/// Without a usable configuration: a left-over hook lets pass where nothing was armed, or where a person has opened the host.
pub fn without_configuration(host: &without_configuration::Host) -> u8 {
    match host.lets_pass() {
        Ok(why) => {
            eprintln!("holdfast: promoted, without a configuration: {why}");
            0
        }
        Err(why) => {
            eprintln!("holdfast: not promoted: {why}");
            1
        }
    }
}

enum Asked {
    Answered(std::io::Result<Answer>),
    /// A person has opened this host meanwhile.
    Opened(LocalDisarm),
}

/// The agent keeps the connection while it thinks, so another thread waits at it; what it says after a local disarm has been
/// found is not heard any more, because the program ends.
fn ask_looking(config: &Config, question: Question, deadline: Duration) -> Asked {
    let (answered, answer) = mpsc::channel();
    let socket: PathBuf = config.run_dir.join(SOCKET);
    std::thread::spawn(move || answered.send(ask(&socket, &question, deadline)));
    loop {
        match answer.recv_timeout(LOOK) {
            Ok(answer) => return Asked::Answered(answer),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Asked::Answered(Err(std::io::ErrorKind::BrokenPipe.into()));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Some(local) = local_disarm::standing(&config.state_dir) {
            return Asked::Opened(local);
        }
    }
}

/// What the order says of this promotion. A memory that cannot be read knows of no fence.
fn opened(config: &Config, cluster: &ClusterId, local: &LocalDisarm) -> u8 {
    let fenced = Remembered::load(&config.state_dir, cluster).ok().and_then(|remembered| remembered.fenced);
    let instance = config.instances.iter().find(|instance| instance.cluster == *cluster);
    let Some(instance) = instance else {
        eprintln!("holdfast: {local}: promoted");
        return 0;
    };
    match order::opens(Some(local), fenced.as_deref(), &instance.member) {
        Some(Err(why)) => {
            eprintln!("holdfast: not promoted: {why}");
            1
        }
        Some(Ok(())) | None => {
            eprintln!("holdfast: {local}: promoted; until: holdfast disarm --local --undo");
            0
        }
    }
}
