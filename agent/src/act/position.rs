//! Where the WAL of a standby ends, read so that it can be promised (rule 5 d and e, rule 14).

use std::time::Duration;

use anyhow::{Result, bail};
use holdfast_types::Position;

use crate::member::Member;
use crate::member::sql::StandbyState;

/// Replay that has not moved for this long stands: at the end, or at a last record of which only a part has come, which
/// may trail for ever.
const STILL: Duration = Duration::from_millis(60);
const POLL: Duration = Duration::from_millis(10);
/// How long replay may go on until the next look.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// The end of what was received and flushed, once nothing more can come.
///
/// After a restart PostgreSQL does not know what it had received before; then the end is where replay stands, which is
/// the last complete record (a restarted standby reported less than it had acknowledged, rule 5 d).
pub async fn settled(member: &Member) -> Result<Position> {
    let started = tokio::time::Instant::now();
    let mut last = member.sql.standby().await?;
    let mut still_since = started;
    loop {
        if last.received.is_some() && last.received == last.replayed {
            return position(member, &last);
        }
        tokio::time::sleep(POLL).await;
        let now = member.sql.standby().await?;
        if (now.received, now.replayed) != (last.received, last.replayed) {
            still_since = tokio::time::Instant::now();
        }
        last = now;
        if still_since.elapsed() >= STILL {
            return position(member, &last);
        }
        if started.elapsed() >= DEADLINE {
            bail!("replay still moves");
        }
    }
}

fn position(member: &Member, standby: &StandbyState) -> Result<Position> {
    let Some(lsn) = standby.received.max(standby.replayed) else {
        bail!("PostgreSQL says neither what it received nor what it replayed");
    };
    let remembered = member.state().received_timeline;
    let timeline = standby.received_timeline.or(remembered).unwrap_or(standby.control_timeline);
    Ok(Position { timeline, lsn })
}

/// For the hook: the position, if all local WAL is replayed by now; `None` means ask again.
pub async fn replayed(member: &Member) -> Option<Position> {
    settled(member).await.ok()
}
