//! Rule 9a: which standbys are alive in the moment of a crash. Decides nothing.
//!
//! Facts and sessions of a host that has died stay for as long as its session lasts. A writer that crashes in that time would
//! give its term away for a failover that too few can promise for, and take it back seconds later. So the agents are asked.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_agent_core::attest::ControlState;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::AfterStop;
use holdfast_proto::message::{InstanceName, Life, LifeQuestion};
use holdfast_types::{MemberName, Term};
use tokio::task::JoinSet;

use super::Member;

/// Alive, an agent answers within milliseconds. Patroni takes longer than this to start PostgreSQL on the spot.
const DEADLINE: Duration = Duration::from_millis(300);

impl Member {
    /// Who answers after a stop of our own PostgreSQL, or has since it stopped; only where it decides something. Whoever has
    /// not is asked again: after a cut of our link, which ended our lease, a connection of before needs a second to recover.
    pub(super) async fn answering_after_stop(
        &self,
        cluster: &Cluster,
        term: Term,
        control: &ControlState,
    ) -> BTreeSet<MemberName> {
        let is_crash =
            |control: &ControlState| matches!(control, ControlState::InProduction | ControlState::NotRead);
        let asked = |seen: &&AfterStop| is_crash(&seen.control);
        if !is_crash(control) {
            return BTreeSet::new();
        }
        let known = self.state().after_stop.as_ref().filter(asked).map(|seen| seen.answering.clone());
        let mut answering = known.unwrap_or_default();
        let more = self.followers(cluster, term, &answering).await;
        answering.extend(more);
        answering
    }

    /// The members whose agents say that their PostgreSQL answers, of those that stream by the last facts and did not yet.
    async fn followers(
        &self,
        cluster: &Cluster,
        term: Term,
        known: &BTreeSet<MemberName>,
    ) -> BTreeSet<MemberName> {
        let mut asked = JoinSet::new();
        for (member, facts) in &cluster.facts {
            let follows = facts.streaming == Some(true) && cluster.agent_alive(&facts.host);
            if *member == self.instance.member || known.contains(member) || !follows {
                continue;
            }
            let (client, question) = (self.client_of(facts, DEADLINE), self.life_question(member, term));
            let member = member.clone();
            asked.spawn(async move {
                let answer = tokio::time::timeout(DEADLINE, client.life(&question, None)).await.ok()?.ok()?;
                (answer.life == Life::Alive).then_some(member)
            });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    fn life_question(&self, member: &MemberName, term: Term) -> LifeQuestion {
        let cluster = &self.instance.cluster;
        let (namespace, scope) = (cluster.namespace.clone(), cluster.scope.clone());
        LifeQuestion { instance: InstanceName { namespace, scope, member: member.clone() }, term }
    }
}
