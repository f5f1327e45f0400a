//! The promotion gate: Patroni's `pre_promote`. Exit 0 promotes, exit 1 gives the lock back.
//!
//! It waits for the agent's answer for as long as that takes (Patroni goes on renewing the lock meanwhile, measured
//! over 40 s) and ends at once on SIGTERM, by the signal's default action: Patroni's loop would block 10 s otherwise.
//! With the agent gone it waits for it to come back.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use holdfast_types::{ClusterId, Mode, Namespace, Scope};

use super::protocol::{Answer, LINE_BYTES_MAX, Question, SOCKET};
use super::remembered::Remembered;
use crate::config::Config;

const RETRY: Duration = Duration::from_millis(100);

/// Asks until there is an answer; returns the exit code.
pub fn run(config: &Config, namespace: Namespace, scope: Scope) -> u8 {
    let cluster = ClusterId { region: config.region.clone(), namespace, scope };
    let question = Question::Promote { namespace: cluster.namespace.clone(), scope: cluster.scope.clone() };
    let socket = config.run_dir.join(SOCKET);
    loop {
        match ask(&socket, &question) {
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

fn ask(socket: &Path, question: &Question) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
