//! The front end on a queue's thread: the requests of every mounted file, no blocking call.
//!
//! Each turn: take what others left, hand parts to the engine, read requests while there is memory
//! for them, ask to be told when more come. `receive.rs` has the way in. An answer is
//! sent by the thread that got it from the engine, at once: one write for each, as the kernel
//! takes no two together.

use crate::channel::{Channel, Head};
use crate::file::File;
use crate::job::{Cuts, Step, Table};
use crate::protocol::request::HEAD;
use crate::queues::{Inbox, Mail, Present};
use crate::ranges::Holder;
use ploop_engine::arena::{Arena, Block};
use ploop_engine::{FrontEnd, Intake, Limits, Outcome, Stride};
use ploop_io::{Interest, Waker};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Requests read in one turn.
const READS: usize = 64;
/// Requests in flight that need no memory of the system (D7): twice what the kernel keeps.
const ROOM: usize = 512;

/// A mounted file, as one queue serves it.
pub(crate) struct Mount {
    pub(crate) channel: Channel,
    pub(crate) file: Arc<File>,
    /// This queue serves it always, the others when there is much to do.
    home: bool,
    /// There may be requests.
    pub(crate) readable: bool,
    /// Asked to be told of requests.
    watched: bool,
    /// No more is read: it was unmounted, or the device stops.
    pub(crate) closed: bool,
    /// Requests in the engine.
    pub(crate) open: usize,
    /// Tells a late event of one that was here before.
    generation: u16,
    _present: Present,
}

/// The FUSE files of one queue.
pub struct FuseFront {
    pub(crate) inboxes: Arc<[Inbox]>,
    pub(crate) me: usize,
    pub(crate) cuts: Cuts,
    /// `None` only while it is dropped.
    pub(crate) arena: Option<Arena>,
    pub(crate) mounts: Vec<Option<Mount>>,
    generation: u16,
    /// Who is read first; moves on so that no mount starves another.
    first: usize,
    pub(crate) table: Table,
    /// Requests with parts to be handed in.
    pub(crate) handing: VecDeque<u32>,
    /// The request that waits for memory. While there is one, no other is read.
    pub(crate) stalled: Option<u32>,
    /// Reading stopped because there was no memory for a payload.
    pub(crate) starved: bool,
    /// Where the next message goes: its first bytes, the usual payload, the rest of a long one.
    pub(crate) head: Head,
    pub(crate) usual: Option<Block>,
    pub(crate) long: Option<Block>,
    /// Bytes of the usual payload, and of the longest one lately.
    pub(crate) usual_len: usize,
    pub(crate) longest: usize,
    pub(crate) writes: u32,
    stopping: bool,
}

impl Mount {
    /// Whether this queue is to read now.
    pub(crate) fn reads(&self) -> bool {
        self.readable && !self.closed && (self.home || self.file.shared.load(Ordering::SeqCst))
    }
}

impl FuseFront {
    pub(crate) fn new(inboxes: Arc<[Inbox]>, me: usize, limits: Limits, arena: Arena) -> Self {
        Self {
            inboxes,
            me,
            cuts: Cuts::of(&limits),
            arena: Some(arena),
            mounts: Vec::new(),
            generation: 0,
            first: 0,
            table: Table::new(ROOM),
            handing: VecDeque::with_capacity(ROOM),
            stalled: None,
            starved: false,
            head: [0; HEAD],
            usual: None,
            long: None,
            usual_len: 4096,
            longest: 0,
            writes: 0,
            stopping: false,
        }
    }

    /// Tells others how to wake this queue. Call it on the queue's thread before the first `poll`.
    pub fn set_waker(&self, waker: Waker) {
        self.inbox().set_waker(waker);
    }

    fn inbox(&self) -> &Inbox {
        &self.inboxes[self.me]
    }

    fn holder(&self, slot: u32) -> Holder {
        Holder { queue: self.me, slot }
    }

    fn adopt(&mut self, mail: Mail) {
        for new in mail.mounts {
            self.generation = self.generation.wrapping_add(1);
            let mount = Mount {
                channel: new.channel,
                file: new.file,
                home: new.home,
                readable: true,
                watched: false,
                closed: false,
                open: 0,
                generation: self.generation,
                _present: new.present,
            };
            match self.mounts.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = Some(mount),
                None => self.mounts.push(Some(mount)),
            }
        }
        for slot in mail.granted {
            self.begin(slot);
        }
    }

    /// Starts a request, or goes on starting it: memory first, then its range.
    pub(crate) fn start(&mut self, slot: u32) {
        let (me, Some(arena)) = (self.holder(slot), self.arena.as_mut()) else { return };
        let Some(job) = self.table.get_mut(slot) else { return };
        if job.need > 0 && job.blocks[0].is_none() {
            job.blocks[0] = arena.alloc(job.need);
            if job.blocks[0].is_none() {
                self.stalled = Some(slot);
                return;
            }
        }
        if let (Some((range, hold)), false) = (&job.range, job.asked) {
            let Some(mount) = self.mounts.get(job.mount).and_then(Option::as_ref) else { return };
            job.asked = true;
            if !mount.file.ranges.acquire(me, range.start, range.end, *hold) {
                return;
            }
        }
        self.begin(slot);
    }

    /// It has all it needs.
    fn begin(&mut self, slot: u32) {
        match self.table.get_mut(slot) {
            Some(job) if job.transfer.done() => self.step(slot),
            Some(job) => {
                job.queued = true;
                self.handing.push_back(slot);
            }
            None => {}
        }
    }

    /// Goes on with a request of which nothing is in the engine.
    fn step(&mut self, slot: u32) {
        let Some(arena) = self.arena.as_mut() else { return };
        let Some(job) = self.table.get_mut(slot) else { return };
        let Some(mount) = self.mounts.get_mut(job.mount).and_then(Option::as_mut) else { return };
        match job.step(&mount.file, &self.cuts, arena) {
            Step::More => {
                job.queued = true;
                self.handing.push_back(slot);
                return;
            }
            Step::Answer(reply) => mount.channel.answer(&reply),
            Step::Data(range) => {
                let block = job.blocks[0].as_ref();
                let data =
                    block.map_or(&[][..], |block| arena.bytes(block, range.start, range.end));
                mount.channel.answer_data(job.unique, data);
            }
        }
        mount.open -= 1;
        job.free(arena);
        let file = job.asked.then(|| Arc::clone(&mount.file));
        self.table.remove(slot);
        if let Some(file) = file {
            let (inboxes, mine) = (&self.inboxes, self.me);
            let mut own = Vec::new();
            file.ranges.release(Holder { queue: mine, slot }, |next| {
                if next.queue == mine {
                    own.push(next.slot);
                } else if let Some(inbox) = inboxes.get(next.queue) {
                    inbox.grant(next.slot);
                }
            });
            own.into_iter().for_each(|slot| self.begin(slot));
        }
    }

    /// Hands parts to the engine while it has room.
    pub(crate) fn hand_in(&mut self, intake: &mut dyn Intake) {
        while intake.room() > 0 {
            let (Some(&slot), Some(arena)) = (self.handing.front(), self.arena.as_ref()) else {
                return;
            };
            let Some(job) = self.table.get_mut(slot) else {
                self.handing.pop_front();
                continue;
            };
            if let Some(part) = job.next(u64::from(slot), &self.cuts, arena) {
                intake.push(part);
            }
            if job.transfer.done() {
                // Out of the line before it can end: its place may be another's then.
                job.queued = false;
                self.handing.pop_front();
                if job.idle() {
                    self.step(slot);
                }
            }
        }
    }

    /// Reads requests of all mounts in turn.
    fn read(&mut self, intake: &mut dyn Intake) {
        let count = self.mounts.len();
        let mut budget = READS;
        self.starved = false;
        for turn in 0..count {
            let at = (self.first + turn) % count;
            // Also when the engine has no room: what it holds must not keep a `stat` waiting.
            while budget > 0 && self.stalled.is_none() && self.receive(at) {
                budget -= 1;
                self.hand_in(intake);
            }
        }
        self.first = if count == 0 { 0 } else { (self.first + 1) % count };
        self.share();
        if budget == 0 {
            // There may be more: come again after the others.
            intake.poll_at(intake.now());
        }
    }

    /// Calls the other queues in when this one has much to do, or cannot read on.
    fn share(&mut self) {
        let stuck = self.stalled.is_some() || self.starved;
        for at in 0..self.mounts.len() {
            let Some(mount) = &self.mounts[at] else { continue };
            if !mount.home || mount.closed {
                continue;
            }
            let shared = mount.file.shared.load(Ordering::Relaxed);
            if !shared && (stuck || mount.open >= mount.file.share_at) {
                self.call_in(at);
            } else if shared && !stuck && mount.open < mount.file.share_at / 2 {
                mount.file.shared.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Has all queues look at a mount: to help, or to see that it is gone.
    pub(crate) fn call_in(&self, at: usize) {
        let Some(Some(mount)) = self.mounts.get(at) else { return };
        mount.file.shared.store(true, Ordering::SeqCst);
        let others = self.inboxes.iter().enumerate().filter(|(at, _)| *at != self.me);
        others.for_each(|(_, inbox)| inbox.wake());
    }

    /// Asks to be told of requests; lets go of mounts that are done with.
    fn watch(&mut self, intake: &mut dyn Intake) {
        for (at, place) in self.mounts.iter_mut().enumerate() {
            let Some(mount) = place else { continue };
            let key = key(at, mount.generation);
            if mount.closed && mount.open == 0 {
                if mount.watched {
                    intake.unwatch(key);
                }
                *place = None;
            } else if !mount.readable && !mount.watched && !mount.closed {
                mount.watched = true;
                intake.watch(mount.channel.raw(), Interest::Read, key);
            }
        }
    }
}

/// Place and generation of a mount in one number.
fn key(at: usize, generation: u16) -> u32 {
    u32::from(generation) << 16 | (at as u32 & 0xffff)
}

impl FrontEnd for FuseFront {
    /// Requests come one by one: the disk gets the first ones while the others are read.
    fn stride(&self) -> Stride {
        Stride { requests: 16, ..Stride::default() }
    }

    fn poll(&mut self, intake: &mut dyn Intake) {
        if let Some(mail) = self.inbox().take() {
            self.adopt(mail);
        }
        if intake.stopping() {
            if !std::mem::replace(&mut self.stopping, true) {
                self.inbox().close();
            }
            for mount in self.mounts.iter_mut().flatten() {
                mount.closed = true;
            }
        }
        if let Some(slot) = self.stalled.take() {
            self.start(slot);
        }
        self.hand_in(intake);
        self.read(intake);
        self.watch(intake);
    }

    fn ready(&mut self, key: u32, events: i32) {
        let place = self.mounts.get_mut((key & 0xffff) as usize).and_then(Option::as_mut);
        let generation = (key >> 16) as u16;
        let Some(mount) = place.filter(|mount| mount.generation == generation) else { return };
        mount.watched = false;
        mount.readable = true;
        if events < 0 {
            tracing::warn!(errno = -events, "the watch on a FUSE file failed");
        }
    }

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        let Ok(slot) = u32::try_from(tag) else { return };
        if self.table.get_mut(slot).is_some_and(|job| job.part_done(outcome)) {
            self.step(slot);
        }
    }

    fn flush_replies(&mut self) {
        // The queue may sleep now without another `poll`, and only `poll` can hand in, read on
        // with the memory that came back, or let go of a mount.
        let done = |mount: &Mount| mount.closed && mount.open == 0;
        if self.stalled.is_some()
            || self.starved
            || !self.handing.is_empty()
            || self.mounts.iter().flatten().any(done)
        {
            self.inbox().wake();
        }
    }

    fn finished(&self) -> bool {
        self.stopping && self.table.len() == 0 && self.mounts.iter().all(Option::is_none)
    }
}

impl Drop for FuseFront {
    fn drop(&mut self) {
        self.inbox().close();
        if self.table.len() > 0 {
            // The kernel may still write into the blocks: the mapping must outlive us.
            std::mem::forget(self.arena.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_the_place_and_the_generation() {
        assert_eq!(key(3, 7), 7 << 16 | 3);
        assert_ne!(key(3, 7), key(3, 8));
    }
}
