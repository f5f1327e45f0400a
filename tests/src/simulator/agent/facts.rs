//! `agent/src/act/facts.rs`: what the other members need to know of this one.

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::Postgres;
use holdfast_agent_core::{attest, eligible};
use holdfast_store::Write;
use holdfast_types::Term;
use holdfast_types::record::{MemberFacts, PatroniFile, SetupSeen, Stored};

use super::{Agent, Done};

impl Agent {
    pub(super) async fn publish_facts(&self, cluster: &Cluster) -> Done {
        let me = &self.here().member;
        let Some(facts) = self.facts(cluster) else { return Ok(()) };
        let on_its_way =
            self.state.borrow().published.as_ref() == Some(&facts) && cluster.facts.contains_key(me);
        if cluster.facts.get(me) == Some(&facts) || on_its_way {
            return Ok(());
        }
        let key = self.world.keys.facts(me);
        let value = Stored::keeping(facts.clone(), cluster.unknown.get(&key)).encode();
        self.client.transact(Vec::new(), vec![Write::put(key, value)]).await?;
        self.state.borrow_mut().published = Some(facts);
        Ok(())
    }

    /// Whether something of the user's runs at a stop decides who stops PostgreSQL when it hands over.
    fn setup_seen(&self) -> Option<SetupSeen> {
        let acts_on_stop = Some(!self.world.setup.operations.as_ref()?.stops_at_once);
        let file = PatroniFile { acts_on_stop, ..PatroniFile::default() };
        Some(SetupSeen { file: Some(file), ..SetupSeen::default() })
    }

    fn facts(&self, cluster: &Cluster) -> Option<MemberFacts> {
        self.own()?;
        let here = self.here();
        let state = self.state.borrow();
        let patroni = cluster.members.get(&here.member);
        let patroni_state = patroni.and_then(|patroni| patroni.state.clone());
        let host = eligible::Host {
            postgres: state.postgres.unwrap_or(Postgres::Unknown),
            patroni_alive: state.patroni_alive,
            patroni_hung: state.patroni_hung,
            // No mount ever vanishes here.
            misplaced: false,
        };
        let eligible = patroni.map(|patroni| eligible::decide(cluster, &here.member, patroni, host));
        let lost_for_ms = state.stream_lost_ms.map(|lost_ms| self.now_ms().saturating_sub(lost_ms));
        Some(MemberFacts {
            host: here.name.clone(),
            address: here.address.clone(),
            port: 5_432,
            rest_port: 8_008,
            grpc: String::new(),
            patroni_state,
            eligible,
            failover_priority: patroni.map_or(1, |patroni| patroni.failover_priority),
            streaming: attest::streaming_to_publish(state.streaming, lost_for_ms),
            data_uuid: state.data_uuid.clone(),
            highest_term: Term(0),
            contradiction: None,
            setup: self.setup_seen(),
            warned: None,
            local_disarm: None,
            certificate_ends_unix_s: None,
        })
    }
}
