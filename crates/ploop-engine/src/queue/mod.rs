//! A queue: one thread, one ring, its front ends. The whole idea in one loop:
//! reap -> answers -> poll the front end -> split -> map -> route -> submit -> complete.
//!
//! A queue reads the map and never writes it. A mapped read or overwrite touches no lock and no
//! other thread.
//!
//! | part | what |
//! |---|---|
//! | `start` | takes a request in, splits it, looks its cluster up, chooses the route |
//! | `disk` | reads and writes in place: submit and complete |
//! | `allocate` | a write to a hole, to a cluster that was cleaned beforehand |
//! | `answer` | what follows the keeper's answer; requests held while the host has no space |
//! | `flush` | FLUSH on this queue, when no change of the map waits to become durable |
//! | `odd` | transfers that direct I/O cannot take as they are |
//! | `rewrite` | parts of blocks, by read-modify-write, where this queue is the only one |
//! | `bytes` | what the processor itself does with a request's bytes |
//! | `extents` | where ranges of the device are stored, for block status and map |
//! | `pause` | no new requests until the layers have been changed |
//! | `slots` | requests and pieces in flight |

mod allocate;
mod answer;
mod bytes;
mod disk;
mod extents;
mod flush;
mod odd;
mod pause;
mod rewrite;
mod slots;
mod start;

use crate::device::Shared;
use crate::front::{FrontEnd, Intake, Outcome, Request};
use crate::limits::{EXTRA_PIECES, GIVE_WAY_NS, GIVE_WAY_SHARE, ZERO_BUFFER};
use crate::message::Caller;
use crate::sync::Ordering;
use ploop_io::{AlignedBuf, Clock, Command, Completion, Interest, Io};
use slots::Slots;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use pause::Ended;

/// Tokens of watches; the low bits are the front end's key.
const WATCH: u64 = 1 << 63;

/// What a turn of the loop wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// There is more to do at once.
    pub busy: bool,
    /// But clients may want to run before.
    pub give_way: bool,
    /// Come again at this time at the latest.
    pub deadline: Option<u64>,
    /// The device is stopping and this queue has nothing left.
    pub finished: bool,
    /// The device pauses and nothing of this queue is under way.
    pub paused: bool,
}

/// A queue of a device; lives on its thread.
pub struct Queue<I: Io> {
    shared: Arc<Shared>,
    lane: usize,
    io: I,
    slots: Slots,
    finished: Vec<(u64, Outcome)>,
    incoming: Vec<Request>,
    completions: Vec<Completion>,
    /// Those before it are done with.
    next_completion: usize,
    /// So many are next.
    reach: usize,
    /// No way is given before this time.
    hurry_until: u64,
    /// Requests that gave way after a long walk over clusters without I/O.
    resume: VecDeque<u32>,
    /// Pieces held because the host has no space (F17), and when they are tried again.
    parked: VecDeque<u32>,
    parked_until: u64,
    /// Pieces that the keeper gave back before it had begun them, because the device pauses.
    given_back: VecDeque<u32>,
    /// Requests in flight that were held for space at least once.
    holding: usize,
    /// The device ends: held pieces got their last try (T17).
    last_try: bool,
    poll_at: Option<u64>,
    flushes: flush::Flushes,
    allocating: allocate::Allocating,
    zeros: AlignedBuf,
    bounces: odd::Bounces,
    rewrites: rewrite::Rewrites,
    /// The file system refused: do not ask again.
    no_punch: bool,
    no_zero_range: bool,
    now: u64,
    /// Alignment of files that requests in flight were looked at with.
    unit: u64,
    /// Nothing new is begun: the device pauses.
    pausing: bool,
    /// The device is gone: everything fails.
    dead: bool,
}

impl<I: Io> Queue<I> {
    pub(crate) fn new(shared: Arc<Shared>, lane: usize, io: I) -> Self {
        shared.queues[lane].set_waker(io.waker());
        let depth = shared.options.depth;
        let caps = shared.chain.top().file.caps();
        Self {
            lane,
            io,
            slots: Slots::new(depth, EXTRA_PIECES),
            finished: Vec::with_capacity(depth),
            incoming: Vec::with_capacity(depth),
            completions: Vec::with_capacity(depth + EXTRA_PIECES),
            next_completion: 0,
            reach: 0,
            hurry_until: 0,
            resume: VecDeque::with_capacity(depth),
            parked: VecDeque::with_capacity(depth),
            parked_until: 0,
            given_back: VecDeque::with_capacity(depth + EXTRA_PIECES),
            holding: 0,
            last_try: false,
            poll_at: None,
            flushes: flush::Flushes::new(depth + EXTRA_PIECES),
            allocating: allocate::Allocating::new(depth + EXTRA_PIECES),
            zeros: crate::memory::buffer(ZERO_BUFFER as usize),
            bounces: odd::Bounces::new(depth + EXTRA_PIECES, &shared),
            rewrites: rewrite::Rewrites::new(depth + EXTRA_PIECES, &shared),
            no_punch: !caps.punch,
            no_zero_range: !caps.zero_range,
            now: 0,
            unit: shared.align.offset(),
            pausing: false,
            dead: false,
            shared,
        }
    }

    /// The queue's ring.
    pub fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// Serves until the device stops and everything handed in has ended, or until it pauses and
    /// nothing is under way.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn run<F: FrontEnd + ?Sized>(
        &mut self,
        front: &mut F,
        clock: &dyn Clock,
    ) -> io::Result<Ended> {
        loop {
            let turn = self.step(front, clock.now());
            if turn.finished {
                return Ok(Ended::Stopped);
            }
            if turn.paused {
                self.io.submit()?;
                return Ok(Ended::Paused);
            }
            if turn.busy {
                self.io.submit()?;
                if turn.give_way {
                    self.give_way(clock);
                }
                continue;
            }
            let timeout =
                turn.deadline.map(|at| Duration::from_nanos(at.saturating_sub(clock.now())));
            let link = &self.shared.queues[self.lane];
            let (shared, pausing) = (&self.shared, &self.shared.pausing);
            let asked = || (shared.stopping.load(Ordering::SeqCst), shared.gives_up());
            let was = asked();
            let idle = || {
                link.is_empty()
                    && asked() == was
                    && (self.pausing || !pausing.load(Ordering::SeqCst))
            };
            self.io.wait(timeout, &idle)?;
        }
    }

    /// One turn of the loop; never blocks and does not submit.
    pub fn step<F: FrontEnd + ?Sized>(&mut self, front: &mut F, now: u64) -> Turn {
        self.now = now;
        self.pausing = !self.dead && self.shared.pausing.load(Ordering::SeqCst);
        self.notice_alignment();
        let stride = front.stride();
        let more = self.reap(front, stride.completions);
        while let Some((piece, answer)) = self.shared.queues[self.lane].take() {
            self.answered(piece, answer);
        }
        self.unpark();
        self.take_up();
        self.serve_line();
        let held = if self.pausing { 0 } else { self.resume.len() };
        for _ in 0..held {
            if let Some(request) = self.resume.pop_front() {
                self.advance(request);
            }
        }
        let mut ended = self.deliver(front);
        let full = !self.pausing && self.poll_front(front, stride.requests);
        self.serve_bounces();
        self.pump_flushes();
        ended |= self.deliver(front);
        if ended {
            front.flush_replies();
        }
        let stats = &self.shared.queue_stats[self.lane];
        stats.in_flight.set(self.slots.in_flight() as u64);
        stats.parked.set(self.parked.len() as u64);
        let stopping = self.shared.stopping.load(Ordering::SeqCst);
        Turn {
            give_way: more && stride.give_way,
            busy: more
                || ((!self.resume.is_empty() || self.rewrites.due()) && !self.pausing)
                || (full && self.slots.room() > 0),
            deadline: self.deadline(),
            finished: stopping && self.slots.in_flight() == 0 && front.finished(),
            paused: self.pausing && !more && self.is_drained(),
        }
    }

    fn deadline(&self) -> Option<u64> {
        let parked = !self.parked.is_empty() && !self.pausing;
        let parked = parked.then_some(self.parked_until);
        match (parked, self.poll_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes some completions, of a new batch so many; returns whether there are more.
    fn reap<F: FrontEnd + ?Sized>(&mut self, front: &mut F, first: usize) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        if self.next_completion >= completions.len() {
            self.next_completion = 0;
            completions.clear();
            self.io.reap(&mut completions);
            self.reach = first;
        }
        let rest = &completions[self.next_completion..];
        let now = rest.len().min(self.reach);
        self.reach = self.reach.saturating_mul(2);
        for c in &rest[..now] {
            if c.token < flush::SYNC {
                self.completed(c.token as u32, c.result);
            } else if c.token & WATCH != 0 {
                front.ready((c.token & u64::from(u32::MAX)) as u32, c.result);
            } else {
                self.sync_ended(c.result);
            }
        }
        self.next_completion += now;
        let more = self.next_completion < completions.len();
        self.completions = completions;
        more
    }

    /// Lets other threads of this processor run. One that hogs it makes that dear: then not again
    /// until the loss is a small share of the time.
    fn give_way(&mut self, clock: &dyn Clock) {
        let before = clock.now();
        if before < self.hurry_until {
            return;
        }
        self.io.give_way();
        let lost = clock.now().saturating_sub(before);
        if lost > GIVE_WAY_NS {
            self.hurry_until = before + lost.saturating_mul(GIVE_WAY_SHARE);
        }
    }

    /// Lets the front end hand requests in; returns whether it filled all room.
    fn poll_front<F: FrontEnd + ?Sized>(&mut self, front: &mut F, most: usize) -> bool {
        self.poll_at = None;
        let room = self.slots.room().min(most);
        let mut intake = QueueIntake {
            io: &mut self.io,
            incoming: &mut self.incoming,
            room,
            now: self.now,
            stopping: self.shared.stopping.load(Ordering::SeqCst),
            poll_at: &mut self.poll_at,
        };
        front.poll(&mut intake);
        let mut incoming = std::mem::take(&mut self.incoming);
        let full = incoming.len() >= room;
        for request in incoming.drain(..) {
            self.admit(request);
        }
        self.incoming = incoming;
        full
    }

    /// Hands ended requests to the front end.
    fn deliver<F: FrontEnd + ?Sized>(&mut self, front: &mut F) -> bool {
        let any = !self.finished.is_empty();
        for (tag, outcome) in self.finished.drain(..) {
            front.complete(tag, outcome);
        }
        any
    }

    fn caller(&self, piece: u32) -> Caller {
        Caller { queue: self.lane as u16, slot: piece }
    }
}

/// What the front end sees of the queue during `poll`.
struct QueueIntake<'a, I: Io> {
    io: &'a mut I,
    incoming: &'a mut Vec<Request>,
    room: usize,
    now: u64,
    stopping: bool,
    poll_at: &'a mut Option<u64>,
}

impl<I: Io> Intake for QueueIntake<'_, I> {
    fn room(&self) -> usize {
        self.room - self.incoming.len().min(self.room)
    }

    fn push(&mut self, request: Request) {
        self.incoming.push(request);
    }

    fn watch(&mut self, fd: i32, interest: Interest, key: u32) {
        self.io.watch(fd, interest, WATCH | u64::from(key));
    }

    fn unwatch(&mut self, key: u32) {
        self.io.unwatch(WATCH | u64::from(key));
    }

    unsafe fn command(&mut self, key: u32, command: Command) -> bool {
        let command = Command { token: WATCH | u64::from(key), ..command };
        // SAFETY: the same promise, passed on.
        unsafe { self.io.command(command) }
    }

    fn lend(&mut self, count: u16) -> Option<u16> {
        self.io.lend(count)
    }

    fn poll_at(&mut self, nanos: u64) {
        *self.poll_at = Some(self.poll_at.map_or(nanos, |at| at.min(nanos)));
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn stopping(&self) -> bool {
        self.stopping
    }
}
