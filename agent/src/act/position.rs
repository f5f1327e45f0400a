//! Where the WAL of a standby ends, read so that it can be promised (rule 5 d and e, rule 14).

use std::time::Duration;

use anyhow::{Result, bail};
use holdfast_types::{Position, Timeline};

use crate::member::Member;
use crate::member::sql::StandbyState;

const POLL: Duration = Duration::from_millis(10);
/// How long replay may go on until the next look.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// The end of what was received and flushed, once nothing more can come.
///
/// After a restart PostgreSQL does not know what it had received before. Then the end is where replay stands once the
/// startup process waits for more: replay that merely stands still says nothing, because one record can take seconds (a
/// database copied, a conflict with a query), and a restarted standby reported less than it had acknowledged (rule 5 d).
pub async fn received(member: &Member) -> Result<Position> {
    until(member, |now| now.received.is_some() || now.waits_for_wal).await
}

/// The same for the hook: all local WAL is replayed. `None` means ask again.
pub async fn replayed(member: &Member) -> Option<Position> {
    until(member, |now| now.waits_for_wal || (now.received.is_some() && now.received <= now.replayed))
        .await
        .ok()
}

async fn until(member: &Member, settled: impl Fn(&StandbyState) -> bool) -> Result<Position> {
    let started = tokio::time::Instant::now();
    loop {
        let now = member.sql.standby().await?;
        if settled(&now) {
            return position(member, &now).await;
        }
        if started.elapsed() >= DEADLINE {
            bail!("local WAL is still being replayed");
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn position(member: &Member, standby: &StandbyState) -> Result<Position> {
    let Some(lsn) = standby.received.max(standby.replayed) else {
        bail!("PostgreSQL says neither what it received nor what it replayed");
    };
    // After a restart only the files know it: the control file may be minutes behind a promotion that was followed.
    let on_disk = member.sql.timeline_on_disk(lsn).await?;
    let timeline = received_timeline(member, standby).max(on_disk).unwrap_or(standby.control_timeline);
    Ok(Position { timeline: timeline.max(standby.control_timeline), lsn })
}

/// The timeline on which WAL came last: what the walreceiver says, or said while it lived.
pub fn received_timeline(member: &Member, standby: &StandbyState) -> Option<Timeline> {
    standby.received_timeline.max(member.state().received_timeline)
}
