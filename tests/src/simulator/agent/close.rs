//! `agent/src/act/{close,incident}.rs`: ends a reign, and names who takes the next one.

use holdfast_agent_core::close::{ClosePlan, LeaderKey, OutOfOffice};
use holdfast_agent_core::cluster::Cluster;
use holdfast_store::{Compare, Read, Write, decode_from};
use holdfast_types::record::{EventRecord, HoldRecord, Step, Stored};
use holdfast_types::{MemberName, Term, keys};

use super::{Agent, Done};
use crate::simulator::executor::ms;
use crate::simulator::mutant::Mutant;

impl Agent {
    pub(super) async fn close(&self, cluster: &Cluster, plan: &ClosePlan) -> Done {
        let keys = &self.world.keys;
        let event = EventRecord {
            number: plan.closed.term.0,
            term: plan.closed.term,
            from: plan.closed.holder().clone(),
            to: None,
            floor: None,
            trace_id: None,
            steps_wall_ms: [(Step::Closed, self.wall_ms())].into(),
            text: String::new(),
            route_commands: std::collections::BTreeMap::new(),
        };
        let closed = Stored::keeping(plan.closed.clone(), cluster.unknown.get(&keys.term())).encode();
        let mut writes = vec![
            Write::PutSameValue { key: keys.patroni_sync() },
            Write::put(keys.term(), closed),
            Write::put(keys.event(event.number), Stored::new(event).encode()),
        ];
        if plan.delete_failover {
            writes.push(Write::Delete { key: keys.patroni_failover() });
        }
        let leader = keys.patroni_leader();
        match &plan.leader_key {
            LeaderKey::Give { to, member_lease } => {
                writes.push(Write::Put { key: leader, value: to.as_str().into(), lease: *member_lease });
            }
            LeaderKey::Delete => writes.push(Write::Delete { key: leader }),
            LeaderKey::Leave => {}
        }
        let mut compares = self.close_compares(cluster, plan)?;
        if self.world.is_mutant(Mutant::CloseWithoutSync) {
            let sync = keys.patroni_sync();
            compares.retain(|one| !matches!(one, Compare::ModRevision { key, .. } if *key == sync));
        }
        if self.world.is_mutant(Mutant::CloseOnWatchedView) {
            compares.truncate(1);
        }
        self.step(&format_args!("closes term {}", plan.closed.term)).await;
        let late_us = self.world.close_late_us.get();
        if late_us > 0 {
            self.world.pause(0, late_us).await;
        }
        self.changed_or(cluster, compares, writes).await?;
        let old = cluster.members.get(plan.closed.holder()).filter(|old| old.lease != 0);
        if let Some(patroni) = old.filter(|_| !plan.closed.was_given_back()) {
            self.step(&"revokes the lease of the old writer's Patroni").await;
            let _ = self.client.revoke(patroni.lease).await;
        }
        Ok(())
    }

    fn close_compares(&self, cluster: &Cluster, plan: &ClosePlan) -> Done<Vec<Compare>> {
        let keys = &self.world.keys;
        let revision = |key: String, is: i64| Compare::ModRevision { key, is };
        let mut compares = vec![
            self.term_is(plan.term_mod_revision),
            revision(keys.floor(), plan.floor_mod_revision),
            revision(keys.patroni_sync(), plan.sync_mod_revision),
            revision(keys.patroni_leader(), plan.leader_mod_revision),
            revision(keys.patroni_config(), plan.config_mod_revision),
            revision(keys.maintenance(), plan.maintenance_mod_revision),
            revision(keys.held(), plan.held_mod_revision),
        ];
        for (promiser, is) in &plan.promise_mod_revisions {
            compares.push(revision(keys.promise(promiser, plan.closed.term), *is));
        }
        match &plan.out_of_office {
            OutOfOffice::SessionAbsent(_) => {
                let facts =
                    cluster.facts.get(plan.closed.holder()).ok_or("the writer's host is not known")?;
                let key = keys::session(&self.world.region, &facts.host);
                let now = cluster.sessions.iter().find(|(_, session)| session.host == facts.host);
                compares.push(match now {
                    Some((session, _)) => Compare::Lease { key, is: session.0 },
                    None => revision(key, 0),
                });
            }
            OutOfOffice::LeaderIsAnother => {}
            OutOfOffice::Outside { asker, mod_revision } => {
                compares.push(revision(keys.outside(asker), *mod_revision));
            }
            OutOfOffice::Attested { mod_revision } => {
                compares.push(revision(keys.attest(plan.closed.term), *mod_revision));
            }
        }
        if let LeaderKey::Give { to, member_lease } = &plan.leader_key {
            compares.push(Compare::Lease { key: keys.patroni_member(to), is: *member_lease });
            compares.push(self.not_fenced(to));
        }
        Ok(compares)
    }

    pub(super) async fn take_leader_key(&self, cluster: &Cluster, leader: i64, term: i64) -> Done {
        let key = self.world.keys.patroni_leader();
        let compares = vec![self.term_is(term), Compare::ModRevision { key: key.clone(), is: leader }];
        self.step(&"takes the leader key from the old writer").await;
        self.changed_or(cluster, compares, vec![Write::Delete { key }]).await
    }

    pub(super) async fn name_next(
        &self,
        cluster: &Cluster,
        to: &MemberName,
        member_lease: i64,
        (leader, term): (i64, i64),
    ) -> Done {
        let key = self.world.keys.patroni_leader();
        let compares = vec![
            self.term_is(term),
            Compare::ModRevision { key: key.clone(), is: leader },
            Compare::Lease { key: self.world.keys.patroni_member(to), is: member_lease },
            self.not_fenced(to),
        ];
        self.step(&format_args!("names {to} as the next successor")).await;
        let write = Write::Put { key, value: to.as_str().into(), lease: member_lease };
        self.changed_or(cluster, compares, vec![write]).await
    }

    pub(super) async fn hold(&self, cluster: &Cluster, term: Term, last_failover_wall_ms: i64) -> Done {
        let key = self.world.keys.hold();
        let record = HoldRecord {
            term,
            last_failover_wall_ms,
            text: String::new(),
            released_by: None,
            released_why: None,
            paged: None,
        };
        let is = cluster.hold.as_ref().map_or(0, |hold| hold.mod_revision);
        let compares = vec![Compare::ModRevision { key: key.clone(), is }];
        self.step(&format_args!("holds the failover of term {term}")).await;
        let value = Stored::keeping(record, cluster.unknown.get(&key)).encode();
        self.changed_or(cluster, compares, vec![Write::put(key, value)]).await
    }

    /// The incident's last step, by a task of its own that nobody waits for.
    pub(super) fn prove(&self, closed: Term) {
        let (world, client, at_ms) = (std::rc::Rc::clone(&self.world), self.client.clone(), self.wall_ms());
        let key = self.world.keys.event(closed.0);
        self.world.executor.spawn(self.process, async move {
            for _ in 0..8 {
                world.pause(ms(5), ms(300)).await;
                let Ok(found) = client.read(vec![Read::Key(key.clone())]).await else { continue };
                let Ok(Some(stored)) = decode_from::<EventRecord>(&found, &key) else { return };
                let mut event = stored.body.clone();
                event.steps_wall_ms.insert(Step::Proved, at_ms);
                let compare = Compare::ModRevision { key: key.clone(), is: found.mod_revision(&key) };
                let write = Write::put(key.clone(), stored.with_body(event).encode());
                if client.transact(vec![compare], vec![write]).await.unwrap_or(false) {
                    return;
                }
            }
        });
    }
}
