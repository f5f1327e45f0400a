//! What each CLOSE rests on, looked at with the truth instead of the closer's view (rules 5 and 8): every configuration of
//! `/sync` that could be in force is closed by the promisers, and each promise names all that its member has.
//!
//! A run seldom lives to see an acknowledged write lost by evidence that was too weak: the write has to be on its way in
//! just that moment. The evidence itself is weak every time.

use std::cell::RefCell;
use std::collections::BTreeSet;

use holdfast_agent_core::cluster::Cluster;
use holdfast_types::record::{Evidence, Reign, TermRecord};
use holdfast_types::{Configuration, MemberName};

use super::{Checker, Promise};
use crate::simulator::world::World;

/// The values that `/sync` has had, by their revisions; emptied at each new floor record.
#[derive(Default)]
pub struct SyncValues {
    floor_mod_revision: i64,
    values: Vec<(i64, Option<MemberName>, BTreeSet<MemberName>, usize)>,
}

/// See the module.
pub type SyncWatch = RefCell<SyncValues>;

impl Checker {
    /// etcd has changed: remembers what was written into `/sync`.
    pub(super) fn note_sync(&self, cluster: &Cluster) {
        let mut seen = self.sync_values.borrow_mut();
        if let Some(sync) = &cluster.sync
            && seen.values.last().is_none_or(|(revision, ..)| *revision != sync.mod_revision)
        {
            seen.values.push((
                sync.mod_revision,
                sync.leader.clone(),
                sync.sync_standby.clone(),
                sync.quorum,
            ));
        }
        if let Some(floor) =
            cluster.floor.as_ref().filter(|floor| floor.mod_revision != seen.floor_mod_revision)
        {
            seen.floor_mod_revision = floor.mod_revision;
            let of = floor.value.sync_mod_revision;
            seen.values.retain(|(revision, ..)| *revision > of);
        }
    }

    /// A term is closed: whether it may be.
    pub(super) fn closed_on_evidence(&self, world: &World, cluster: &Cluster, closed: &TermRecord) {
        let Reign::Closed { holder, evidence, floor, .. } = &closed.reign else { return };
        let (Evidence::Revoked { promisers, .. } | Evidence::AttestedStopped { promisers }) = evidence else {
            return;
        };
        let Some(recorded) = cluster.floor.as_ref().map(|floor| &floor.value) else { return };
        if recorded.term != closed.term {
            return;
        }
        let seen = self.sync_values.borrow();
        let since = seen.values.iter().map(|(_, leader, standbys, quorum)| {
            Configuration::from_sync(leader.as_ref(), standbys, *quorum, holder)
        });
        for configuration in std::iter::once(recorded.configuration.clone()).chain(since) {
            if !configuration.is_closed_by(promisers) {
                let text = format!("term {}: {promisers:?} do not close {configuration:?}", closed.term);
                return self.broken(world, Promise::WeakEvidence, text);
            }
        }
        if floor.is_none_or(|floor| floor < recorded.floor) {
            let text = format!("term {}: {floor:?} is behind the floor record", closed.term);
            return self.broken(world, Promise::WeakEvidence, text);
        }
        for promiser in promisers {
            let promise = cluster.promises.get(promiser).filter(|one| one.value.term == closed.term);
            let Some(promise) = promise else {
                let text = format!("term {}: {promiser} has taken its promise back", closed.term);
                return self.broken(world, Promise::WeakEvidence, text);
            };
            let Some(host) = world.host_of(promiser) else { continue };
            let data = host.data.borrow();
            let id =
                data.id_file.as_ref().filter(|(owner, _)| owner == promiser).map(|(_, id)| id.to_string());
            let end = data.end();
            if id.as_ref() == Some(&promise.value.data_uuid) && end > promise.value.position {
                let text = format!(
                    "term {}: {promiser} promised {} and has {end}",
                    closed.term, promise.value.position
                );
                return self.broken(world, Promise::WeakEvidence, text);
            }
        }
    }
}
