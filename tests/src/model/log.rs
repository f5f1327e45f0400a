//! The write-ahead log of one member: a few records, each with the timeline it was written on.

/// Records that a log can hold.
pub const RECORDS_MAX: usize = 4;

/// One write: its timeline, and a number that no other write has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// The timeline of its writer.
    pub timeline: u8,
    /// Which write it is.
    pub write: u8,
}

/// Where a log ends: timeline first, as the product compares it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// The timeline of the last record.
    pub timeline: u8,
    /// How many records there are.
    pub length: u8,
}

/// A set of writes, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Writes(pub u16);

impl Writes {
    /// All of both.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Those that `other` lacks.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// None.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The records of one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    length: u8,
    records: [Record; RECORDS_MAX],
}

impl Log {
    /// How many records.
    pub fn len(&self) -> u8 {
        self.length
    }
    /// No record.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
    fn records(&self) -> &[Record] {
        &self.records[..usize::from(self.length)]
    }
    /// Whether there is no room for another record.
    pub fn is_full(&self) -> bool {
        usize::from(self.length) == RECORDS_MAX
    }
    /// Adds a record.
    pub fn push(&mut self, record: Record) {
        self.records[usize::from(self.length)] = record;
        self.length += 1;
    }
    /// The record at a place.
    pub fn record(&self, at: u8) -> Record {
        self.records()[usize::from(at)]
    }
    /// Where it ends.
    pub fn end(&self) -> End {
        End { timeline: self.records().last().map_or(0, |last| last.timeline), length: self.length }
    }
    /// The first `length` records.
    pub fn cut(&self, length: u8) -> Self {
        let mut cut = Self::default();
        self.records().iter().take(usize::from(length)).for_each(|record| cut.push(*record));
        cut
    }
    /// What both begin with: all that is left after a rewind.
    pub fn common(&self, other: &Self) -> Self {
        let same = self.records().iter().zip(other.records()).take_while(|(a, b)| a == b).count();
        self.cut(same as u8)
    }
    /// Whether `other` begins with all of this.
    pub fn begins(&self, other: &Self) -> bool {
        self.common(other).length == self.length
    }
    /// The writes in it.
    pub fn writes(&self) -> Writes {
        Writes(self.records().iter().fold(0, |all, record| all | 1 << record.write))
    }
}
