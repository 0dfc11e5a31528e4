//! Stages 5 and 6 for operations in place: submit, and what follows a completion.

use super::Queue;
use super::slots::{Job, Piece, Stage};
use crate::chain::Level;
use crate::front::{Errno, Outcome, is_no_space};
use crate::grace::Ticket;
use crate::limits::ZERO_BUFFER;
use crate::message::ToKeeper;
use crate::spec::LevelKind;
use ploop_format::Sector;
use ploop_io::planted::{Bug, on};
use ploop_io::{Io, Op, OpKind};

impl<I: Io> Queue<I> {
    /// Reads a piece from a level; zeros behind the end of the file (F18).
    pub(super) fn read(&mut self, index: u32, level: u8, at: Sector) -> Option<Outcome> {
        let level = self.shared.chain.level(level);
        let (fid, raw, len) = (level.fid, level.kind == LevelKind::Raw, level.len);
        let piece = &mut self.slots.pieces[index as usize];
        piece.file = fid;
        piece.at = at.bytes() + piece.from;
        piece.done = 0;
        piece.stage = Stage::Disk;
        // A ploop cluster was checked to lie in its file; a raw file may end anywhere.
        piece.readable = if raw { len.saturating_sub(piece.at).min(piece.len) } else { piece.len };
        if piece.readable == 0 {
            let outcome = self.fill_zeros(index, 0);
            self.release(index);
            return Some(outcome);
        }
        self.push_data(index);
        None
    }

    /// Overwrites a piece in its level.
    pub(super) fn write(&mut self, index: u32, level: u8, at: Sector) -> Option<Outcome> {
        let fid = self.shared.chain.level(level).fid;
        let piece = &mut self.slots.pieces[index as usize];
        piece.file = fid;
        piece.at = at.bytes() + piece.from;
        piece.done = 0;
        piece.readable = piece.len;
        piece.stage = Stage::Disk;
        self.push_data(index);
        None
    }

    /// Writes the guest's part of a copy-up to its new place.
    pub(super) fn write_copy_up(&mut self, index: u32, cluster_at: u64) {
        self.write_part(index, cluster_at, Stage::CopyUp);
    }

    /// Writes the guest's part of a cluster that begins at this byte of the top.
    pub(super) fn write_part(&mut self, index: u32, cluster_at: u64, stage: Stage) {
        let cluster = self.slots.pieces[index as usize].cluster;
        let fid = self.shared.chain.top_of(self.shared.pieces.of(cluster)).fid;
        let piece = &mut self.slots.pieces[index as usize];
        piece.file = fid;
        piece.at = cluster_at + piece.from;
        piece.done = 0;
        piece.readable = piece.len;
        piece.stage = stage;
        self.push_data(index);
    }

    fn push_data(&mut self, index: u32) {
        let piece = &mut self.slots.pieces[index as usize];
        let read = piece.job == Job::Data(crate::route::PieceKind::Read);
        if read && piece.odd {
            return self.push_odd_read(index);
        }
        let kind = match piece.stage {
            _ if read => OpKind::Read,
            Stage::Disk if on(Bug::NoDsyncQueue) => OpKind::Write,
            Stage::Disk if piece.dsync && !piece.plain => OpKind::WriteDsync,
            _ => OpKind::Write,
        };
        let mut len = piece.readable - piece.done;
        if read && piece.readable < piece.len {
            // A raw file's last bytes: direct I/O reads whole blocks, the end comes back short.
            let align = self.shared.align.offset();
            len = len.next_multiple_of(align).min(piece.len - piece.done);
        }
        let buffer = self.slots.requests[piece.request as usize].request.buffer;
        let lent = buffer.at_driver().map(|lent| lent.place);
        // A driver's buffer begins at zero.
        let start = if lent.is_some() { std::ptr::null_mut() } else { buffer.ptr() };
        let op = Op {
            token: u64::from(index),
            kind,
            file: piece.file,
            offset: piece.at + piece.done,
            len,
            buf: start.wrapping_add((piece.buffer + piece.done) as usize),
            lent,
        };
        piece.step = len;
        // SAFETY: the front end's buffer is valid until the request completes, and the request
        // completes only after this piece has; the chain keeps the file open.
        unsafe { self.io.push(op) };
    }

    /// An operation of a piece ended.
    pub(super) fn completed(&mut self, index: u32, result: i32) {
        let outcome = match self.slots.pieces[index as usize].stage {
            Stage::Disk | Stage::CopyUp | Stage::Allocating => self.data_completed(index, result),
            Stage::Zeroing => self.zero_completed(index, result),
            Stage::Rewriting => {
                self.rewrite_completed(index, result);
                None
            }
            _ => None,
        };
        if let Some(outcome) = outcome {
            self.end_and_advance(index, outcome);
        }
    }

    fn data_completed(&mut self, index: u32, result: i32) -> Option<Outcome> {
        let piece = &mut self.slots.pieces[index as usize];
        let read = piece.job == Job::Data(crate::route::PieceKind::Read);
        if !read {
            self.rewrites.stirred = true;
            self.shared.written(piece.file);
        }
        if result < 0 {
            return self.data_failed(index, Errno::from_raw_os_error(-result));
        }
        if read && piece.odd {
            if let Err(errno) = self.odd_read(index, result)? {
                return self.data_failed(index, errno);
            }
        } else {
            let done = piece.done + (result as u64).min(piece.step);
            if done < piece.readable && !on(Bug::ShortDone) {
                if result == 0 {
                    // F18: nothing inside the recorded length is a lie of the file.
                    return self.data_failed(index, Errno::IO);
                }
                piece.done = self.shared.align.going_on(piece.done, done);
                self.push_data(index);
                return None;
            }
            piece.done = done;
        }
        let Piece { stage, readable, plain, .. } = self.slots.pieces[index as usize];
        if stage == Stage::CopyUp {
            return self.copy_up_written(index, Ok(()));
        }
        if stage == Stage::Allocating {
            return self.allocating_written(index, Ok(()));
        }
        self.release(index);
        if read {
            return Some(self.fill_zeros(index, readable));
        }
        if plain { self.settle_by_flush(index) } else { self.settle(index) }
    }

    pub(super) fn data_failed(&mut self, index: u32, errno: Errno) -> Option<Outcome> {
        let piece = self.slots.pieces[index as usize];
        if piece.stage == Stage::CopyUp {
            return self.copy_up_written(index, Err(errno));
        }
        if piece.stage == Stage::Allocating {
            return self.allocating_written(index, Err(errno));
        }
        self.release(index);
        if errno == Errno::INVAL {
            return self.misfit(index);
        }
        let no_space = is_no_space(errno);
        if piece.dsync && !piece.plain {
            if no_space {
                // Space, or the sync? Written again without DSYNC, then flushed: a failed sync
                // shows there (F5), and a full disk holds the request (F17).
                self.slots.pieces[index as usize].plain = true;
                return self.begin_again(index);
            }
            self.fail_sync();
        }
        if no_space { self.park(index, errno) } else { Some(Err(errno)) }
    }

    /// F5: a failed sync is final for the file.
    fn fail_sync(&self) {
        self.shared.fail();
        self.shared.keeper.wake();
    }

    fn copy_up_written(&mut self, index: u32, result: Result<(), Errno>) -> Option<Outcome> {
        let piece = &mut self.slots.pieces[index as usize];
        piece.stage = Stage::Changing;
        let cluster = piece.cluster;
        let caller = self.caller(index);
        self.shared.keeper.send(ToKeeper::CopyUpWritten(caller, cluster, result));
        None
    }

    /// The level that a piece goes to.
    fn level_of(&self, piece: &Piece) -> &Level {
        self.shared.level_of(piece.file).unwrap_or(self.shared.chain.top())
    }

    /// Zeroes a piece in place: whole blocks by the file system, edges by writing (F24).
    pub(super) fn zero(&mut self, index: u32, level: u8, at: Sector) -> Option<Outcome> {
        let fid = self.shared.chain.level(level).fid;
        let piece = &mut self.slots.pieces[index as usize];
        piece.file = fid;
        piece.at = at.bytes() + piece.from;
        piece.done = 0;
        piece.stage = Stage::Zeroing;
        self.zero_step(index)
    }

    /// Punches the whole blocks of a piece; its edges stay (F24).
    pub(super) fn punch(&mut self, index: u32, level: u8, at: Sector) -> Option<Outcome> {
        let level = self.shared.chain.level(level);
        let (block, fid) = (u64::from(level.file.caps().block.max(1)), level.fid);
        let piece = &mut self.slots.pieces[index as usize];
        let start = (at.bytes() + piece.from).next_multiple_of(block);
        let end = (at.bytes() + piece.from + piece.len) / block * block;
        let out = if on(Bug::PunchOutward) { block } else { 0 };
        let (start, end) = (start - out, end + out);
        if start >= end || self.no_punch {
            self.release(index);
            return self.settle(index);
        }
        piece.file = fid;
        piece.at = start;
        piece.done = 0;
        piece.len = end - start;
        piece.stage = Stage::Zeroing;
        self.push_falloc(index, OpKind::Punch, end - start);
        None
    }

    fn zero_step(&mut self, index: u32) -> Option<Outcome> {
        let piece = self.slots.pieces[index as usize];
        let flags = self.slots.requests[piece.request as usize].request.flags;
        let left = piece.len - piece.done;
        if left == 0 || on(Bug::ZeroShort) && piece.done > 0 {
            self.release(index);
            return self.settle_by_flush(index);
        }
        let block = u64::from(self.level_of(&piece).file.caps().block.max(1));
        let pos = piece.at + piece.done;
        let keep = flags.no_unmap || self.shared.keep_blocks;
        let how = if !keep && !self.no_punch {
            Some(OpKind::Punch)
        } else if !self.no_zero_range {
            Some(OpKind::ZeroRange)
        } else {
            None
        };
        match how {
            Some(kind) if pos.is_multiple_of(block) && left >= block => {
                self.push_falloc(index, kind, left / block * block);
            }
            Some(_) => {
                let edge = (block - pos % block).min(left).min(ZERO_BUFFER);
                self.push_zeros(index, edge);
            }
            None if flags.fast_zero => {
                self.release(index);
                return Some(Err(Errno::OPNOTSUPP));
            }
            None => self.push_zeros(index, left.min(ZERO_BUFFER)),
        }
        None
    }

    fn push_falloc(&mut self, index: u32, kind: OpKind, len: u64) {
        let piece = &mut self.slots.pieces[index as usize];
        piece.step = len;
        let op = Op {
            token: u64::from(index),
            kind,
            file: piece.file,
            offset: piece.at + piece.done,
            len,
            buf: std::ptr::null_mut(),
            lent: None,
        };
        // SAFETY: no memory is involved; the chain keeps the file open.
        unsafe { self.io.push(op) };
    }

    fn push_zeros(&mut self, index: u32, len: u64) {
        let buf = self.zeros.as_mut_ptr();
        let piece = &mut self.slots.pieces[index as usize];
        piece.step = 0;
        let op = Op {
            token: u64::from(index),
            kind: OpKind::Write,
            file: piece.file,
            offset: piece.at + piece.done,
            len,
            buf,
            lent: None,
        };
        // SAFETY: `zeros` lives as long as the queue, is at least `ZERO_BUFFER >= len` long and
        // only ever read; the ring is drained before the queue goes.
        unsafe { self.io.push(op) };
    }

    fn zero_completed(&mut self, index: u32, result: i32) -> Option<Outcome> {
        let piece = &mut self.slots.pieces[index as usize];
        let discard = piece.job == Job::Data(crate::route::PieceKind::Discard);
        self.rewrites.stirred = true;
        self.shared.written(piece.file);
        if result < 0 {
            let errno = Errno::from_raw_os_error(-result);
            let unsupported =
                matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL);
            if unsupported && piece.step > 0 {
                return self.falloc_refused(index, discard);
            }
            self.release(index);
            if errno == Errno::INVAL {
                return self.misfit(index);
            }
            let no_space = is_no_space(errno);
            return if no_space { self.park(index, errno) } else { Some(Err(errno)) };
        }
        // `step` is the length of a fallocate; a write says how far it came.
        let moved = if piece.step > 0 { piece.step } else { result as u64 };
        if moved == 0 {
            self.release(index);
            return Some(Err(Errno::IO));
        }
        let done = piece.done + moved;
        let all = done >= piece.len || piece.step > 0;
        piece.done = if all { done } else { self.shared.align.going_on(piece.done, done) };
        if discard {
            self.release(index);
            return self.settle_by_flush(index);
        }
        self.zero_step(index)
    }

    fn falloc_refused(&mut self, index: u32, discard: bool) -> Option<Outcome> {
        if discard {
            // F24: a discard that the file system cannot do succeeds with nothing done.
            self.no_punch = true;
            self.release(index);
            return self.settle(index);
        }
        if self.no_punch {
            self.no_zero_range = true
        } else {
            self.no_punch = true
        }
        self.zero_step(index)
    }

    /// Ends a piece's registration.
    pub(super) fn release(&mut self, index: u32) {
        if let Some(ticket) = self.slots.pieces[index as usize].ticket.take() {
            self.leave(ticket);
        }
    }

    pub(super) fn leave(&self, ticket: Ticket) {
        if self.shared.grace.leave(self.lane, ticket) {
            self.shared.keeper.wake();
        }
    }
}
