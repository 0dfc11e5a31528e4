//! A request on its way through the engine: its memory, its parts, what comes after.

use crate::file::{File, failed};
use crate::protocol::abi::WriteOut;
use crate::protocol::reply::Reply;
use crate::ranges::Hold;
use crate::slow::{Rewrite, Seek, Zero};
use ploop_engine::arena::{Arena, Block};
use ploop_engine::{Buffer, Errno, Flags, Limits, Operation, Outcome, Request};
use std::ops::Range;

/// Bytes of extent records asked for at once.
pub(crate) const EXTENT_BYTES: usize = 4096;

/// How long a part for the engine may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cuts {
    /// Of a read or write; the parts' buffers stay aligned.
    pub(crate) transfer: u64,
    /// Of a zeroing.
    pub(crate) zero: u64,
    /// Alignment of a part's buffer.
    pub(crate) align: usize,
}

impl Cuts {
    pub(crate) fn of(limits: &Limits) -> Self {
        let block = u64::from(limits.block.max(1));
        let align = u64::from(limits.buffer_align).max(block);
        let cut = |longest: u64, unit: u64| (longest - longest % unit).max(unit);
        Self {
            transfer: cut(u64::from(limits.max_transfer), align),
            zero: cut(limits.max_zero, block),
            align: align as usize,
        }
    }
}

/// Something the engine is asked to do, handed in part by part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    operation: Operation,
    flags: Flags,
    at: u64,
    len: u64,
    handed: u64,
    /// Where in the first block the data begins.
    base: usize,
    /// Bytes of data in the first block; the rest is in the second.
    first: u64,
    done: bool,
}

impl Transfer {
    /// Nothing to do.
    pub(crate) const NONE: Self = Self {
        operation: Operation::Flush,
        flags: Flags { fua: false, preflush: false, no_unmap: false, fast_zero: false },
        at: 0,
        len: 0,
        handed: 0,
        base: 0,
        first: u64::MAX,
        done: true,
    };

    pub(crate) fn new(operation: Operation, flags: Flags, range: Range<u64>) -> Self {
        let len = range.end.saturating_sub(range.start);
        Self { operation, flags, at: range.start, len, done: false, ..Self::NONE }
    }

    /// The data lies in the first block from `base` on.
    pub(crate) fn from(self, base: usize) -> Self {
        Self { base, ..self }
    }

    /// Only so much of it lies in the first block.
    pub(crate) fn split(self, first: u64) -> Self {
        Self { first, ..self }
    }

    /// Whether everything was handed in.
    pub(crate) fn done(&self) -> bool {
        self.done
    }

    /// The next part.
    fn next(
        &mut self,
        tag: u64,
        cuts: &Cuts,
        arena: &Arena,
        blocks: &[Option<Block>; 2],
    ) -> Option<Request> {
        if self.done {
            return None;
        }
        let left = self.len - self.handed;
        let (block, from, here) = match self.handed.checked_sub(self.first) {
            None => (&blocks[0], self.base as u64 + self.handed, self.first - self.handed),
            Some(from) => (&blocks[1], from, u64::MAX),
        };
        let len = match self.operation {
            Operation::Read | Operation::Write => left.min(cuts.transfer).min(here),
            Operation::Discard | Operation::WriteZeroes => left.min(cuts.zero),
            Operation::Flush | Operation::Extents | Operation::Merge => left,
        };
        let buffer = match (self.operation, block) {
            (Operation::Read | Operation::Write, Some(block)) => {
                arena.buffer(block, from as usize, (from + len) as usize)
            }
            (Operation::Extents, Some(block)) => arena.buffer(block, 0, EXTENT_BYTES),
            _ => Buffer::NONE,
        };
        let (operation, flags, offset) = (self.operation, self.flags, self.at + self.handed);
        self.handed += len;
        self.done = self.handed >= self.len;
        Some(Request { tag, operation, flags, offset, len, buffer })
    }
}

/// What comes when the engine has done what it was asked.
pub(crate) enum Then {
    /// Answer with these bytes of the first block.
    Data(Range<usize>),
    /// Answer that so many bytes were written.
    Written(u32),
    /// Answer.
    Done,
    /// A write of partial blocks.
    Rewrite(Box<Rewrite>),
    /// A zeroing.
    Zero(Box<Zero>),
    /// A search.
    Seek(Seek),
}

/// What a job does next.
pub(crate) enum Step {
    /// There is more for the engine.
    More,
    /// This is the answer.
    Answer(Reply),
    /// These bytes of the first block are.
    Data(Range<usize>),
}

/// A request of the kernel that needs the engine.
pub(crate) struct Job {
    /// On which mount it came.
    pub(crate) mount: usize,
    /// The kernel's name for it.
    pub(crate) unique: u64,
    /// Bytes of memory it needs in the first block before it starts.
    pub(crate) need: usize,
    /// The range of the file it needs before it starts, and holds until it ends.
    pub(crate) range: Option<(Range<u64>, Hold)>,
    /// The range was asked for.
    pub(crate) asked: bool,
    /// Its memory, kept until every part has completed.
    pub(crate) blocks: [Option<Block>; 2],
    pub(crate) transfer: Transfer,
    pub(crate) then: Then,
    /// It stands in the line of those that hand in parts.
    pub(crate) queued: bool,
    /// Parts in the engine.
    open: u32,
    /// Bytes that the last part filled.
    pub(crate) filled: u32,
    error: Option<Errno>,
}

impl Job {
    pub(crate) fn new(mount: usize, unique: u64, transfer: Transfer, then: Then) -> Self {
        Self {
            mount,
            unique,
            need: 0,
            range: None,
            asked: false,
            blocks: [None, None],
            transfer,
            then,
            queued: false,
            open: 0,
            filled: 0,
            error: None,
        }
    }

    /// It needs so much memory before it starts.
    pub(crate) fn needs(self, need: usize) -> Self {
        Self { need, ..self }
    }

    /// It needs a range of the file before it starts.
    pub(crate) fn holding(self, range: Range<u64>, hold: Hold) -> Self {
        Self { range: Some((range, hold)), ..self }
    }

    /// Its memory is there.
    pub(crate) fn within(self, blocks: [Option<Block>; 2]) -> Self {
        Self { blocks, ..self }
    }

    /// The next part for the engine.
    pub(crate) fn next(&mut self, tag: u64, cuts: &Cuts, arena: &Arena) -> Option<Request> {
        let part = self.transfer.next(tag, cuts, arena, &self.blocks)?;
        self.open += 1;
        Some(part)
    }

    /// A part ended; `true` when all have, and none is still to be handed in.
    pub(crate) fn part_done(&mut self, outcome: Outcome) -> bool {
        self.open = self.open.saturating_sub(1);
        match outcome {
            Ok(filled) => self.filled = filled,
            Err(errno) => {
                self.error.get_or_insert(errno);
                self.transfer.done = true;
            }
        }
        self.idle()
    }

    /// Nothing of it is in the engine or on its way there.
    pub(crate) fn idle(&self) -> bool {
        self.open == 0 && self.transfer.done && !self.queued
    }

    /// Goes on when nothing of it is in the engine.
    pub(crate) fn step(&mut self, file: &File, cuts: &Cuts, arena: &mut Arena) -> Step {
        if let Some(error) = self.error {
            return match &self.then {
                // No answer from the engine: all of it may be data.
                Then::Seek(seek) if error == Errno::OPNOTSUPP => seek.guess(self.unique, file),
                _ => Step::Answer(failed(self.unique, error)),
            };
        }
        let then = std::mem::replace(&mut self.then, Then::Done);
        match then {
            Then::Data(range) => Step::Data(range),
            Then::Written(size) => {
                Step::Answer(Reply::with(self.unique, &WriteOut { size, padding: 0 }))
            }
            Then::Done => Step::Answer(Reply::empty(self.unique)),
            Then::Rewrite(rewrite) => rewrite.step(self, file, arena),
            Then::Zero(zero) => zero.step(self, file, cuts, arena),
            Then::Seek(seek) => seek.step(self, file, arena),
        }
    }

    /// Gives its memory back.
    pub(crate) fn free(&mut self, arena: &mut Arena) {
        for block in self.blocks.iter_mut().filter_map(Option::take) {
            arena.free(block);
        }
        if let Then::Rewrite(rewrite) = &mut self.then {
            rewrite.free(arena);
        }
    }
}

/// Requests on their way; the place of one is its tag.
pub(crate) struct Table {
    places: Vec<Option<Job>>,
    free: Vec<u32>,
}

impl Table {
    /// With room for so many before it has to grow.
    pub(crate) fn new(room: usize) -> Self {
        Self { places: Vec::with_capacity(room), free: Vec::with_capacity(room) }
    }

    pub(crate) fn insert(&mut self, job: Job) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            (self.places.len() - 1) as u32
        });
        self.places[slot as usize] = Some(job);
        slot
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Job> {
        self.places.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Job> {
        let job = self.places.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(job)
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUTS: Cuts = Cuts { transfer: 8192, zero: 1024, align: 4096 };

    fn parts(mut job: Job, arena: &Arena) -> Vec<(u64, u64, usize)> {
        let mut out = Vec::new();
        while let Some(part) = job.next(3, &CUTS, arena) {
            assert!(part.buffer.is_empty() || part.buffer.len() as u64 == part.len);
            out.push((part.offset, part.len, part.buffer.ptr().addr() % 4096));
        }
        for n in 1..out.len() {
            assert!(!job.part_done(Ok(0)), "part {n}");
        }
        assert!(job.part_done(Ok(0)));
        out
    }

    #[test]
    fn data_in_two_blocks_is_handed_in_without_a_copy() {
        let mut arena = Arena::new(1 << 20, 4096).unwrap();
        let flags = Flags::default();
        let transfer = Transfer::new(Operation::Write, flags, 512..512 + 20_480).split(4096);
        let mut job = Job::new(0, 1, transfer, Then::Written(20_480));
        job.blocks = [arena.alloc(4096), arena.alloc(16_384)];
        let cut = parts(job, &arena);
        assert_eq!(cut, [(512, 4096, 0), (4608, 8192, 0), (12_800, 8192, 0)]);
    }

    #[test]
    fn a_flush_and_a_search_are_one_part() {
        let mut arena = Arena::new(1 << 20, 4096).unwrap();
        let flush = Transfer::new(Operation::Flush, Flags::default(), 0..0);
        assert_eq!(parts(Job::new(0, 1, flush, Then::Done), &arena).len(), 1);
        let search = Transfer::new(Operation::Extents, Flags::default(), 0..1 << 40);
        let mut job = Job::new(0, 1, search, Then::Done);
        job.blocks[0] = arena.alloc(EXTENT_BYTES);
        let part = job.next(3, &CUTS, &arena).unwrap();
        assert_eq!((part.len, part.buffer.len()), (1 << 40, EXTENT_BYTES));
        assert!(job.next(3, &CUTS, &arena).is_none());
    }

    #[test]
    fn an_error_stops_the_parts_that_follow() {
        let arena = Arena::new(1 << 20, 4096).unwrap();
        let zero = Transfer::new(Operation::WriteZeroes, Flags::default(), 0..4096);
        let mut job = Job::new(0, 1, zero, Then::Done);
        assert!(job.next(3, &CUTS, &arena).is_some());
        assert!(job.part_done(Err(Errno::IO)));
        assert!(job.next(3, &CUTS, &arena).is_none());
    }

    #[test]
    fn places_are_used_again() {
        let mut table = Table::new(1);
        let job = || Job::new(0, 1, Transfer::NONE, Then::Done);
        let (a, b) = (table.insert(job()), table.insert(job()));
        assert!(table.remove(a).is_some() && table.remove(a).is_none());
        assert_eq!((table.insert(job()), table.len()), (a, 2));
        assert!(table.get_mut(b).is_some() && table.get_mut(99).is_none());
    }
}
