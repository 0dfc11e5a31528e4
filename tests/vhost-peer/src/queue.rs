//! The driver of one ring.
//!
//! A slot is a request that may be under way: header, range, status and data of its own. Three
//! descriptors each: header (and range), data, status.

use crate::peer::{Memory, Options};
use crate::{DISCARD, FLUSH, GET_ID, IN, OUT, WRITE_ZEROES};
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const TABLE: u16 = 4;
/// Descriptors of a slot.
const EACH: u16 = 4;
/// Bytes of a slot before its data: header, range, status, a table of descriptors.
const FRONT: usize = 4096;

/// Where things are in a ring's part of the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub options: Options,
    /// Descriptors.
    pub size: u16,
    avail: usize,
    used: usize,
    slots: usize,
    slot: usize,
    /// Bytes of all of it.
    pub ring: usize,
}

impl Layout {
    pub fn of(options: &Options) -> Self {
        let size = (options.depth * EACH).next_power_of_two();
        let avail = 16 * usize::from(size);
        let used = (avail + 6 + 2 * usize::from(size)).next_multiple_of(4096);
        let slots = (used + 6 + 8 * usize::from(size)).next_multiple_of(4096);
        let slot = FRONT + options.bytes.next_multiple_of(4096);
        let ring = slots + slot * usize::from(options.depth);
        Self { options: *options, size, avail, used, slots, slot, ring }
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// [`IN`], [`OUT`], ...
    pub kind: u32,
    /// First sector.
    pub sector: u64,
    /// Bytes of data, or of the range.
    pub bytes: u32,
    /// Of a range.
    pub flags: u32,
    /// The data is in so many pieces, with holes between them.
    pub pieces: u16,
    /// It begins so many bytes behind a page.
    pub shift: u16,
}

impl Wish {
    /// Of one piece.
    #[must_use]
    pub fn new(kind: u32, sector: u64, bytes: u32) -> Self {
        Self { kind, sector, bytes, flags: 0, pieces: 1, shift: 0 }
    }
}

/// A request that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Its slot.
    pub slot: u16,
    /// The device's answer.
    pub status: u8,
    /// Bytes the device says it wrote.
    pub written: u32,
}

/// One ring.
pub struct Queue {
    memory: Arc<Memory>,
    at: usize,
    layout: Layout,
    /// The device is told here.
    pub kick: EventFd,
    /// It tells here.
    pub call: EventFd,
    avail: u16,
    seen: u16,
    /// The index of the last kick.
    told: u16,
    /// System calls: kicks, and waits for the device.
    pub kicks: u64,
    /// See `kicks`.
    pub waits: u64,
}

impl Queue {
    pub(crate) fn new(memory: Arc<Memory>, at: usize, layout: Layout) -> Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK);
        let (kick, call) = (event()?, event()?);
        let (avail, seen, told) = (0, 0, 0);
        Ok(Self { memory, at, layout, kick, call, avail, seen, told, kicks: 0, waits: 0 })
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn addresses(&self) -> [u64; 3] {
        let at = |offset| self.ptr(offset) as u64;
        [at(0), at(self.layout.avail), at(self.layout.used)]
    }

    fn ptr(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.layout.ring);
        // SAFETY: inside the mapping: rings lie behind each other.
        unsafe { self.memory.start.add(self.at + offset) }
    }

    fn half(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: inside the mapping, aligned, and only used through atomics on this side.
        unsafe { &*self.ptr(offset).cast::<AtomicU16>() }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { &*self.ptr(offset).cast::<AtomicU64>() }
    }

    /// Heads that the device has answered so far.
    #[must_use]
    pub fn used(&self) -> u16 {
        self.half(self.layout.used + 2).load(Ordering::Acquire)
    }

    fn slot(&self, slot: u16) -> usize {
        self.layout.slots + self.layout.slot * usize::from(slot)
    }

    /// The data of a slot that is not under way.
    pub fn data(&mut self, slot: u16) -> &mut [u8] {
        let start = self.ptr(self.slot(slot) + FRONT);
        // SAFETY: the slot's own memory; `&mut self`, and nothing of it is under way.
        unsafe { std::slice::from_raw_parts_mut(start, self.layout.slot - FRONT) }
    }

    /// Where a wish's pieces are in its slot's data.
    #[must_use]
    pub fn places(&self, wish: &Wish) -> Vec<std::ops::Range<usize>> {
        let count = usize::from(wish.pieces.max(1));
        let each = wish.bytes as usize / count;
        let gap = if count > 1 { 4096 } else { 0 };
        let begin = |n: usize| usize::from(wish.shift) + n * (each + gap);
        (0..count).map(|n| begin(n)..begin(n) + each).collect()
    }

    /// Puts a request on the ring; [`Queue::kick`] tells the device.
    pub fn submit(&mut self, slot: u16, wish: &Wish) {
        let front = self.slot(slot);
        let guest = |offset: usize| (self.at + offset) as u64;
        self.word(front).store(u64::from(wish.kind), Ordering::Relaxed);
        self.word(front + 8).store(wish.sector, Ordering::Relaxed);
        let mut chain: Vec<(u64, u32, u16)> = vec![(guest(front), 16, 0)];
        match wish.kind {
            IN | GET_ID | OUT => {
                let flag = if wish.kind == OUT { 0 } else { WRITE };
                for place in self.places(wish) {
                    let at = guest(front + FRONT + place.start);
                    chain.push((at, place.len() as u32, flag));
                }
            }
            DISCARD | WRITE_ZEROES => {
                self.word(front + 16).store(wish.sector, Ordering::Relaxed);
                let sectors = u64::from(wish.bytes / 512);
                let words = sectors | u64::from(wish.flags) << 32;
                self.word(front + 24).store(words, Ordering::Relaxed);
                chain.push((guest(front + 16), 16, 0));
            }
            FLUSH => {}
            _ => {}
        }
        self.word(front + 32).store(0xff, Ordering::Relaxed);
        chain.push((guest(front + 32), 1, WRITE));
        let head = slot * EACH;
        if self.layout.options.indirect || chain.len() > usize::from(EACH) {
            let table = front + 64;
            self.put(table, 0, &chain);
            let bytes = 16 * chain.len() as u32;
            self.put(0, head, &[(guest(table), bytes, TABLE)]);
        } else {
            self.put(0, head, &chain);
        }
        let at = self.layout.avail + 4 + 2 * usize::from(self.avail % self.layout.size);
        self.half(at).store(head, Ordering::Relaxed);
        self.avail = self.avail.wrapping_add(1);
        self.half(self.layout.avail + 2).store(self.avail, Ordering::Release);
    }

    fn put(&self, table: usize, first: u16, chain: &[(u64, u32, u16)]) {
        for (n, (at, len, flags)) in chain.iter().enumerate() {
            let here = first + n as u16;
            let last = n + 1 == chain.len();
            let flags = flags | if last { 0 } else { NEXT };
            let next = if last { 0 } else { here + 1 };
            let entry = table + 16 * usize::from(here);
            self.word(entry).store(*at, Ordering::Relaxed);
            let words = u64::from(*len) | u64::from(flags) << 32 | u64::from(next) << 48;
            self.word(entry + 8).store(words, Ordering::Relaxed);
        }
    }

    /// What a broken driver may do: anything anywhere in the ring, from words the caller makes up.
    pub fn scribble(&mut self, mut word: impl FnMut() -> u64) {
        for n in 0..2 * usize::from(self.layout.size) {
            self.word(8 * n).store(word(), Ordering::Relaxed);
        }
        for n in 0..usize::from(self.layout.size) {
            self.half(self.layout.avail + 4 + 2 * n).store(word() as u16, Ordering::Relaxed);
        }
        self.avail = self.avail.wrapping_add(word() as u16 % self.layout.size);
        self.half(self.layout.avail + 2).store(self.avail, Ordering::Release);
    }

    /// Points a slot's head at a chain of the caller's: guest address, length, flags, next.
    pub fn submit_raw(&mut self, slot: u16, chain: &[(u64, u32, u16, u16)]) {
        let head = slot * EACH;
        for (n, (at, len, flags, next)) in chain.iter().enumerate() {
            let entry = 16 * (usize::from(head) + n);
            self.word(entry).store(*at, Ordering::Relaxed);
            let words = u64::from(*len) | u64::from(*flags) << 32 | u64::from(*next) << 48;
            self.word(entry + 8).store(words, Ordering::Relaxed);
        }
        let at = self.layout.avail + 4 + 2 * usize::from(self.avail % self.layout.size);
        self.half(at).store(head, Ordering::Relaxed);
        self.avail = self.avail.wrapping_add(1);
        self.half(self.layout.avail + 2).store(self.avail, Ordering::Release);
    }

    /// Tells the device of what was submitted, if it wants to hear.
    ///
    /// # Errors
    /// Of the system.
    pub fn kick(&mut self) -> Result<()> {
        fence(Ordering::SeqCst);
        let wanted = match self.layout.options.event_idx {
            true => {
                let at = self.layout.used + 4 + 8 * usize::from(self.layout.size);
                let event = self.half(at).load(Ordering::Acquire);
                let (new, old) = (self.avail, self.told);
                new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
            }
            false => self.half(self.layout.used).load(Ordering::Acquire) & 1 == 0,
        };
        if wanted && self.avail != self.told {
            self.kicks += 1;
            self.kick.write(1)?;
        }
        self.told = self.avail;
        Ok(())
    }

    /// The next answer, if there is one.
    pub fn reap(&mut self) -> Option<Done> {
        if self.seen == self.used() {
            return None;
        }
        let at = self.layout.used + 4 + 8 * usize::from(self.seen % self.layout.size);
        // Aligned to four only: two words, read as they are.
        // SAFETY: inside the mapping.
        let entry = unsafe { self.ptr(at).cast::<[u32; 2]>().read_volatile() };
        self.seen = self.seen.wrapping_add(1);
        let slot = entry[0] as u16 / EACH;
        let status = self.word(self.slot(slot) + 32).load(Ordering::Acquire) as u8;
        Some(Done { slot, status, written: entry[1] })
    }

    /// Waits until there is an answer, or until the time is over.
    ///
    /// # Errors
    /// Of the system.
    pub fn wait(&mut self, timeout: std::time::Duration) -> Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use std::os::fd::{AsRawFd, BorrowedFd};
        let end = std::time::Instant::now() + timeout;
        loop {
            // Wake us for the next one.
            self.half(self.layout.avail + 4 + 2 * usize::from(self.layout.size))
                .store(self.seen, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.seen != self.used() {
                return Ok(true);
            }
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.waits += 1;
            let time = Timespec::try_from(left)?;
            // SAFETY: the descriptor lives as long as `self`.
            let fd = unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) };
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time))?;
            // It may be of an answer that was seen already.
            let _ = self.call.read();
        }
    }

    /// Does one request and waits for its answer.
    ///
    /// # Errors
    /// There is none within ten seconds.
    pub fn one(&mut self, slot: u16, wish: &Wish) -> Result<Done> {
        self.submit(slot, wish);
        self.kick()?;
        for _ in 0..100 {
            if let Some(done) = self.reap() {
                return Ok(done);
            }
            self.wait(std::time::Duration::from_millis(100))?;
        }
        anyhow::bail!("{wish:?} is not answered")
    }
}
