//! `watch`: prints every change of a cluster as it happens, until interrupted.

use std::collections::BTreeMap;

use clap::Args;
use holdfast_store::{KeyValue, Reading, WatchEvent};
use holdfast_types::keys::{self, ClusterKeys};
use serde_json::json;

use super::exit::{Exit, Failure};
use super::print;
use super::target::{Output, Session, Target, now_wall_ms};
use crate::view::changes;
use crate::view::cluster::ClusterView;
use crate::view::status::{FORMAT, StatusReport};
use crate::view::text;

/// Options of `watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchOptions {
    #[command(flatten)]
    target: Target,
    /// End after so many lines
    #[arg(long, value_name = "COUNT")]
    lines: Option<usize>,
}

/// Runs `watch`.
pub async fn watch(options: &WatchOptions) -> Result<Exit, Failure> {
    let session = options.target.session().await?;
    // Fails at once, with the reason, if there is nothing to watch.
    session.view().await?;
    let cluster = ClusterKeys::new(&session.cluster);
    let prefixes = vec![
        cluster.prefix().to_owned(),
        cluster.patroni_prefix().to_owned(),
        keys::sessions(&session.cluster.region),
    ];
    let mut watch = session.store.watch(prefixes);
    let mut follower = Follower::new(&session, options);
    while follower.lines_left > 0 {
        follower.take(watch.next().await);
    }
    Ok(Exit::Done)
}

struct Follower<'s> {
    session: &'s Session,
    output: Output,
    pairs: BTreeMap<String, KeyValue>,
    shown: Option<ClusterView>,
    lines_left: usize,
}

impl<'s> Follower<'s> {
    fn new(session: &'s Session, options: &WatchOptions) -> Self {
        let (output, lines_left) = (options.target.output, options.lines.unwrap_or(usize::MAX));
        Self { session, output, pairs: BTreeMap::new(), shown: None, lines_left }
    }

    fn take(&mut self, event: WatchEvent) {
        let revision = match event {
            WatchEvent::Disconnected { why } => {
                return print::prose(&format!("etcd is out of reach, what follows may be late: {why}"));
            }
            WatchEvent::Snapshot(reading) => {
                self.pairs = reading.pairs.into_iter().map(|pair| (pair.key.clone(), pair)).collect();
                reading.revision
            }
            WatchEvent::Changes { revision, puts, deletes } => {
                self.pairs.extend(puts.into_iter().map(|pair| (pair.key.clone(), pair)));
                self.pairs.retain(|key, _| !deletes.contains(key));
                revision
            }
        };
        self.show(revision);
    }

    fn show(&mut self, revision: i64) {
        let pairs = self.pairs.values().cloned().collect();
        let reading = Reading { revision, cluster_id: 0, pairs };
        let view = ClusterView::new(self.session.cluster.clone(), &reading, now_wall_ms());
        match self.shown.take() {
            None => self.line(&view, "health", &StatusReport::new(&view, None).headline()),
            Some(shown) => {
                for change in changes::between(&shown, &view) {
                    self.line(&view, change.what, &change.text);
                }
            }
        }
        self.shown = Some(view);
    }

    fn line(&mut self, view: &ClusterView, what: &str, told: &str) {
        if self.lines_left == 0 {
            return;
        }
        self.lines_left -= 1;
        let at = text::moment(view.read_wall_ms);
        match self.output {
            Output::Table => print::data(&format!("{at} {what:6} {told}\n")),
            // A line of JSON is a document of YAML.
            Output::Json | Output::Yaml => print::json_line(&json!({
                "format": FORMAT, "at": at, "revision": view.revision,
                "cluster": view.cluster.to_string(), "what": what, "text": told,
            })),
        }
    }
}
