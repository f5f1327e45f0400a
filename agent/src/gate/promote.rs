//! The promotion gate: Patroni's `pre_promote`. Exit 0 promotes, exit 1 gives the lock back.
//!
//! It waits for the agent's answer (Patroni goes on renewing the lock meanwhile, measured over 40 s), at most
//! [`WAIT_MAX`], by its own clock: an agent that hangs, or starts again and again, must not hold the lock for ever. It
//! ends at once on SIGTERM, by the signal's default action: Patroni's loop would block 10 s otherwise. With the agent gone
//! it waits for it to come back.

use std::time::{Duration, Instant};

use holdfast_types::{ClusterId, Mode, Namespace, Scope};

use super::protocol::{Answer, Question, SOCKET, ask};
use super::remembered::Remembered;
use crate::config::Config;

/// The agent refuses after twice Patroni's ttl. This is for an agent that cannot, and longer than twice the default of 30 s.
const WAIT_MAX: Duration = Duration::from_secs(90);
const RETRY: Duration = Duration::from_millis(100);

/// Asks until there is an answer; returns the exit code.
pub fn run(config: &Config, namespace: Namespace, scope: Scope) -> u8 {
    let cluster = ClusterId { region: config.region.clone(), namespace, scope };
    let socket = config.run_dir.join(SOCKET);
    let begun = Instant::now();
    loop {
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
        match ask(&socket, &question, left) {
            Ok(Answer::Pass) => return 0,
            Ok(Answer::Refuse { why }) => {
                eprintln!("holdfast: not promoted: {why}");
                return 1;
            }
            Err(error) => match Remembered::load(&config.state_dir, &cluster) {
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
