//! Replies of the transmission phase, simple and structured.

use super::{NbdError, SIMPLE_MAGIC, STRUCTURED_MAGIC};

/// The last chunk of an answer.
const DONE: u16 = 1;
/// Chunk types.
const NONE: u16 = 0;
const OFFSET_DATA: u16 = 1;
const BLOCK_STATUS: u16 = 5;
const ERROR: u16 = (1 << 15) + 1;
const ERROR_OFFSET: u16 = (1 << 15) + 2;

/// The id we give `base:allocation`.
pub const ALLOCATION_ID: u32 = 1;
/// `base:allocation`: not stored anywhere.
pub const STATE_HOLE: u32 = 1;
/// `base:allocation`: reads as zeros.
pub const STATE_ZERO: u32 = 2;

/// Longest head: a structured chunk header and an offset.
pub const MAX_HEAD: usize = 28;

/// The bytes before a payload, kept in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; MAX_HEAD],
    len: u8,
}

impl Head {
    /// The bytes to send.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn chunk(kind: u16, cookie: u64, payload: u32) -> Self {
        let mut bytes = [0; MAX_HEAD];
        bytes[..4].copy_from_slice(&STRUCTURED_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&DONE.to_be_bytes());
        bytes[6..8].copy_from_slice(&kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
        bytes[16..20].copy_from_slice(&payload.to_be_bytes());
        Self { bytes, len: 20 }
    }

    /// A simple reply; a read's payload follows when there is no error.
    #[must_use]
    pub fn simple(cookie: u64, error: Option<NbdError>) -> Self {
        let mut bytes = [0; MAX_HEAD];
        bytes[..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&error.map_or(0, NbdError::code).to_be_bytes());
        bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
        Self { bytes, len: 16 }
    }

    /// A structured success without content.
    #[must_use]
    pub fn none(cookie: u64) -> Self {
        Self::chunk(NONE, cookie, 0)
    }

    /// Nothing: more data of the reply before.
    pub const EMPTY: Self = Self { bytes: [0; MAX_HEAD], len: 0 };

    /// One chunk of several of a read: `len` bytes of data follow. Not for a request with DF (do
    /// not fragment).
    #[must_use]
    pub fn part(cookie: u64, offset: u64, len: u32, last: bool) -> Self {
        let mut head = Self::data(cookie, offset, len);
        if !last {
            head.bytes[4..6].fill(0);
        }
        head
    }

    /// The one chunk of a read: `len` bytes of data follow.
    #[must_use]
    pub fn data(cookie: u64, offset: u64, len: u32) -> Self {
        let mut head = Self::chunk(OFFSET_DATA, cookie, len.saturating_add(8));
        head.bytes[20..28].copy_from_slice(&offset.to_be_bytes());
        head.len = 28;
        head
    }
}

/// A structured error: the head, and what follows it. `offset` makes it an `ERROR_OFFSET`.
#[must_use]
pub fn error(cookie: u64, error: NbdError, offset: Option<u64>, message: &str) -> (Head, Vec<u8>) {
    let message = truncate(message, 256);
    let mut body = Vec::with_capacity(14 + message.len());
    body.extend_from_slice(&error.code().to_be_bytes());
    body.extend_from_slice(&(message.len() as u16).to_be_bytes());
    body.extend_from_slice(message.as_bytes());
    let kind = if let Some(offset) = offset {
        body.extend_from_slice(&offset.to_be_bytes());
        ERROR_OFFSET
    } else {
        ERROR
    };
    (Head::chunk(kind, cookie, body.len() as u32), body)
}

/// A run of a device with one `base:allocation` status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Bytes.
    pub len: u32,
    /// `STATE_HOLE`, `STATE_ZERO`, or 0 for data.
    pub status: u32,
}

/// The one chunk of a block status answer: the head, and what follows it.
#[must_use]
pub fn block_status(cookie: u64, extents: &[Extent]) -> (Head, Vec<u8>) {
    let mut body = Vec::with_capacity(4 + extents.len() * 8);
    body.extend_from_slice(&ALLOCATION_ID.to_be_bytes());
    for extent in extents {
        body.extend_from_slice(&extent.len.to_be_bytes());
        body.extend_from_slice(&extent.status.to_be_bytes());
    }
    (Head::chunk(BLOCK_STATUS, cookie, body.len() as u32), body)
}

/// At most `max` bytes of a string, cut between characters.
fn truncate(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_reply() {
        let head = Head::simple(0x0102_0304_0506_0708, Some(NbdError::NoSpc));
        let expect = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(head.bytes(), expect);
        assert_eq!(Head::simple(1, None).bytes()[4..8], [0; 4]);
    }

    #[test]
    fn data_chunk() {
        let head = Head::data(9, 0x1000, 0x200);
        assert_eq!(head.bytes()[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1]);
        assert_eq!(head.bytes()[16..20], 0x208u32.to_be_bytes());
        assert_eq!(head.bytes()[20..], 0x1000u64.to_be_bytes());
    }

    #[test]
    fn none_chunk() {
        let head = Head::none(9);
        assert_eq!(head.bytes()[4..8], [0, 1, 0, 0]);
        assert_eq!(head.bytes()[16..], [0; 4]);
    }

    #[test]
    fn error_chunks() {
        let (head, body) = error(3, NbdError::Inval, None, "bad");
        assert_eq!(head.bytes()[6..8], [0x80, 1]);
        assert_eq!(head.bytes()[16..20], 9u32.to_be_bytes());
        assert_eq!(body, [0, 0, 0, 22, 0, 3, b'b', b'a', b'd']);
        let (head, body) = error(3, NbdError::Io, Some(5), "");
        assert_eq!(head.bytes()[6..8], [0x80, 2]);
        assert_eq!(body, [0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        let (_, body) = error(3, NbdError::Io, None, &"\u{e9}".repeat(400));
        assert_eq!(body.len(), 6 + 256);
    }

    #[test]
    fn block_status_chunk() {
        let extents = [Extent { len: 512, status: 0 }, Extent { len: 1024, status: 3 }];
        let (head, body) = block_status(3, &extents);
        assert_eq!(head.bytes()[6..8], [0, 5]);
        assert_eq!(body, [0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 3]);
    }
}
