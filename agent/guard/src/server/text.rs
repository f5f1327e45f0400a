//! Text in a buffer of fixed size: formatting without allocation. What does not fit is cut.

use std::ffi::CStr;
use std::fmt;

/// At most `SIZE - 1` bytes; the one behind the text is always zero.
pub struct Text<const SIZE: usize> {
    bytes: [u8; SIZE],
    length: usize,
}

impl<const SIZE: usize> Text<SIZE> {
    /// Formats the arguments.
    pub fn of(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self::new();
        // Cutting is no error here.
        let _ = fmt::write(&mut text, arguments);
        text
    }

    /// Nothing yet.
    pub fn new() -> Self {
        Self { bytes: [0; SIZE], length: 0 }
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The whole buffer, filled up with `filler`.
    pub fn padded(mut self, filler: u8) -> [u8; SIZE] {
        self.bytes[self.length..].fill(filler);
        self.bytes
    }

    /// As a path.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).expect("the byte behind the text is zero")
    }
}

impl<const SIZE: usize> fmt::Write for Text<SIZE> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.len().min(SIZE - 1 - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut() {
        let text = Text::<8>::of(format_args!("{}-{}", 1234, 56789));
        assert_eq!((text.bytes(), text.as_c_str()), (&b"1234-56"[..], c"1234-56"));
        assert_eq!(text.padded(b'.'), *b"1234-56.");
    }
}
