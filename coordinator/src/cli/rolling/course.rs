//! The way from node to node, and what is true when it ends, wherever that is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use holdfast_types::MemberName;
use holdfast_types::record::{Drain, OperationState, Wanted};
use tokio::time::Instant;

use super::{RunOptions, back};
use crate::cli::exit::{Exit, Failure};
use crate::cli::order::Action;
use crate::cli::{operation, print};
use crate::view::cluster::ClusterView;
use crate::view::drained::is_drained;
use crate::view::operation::observe;

const LOOK: Duration = Duration::from_millis(300);

/// Why it goes no further.
#[derive(Debug)]
pub enum Stop {
    /// Something failed; what.
    Failed(String),
    /// The node is as it was; how the call ends if no other is done, and why.
    Unchanged(Exit, String),
    /// A person, or the system, ends it.
    Interrupted,
}

/// What is done to the node whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Drain,
    Run,
    Wait,
    Undrain,
}

/// Where it is; readable when the work itself was cut off.
struct Place {
    done: Vec<String>,
    now: Option<(String, At)>,
    left: Vec<String>,
}

/// A run.
pub struct Course<'a> {
    action: &'a Action<'a>,
    options: &'a RunOptions,
    place: RefCell<Place>,
}

impl<'a> Course<'a> {
    /// A run that has not begun.
    pub fn new(action: &'a Action<'a>, options: &'a RunOptions, nodes: Vec<String>) -> Self {
        let place = RefCell::new(Place { done: Vec::new(), now: None, left: nodes });
        Self { action, options, place }
    }

    /// Goes from node to node, to the end or to the first failure.
    pub async fn run(&self) -> Result<(), Stop> {
        loop {
            let view = self.view().await?;
            let left = self.place.borrow().left.clone();
            let Some(node) = back::next(&observe(&view, &BTreeMap::new()), &left) else { return Ok(()) };
            {
                let mut place = self.place.borrow_mut();
                place.left.retain(|one| *one != node);
                place.now = Some((node.clone(), At::Drain));
            }
            self.turn(&node, view).await?;
            let mut place = self.place.borrow_mut();
            place.now = None;
            place.done.push(node);
        }
    }

    async fn turn(&self, node: &str, view: ClusterView) -> Result<(), Stop> {
        let counts = back::must_count(&view, node);
        if is_drained(&view, node) {
            self.is_ours(node, &view)?;
            print::prose(&format!("{node}: drained already"));
        } else {
            print::prose(&format!("{node}: drain"));
            let open = self.options.open;
            let wanted = Drain {
                node: node.to_owned(),
                to: None,
                beside_drained: false,
                drain_timeout_ms: open.drain_timeout_ms(),
                terminate: open.terminate,
            };
            self.ask(Wanted::Drain(wanted)).await?;
        }
        self.enter(At::Run);
        let view = self.view().await?;
        self.command(node, &view).await?;
        self.enter(At::Wait);
        self.wait(node, counts).await?;
        self.enter(At::Undrain);
        self.ask(Wanted::Undrain { node: node.to_owned() }).await
    }

    fn enter(&self, at: At) {
        if let Some((_, place)) = &mut self.place.borrow_mut().now {
            *place = at;
        }
    }

    /// Somebody else's work on a node is not ours to go on with.
    fn is_ours(&self, node: &str, view: &ClusterView) -> Result<(), Stop> {
        let by = view.drained.iter().find(|(name, _)| name.eq_ignore_ascii_case(node));
        let by = by.and_then(|(_, mark)| mark.as_ref()).map(|mark| mark.by.clone());
        let user = self.action.session.region.etcd_user();
        match by {
            Some(by) if by == user => Ok(()),
            Some(by) => Err(Stop::Failed(format!("it was drained by {by}"))),
            None => Err(Stop::Failed("its mark cannot be read".into())),
        }
    }

    async fn view(&self) -> Result<ClusterView, Stop> {
        self.action.session.view().await.map_err(|failure| Stop::Failed(failure.text))
    }

    async fn ask(&self, wanted: Wanted) -> Result<(), Stop> {
        let name = wanted.name();
        let ended = operation::carried_out(self.action, wanted).await;
        let end = ended.map_err(|failure: Failure| match failure.exit {
            Exit::Unreachable => Stop::Unchanged(failure.exit, format!("{name}: {failure}")),
            _ => Stop::Failed(format!("{name}: {failure}")),
        })?;
        match end.state {
            OperationState::Done => Ok(()),
            OperationState::Refused => Err(Stop::Unchanged(Exit::Refused, end.text)),
            OperationState::Unchanged => Err(Stop::Unchanged(Exit::Failed, end.text)),
            state => Err(Stop::Failed(format!("{name}: {state}: {}", end.text))),
        }
    }

    /// Runs the command with our own input and output. One that does not end in time goes on by itself: half of an upgrade is
    /// worse than a long one.
    async fn command(&self, node: &str, view: &ClusterView) -> Result<(), Stop> {
        let (program, arguments) = self.options.command.split_first().expect("clap wants one word at least");
        print::prose(&format!("{node}: {}", self.options.command.join(" ")));
        let [host, address, role] = of_node(view, node);
        // The one runner of children keeps their output and kills them at a deadline: not what a person's command wants.
        #[allow(clippy::disallowed_methods)]
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).stdin(Stdio::null()).env("HOLDFAST_NODE", node);
        command.env("HOLDFAST_HOST", host).env("HOLDFAST_ADDRESS", address).env("HOLDFAST_ROLE", role);
        // What it says is for people; standard output is our report's.
        command.stdout(std::io::stderr());
        let mut child =
            command.spawn().map_err(|error| Stop::Failed(format!("{program} cannot be started: {error}")))?;
        let deadline = Duration::from_secs(self.options.command_timeout);
        match tokio::time::timeout(deadline, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Stop::Failed(format!("the command failed: {status}"))),
            Ok(Err(error)) => Err(Stop::Failed(format!("the command was lost: {error}"))),
            Err(_) => Err(Stop::Failed(format!(
                "the command has not ended after {} s and goes on by itself (process {})",
                deadline.as_secs(),
                child.id().unwrap_or_default()
            ))),
        }
    }

    async fn wait(&self, node: &str, counts: bool) -> Result<(), Stop> {
        print::prose(&format!("{node}: wait until it is whole"));
        let deadline = Instant::now() + self.options.back_within();
        let (mut since, mut steady) = (None, Duration::MAX);
        loop {
            // etcd may be away for a moment, with the host that was restarted.
            let missing = match self.action.session.view().await {
                Ok(view) => {
                    steady = back::steady(&view);
                    back::missing(&observe(&view, &BTreeMap::new()), node, counts)
                }
                Err(failure) => Some(failure.text),
            };
            let now = Instant::now();
            match missing {
                None if now - *since.get_or_insert(now) >= steady => return Ok(()),
                None => {}
                Some(why) if now >= deadline => {
                    let waited = self.options.back_timeout;
                    return Err(Stop::Failed(format!("{why}, {waited} s after the command")));
                }
                Some(_) => since = None,
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What is true now, and what goes on from there.
    pub fn told(&self, stop: Option<Stop>) -> (Exit, &'static str, String) {
        self.place.borrow().told(stop)
    }
}

impl Place {
    fn told(&self, stop: Option<Stop>) -> (Exit, &'static str, String) {
        let done = match self.done.is_empty() {
            true => "no node is done".to_owned(),
            false => format!("done: {}", self.done.join(", ")),
        };
        let Some(stop) = stop else { return (Exit::Done, "done", done) };
        let interrupted = matches!(stop, Stop::Interrupted);
        let (exit, why) = match stop {
            Stop::Failed(why) => (Exit::Partly, why),
            Stop::Unchanged(exit, why) => (exit, why),
            Stop::Interrupted => (Exit::Partly, "interrupted".to_owned()),
        };
        let (now, state) = match &self.now {
            None => (None, why),
            Some((node, At::Drain)) if exit != Exit::Partly => (None, format!("{node} is as it was: {why}")),
            Some((node, At::Drain)) => {
                (Some(node), format!("{node} was to be drained (holdfast status says whether it is): {why}"))
            }
            Some((node, At::Run)) => {
                let goes_on = if interrupted { "; it may still run (look before you go on)" } else { "" };
                let text =
                    format!("{node} is drained, and the command has not succeeded there: {why}{goes_on}");
                (Some(node), text)
            }
            Some((node, At::Wait)) => (
                Some(node),
                format!(
                    "{node} is drained, the command has run there, and it is not whole: {why}; once it is: holdfast undrain {node}"
                ),
            ),
            Some((node, At::Undrain)) => (
                Some(node),
                format!("{node} is whole, and may still be drained: {why}; holdfast undrain {node}"),
            ),
        };
        // Whoever has had the command once does not get it again by itself.
        let again = self.now.iter().filter(|(_, at)| matches!(at, At::Drain | At::Run)).map(|(node, _)| node);
        let left: Vec<&str> = again.chain(&self.left).map(String::as_str).collect();
        let text = match left.is_empty() {
            true => format!("{done}; {state}"),
            false => format!(
                "{done}; {state}; next: holdfast rolling run --only {} --reason WHY -- COMMAND",
                left.join(",")
            ),
        };
        match (self.done.is_empty() && now.is_none(), exit) {
            (true, Exit::Partly) => (Exit::Failed, "failed", text),
            (true, Exit::Refused) => (exit, "refused", text),
            (true, exit) => (exit, "failed", text),
            (false, _) => (Exit::Partly, "failed", text),
        }
    }
}

/// Host, address and role of a node.
fn of_node(view: &ClusterView, node: &str) -> [String; 3] {
    let facts = MemberName::new(node).ok().and_then(|name| view.facts.get(&name));
    if let Some(facts) = facts {
        return [facts.host.to_string(), facts.address.clone(), "database".into()];
    }
    let is_host = |host: &&holdfast_types::HostName| {
        node.strip_prefix(host.as_str()).is_some_and(|rest| rest.starts_with('.'))
    };
    let session = view.sessions.iter().find(|(host, _)| is_host(host));
    let [host, address] = session.map_or([node.to_owned(), String::new()], |(host, session)| {
        let address = session.grpc.rsplit_once(':').map_or("", |(address, _)| address);
        [host.to_string(), address.trim_matches(['[', ']']).to_owned()]
    });
    [host, address, "pooler".into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(at: Option<At>, stop: Option<Stop>) -> (Exit, String) {
        let place = Place {
            done: vec!["db4".into()],
            now: at.map(|at| ("db3".to_owned(), at)),
            left: vec!["db2".into(), "db1".into()],
        };
        let (exit, _, text) = place.told(stop);
        (exit, text)
    }

    #[test]
    fn wherever_it_stops_it_says_who_is_drained_and_how_to_go_on() {
        let failed = || Some(Stop::Failed("the command failed: exit status: 1".into()));
        let (exit, text) = told(Some(At::Run), failed());
        assert_eq!(exit, Exit::Partly);
        assert!(
            text.contains("done: db4; db3 is drained, and the command has not succeeded there"),
            "{text}"
        );
        assert!(
            text.ends_with("next: holdfast rolling run --only db3,db2,db1 --reason WHY -- COMMAND"),
            "{text}"
        );
        let (_, text) = told(Some(At::Drain), Some(Stop::Interrupted));
        assert!(text.contains("holdfast status says whether it is): interrupted"), "{text}");
        assert!(text.contains("--only db3,db2,db1 "), "{text}");
        let (_, text) = told(Some(At::Run), Some(Stop::Interrupted));
        assert!(text.contains("has not succeeded there: interrupted; it may still run"), "{text}");
        for at in [At::Wait, At::Undrain] {
            let (exit, text) = told(Some(at), Some(Stop::Interrupted));
            assert_eq!(exit, Exit::Partly);
            assert!(text.contains("holdfast undrain db3") && text.contains("--only db2,db1 "), "{text}");
        }
        let place = Place { done: vec![], now: Some(("db4".into(), At::Drain)), left: vec!["db3".into()] };
        let (exit, _, text) = place.told(Some(Stop::Unchanged(Exit::Refused, "not armed".into())));
        assert_eq!(exit, Exit::Refused);
        assert!(
            text.contains("no node is done; db4 is as it was: not armed; next") && text.contains("db4,db3")
        );
        let (exit, text) = told(None, Some(Stop::Interrupted));
        assert!(exit == Exit::Partly && text.contains("done: db4; interrupted; next"), "{text}");
        assert_eq!(told(None, None), (Exit::Done, "done: db4".into()));
    }
}
