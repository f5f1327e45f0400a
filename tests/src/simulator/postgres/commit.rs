//! Clients' commits: what is written, what it waits for, and who is told.

use std::rc::Rc;

use super::{Postmaster, Sender, SyncNames};
use crate::simulator::executor::{ms, wait};
use crate::simulator::world::World;

/// How a client reaches its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// From another host: the dead-man is in its way.
    Tcp,
    /// By the socket on the host itself: nothing but the guard ends it.
    Local,
}

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its way.
    pub route: Route,
    /// `synchronous_commit` is on; otherwise `local`.
    pub waits: bool,
}

/// A commit that its client was told of.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// Where it ends, in writes.
    pub length: usize,
    /// Its number.
    pub write: u64,
    /// The server.
    pub host: usize,
    /// A standby has it.
    pub protected: bool,
    /// The client.
    pub client: Client,
}

impl World {
    /// A client's commit: a write in the WAL, which is acknowledged when the setting says so.
    pub fn commit(self: &Rc<Self>, host: usize, client: Client) {
        let Some(postmaster) = self.hosts[host].postmaster() else { return };
        if !postmaster.is_primary() || self.executor.is_frozen(postmaster.process) {
            return;
        }
        if client.route == Route::Tcp && !self.port_open(host) {
            return self.checker.shut_out(self, host);
        }
        let write = self.next_number();
        let length = {
            let mut data = self.hosts[host].data.borrow_mut();
            data.wal.push(write);
            data.wal.len()
        };
        postmaster.changed.raise();
        let (world, process) = (Rc::clone(self), postmaster.process);
        self.executor.spawn(process, async move {
            loop {
                let seen = postmaster.changed.count();
                if postmaster.live.borrow().stopping {
                    // Its connection is ended without an answer.
                    return;
                }
                let acknowledged = match client.waits {
                    true => world.is_acknowledged(&postmaster, length),
                    false => Some(false),
                };
                if let Some(protected) = acknowledged {
                    // The answer is sent again until it gets through, or its sender is gone.
                    while client.route == Route::Tcp && !world.port_open(host) {
                        world.pause(ms(20), ms(200)).await;
                    }
                    world.checker.told(&world, Told { length, write, host, protected, client });
                    return;
                }
                wait(&world.executor, ms(5_000), &[(&postmaster.changed, seen)]).await;
            }
        });
    }

    /// `None`: it waits. Otherwise whether a standby has it.
    fn is_acknowledged(&self, postmaster: &Postmaster, length: usize) -> Option<bool> {
        let live = postmaster.live.borrow();
        let flushed = |(_, sender): &(&usize, &Sender)| sender.flushed >= length;
        match &live.sync_names {
            SyncNames::Empty => Some(false),
            SyncNames::Anybody(count) => {
                (live.senders.iter().filter(flushed).count() >= *count).then_some(true)
            }
            SyncNames::Any(setting) => {
                let named =
                    |(host, _): &(&usize, &Sender)| setting.names.contains(&self.hosts[**host].member);
                let enough = live.senders.iter().filter(named).filter(flushed).count();
                (enough >= setting.acknowledgements).then_some(true)
            }
        }
    }
}
