//! PostgreSQL: WAL as a list of writes, timelines, crash recovery, streaming with its acknowledgements, and
//! `synchronous_standby_names`. What is on disk is in [`DataDir`], what a process knows in [`Postmaster`].
//!
//! It checks what PostgreSQL checks and no more: a standby is taken by the number of its timeline, not by its content.

pub mod commit;
mod stop;
mod stream;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use holdfast_agent_core::sync::AnySetting;
use holdfast_types::{Lsn, MemberName, Position, Timeline};

use crate::simulator::executor::{ProcessId, Signal, ms, wait};
use crate::simulator::world::{Sim, World};

/// Where the first write ends.
const FIRST_LSN: u64 = 0x0300_0000;
const BYTES_OF_A_WRITE: u64 = 0x80;

/// The LSN at which so many writes end.
pub fn lsn(writes: usize) -> Lsn {
    Lsn(FIRST_LSN + BYTES_OF_A_WRITE * writes as u64)
}

/// `synchronous_standby_names`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SyncNames {
    /// Nobody is waited for.
    #[default]
    Empty,
    /// `ANY k (names)`.
    Any(AnySetting),
    /// `ANY k (*)`.
    Anybody(usize),
}

/// `pg_controldata`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// It accepted writes and has not been shut down.
    InProduction,
    /// A clean shutdown of a primary.
    ShutDown,
    /// A standby, running or not shut down.
    InRecovery,
}

/// PGDATA.
#[derive(Debug, Clone)]
pub struct DataDir {
    /// There is a cluster in it, and nothing is half copied.
    pub whole: bool,
    /// The newest timeline.
    pub timeline: u32,
    /// The timeline that the control file knows: it follows at the next restart point.
    pub control_timeline: u32,
    /// Where the earlier ones ended, in writes.
    pub forks: Vec<(u32, usize)>,
    /// Timelines whose history files are in `pg_wal`.
    pub history_files: BTreeSet<u32>,
    /// The writes, by their numbers.
    pub wal: Vec<u64>,
    /// The control file.
    pub control: Control,
    /// `standby.signal` is there.
    pub standby_signal: bool,
    /// `primary_conninfo`.
    pub source: Option<usize>,
    /// `synchronous_standby_names` in the file.
    pub sync_names: SyncNames,
    /// The file `holdfast.data_uuid`: the member it names, and the id.
    pub id_file: Option<(MemberName, u64)>,
    /// Recovery begins here, in writes.
    pub redo: usize,
    /// No connection is accepted before so much is replayed.
    pub consistent_at: usize,
}

impl DataDir {
    /// The first primary's, or one that its Patroni has to make.
    pub fn new(first: bool) -> Self {
        Self {
            whole: first,
            timeline: 1,
            control_timeline: 1,
            forks: Vec::new(),
            history_files: BTreeSet::new(),
            wal: Vec::new(),
            control: if first { Control::ShutDown } else { Control::InRecovery },
            standby_signal: !first,
            source: None,
            sync_names: SyncNames::Empty,
            id_file: None,
            redo: 0,
            consistent_at: 0,
        }
    }

    /// What the end of the WAL is called.
    pub fn end(&self) -> Position {
        Position { timeline: Timeline(self.timeline), lsn: lsn(self.wal.len()) }
    }

    /// Whether a standby that ends at `length` on `timeline` may stream from here, by the numbers.
    pub fn serves(&self, timeline: u32, length: usize, available: usize) -> bool {
        let fork = self.forks.iter().find(|(old, _)| *old == timeline).map(|(_, end)| *end);
        match fork {
            _ if timeline == self.timeline => length <= available,
            Some(end) => length <= end,
            None => false,
        }
    }

    /// The id of the next timeline: after the newest of those, one after the other, whose history files are here.
    fn next_timeline(&self) -> u32 {
        (self.timeline + 1..).find(|id| !self.history_files.contains(id)).expect("there are few timelines")
    }

    /// Takes everything over from another server's disk, as `pg_rewind` and a base backup do; the id file comes along.
    pub fn copy_from(&mut self, source: &Self) {
        let (source_host, id_file) = (self.source, source.id_file.clone());
        *self = Self { whole: true, standby_signal: true, control: Control::InRecovery, ..source.clone() };
        (self.source, self.id_file, self.sync_names) = (source_host, id_file, SyncNames::Empty);
        self.control_timeline = self.timeline;
        self.redo = self.wal.len().saturating_sub(5);
        self.consistent_at = self.wal.len();
    }
}

/// A walsender, as `pg_stat_replication` shows it.
#[derive(Debug, Clone)]
pub struct Sender {
    connection: u64,
    /// What the standby says it has flushed, in writes.
    pub flushed: usize,
    heard_us: u64,
}

/// A walreceiver.
#[derive(Debug, Clone, Copy)]
pub struct Receiver {
    /// From whom.
    pub source: usize,
    connection: u64,
    /// The postmaster at the other end.
    sender: u64,
}

/// What a running PostgreSQL knows.
#[derive(Debug, Default)]
pub struct Live {
    /// It only replays.
    pub in_recovery: bool,
    /// It takes connections.
    pub accepts: bool,
    /// It was told to stop.
    pub stopping: bool,
    /// Replayed, in writes.
    pub replayed: usize,
    /// Received since this start, in writes.
    pub received: Option<usize>,
    /// Its timeline, while a walreceiver runs.
    pub received_timeline: Option<u32>,
    /// The startup process waits for WAL that is not there.
    pub waits_for_wal: bool,
    /// The walreceiver.
    pub receiver: Option<Receiver>,
    /// When something came last.
    pub heard_us: u64,
    /// The walsenders, by host.
    pub senders: BTreeMap<usize, Sender>,
    /// `synchronous_standby_names` in force.
    pub sync_names: SyncNames,
}

/// One start of PostgreSQL.
pub struct Postmaster {
    /// All of its processes.
    pub process: ProcessId,
    /// Which start.
    pub number: u64,
    /// What it knows.
    pub live: RefCell<Live>,
    /// Raised when anything in it changes.
    pub changed: Rc<Signal>,
    /// Raised when it ends.
    pub exited: Rc<Signal>,
}

impl Postmaster {
    /// It accepts writes.
    pub fn is_primary(&self) -> bool {
        let live = self.live.borrow();
        live.accepts && !live.in_recovery
    }
}

impl World {
    /// Starts PostgreSQL on what lies in the data directory. The start gate has passed it.
    pub fn start_postgres(self: &Rc<Self>, host: usize) {
        let here = &self.hosts[host];
        let standby = here.data.borrow().standby_signal;
        let live =
            Live { in_recovery: true, sync_names: here.data.borrow().sync_names.clone(), ..Live::default() };
        let postmaster = Rc::new(Postmaster {
            process: self.executor.process(),
            number: self.next_number(),
            live: RefCell::new(live),
            changed: Signal::new(&self.executor),
            exited: Signal::new(&self.executor),
        });
        self.say(
            &format_args!("{}.postgres", here.member),
            &if standby { "starts as a standby" } else { "starts as a primary" },
        );
        *here.postgres.borrow_mut() = Some(Rc::clone(&postmaster));
        if here.frozen.get() {
            self.executor.freeze(postmaster.process);
        }
        let process = postmaster.process;
        self.executor.spawn(process, recover(Rc::clone(self), host, Rc::clone(&postmaster), !standby));
        if standby {
            self.executor.spawn(process, make_restart_points(Rc::clone(self), host, Rc::clone(&postmaster)));
            self.executor.spawn(process, stream::receive(Rc::clone(self), host, Rc::clone(&postmaster)));
        }
    }

    /// All of its processes are gone: killed, or stopped.
    pub fn end_postgres(self: &Rc<Self>, host: usize, clean: bool) {
        let here = &self.hosts[host];
        let Some(postmaster) = here.postgres.borrow_mut().take() else { return };
        let primary = {
            let live = postmaster.live.borrow();
            !live.in_recovery && (live.accepts || live.stopping)
        };
        self.executor.end(postmaster.process);
        self.checker.stopped(self, host);
        {
            let mut data = here.data.borrow_mut();
            if primary && clean {
                data.control = Control::ShutDown;
            }
            // Recovery begins at the last restart point, somewhere before what was replayed.
            let replayed = postmaster.live.borrow().replayed;
            data.redo = if primary { data.wal.len() } else { replayed.saturating_sub(8) };
            data.consistent_at = data.consistent_at.max(data.redo).min(data.wal.len());
        }
        let what = if clean { "is shut down" } else { "is killed" };
        self.say(&format_args!("{}.postgres", here.member), &what);
        self.hang_up(host, &postmaster);
        postmaster.exited.raise();
    }

    /// The kernel of a host that lives closes the connections of a process that does not.
    fn hang_up(self: &Rc<Self>, host: usize, postmaster: &Postmaster) {
        let receiver = postmaster.live.borrow().receiver;
        if let Some(Receiver { source, connection, .. }) = receiver {
            self.drop_sender(host, source, connection);
        }
    }

    /// A reset that reaches the other end takes its walsender away. Resets pass our tables.
    fn drop_sender(self: &Rc<Self>, from: usize, to: usize, connection: u64) {
        let world = Rc::clone(self);
        self.executor.after(self.latency_us(), move || {
            if !world.link(from, to) || !world.port_open(to) {
                return;
            }
            let Some(other) = world.hosts[to].postmaster() else { return };
            let ours = other.live.borrow().senders.get(&from).is_some_and(|one| one.connection == connection);
            if ours {
                other.live.borrow_mut().senders.remove(&from);
                other.changed.raise();
            }
        });
    }

    /// The standbys of a writer that it still hears; one that is silent for too long is given up (`wal_sender_timeout`).
    pub fn heard_standbys(&self, postmaster: &Postmaster) -> BTreeMap<usize, usize> {
        let (now_us, timeout_us) = (self.executor.now_us(), ms(self.setup.wal_sender_timeout_ms));
        let mut live = postmaster.live.borrow_mut();
        live.senders.retain(|_, sender| now_us - sender.heard_us < timeout_us);
        live.senders.iter().map(|(host, sender)| (*host, sender.flushed)).collect()
    }

    /// Ends the walreceiver: process and socket.
    pub fn end_walreceiver(self: &Rc<Self>, host: usize) {
        let Some(postmaster) = self.hosts[host].postmaster() else { return };
        let receiver = {
            let mut live = postmaster.live.borrow_mut();
            live.received_timeline = None;
            live.receiver.take()
        };
        if let Some(Receiver { source, connection, .. }) = receiver {
            self.drop_sender(host, source, connection);
            postmaster.changed.raise();
        }
    }

    /// `pg_ctl promote`, once everything is replayed: the next timeline begins.
    pub fn promoted(&self, host: usize, postmaster: &Postmaster) {
        {
            let mut data = self.hosts[host].data.borrow_mut();
            let ended = (data.timeline, data.wal.len());
            data.forks.push(ended);
            let timeline = data.next_timeline();
            data.timeline = timeline;
            data.history_files.insert(timeline);
            data.control_timeline = data.timeline;
            (data.standby_signal, data.source, data.control) = (false, None, Control::InProduction);
            let mut live = postmaster.live.borrow_mut();
            (live.in_recovery, live.receiver, live.received_timeline) = (false, None, None);
        }
        postmaster.changed.raise();
        self.say(&format_args!("{}.postgres", self.hosts[host].member), &"is promoted");
        self.checker.accepts_writes(self, host);
    }
}

/// The startup process.
async fn recover(world: Sim, host: usize, postmaster: Rc<Postmaster>, as_primary: bool) {
    world.pause(ms(100), ms(400)).await;
    let here = &world.hosts[host];
    if as_primary {
        world.pause(ms(20), ms(300)).await;
        {
            let mut data = here.data.borrow_mut();
            (data.control, data.control_timeline) = (Control::InProduction, data.timeline);
            let mut live = postmaster.live.borrow_mut();
            (live.in_recovery, live.accepts) = (false, true);
        }
        postmaster.changed.raise();
        world.say(&format_args!("{}.postgres", here.member), &"accepts writes");
        world.checker.accepts_writes(&world, host);
        return;
    }
    here.data.borrow_mut().control = Control::InRecovery;
    postmaster.live.borrow_mut().replayed = here.data.borrow().redo.min(here.data.borrow().wal.len());
    loop {
        let seen = postmaster.changed.count();
        let (length, consistent_at) = (here.data.borrow().wal.len(), here.data.borrow().consistent_at);
        let replayed = postmaster.live.borrow().replayed;
        let accepts = replayed >= consistent_at;
        if accepts && !postmaster.live.borrow().accepts {
            postmaster.live.borrow_mut().accepts = true;
            postmaster.changed.raise();
        }
        if replayed >= length {
            if !postmaster.live.borrow().waits_for_wal {
                postmaster.live.borrow_mut().waits_for_wal = true;
                postmaster.changed.raise();
                continue;
            }
            wait(&world.executor, ms(2_000), &[(&postmaster.changed, seen)]).await;
            if !postmaster.live.borrow().in_recovery {
                return;
            }
            continue;
        }
        postmaster.live.borrow_mut().waits_for_wal = false;
        // A record that takes long now and then: a conflict with a query.
        let slow = world.random(0, 60) == 0;
        world.pause(100, if slow { ms(300) } else { ms(2) }).await;
        postmaster.live.borrow_mut().replayed = (replayed + 4).min(here.data.borrow().wal.len());
    }
}

/// The checkpointer of a standby: until then the control file knows nothing of what was replayed since.
async fn make_restart_points(world: Sim, host: usize, postmaster: Rc<Postmaster>) {
    loop {
        world.pause(ms(2_000), ms(30_000)).await;
        let live = postmaster.live.borrow();
        if !live.in_recovery {
            return;
        }
        let mut data = world.hosts[host].data.borrow_mut();
        if live.replayed >= data.forks.last().map_or(0, |(_, end)| *end) {
            data.control_timeline = data.timeline;
        }
        data.redo = data.redo.max(live.replayed);
    }
}
/// The members of a set of hosts.
pub fn members(world: &World, hosts: impl Iterator<Item = usize>) -> BTreeSet<MemberName> {
    hosts.map(|host| world.hosts[host].member.clone()).collect()
}
