//! Transfers that direct I/O cannot take as they are: smaller than a file's blocks, or with their
//! memory at an odd address. Reads go through memory of the queue; for writes whole blocks are
//! rewritten (F19), by the queue when it is the only one (`rewrite.rs`), else by the keeper.
//!
//! The alignment may rise while a file is open. Then an operation that fitted ends with `EINVAL`:
//! the files are asked again, and the piece begins again as an odd one.

use super::Queue;
use super::slots::{Job, Stage};
use crate::device::Shared;
use crate::front::{Buffer, Errno, Operation, Outcome, Request};
use crate::limits::{BOUNCE_BYTES, BOUNCES, MISFITS};
use crate::message::ToKeeper;
use crate::route::PieceKind;
use ploop_io::{AlignedBuf, Io, Op, OpKind};
use std::collections::VecDeque;

/// Memory for odd reads, and pieces that wait for some.
pub(super) struct Bounces {
    buffers: Vec<AlignedBuf>,
    free: Vec<u8>,
    waiting: VecDeque<u32>,
}

impl Bounces {
    pub fn new(pieces: usize, shared: &Shared) -> Self {
        let (buffers, free) = (Vec::with_capacity(BOUNCES), Vec::with_capacity(BOUNCES));
        let mut bounces = Self { buffers, free, waiting: VecDeque::with_capacity(pieces) };
        if shared.align.offset() > 1 {
            bounces.fill();
        }
        bounces
    }

    /// Takes the memory, once.
    fn fill(&mut self) {
        while self.buffers.len() < BOUNCES {
            self.free.push(self.buffers.len() as u8);
            self.buffers.push(crate::memory::buffer(BOUNCE_BYTES as usize));
        }
    }

    pub fn give(&mut self, bounce: Option<u8>) {
        self.free.extend(bounce);
    }
}

/// The guest's memory as the disk would get it.
fn memory(buffer: &Buffer, from: u64) -> *const u8 {
    match buffer.at_driver() {
        Some(_) => std::ptr::null(),
        None => buffer.ptr().wrapping_add(from as usize),
    }
}

/// What the disk would get for a piece whose data begins at byte `from` of the buffer; `None` of
/// one that transfers nothing.
fn memory_of(kind: PieceKind, buffer: &Buffer, from: u64) -> Option<*const u8> {
    match kind {
        PieceKind::Read | PieceKind::Write => Some(memory(buffer, from)),
        PieceKind::Zero => Some(std::ptr::null()),
        PieceKind::Discard | PieceKind::Merge => None,
    }
}

impl<I: Io> Queue<I> {
    /// Whether a request needs a look at each of its pieces.
    pub(super) fn is_odd(&self, request: &Request) -> bool {
        let Request { operation, offset, len, buffer, .. } = request;
        let align = &self.shared.align;
        match operation {
            Operation::Read | Operation::Write => !align.fits(*offset, *len, memory(buffer, 0)),
            Operation::WriteZeroes => !align.fits(*offset, *len, std::ptr::null()),
            _ => false,
        }
    }

    /// Looks at one piece of an odd request; zeroing is cut so that only its edges are odd.
    /// Returns the length of the piece.
    pub(super) fn cut_odd(&mut self, index: u32, kind: PieceKind) -> u64 {
        let align = &self.shared.align;
        let unit = align.offset();
        let piece = &mut self.slots.pieces[index as usize];
        let buffer = self.slots.requests[piece.request as usize].request.buffer;
        let Some(start) = memory_of(kind, &buffer, piece.buffer) else { return piece.len };
        if kind == PieceKind::Zero && !piece.whole {
            let inside = piece.from % unit;
            piece.len = match piece.len / unit * unit {
                _ if inside > 0 => piece.len.min(unit - inside),
                0 => piece.len,
                blocks => blocks,
            };
        }
        piece.odd = !align.fits(piece.from, piece.len, start);
        piece.len
    }

    /// Begins a piece again that has waited: the alignment may have risen since it was cut, also by
    /// a pause that opened the files anew.
    pub(super) fn begin_again(&mut self, index: u32) -> Option<Outcome> {
        let piece = &self.slots.pieces[index as usize];
        let buffer = self.slots.requests[piece.request as usize].request.buffer;
        let start = match piece.job {
            Job::Data(kind) => memory_of(kind, &buffer, piece.buffer),
            Job::Flush | Job::Extents => None,
        };
        if start.is_some_and(|start| !self.shared.align.fits(piece.from, piece.len, start)) {
            self.slots.pieces[index as usize].odd = true;
        }
        self.start(index)
    }

    /// Once the alignment has risen, requests that are not cut to their end are looked at again.
    pub(super) fn notice_alignment(&mut self) {
        let unit = self.shared.align.offset();
        let rises = unit > self.unit;
        self.unit = unit;
        for n in (0..self.slots.requests.len()).filter(|_| rises) {
            let slot = &self.slots.requests[n];
            if slot.active && self.is_odd(&slot.request) {
                self.slots.requests[n].odd = true;
            }
        }
    }

    /// Memory for an odd read before it is registered (F8); `false`: it waits for some.
    pub(super) fn has_bounce(&mut self, index: u32) -> bool {
        if self.slots.pieces[index as usize].bounce.is_some() {
            return true;
        }
        self.bounces.fill();
        let bounce = self.bounces.free.pop();
        if bounce.is_none() {
            self.slots.pieces[index as usize].stage = Stage::Asked;
            self.bounces.waiting.push_back(index);
        }
        self.slots.pieces[index as usize].bounce = bounce;
        bounce.is_some()
    }

    /// Begins what waited for memory; in a pause it is kept for after it.
    pub(super) fn serve_bounces(&mut self) {
        while (self.pausing || !self.bounces.free.is_empty())
            && let Some(index) = self.bounces.waiting.pop_front()
        {
            if self.pausing {
                self.given_back.push_back(index);
            } else if let Some(outcome) = self.begin_again(index) {
                self.end_and_advance(index, outcome);
            }
        }
    }

    /// Reads the blocks around what is left of an odd read.
    pub(super) fn push_odd_read(&mut self, index: u32) {
        let piece = &mut self.slots.pieces[index as usize];
        let Some(bounce) = piece.bounce else { return };
        let unit = self.shared.align.offset();
        let from = piece.at + piece.done;
        let offset = from - from % unit;
        let len = piece.at + piece.readable - offset;
        piece.step = len.min(BOUNCE_BYTES).next_multiple_of(unit);
        piece.skip = from - offset;
        let op = Op {
            token: u64::from(index),
            kind: OpKind::Read,
            file: piece.file,
            offset,
            len: piece.step,
            buf: self.bounces.buffers[usize::from(bounce)].as_mut_ptr(),
            lent: None,
        };
        // SAFETY: the piece has this buffer alone until it ends, which is after the completion;
        // the chain keeps the file open, and the ring is drained before the queue goes.
        unsafe { self.io.push(op) };
    }

    /// Gives the guest what came of an odd read. `None`: the next step is under way.
    pub(super) fn odd_read(&mut self, index: u32, result: i32) -> Option<Result<(), Errno>> {
        let piece = self.slots.pieces[index as usize];
        let there = u64::try_from(result).unwrap_or(0).min(piece.step);
        let fresh = there.saturating_sub(piece.skip).min(piece.readable - piece.done);
        let bounce = piece.bounce.filter(|_| fresh > 0);
        // F18: nothing inside the recorded length is a lie of the file.
        let Some(bounce) = bounce else { return Some(Err(Errno::IO)) };
        let bytes = &self.bounces.buffers[usize::from(bounce)];
        let bytes = &bytes[piece.skip as usize..(piece.skip + fresh) as usize];
        let buffer = self.slots.requests[piece.request as usize].request.buffer;
        let to = piece.buffer + piece.done;
        match buffer.at_driver() {
            Some(lent) => {
                if lent.write(to, bytes).is_err() {
                    return Some(Err(Errno::IO));
                }
            }
            None => {
                let to = buffer.ptr().wrapping_add(to as usize);
                // SAFETY: the piece lies inside the request's buffer (checked on admission), which
                // is writable for a read until the request completes and is never our own memory.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
            }
        }
        self.slots.pieces[index as usize].done += fresh;
        if piece.done + fresh < piece.readable {
            self.push_odd_read(index);
            return None;
        }
        Some(Ok(()))
    }

    /// An odd write or zeroing in place, for the keeper.
    pub(super) fn patch(&self, index: u32) -> ToKeeper {
        let piece = &self.slots.pieces[index as usize];
        let buffer = self.slots.requests[piece.request as usize].request.buffer;
        let zero = piece.job != Job::Data(PieceKind::Write);
        ToKeeper::Patch {
            caller: self.caller(index),
            cluster: piece.cluster,
            from: piece.from,
            len: piece.len,
            zero,
            data: if zero { Buffer::NONE } else { buffer.part(piece.buffer, piece.len) },
            dsync: piece.dsync && !piece.plain,
        }
    }

    /// The keeper has made a change for this piece.
    pub(super) fn changed(&mut self, index: u32) -> Option<Outcome> {
        let piece = &self.slots.pieces[index as usize];
        let plainly = piece.plain || piece.job == Job::Data(PieceKind::Zero);
        if piece.odd && plainly { self.settle_by_flush(index) } else { self.settle(index) }
    }

    /// `RWF_DSYNC` of an odd write ran out of space: written again plainly, then flushed.
    pub(super) fn plainly(&mut self, index: u32) -> bool {
        let piece = &mut self.slots.pieces[index as usize];
        let again = piece.odd && piece.dsync && !piece.plain;
        piece.plain |= again;
        again
    }

    /// The kernel refused what should have fitted: the alignment is another one now. Never the
    /// guest's fault, so `EINVAL` is never its answer.
    pub(super) fn misfit(&mut self, index: u32) -> Option<Outcome> {
        let piece = &mut self.slots.pieces[index as usize];
        piece.misfits += 1;
        if piece.misfits > MISFITS {
            tracing::error!(
                "{:?} bytes {}+{} do not fit direct I/O",
                piece.file,
                piece.at,
                piece.len
            );
            return Some(Err(Errno::IO));
        }
        piece.odd = true;
        piece.stage = Stage::Asked;
        self.shared.keeper.send(ToKeeper::Realign(self.caller(index)));
        None
    }
}
