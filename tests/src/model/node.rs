//! The members of the modelled cluster, and sets of them, small enough to be hashed millions of times.

use std::fmt;

/// More members than any search uses: arrays of the state have this length.
pub const NODES_MAX: usize = 4;

/// One member: A is the first writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u8);

/// The first writer.
pub const A: Node = Node(0);
/// The first synchronous standby.
pub const B: Node = Node(1);
/// The second synchronous standby.
pub const C: Node = Node(2);
/// The third synchronous standby, where there is one.
pub const D: Node = Node(3);

impl Node {
    /// Its place in an array.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The set of this one alone.
    pub fn alone(self) -> NodeSet {
        NodeSet(1 << self.0)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(b'A' + self.0))
    }
}

/// A set of members.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSet(pub u8);

impl NodeSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// The first `count` members.
    pub fn first(count: usize) -> Self {
        (0..count).map(|index| Node(index as u8)).collect()
    }
    /// Whether `node` is in it.
    pub fn has(self, node: Node) -> bool {
        self.0 & node.alone().0 != 0
    }
    /// With `node`.
    pub fn with(self, node: Node) -> Self {
        Self(self.0 | node.alone().0)
    }
    /// Without `node`.
    pub fn without(self, node: Node) -> Self {
        Self(self.0 & !node.alone().0)
    }
    /// In either.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// In both.
    pub fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// In this one only.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// Whether `other` has all of these.
    pub fn within(self, other: Self) -> bool {
        self.minus(other).is_empty()
    }
    /// Nobody.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// How many.
    pub fn len(self) -> u8 {
        self.0.count_ones() as u8
    }
    /// Its members, in their order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Node> {
        (0..8).map(Node).filter(move |node| self.has(*node))
    }
    /// Every subset, the empty one first.
    pub fn subsets(self) -> impl Iterator<Item = Self> {
        (0..=self.0).map(Self).filter(move |one| one.within(self))
    }
}

impl FromIterator<Node> for NodeSet {
    fn from_iter<I: IntoIterator<Item = Node>>(nodes: I) -> Self {
        nodes.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nobody");
        }
        self.iter().try_for_each(|node| write!(f, "{node:?}"))
    }
}
