//! Answers without a payload, as bytes; the header alone before one.

use super::abi::{AttrOut, InvalInodeOut, NOTIFY_INVAL_INODE, OutHeader, ROOT};
use ploop_engine::Errno;
use zerocopy::{Immutable, IntoBytes};

const HEADER: usize = size_of::<OutHeader>();
/// The longest answer without a payload.
const LONGEST: usize = HEADER + size_of::<AttrOut>();

/// An answer (or an unasked message) without a payload.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Reply {
    /// Success with a structure. Structures longer than the longest known are cut.
    #[must_use]
    pub fn with<T: IntoBytes + Immutable>(unique: u64, out: &T) -> Self {
        Self::new(unique, 0, out.as_bytes())
    }

    /// Success, nothing more.
    #[must_use]
    pub fn empty(unique: u64) -> Self {
        Self::new(unique, 0, &[])
    }

    /// A failure.
    #[must_use]
    pub fn error(unique: u64, error: Errno) -> Self {
        Self::new(unique, -error.raw_os_error().clamp(1, 511), &[])
    }

    /// Makes the kernel ask for the attributes again.
    #[must_use]
    pub fn attributes_changed() -> Self {
        // A negative offset spares the cached pages.
        let node = InvalInodeOut { ino: ROOT, off: -1, len: 0 };
        Self::new(0, NOTIFY_INVAL_INODE, node.as_bytes())
    }

    fn new(unique: u64, error: i32, out: &[u8]) -> Self {
        let out = &out[..out.len().min(LONGEST - HEADER)];
        let len = HEADER + out.len();
        let mut bytes = [0; LONGEST];
        bytes[..HEADER].copy_from_slice(&header(unique, error, out.len()));
        bytes[HEADER..len].copy_from_slice(out);
        Self { bytes, len }
    }

    /// What goes to the kernel, in one write.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The header of an answer whose payload lies elsewhere.
#[must_use]
pub fn header(unique: u64, error: i32, payload: usize) -> [u8; HEADER] {
    let header = OutHeader { len: (HEADER + payload) as u32, error, unique };
    let mut bytes = [0; HEADER];
    bytes.copy_from_slice(header.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::abi::WriteOut;
    use zerocopy::FromBytes;

    fn parts(reply: &Reply) -> (OutHeader, Vec<u8>) {
        let (header, rest) = OutHeader::read_from_prefix(reply.bytes()).unwrap();
        assert_eq!(header.len as usize, reply.bytes().len());
        (header, rest.to_vec())
    }

    #[test]
    fn success_failure_and_notes() {
        let (header, rest) = parts(&Reply::with(9, &WriteOut { size: 4096, padding: 0 }));
        assert_eq!((header.error, header.unique, rest.len()), (0, 9, 8));
        let (header, rest) = parts(&Reply::error(9, Errno::IO));
        assert_eq!((header.error, rest.len()), (-5, 0));
        let (header, rest) = parts(&Reply::attributes_changed());
        assert_eq!((header.error, header.unique, rest.len()), (2, 0, 24));
        assert_eq!(parts(&Reply::with(1, &AttrOut::default())).1.len(), 104);
    }
}
