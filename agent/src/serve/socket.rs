//! The Unix socket of the gates, and of the check of a virtual address. Of gates only root and the users that own a data
//! directory of ours may ask; whether a pooler is up is no secret.
//!
//! Reads one bounded question per connection and hands it to the member it is about. A connection that is closed before
//! its answer takes the question back: Patroni has ended the gate. What that means for a term which was opened for it
//! meanwhile is rule 10's affair ([`crate::member`]).

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use holdfast_proto::poolers::{PoolerAnswer, PoolerQuestion};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::gate::protocol::{Answer, LINE_BYTES_MAX, Question, SOCKET};
use crate::member::{Member, Promotion};
use crate::pooler::seen::{self, Poolers};

/// Patroni asks one question at a time for each instance; more than this is somebody else.
const CONNECTIONS_MAX: usize = 32;
/// A question must have come within this time.
const QUESTION_DEADLINE: Duration = Duration::from_secs(1);
/// An answer is a line; a gate that does not take it has ended.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// Opens the socket, in place of one that an earlier agent left.
pub fn listen(run_dir: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = run_dir.join(SOCKET);
    let at = || format!("the gates' socket {}", path.display());
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(at),
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(at)?;
    // Everybody may connect: the peer's credentials decide, and they cannot be forged.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).with_context(at)?;
    Ok(listener)
}

/// Answers the gates until the runtime ends.
pub async fn serve(listener: UnixListener, members: Arc<[Arc<Member>]>, poolers: Poolers) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a gate could not connect");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::warn!("more than {CONNECTIONS_MAX} gates at once; one is turned away and asks again");
            continue;
        };
        let (members, poolers) = (Arc::clone(&members), Arc::clone(&poolers));
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &members, &poolers).await {
                tracing::debug!(%error, "a gate went without its answer");
            }
            drop(slot);
        });
    }
}

async fn answer(stream: UnixStream, members: &[Arc<Member>], poolers: &Poolers) -> anyhow::Result<()> {
    let uid = stream.peer_cred().context("peer credentials")?.uid();
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(LINE_BYTES_MAX));
    tokio::time::timeout(QUESTION_DEADLINE, read.read_line(&mut line))
        .await
        .context("no question in time")??;
    if let Ok(PoolerQuestion::Pooler { name }) = serde_json::from_str(&line) {
        let answer = seen::answer(poolers, name.as_deref(), None).unwrap_or_else(PoolerAnswer::error);
        return write_line(&mut write, serde_json::to_vec(&answer)?).await;
    }
    let question: Question = serde_json::from_str(&line).context("not a question of ours")?;
    let found = members.iter().find(|member| match &question {
        Question::Start { data_dir, .. } => member.instance.data_dir == *data_dir,
        Question::Promote { namespace, scope, .. } => {
            member.instance.cluster.namespace == *namespace && member.instance.cluster.scope == *scope
        }
    });
    let decided = match found {
        None => Answer::Refuse { why: "this agent has no such instance; see check-config".into() },
        Some(member) if !member.may_ask(uid).await => {
            Answer::Refuse { why: format!("user {uid} does not own {}", member.instance.data_dir.display()) }
        }
        Some(member) => match question {
            Question::Start { standby, .. } => member.may_start(standby).await,
            Question::Promote { waited_ms, .. } => return promote(member, waited_ms, &mut read, write).await,
        },
    };
    say(&mut write, &decided).await
}

async fn say(write: &mut OwnedWriteHalf, answer: &Answer) -> anyhow::Result<()> {
    write_line(write, answer.to_line()?).await
}

async fn write_line(write: &mut OwnedWriteHalf, mut line: Vec<u8>) -> anyhow::Result<()> {
    if line.last() != Some(&b'\n') {
        line.push(b'\n');
    }
    tokio::time::timeout(ANSWER_DEADLINE, write.write_all(&line))
        .await
        .context("the answer is not taken")??;
    Ok(())
}

/// The promotion hook. An attempt to open the next term is never broken off, because its transaction may be done already;
/// no further one is begun once the hook is gone.
async fn promote(
    member: &Member,
    waited_ms: u64,
    read: &mut (impl tokio::io::AsyncRead + Unpin),
    mut write: OwnedWriteHalf,
) -> anyhow::Result<()> {
    let _waiting = member.hooks.enter(&member.wake);
    let (asked, mut gone) = (Instant::now(), pin!(closed(read)));
    loop {
        let waited_ms =
            waited_ms.saturating_add(u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX));
        let Some(decided) = member.may_promote(waited_ms, gone.as_mut()).await else {
            anyhow::bail!("the hook was ended before it was answered");
        };
        let Promotion::PassIn(term) = decided else { return say(&mut write, &decided.answer()).await };
        let line = Answer::Pass.to_line()?;
        let told = tokio::time::timeout(ANSWER_DEADLINE, member.hooks.pass(term, &line, &write));
        if told.await.context("the answer is not taken")?? {
            return Ok(());
        }
        // Given back in the moment between: it waits until the term is closed.
    }
}

/// Ends when the other side has closed the connection.
async fn closed(read: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut byte = [0];
    while matches!(read.read(&mut byte).await, Ok(count) if count > 0) {}
}
