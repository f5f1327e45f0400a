//! What all acting verbs share: their options, the question before, the one transaction, the report after.

use std::io::{BufRead, IsTerminal, Write as _};
use std::time::Duration;

use clap::Args;
use holdfast_store::{Compare, Read, Store, StoreError, Txn, TxnOutcome, Write};
use holdfast_types::ClusterId;
use serde::Serialize;
use tokio::time::Instant;

use super::exit::{Exit, Failure};
use super::print;
use super::target::{Output, Session};
use crate::view::arming::Check;
use crate::view::cluster::ClusterView;
use crate::view::status::{FORMAT, StatusReport};

/// The options of every acting verb.
#[derive(Debug, Clone, Args)]
pub struct Order {
    /// Say what would stand in the way, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Wait until the effect has come
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

/// What an acting verb has done, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActionReport {
    /// The version of the JSON.
    pub format: u64,
    /// The verb.
    pub action: &'static str,
    /// `region/namespace/scope`.
    pub cluster: String,
    /// The member, for verbs that have one.
    pub node: Option<String>,
    /// `done`, `unchanged`, `would_do`, `refused`, `failed` or `timed_out`.
    pub result: &'static str,
    /// What was looked at before.
    #[serde(flatten)]
    pub check: Check,
    /// One line: what is true now.
    pub text: String,
}

/// An order on its way: who gives which verb on what.
pub struct Action<'s> {
    /// The connection.
    pub session: &'s Session,
    /// The verb.
    pub name: &'static str,
    /// The member, for verbs that have one.
    pub node: Option<String>,
    /// The common options.
    pub order: &'s Order,
    /// How to print.
    pub output: Output,
}

/// How a transaction ended, after an unknown outcome was settled by a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It happened.
    Done,
    /// Something had changed since the view was read: look again.
    Changed,
}

impl Action<'_> {
    /// Prints the report and gives its exit code.
    pub fn end(&self, exit: Exit, result: &'static str, check: Check, text: impl Into<String>) -> Exit {
        let report = ActionReport {
            format: FORMAT,
            action: self.name,
            cluster: self.session.cluster.to_string(),
            node: self.node.clone(),
            result,
            check,
            text: text.into(),
        };
        let notes = report.check.text();
        if !notes.is_empty() {
            print::prose(&notes);
        }
        match self.output {
            Output::Json => print::json(&report),
            Output::Table => print::data(&format!("{}: {}\n", report.cluster, report.text)),
        }
        exit
    }

    /// Blockers refuse, a dry run ends here, a person is asked. `None` means: go on.
    pub fn gate(&self, check: &Check, would: &str) -> Result<Option<Exit>, Failure> {
        if !check.blockers.is_empty() {
            let text = format!("refused, nothing was changed ({} blockers)", check.blockers.len());
            return Ok(Some(self.end(Exit::Refused, "refused", check.clone(), text)));
        }
        if self.order.dry_run {
            let text = format!("nothing stands in the way; would {would}");
            return Ok(Some(self.end(Exit::Done, "would_do", check.clone(), text)));
        }
        if !self.order.yes {
            ask(&self.session.cluster, would)?;
        }
        Ok(None)
    }

    /// Waits until `arrived` says so, or prints the state and times out.
    pub async fn wait(
        &self,
        check: Check,
        arrived: impl Fn(&ClusterView) -> Result<String, String>,
    ) -> Result<Exit, Failure> {
        let deadline = Instant::now() + Duration::from_secs(self.order.timeout);
        let mut last = "nothing was read".to_owned();
        loop {
            match self.session.view().await {
                Ok(view) => match arrived(&view) {
                    Ok(text) => return Ok(self.end(Exit::Done, "done", check, text)),
                    Err(why) if Instant::now() >= deadline => {
                        print::prose(&StatusReport::new(&view, None).text());
                        let text = format!("given, but not in effect after {} s: {why}", self.order.timeout);
                        return Ok(self.end(Exit::TimedOut, "timed_out", check, text));
                    }
                    Err(_) => {}
                },
                Err(failure) => last = failure.text,
            }
            if Instant::now() >= deadline {
                let text = format!("given, but its effect could not be read: {last}");
                return Ok(self.end(Exit::TimedOut, "timed_out", check, text));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Sends one transaction that writes one key of ours; an unknown outcome is settled by reading that key.
    pub async fn send(&self, compares: Vec<Compare>, write: Write) -> Result<Settled, Failure> {
        settle(&*self.session.store, compares, write).await.map_err(Failure::from)
    }

    /// The order was given, but the world kept changing under it.
    pub fn kept_changing(&self, check: Check) -> Exit {
        let text = "failed, nothing was changed: the cluster kept changing; look at status and try again";
        self.end(Exit::Failed, "failed", check, text)
    }
}

/// How often an order is tried again when the state changed between reading and writing.
pub const ATTEMPTS: usize = 5;

async fn settle(store: &dyn Store, compares: Vec<Compare>, write: Write) -> Result<Settled, StoreError> {
    let txn = Txn { compares, writes: vec![write.clone()], otherwise_read: Vec::new() };
    match store.txn(txn).await {
        Ok(TxnOutcome::Succeeded { .. }) => Ok(Settled::Done),
        Ok(TxnOutcome::Refused { .. }) => Ok(Settled::Changed),
        Err(error) if error.outcome_unknown() => {
            let (key, wanted) = match &write {
                Write::Put { key, value, .. } => (key.clone(), Some(value.clone())),
                Write::PutSameValue { key } | Write::Delete { key } | Write::DeletePrefix { prefix: key } => {
                    (key.clone(), None)
                }
            };
            // If this fails too, the caller learns the second reason; nothing is claimed.
            let reading = store.read(vec![Read::Key(key.clone())]).await?;
            let found = reading.get(&key).map(|pair| pair.value.clone());
            // The reason and the moment in the value make it ours.
            Ok(if found == wanted { Settled::Done } else { Settled::Changed })
        }
        Err(error) => Err(error),
    }
}

/// Asks the person to type the cluster's name.
fn ask(cluster: &ClusterId, would: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(format!(
            "this would {would}; say --yes, because nobody can be asked here"
        )));
    }
    let mut err = std::io::stderr();
    let _ = write!(err, "This will {would}.\nType the name of the cluster ({}) to go on: ", cluster.scope);
    let _ = err.flush();
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if read.is_ok() && line.trim() == cluster.scope.as_str() {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "not confirmed, nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_store::MemoryStore;

    fn put(value: &str) -> Write {
        Write::put("/a", value)
    }

    fn absent() -> Vec<Compare> {
        vec![Compare::ModRevision { key: "/a".into(), is: 0 }]
    }

    #[tokio::test]
    async fn an_unknown_outcome_is_settled_by_a_read() {
        let store = MemoryStore::new();
        store.lose_next_answer();
        assert_eq!(settle(&store, absent(), put("1")).await, Ok(Settled::Done));
        assert_eq!(settle(&store, absent(), put("2")).await, Ok(Settled::Changed));
        store.lose_next_answer();
        assert_eq!(
            settle(&store, absent(), put("2")).await,
            Ok(Settled::Changed),
            "refused, and the answer lost"
        );
        store.set_reachable(false);
        assert!(settle(&store, absent(), put("3")).await.is_err());
    }
}
