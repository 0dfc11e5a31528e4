//! The requests of a queue, in memory of the driver's that is mapped here to be read.

use crate::abi::{IO_DESC_BYTES, IoDesc, MAX_DEPTH};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;

const PAGE: usize = 4096;

/// A mapping.
pub struct Descriptors {
    start: *mut c_void,
    bytes: usize,
    depth: u16,
}

// SAFETY: a mapping belongs to no thread; it is only read, and only through `&self`.
unsafe impl Send for Descriptors {}

impl Descriptors {
    /// Maps a queue's.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn map(file: &OwnedFd, queue: u16, depth: u16) -> io::Result<Self> {
        let bytes = (usize::from(depth) * IO_DESC_BYTES).next_multiple_of(PAGE);
        // Queues lie as far from each other as the longest would take.
        let stride = (usize::from(MAX_DEPTH) * IO_DESC_BYTES).next_multiple_of(PAGE);
        let offset = (stride * usize::from(queue)) as u64;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at a place the kernel chooses.
        let start =
            unsafe { mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, flags, file, offset)? };
        Ok(Self { start, bytes, depth })
    }

    /// Requests there is room for.
    #[must_use]
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// The request of a tag the driver has just handed over.
    #[must_use]
    pub fn get(&self, tag: u16) -> Option<IoDesc> {
        if tag >= self.depth {
            return None;
        }
        let at = usize::from(tag) * IO_DESC_BYTES;
        // SAFETY: inside of the mapping, by the check above; the driver wrote it before the
        // completion this thread has reaped, and leaves it alone until the answer.
        let bytes = unsafe {
            self.start.cast::<u8>().add(at).cast::<[u8; IO_DESC_BYTES]>().read_volatile()
        };
        Some(IoDesc::decode(&bytes))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nobody has a reference into it.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}
