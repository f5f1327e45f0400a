//! The route command: a program of the user's that is told who writes, for everything that follows no check and no pooler of
//! ours (an address, a DNS record, a load balancer with an interface of its own).
//!
//! One task for each cluster: one run at a time, and always of the newest writer; who changes while it runs causes one more.
//! It is run for a writer whose term is written to, never for a closed term, and once at the start of the agent: it must
//! not mind to be told twice. What fails or hangs is killed at its deadline and run again after a growing time. Decides
//! nothing: whom to tell is `holdfast-agent-core`'s `route::decide`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_agent_core::route::{self, Route};
use holdfast_agent_core::routing;
use holdfast_host::run::{self, Command};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::{ClusterId, HostName, MemberName, Term};
use tokio::sync::watch;

use crate::act::incident;
use crate::config::{Config, RouteCommand};
use crate::world::{Mirror, World};

/// It is looked at this often when nothing changes.
const TICK: Duration = Duration::from_secs(10);
/// Of what a failed command complains about, so many bytes are kept in etcd.
const COMPLAINT_BYTES_MAX: usize = 200;

/// Whom it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    term: Term,
    writer: MemberName,
    address: (String, u16),
}

/// The task of one cluster.
struct Teller {
    host: HostName,
    command: RouteCommand,
    cluster: ClusterId,
    keys: ClusterKeys,
    world: Arc<World>,
}

/// Starts one task for each cluster of this host, if there is a command.
pub fn start(config: &Config, world: &Arc<World>) {
    let Some(command) = &config.route_command else { return };
    let clusters: BTreeSet<&ClusterId> = config.clusters().collect();
    for cluster in clusters {
        let teller = Teller {
            host: config.host.clone(),
            command: command.clone(),
            cluster: cluster.clone(),
            keys: ClusterKeys::new(cluster),
            world: Arc::clone(world),
        };
        tokio::spawn(teller.run());
    }
}

/// What came of it so far.
#[derive(Debug, Default)]
struct Memory {
    /// Whom it was told of last, done.
    done: Option<Told>,
    /// Whom it was told of last, failed, and how often in a row.
    failed: Option<(Told, u32)>,
    /// What the incident of a term holds of us.
    recorded: Option<(Term, String)>,
}

impl Memory {
    /// Whom it was told of last, whatever came of it.
    fn last(&self) -> Option<&Told> {
        self.failed.as_ref().map(|(told, _)| told).or(self.done.as_ref())
    }

    /// Keeps how a run went; returns how long to wait for a retry, if one is due.
    fn note(&mut self, told: Told, is_done: bool) -> Option<Duration> {
        if is_done {
            (self.done, self.failed) = (Some(told), None);
            return None;
        }
        let before = self.failed.take().filter(|(of, _)| *of == told);
        let times = before.map_or(1, |(_, times)| times.saturating_add(1));
        self.failed = Some((told, times));
        Some(Duration::from_millis(routing::retry_after_ms(times)))
    }
}

impl Teller {
    /// Runs until the runtime ends.
    async fn run(self) {
        let mut changes = self.world.changes();
        let mut memory = Memory::default();
        loop {
            changes.mark_unchanged();
            let mut wait = TICK;
            if let Some(wanted) = self.wanted(&memory).filter(|wanted| memory.done.as_ref() != Some(wanted)) {
                let (is_done, outcome) = self.tell(&wanted).await;
                self.record(&mut memory, wanted.term, outcome);
                wait = memory.note(wanted, is_done).unwrap_or(TICK);
            }
            self.until_another(&mut changes, &memory, wait).await;
        }
    }

    /// Waits until somebody else is to be told of, and no longer: a change of anything else does not make a command that has
    /// failed run sooner.
    async fn until_another(&self, changes: &mut watch::Receiver<Mirror>, memory: &Memory, wait: Duration) {
        let another = async {
            loop {
                if self.wanted(memory).is_some_and(|wanted| memory.last() != Some(&wanted)) {
                    return;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        // Over is over: the loop looks for itself what is wanted then.
        let _ = tokio::time::timeout(wait, another).await;
    }

    /// Whom to tell of now, if anybody: etcd is heard, the cluster is armed, and its term is written to. A term before the last
    /// one is never gone back to.
    fn wanted(&self, memory: &Memory) -> Option<Told> {
        let (cluster, connected) = self.world.watched(&self.keys);
        match route::decide(&cluster, memory.last().map(|told| told.term)) {
            Route::To { term, writer, address } if connected => Some(Told { term, writer, address }),
            Route::To { .. } | Route::Hold { .. } | Route::Leave => None,
        }
    }

    /// Runs it once; returns whether it is done, and how it went in words.
    async fn tell(&self, told: &Told) -> (bool, String) {
        let (program, arguments) =
            self.command.line.split_first().expect("the configuration has at least one word");
        let Told { term, writer, address: (address, port) } = told;
        let command = Command::new(program.as_str())
            .args(arguments)
            .env("HOLDFAST_CLUSTER", self.cluster.to_string())
            .env("HOLDFAST_TERM", term.to_string())
            .env("HOLDFAST_WRITER", writer.as_str())
            .env("HOLDFAST_WRITER_ADDRESS", address)
            .env("HOLDFAST_WRITER_PORT", port.to_string())
            .deadline_ms(self.command.deadline_ms);
        let began = Instant::now();
        let cluster = &self.cluster;
        let why = match run::run(command).await {
            Ok(output) if output.success() => {
                let took_ms = began.elapsed().as_millis();
                tracing::info!(%cluster, %term, %writer, took_ms, "the route command was told who writes");
                return (true, format!("told of {writer} in term {term}"));
            }
            Ok(output) => {
                let end = output
                    .code
                    .map_or("was ended by a signal".into(), |code| format!("ended with exit code {code}"));
                format!("{end}: {}", clipped(output.stderr.trim()))
            }
            Err(error) => error.to_string(),
        };
        tracing::warn!(%cluster, %term, %writer, "the route command does not follow: {why}; run again");
        (false, format!("not told of {writer} in term {term}: {why}"))
    }

    /// In a task of its own: etcd may be slow, and the next writer may be there already.
    fn record(&self, memory: &mut Memory, term: Term, outcome: String) {
        let new = (term, outcome);
        if memory.recorded.as_ref() == Some(&new) {
            return;
        }
        let (store, keys, host) = (Arc::clone(&self.world.store), self.keys.clone(), self.host.clone());
        let (closed, outcome) = (Term(term.0.saturating_sub(1)), new.1.clone());
        memory.recorded = Some(new);
        tokio::spawn(async move {
            if let Err(error) = incident::route_command(&store, &keys, closed, &host, &outcome).await {
                tracing::warn!(%error, "how the route command went is not recorded in the incident");
            }
        });
    }
}

fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(COMPLAINT_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
