//! The watch's task: read everything, watch from the next revision, and begin again when anything is odd.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc::Sender;

use super::{Inner, errors, wire};
use crate::{Read, Reading, StoreError, WatchEvent};

const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Also how long a connection must have held before the next pause is short again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

const CALL: &str = "watch";

/// The reader has gone.
struct Closed;

pub(super) async fn follow(inner: Arc<Inner>, prefixes: Vec<String>, events: Sender<WatchEvent>) {
    let mut pause = PAUSE_MIN;
    let mut said = false;
    loop {
        let began = Instant::now();
        let why = match session(&inner, &prefixes, &events, &mut said).await {
            Ok(why) => why,
            Err(Closed) => return,
        };
        tracing::debug!(why, "a watch begins again");
        if !said && events.send(WatchEvent::Disconnected { why }).await.is_err() {
            return;
        }
        said = true;
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One connection's worth: returns why it ended.
async fn session(
    inner: &Inner,
    prefixes: &[String],
    events: &Sender<WatchEvent>,
    disconnected: &mut bool,
) -> Result<String, Closed> {
    let mut given_up = inner.link.on_given_up();
    let (reading, mut stream, early) = match begin(inner, prefixes).await {
        Ok(begun) => begun,
        Err(error) => return Ok(error.to_string()),
    };
    say(events, WatchEvent::Snapshot(reading)).await?;
    *disconnected = false;
    for answer in &early {
        say_all(events, answer).await?;
    }
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = given_up.changed() => return Ok("the connection to etcd was given up".into()),
        };
        match message {
            Ok(Some(answer)) if answer.canceled() => return Ok(cancelled(&answer)),
            Ok(Some(answer)) => say_all(events, &answer).await?,
            Ok(None) => return Ok("etcd ended the watch".into()),
            Err(error) => return Ok(errors::read(CALL, error).to_string()),
        }
    }
}

/// Reads everything and opens one stream that watches all prefixes from the next revision on. Also returns events that
/// came before the last prefix was confirmed.
async fn begin(
    inner: &Inner,
    prefixes: &[String],
) -> Result<(Reading, WatchStream, Vec<WatchResponse>), StoreError> {
    let what: Vec<Read> = prefixes.iter().cloned().map(Read::Prefix).collect();
    let reading = inner.read(&what).await?;
    let start = reading.revision + 1;
    let open = |client: Arc<etcd_client::Client>| async move {
        let mut early = Vec::new();
        let options = || Some(WatchOptions::new().with_prefix().with_start_revision(start));
        let Some((first, rest)) = prefixes.split_first() else {
            return Err(etcd_client::Error::InvalidArgs("a watch of nothing".into()));
        };
        let mut stream = client.watch_client().watch(first.as_str(), options()).await?;
        for prefix in rest {
            stream.watch(prefix.as_str(), options()).await?;
        }
        let mut confirmed = 0;
        while confirmed < prefixes.len() {
            let Some(answer) = stream.message().await? else {
                return Err(etcd_client::Error::WatchError("etcd ended the watch".into()));
            };
            if answer.canceled() {
                return Err(etcd_client::Error::WatchError(cancelled(&answer)));
            }
            confirmed += usize::from(answer.created());
            early.push(answer);
        }
        Ok((stream, early))
    };
    let (stream, early) = inner.link.call(CALL, open).await?;
    Ok((reading, stream, early))
}

fn cancelled(answer: &WatchResponse) -> String {
    match answer.compact_revision() {
        0 => format!("etcd cancelled the watch: {}", answer.cancel_reason()),
        revision => format!("etcd has compacted up to revision {revision}"),
    }
}

async fn say(events: &Sender<WatchEvent>, event: WatchEvent) -> Result<(), Closed> {
    events.send(event).await.map_err(|_| Closed)
}

/// One event for each revision of an answer, in order.
async fn say_all(events: &Sender<WatchEvent>, answer: &WatchResponse) -> Result<(), Closed> {
    for chunk in answer.events().chunk_by(|a, b| revision(a) == revision(b)) {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for event in chunk {
            let Some(pair) = event.kv().map(wire::pair) else { continue };
            match event.event_type() {
                EventType::Put => puts.push(pair),
                EventType::Delete => deletes.push(pair.key),
            }
        }
        say(events, WatchEvent::Changes { revision: revision(&chunk[0]), puts, deletes }).await?;
    }
    Ok(())
}

fn revision(event: &etcd_client::Event) -> i64 {
    event.kv().map_or(0, etcd_client::KeyValue::mod_revision)
}
