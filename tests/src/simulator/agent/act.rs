//! `agent/src/act/*.rs`: the effects of the decisions. Each transaction compares and writes what the agent's does.

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::floor::{self, Begun};
use holdfast_agent_core::member::Action;
use holdfast_agent_core::open::OpenPlan;
use holdfast_agent_core::sync::SyncKey;
use holdfast_store::{Compare, Write};
use holdfast_types::record::{Attestation, FloorRecord, Reign, StopKind, Stored, TermRecord};
use holdfast_types::{MemberName, Term, keys};

use super::{Agent, Done};
use crate::simulator::executor::ms;

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
            Action::FollowPatroni(_)
            | Action::NameMembers { .. }
            | Action::EndDeposed
            | Action::GiveLock(_) => unreachable!("the simulated cluster is of class quorum"),
            Action::SayHeld { record, held_mod_revision, term_mod_revision } => {
                self.say_held(cluster, record, (*held_mod_revision, *term_mod_revision)).await
            }
            Action::SayBound { held_mod_revision, term_mod_revision } => {
                self.say_bound(cluster, (*held_mod_revision, *term_mod_revision)).await
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
            Action::RestartPatroni => self.restart_patroni().await,
            Action::KillDeposed | Action::KillFenced => self.end_what_must_not_run().await,
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
            // No host of the simulator has a fence device, and no gate of it notes who was away.
            Action::TellRestart | Action::AskOutside(_) => Ok(()),
        }
    }

    async fn restart_patroni(&self) -> Done {
        self.step(&"kills a hung Patroni").await;
        self.world.end_patroni(self.host);
        self.state.borrow_mut().patroni_hung = false;
        Ok(())
    }

    async fn end_what_must_not_run(&self) -> Done {
        self.kill_all("kills a PostgreSQL that must not run").await;
        Ok(())
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

    pub(super) fn not_fenced(&self, who: &MemberName) -> Compare {
        Compare::ModRevision { key: self.world.keys.fence(who), is: 0 }
    }

    pub(super) async fn changed_or(
        &self,
        cluster: &Cluster,
        compares: Vec<Compare>,
        writes: Vec<Write>,
    ) -> Done {
        match self.armed_txn(cluster, compares, writes).await? {
            true => Ok(()),
            false => Err("etcd has changed since it was read".into()),
        }
    }

    pub(super) async fn put_term(&self, cluster: &Cluster, record: &TermRecord, mod_revision: i64) -> Done {
        let key = self.world.keys.term();
        let value = Stored::keeping(record.clone(), cluster.unknown.get(&key)).encode();
        self.step(&"rewrites its own term record").await;
        self.changed_or(cluster, vec![self.term_is(mod_revision)], vec![Write::put(key, value)]).await
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
}
