//! The front end on a queue's thread: heads of the rings that belong to this queue become requests,
//! outcomes become answers.
//!
//! A ring is looked at when its guest kicks. While it is, the guest need not; before this thread
//! may sleep it is asked to again, and the ring looked at once more.

use crate::config::Config;
use crate::parts::{Next, Open, Part, across};
use crate::ring::{Ring, Setup};
use crossbeam_queue::SegQueue;
use ploop_engine::arena::Arena;
use ploop_engine::{Errno, FrontEnd, Intake, Limits, Outcome, Stride};
use ploop_io::{Interest, Waker};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};
use virtio_bindings::virtio_blk as blk;

/// What the thread of the monitor's messages asks of a queue.
pub(crate) enum Mail {
    /// Serve a ring; the answer says whether it can be.
    Start(Box<Setup>, SyncSender<crate::Result<()>>),
    /// Finish what was taken from a ring; the answer is the next head.
    Stop(u16, SyncSender<u16>),
    /// The guest wants to hear of answers in another way.
    Call(u16, Option<OwnedFd>),
}

/// Where mail is left.
#[derive(Default)]
pub(crate) struct Inbox {
    mail: SegQueue<Mail>,
    waker: OnceLock<Waker>,
    /// Nobody reads it any more.
    closed: AtomicBool,
}

impl Inbox {
    pub fn put(&self, mail: Mail) {
        self.mail.push(mail);
        match self.waker.get() {
            _ if self.is_closed() => drop(self.mail.pop()),
            Some(waker) => waker.wake(),
            None => {}
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

/// A place for a ring.
struct Slot {
    ring: Ring,
    /// Tells an event of this ring from one of the ring before.
    generation: u16,
    watched: bool,
    /// There may be heads to take.
    pending: bool,
    /// Requests taken and not answered.
    running: usize,
    stopping: Option<SyncSender<u16>>,
}

/// The rings of one queue.
pub struct VhostFront {
    inbox: Arc<Inbox>,
    config: Arc<Config>,
    limits: Limits,
    slots: Vec<Option<Slot>>,
    generation: u16,
    opens: Vec<Open>,
    free: Vec<usize>,
    parts: Vec<Part>,
    free_parts: Vec<usize>,
    /// Requests with parts still to be handed in.
    handing: VecDeque<usize>,
    /// `None` only while it is dropped.
    arena: Option<Arena>,
    /// Which ring is looked at first.
    first: usize,
    stopping: bool,
}

impl VhostFront {
    pub(crate) fn new(
        inbox: Arc<Inbox>,
        config: Arc<Config>,
        limits: Limits,
        arena: Arena,
    ) -> Self {
        Self {
            inbox,
            config,
            limits,
            slots: Vec::new(),
            generation: 0,
            opens: Vec::new(),
            free: Vec::new(),
            parts: Vec::new(),
            free_parts: Vec::new(),
            handing: VecDeque::new(),
            arena: Some(arena),
            first: 0,
            stopping: false,
        }
    }

    /// Tells how to wake this queue's thread. On that thread, before the first `poll`.
    pub fn set_waker(&self, waker: Waker) {
        let _ = self.inbox.waker.set(waker);
    }

    fn read_mail(&mut self, intake: &mut dyn Intake) {
        while let Some(mail) = self.inbox.mail.pop() {
            match mail {
                Mail::Start(setup, reply) => {
                    let started = Ring::new(*setup).map(|ring| self.add(ring));
                    let _ = reply.send(started);
                }
                Mail::Stop(index, reply) => match self.slot_of(index) {
                    Some(n) => self.stop_ring(n, reply, intake),
                    // Nothing was taken from a ring that never ran.
                    None => drop(reply),
                },
                Mail::Call(index, call) => {
                    if let Some(slot) = self.slot_of(index).and_then(|n| self.slots[n].as_mut()) {
                        slot.ring.set_call(call);
                    }
                }
            }
        }
    }

    fn slot_of(&self, index: u16) -> Option<usize> {
        self.slots.iter().position(|s| s.as_ref().is_some_and(|s| s.ring.index == index))
    }

    fn add(&mut self, ring: Ring) {
        self.generation = self.generation.wrapping_add(1);
        let again = ring.left_over();
        if again > 0 {
            tracing::info!(ring = ring.index, again, "requests of a server before are done again");
        }
        let slot = Slot {
            ring,
            generation: self.generation,
            watched: false,
            pending: true,
            running: 0,
            stopping: None,
        };
        match self.slots.iter().position(Option::is_none) {
            Some(n) => self.slots[n] = Some(slot),
            None => self.slots.push(Some(slot)),
        }
    }

    fn stop_ring(&mut self, n: usize, reply: SyncSender<u16>, intake: &mut dyn Intake) {
        let Some(slot) = &mut self.slots[n] else { return };
        slot.stopping = Some(reply);
        slot.pending = false;
        if std::mem::take(&mut slot.watched) {
            intake.unwatch(key(n, slot.generation));
        }
    }

    /// Rings that were to be stopped and have nothing left.
    fn bury(&mut self) {
        for place in &mut self.slots {
            let done = place.as_ref().is_some_and(|s| s.stopping.is_some() && s.running == 0);
            if done && let Some(mut slot) = place.take() {
                slot.ring.tell();
                if let Some(reply) = slot.stopping.take() {
                    let _ = reply.send(slot.ring.base());
                }
            }
        }
    }

    /// Takes heads of all rings in turn, while there is room.
    fn take(&mut self, intake: &mut dyn Intake) {
        let count = self.slots.len();
        for turn in 0..count {
            let n = (self.first + turn) % count;
            while self.slots[n].as_ref().is_some_and(|slot| slot.pending) {
                self.drain(n, intake);
                if intake.room() == 0 || !self.handing.is_empty() {
                    self.first = n;
                    return;
                }
            }
        }
        self.first = if count == 0 { 0 } else { (self.first + 1) % count };
    }

    /// Takes heads of one ring, until there are none or there is no room.
    fn drain(&mut self, n: usize, intake: &mut dyn Intake) {
        if let Some(slot) = &mut self.slots[n] {
            slot.ring.hush();
        }
        while intake.room() > 0 && self.handing.is_empty() {
            let open = self.free.pop().unwrap_or_else(|| {
                self.opens.push(Open::default());
                self.opens.len() - 1
            });
            let Some(slot) = &mut self.slots[n] else { return };
            let request = &mut self.opens[open];
            let Some((head, read)) = slot.ring.take(&mut request.parsed) else {
                self.free.push(open);
                slot.pending = slot.ring.listen();
                return;
            };
            slot.running += 1;
            (request.slot, request.head) = (n, head);
            request.fua = !self.config.is_volatile(slot.ring.features);
            let begun = request.begin(&self.limits);
            match read.and(begun) {
                Ok(()) => self.hand_in(open, intake),
                Err(errno) => {
                    request.error = Some(errno);
                    self.finish(open);
                }
            }
        }
    }

    /// Hands the parts of a request in; what does not fit waits.
    fn hand_in(&mut self, open: usize, intake: &mut dyn Intake) {
        while !self.opens[open].is_given() {
            if intake.room() == 0 {
                return self.handing.push_back(open);
            }
            let Some(arena) = &mut self.arena else { return };
            match self.opens[open].next(open, &self.limits, arena) {
                Next::Part(part, mut request) => {
                    let n = self.free_parts.pop().unwrap_or_else(|| {
                        self.parts.push(Part::default());
                        self.parts.len() - 1
                    });
                    self.parts[n] = part;
                    request.tag = n as u64;
                    intake.push(request);
                }
                Next::Wait => return self.handing.push_back(open),
            }
        }
        if self.opens[open].is_done() {
            self.finish(open);
        }
    }

    fn hand_in_waiting(&mut self, intake: &mut dyn Intake) {
        for _ in 0..self.handing.len() {
            if intake.room() == 0 {
                return;
            }
            let Some(open) = self.handing.pop_front() else { return };
            self.hand_in(open, intake);
        }
    }

    /// Answers a request.
    fn finish(&mut self, open: usize) {
        let request = &mut self.opens[open];
        let identity = request.parsed.operation.is_none() && request.error.is_none();
        if identity {
            let text = &self.config.identity;
            // SAFETY: the guest's memory, as in `parts.rs`; `across` stays within `text`.
            across(&request.parsed.data, 0, text.len(), |ptr, at, len| unsafe {
                ptr.copy_from(text[at..].as_ptr(), len);
            });
        }
        let status = match request.error {
            None => blk::VIRTIO_BLK_S_OK,
            Some(Errno::OPNOTSUPP) => blk::VIRTIO_BLK_S_UNSUPP,
            Some(_) => blk::VIRTIO_BLK_S_IOERR,
        };
        let mut written = request.written();
        match request.parsed.status {
            // SAFETY: a byte of the guest's memory, mapped while its ring is served.
            Some(place) => unsafe { place.ptr.write_volatile(status as u8) },
            None => written = 0,
        }
        if identity {
            written = 1 + self.config.identity.len().min(request.parsed.len() as usize) as u32;
        }
        if let Some(slot) = &mut self.slots[request.slot] {
            slot.ring.answer(request.head, written);
            slot.running -= 1;
        }
        self.free.push(open);
    }

    fn tell(&mut self) {
        self.slots.iter_mut().flatten().for_each(|slot| slot.ring.tell());
    }

    /// Rings that may sleep are watched.
    fn arm(&mut self, intake: &mut dyn Intake) {
        for (n, place) in self.slots.iter_mut().enumerate() {
            let Some(slot) = place else { continue };
            if !slot.watched && slot.stopping.is_none() && !self.stopping {
                slot.watched = true;
                intake.watch(slot.ring.kick(), Interest::Read, key(n, slot.generation));
            }
        }
    }
}

fn key(slot: usize, generation: u16) -> u32 {
    u32::from(generation) << 16 | slot as u32
}

impl FrontEnd for VhostFront {
    fn poll(&mut self, intake: &mut dyn Intake) {
        self.stopping = intake.stopping();
        self.read_mail(intake);
        self.hand_in_waiting(intake);
        if !self.stopping {
            self.take(intake);
        }
        // What needed nobody else was answered at once.
        self.tell();
        self.bury();
        self.arm(intake);
    }

    fn ready(&mut self, key: u32, events: i32) {
        let (n, generation) = ((key & 0xffff) as usize, (key >> 16) as u16);
        let slot = self.slots.get_mut(n).and_then(Option::as_mut);
        let Some(slot) = slot.filter(|slot| slot.generation == generation) else { return };
        slot.watched = false;
        if events < 0 {
            let (ring, errno) = (slot.ring.index, -events);
            tracing::error!(errno, ring, "a ring's kick cannot be waited for");
            return;
        }
        slot.ring.kicked();
        slot.pending = slot.stopping.is_none();
    }

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        let n = tag as usize;
        let Some(place) = self.parts.get_mut(n) else { return };
        let part = std::mem::take(place);
        self.free_parts.push(n);
        let open = part.open;
        let Some(arena) = &mut self.arena else { return };
        let request = &mut self.opens[open];
        request.came_back(part, outcome, arena);
        if request.is_done() && !self.handing.contains(&open) {
            self.finish(open);
        }
    }

    fn flush_replies(&mut self) {
        self.tell();
        let left = |s: &Slot| s.pending || (s.stopping.is_some() && s.running == 0);
        let more = !self.handing.is_empty() || self.slots.iter().flatten().any(left);
        // The queue may sleep now without another `poll`.
        if more && let Some(waker) = self.inbox.waker.get() {
            waker.wake();
        }
    }

    fn renewed(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A disk that completes whole batches stands still until the next request: the first ones go
    /// out at once, for a call of the ring each.
    fn stride(&self) -> Stride {
        Stride { completions: 1, requests: 2, give_way: false }
    }

    fn finished(&self) -> bool {
        self.stopping && self.free.len() == self.opens.len()
    }
}

impl Drop for VhostFront {
    fn drop(&mut self) {
        self.inbox.closed.store(true, Ordering::SeqCst);
        while self.inbox.mail.pop().is_some() {}
        if self.free.len() < self.opens.len() {
            // The kernel may still write into our memory, and into the guest's.
            std::mem::forget(self.arena.take());
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}
