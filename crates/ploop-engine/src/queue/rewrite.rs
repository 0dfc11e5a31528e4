//! Rewrites: what direct I/O cannot write as it is, a disk's only queue writes by itself, by
//! read-modify-write (F19): it reads the blocks around the guest's bytes, lays those over them and
//! writes whole blocks.
//!
//! Nobody but this queue writes to clusters where they are: what the keeper moves or gives back, it
//! claims or unmaps first, and then waits for everybody who is registered (I11). So the queue alone
//! sees to it that a block is rewritten by one run at a time, and that nothing else changes it
//! meanwhile. A piece that would stands in line here, not registered (F8), and is looked up again.
//! One that lies in the blocks of a run that still reads joins that run. Of those in line the first
//! goes first where blocks are the same, so neither parts nor whole blocks wait for ever.
//!
//! Several queues cannot see each other's writes: there the keeper does it (`keeper/patch.rs`).

use super::Queue;
use super::slots::{Job, Stage};
use crate::blocks::{End, Memory, Over, lay_over, overlap, whole_blocks};
use crate::device::Shared;
use crate::front::{Errno, Outcome};
use crate::limits::{PATCHES_LARGE, PATCHES_SMALL};
use crate::route::PieceKind;
use ploop_format::Sector;
use ploop_io::planted::{Bug, on};
use ploop_io::{AlignedBuf, FileId, Io, Op, OpKind};
use std::collections::VecDeque;
use std::ops::Range;

/// No piece.
const NONE: u32 = u32::MAX;

/// What a run is doing with its chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Reading the first of its `reads`.
    Read,
    Write,
    /// Cutting what a plain file got behind its end.
    Trim,
}

/// Pieces whose blocks are read and written together. Positions count from the start of the
/// cluster.
struct Run {
    /// The first of its pieces, which its operations belong to, and the last; those between are
    /// chained by `Rewrites::next`.
    first: u32,
    last: u32,
    file: FileId,
    /// Where the cluster begins in it.
    at: u64,
    end: End,
    /// Whole blocks, and those that are in the buffer now.
    span: Range<u64>,
    chunk: Range<u64>,
    /// The alignment it was made for.
    unit: u64,
    /// Blocks of the chunk still to be read.
    reads: [Range<u64>; 2],
    step: Step,
    /// Bytes of the step that are done.
    done: u64,
    buffer: AlignedBuf,
    dsync: bool,
}

impl Run {
    fn bytes(&self) -> Range<u64> {
        self.at + self.span.start..self.at + self.span.end
    }

    /// Pieces that lie in these bytes of a file can come along: nothing is written yet.
    fn takes(&self, file: FileId, bytes: &Range<u64>) -> bool {
        let own = self.bytes();
        self.file == file
            && (self.step == Step::Read || on(Bug::RewriteJoinsLate))
            && self.chunk == self.span
            && own.start <= bytes.start
            && bytes.end <= own.end
    }
}

/// A piece in line.
struct Waiter {
    index: u32,
    file: FileId,
    bytes: Range<u64>,
}

/// What the queue rewrites, and who waits for that.
pub(super) struct Rewrites {
    /// This queue is the only one.
    alone: bool,
    runs: Vec<Run>,
    line: VecDeque<Waiter>,
    /// Those of the line that are being tried again.
    again: VecDeque<Waiter>,
    /// Something ended that somebody in line may wait for.
    pub stirred: bool,
    /// The next piece of the same run.
    next: Vec<u32>,
    memory: Memory,
}

impl Rewrites {
    pub fn new(pieces: usize, shared: &Shared) -> Self {
        let mut memory = Memory::default();
        let alone = shared.queues.len() == 1;
        // Memory is taken here, before anything is served (D7).
        if alone && !shared.limits.read_only && shared.align.offset() > 1 {
            memory.fill();
        }
        Self {
            alone,
            runs: Vec::with_capacity(PATCHES_SMALL + PATCHES_LARGE),
            line: VecDeque::with_capacity(pieces),
            again: VecDeque::with_capacity(pieces),
            stirred: false,
            next: vec![NONE; pieces],
            memory,
        }
    }

    /// The queue rewrites by itself.
    pub fn alone(&self) -> bool {
        self.alone
    }

    /// Whatever changes a cluster where it is must look whether it meets a rewrite.
    pub fn busy(&self) -> bool {
        !self.runs.is_empty() || !self.line.is_empty()
    }

    /// Somebody in line can be tried again.
    pub fn due(&self) -> bool {
        self.stirred && !self.line.is_empty()
    }
}

impl<I: Io> Queue<I> {
    /// Whether a piece that changes the cluster at this place has to stand in line: something under
    /// way, or before it in line, changes one of its blocks.
    pub(super) fn stands_in_line(&mut self, index: u32, level: u8, at: Sector) -> bool {
        if !self.rewrites.alone {
            return false;
        }
        let piece = &self.slots.pieces[index as usize];
        let file = self.shared.chain.level(level).fid;
        let guest = piece.from..piece.from + piece.len;
        let unit = self.shared.align.offset();
        let span = if piece.odd { whole_blocks(&guest, unit) } else { guest };
        let bytes = at.bytes() + span.start..at.bytes() + span.end;
        if !self.must_wait(piece.odd, file, &bytes) {
            return false;
        }
        self.slots.pieces[index as usize].stage = Stage::Asked;
        self.rewrites.line.push_back(Waiter { index, file, bytes });
        true
    }

    fn must_wait(&mut self, odd: bool, file: FileId, bytes: &Range<u64>) -> bool {
        let Rewrites { runs, line, memory, .. } = &mut self.rewrites;
        if line.iter().any(|other| other.file == file && overlap(&other.bytes, bytes)) {
            return true;
        }
        let mut met = runs.iter().filter(|run| run.file == file && overlap(&run.bytes(), bytes));
        match met.next() {
            Some(_) if !odd => !on(Bug::RewriteBeside),
            Some(run) => !run.takes(file, bytes),
            None if odd => {
                memory.fill();
                let changing = !on(Bug::RewriteBeside) && self.slots.changing(file, bytes);
                changing || !memory.has(bytes.end - bytes.start)
            }
            None => false,
        }
    }

    /// Tries those in line again, in their order; in a pause they are kept for after it.
    pub(super) fn serve_line(&mut self) {
        if self.pausing {
            let line = &mut self.rewrites.line;
            self.given_back.extend(line.drain(..).map(|waiter| waiter.index));
            return;
        }
        if !self.rewrites.due() {
            return;
        }
        self.rewrites.stirred = false;
        let Rewrites { line, again, .. } = &mut self.rewrites;
        std::mem::swap(line, again);
        while let Some(waiter) = self.rewrites.again.pop_front() {
            if let Some(outcome) = self.begin_again(waiter.index) {
                self.end_and_advance(waiter.index, outcome);
            }
        }
    }

    /// Begins to rewrite the blocks of an odd piece, which met nobody.
    pub(super) fn rewrite(&mut self, index: u32, level: u8, at: Sector) -> Option<Outcome> {
        self.count_rewritten(index);
        let (unit, level) = (self.shared.align.offset(), self.shared.chain.level(level));
        let piece = &mut self.slots.pieces[index as usize];
        piece.file = level.fid;
        piece.at = at.bytes() + piece.from;
        piece.stage = Stage::Rewriting;
        let dsync = piece.dsync && !piece.plain;
        let span = whole_blocks(&(piece.from..piece.from + piece.len), unit);
        let bytes = at.bytes() + span.start..at.bytes() + span.end;
        let Rewrites { runs, next, memory, .. } = &mut self.rewrites;
        next[index as usize] = NONE;
        if let Some(run) = runs.iter_mut().find(|run| run.takes(level.fid, &bytes)) {
            next[run.last as usize] = index;
            run.last = index;
            run.dsync |= dsync;
            return None;
        }
        let Some(buffer) = memory.take(span.end - span.start) else {
            debug_assert!(false, "whoever finds no memory stands in line");
            self.release(index);
            return Some(Err(Errno::IO));
        };
        let run = Run {
            first: index,
            last: index,
            file: level.fid,
            at: at.bytes(),
            end: End::of(&self.shared, piece.cluster, level, at),
            chunk: span.start..span.start,
            span,
            unit,
            reads: [0..0, 0..0],
            step: Step::Write,
            done: 0,
            buffer,
            dsync,
        };
        let n = runs.len();
        runs.push(run);
        self.begin_chunk(n);
        None
    }

    /// Counts a request of which something is rewritten, once.
    pub(super) fn count_rewritten(&mut self, index: u32) {
        let request = self.slots.pieces[index as usize].request;
        let slot = &mut self.slots.requests[request as usize];
        if !slot.rewritten {
            slot.rewritten = true;
            self.shared.queue_stats[self.lane].rewritten.add(1);
        }
    }

    /// Goes on with the next part of a run that its buffer holds.
    fn begin_chunk(&mut self, n: usize) {
        let run = &mut self.rewrites.runs[n];
        let start = run.chunk.end;
        if start >= run.span.end {
            return self.end_run(n, Ok(()));
        }
        run.chunk = start..run.span.end.min(start + run.buffer.len() as u64);
        let piece = &self.slots.pieces[run.first as usize];
        run.reads = edges(&(piece.from..piece.from + piece.len), &run.chunk, run.unit);
        run.done = 0;
        if run.reads[0].is_empty() {
            return self.write_chunk(n);
        }
        run.step = Step::Read;
        self.push_run(n);
    }

    /// Lays the guests' bytes over the old ones, in the order in which they came, and writes.
    fn write_chunk(&mut self, n: usize) {
        let Rewrites { runs, next, .. } = &mut self.rewrites;
        let run = &mut runs[n];
        let mut index = run.first;
        let mut got = true;
        while index != NONE {
            let piece = &self.slots.pieces[index as usize];
            let from = piece.from.max(run.chunk.start);
            let to = (piece.from + piece.len).min(run.chunk.end);
            if from < to {
                let buffer = self.slots.requests[piece.request as usize].request.buffer;
                let over = match piece.job {
                    Job::Data(PieceKind::Write) => {
                        Over::Bytes(buffer.part(piece.buffer, piece.len))
                    }
                    _ => Over::Zeros,
                };
                let place = (from - run.chunk.start) as usize..(to - run.chunk.start) as usize;
                got &= lay_over(over, from - piece.from, &mut run.buffer[place]);
            }
            index = next[index as usize];
        }
        if !got {
            return self.end_run(n, Err((Step::Read, Errno::IO)));
        }
        (run.step, run.done) = (Step::Write, 0);
        self.push_run(n);
    }

    /// Submits the present step of a run, or what is left of it.
    fn push_run(&mut self, n: usize) {
        let run = &mut self.rewrites.runs[n];
        let range = match run.step {
            Step::Read => run.reads[0].clone(),
            Step::Write | Step::Trim => run.chunk.clone(),
        };
        let from = range.start + run.done;
        let (kind, offset, len, buf) = match run.step {
            Step::Trim => (OpKind::Truncate, run.end.keep, 0, std::ptr::null_mut()),
            step => {
                let skip = (from - run.chunk.start) as usize;
                let buf = run.buffer.as_mut_ptr().wrapping_add(skip);
                let kind = match step {
                    Step::Read => OpKind::Read,
                    _ if run.dsync && !on(Bug::NoDsyncQueue) => OpKind::WriteDsync,
                    _ => OpKind::Write,
                };
                (kind, run.at + from, range.end - from, buf)
            }
        };
        let token = u64::from(run.first);
        let op = Op { token, kind, file: run.file, offset, len, buf, lent: None };
        // SAFETY: the run has this buffer alone until its last operation has completed; the chain
        // keeps the file open, and the ring is drained before the queue goes.
        unsafe { self.io.push(op) };
    }

    /// An operation of a run ended.
    pub(super) fn rewrite_completed(&mut self, index: u32, result: i32) {
        let Some(n) = self.rewrites.runs.iter().position(|run| run.first == index) else { return };
        let run = &mut self.rewrites.runs[n];
        if run.step == Step::Write {
            self.shared.written(run.file);
        }
        if result < 0 {
            let errno = Errno::from_raw_os_error(-result);
            let step = run.step;
            return self.end_run(n, Err((step, errno)));
        }
        let range = match run.step {
            Step::Read => run.reads[0].clone(),
            Step::Write => run.chunk.clone(),
            Step::Trim => return self.begin_chunk(n),
        };
        let len = range.end - range.start;
        // F18: behind the end of a plain file there are zeros.
        let there = run.end.was.saturating_sub(run.at + range.start).min(len);
        let need = if run.step == Step::Read { there } else { len };
        let done = (run.done + u64::from(result.unsigned_abs())).min(len);
        if done < need {
            if result == 0 {
                // F18: nothing inside the recorded length is a lie of the file.
                let step = run.step;
                return self.end_run(n, Err((step, Errno::IO)));
            }
            run.done = self.shared.align.going_on(run.done, done);
            return self.push_run(n);
        }
        run.done = 0;
        if run.step == Step::Read {
            let from = (range.start + need - run.chunk.start) as usize;
            run.buffer[from..(range.end - run.chunk.start) as usize].fill(0);
            run.reads = [std::mem::take(&mut run.reads[1]), 0..0];
            if run.reads[0].is_empty() {
                return self.write_chunk(n);
            }
        } else if run.at + run.chunk.end > run.end.keep {
            run.step = Step::Trim;
        } else {
            return self.begin_chunk(n);
        }
        self.push_run(n);
    }

    /// A run is over, and so are its pieces.
    fn end_run(&mut self, n: usize, result: Result<(), (Step, Errno)>) {
        let run = self.rewrites.runs.swap_remove(n);
        self.rewrites.memory.give(run.buffer);
        self.rewrites.stirred = true;
        let mut next = run.first;
        while next != NONE {
            let index = next;
            next = std::mem::replace(&mut self.rewrites.next[index as usize], NONE);
            let outcome = match result {
                Ok(()) => {
                    self.release(index);
                    self.changed(index)
                }
                // Nothing is written that could need a sync.
                Err((Step::Read, errno)) if errno != Errno::INVAL => {
                    self.release(index);
                    Some(Err(errno))
                }
                Err((_, errno)) => self.data_failed(index, errno),
            };
            if let Some(outcome) = outcome {
                self.end_and_advance(index, outcome);
            }
        }
    }
}

/// The blocks of a chunk that have bytes which the guest does not bring, neighbours as one.
fn edges(guest: &Range<u64>, chunk: &Range<u64>, unit: u64) -> [Range<u64>; 2] {
    let head = match guest.start > chunk.start {
        true => chunk.start..guest.start.next_multiple_of(unit).min(chunk.end),
        false => chunk.start..chunk.start,
    };
    let tail = match guest.end < chunk.end {
        true => (guest.end / unit * unit).max(chunk.start)..chunk.end,
        false => chunk.end..chunk.end,
    };
    match (head.is_empty(), tail.is_empty()) {
        (true, _) => [tail, 0..0],
        (_, true) => [head, 0..0],
        _ if tail.start <= head.end => [chunk.clone(), 0..0],
        _ => [head, tail],
    }
}

#[cfg(test)]
mod tests {
    use super::edges;

    #[test]
    fn only_blocks_with_old_bytes_are_read() {
        let of = |guest, chunk| edges(&guest, &chunk, 4096).map(|range| (range.start, range.end));
        let none = (0, 0);
        assert_eq!(of(4096..20480, 4096..20480)[0], (20480, 20480), "nothing");
        assert_eq!(of(4608..5120, 4096..8192), [(4096, 8192), none], "one block");
        assert_eq!(of(4608..20480, 4096..20480), [(4096, 8192), none], "the first");
        assert_eq!(of(4096..20000, 4096..20480), [(16384, 20480), none], "the last");
        assert_eq!(of(5000..20000, 4096..20480), [(4096, 8192), (16384, 20480)], "both");
        assert_eq!(of(5000..12000, 4096..12288), [(4096, 12288), none], "neighbours are one");
        assert_eq!(of(5000..200_000, 4096..69632), [(4096, 8192), none], "a first chunk");
        assert_eq!(of(5000..200_000, 69632..135_168)[0], (135_168, 135_168), "one between");
        assert_eq!(of(5000..200_000, 135_168..200_704), [(196_608, 200_704), none], "a last");
    }
}
