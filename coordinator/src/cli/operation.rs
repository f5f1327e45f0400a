//! `operation list`, `show`, `watch`, `cancel`, and what all verbs share that ask for an operation.
//!
//! A request goes into etcd under the requester's own name, which etcd's permissions prove. From then on a coordinator works,
//! and this side only looks.

use std::time::Duration;

use clap::{Args, Subcommand};
use holdfast_store::{Compare, Read, Txn, Write};
use holdfast_types::keys::{self, ClusterKeys};
use holdfast_types::record::{
    CoordinatorRecord, IntentRecord, OperationEnd, OperationRecord, OperationState, Stored, Wanted,
};
use tokio::time::Instant;

use super::exit::{Exit, Failure};
use super::order::{ATTEMPTS, Action, Order, Settled};
use super::print;
use super::target::{Output, Session, Target, now_wall_ms};
use crate::view::arming::Check;
use crate::view::cluster::ClusterView;
use crate::view::operation::{self, OperationList, OperationReport};

/// How often a running operation is looked at: its phases take tenths of a second.
const LOOK: Duration = Duration::from_millis(100);
/// A coordinator takes a request in milliseconds. One that nobody takes is withdrawn.
const TAKEN_WITHIN: Duration = Duration::from_secs(15);
/// What is asked for on the way of another verb: the old writer may have to be rewound.
const CARRIED_OUT_WITHIN: Duration = Duration::from_secs(900);

/// The verbs.
#[derive(Debug, Clone, Subcommand)]
pub enum OperationVerb {
    /// The operations that are still known, and the requests that wait
    List(ListOptions),
    /// One operation: who, why, each phase, how it ended
    Show(ShowOptions),
    /// Follow an operation to its end; its state is the exit code
    Watch(WatchOptions),
    /// Stop an operation, if it has not handed over yet
    Cancel(CancelOptions),
}

/// Options of `operation list`.
#[derive(Debug, Clone, Args)]
pub struct ListOptions {
    #[command(flatten)]
    target: Target,
}

/// Options of `operation show`.
#[derive(Debug, Clone, Args)]
pub struct ShowOptions {
    /// Its number; without it the newest
    number: Option<u64>,
    #[command(flatten)]
    target: Target,
}

/// Options of `operation watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchOptions {
    /// Its number; without it the newest
    number: Option<u64>,
    /// How long to follow it, in seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    #[command(flatten)]
    target: Target,
}

/// Options of `operation cancel`.
#[derive(Debug, Clone, Args)]
pub struct CancelOptions {
    /// Its number
    number: u64,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Runs a verb.
pub async fn run(verb: &OperationVerb) -> Result<Exit, Failure> {
    match verb {
        OperationVerb::List(options) => list(options).await,
        OperationVerb::Show(options) => show(options).await,
        OperationVerb::Watch(options) => watch(options).await,
        OperationVerb::Cancel(options) => cancel(options).await,
    }
}

async fn list(options: &ListOptions) -> Result<Exit, Failure> {
    let session = options.target.session().await?;
    let view = session.view().await?;
    let list = OperationList::new(&view, coordinator(&session).await?.map(|record| record.host.to_string()));
    print::report(options.target.output, &list, || list.table());
    Ok(Exit::Done)
}

async fn show(options: &ShowOptions) -> Result<Exit, Failure> {
    let session = options.target.session().await?;
    let view = session.view().await?;
    let record = find(&view, options.number)?;
    let report = OperationReport::new(&view, record);
    print::report(options.target.output, &report, || report.table());
    Ok(Exit::Done)
}

async fn watch(options: &WatchOptions) -> Result<Exit, Failure> {
    let session = options.target.session().await?;
    let number = find(&session.view().await?, options.number)?.number;
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let newest = async |view: &ClusterView| find(view, Some(number)).ok().cloned();
    follow(&session, options.target.output, deadline, newest).await
}

fn find(view: &ClusterView, number: Option<u64>) -> Result<&OperationRecord, Failure> {
    let all = operation::all(view);
    let found = match number {
        None => all.last().copied(),
        Some(number) => all.into_iter().find(|record| record.number == number),
    };
    found.ok_or_else(|| {
        Failure::usage(match number {
            None => format!("no operation of {} is known", view.cluster),
            Some(number) => format!("no operation {number} of {} is known (operation list)", view.cluster),
        })
    })
}

async fn cancel(options: &CancelOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let mut action = Action::new(&session, "operation cancel", None, &options.order, options.target.output);
    let view = session.view().await?;
    let mut check = Check::default();
    let number = options.number;
    let would = match operation::running(&view).filter(|seen| seen.body().number == number) {
        Some(seen) => format!("stop {}", operation::line(seen.body())),
        None => {
            check.block(format!("no operation {number} runs"), "holdfast operation list");
            String::new()
        }
    };
    if let Some(exit) = action.gate(&check, &would)? {
        return Ok(exit);
    }
    ask(&action, check, Wanted::Cancel { number }).await
}

/// Which coordinator works.
async fn coordinator(session: &Session) -> Result<Option<CoordinatorRecord>, Failure> {
    let key = keys::coordinator(&session.cluster.region);
    let reading = session.store.read(vec![Read::Key(key.clone())]).await?;
    let Some(pair) = reading.get(&key) else { return Ok(None) };
    let record = holdfast_store::decode::<CoordinatorRecord>(pair);
    record.map(|record| Some(record.body)).map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// A request that a coordinator has taken: how its operation is found.
struct Taken {
    user: String,
    id: String,
    record: OperationRecord,
}

impl Taken {
    fn newest(&self) -> impl AsyncFn(&ClusterView) -> Option<OperationRecord> {
        async |view: &ClusterView| operation::of_request(view, &self.user, &self.id).cloned()
    }
}

/// Why nobody has taken a request.
enum Left {
    /// Everything kept changing.
    Changing,
    /// Nobody did in time, or what became of it is not found.
    Late(&'static str),
}

/// Puts a request and follows what becomes of it.
pub async fn ask(action: &Action<'_>, check: Check, wanted: Wanted) -> Result<Exit, Failure> {
    let deadline = Instant::now() + Duration::from_secs(action.order.timeout);
    let taken = match put(action, wanted).await? {
        Ok(taken) => taken,
        Err(Left::Changing) => return Ok(action.kept_changing(check)),
        Err(Left::Late(text)) => return Ok(action.end(Exit::TimedOut, "timed_out", check, text)),
    };
    if taken.record.runs() && !action.order.wait {
        let text = format!("{}; follow it with: holdfast operation watch", operation::line(&taken.record));
        return Ok(action.end(Exit::Done, "begun", check, text));
    }
    follow(action.session, action.output, deadline, taken.newest()).await
}

/// The same to its end, for a verb that goes on with something else: only its phases are told.
pub async fn carried_out(action: &Action<'_>, wanted: Wanted) -> Result<OperationEnd, Failure> {
    let taken = match put(action, wanted).await? {
        Ok(taken) => taken,
        Err(Left::Changing) => return Err(Failure::new(Exit::Failed, "the cluster kept changing")),
        Err(Left::Late(text)) => return Err(Failure::new(Exit::TimedOut, text)),
    };
    let deadline = Instant::now() + CARRIED_OUT_WITHIN;
    let (view, record) = to_end(action.session, deadline, taken.newest()).await?;
    let text = OperationReport::new(&view, &record).text;
    print::prose(&text);
    record.ended.ok_or_else(|| Failure::new(Exit::TimedOut, format!("it has not ended: {text}")))
}

/// Puts a request, and waits until it is taken.
async fn put(action: &Action<'_>, wanted: Wanted) -> Result<Result<Taken, Left>, Failure> {
    let session = action.session;
    let region = &session.cluster.region;
    if coordinator(session).await?.is_none() {
        let text = format!(
            "no coordinator works in region {region}, so nothing was asked for: systemctl start holdfast-coordinator"
        );
        return Err(Failure::new(Exit::Unreachable, text));
    }
    let user = session.region.etcd_user();
    let id = format!("{:016x}", fastrand::u64(..));
    let key = ClusterKeys::new(&session.cluster).intent(&user, &id);
    let intent = IntentRecord {
        wanted,
        reason: action.order.reason().to_owned(),
        from: Some(session.from.clone()),
        until_wall_ms: Some(now_wall_ms() + TAKEN_WITHIN.as_millis() as i64),
    };
    let put = || Write::put(key.clone(), Stored::new(intent.clone()).encode());
    let mut asked = false;
    for _ in 0..ATTEMPTS {
        let compares = vec![Compare::ModRevision { key: key.clone(), is: 0 }];
        if action.send(&session.view().await?, compares, put()).await? == Settled::Done {
            asked = true;
            break;
        }
    }
    if !asked {
        return Ok(Err(Left::Changing));
    }
    let begun = Instant::now();
    loop {
        let view = session.view().await?;
        if let Some(record) = operation::of_request(&view, &user, &id).cloned() {
            return Ok(Ok(Taken { user, id, record }));
        }
        if begun.elapsed() > TAKEN_WITHIN && withdraw(session, &key).await? {
            let text = "no coordinator has taken the request; it was withdrawn, nothing was changed";
            return Ok(Err(Left::Late(text)));
        }
        if begun.elapsed() > TAKEN_WITHIN * 2 {
            let text =
                "the request was taken, and what became of it is not found; see: holdfast operation list";
            return Ok(Err(Left::Late(text)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes a request back. `false`: somebody has it already.
async fn withdraw(session: &Session, key: &str) -> Result<bool, Failure> {
    let txn = Txn {
        compares: vec![Compare::Version { key: key.to_owned(), is: 1 }],
        writes: vec![Write::Delete { key: key.to_owned() }],
        otherwise_read: Vec::new(),
    };
    Ok(matches!(session.store.txn(txn).await?, holdfast_store::TxnOutcome::Succeeded { .. }))
}

/// Follows an operation to its end, or until the deadline, and tells how it stands then.
async fn follow(
    session: &Session,
    output: Output,
    deadline: Instant,
    newest: impl AsyncFn(&ClusterView) -> Option<OperationRecord>,
) -> Result<Exit, Failure> {
    let (view, record) = to_end(session, deadline, newest).await?;
    let report = OperationReport::new(&view, &record);
    print::report(output, &report, || report.table());
    Ok(record.ended.map_or(Exit::TimedOut, |end| exit_of(end.state)))
}

/// The record of an operation that has ended, or as it is at the deadline; its phases are told as they come.
async fn to_end(
    session: &Session,
    deadline: Instant,
    newest: impl AsyncFn(&ClusterView) -> Option<OperationRecord>,
) -> Result<(ClusterView, OperationRecord), Failure> {
    let mut told = None;
    loop {
        // etcd may be away for a moment in the middle of an operation: that ends nothing.
        let view = session.view().await;
        let record = match &view {
            Ok(view) => newest(view).await,
            Err(failure) if Instant::now() >= deadline => return Err(failure.clone()),
            Err(_) => None,
        };
        if let (Ok(view), Some(record)) = (view, record) {
            if !record.runs() || Instant::now() >= deadline {
                return Ok((view, record));
            }
            let text = OperationReport::new(&view, &record).text;
            if told.as_ref() != Some(&text) {
                print::prose(&text);
                told = Some(text);
            }
        } else if Instant::now() >= deadline {
            let text = "its record is no longer among those that are kept; see: holdfast operation list";
            return Err(Failure::new(Exit::TimedOut, text));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn exit_of(state: OperationState) -> Exit {
    match state {
        OperationState::Done => Exit::Done,
        OperationState::Refused => Exit::Refused,
        OperationState::Unchanged => Exit::Failed,
        OperationState::Overtaken | OperationState::PartlyDone => Exit::Partly,
    }
}
