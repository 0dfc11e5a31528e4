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
use crate::blocks::{Blocks, End, Memory, Next, Over, Step, overlap, whole_blocks};
use crate::device::Shared;
use crate::front::{Errno, Outcome};
use crate::limits::{PATCHES_LARGE, PATCHES_SMALL};
use crate::route::PieceKind;
use ploop_format::Sector;
use ploop_io::planted::{Bug, on};
use ploop_io::{FileId, Io, Op};
use std::collections::VecDeque;
use std::ops::Range;

/// No piece.
const NONE: u32 = u32::MAX;

/// Pieces whose blocks are read and written together.
struct Run {
    /// The first of its pieces, which its operations belong to, and the last; those between are
    /// chained by `Rewrites::next`.
    first: u32,
    last: u32,
    blocks: Blocks,
}

impl Run {
    /// Pieces that lie in these bytes of a file can come along: nothing is written yet.
    fn takes(&self, file: FileId, bytes: &Range<u64>) -> bool {
        let own = self.blocks.bytes();
        let inside = own.start <= bytes.start && bytes.end <= own.end;
        self.blocks.file == file && inside && self.blocks.is_reading_all()
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
        let meets = |run: &&Run| run.blocks.file == file && overlap(&run.blocks.bytes(), bytes);
        let mut met = runs.iter().filter(meets);
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
            run.blocks.dsync |= dsync;
            return None;
        }
        let end = End::of(&self.shared, piece.cluster, level, at);
        let place = (level.fid, at.bytes(), end);
        let Some(blocks) = Blocks::new(memory, place, span, unit, dsync) else {
            debug_assert!(false, "whoever finds no memory stands in line");
            self.release(index);
            return Some(Err(Errno::IO));
        };
        let n = runs.len();
        runs.push(Run { first: index, last: index, blocks });
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

    /// Goes on with the next blocks of a run that its buffer holds. What joins a run lies in its
    /// first piece's blocks, and they are read for that one.
    fn begin_chunk(&mut self, n: usize) {
        let run = &mut self.rewrites.runs[n];
        let piece = &self.slots.pieces[run.first as usize];
        let next = run.blocks.begin_chunk(std::iter::once(piece.from..piece.from + piece.len));
        self.go_on_with(n, next);
    }

    fn go_on_with(&mut self, n: usize, next: Next) {
        match next {
            Next::Submit => self.push_run(n),
            Next::Lay => self.write_chunk(n),
            Next::Chunk => self.begin_chunk(n),
            Next::Done => self.end_run(n, Ok(())),
            Next::Failed(errno) => {
                let step = self.rewrites.runs[n].blocks.step;
                self.end_run(n, Err((step, errno)));
            }
        }
    }

    /// Lays the guests' bytes over the old ones, in the order in which they came, and writes.
    fn write_chunk(&mut self, n: usize) {
        let Rewrites { runs, next, .. } = &mut self.rewrites;
        let run = &mut runs[n];
        let mut index = run.first;
        let mut got = true;
        while index != NONE {
            let piece = &self.slots.pieces[index as usize];
            let buffer = self.slots.requests[piece.request as usize].request.buffer;
            let over = match piece.job {
                Job::Data(PieceKind::Write) => Over::Bytes(buffer.part(piece.buffer, piece.len)),
                _ => Over::Zeros,
            };
            got &= run.blocks.lay(&(piece.from..piece.from + piece.len), over);
            index = next[index as usize];
        }
        if !got {
            return self.end_run(n, Err((Step::Read, Errno::IO)));
        }
        run.blocks.write();
        self.push_run(n);
    }

    /// Submits the present step of a run, or what is left of it.
    fn push_run(&mut self, n: usize) {
        let Run { first, blocks, .. } = &mut self.rewrites.runs[n];
        let (token, file) = (u64::from(*first), blocks.file);
        let (kind, offset, len, buf) = blocks.operation();
        let op = Op { token, kind, file, offset, len, buf, lent: None };
        // SAFETY: the run has this buffer alone until its last operation has completed; the chain
        // keeps the file open, and the ring is drained before the queue goes.
        unsafe { self.io.push(op) };
    }

    /// An operation of a run ended.
    pub(super) fn rewrite_completed(&mut self, index: u32, result: i32) {
        let Some(n) = self.rewrites.runs.iter().position(|run| run.first == index) else { return };
        let blocks = &mut self.rewrites.runs[n].blocks;
        if blocks.step == Step::Write {
            self.shared.written(blocks.file);
        }
        let next = blocks.completed(result, &self.shared.align);
        self.go_on_with(n, next);
    }

    /// A run is over, and so are its pieces.
    fn end_run(&mut self, n: usize, result: Result<(), (Step, Errno)>) {
        let run = self.rewrites.runs.swap_remove(n);
        self.rewrites.memory.give(run.blocks);
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
