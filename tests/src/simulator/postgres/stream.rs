//! Streaming: the walreceiver of a standby, the walsender of its source, and what is on its way between them.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::{DataDir, Postmaster, Receiver, Sender};
use crate::simulator::executor::{ms, wait};
use crate::simulator::world::{Sim, World};

/// The walreceiver, again and again.
pub(super) async fn receive(world: Sim, host: usize, postmaster: Rc<Postmaster>) {
    loop {
        let seen = postmaster.changed.count();
        let source = world.hosts[host].data.borrow().source;
        let (caught_up, in_recovery) = {
            let live = postmaster.live.borrow();
            (live.waits_for_wal || live.received.is_some(), live.in_recovery)
        };
        if !in_recovery {
            return;
        }
        let Some(source) = source.filter(|source| caught_up && *source != host) else {
            wait(&world.executor, ms(1_000), &[(&postmaster.changed, seen)]).await;
            continue;
        };
        world.pause(ms(1), ms(10)).await;
        match connect(&world, host, source, &postmaster) {
            Some(receiver) => stream(&world, host, receiver, &postmaster).await,
            None => world.pause(ms(100), ms(400)).await,
        }
    }
}

fn connect(world: &Sim, host: usize, source: usize, postmaster: &Postmaster) -> Option<Receiver> {
    let passes = world.postgres_passes(host, source, source) && world.postgres_passes(source, host, source);
    if !passes || !world.may_follow(host, source) {
        return None;
    }
    let other = world.hosts[source].postmaster()?;
    if world.executor.is_frozen(other.process) || !other.live.borrow().accepts {
        return None;
    }
    let available = available(world, source, &other);
    let (ours, theirs) = (world.hosts[host].data.borrow(), world.hosts[source].data.borrow());
    if !theirs.serves(ours.timeline, ours.wal.len(), available) {
        return None;
    }
    if theirs.wal[..ours.wal.len().min(theirs.wal.len())] != ours.wal[..] {
        world.checker.diverged(world, host, source);
    }
    let connection = world.next_number();
    let receiver = Receiver { source, connection, sender: other.number };
    let sender = Sender { connection, flushed: 0, heard_us: world.executor.now_us() };
    other.live.borrow_mut().senders.insert(host, sender);
    let mut live = postmaster.live.borrow_mut();
    live.receiver = Some(receiver);
    // Streaming begins with a segment: less than is there already.
    live.received = live.received.max(Some(ours.wal.len() / 16 * 16));
    live.received_timeline = Some(ours.timeline);
    live.heard_us = world.executor.now_us();
    drop((ours, theirs));
    other.changed.raise();
    Some(receiver)
}

/// What a server may send: a standby sends what it has replayed.
fn available(world: &World, host: usize, postmaster: &Postmaster) -> usize {
    let live = postmaster.live.borrow();
    if live.in_recovery { live.replayed } else { world.hosts[host].data.borrow().wal.len() }
}

/// Streams until the connection ends or is ended.
async fn stream(world: &Sim, host: usize, receiver: Receiver, postmaster: &Rc<Postmaster>) {
    let Receiver { source, connection, sender } = receiver;
    let ours = || postmaster.live.borrow().receiver.is_some_and(|one| one.connection == connection);
    acknowledge(world, host, receiver);
    while ours() {
        let seen = postmaster.changed.count();
        if world.hosts[host].data.borrow().source != Some(source) {
            return world.end_walreceiver(host);
        }
        let serves = |other: &Rc<Postmaster>| {
            let live = other.live.borrow();
            other.number == sender && live.senders.get(&host).is_some_and(|one| one.connection == connection)
        };
        let Some(other) = world.hosts[source].postmaster().filter(serves) else {
            if world.link(source, host) && world.port_open(source) {
                // The other end is gone and its kernel says so.
                return world.end_walreceiver(host);
            }
            wait(&world.executor, ms(500), &[(&postmaster.changed, seen)]).await;
            continue;
        };
        let have = world.hosts[host].data.borrow().wal.len();
        let told = other.changed.count();
        let until = available(world, source, &other);
        let lags = world.hosts[source].data.borrow().timeline != world.hosts[host].data.borrow().timeline;
        if (until > have || lags) && !world.executor.is_frozen(other.process) {
            let sent = Sent::new(&world.hosts[source].data.borrow(), have, until);
            world.executor.sleep(world.latency_us() + world.hosts[host].lag_us.get()).await;
            while ours() && !world.postgres_passes(source, host, source) {
                world.executor.sleep(ms(50)).await;
            }
            if !ours() {
                return;
            }
            world.pause(50, 600).await;
            if ours() {
                sent.flush(world, host, postmaster);
                acknowledge(world, host, receiver);
            }
        } else {
            let idle_us = world.executor.now_us();
            wait(&world.executor, ms(1_000), &[(&other.changed, told), (&postmaster.changed, seen)]).await;
            if world.executor.now_us() - idle_us >= ms(1_000) && ours() {
                // The status that a standby sends without being asked.
                acknowledge(world, host, receiver);
            }
        }
    }
}

/// A piece of WAL on its way.
struct Sent {
    from: usize,
    writes: Vec<u64>,
    timeline: u32,
    forks: Vec<(u32, usize)>,
    history_files: BTreeSet<u32>,
}

impl Sent {
    fn new(data: &DataDir, from: usize, until: usize) -> Self {
        let writes = data.wal.get(from..until).unwrap_or_default().to_vec();
        let (forks, history_files) = (data.forks.clone(), data.history_files.clone());
        Self { from, writes, timeline: data.timeline, forks, history_files }
    }

    fn flush(self, world: &World, host: usize, postmaster: &Postmaster) {
        let mut data = world.hosts[host].data.borrow_mut();
        if data.wal.len() != self.from {
            return;
        }
        data.wal.extend(self.writes);
        (data.timeline, data.forks) = (self.timeline, self.forks);
        data.history_files.extend(self.history_files);
        let mut live = postmaster.live.borrow_mut();
        live.received = Some(data.wal.len());
        live.received_timeline = Some(data.timeline);
        live.heard_us = world.executor.now_us();
        drop((data, live));
        postmaster.changed.raise();
    }
}

/// Tells the writer how far we have flushed. Once it has left this host only the wire can lose it.
fn acknowledge(world: &Sim, host: usize, receiver: Receiver) {
    let Receiver { source, connection, .. } = receiver;
    if !world.postgres_passes(host, source, source) {
        return;
    }
    let flushed = world.hosts[host].data.borrow().wal.len();
    let later = Rc::clone(world);
    world.executor.after(world.latency_us(), move || {
        if !later.link(host, source) || !later.port_open(source) {
            return;
        }
        let Some(other) = later.hosts[source].postmaster() else { return };
        if let Some(sender) = other.live.borrow_mut().senders.get_mut(&host)
            && sender.connection == connection
        {
            sender.flushed = sender.flushed.max(flushed);
            sender.heard_us = later.executor.now_us();
        }
        other.changed.raise();
    });
}
