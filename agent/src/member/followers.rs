//! Rule 9a: which standbys are alive in the moment of a crash. Decides nothing.
//!
//! Facts and sessions of a host that has died stay for as long as its session lasts. A writer that crashes in that time would
//! give its term away for a failover that too few can promise for, and take it back seconds later. So the agents are asked.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_agent_core::cluster::Cluster;
use holdfast_proto::message::{InstanceName, Life, LifeQuestion};
use holdfast_types::{MemberName, Term};
use tokio::task::JoinSet;

use super::Member;

/// Alive, an agent answers within milliseconds. Patroni takes longer than this to start PostgreSQL on the spot.
const DEADLINE: Duration = Duration::from_millis(300);

impl Member {
    /// The members whose agents say that their PostgreSQL answers, of those that stream by the last facts.
    pub(super) async fn followers(&self, cluster: &Cluster, term: Term) -> BTreeSet<MemberName> {
        let mut asked = JoinSet::new();
        for (member, facts) in &cluster.facts {
            let follows = facts.streaming == Some(true) && cluster.agent_alive(&facts.host);
            if *member == self.instance.member || !follows {
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
