//! What all acting verbs share: their options, the question before, the one transaction, the report after.
//!
//! The transaction writes two keys: the one that the verb is about, and the record of the order itself (who, when, why,
//! from where). So no order is carried out without its record, and the record tells whether an order whose answer was
//! lost was carried out.

use std::io::{BufRead, IsTerminal, Write as _};
use std::time::Duration;

use clap::Args;
use holdfast_store::{Compare, Read, Store, StoreError, Txn, TxnOutcome, Write};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{AuditRecord, Stored};
use holdfast_types::{ClusterId, MemberName};
use serde::Serialize;
use tokio::time::Instant;

use super::exit::{Exit, Failure};
use super::print;
use super::target::{Output, Session, now_wall_ms};
use crate::view::arming::Check;
use crate::view::cluster::ClusterView;
use crate::view::status::{FORMAT, StatusReport};

/// The options of every acting verb.
#[derive(Debug, Clone, Args)]
pub struct Order {
    /// Say what would stand in the way, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Why; kept among the orders that `holdfast events` shows
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
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

impl Order {
    /// Why; empty for a dry run without one.
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }
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
    pub node: Option<MemberName>,
    /// Who gave the order: identity from the certificate.
    pub by: String,
    /// Why.
    pub reason: String,
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
    pub node: Option<MemberName>,
    /// The common options.
    pub order: &'s Order,
    /// How to print.
    pub output: Output,
    /// What a person has said yes to.
    confirmed: Option<String>,
}

/// What an order meets each time that the cluster was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Blockers: nothing is done.
    Refused,
    /// A dry run ends here.
    WouldDo,
    /// Somebody must say yes first.
    Ask,
    /// Nothing stands in the way.
    Open,
}

/// How a transaction ended, after an unknown outcome was settled by a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It happened.
    Done,
    /// Something had changed since the view was read: look again.
    Changed,
}

impl<'s> Action<'s> {
    /// An order that has not been confirmed yet.
    pub fn new(
        session: &'s Session,
        name: &'static str,
        node: Option<&MemberName>,
        order: &'s Order,
        output: Output,
    ) -> Self {
        Self { session, name, node: node.cloned(), order, output, confirmed: None }
    }

    /// Prints the report and gives its exit code.
    pub fn end(&self, exit: Exit, result: &'static str, check: Check, text: impl Into<String>) -> Exit {
        let report = ActionReport {
            format: FORMAT,
            action: self.name,
            cluster: self.session.cluster.to_string(),
            node: self.node.clone(),
            by: self.session.region.who(),
            reason: self.order.reason().to_owned(),
            result,
            check,
            text: text.into(),
        };
        let notes = report.check.text();
        if !notes.is_empty() {
            print::prose(&notes);
        }
        print::report(self.output, &report, || format!("{}: {}\n", report.cluster, report.text));
        exit
    }

    /// Blockers refuse, a dry run ends here, a person is asked. `None` means: go on. Called for each look at the cluster,
    /// because it may have changed since the last one: what blocks then refuses then, and what would be done then is asked
    /// again unless it is what was confirmed.
    pub fn gate(&mut self, check: &Check, would: &str) -> Result<Option<Exit>, Failure> {
        match gate_of(self.order, check, self.confirmed.as_deref(), would) {
            Gate::Refused => {
                let text = format!("refused, nothing was changed ({} blockers)", check.blockers.len());
                return Ok(Some(self.end(Exit::Refused, "refused", check.clone(), text)));
            }
            Gate::WouldDo => {
                let text = format!("nothing stands in the way; would {would}");
                return Ok(Some(self.end(Exit::Done, "would_do", check.clone(), text)));
            }
            Gate::Ask => {
                ask(&self.session.cluster, would)?;
                self.confirmed = Some(would.to_owned());
            }
            Gate::Open => {}
        }
        Ok(None)
    }

    /// Waits until `arrived` says so, or prints the state and times out.
    pub async fn wait(
        &self,
        check: Check,
        arrived: impl AsyncFn(&ClusterView) -> Result<String, String>,
    ) -> Result<Exit, Failure> {
        let deadline = Instant::now() + Duration::from_secs(self.order.timeout);
        let mut last = "nothing was read".to_owned();
        loop {
            match self.session.view().await {
                Ok(view) => match arrived(&view).await {
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

    /// Sends the transaction: `write`, and the record of the order. `view` is what the order was judged by.
    pub async fn send(
        &self,
        view: &ClusterView,
        compares: Vec<Compare>,
        write: Write,
    ) -> Result<Settled, Failure> {
        self.send_accepting(view, compares, write, None).await
    }

    /// The same for a verb that may cause a loss: what was `accepted` is kept with the order.
    pub async fn send_accepting(
        &self,
        view: &ClusterView,
        mut compares: Vec<Compare>,
        write: Write,
        accepted: Option<String>,
    ) -> Result<Settled, Failure> {
        let number = view.audits.last().map_or(0, |last| last.number.saturating_add(1));
        let record = AuditRecord {
            number,
            verb: self.name.to_owned(),
            node: self.node.clone(),
            by: self.session.region.who(),
            from: self.session.from.clone(),
            reason: self.order.reason().to_owned(),
            accepted,
            at_wall_ms: now_wall_ms(),
        };
        let key = ClusterKeys::new(&self.session.cluster).audit(number);
        // Two orders at once would take the same place: the later one looks again.
        compares.push(Compare::ModRevision { key: key.clone(), is: view.audit_revision(number) });
        let proof = Proof { key, value: Stored::new(record).encode() };
        settle(&*self.session.store, compares, write, proof).await.map_err(Failure::from)
    }

    /// The order was given, but the world kept changing under it.
    pub fn kept_changing(&self, check: Check) -> Exit {
        let text = "failed, nothing was changed: the cluster kept changing; look at status and try again";
        self.end(Exit::Failed, "failed", check, text)
    }
}

fn gate_of(order: &Order, check: &Check, confirmed: Option<&str>, would: &str) -> Gate {
    if !check.blockers.is_empty() {
        Gate::Refused
    } else if order.dry_run {
        Gate::WouldDo
    } else if !order.yes && confirmed != Some(would) {
        Gate::Ask
    } else {
        Gate::Open
    }
}

/// How often an order is tried again when the state changed between reading and writing.
pub const ATTEMPTS: usize = 5;

/// The record of an order: where it is, the order was carried out.
struct Proof {
    key: String,
    value: Vec<u8>,
}

/// An unknown outcome is settled by reading the record of the order. Agents may have changed the order's own key again
/// by then; nobody but another order touches that record.
async fn settle(
    store: &dyn Store,
    compares: Vec<Compare>,
    write: Write,
    proof: Proof,
) -> Result<Settled, StoreError> {
    let writes = vec![write, Write::put(proof.key.clone(), proof.value.clone())];
    match store.txn(Txn { compares, writes, otherwise_read: Vec::new() }).await {
        Ok(TxnOutcome::Succeeded { .. }) => Ok(Settled::Done),
        Ok(TxnOutcome::Refused { .. }) => Ok(Settled::Changed),
        Err(error) if error.outcome_unknown() => {
            // If this fails too, the caller learns the second reason; nothing is claimed.
            let reading = store.read(vec![Read::Key(proof.key.clone())]).await?;
            let found = reading.get(&proof.key).map(|pair| &pair.value);
            // Name, reason and moment in the value make it ours.
            Ok(if found == Some(&proof.value) { Settled::Done } else { Settled::Changed })
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

    #[test]
    fn what_changed_after_the_answer_is_looked_at_again() {
        let by_hand =
            Order { dry_run: false, reason: Some("x".into()), yes: false, wait: false, timeout: 60 };
        let unasked = Order { yes: true, ..by_hand.clone() };
        let (good, mut bad) = (Check::default(), Check::default());
        bad.block("db2 is the writer", "holdfast fence db2 --accept-outage --yes");
        assert_eq!(gate_of(&by_hand, &good, None, "fence db2"), Gate::Ask);
        assert_eq!(gate_of(&by_hand, &good, Some("fence db2"), "fence db2"), Gate::Open);
        assert_eq!(gate_of(&by_hand, &good, Some("lose 1 s"), "lose 2 s"), Gate::Ask, "another question");
        assert_eq!(gate_of(&by_hand, &bad, Some("fence db2"), "fence db2"), Gate::Refused);
        assert_eq!(gate_of(&unasked, &good, None, "fence db2"), Gate::Open);
        assert_eq!(gate_of(&unasked, &bad, None, "fence db2"), Gate::Refused);
        let dry = Order { dry_run: true, ..unasked };
        assert_eq!(gate_of(&dry, &good, None, "fence db2"), Gate::WouldDo);
    }

    fn absent() -> Vec<Compare> {
        vec![Compare::ModRevision { key: "/a".into(), is: 0 }]
    }

    async fn order(store: &MemoryStore, compares: Vec<Compare>, reason: &str) -> Result<Settled, StoreError> {
        let proof = Proof { key: "/audit/00".into(), value: reason.into() };
        settle(store, compares, Write::put("/a", reason), proof).await
    }

    #[tokio::test]
    async fn an_unknown_outcome_is_settled_by_the_orders_record() {
        let store = MemoryStore::new();
        store.lose_next_answer();
        assert_eq!(order(&store, absent(), "1").await, Ok(Settled::Done));
        assert_eq!(order(&store, absent(), "2").await, Ok(Settled::Changed));
        store.lose_next_answer();
        assert_eq!(order(&store, absent(), "2").await, Ok(Settled::Changed), "refused, and the answer lost");
        store.set_reachable(false);
        assert!(order(&store, absent(), "3").await.is_err());
    }
}
