//! Numbers and names in a packet of fixed size. Little-endian, so that a packet in a trace reads the same everywhere.

use super::{NAME_BYTES_MAX, Name, VERSION};

/// Fills a packet from its start; what is not written stays zero.
pub(super) struct Writer<const SIZE: usize> {
    bytes: [u8; SIZE],
    at: usize,
}

impl<const SIZE: usize> Writer<SIZE> {
    pub(super) fn new(magic: [u8; 4]) -> Self {
        let mut writer = Self { bytes: [0; SIZE], at: 0 };
        writer.put(&magic).put(&VERSION.to_le_bytes());
        writer
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }
    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }
    pub(super) fn i32(&mut self, value: i32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }
    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }
    /// One byte of length and 63 of text; all zero: no name.
    pub(super) fn name(&mut self, name: Option<&Name>) -> &mut Self {
        match name {
            Some(name) => self.put(&[name.length]).put(&name.bytes),
            None => self.put(&[0; 1 + NAME_BYTES_MAX]),
        }
    }

    pub(super) fn finish(self) -> [u8; SIZE] {
        self.bytes
    }
}

/// Takes a packet apart from its start.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Only a packet of exactly this size, with this magic and our version.
    pub(super) fn open<const SIZE: usize>(packet: &'a [u8], magic: [u8; 4]) -> Option<Self> {
        let packet: &[u8; SIZE] = packet.try_into().ok()?;
        let mut reader = Self { rest: packet };
        (reader.take::<4>()? == magic && reader.u16()? == VERSION).then_some(reader)
    }

    fn take<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let (head, rest) = self.rest.split_first_chunk::<COUNT>()?;
        self.rest = rest;
        Some(*head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    pub(super) fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    /// The inner `None`: no name. The outer: what is there cannot be one.
    #[allow(clippy::option_option)] // Absent and wrong are two things here.
    pub(super) fn name(&mut self) -> Option<Option<Name>> {
        let [length] = self.take()?;
        let bytes: [u8; NAME_BYTES_MAX] = self.take()?;
        if length == 0 {
            return Some(None);
        }
        let text = std::str::from_utf8(bytes.get(..usize::from(length))?).ok()?;
        Name::new(text).map(Some)
    }
}
