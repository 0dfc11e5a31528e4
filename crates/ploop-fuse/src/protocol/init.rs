//! The handshake: which version, which abilities, how long a request may be.

use super::LONGEST;
use super::abi::{InitIn, InitOut, MAJOR, MINOR_MAX, MINOR_MIN};

/// Reads of one file may be sent side by side.
const ASYNC_READ: u64 = 1;
/// Writes longer than a page.
const BIG_WRITES: u64 = 1 << 5;
/// Without it a file opened for direct I/O is served one request at a time.
const ASYNC_DIO: u64 = 1 << 15;
/// `max_pages` of the answer counts.
const MAX_PAGES: u64 = 1 << 22;
/// The upper half of the flags counts.
const INIT_EXT: u64 = 1 << 30;
/// Shared mappings of a file that is opened for direct I/O.
const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;

const WANTED: u64 =
    ASYNC_READ | BIG_WRITES | ASYNC_DIO | MAX_PAGES | INIT_EXT | DIRECT_IO_ALLOW_MMAP;

/// What to answer to an INIT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    /// Agreed: this is the answer.
    Agreed(InitOut),
    /// The kernel speaks a later major version: this answer makes it ask again with ours.
    Again(InitOut),
    /// Older than anything that is spoken here: `EPROTO`.
    TooOld,
}

/// Answers an INIT. `max_background` requests of those who do not wait may be in flight.
#[must_use]
pub fn negotiate(asked: &InitIn, max_background: u16, page: usize) -> Handshake {
    let ours = InitOut { major: MAJOR, minor: MINOR_MAX, ..InitOut::default() };
    if asked.major > MAJOR {
        return Handshake::Again(ours);
    }
    if asked.major < MAJOR || asked.minor < MINOR_MIN {
        return Handshake::TooOld;
    }
    let mut offered = u64::from(asked.flags);
    if offered & INIT_EXT != 0 {
        offered |= u64::from(asked.flags2) << 32;
    }
    let flags = offered & WANTED;
    let background = max_background.max(1);
    let pages = (LONGEST as usize / page.max(1)).clamp(1, usize::from(u16::MAX));
    Handshake::Agreed(InitOut {
        minor: asked.minor.min(MINOR_MAX),
        max_readahead: asked.max_readahead,
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        max_background: background,
        congestion_threshold: background,
        max_write: LONGEST,
        time_gran: 1,
        max_pages: pages as u16,
        ..ours
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(major: u32, minor: u32, flags: u64) -> InitIn {
        let (low, high) = (flags as u32, (flags >> 32) as u32);
        InitIn { major, minor, max_readahead: 131_072, flags: low, flags2: high, unused: [0; 11] }
    }

    #[test]
    fn only_what_is_offered_is_taken() {
        let Handshake::Agreed(all) = negotiate(&asked(7, 45, u64::MAX), 256, 4096) else {
            panic!("refused")
        };
        assert_eq!(u64::from(all.flags) | u64::from(all.flags2) << 32, WANTED);
        assert_eq!((all.max_pages, all.max_write, all.max_background), (256, LONGEST, 256));
        let Handshake::Agreed(few) = negotiate(&asked(7, 31, ASYNC_DIO), 0, 65_536) else {
            panic!("refused")
        };
        assert_eq!((few.flags, few.flags2, few.minor), (ASYNC_DIO as u32, 0, 31));
        assert_eq!((few.max_pages, few.max_background), (16, 1));
        // The upper half means nothing without INIT_EXT.
        let Handshake::Agreed(old) = negotiate(&asked(7, 40, DIRECT_IO_ALLOW_MMAP), 1, 4096) else {
            panic!("refused")
        };
        assert_eq!(old.flags2, 0);
    }

    #[test]
    fn versions() {
        assert_eq!(negotiate(&asked(7, 30, 0), 1, 4096), Handshake::TooOld);
        assert_eq!(negotiate(&asked(6, 99, 0), 1, 4096), Handshake::TooOld);
        assert!(
            matches!(negotiate(&asked(8, 0, 0), 1, 4096), Handshake::Again(out) if out.major == 7)
        );
        assert!(matches!(
            negotiate(&asked(7, 99, 0), 1, 4096),
            Handshake::Agreed(out) if out.minor == MINOR_MAX
        ));
    }
}
