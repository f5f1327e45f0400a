//! Having the own PostgreSQL restarted by the own Patroni, as a standby. Patroni takes a synchronous one out of `/sync` first and
//! answers once PostgreSQL runs again; that it is another one, and streams, is seen by our own looks.

use std::sync::Arc;
use std::time::Duration;

use holdfast_agent_core::planned::{self, Task};
use holdfast_host::clock;
use tokio::time::Instant;

use super::Outcome;
use crate::disk;
use crate::member::Member;
use crate::observe::patroni_file;
use crate::observe::patroni_rest::{self, Order};

/// Shutdown and start of a standby with much to replay; a coordinator waits a little longer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(240);
/// A look comes every two seconds at the latest; a walreceiver that is refused tries again after five.
const STREAM_DEADLINE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);

impl Member {
    /// Does it, once it is known to be wanted by a read of etcd. `None`: it is looked at again.
    pub(super) async fn restart_in_place(self: &Arc<Self>, operation: u64) -> Option<Outcome> {
        let fresh = self.fresh().await?;
        let wanted = planned::task(&fresh, &self.instance.member, None, clock::wall_ms());
        if wanted != Some(Task::Restart { operation }) {
            return None;
        }
        let before = self.state().postmaster;
        let order = Order {
            url: self.instance.patroni_url.clone(),
            tls: self.patroni_tls(),
            login: self.patroni_login().await,
        };
        let answer = tokio::time::timeout(ANSWER_DEADLINE, patroni_rest::restart(order)).await;
        match answer.unwrap_or_else(|_| Err("Patroni has not restarted it in 240 s".into())) {
            Ok(_) => {}
            // An earlier start of this agent may have given the order.
            Err(why) if why.contains("already in progress") => return None,
            Err(why) => return Some(Err(why)),
        }
        let until = Instant::now() + STREAM_DEADLINE;
        loop {
            let (is_another, streams) = {
                let state = self.state();
                (state.postmaster.is_some() && state.postmaster != before, state.streaming == Some(true))
            };
            if is_another && streams {
                return Some(Ok(None));
            }
            if Instant::now() >= until {
                return Some(match is_another {
                    true => Ok(Some("it does not stream yet".into())),
                    false => {
                        Err("Patroni says that it has restarted it, and the same postmaster runs".into())
                    }
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Name and password that Patroni's REST API may ask for, from Patroni's own file.
    async fn patroni_login(&self) -> Option<patroni_file::Login> {
        let path = self.state().setup.as_ref()?.file.as_ref()?.path.clone();
        let read = move || {
            let text = holdfast_proto::read_text(path.as_ref(), patroni_file::FILE_BYTES_MAX).ok()?;
            patroni_file::login(&text)
        };
        disk::look(read).await.ok()?
    }
}
