//! `check pooler`: whether clients should come to the PgBouncer of this host, for keepalived and whoever else moves an address.
//! It asks the agent of its host and nobody else: no etcd, no certificate. What is true is decided there.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use holdfast_proto::left_behind::Configuration;
use holdfast_proto::poolers::{LINE_BYTES_MAX, PoolerAnswer, PoolerQuestion, SOCKET};
use holdfast_types::record::local_disarm::RUN_DIR;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::exit::{Exit, Failure};
use super::print;
use super::target::Output;

/// What is checked.
#[derive(Debug, Clone, Subcommand)]
pub enum Check {
    /// Exit 0 if clients should come to the PgBouncer of this host: they reach the writer in force, or wait as everywhere
    Pooler(PoolerOptions),
}

/// Options of `check pooler`.
#[derive(Debug, Clone, Args)]
pub struct PoolerOptions {
    /// Its `name` in agent.toml; every one of this host without it
    name: Option<String>,
    /// The agent's configuration, for the folder of its socket
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/agent.toml")]
    agent_config: PathBuf,
    /// The folder of the agent's socket, where its configuration cannot be read
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// An agent that has not answered in so many milliseconds does not answer
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    timeout_ms: u64,
    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs it.
pub async fn run(check: &Check) -> Result<Exit, Failure> {
    let Check::Pooler(options) = check;
    let run_dir = options.run_dir.clone().or_else(|| Configuration::read(&options.agent_config).run_dir);
    let socket = run_dir.unwrap_or_else(|| RUN_DIR.into()).join(SOCKET);
    let unreachable = |why: String| {
        let at = socket.display();
        Failure::new(
            Exit::Unreachable,
            format!(
                "the agent behind {at} {why}, so its pooler takes no clients; next: systemctl status holdfast-agent"
            ),
        )
    };
    let asked = ask(&socket, options.name.clone());
    let answer = match tokio::time::timeout(Duration::from_millis(options.timeout_ms), asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(format!("does not answer: {error}"))),
        Err(_) => return Err(unreachable(format!("has not answered in {} ms", options.timeout_ms))),
    };
    if let Some(why) = answer.error {
        return Err(Failure::usage(why));
    }
    print::report(options.output, &answer, || answer.lines().join("\n") + "\n");
    Ok(if answer.up { Exit::Done } else { Exit::Failed })
}

async fn ask(socket: &std::path::Path, name: Option<String>) -> std::io::Result<PoolerAnswer> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(&PoolerQuestion::Pooler { name })?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut answer).await?;
    if answer.is_empty() {
        return Err(std::io::Error::other("it does not know the question; upgrade it"));
    }
    Ok(serde_json::from_str(&answer)?)
}
