//! `holdfast-bench`: the program behind `tests/bench`, the clients that it starts in their network namespace, and the
//! table of files of records.
//!
//! Exit codes: 0 done; 1 something could not be measured; 2 usage; 6 measured, but a system with agents did not keep its
//! promises. A target that is missed is a figure, not a failure: it stands in the table.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use holdfast_lab::bench::{self, session};
use holdfast_lab::checker::clients::{self, Options};
use holdfast_lab::checker::describe::{Choice, Describe};
use holdfast_lab::checker::record::Recording;
use holdfast_lab::checker::{monotonic_us, table, verdict};
use tokio_util::sync::CancellationToken;

/// The same faults against Patroni alone and Holdfast, with clients that count every acknowledged write
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    session: session::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Receive OTLP, and keep each trace that is one tree as a text file (run it where the agents can reach it)
    Traces {
        /// Where to listen: what the agents' `otlp_endpoint` names
        #[arg(long)]
        listen: std::net::SocketAddr,
        /// The folder of the files
        #[arg(long)]
        folder: PathBuf,
    },
    /// Write rows on every route of a lab and record every attempt (run it inside the client host's network namespace)
    Clients(ClientsOptions),
    /// Judge a recording without rows: gaps, errors and writers only
    Gaps {
        /// The recording
        recording: PathBuf,
    },
    /// Print the table of files of records, with every target: met or not, and by how much
    Table {
        /// The files that --json appended to
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Args)]
struct ClientsOptions {
    /// Output of `holdfast-lab describe`
    #[arg(long)]
    describe: PathBuf,
    #[command(flatten)]
    choice: Choice,
    /// Name of the run: part of every row's key
    #[arg(long, default_value = "by-hand")]
    run: String,
    /// The recording to write
    #[arg(long)]
    out: PathBuf,
    /// Attempts a second of one client
    #[arg(long, default_value_t = Options::default().rate_per_s)]
    rate: u32,
    /// Clients of each TCP route
    #[arg(long, default_value_t = Options::default().clients_per_route)]
    clients: u32,
    /// Milliseconds after which an attempt is unknown
    #[arg(long, default_value_t = 10_000)]
    deadline_ms: u64,
    /// Stop when standard input is closed (SIGTERM and SIGINT stop it in any case)
    #[arg(long)]
    until_stdin_closes: bool,
    /// Stop after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
}

/// Measured, but not clean (DESIGN section 7: partly done).
const NOT_CLEAN: u8 = 6;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.command {
        None => measure(&arguments.session).await,
        Some(command) => run(command).await.map(|()| ExitCode::SUCCESS),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("holdfast-bench: {error:#}");
        ExitCode::FAILURE
    })
}

async fn measure(options: &session::Options) -> anyhow::Result<ExitCode> {
    let records = session::run(options).await?;
    let unclean = records.unclean();
    for reason in &unclean {
        eprintln!("holdfast-bench: {reason}");
    }
    let failed = records.unmeasured.len();
    if failed > 0 {
        anyhow::bail!("{failed} of {} runs could not be measured", failed + records.runs.len());
    }
    Ok(if unclean.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NOT_CLEAN) })
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Traces { listen, folder } => holdfast_lab::otlp::folder::receive(listen, &folder).await,
        Command::Clients(options) => run_clients(options).await,
        Command::Gaps { recording } => gaps(&recording),
        Command::Table { files } => {
            let records = bench::record::Records::read(&files)?;
            print!("{}", bench::summary::render(&records));
            let missing = bench::judge::missing(&records);
            if !missing.is_empty() {
                println!("\nno records of: {}", missing.join(", "));
            }
            Ok(())
        }
    }
}

async fn run_clients(options: ClientsOptions) -> anyhow::Result<()> {
    let describe = Describe::read(&options.describe)?;
    let stop = CancellationToken::new();
    tokio::spawn(stop_when_told(stop.clone(), options.until_stdin_closes, options.seconds));
    let pace = Options {
        rate_per_s: options.rate,
        clients_per_route: options.clients,
        deadline: Duration::from_millis(options.deadline_ms),
        ..Options::default()
    };
    let (routes, probes) =
        (clients::routes(&describe, &options.choice)?, clients::probe_targets(&describe, &options.choice)?);
    clients::run(&routes, probes, &options.run, &pace, &options.out, stop).await
}

async fn stop_when_told(stop: CancellationToken, until_stdin_closes: bool, seconds: Option<u64>) {
    let stdin = async {
        if !until_stdin_closes {
            return std::future::pending().await;
        }
        let (closed, wait) = tokio::sync::oneshot::channel();
        // A thread of its own: one of the runtime's would keep the process from ending while nobody closes.
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            // An input that cannot be read is as good as closed.
            let _ = std::io::copy(&mut input, &mut std::io::sink());
            let _ = closed.send(());
        });
        let _ = wait.await;
    };
    let time = async {
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stdin => {}
        () = time => {}
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    stop.cancel();
}

fn gaps(path: &std::path::Path) -> anyhow::Result<()> {
    let recording = Recording::read(path).context("the recording")?;
    // Without the rows nothing can be said of losses: every row counts as there.
    let rows = recording.attempts.iter().map(|attempt| (attempt.client, attempt.seq)).collect();
    eprintln!("judged at {} us without rows: losses are not looked at", monotonic_us());
    print!("{}", table::render(&verdict::judge(&recording, &rows, None)));
    Ok(())
}
