//! Requests and pieces in flight: fixed slots, made at start (D3).

use crate::blocks::overlap;
use crate::front::{Errno, Request};
use crate::grace::Ticket;
use crate::message::Answer;
use crate::route::PieceKind;
use crate::stats::ClassId;
use ploop_format::GuestCluster;
use ploop_io::FileId;
use std::ops::Range;

/// What a piece is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Job {
    /// A part of a data request.
    Data(PieceKind),
    /// A whole FLUSH, or the PREFLUSH of a request.
    Flush,
    /// A whole Extents request.
    Extents,
}

/// Where a piece stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The slot is free.
    Free,
    /// Asked the keeper to make a lookup possible: it answers Retry.
    Asked,
    /// Asked the keeper for a change of the map, or told it that its own part is written.
    Changing,
    /// Asked the keeper for durability: its answer ends the piece.
    Settling,
    /// Reading or writing in place, registered.
    Disk,
    /// Zeroing or punching in place, registered.
    Zeroing,
    /// In a run that rewrites blocks, registered.
    Rewriting,
    /// Writing its part of a copy-up.
    CopyUp,
    /// Writing to a clean cluster, registered, while the keeper maps that.
    Allocating,
    /// That write has ended, the keeper's answer is to come.
    AwaitMap,
    /// Held: the host has no space.
    Parked,
}

/// One piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub request: u32,
    pub job: Job,
    pub stage: Stage,
    pub cluster: GuestCluster,
    /// First byte inside the cluster.
    pub from: u64,
    pub len: u64,
    pub whole: bool,
    /// Offset of the piece in the request's buffer.
    pub buffer: u64,
    /// Bytes done in the present stage.
    pub done: u64,
    /// Bytes of the operation under way.
    pub step: u64,
    pub file: FileId,
    /// Byte position of the piece in `file`.
    pub at: u64,
    /// Bytes of `file` that may be read; what is behind reads as zeros.
    pub readable: u64,
    pub ticket: Option<Ticket>,
    /// The data is durable when its write completes.
    pub dsync: bool,
    /// `RWF_DSYNC` ran out of space: write plainly, then flush.
    pub plain: bool,
    /// Direct I/O cannot take it as it is.
    pub odd: bool,
    /// An odd read's memory, and how far into it the piece begins.
    pub bounce: Option<u8>,
    pub skip: u64,
    /// Times that I/O of it did not fit.
    pub misfits: u8,
    /// While it allocates: what the keeper answered, and the error of the write.
    pub answer: Option<Answer>,
    pub failed: Option<Errno>,
}

impl Piece {
    /// Its data, or zeros, are on their way to a file as they are.
    fn changes_in_place(&self) -> bool {
        let reads = self.job == Job::Data(PieceKind::Read);
        let stages = [Stage::Disk, Stage::Zeroing, Stage::CopyUp, Stage::Allocating];
        !reads && stages.contains(&self.stage)
    }

    pub const FREE: Self = Self {
        request: 0,
        job: Job::Flush,
        stage: Stage::Free,
        cluster: GuestCluster(0),
        from: 0,
        len: 0,
        whole: false,
        buffer: 0,
        done: 0,
        step: 0,
        file: FileId(-1),
        at: 0,
        readable: 0,
        ticket: None,
        dsync: false,
        plain: false,
        odd: false,
        bounce: None,
        skip: 0,
        misfits: 0,
        answer: None,
        failed: None,
    };
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub request: Request,
    pub active: bool,
    /// Some of its pieces may be odd.
    pub odd: bool,
    /// Bytes already cut into pieces.
    pub cursor: u64,
    /// The PREFLUSH, or the only piece of a request without data, was started.
    pub opened: bool,
    /// Nothing more is cut until the PREFLUSH has ended (F26).
    pub flushing: bool,
    pub outstanding: u32,
    pub error: Option<Errno>,
    /// When it was taken in.
    pub since: u64,
    /// What it counts as, by the routes of its pieces so far.
    pub class: ClassId,
    /// A piece of it was held for space at least once.
    pub held: bool,
    /// A piece of it was written by read-modify-write.
    pub rewritten: bool,
    /// What an Extents request found.
    pub value: u32,
}

/// All slots of a queue. Piece `n < depth` is embedded in request `n`.
pub(super) struct Slots {
    pub requests: Vec<Slot>,
    pub pieces: Vec<Piece>,
    free_requests: Vec<u32>,
    free_extra: Vec<u32>,
}

impl Slots {
    pub fn new(depth: usize, extra: usize) -> Self {
        let idle = Slot {
            request: IDLE,
            active: false,
            odd: false,
            cursor: 0,
            opened: false,
            flushing: false,
            outstanding: 0,
            error: None,
            since: 0,
            class: ClassId::first(IDLE.operation),
            held: false,
            rewritten: false,
            value: 0,
        };
        Self {
            requests: vec![idle; depth],
            pieces: vec![Piece::FREE; depth + extra],
            free_requests: (0..depth as u32).rev().collect(),
            free_extra: (depth as u32..(depth + extra) as u32).rev().collect(),
        }
    }

    /// Free request slots.
    pub fn room(&self) -> usize {
        self.free_requests.len()
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.free_requests.len()
    }

    /// Takes a request slot, at this time.
    pub fn admit(&mut self, request: Request, odd: bool, now: u64) -> Option<u32> {
        let n = self.free_requests.pop()?;
        self.requests[n as usize] = Slot {
            request,
            active: true,
            odd,
            cursor: 0,
            opened: false,
            flushing: false,
            outstanding: 0,
            error: None,
            since: now,
            class: ClassId::first(request.operation),
            held: false,
            rewritten: false,
            value: 0,
        };
        Some(n)
    }

    /// Gives a request slot back.
    pub fn retire(&mut self, n: u32) {
        self.requests[n as usize].active = false;
        self.free_requests.push(n);
    }

    /// A piece slot for a request: its own, else one of the extra ones if any is free.
    pub fn piece(&mut self, request: u32) -> Option<u32> {
        if self.pieces[request as usize].stage == Stage::Free {
            return Some(request);
        }
        self.free_extra.pop()
    }

    /// Whether a piece changes some of these bytes of a file right now, as they are.
    pub fn changing(&self, file: FileId, bytes: &Range<u64>) -> bool {
        let changes = |piece: &Piece| {
            let at = piece.at..piece.at + piece.len;
            piece.changes_in_place() && piece.file == file && overlap(&at, bytes)
        };
        // Slots that were free last are taken first, so those in use are at the front.
        let (depth, active) = (self.requests.len(), self.in_flight());
        let own = (0..depth).filter(|n| self.requests[*n].active).take(active);
        let extra = self.pieces.len() - depth - self.free_extra.len();
        let extras = self.pieces[depth..].iter().filter(|piece| piece.stage != Stage::Free);
        own.map(|n| &self.pieces[n]).chain(extras.take(extra)).any(changes)
    }

    /// Gives a piece slot back.
    pub fn free_piece(&mut self, n: u32) {
        self.pieces[n as usize].stage = Stage::Free;
        if n as usize >= self.requests.len() {
            self.free_extra.push(n);
        }
    }
}

const IDLE: Request = Request {
    tag: 0,
    operation: crate::front::Operation::Flush,
    flags: crate::front::Flags { fua: false, preflush: false, no_unmap: false, fast_zero: false },
    offset: 0,
    len: 0,
    buffer: crate::front::Buffer::NONE,
};
