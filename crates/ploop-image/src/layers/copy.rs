//! One cluster from a file to another. What is zero is not written where zeros are already.

use ploop_format::is_zero;
use ploop_io::{File, RawFile};
use std::io;

/// Bytes of one read and write.
pub(super) const PIECE: usize = 1 << 20;

/// A cluster to copy.
#[derive(Clone, Debug)]
pub struct Move {
    /// The file that has it.
    pub from: File,
    /// Where.
    pub from_at: u64,
    /// Bytes that the file has there; the rest up to `len` reads as zeros (F18).
    pub from_len: u64,
    /// Where it goes.
    pub to_at: u64,
    /// Bytes.
    pub len: u64,
    /// The place reads as zeros already.
    pub fresh: bool,
    /// A cluster of zeros is not written at all.
    pub skip_zero: bool,
    /// Zeros over other bytes may become a hole.
    pub thin: bool,
}

/// Does moves, in any order and as many at a time as it likes.
pub trait Copier: Sync {
    /// Does all of them; says of each whether it was all zeros and left out.
    ///
    /// # Errors
    /// A read or write failed; some moves may have been made.
    fn run(&self, moves: &[Move], to: &File) -> io::Result<Vec<bool>>;
}

/// One after the other, on the caller's thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct InTurn;

impl Copier for InTurn {
    fn run(&self, moves: &[Move], to: &File) -> io::Result<Vec<bool>> {
        let mut buffer = Move::buffer();
        moves.iter().map(|one| one.run(&**to, &mut buffer)).collect()
    }
}

impl Move {
    /// Memory for [`Move::run`].
    #[must_use]
    pub fn buffer() -> Vec<u8> {
        vec![0; PIECE + 4096]
    }

    /// Copies; returns whether it was all zeros and left out. Zeros before the first other byte
    /// are written last, when it is known that there is one.
    ///
    /// # Errors
    /// A read or write failed, or the source is shorter than it was.
    pub fn run(&self, to: &dyn RawFile, buffer: &mut [u8]) -> io::Result<bool> {
        // Aligned, so that direct I/O does not have to bounce.
        let skip = buffer.as_ptr().align_offset(4096).min(4096);
        let buffer = &mut buffer[skip..];
        let mut leading = true;
        let mut at = 0;
        while at < self.len {
            let len = (self.len - at).min(PIECE as u64) as usize;
            self.read(at, &mut buffer[..len])?;
            let zero = is_zero(&buffer[..len]);
            if !zero && leading {
                leading = false;
                self.zeros(to, at)?;
            }
            let needed = !zero || !self.fresh;
            if needed && !leading {
                to.write_at(&buffer[..len], self.to_at + at)?;
            }
            at += len as u64;
        }
        if leading && !self.skip_zero && !self.given_back(to) {
            self.zeros(to, self.len)?;
        }
        Ok(leading && self.skip_zero)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let there = self.from_len.saturating_sub(at).min(out.len() as u64) as usize;
        let got = self.from.read_at(&mut out[..there], self.from_at + at)?;
        if got < there {
            let end = self.from_at + at + got as u64;
            let text = format!("{} ends at byte {end} now", self.from.path().display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        out[there..].fill(0);
        Ok(())
    }

    /// The place becomes a hole, where the host can.
    fn given_back(&self, to: &dyn RawFile) -> bool {
        let whole = self.to_at.is_multiple_of(4096) && self.len.is_multiple_of(4096);
        self.thin
            && !self.fresh
            && whole
            && to.caps().punch
            && to.punch(self.to_at, self.len).is_ok()
    }

    /// The first `len` bytes of the place become zeros, where they are not.
    fn zeros(&self, to: &dyn RawFile, len: u64) -> io::Result<()> {
        if self.fresh {
            return Ok(());
        }
        let zeros = vec![0; (len.min(PIECE as u64)) as usize];
        let mut at = 0;
        while at < len {
            let piece = (len - at).min(PIECE as u64);
            to.write_at(&zeros[..piece as usize], self.to_at + at)?;
            at += piece;
        }
        Ok(())
    }
}
