//! The NBD wire: bytes to types and back. No I/O, no allocation sized by a client, no panic.

pub mod handshake;
pub mod option;
pub mod reply;
pub mod request;

use ploop_engine::Errno;

/// First eight bytes of a server's greeting.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of the greeting, and the start of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of every answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk.
pub const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// Longest read or write we announce and take.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// What the server says about an export (the 16-bit transmission flags).
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is taken.
    pub const FLUSH: u16 = 1 << 2;
    /// FUA is taken.
    pub const FUA: u16 = 1 << 3;
    /// TRIM is taken.
    pub const TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is taken.
    pub const WRITE_ZEROES: u16 = 1 << 6;
    /// DF is taken (structured replies only).
    pub const DF: u16 = 1 << 7;
    /// A flush on one connection covers the others.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is taken.
    pub const CACHE: u16 = 1 << 10;
    /// FAST_ZERO is taken.
    pub const FAST_ZERO: u16 = 1 << 11;
}

/// An NBD error number, as it goes over the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum NbdError {
    /// Writing to a read-only export.
    Perm = 1,
    /// The device failed.
    Io = 5,
    /// No memory.
    NoMem = 12,
    /// Wrong flags, range or alignment.
    Inval = 22,
    /// Past the end, or no space.
    NoSpc = 28,
    /// The answer does not fit one chunk.
    Overflow = 75,
    /// Not supported (a fast zeroing that would be slow).
    NotSup = 95,
    /// The server is going down.
    Shutdown = 108,
}

impl NbdError {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The closest NBD error for an engine's errno.
    #[must_use]
    pub fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::PERM | Errno::ROFS | Errno::ACCESS => Self::Perm,
            Errno::NOMEM => Self::NoMem,
            Errno::INVAL => Self::Inval,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::NoSpc,
            Errno::OVERFLOW => Self::Overflow,
            Errno::OPNOTSUPP => Self::NotSup,
            Errno::SHUTDOWN => Self::Shutdown,
            _ => Self::Io,
        }
    }
}

/// Takes `N` bytes off the front of a slice.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Takes `len` bytes off the front of a slice.
pub(crate) fn take_slice<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_becomes_the_nearest_nbd_error() {
        let table = [
            (Errno::ROFS, 1),
            (Errno::PERM, 1),
            (Errno::IO, 5),
            (Errno::NODEV, 5),
            (Errno::AGAIN, 5),
            (Errno::NOMEM, 12),
            (Errno::INVAL, 22),
            (Errno::NOSPC, 28),
            (Errno::DQUOT, 28),
            (Errno::OVERFLOW, 75),
            (Errno::OPNOTSUPP, 95),
            (Errno::SHUTDOWN, 108),
        ];
        for (errno, code) in table {
            assert_eq!(NbdError::from_errno(errno).code(), code, "{errno:?}");
        }
    }

    #[test]
    fn take_stops_at_the_end() {
        let mut bytes: &[u8] = &[1, 2, 3];
        assert_eq!(take::<2>(&mut bytes), Some([1, 2]));
        assert_eq!(take::<2>(&mut bytes), None);
        assert_eq!(take_slice(&mut bytes, 1), Some(&[3][..]));
        assert_eq!(take_slice(&mut bytes, 1), None);
    }
}
