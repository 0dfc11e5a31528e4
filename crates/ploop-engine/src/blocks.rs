//! What both ways of rewriting parts of blocks share (F19): a queue that is the only one does it by
//! itself (`queue/rewrite.rs`), else the keeper does (`keeper/patch.rs`). Here is what is read and
//! written, and in which steps; who may do it when is decided there.

use crate::align::Align;
use crate::chain::Level;
use crate::device::Shared;
use crate::front::{Buffer, Errno};
use crate::limits::{PATCH_LARGE, PATCH_SMALL, PATCHES_LARGE, PATCHES_SMALL};
use crate::spec::LevelKind;
use ploop_format::{GuestCluster, Sector};
use ploop_io::planted::{Bug, on};
use ploop_io::{AlignedBuf, FileId, OpKind};
use std::ops::Range;

/// What the guest has over the old bytes of a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Over {
    /// Zeros, or nothing.
    Zeros,
    /// These bytes; valid until the request is answered.
    Bytes(Buffer),
    /// All of it, written by the queue.
    ByQueue,
}

/// Puts the guest's bytes, from byte `skip` of them on, in their place. `false`: the driver that
/// has them does not give them.
#[must_use]
pub(crate) fn lay_over(over: Over, skip: u64, place: &mut [u8]) -> bool {
    match over {
        Over::Zeros => place.fill(0),
        Over::ByQueue => {}
        Over::Bytes(data) => {
            let part = data.part(skip, place.len() as u64);
            if let Some(lent) = part.at_driver() {
                return lent.read(0, place).is_ok();
            }
            // SAFETY: the front end's memory, which is readable for a write until its request is
            // answered, and that happens after this; a piece lies inside of it. Our own buffer is
            // nobody else's. A guest that changes its memory meanwhile gets either content.
            unsafe { std::ptr::copy_nonoverlapping(part.ptr(), place.as_mut_ptr(), place.len()) };
        }
    }
    true
}

/// The whole blocks of `unit` bytes that a range lies in.
pub(crate) fn whole_blocks(range: &Range<u64>, unit: u64) -> Range<u64> {
    range.start / unit * unit..range.end.next_multiple_of(unit)
}

/// They have bytes in common.
pub(crate) fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What rewriting a cluster must know of the end of its file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Where a plain file ended when it was opened: zeros lie behind it (F18).
    pub was: u64,
    /// And where it ends after a write of its last block.
    pub keep: u64,
}

impl End {
    /// For a cluster that lies there.
    pub fn of(shared: &Shared, cluster: GuestCluster, level: &Level, at: Sector) -> Self {
        if level.kind != LevelKind::Raw {
            return Self { was: u64::MAX, keep: u64::MAX };
        }
        let size = shared.chain.cluster;
        let left = shared.limits.size - size.guest_start(shared.pieces.guest(cluster));
        let shown = at.bytes() + left.min(size.bytes());
        Self { was: level.len, keep: level.len.max(shown) }
    }
}

/// What is being done with the blocks in the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Reading the last of `reads`.
    Read,
    Write,
    /// Cutting what a plain file got behind its end.
    Trim,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// [`Blocks::operation`] is to be submitted.
    Submit,
    /// The old bytes are in the buffer: [`Blocks::lay`] the guests' bytes over them, then
    /// [`Blocks::write`].
    Lay,
    /// These are written: [`Blocks::begin_chunk`].
    Chunk,
    /// All of them are written.
    Done,
    /// An operation has failed.
    Failed(Errno),
}

/// Whole blocks of a cluster that are read, changed and written again, as many at a time as the
/// buffer holds. Positions count from the start of the cluster.
pub(crate) struct Blocks {
    pub file: FileId,
    /// Where the cluster begins in it.
    at: u64,
    end: End,
    /// All of them, and those that are in the buffer now.
    pub span: Range<u64>,
    chunk: Range<u64>,
    /// The alignment they were cut for.
    unit: u64,
    /// Those of the chunk that are still to be read, last first.
    reads: Vec<Range<u64>>,
    pub step: Step,
    /// Bytes of the step that are done.
    done: u64,
    buffer: AlignedBuf,
    /// Written with `RWF_DSYNC`.
    pub dsync: bool,
}

impl Blocks {
    /// Of a cluster that begins at byte `at` of its file; `None` when there is no memory for them.
    pub fn new(
        memory: &mut Memory,
        (file, at, end): (FileId, u64, End),
        span: Range<u64>,
        unit: u64,
        dsync: bool,
    ) -> Option<Self> {
        let buffer = memory.take(span.end - span.start)?;
        let reads = memory.reads.pop().unwrap_or_default();
        let (chunk, step, done) = (span.start..span.start, Step::Write, 0);
        Some(Self { file, at, end, span, chunk, unit, reads, step, done, buffer, dsync })
    }

    /// Their bytes in the file.
    pub fn bytes(&self) -> Range<u64> {
        self.at + self.span.start..self.at + self.span.end
    }

    /// All of them are in the buffer, and none is written yet.
    pub fn is_reading_all(&self) -> bool {
        self.chunk == self.span && (self.step == Step::Read || on(Bug::RewriteJoinsLate))
    }

    /// Goes on with the next ones that the buffer holds. `guests` bring new bytes, ordered by where
    /// they begin.
    pub fn begin_chunk(&mut self, guests: impl Iterator<Item = Range<u64>>) -> Next {
        let start = self.chunk.end;
        if start >= self.span.end {
            return Next::Done;
        }
        self.chunk = start..self.span.end.min(start + self.buffer.len() as u64);
        gaps(&mut self.reads, guests, &self.chunk, self.unit);
        self.done = 0;
        if self.reads.is_empty() {
            return Next::Lay;
        }
        self.step = Step::Read;
        Next::Submit
    }

    /// Lays a guest's bytes over the old ones. `false`: the driver that has them refuses.
    #[must_use]
    pub fn lay(&mut self, guest: &Range<u64>, over: Over) -> bool {
        let from = guest.start.max(self.chunk.start);
        let to = guest.end.min(self.chunk.end);
        if from >= to {
            return true;
        }
        let place = (from - self.chunk.start) as usize..(to - self.chunk.start) as usize;
        lay_over(over, from - guest.start, &mut self.buffer[place])
    }

    /// All guests' bytes are laid over.
    pub fn write(&mut self) {
        (self.step, self.done) = (Step::Write, 0);
    }

    /// The present step, or what is left of it: kind, place in the file, length and memory, which
    /// is this one's alone until its last operation has completed.
    pub fn operation(&mut self) -> (OpKind, u64, u64, *mut u8) {
        let range = match self.step {
            Step::Trim => return (OpKind::Truncate, self.end.keep, 0, std::ptr::null_mut()),
            Step::Read => self.reads.last().unwrap_or(&self.chunk),
            Step::Write => &self.chunk,
        };
        let (from, end) = (range.start + self.done, range.end);
        let kind = match self.step {
            Step::Read => OpKind::Read,
            _ if self.dsync && !on(Bug::NoDsyncQueue) => OpKind::WriteDsync,
            _ => OpKind::Write,
        };
        let buf = self.buffer.as_mut_ptr().wrapping_add((from - self.chunk.start) as usize);
        (kind, self.at + from, end - from, buf)
    }

    /// An operation ended.
    pub fn completed(&mut self, result: i32, align: &Align) -> Next {
        if result < 0 {
            return Next::Failed(Errno::from_raw_os_error(-result));
        }
        let range = match self.step {
            Step::Trim => return Next::Chunk,
            Step::Read => self.reads.last().unwrap_or(&self.chunk).clone(),
            Step::Write => self.chunk.clone(),
        };
        let whole = range.end - range.start;
        // F18: behind the end of a plain file there are zeros.
        let there = self.end.was.saturating_sub(self.at + range.start).min(whole);
        let need = if self.step == Step::Read { there } else { whole };
        let done = (self.done + u64::from(result.unsigned_abs())).min(whole);
        if done < need {
            if result == 0 {
                // F18: nothing inside the recorded length is a lie of the file.
                return Next::Failed(Errno::IO);
            }
            self.done = align.going_on(self.done, done);
            return Next::Submit;
        }
        self.done = 0;
        if self.step == Step::Read {
            let from = (range.start + need - self.chunk.start) as usize;
            self.buffer[from..(range.end - self.chunk.start) as usize].fill(0);
            self.reads.pop();
            return if self.reads.is_empty() { Next::Lay } else { Next::Submit };
        }
        if self.at + self.chunk.end <= self.end.keep {
            return Next::Chunk;
        }
        self.step = Step::Trim;
        Next::Submit
    }
}

/// The blocks of a chunk that have bytes which no guest brings, neighbours as one, last first.
/// `guests` are ordered by where they begin.
fn gaps(
    reads: &mut Vec<Range<u64>>,
    guests: impl Iterator<Item = Range<u64>>,
    chunk: &Range<u64>,
    unit: u64,
) {
    reads.clear();
    let clip = |g: Range<u64>| g.start.max(chunk.start)..g.end.min(chunk.end);
    let covered = guests.map(clip).filter(|g| g.start < g.end);
    let mut pos = chunk.start;
    for guest in covered.chain(std::iter::once(chunk.end..chunk.end)) {
        if guest.start > pos {
            let blocks = pos / unit * unit..guest.start.next_multiple_of(unit);
            match reads.last_mut() {
                Some(last) if blocks.start <= last.end => last.end = blocks.end,
                _ => reads.push(blocks),
            }
        }
        pos = pos.max(guest.end);
    }
    reads.reverse();
}

/// Buffers for whole blocks.
#[derive(Default)]
pub(crate) struct Memory {
    small: Vec<AlignedBuf>,
    large: Vec<AlignedBuf>,
    /// Of blocks that are done, so that the next ones allocate nothing.
    reads: Vec<Vec<Range<u64>>>,
    filled: bool,
}

impl Memory {
    /// Takes the memory, once.
    pub fn fill(&mut self) {
        if !self.filled {
            self.small.resize_with(PATCHES_SMALL, || crate::memory::buffer(PATCH_SMALL as usize));
            self.large.resize_with(PATCHES_LARGE, || crate::memory::buffer(PATCH_LARGE as usize));
            self.reads.resize_with(PATCHES_SMALL + PATCHES_LARGE, || Vec::with_capacity(2));
            self.filled = true;
        }
    }

    /// Whether there is a buffer for so many bytes, or for the first of them.
    pub fn has(&self, len: u64) -> bool {
        len <= PATCH_SMALL && !self.small.is_empty() || !self.large.is_empty()
    }

    fn take(&mut self, len: u64) -> Option<AlignedBuf> {
        let small = if len <= PATCH_SMALL { self.small.pop() } else { None };
        small.or_else(|| self.large.pop())
    }

    /// Takes the memory of blocks back that are done.
    pub fn give(&mut self, Blocks { buffer, reads, .. }: Blocks) {
        let small = buffer.len() as u64 == PATCH_SMALL;
        if small {
            self.small.push(buffer)
        } else {
            self.large.push(buffer)
        }
        self.reads.push(reads);
    }
}

#[cfg(test)]
mod tests {
    use super::gaps;

    fn of(guests: &[(u64, u64)], chunk: (u64, u64)) -> Vec<(u64, u64)> {
        let mut reads = Vec::new();
        gaps(&mut reads, guests.iter().map(|(from, to)| *from..*to), &(chunk.0..chunk.1), 4096);
        reads.into_iter().rev().map(|read| (read.start, read.end)).collect()
    }

    #[test]
    fn only_blocks_with_old_bytes_are_read() {
        let of = |guests: &[(u64, u64)]| of(guests, (4096, 20480));
        assert_eq!(of(&[]), [(4096, 20480)]);
        assert!(of(&[(0, 30000)]).is_empty());
        assert_eq!(of(&[(4608, 20480)]), [(4096, 8192)], "the first");
        assert_eq!(of(&[(0, 20000)]), [(16384, 20480)], "the last");
        assert_eq!(of(&[(5000, 20000)]), [(4096, 8192), (16384, 20480)], "both");
        assert_eq!(of(&[(4096, 8192), (12288, 20480)]), [(8192, 12288)], "in the middle");
        assert_eq!(of(&[(4096, 9000), (13000, 20480)]), [(8192, 16384)], "neighbours are one");
        assert!(of(&[(4096, 12300), (12288, 20480)]).is_empty(), "they overlap");
    }

    #[test]
    fn of_one_guest_only_the_edges_are_read() {
        assert_eq!(of(&[(4608, 5120)], (4096, 8192)), [(4096, 8192)], "one block");
        assert!(of(&[(4096, 20480)], (4096, 20480)).is_empty(), "nothing");
        assert_eq!(of(&[(5000, 12000)], (4096, 12288)), [(4096, 12288)], "neighbours are one");
        let long = &[(5000, 200_000)];
        assert_eq!(of(long, (4096, 69632)), [(4096, 8192)], "a first chunk");
        assert!(of(long, (69632, 135_168)).is_empty(), "one between");
        assert_eq!(of(long, (135_168, 200_704)), [(196_608, 200_704)], "a last");
    }
}
