//! Stages 1 to 4: a request is checked, cut into pieces, and each piece looked up and routed.

use super::Queue;
use super::slots::{Job, Piece, Slot, Stage};
use crate::front::{Buffer, Errno, Operation, Outcome, Request};
use crate::limits::CLUSTERS_PER_TURN;
use crate::map::Cell;
use crate::message::ToKeeper;
use crate::route::{Facts, PieceKind, Route, route};
use crate::split::first_piece;
use crate::stats::ClassId;
use ploop_format::GuestCluster;
use ploop_io::Io;
use ploop_io::planted::{Bug, on, visit};

impl<I: Io> Queue<I> {
    /// Takes a request in, or ends it at once when it cannot be.
    pub(super) fn admit(&mut self, request: Request) {
        let Request { tag, operation, .. } = request;
        if self.dead {
            return self.fail(tag, operation, Errno::IO);
        }
        if let Err(errno) = self.check(&request) {
            return self.fail(tag, operation, errno);
        }
        let odd = self.is_odd(&request);
        if odd && on(Bug::BlockSizeFollows) {
            return self.fail(tag, operation, Errno::INVAL);
        }
        match self.slots.admit(request, odd, self.now) {
            Some(n) => self.advance(n),
            None => self.fail(tag, operation, Errno::AGAIN),
        }
    }

    fn check(&self, request: &Request) -> Result<(), Errno> {
        let limits = &self.shared.limits;
        let changes = matches!(
            request.operation,
            Operation::Write | Operation::Discard | Operation::WriteZeroes | Operation::Merge
        );
        if changes && limits.read_only {
            return Err(Errno::ROFS);
        }
        if request.operation == Operation::Flush {
            return Ok(());
        }
        let end = request.offset.checked_add(request.len).ok_or(Errno::INVAL)?;
        if end > limits.size {
            let write = request.operation == Operation::Write;
            return Err(if write { Errno::NOSPC } else { Errno::INVAL });
        }
        let buffer = request.buffer;
        match request.operation {
            Operation::Read | Operation::Write if buffer.len() as u64 != request.len => {
                Err(Errno::INVAL)
            }
            Operation::Extents
                if buffer.len() < crate::front::ExtentRecord::BYTES || request.len == 0 =>
            {
                Err(Errno::INVAL)
            }
            _ => Ok(()),
        }
    }

    /// Cuts and starts as many pieces as there are slots, then ends the request when all are done.
    pub(super) fn advance(&mut self, n: u32) {
        if self.pausing {
            self.hold(n);
            return self.close_if_done(n);
        }
        let mut steps = 0;
        while let Some(piece) = self.next_piece(n) {
            if let Some(outcome) = self.start(piece) {
                self.end_piece(piece, outcome);
            }
            steps += 1;
            if steps >= CLUSTERS_PER_TURN {
                self.resume.push_back(n);
                return;
            }
        }
        self.close_if_done(n);
    }

    fn close_if_done(&mut self, n: u32) {
        let slot = &self.slots.requests[n as usize];
        if !slot.active || slot.outstanding > 0 || slot.flushing {
            return;
        }
        let cut = slot.opened && slot.cursor >= slot.request.len;
        if !cut && slot.error.is_none() {
            return;
        }
        if !self.resume.is_empty() && self.resume.contains(&n) {
            return;
        }
        let Slot { request: Request { tag, operation, len, .. }, held, error, .. } = *slot;
        let Slot { since, class, value, .. } = *slot;
        self.slots.retire(n);
        if held {
            self.holding -= 1;
        }
        match error {
            Some(errno) => self.fail(tag, operation, errno),
            None => {
                let nanos = self.now.saturating_sub(since);
                self.shared.queue_stats[self.lane].ended(class, len, nanos);
                self.finished.push((tag, Ok(value)));
            }
        }
    }

    /// Makes the next piece of a request; `None` when there is none, or no slot for it.
    fn next_piece(&mut self, n: u32) -> Option<u32> {
        let slot = &self.slots.requests[n as usize];
        if !slot.active || slot.error.is_some() || slot.flushing {
            return None;
        }
        let Request { operation, flags, offset, len, .. } = slot.request;
        let Slot { opened, cursor, odd, .. } = *slot;
        let mut piece = Piece { request: n, ..Piece::FREE };
        if !opened {
            let slot = &mut self.slots.requests[n as usize];
            slot.opened = true;
            match operation {
                Operation::Flush | Operation::Extents => {
                    slot.cursor = len;
                    let flush = operation == Operation::Flush;
                    piece.job = if flush { Job::Flush } else { Job::Extents };
                }
                _ if flags.preflush && !on(Bug::PreflushIgnored) => {
                    slot.flushing = true;
                    piece.job = Job::Flush;
                }
                _ => return self.next_piece(n),
            }
        } else {
            if cursor >= len {
                return None;
            }
            piece.job = Job::Data(match operation {
                Operation::Read => PieceKind::Read,
                Operation::Write => PieceKind::Write,
                Operation::Discard => PieceKind::Discard,
                Operation::Merge => PieceKind::Merge,
                _ => PieceKind::Zero,
            });
        }
        let index = self.slots.piece(n)?;
        if let Job::Data(kind) = piece.job {
            let cluster = self.shared.chain.cluster;
            let size = self.shared.limits.size;
            let cut = first_piece(cluster, size, offset + cursor, len - cursor);
            piece.cluster = self.shared.pieces.place(cut.cluster);
            piece.from = cut.from;
            piece.len = cut.len;
            piece.whole = cut.whole;
            piece.buffer = cursor;
            piece.dsync = flags.fua && kind == PieceKind::Write;
        }
        piece.stage = Stage::Asked;
        let Piece { job, len: cut, cluster, .. } = piece;
        self.slots.pieces[index as usize] = piece;
        let cut = match job {
            Job::Data(_) if on(Bug::BorderHalfDone) && self.at_border(cluster) => len - cursor,
            Job::Data(kind) if odd => self.cut_odd(index, kind),
            _ => cut,
        };
        let slot = &mut self.slots.requests[n as usize];
        slot.cursor += cut;
        slot.outstanding += 1;
        Some(index)
    }

    /// Whether the next cluster is in another piece of a split disk.
    fn at_border(&self, cluster: GuestCluster) -> bool {
        self.shared.pieces.count() > 1 && self.shared.pieces.rest(cluster) == 1
    }

    /// Starts a piece, or starts it again: register, look up, route. `Some` when it ended at once.
    pub(super) fn start(&mut self, index: u32) -> Option<Outcome> {
        let Piece { job, request, cluster, whole, odd, .. } = self.slots.pieces[index as usize];
        let kind = match job {
            Job::Flush => return self.flush_piece(index),
            Job::Extents => return self.extents(index),
            Job::Data(kind) => kind,
        };
        if kind != PieceKind::Read && self.shared.refuses_writes() {
            return Some(Err(Errno::IO));
        }
        if odd && kind == PieceKind::Read && !self.has_bounce(index) {
            return None;
        }
        let flags = self.slots.requests[request as usize].request.flags;
        let facts = Facts {
            whole,
            keep_blocks: flags.no_unmap || self.shared.keep_blocks,
            top: self.shared.chain.top().id,
            floor: self.shared.floor,
            in_place: self.shared.in_place,
            down: self.shared.down,
            raw_top: self.shared.raw_top,
        };
        // I11, F9: register, fence, then look up.
        let ticket = self.shared.grace.enter(self.lane);
        let mut cell = self.shared.map.get(cluster);
        if on(Bug::ClaimIgnored) {
            cell = cell.map(|cell| Cell { claimed: false, ..cell });
        }
        let way = route(kind, cell, facts);
        visit(|| self.covered(index, kind, way, cell));
        let in_place = match way {
            Route::Read(..) => true,
            Route::Write(level, at) | Route::Zero(level, at) | Route::Punch(level, at) => {
                let looks = odd || self.rewrites.busy();
                if looks && self.stands_in_line(index, level, at) {
                    self.leave(ticket);
                    return None;
                }
                // Else the keeper does it.
                !odd || self.rewrites.alone() || matches!(way, Route::Punch(..))
            }
            _ => false,
        };
        // Zeros over a hole stay a hole.
        let zeros = way == Route::Allocate && self.all_zero(index);
        let way = if zeros { Route::Nothing } else { way };
        let clean = if way == Route::Allocate { self.clean_at_hand(index) } else { None };
        match clean {
            Some(to) => self.write_and_map(index, to, ticket),
            None if in_place => self.slots.pieces[index as usize].ticket = Some(ticket),
            // F8: whoever waits for anything but its own I/O is not registered.
            None => self.leave(ticket),
        }
        if let Some(class) = ClassId::of(kind, way, facts.top) {
            let slot = &mut self.slots.requests[request as usize];
            slot.class = slot.class.max(class);
        }
        if clean.is_some() {
            return None;
        }
        self.follow(index, way)
    }

    /// A decision as a number, for the table of what the simulator has covered.
    fn covered(&self, index: u32, kind: PieceKind, way: Route, cell: Option<Cell>) -> u16 {
        let piece = &self.slots.pieces[index as usize];
        let page = self.shared.map.page(piece.cluster.slot().page);
        let flags = self.slots.requests[piece.request as usize].request.flags;
        let state = u16::from(page.is_some_and(|p| !p.is_durable()))
            | u16::from(cell.is_some_and(|c| c.has_lower)) << 1
            | u16::from(piece.whole) << 2
            | u16::from(flags.fua) << 3;
        (kind as u16) << 8 | way.number() << 4 | state
    }

    fn follow(&mut self, index: u32, way: Route) -> Option<Outcome> {
        let piece = &self.slots.pieces[index as usize];
        let Piece { cluster, from, len, odd, buffer: skip, .. } = *piece;
        let caller = self.caller(index);
        let Request { flags, buffer, .. } = self.slots.requests[piece.request as usize].request;
        let (stage, message) = match way {
            Route::Broken => return Some(Err(Errno::IO)),
            Route::Nothing => return self.settle(index),
            Route::FillZeros => return Some(self.fill_zeros(index, 0)),
            Route::Read(level, at) => return self.read(index, level, at),
            Route::Write(level, at) | Route::Zero(level, at) if odd => {
                if self.rewrites.alone() {
                    return self.rewrite(index, level, at);
                }
                self.count_rewritten(index);
                (Stage::Changing, self.patch(index))
            }
            Route::Write(level, at) => return self.write(index, level, at),
            Route::Zero(level, at) => return self.zero(index, level, at),
            Route::Punch(level, at) => return self.punch(index, level, at),
            Route::CopyUpZero if flags.fast_zero => return Some(Err(Errno::OPNOTSUPP)),
            Route::Load => (Stage::Asked, ToKeeper::Load(caller, cluster.slot().page)),
            Route::Wait => (Stage::Asked, ToKeeper::Wait(caller, cluster)),
            Route::Allocate => (Stage::Asked, ToKeeper::Allocate(caller, cluster)),
            Route::CopyUp | Route::CopyUpZero => (
                Stage::Changing,
                ToKeeper::CopyUp {
                    caller,
                    cluster,
                    from,
                    len,
                    zero: way == Route::CopyUpZero,
                    data: buffer.part(skip, len),
                    odd,
                },
            ),
            Route::CopyUpWhole => (
                Stage::Changing,
                ToKeeper::CopyUp {
                    caller,
                    cluster,
                    from: 0,
                    len: 0,
                    zero: true,
                    data: Buffer::NONE,
                    odd: false,
                },
            ),
            Route::CopyDown => (Stage::Changing, ToKeeper::CopyDown(caller, cluster)),
            Route::MapClean => (Stage::Changing, ToKeeper::MapClean(caller, cluster)),
            Route::Unmap => (Stage::Changing, ToKeeper::Unmap(caller, cluster)),
        };
        self.slots.pieces[index as usize].stage = stage;
        self.shared.keeper.send(message);
        None
    }

    /// The change is in place: with FUA, wait until the page is durable (F3, I4).
    pub(super) fn settle(&mut self, index: u32) -> Option<Outcome> {
        let piece = self.slots.pieces[index as usize];
        if !self.slots.requests[piece.request as usize].request.flags.fua
            || self.shared.raw_top
            || on(Bug::FuaEarly)
        {
            return Some(Ok(0));
        }
        if self.shared.refuses_writes() {
            return Some(Err(Errno::IO));
        }
        let page = piece.cluster.slot().page;
        if self.shared.map.page(page).is_none_or(|p| p.is_durable()) {
            return Some(Ok(0));
        }
        self.slots.pieces[index as usize].stage = Stage::Settling;
        self.shared.keeper.send(ToKeeper::Durable(self.caller(index), page));
        None
    }

    /// As [`Queue::settle`], for data that was written without `RWF_DSYNC`.
    pub(super) fn settle_by_flush(&mut self, index: u32) -> Option<Outcome> {
        let piece = self.slots.pieces[index as usize];
        let fua = self.slots.requests[piece.request as usize].request.flags.fua;
        if !fua || on(Bug::FuaZeroEarly) {
            return Some(Ok(0));
        }
        self.flush_piece(index)
    }

    /// A piece ended: its slot is free, and its request goes on or ends.
    pub(super) fn end_piece(&mut self, index: u32, outcome: Outcome) {
        let Piece { request, bounce, ticket, .. } = self.slots.pieces[index as usize];
        debug_assert!(ticket.is_none());
        if bounce.is_some() {
            self.bounces.give(bounce);
        }
        self.slots.free_piece(index);
        let slot = &mut self.slots.requests[request as usize];
        slot.outstanding -= 1;
        slot.flushing = false;
        match outcome {
            Ok(value) => slot.value = value.max(slot.value),
            // F26: the first error is the request's.
            Err(errno) => slot.error = slot.error.or(Some(errno)),
        }
    }

    /// Ends a piece outside of `advance`.
    pub(super) fn end_and_advance(&mut self, index: u32, outcome: Outcome) {
        let request = self.slots.pieces[index as usize].request;
        self.end_piece(index, outcome);
        self.advance(request);
    }

    /// A request ends with an error.
    fn fail(&mut self, tag: u64, operation: Operation, errno: Errno) {
        self.shared.queue_stats[self.lane].failed(operation);
        self.finished.push((tag, Err(errno)));
    }
}
