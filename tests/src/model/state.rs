//! Everything that the model remembers: etcd, the hosts, and what clients were told.
//!
//! Revisions of etcd are not numbers here, which would make every history a state of its own, but what the rules ask of
//! them: is `/sync` still what CLOSE wrote, is a Patroni's cached version still the present one, which values has
//! `/sync` had since the floor record.

use super::log::{End, Log, Writes};
use super::node::{A, NODES_MAX, Node, NodeSet};

/// A synchronous configuration as the protocol counts it: `M` and `q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counted {
    /// `M`.
    pub members: NodeSet,
    /// `q`.
    pub quorum: u8,
}

/// A set of configurations: one bit each, four for the members, two for the quorum.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Configurations(u64);

impl Configurations {
    /// This one alone.
    pub fn only(one: Counted) -> Self {
        Self(0).with(one)
    }
    /// With one more.
    pub fn with(self, one: Counted) -> Self {
        Self(self.0 | 1 << (one.members.0 | one.quorum << 4))
    }
    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = Counted> {
        let of_bit = |bit: u8| Counted { members: NodeSet(bit & 15), quorum: bit >> 4 };
        (0..64).filter(move |bit| self.0 >> bit & 1 == 1).map(of_bit)
    }
}

impl std::fmt::Debug for Configurations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Patroni's `/sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sync {
    /// Who wrote it as leader.
    pub leader: Node,
    /// `sync_standby`.
    pub standbys: NodeSet,
    /// `quorum`.
    pub quorum: u8,
}

impl Sync {
    /// `M` and `q` from the point of view of `writer`.
    pub fn counted(self, writer: Node) -> Counted {
        let named = self.standbys.with(self.leader).without(writer);
        let members = if self.standbys.is_empty() { NodeSet::EMPTY } else { named };
        Counted { members, quorum: self.quorum }
    }
}

/// `synchronous_standby_names` = `ANY count (names)`; a count of 0 is the empty setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Setting {
    /// How many must have flushed.
    pub count: u8,
    /// Out of whom.
    pub names: NodeSet,
}

/// A promise in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    /// The term whose writer was left.
    pub term: u8,
    /// What the promiser had.
    pub end: End,
    /// Whether the promiser's data directory is still the one that promised.
    pub of_present_data: bool,
}

/// What PostgreSQL is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the meaning.
pub enum Postgres {
    #[default]
    Stopped,
    Replica,
    Primary,
}

/// One host: its PostgreSQL, its Patroni, its agent and its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Host {
    /// Running at all.
    pub up: bool,
    /// Its PostgreSQL.
    pub postgres: Postgres,
    /// Restarted, and local WAL is not all replayed.
    pub replaying: bool,
    /// Its WAL.
    pub log: Log,
    /// Its actual `synchronous_standby_names`.
    pub setting: Setting,
    /// From whom it streams.
    pub upstream: Option<Node>,
    /// The packet filter lets no replication through.
    pub cut: bool,
    /// The term whose writer it has left, on disk; 0 is none.
    pub left: u8,
    /// A position that was read too early (a mutant).
    pub early: Option<(u8, End)>,
    /// Its data directory was replaced since the floor record.
    pub data_replaced: bool,
    /// Its Patroni has set `synchronous_standby_names` for its promotion and called the hook.
    pub in_hook: bool,
    /// The hook has said yes for this term; 0 is no.
    pub allowed: u8,
    /// The term in which it writes; 0 is never.
    pub term: u8,
    /// The timeline on which it writes.
    pub timeline: u8,
    /// The highest timeline id that the hook keeps its PostgreSQL from; 0 is none.
    pub held: u8,
    /// Its Patroni believes to hold the lock.
    pub believes_leader: bool,
    /// Its Patroni's cached version of `/sync` is the present one.
    pub sync_is_cached: bool,
}

/// How often each thing that cannot be prevented has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the meaning; `Bounds` has the limits.
pub struct Spent {
    pub writes: u8,
    pub crashes: u8,
    pub sessions: u8,
    pub disconnects: u8,
    pub replacements: u8,
    pub locks: u8,
    pub late_writes: u8,
}

/// A moment of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The term record's number.
    pub term: u8,
    /// The term record's holder.
    pub holder: Node,
    /// OPEN, or CLOSED.
    pub open: bool,
    /// The highest timeline id on which a reign may have written.
    pub timeline: u8,
    /// The floor of a closed reign.
    pub closed_floor: End,
    /// `/sync` is what CLOSE wrote.
    pub sync_is_closes: bool,
    /// The position of the floor record.
    pub floor: End,
    /// Every configuration since the floor record, its own included.
    pub in_force: Configurations,
    /// The writer's agent has read this position for its next floor record.
    pub floor_begun: Option<End>,
    /// The writer's attestation of the present term.
    /// True: by a clean shutdown.
    pub attested: Option<bool>,
    /// Promises.
    pub promises: [Option<Promise>; NODES_MAX],
    /// Hosts whose session lives; for the holder: as the term record names it.
    pub sessions: NodeSet,
    /// Patroni's leader key.
    pub leader_key: Option<Node>,
    /// Patroni's `/sync`.
    pub sync: Sync,
    /// A write of `/sync` on its way, whose author has given it up; it lands only if nothing was written before it.
    pub sync_on_its_way: Option<Sync>,
    /// A mutant's evidence, counted earlier than it is used.
    pub evidence: Option<End>,
    /// The hosts.
    pub hosts: [Host; NODES_MAX],
    /// `reported[w][n]`: the highest position that `n` ever reported to `w`; reports may still be on their way.
    pub reported: [[u8; NODES_MAX]; NODES_MAX],
    /// Writes whose clients were told "committed".
    pub acknowledged: Writes,
    /// OPEN let a member reign that lacks an acknowledged write (I1).
    pub lost_at_open: bool,
    /// An earlier writer acknowledged what the open reign lacks (I2).
    pub acknowledged_by_deposed: bool,
    /// What has happened so far.
    pub spent: Spent,
}

impl State {
    /// A healthy cluster: A writes with `ANY 1` of all others.
    pub fn healthy(nodes: usize) -> Self {
        let standbys = NodeSet::first(nodes).without(A);
        let sync = Sync { leader: A, standbys, quorum: standbys.len() - 1 };
        let mut hosts = [Host::default(); NODES_MAX];
        for node in standbys.iter() {
            hosts[node.index()] =
                Host { up: true, postgres: Postgres::Replica, upstream: Some(A), ..Host::default() };
        }
        hosts[A.index()] = Host {
            up: true,
            postgres: Postgres::Primary,
            setting: Setting { count: 1, names: standbys },
            term: 1,
            timeline: 1,
            believes_leader: true,
            sync_is_cached: true,
            ..Host::default()
        };
        Self {
            term: 1,
            holder: A,
            open: true,
            timeline: 1,
            closed_floor: End::default(),
            sync_is_closes: false,
            floor: End::default(),
            in_force: Configurations::only(sync.counted(A)),
            floor_begun: None,
            attested: None,
            promises: [None; NODES_MAX],
            sessions: NodeSet::first(nodes),
            leader_key: Some(A),
            sync,
            sync_on_its_way: None,
            evidence: None,
            hosts,
            reported: [[0; NODES_MAX]; NODES_MAX],
            acknowledged: Writes::default(),
            lost_at_open: false,
            acknowledged_by_deposed: false,
            spent: Spent::default(),
        }
    }

    /// One host.
    pub fn host(&self, node: Node) -> &Host {
        &self.hosts[node.index()]
    }
    /// One host, to change it.
    pub fn host_mut(&mut self, node: Node) -> &mut Host {
        &mut self.hosts[node.index()]
    }
    /// All members.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (0..NODES_MAX as u8).map(Node)
    }
    /// A promise of the present term.
    pub fn promise(&self, node: Node) -> Option<Promise> {
        self.promises[node.index()].filter(|promise| promise.term == self.term)
    }
    /// Whether a member's PostgreSQL accepts writes.
    pub fn writes(&self, node: Node) -> bool {
        let host = self.host(node);
        host.up && host.postgres == Postgres::Primary
    }
    /// Whether the term record's session exists.
    pub fn writers_session(&self) -> bool {
        self.sessions.has(self.holder)
    }
    /// Members that stream from `writer`: what Patroni calls active.
    pub fn streaming_from(&self, writer: Node) -> NodeSet {
        self.nodes().filter(|node| self.host(*node).upstream == Some(writer)).collect()
    }
    /// Whether a commit that is written now could still be acknowledged.
    pub fn can_acknowledge(&self, node: Node) -> bool {
        let Setting { count, names } = self.host(node).setting;
        self.writes(node) && (count == 0 || self.streaming_from(node).both(names).len() >= count)
    }

    /// PostgreSQL ends, and with it its connections.
    pub fn stop_postgres(&mut self, node: Node) {
        let host = self.host_mut(node);
        host.postgres = Postgres::Stopped;
        host.upstream = None;
        host.in_hook = false;
        (host.allowed, host.held) = (0, 0);
        for other in self.nodes() {
            if self.host(other).upstream == Some(node) {
                self.host_mut(other).upstream = None;
            }
        }
    }

    /// The data directory is another one from now on: earlier reports and promises were the old one's.
    pub fn replace_data(&mut self, node: Node, log: Log) {
        let host = self.host_mut(node);
        host.log = log;
        host.data_replaced = true;
        for reports in &mut self.reported {
            reports[node.index()] = 0;
        }
        if let Some(promise) = &mut self.promises[node.index()] {
            promise.of_present_data = false;
        }
    }

    /// `/sync` has a new value: every cached version but the author's is stale.
    pub fn sync_changed(&mut self, author: Node) {
        for node in self.nodes() {
            self.host_mut(node).sync_is_cached = node == author;
        }
        self.sync_is_closes = false;
        self.sync_on_its_way = None;
        self.floor_begun = None;
        self.in_force = self.in_force.with(self.sync.counted(self.holder));
    }

    /// Every primary releases the waiting commits that its setting allows. As early as possible is the worst case: both
    /// promises are about what has been acknowledged, and nothing takes an acknowledgement back.
    pub fn acknowledge(&mut self) {
        for writer in self.nodes() {
            if !self.writes(writer) {
                continue;
            }
            let host = self.host(writer);
            let Setting { count, names } = host.setting;
            let reached = |length: u8| {
                let flushed = |node: &Node| self.reported[writer.index()][node.index()] >= length;
                names.iter().filter(flushed).count() >= usize::from(count)
            };
            let durable = (0..=host.log.len()).rev().find(|length| reached(*length)).unwrap_or(0);
            let told = host.log.cut(durable).writes();
            let lacking = told.minus(self.host(self.holder).log.writes());
            if self.open && writer != self.holder && !lacking.minus(self.acknowledged).is_empty() {
                self.acknowledged_by_deposed = true;
            }
            self.acknowledged = self.acknowledged.union(told);
        }
    }
}
