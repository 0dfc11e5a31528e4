//! A running device as something to read, write and seek in: for partition tables.

use super::session::Session;
use ploop_engine::remote::RemoteHandle;
use ploop_engine::{Buffer, Flags, Operation, Request};
use ploop_io::AlignedBuf;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};

/// A position on a device. One block at a time: not for bulk data.
pub struct Cursor {
    remote: RemoteHandle,
    size: u64,
    at: u64,
    block: AlignedBuf,
}

impl Cursor {
    /// At the start of the device.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(session: &Session) -> io::Result<Self> {
        let limits = session.device().limits();
        let block = AlignedBuf::new(limits.block as usize)?;
        Ok(Self { remote: session.remotes()[0].clone(), size: limits.size, at: 0, block })
    }

    /// The part of the block at the position: where it starts, where in it, how much.
    fn part(&self, wanted: usize) -> (u64, usize, usize) {
        let block = self.block.len() as u64;
        let inside = self.at % block;
        let left = (block - inside).min(self.size.saturating_sub(self.at));
        let count = (wanted as u64).min(left);
        (self.at - inside, inside as usize, count as usize)
    }

    fn transfer(&mut self, operation: Operation, offset: u64) -> io::Result<()> {
        let len = self.block.len();
        // SAFETY: `call` returns only after the request was completed.
        let buffer = unsafe { Buffer::new(self.block.as_mut_ptr(), len) };
        let flags = Flags::default();
        let len = len as u64;
        self.remote.call(Request { tag: 0, operation, flags, offset, len, buffer })?;
        Ok(())
    }
}

impl Read for Cursor {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (start, inside, count) = self.part(out.len());
        if count > 0 {
            self.transfer(Operation::Read, start)?;
            out[..count].copy_from_slice(&self.block[inside..inside + count]);
            self.at += count as u64;
        }
        Ok(count)
    }
}

impl Write for Cursor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (start, inside, count) = self.part(bytes.len());
        if count > 0 {
            self.transfer(Operation::Read, start)?;
            self.block[inside..inside + count].copy_from_slice(&bytes[..count]);
            self.transfer(Operation::Write, start)?;
            self.at += count as u64;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let (operation, flags) = (Operation::Flush, Flags::default());
        let buffer = Buffer::NONE;
        self.remote.call(Request { tag: 0, operation, flags, offset: 0, len: 0, buffer })?;
        Ok(())
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
