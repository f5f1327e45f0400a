//! A receiver that keeps each trace as a text file, for `tests/demo` and for tests of whole labs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::Receiver;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Receives on `listen` for as long as it is let; each trace that is one tree stands in `folder/<trace id>`, as it is now.
pub async fn receive(listen: SocketAddr, folder: &Path) -> anyhow::Result<()> {
    let receiver = Receiver::listen(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut seen = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let spans = receiver.spans();
        if spans.len() == seen {
            continue;
        }
        seen = spans.len();
        for trace_id in spans.iter().map(|span| span.trace_id).collect::<BTreeSet<u128>>() {
            // What is not one tree yet waits for the spans that are on their way.
            if let Ok(tree) = receiver.tree(trace_id) {
                let file = folder.join(format!("{trace_id:032x}"));
                let hosts: Vec<String> = tree.hosts().into_iter().collect();
                let text = format!("{}{} hosts: {}\n", tree.to_text(), hosts.len(), hosts.join(", "));
                std::fs::write(&file, text).with_context(|| file.display().to_string())?;
            }
        }
    }
}
