//! `agent/src/act/*.rs`: the effects of the decisions. Each transaction compares and writes what the agent's does.

use holdfast_agent_core::close::{ClosePlan, LeaderKey, OutOfOffice};
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::floor::{self, Begun};
use holdfast_agent_core::member::Action;
use holdfast_agent_core::open::OpenPlan;
use holdfast_agent_core::sync::SyncKey;
use holdfast_store::{Compare, Read, Write, decode_from};
use holdfast_types::record::{
    Attestation, EventRecord, FloorRecord, HeldRecord, HoldRecord, Reign, Step, StopKind, Stored, TermRecord,
};
use holdfast_types::{MemberName, Term, keys};

use super::{Agent, Done};
use crate::simulator::executor::ms;
use crate::simulator::mutant::Mutant;

const FLUSH_DEADLINE_US: u64 = ms(1_000);
const FLUSH_POLL_US: u64 = ms(10);

impl Agent {
    pub(super) async fn perform(&self, cluster: &Cluster, action: &Action) -> Done {
        match action {
            Action::OpenFirst { term, term_mod_revision } => {
                self.open_first(cluster, *term, *term_mod_revision).await
            }
            Action::KeepTerm { record, term_mod_revision } => {
                self.put_term(cluster, record, *term_mod_revision).await
            }
            Action::SayWritable { record, term_mod_revision } => {
                let taken = self.writer().await.ok().map(|writer| writer.flushed.timeline);
                let record = TermRecord { timeline: record.timeline.max(taken), ..record.clone() };
                self.put_term(cluster, &record, *term_mod_revision).await
            }
            Action::Prove { closed } => {
                self.prove(*closed);
                Ok(())
            }
            Action::FollowPatroni { .. } => unreachable!("the simulated cluster is of class quorum"),
            Action::SayHeld { record, held_mod_revision, term_mod_revision } => {
                self.say_held(cluster, record, (*held_mod_revision, *term_mod_revision)).await
            }
            Action::SayBound { held_mod_revision, term_mod_revision } => {
                self.step(&"says that its fence stands again").await;
                let key = self.world.keys.held();
                let compares = vec![
                    self.term_is(*term_mod_revision),
                    Compare::ModRevision { key: key.clone(), is: *held_mod_revision },
                ];
                self.changed_or(cluster, compares, vec![Write::Delete { key }]).await
            }
            Action::KeepFloor(begun) => self.publish_floor(cluster, begun).await,
            Action::ShutGate => self.shut_gate().await,
            Action::ShutGateAndKill | Action::EndHung(_) => self.shut_gate_and_kill().await,
            Action::Attest { term, stop: StopKind::Relinquished } => self.relinquish(cluster, *term).await,
            Action::Attest { term, stop } => self.attest(cluster, *term, stop.clone()).await,
            Action::WithdrawAttestation { attestation_mod_revision, term_mod_revision } => {
                self.withdraw_attestation(cluster, *attestation_mod_revision, *term_mod_revision).await
            }
            Action::OpenGate => self.open_gate().await,
            Action::RestartPatroni => {
                self.step(&"kills a hung Patroni").await;
                self.world.end_patroni(self.host);
                self.state.borrow_mut().patroni_hung = false;
                Ok(())
            }
            Action::KillDeposed | Action::KillFenced => {
                self.kill_all("kills a PostgreSQL that must not run").await;
                Ok(())
            }
            Action::Follow { source } => {
                let source = source.as_ref().and_then(|(address, _)| self.world.host_at(address));
                self.follow(source).await;
                Ok(())
            }
            Action::Promise { term, writer } => self.promise(cluster, *term, writer).await,
            Action::WithdrawPromise { promise_mod_revision, term_mod_revision, writers_session } => {
                self.withdraw_promise(cluster, *promise_mod_revision, *term_mod_revision, *writers_session)
                    .await
            }
            Action::ForgetPhase => self.forget_phase(cluster).await,
            Action::Close(plan) => self.close(cluster, plan).await,
            Action::Hold { term, last_failover_wall_ms } => {
                self.hold(cluster, *term, *last_failover_wall_ms).await
            }
            Action::TakeLeaderKey { leader_mod_revision, term_mod_revision } => {
                self.take_leader_key(cluster, *leader_mod_revision, *term_mod_revision).await
            }
            Action::NameNext { to, member_lease, leader_mod_revision, term_mod_revision, .. } => {
                let revisions = (*leader_mod_revision, *term_mod_revision);
                self.name_next(cluster, to, *member_lease, revisions).await
            }
            // No host of the simulator has a fence device.
            Action::AskOutside(_) => Ok(()),
        }
    }

    /// A transaction that compares the mode record beside what it is given.
    pub(super) async fn armed_txn(
        &self,
        cluster: &Cluster,
        mut compares: Vec<Compare>,
        writes: Vec<Write>,
    ) -> Done<bool> {
        let is = cluster.mode.as_ref().map_or(0, |mode| mode.mod_revision);
        compares.push(Compare::ModRevision { key: self.world.keys.mode(), is });
        Ok(self.client.transact(compares, writes).await?)
    }

    pub(super) fn term_is(&self, mod_revision: i64) -> Compare {
        Compare::ModRevision { key: self.world.keys.term(), is: mod_revision }
    }

    fn not_fenced(&self, who: &MemberName) -> Compare {
        Compare::ModRevision { key: self.world.keys.fence(who), is: 0 }
    }

    async fn changed_or(&self, cluster: &Cluster, compares: Vec<Compare>, writes: Vec<Write>) -> Done {
        match self.armed_txn(cluster, compares, writes).await? {
            true => Ok(()),
            false => Err("etcd has changed since it was read".into()),
        }
    }

    async fn put_term(&self, cluster: &Cluster, record: &TermRecord, mod_revision: i64) -> Done {
        let key = self.world.keys.term();
        let value = Stored::keeping(record.clone(), cluster.unknown.get(&key)).encode();
        self.step(&"rewrites its own term record").await;
        self.changed_or(cluster, vec![self.term_is(mod_revision)], vec![Write::put(key, value)]).await
    }

    async fn say_held(
        &self,
        cluster: &Cluster,
        record: &HeldRecord,
        (held_mod_revision, term_mod_revision): (i64, i64),
    ) -> Done {
        self.step(&"says that nobody may close its term meanwhile").await;
        let keys = &self.world.keys;
        let revision = |key: String, is: i64| Compare::ModRevision { key, is };
        let maintenance = cluster.maintenance.as_ref().map_or(0, |found| found.mod_revision);
        let compares = vec![
            self.term_is(term_mod_revision),
            revision(keys.held(), held_mod_revision),
            revision(keys.patroni_config(), cluster.config.map_or(0, |config| config.mod_revision)),
            revision(keys.maintenance(), maintenance),
        ];
        let value = Stored::keeping(record.clone(), cluster.unknown.get(&keys.held())).encode();
        self.changed_or(cluster, compares, vec![Write::put(keys.held(), value)]).await
    }

    fn opening(&self, cluster: &Cluster, opened: &TermRecord, floor: &FloorRecord) -> Vec<Write> {
        let (term, floor_key) = (self.world.keys.term(), self.world.keys.floor());
        let opened = Stored::keeping(opened.clone(), cluster.unknown.get(&term)).encode();
        let floor = Stored::keeping(floor.clone(), cluster.unknown.get(&floor_key)).encode();
        vec![Write::put(term, opened), Write::put(floor_key, floor)]
    }

    async fn open_first(&self, cluster: &Cluster, term: Term, term_mod_revision: i64) -> Done {
        let own = self.own().ok_or("our own session is not known to be alive")?;
        let sync = cluster.sync.as_ref().ok_or("Patroni has no /sync key")?;
        let leader = cluster.leader_key.as_ref().ok_or("Patroni has no leader")?;
        let floor = self.settled(cluster, sync, term).await?;
        let reign = Reign::Open {
            holder: self.here().member.clone(),
            incarnation: own.incarnation,
            session: own.session,
            writable: true,
            floor: None,
        };
        let recorded = cluster.term.as_ref().and_then(|term| term.value.timeline);
        let timeline = recorded.max(Some(floor.floor.timeline));
        let opened = TermRecord { term, reign, trace: None, timeline };
        let keys = &self.world.keys;
        let compares = vec![
            self.term_is(term_mod_revision),
            Compare::ModRevision { key: keys.patroni_leader(), is: leader.mod_revision },
            Compare::ModRevision { key: keys.patroni_sync(), is: sync.mod_revision },
        ];
        self.step(&format_args!("opens the first term, {term}")).await;
        self.changed_or(cluster, compares, self.opening(cluster, &opened, &floor)).await
    }

    /// OPEN inside the hook; `false` means that a comparison failed.
    pub(super) async fn open(&self, cluster: &Cluster, plan: &OpenPlan) -> Done<bool> {
        let (keys, me) = (&self.world.keys, &self.here().member);
        let compares = vec![
            self.term_is(plan.term_mod_revision),
            Compare::ModRevision { key: keys.patroni_leader(), is: plan.leader_mod_revision },
            Compare::ModRevision { key: keys.patroni_sync(), is: plan.sync_mod_revision },
            self.not_fenced(me),
        ];
        let mut writes = self.opening(cluster, &plan.opened, &plan.floor);
        let closed = Term(plan.opened.term.0.saturating_sub(1));
        writes.push(Write::Delete { key: keys.promise(me, closed) });
        writes.push(Write::Delete { key: keys.attest(closed) });
        self.hooks.borrow_mut().opening(plan.opened.term);
        self.step(&format_args!("opens term {}", plan.opened.term)).await;
        let opened = self.armed_txn(cluster, compares, writes).await?;
        if opened {
            self.set_phase(None).await?;
            self.wake.raise();
        }
        Ok(opened)
    }

    async fn publish_floor(&self, cluster: &Cluster, begun: &Begun) -> Done {
        let record = cluster.term.as_ref().ok_or("the term record is gone")?;
        let floor = self.settled(cluster, &begun.sync, record.value.term).await?;
        let own = self.own().ok_or("our own session is not known to be alive")?;
        let session = keys::session(&self.world.region, &self.here().name);
        let compares = vec![
            self.term_is(record.mod_revision),
            Compare::Lease { key: session, is: own.session.0 },
            Compare::ModRevision { key: self.world.keys.patroni_sync(), is: begun.sync.mod_revision },
        ];
        let key = self.world.keys.floor();
        self.step(&format_args!("publishes the floor {} of {:?}", floor.floor, floor.configuration)).await;
        let value = Stored::keeping(floor, cluster.unknown.get(&key)).encode();
        self.changed_or(cluster, compares, vec![Write::put(key, value)]).await
    }

    async fn settled(&self, cluster: &Cluster, sync: &SyncKey, term: Term) -> Done<FloorRecord> {
        let me = &self.here().member;
        let writer = self.writer().await?;
        let begun = floor::begin(None, sync, writer.setting.as_ref(), me, term, &cluster.data_uuids());
        let begun = begun.map_err(|why| super::Failed(why.to_string()))?;
        let position = self.writer().await?.flushed;
        let started_us = self.world.executor.now_us();
        loop {
            let now = self.writer().await?;
            if let Some(record) = floor::publish(&begun, position, &now.standbys, term) {
                return Ok(record);
            }
            if self.world.executor.now_us() - started_us >= FLUSH_DEADLINE_US {
                return Err("too few members have flushed it yet; the old floor record stands".into());
            }
            self.world.executor.sleep(FLUSH_POLL_US).await;
        }
    }

    async fn shut_gate(&self) -> Done {
        match self.remember(|remembered| remembered.attesting = true).await {
            true => Ok(()),
            false => Err("the shut gate cannot be kept on disk".into()),
        }
    }

    async fn shut_gate_and_kill(&self) -> Done {
        self.shut_gate().await?;
        self.kill_all("kills Patroni with what is left of PostgreSQL").await;
        self.state.borrow_mut().killed = true;
        Ok(())
    }

    async fn kill_all(&self, why: &str) {
        self.step(&why).await;
        self.world.end_instance(self.host);
        self.world.pause(ms(10), ms(30)).await;
    }

    async fn attest(&self, cluster: &Cluster, term: Term, stop: StopKind) -> Done {
        self.shut_gate().await?;
        self.put_attestation(cluster, term, stop).await
    }

    async fn relinquish(&self, cluster: &Cluster, term: Term) -> Done {
        if !self.hooks.borrow_mut().give_back(term) {
            return Err("a hook has come that may pass".into());
        }
        if !self.is_in_recovery().await? {
            return Err("PostgreSQL has left recovery".into());
        }
        self.put_attestation(cluster, term, StopKind::Relinquished).await
    }

    async fn put_attestation(&self, cluster: &Cluster, term: Term, stop: StopKind) -> Done {
        let own = self.own().ok_or("our own session is not known to be alive")?;
        let attestation = Attestation {
            term,
            holder: self.here().member.clone(),
            incarnation: own.incarnation,
            session: own.session,
            stop,
            stuck: Vec::new(),
            at_wall_ms: self.wall_ms(),
        };
        let record = cluster.term.as_ref().ok_or("the term record is gone")?;
        let key = self.world.keys.attest(term);
        let compares =
            vec![self.term_is(record.mod_revision), Compare::ModRevision { key: key.clone(), is: 0 }];
        self.step(&format_args!("attests its stop in term {term}")).await;
        let write = Write::put(key, Stored::new(attestation).encode());
        self.changed_or(cluster, compares, vec![write]).await
    }

    async fn withdraw_attestation(
        &self,
        cluster: &Cluster,
        attestation_mod_revision: i64,
        term_mod_revision: i64,
    ) -> Done {
        let term = cluster.term.as_ref().ok_or("the term record is gone")?.value.term;
        let key = self.world.keys.attest(term);
        let compares = vec![
            self.term_is(term_mod_revision),
            Compare::ModRevision { key: key.clone(), is: attestation_mod_revision },
        ];
        self.step(&"withdraws its attestation").await;
        let writes = vec![Write::Delete { key }, Write::PutSameValue { key: self.world.keys.term() }];
        self.changed_or(cluster, compares, writes).await?;
        self.hooks.borrow_mut().taken_back(term);
        self.open_gate().await
    }

    async fn open_gate(&self) -> Done {
        match self.remember(|remembered| remembered.attesting = false).await {
            true => Ok(()),
            false => Err("the open gate cannot be kept on disk".into()),
        }
    }

    async fn close(&self, cluster: &Cluster, plan: &ClosePlan) -> Done {
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

    async fn take_leader_key(&self, cluster: &Cluster, leader: i64, term: i64) -> Done {
        let key = self.world.keys.patroni_leader();
        let compares = vec![self.term_is(term), Compare::ModRevision { key: key.clone(), is: leader }];
        self.step(&"takes the leader key from the old writer").await;
        self.changed_or(cluster, compares, vec![Write::Delete { key }]).await
    }

    async fn name_next(
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

    async fn hold(&self, cluster: &Cluster, term: Term, last_failover_wall_ms: i64) -> Done {
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
    fn prove(&self, closed: Term) {
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
