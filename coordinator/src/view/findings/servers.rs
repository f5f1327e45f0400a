//! Findings about what stands around the members: etcd's servers and the poolers.

use holdfast_store::EtcdHealth;

use super::List;
use crate::view::{doctor, text};

impl List<'_> {
    /// etcd: a quorum, alarms, its space, its speed, each server.
    pub(super) fn etcd(&mut self, etcd: &EtcdHealth) {
        let answer = format!("{} of {} servers answer", etcd.answering(), etcd.endpoints.len());
        if etcd.has_quorum() == Some(false) {
            self.outage(
                format!("etcd has no quorum as seen from here: {answer}, and none a linearizable read"),
                "no order, no session and no term can change; a healthy primary goes on",
                "start the other servers before anything else is stopped",
            );
        }
        for alarm in etcd.alarms.iter().flatten() {
            self.outage(
                format!("etcd has the alarm {alarm}"),
                "it refuses every write, so leases cannot be granted and no term can change",
                "etcdctl alarm list; compact and defragment, then etcdctl alarm disarm",
            );
        }
        for one in &etcd.endpoints {
            let why = match &one.status {
                Ok(status) if status.has_leader => continue,
                Ok(_) => "knows no leader".to_owned(),
                Err(why) => why.clone(),
            };
            self.risk(
                format!("etcd {}: {why}", one.endpoint),
                answer.clone(),
                "start that server before anything else is stopped",
            );
        }
        if let Some(size) = etcd.db_size_bytes().filter(|size| *size > doctor::DB_SIZE_BYTES_MAX) {
            self.risk(
                format!("etcd's database has {}", text::bytes(size)),
                "past its quota (2 GiB by default) it refuses every write",
                "compact and defragment: etcdctl compact, etcdctl defrag",
            );
        }
        if let Some(read_us) = etcd.read_us().filter(|us| *us > doctor::ETCD_ANSWER_MS_MAX * 1_000) {
            self.risk(
                format!("a linearizable read of etcd takes {}", text::micros(read_us)),
                "every renewal of a lease takes at least as long",
                self.command("doctor"),
            );
        }
    }

    /// Poolers that do not follow the writer. One whose agent is gone is left out: what its record says may be long over,
    /// and the table of `status` says so.
    pub(super) fn routes(&mut self) {
        let view = self.view;
        let Some((term, writer)) = view.writer() else { return };
        for (pooler, route) in view.routes.iter().filter(|(pooler, _)| view.pooler_alive(pooler)) {
            let follows = route.term == term && route.target.as_ref() == Some(writer) && !route.paused;
            if !follows {
                let target = route.target.as_ref().map_or("nobody".into(), ToString::to_string);
                self.risk(
                    format!("the pooler {pooler} routes to {target} in term {}", route.term),
                    "its clients wait or are refused",
                    format!("holdfast-agent's log on the host of {pooler}"),
                );
            }
        }
    }
}
