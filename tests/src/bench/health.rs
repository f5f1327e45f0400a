//! Whether a lab is whole: one writer, everybody else streams from it. Asked over the sockets, between runs only.

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio_postgres::SimpleQueryMessage;

use super::case::Mode;
use super::lab::Lab;
use crate::checker::connect::{Session, Target};

/// A member that was away must be rewound, follow and be named again: two looks of Patroni's slowest setting, and more.
const DEADLINE: Duration = Duration::from_secs(240);
const QUESTION: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(250);

const STATE: &str = "select pg_is_in_recovery(), \
     (select count(*) from pg_stat_replication where state = 'streaming'), \
     (select count(*) from pg_stat_replication where state = 'streaming' and sync_state in ('sync', 'quorum'))";

/// What a database host says of itself.
struct Answer {
    host: String,
    writable: bool,
    streaming: usize,
    synchronous: usize,
}

/// Waits until the lab is whole and returns its writer.
pub async fn wait_whole(lab: &Lab, mode: Mode) -> anyhow::Result<(String, Session)> {
    let begin = Instant::now();
    loop {
        let sockets = lab.sockets().await?;
        let hosts = sockets.len();
        let mut answers = Vec::new();
        for (host, target) in &sockets {
            answers.extend(ask(host, target).await);
        }
        let writers: Vec<&Answer> = answers.iter().filter(|answer| answer.writable).collect();
        if let [writer] = writers[..]
            && answers.len() == hosts
            && writer.streaming + 1 >= hosts
            && (mode == Mode::Off || writer.synchronous >= 2)
        {
            let target = sockets.iter().find(|(host, _)| *host == writer.host);
            if let Some((host, target)) = target
                && let Ok(session) = target.connect().await
            {
                return Ok((host.clone(), session));
            }
        }
        if begin.elapsed() > DEADLINE {
            let said: Vec<String> = answers.iter().map(Answer::text).collect();
            bail!(
                "the lab {} is not whole after {} s ({} of {hosts} hosts answer: {}); see holdfast-lab describe {}",
                lab.name,
                DEADLINE.as_secs(),
                answers.len(),
                said.join(", "),
                lab.name
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Answer {
    fn text(&self) -> String {
        let state = if self.writable { "writer" } else { "standby" };
        format!("{} {state} {} streaming, {} synchronous", self.host, self.streaming, self.synchronous)
    }
}

async fn ask(host: &str, target: &Target) -> Option<Answer> {
    let session = tokio::time::timeout(QUESTION, target.connect()).await.ok()?.ok()?;
    let messages = tokio::time::timeout(QUESTION, session.client.simple_query(STATE)).await.ok()?.ok()?;
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(Answer {
            host: host.to_owned(),
            writable: row.get(0)? == "f",
            streaming: row.get(1)?.parse().ok()?,
            synchronous: row.get(2)?.parse().ok()?,
        }),
        _ => None,
    })
}
