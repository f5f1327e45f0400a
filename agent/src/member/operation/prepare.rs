//! Before anything changes: a checkpoint, so that the shutdown's own is short, and the end of open transactions, so that
//! clients do not wait for them.

use std::time::Duration;

use holdfast_agent_core::planned::{self, Task};
use holdfast_host::clock;
use holdfast_types::preflight::{OpenTransaction, OpenTransactions};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::Outcome;
use crate::member::Member;
use crate::member::sql::SqlError;
use crate::member::talk::Talk;
use crate::observe::preflight as ask;

/// Writing all of a large buffer pool to a slow disk takes a minute and more. Nothing is held up by it, but a coordinator waits
/// for the whole preparation no longer than 120 s beside the drain.
const CHECKPOINT_DEADLINE: Duration = Duration::from_secs(100);
/// After a checkpoint that took longer than this, much was written meanwhile: a second one is short.
const CHECKPOINT_AGAIN: Duration = Duration::from_secs(1);
/// A transaction that is younger ends while the poolers pause; there is always one in a busy cluster.
const OPEN_MS: u64 = 500;
/// Between two looks at open transactions.
const LOOK: Duration = Duration::from_millis(100);
/// One look.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// A backend that was told to end does so at its next interrupt check.
const TERMINATE_DEADLINE: Duration = Duration::from_secs(5);
/// How many transactions are named.
const NAMED_MAX: usize = 3;

impl Member {
    /// Does it. `None`: etcd could not be asked whether open transactions may still be ended.
    pub(super) async fn prepare(
        &self,
        operation: u64,
        drain_timeout_ms: u64,
        terminate: bool,
    ) -> Option<Outcome> {
        let began = Instant::now();
        let mut remark = match self.checkpoint().await {
            Ok(remark) => remark,
            Err(problem) => return Some(Err(problem)),
        };
        let is_long = began.elapsed() > CHECKPOINT_AGAIN;
        match self.drain(operation, drain_timeout_ms, terminate).await? {
            Ok(None) => {}
            Ok(Some(ended)) => remark = Some(remark.map_or(ended.clone(), |one| format!("{one}; {ended}"))),
            Err(problem) => return Some(Err(problem)),
        }
        if is_long && let Err(problem) = self.checkpoint().await {
            return Some(Err(problem));
        }
        Some(Ok(remark))
    }

    async fn checkpoint(&self) -> Outcome {
        let until = Instant::now() + CHECKPOINT_DEADLINE;
        let made = async { self.sql.talk(until).await?.rows("checkpoint").await };
        match made.await {
            Ok(_) => Ok(None),
            // Patroni makes one too, while clients wait: the gap is longer, and that is all.
            Err(SqlError::Failed(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                Ok(Some(format!(
                    "no checkpoint was made beforehand, so clients wait for Patroni's: GRANT pg_checkpoint TO {} \
                 (PostgreSQL 15 and newer)",
                    self.instance.sql_role
                )))
            }
            Err(error) => Err(format!("no checkpoint can be made: {error}")),
        }
    }

    /// Waits for the end of long transactions, or ends them.
    async fn drain(&self, operation: u64, drain_timeout_ms: u64, terminate: bool) -> Option<Outcome> {
        let until = Instant::now() + Duration::from_millis(drain_timeout_ms);
        let open = match self.none_open(until).await {
            Ok(open) if open.count == 0 => return Some(Ok(None)),
            Ok(open) => open,
            Err(problem) => return Some(Err(problem)),
        };
        if !terminate {
            return Some(Err(format!(
                "after {drain_timeout_ms} ms of waiting {}; let them end, or say --terminate",
                still_open(&open)
            )));
        }
        // What was watched is not enough to end other people's work.
        let fresh = self.world.read(&self.keys).await.ok()?;
        let wanted = Task::Prepare { operation, drain_timeout_ms, terminate };
        if planned::task(&fresh, &self.instance.member, None, clock::wall_ms()) != Some(wanted) {
            return None;
        }
        Some(self.terminate(&open).await)
    }

    async fn terminate(&self, open: &OpenTransactions) -> Outcome {
        let mut ended = 0;
        let until = Instant::now() + TERMINATE_DEADLINE;
        let mut named = open.clone();
        let mut refused = None;
        // What is named is a part of what is open when there are many.
        while named.count > 0 && Instant::now() < until {
            let talk = self.sql.talk(until).await.map_err(|error| error.to_string())?;
            for one in &named.oldest {
                match talk.rows(&ask::terminate_sql(one.pid, OPEN_MS)).await {
                    Ok(rows) => ended += rows.len(),
                    Err(error) => refused = Some(error.to_string()),
                }
            }
            named = self.none_open(Instant::now() + LOOK * 2).await?;
        }
        if named.count == 0 {
            return Ok(Some(format!("{ended} open transactions were ended")));
        }
        let why = refused.map_or(String::new(), |why| format!(" ({why})"));
        Err(format!("they were told to end{why}, and {}", still_open(&named)))
    }

    /// Looks until no transaction is open for long, or until then; what is open at the end.
    async fn none_open(&self, until: Instant) -> Result<OpenTransactions, String> {
        loop {
            let open = self.open_transactions().await?;
            if open.count == 0 || Instant::now() >= until {
                return Ok(open);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn open_transactions(&self) -> Result<OpenTransactions, String> {
        let look = async {
            let talk: Talk = self.sql.talk(Instant::now() + LOOK_DEADLINE).await?;
            let role = ask::role(&talk.rows(ask::ROLE).await?);
            let sql = format!("{} limit {NAMED_MAX}", ask::transactions_older_than(OPEN_MS));
            Ok::<_, SqlError>((role, ask::transactions(&talk.rows(&sql).await?)))
        };
        let (role, open) =
            look.await.map_err(|error| format!("open transactions cannot be seen: {error}"))?;
        if role.sees_others {
            Ok(open)
        } else {
            let role = &self.instance.sql_role;
            Err(format!("open transactions cannot be seen: GRANT pg_monitor TO {role}"))
        }
    }
}

fn still_open(open: &OpenTransactions) -> String {
    let one = |one: &OpenTransaction| {
        let does = if one.idle_in_transaction { "idle" } else { "active" };
        let OpenTransaction { pid, user, application_name, .. } = one;
        format!("pid {pid} ({user}, {application_name:?}, {does}, {} ms)", one.age_ms)
    };
    let named: Vec<String> = open.oldest.iter().map(one).collect();
    let more = if open.count > named.len() as u64 { ", ..." } else { "" };
    let are = if open.count == 1 { "transaction is" } else { "transactions are" };
    format!("{} {are} still open: {}{more}", open.count, named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_is_named() {
        let oldest = vec![OpenTransaction {
            pid: 7,
            age_ms: 9_000,
            idle_in_transaction: true,
            user: "app".into(),
            application_name: "loader".into(),
        }];
        let one = OpenTransactions { count: 1, oldest: oldest.clone() };
        assert_eq!(still_open(&one), "1 transaction is still open: pid 7 (app, \"loader\", idle, 9000 ms)");
        assert!(still_open(&OpenTransactions { count: 2, oldest }).ends_with(", ..."));
    }
}
