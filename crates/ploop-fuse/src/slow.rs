//! What takes several turns: partial blocks, zeroing, searches.

use crate::file::{File, found};
use crate::job::{Cuts, Job, Step, Then, Transfer};
use crate::protocol::reply::Reply;
use ploop_engine::arena::{Arena, Block};
use ploop_engine::{Errno, ExtentRecord, Flags, Operation};
use std::ops::Range;

/// A write of partial blocks: their old content is read around the payload, then whole blocks are
/// written. The job's first block gets them; behind them there is room for the last old one.
pub(crate) struct Rewrite {
    /// As it came, in one or two blocks, of which the first has `first` bytes.
    pub(crate) payload: [Option<Block>; 2],
    pub(crate) first: usize,
    pub(crate) range: Range<u64>,
    pub(crate) flags: Flags,
    /// The first, the last block is still to be read.
    head: bool,
    tail: bool,
    /// Where in the memory the last old block is put.
    tail_at: usize,
}

impl Rewrite {
    pub(crate) fn new(file: &File, cuts: &Cuts, range: Range<u64>, flags: Flags) -> Self {
        let blocks = file.blocks(&range);
        let head = range.start > blocks.start;
        let one = blocks.end - blocks.start == file.block();
        let tail = range.end < blocks.end && !(one && head);
        let tail_at = ((blocks.end - blocks.start) as usize).next_multiple_of(cuts.align);
        Self { payload: [None, None], first: 0, range, flags, head, tail, tail_at }
    }

    /// Bytes of memory for the blocks and the last old one.
    pub(crate) fn need(&self, file: &File) -> usize {
        self.tail_at + file.block() as usize
    }

    pub(crate) fn step(mut self: Box<Self>, job: &mut Job, file: &File, arena: &mut Arena) -> Step {
        let blocks = file.blocks(&self.range);
        let read = |at, base| {
            let range = at..at + file.block();
            Transfer::new(Operation::Read, Flags::default(), range).from(base)
        };
        if std::mem::take(&mut self.head) {
            job.transfer = read(blocks.start, 0);
            job.then = Then::Rewrite(self);
        } else if std::mem::take(&mut self.tail) {
            job.transfer = read(blocks.end - file.block(), self.tail_at);
            job.then = Then::Rewrite(self);
        } else {
            let Some(target) = job.blocks[0].take() else {
                self.free(arena);
                return broken(job);
            };
            self.merge(&blocks, file.block(), &target, arena);
            self.free(arena);
            job.blocks[0] = Some(target);
            job.transfer = Transfer::new(Operation::Write, self.flags, blocks);
            job.then = Then::Written((self.range.end - self.range.start) as u32);
        }
        Step::More
    }

    /// Puts the payload, and what is behind it in the last block, in its place.
    fn merge(&self, blocks: &Range<u64>, block: u64, target: &Block, arena: &mut Arena) {
        let len = (blocks.end - blocks.start) as usize;
        let start = (self.range.start - blocks.start) as usize;
        let end = (self.range.end - blocks.start) as usize;
        // The last old block is where it belongs if it was the only one to be read.
        let one = len as u64 == block;
        if end < len && !(one && start > 0) {
            let skip = end - (len - block as usize);
            let all = arena.bytes_mut(target, 0, usize::MAX);
            all.copy_within(self.tail_at + skip..self.tail_at + block as usize, end);
        }
        let mut at = start;
        for (n, part) in self.payload.iter().enumerate() {
            let Some(part) = part else { continue };
            let here = if n == 0 { self.first.min(end - at) } else { end - at };
            let (from, to) = arena.pair_mut(part, target);
            to[at..at + here].copy_from_slice(&from[..here]);
            at += here;
        }
    }

    pub(crate) fn free(&mut self, arena: &mut Arena) {
        for block in self.payload.iter_mut().filter_map(Option::take) {
            arena.free(block);
        }
    }
}

/// A range being zeroed: partial blocks first, by writing, then whole ones (F24).
pub(crate) struct Zero {
    edges: [Option<Range<u64>>; 2],
    whole: Range<u64>,
    flags: Flags,
    /// The partial block that was read.
    filling: Option<Range<u64>>,
    /// The answer has the file's attributes.
    emptied: bool,
}

impl Zero {
    pub(crate) fn new(file: &File, range: Range<u64>, flags: Flags) -> Self {
        let block = file.block();
        let whole = range.start.div_ceil(block) * block..range.end / block * block;
        let some = |edge: Range<u64>| (!edge.is_empty()).then_some(edge);
        let edges = if whole.start > whole.end {
            [some(range), None]
        } else {
            [some(range.start..whole.start), some(whole.end..range.end)]
        };
        Self { edges, whole, flags, filling: None, emptied: false }
    }

    /// The whole file, by a truncation.
    pub(crate) fn emptied(file: &File, range: Range<u64>) -> Self {
        Self { emptied: true, ..Self::new(file, range, Flags::default()) }
    }

    /// Whether there is a partial block.
    pub(crate) fn has_edges(&self) -> bool {
        self.edges.iter().any(Option::is_some)
    }

    pub(crate) fn step(
        mut self: Box<Self>,
        job: &mut Job,
        file: &File,
        cuts: &Cuts,
        arena: &mut Arena,
    ) -> Step {
        if let Some(edge) = self.filling.take() {
            let blocks = file.blocks(&edge);
            let Some(target) = &job.blocks[0] else { return broken(job) };
            let from = (edge.start - blocks.start) as usize;
            arena.bytes_mut(target, from, (edge.end - blocks.start) as usize).fill(0);
            job.transfer = Transfer::new(Operation::Write, self.flags, blocks);
        } else if let Some(edge) = self.edges.iter_mut().find_map(Option::take) {
            let blocks = file.blocks(&edge);
            job.transfer = Transfer::new(Operation::Read, Flags::default(), blocks);
            self.filling = Some(edge);
        } else if self.whole.start < self.whole.end {
            let len = cuts.zero.min(self.whole.end - self.whole.start);
            let part = self.whole.start..self.whole.start + len;
            job.transfer = Transfer::new(Operation::WriteZeroes, self.flags, part);
            self.whole.start += len;
        } else {
            let done =
                if self.emptied { file.attributes(job.unique) } else { Reply::empty(job.unique) };
            return Step::Answer(done);
        }
        job.then = Then::Zero(self);
        Step::More
    }
}

/// The search for the first data, or hole, at or after a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seek {
    pub(crate) at: u64,
    pub(crate) hole: bool,
    /// The engine was asked.
    pub(crate) asked: bool,
}

impl Seek {
    pub(crate) fn step(mut self, job: &mut Job, file: &File, arena: &Arena) -> Step {
        let start = self.at / file.block() * file.block();
        let size = file.size();
        if std::mem::replace(&mut self.asked, true) {
            let Some(block) = &job.blocks[0] else { return broken(job) };
            let mut end = start;
            for record in ExtentRecord::parse(arena.bytes(block, 0, job.filled as usize)) {
                let from = end.max(self.at);
                end = end.saturating_add(record.len).min(size);
                if end > from && (record.level == ExtentRecord::HOLE) == self.hole {
                    return Step::Answer(found(job.unique, from));
                }
            }
            if end <= start {
                return broken(job);
            }
            self.at = end.max(self.at);
        }
        if self.at >= size {
            // The end counts as a hole.
            let none = Reply::error(job.unique, Errno::NXIO);
            return Step::Answer(if self.hole { found(job.unique, size) } else { none });
        }
        let start = self.at / file.block() * file.block();
        job.transfer = Transfer::new(Operation::Extents, Flags::default(), start..size);
        job.then = Then::Seek(self);
        Step::More
    }

    /// The answer when nobody knows: all is data.
    pub(crate) fn guess(&self, unique: u64, file: &File) -> Step {
        Step::Answer(found(unique, if self.hole { file.size() } else { self.at }))
    }
}

fn broken(job: &Job) -> Step {
    Step::Answer(Reply::error(job.unique, Errno::IO))
}
