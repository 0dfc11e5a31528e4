//! The in-flight record of vhost-user: a page the monitor keeps, so that a server that comes after
//! a dead one knows which heads were taken and not answered. Split rings, one head at a time:
//!
//! | step | in the record |
//! |---|---|
//! | a head is taken | its place in the order, then its mark |
//! | it is answered | it is named as the last one; then the used ring moves; then its mark goes |
//! | a crash between the last two | the used ring is ahead of the record: the named head is done |

use crate::config::{RING_SIZE, RINGS};
use crate::error::{Error, Result};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};
use vhost::vhost_user::message::VhostUserInflight;

/// Bytes before the heads of a ring: features, version, heads, last head, used index.
const HEAD: usize = 16;
const VERSION: usize = 8;
const COUNT: usize = 10;
const LAST: usize = 12;
const USED: usize = 14;
/// Bytes of one head: mark, five unused, next, order.
const ENTRY: usize = 16;
const ORDER: usize = 8;
/// Rings begin at multiples of this.
const ALIGN: usize = 64;

fn ring_bytes(size: u16) -> usize {
    (HEAD + ENTRY * usize::from(size)).next_multiple_of(ALIGN)
}

/// The mapping.
struct Map {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: it is only shared memory, read and written through atomics.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: our mapping; every view of it keeps the `Arc`.
        let done = unsafe { munmap(self.start.as_ptr(), self.len) };
        debug_assert!(done.is_ok());
    }
}

/// The record of all rings.
#[derive(Clone)]
pub(crate) struct Inflight {
    map: Arc<Map>,
    /// Where it begins in the mapping.
    offset: usize,
    rings: u16,
    size: u16,
}

fn context(what: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |errno| Error::Io { what, source: errno.into() }
}

impl Inflight {
    /// A new one, with the file that the monitor keeps.
    pub fn create(rings: u16, size: u16) -> Result<(VhostUserInflight, File)> {
        let (rings, size) = (rings.clamp(1, RINGS), size.clamp(1, RING_SIZE));
        let what = context("a page for requests in flight");
        let len = ring_bytes(size) * usize::from(rings);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("ploop-inflight", flags).map_err(&what)?;
        ftruncate(&fd, len as u64).map_err(&what)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&fd, seals).map_err(&what)?;
        Ok((VhostUserInflight::new(len as u64, 0, rings, size), fd.into()))
    }

    /// The one a monitor gives back.
    pub fn open(said: &VhostUserInflight, file: File) -> Result<Self> {
        let what = context("the page of requests in flight");
        let short = || what(rustix::io::Errno::INVAL);
        let needed = ring_bytes(said.queue_size) * usize::from(said.num_queues);
        let end = said.mmap_offset.checked_add(said.mmap_size).ok_or_else(short)?;
        let there = fstat(&file).map_err(&what)?.st_size;
        let fits = said.mmap_size >= needed as u64 && end <= there as u64;
        if !fits || said.num_queues > RINGS || said.queue_size > RING_SIZE {
            return Err(short());
        }
        let (len, prot) = (end as usize, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at a place the kernel chooses, of a file that is that long.
        let start = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &file, 0) };
        let start = NonNull::new(start.map_err(&what)?).ok_or_else(short)?;
        let map = Arc::new(Map { start, len });
        let offset = said.mmap_offset as usize;
        Ok(Self { map, offset, rings: said.num_queues, size: said.queue_size })
    }

    /// The part of a ring.
    pub fn ring(&self, index: u16) -> Option<Record> {
        let at = self.offset + ring_bytes(self.size) * usize::from(index);
        let there = index < self.rings && at.is_multiple_of(8);
        there.then(|| Record { map: Arc::clone(&self.map), at, size: self.size, order: 0 })
    }
}

/// The record of one ring.
pub(crate) struct Record {
    map: Arc<Map>,
    at: usize,
    size: u16,
    order: u64,
}

impl Record {
    /// A field of the ring.
    fn place<T>(&self, at: usize) -> &T {
        debug_assert!(self.at + at + size_of::<T>() <= self.map.len);
        // SAFETY: `open` made the mapping long enough for every head of every ring, heads are
        // checked against `size`, and fields are aligned in it; only atomics are asked for.
        unsafe { self.map.start.cast::<u8>().add(self.at + at).cast::<T>().as_ref() }
    }

    fn half(&self, at: usize) -> &AtomicU16 {
        self.place(at)
    }

    fn mark(&self, head: u16) -> &AtomicU8 {
        self.place(HEAD + ENTRY * usize::from(head))
    }

    fn order_of(&self, head: u16) -> &AtomicU64 {
        self.place(HEAD + ENTRY * usize::from(head) + ORDER)
    }

    /// Whether a ring of this size fits.
    pub fn holds(&self, size: u16) -> bool {
        size <= self.size
    }

    /// Goes on where another server ended, with the used index of the ring: heads to be done again,
    /// in their order.
    pub fn begin(&mut self, used: u16) -> Vec<u16> {
        if self.half(VERSION).load(Ordering::Acquire) == 0 {
            self.half(COUNT).store(self.size, Ordering::Relaxed);
            self.half(USED).store(used, Ordering::Relaxed);
            self.half(VERSION).store(1, Ordering::Release);
        } else if self.half(USED).load(Ordering::Acquire) != used {
            let last = self.half(LAST).load(Ordering::Relaxed);
            if last < self.size {
                self.mark(last).store(0, Ordering::Relaxed);
            }
            self.half(USED).store(used, Ordering::Release);
        }
        let marked = |head: &u16| self.mark(*head).load(Ordering::Relaxed) == 1;
        let mut heads: Vec<u16> = (0..self.size).filter(marked).collect();
        heads.sort_by_key(|head| self.order_of(*head).load(Ordering::Relaxed));
        let last = heads.last().map(|head| self.order_of(*head).load(Ordering::Relaxed));
        self.order = last.map_or(0, |last| last.wrapping_add(1));
        heads
    }

    /// A head was taken.
    pub fn taken(&mut self, head: u16) {
        if head < self.size {
            self.order_of(head).store(self.order, Ordering::Relaxed);
            self.order = self.order.wrapping_add(1);
            self.mark(head).store(1, Ordering::Release);
        }
    }

    /// A head is about to be answered.
    pub fn answering(&mut self, head: u16) {
        self.half(LAST).store(head, Ordering::Release);
    }

    /// It is on the used ring, whose index is this now.
    pub fn answered(&mut self, head: u16, used: u16) {
        if head < self.size {
            self.mark(head).store(0, Ordering::Release);
        }
        self.half(USED).store(used, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(said: &VhostUserInflight, file: &File, ring: u16) -> Record {
        Inflight::open(said, file.try_clone().unwrap()).unwrap().ring(ring).unwrap()
    }

    #[test]
    fn a_server_goes_on_with_what_another_had_taken() {
        let (said, file) = Inflight::create(2, 8).unwrap();
        let mut first = record(&said, &file, 1);
        assert!(first.begin(7).is_empty());
        for head in [5, 2, 3] {
            first.taken(head);
        }
        first.answering(2);
        first.answered(2, 8);
        // Dead with the used ring ahead of the record: that head was answered.
        first.answering(5);
        let mut second = record(&said, &file, 1);
        assert_eq!(second.begin(9), [3]);
        second.taken(0);
        let mut third = record(&said, &file, 1);
        assert_eq!(third.begin(9), [3, 0], "in their order");
        assert!(record(&said, &file, 0).begin(0).is_empty(), "another ring");
    }

    #[test]
    fn what_a_monitor_says_is_checked() {
        let (mut said, file) = Inflight::create(1, 8).unwrap();
        said.num_queues = 3;
        assert!(Inflight::open(&said, file.try_clone().unwrap()).is_err());
        said.num_queues = 1;
        said.mmap_size = u64::MAX;
        assert!(Inflight::open(&said, file.try_clone().unwrap()).is_err());
        said.mmap_size = 1 << 20;
        assert!(Inflight::open(&said, file.try_clone().unwrap()).is_err());
        let (said, file) = Inflight::create(1, 8).unwrap();
        let mut hostile = record(&said, &file, 0);
        hostile.begin(0);
        hostile.half(LAST).store(9999, Ordering::Relaxed);
        assert!(record(&said, &file, 0).begin(4).is_empty());
        assert!(Inflight::open(&said, file).unwrap().ring(1).is_none());
    }
}
