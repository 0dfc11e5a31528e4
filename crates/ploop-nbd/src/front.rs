//! The front end on a queue's thread: many clients, no blocking call.
//!
//! Each turn: take new clients, serve those that waited for memory, read requests round robin
//! while the queue has room, send replies, ask to be told when sockets move again.
//! `receive.rs` has the way in, `answer.rs` the way out.

use crate::connection::{Accepted, Body, Connection, Phase, Reply};
use crate::inflight::{Handle, Table, Ticket};
use crate::memory::Memory;
use crossbeam_queue::SegQueue;
use ploop_engine::{FrontEnd, Intake, Limits, Outcome, Stride};
use ploop_io::{Interest, Waker};
use rustix::net::{Shutdown, shutdown};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Turns of reading in one `poll`, over all clients.
const STEPS: usize = 128;
/// A client that holds memory others wait for must move within this time (nanoseconds).
const STALL: u64 = 30_000_000_000;
/// How often that is looked at.
const STALL_CHECK: u64 = 1_000_000_000;
/// Clients get this long to take their last replies when the device stops.
const GOODBYE: u64 = 5_000_000_000;

/// Where the accepting thread leaves clients for a queue.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) clients: SegQueue<Accepted>,
    pub(crate) waker: OnceLock<Waker>,
    /// The queue takes no more clients.
    pub(crate) closed: AtomicBool,
    /// The server goes, though the device stays.
    pub(crate) leaving: AtomicBool,
}

impl Inbox {
    pub(crate) fn put(&self, client: Accepted) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        self.clients.push(client);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

/// The NBD clients of one queue.
pub struct NbdFront {
    inbox: Arc<Inbox>,
    pub(crate) limits: Limits,
    /// `None` only while it is dropped.
    pub(crate) memory: Option<Memory>,
    slots: Vec<Option<Connection>>,
    generations: Vec<u16>,
    free: Vec<u16>,
    pub(crate) table: Table,
    /// Requests with parts the engine had no room for.
    pub(crate) handing: VecDeque<Ticket>,
    /// Clients to be read, each once.
    pub(crate) ready: VecDeque<Handle>,
    /// Clients that wait for memory, first come first served.
    pub(crate) waiters: VecDeque<Handle>,
    /// Clients with replies to send, each once.
    pub(crate) dirty: Vec<Handle>,
    /// Clients whose watches must be renewed.
    pub(crate) to_arm: Vec<Handle>,
    dying: Vec<u16>,
    pub(crate) waste: Box<[u8]>,
    pub(crate) copied: u64,
    pub(crate) now: u64,
    next_stall_check: u64,
    stopping: bool,
    goodbye: u64,
}

impl NbdFront {
    pub(crate) fn new(inbox: Arc<Inbox>, limits: Limits, memory: Memory) -> Self {
        Self {
            inbox,
            limits,
            memory: Some(memory),
            slots: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            table: Table::default(),
            handing: VecDeque::new(),
            ready: VecDeque::new(),
            waiters: VecDeque::new(),
            dirty: Vec::new(),
            to_arm: Vec::new(),
            dying: Vec::new(),
            waste: vec![0; 64 << 10].into_boxed_slice(),
            copied: 0,
            now: 0,
            next_stall_check: 0,
            stopping: false,
            goodbye: u64::MAX,
        }
    }

    /// Tells the accepting thread how to wake this queue. Call it on the queue's thread before
    /// the first `poll`.
    pub fn set_waker(&self, waker: Waker) {
        let _ = self.inbox.waker.set(waker);
    }

    /// Clients of this queue.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Payload bytes that were moved in user space: the start of the first write of a client that
    /// only read before, never more than 4 KiB each time.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.copied
    }

    pub(crate) fn connection(&mut self, handle: Handle) -> Option<&mut Connection> {
        let slot = usize::from(handle.slot);
        if self.generations.get(slot) != Some(&handle.generation) {
            return None;
        }
        self.slots.get_mut(slot)?.as_mut()
    }

    /// The connection and the memory at once.
    pub(crate) fn parts(&mut self, handle: Handle) -> Option<(&mut Connection, &mut Memory)> {
        let slot = usize::from(handle.slot);
        if self.generations.get(slot) != Some(&handle.generation) {
            return None;
        }
        Some((self.slots.get_mut(slot)?.as_mut()?, self.memory.as_mut()?))
    }

    fn adopt(&mut self, client: Accepted) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.generations.push(0);
            (self.slots.len() - 1) as u16
        });
        let place = usize::from(slot);
        let generation = self.generations[place].wrapping_add(1);
        self.generations[place] = generation;
        tracing::debug!(peer = %client.peer, "nbd client joined the queue");
        if let Err(error) = self.memory.as_mut().map_or(Ok(()), |memory| memory.enter(slot)) {
            tracing::warn!(peer = %client.peer, %error, "no memory for one more nbd client");
            self.free.push(slot);
            return;
        }
        self.slots[place] = Some(Connection::new(client, generation));
        self.enqueue(Handle { slot, generation });
    }

    /// Puts a client into the queue of those to be read.
    pub(crate) fn enqueue(&mut self, handle: Handle) {
        let Some(connection) = self.connection(handle) else { return };
        if !connection.queued && !connection.draining && !connection.rests() {
            connection.queued = true;
            self.ready.push_back(handle);
        }
    }

    /// Ends a connection now. Its requests in the engine keep their memory until they complete.
    pub(crate) fn kill(&mut self, handle: Handle, why: &str) {
        let Some((connection, memory)) = self.parts(handle) else { return };
        tracing::debug!(peer = %connection.peer, why, "nbd client is gone");
        let _ = shutdown(&connection.fd, Shutdown::Both);
        for reply in connection.out.drain(..).chain(connection.later.drain(..)) {
            if let Body::Block(lease, _) = reply.body {
                memory.free(lease);
            }
        }
        if let Phase::Payload(payload) = std::mem::replace(&mut connection.phase, Phase::Header) {
            payload.piece.into_iter().for_each(|piece| memory.free(piece.lease));
            self.table.remove(payload.ticket);
        }
        // From here on nobody finds it; the descriptor closes when its watches are taken back.
        let slot = usize::from(handle.slot);
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        self.dying.push(handle.slot);
    }

    fn bury(&mut self, intake: &mut dyn Intake) {
        while let Some(slot) = self.dying.pop() {
            let Some(connection) = self.slots[usize::from(slot)].take() else { continue };
            let handle = Handle { slot, generation: connection.generation };
            if connection.read_watch {
                intake.unwatch(key(handle, Interest::Read));
            }
            if connection.write_watch {
                intake.unwatch(key(handle, Interest::Write));
            }
            self.free.push(slot);
            self.memory.iter_mut().for_each(Memory::leave);
        }
    }

    /// Reads no more from a client; it closes when the last reply is out.
    pub(crate) fn drain(&mut self, handle: Handle) {
        let Some((connection, memory)) = self.parts(handle) else { return };
        connection.draining = true;
        connection.readable = false;
        let streams = connection.streams;
        match std::mem::replace(&mut connection.phase, Phase::Header) {
            Phase::Payload(payload) => {
                connection.in_flight -= 1;
                payload.piece.into_iter().for_each(|piece| memory.free(piece.lease));
                self.table.remove(payload.ticket);
            }
            Phase::Waiting(_) if streams => return self.kill(handle, "stopped within a read"),
            Phase::Waiting(waiting) => self.refuse_stopped(handle, &waiting.header),
            Phase::Header | Phase::Skip { .. } => {}
        }
        self.close_if_done(handle);
    }

    /// Closes a draining client that nothing is owed to.
    pub(crate) fn close_if_done(&mut self, handle: Handle) {
        let Some(connection) = self.connection(handle) else { return };
        if connection.draining && connection.owed() == 0 {
            self.kill(handle, "done");
        }
    }

    /// Queues a reply.
    pub(crate) fn reply(&mut self, handle: Handle, reply: Reply) {
        let now = self.now;
        let Some(connection) = self.connection(handle) else { return };
        if connection.streams {
            return connection.later.push_back(reply);
        }
        if connection.out.is_empty() {
            connection.outgoing.restart(now);
        }
        connection.out.push_back(reply);
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(handle);
        }
    }

    fn send_all(&mut self) {
        while let Some(handle) = self.dirty.pop() {
            self.send(handle);
        }
    }

    fn handles(&self) -> Vec<Handle> {
        let live = |(slot, c): (usize, &Option<Connection>)| {
            let generation = c.as_ref()?.generation;
            let current = self.generations[slot] == generation;
            current.then_some(Handle { slot: slot as u16, generation })
        };
        self.slots.iter().enumerate().filter_map(live).collect()
    }

    fn stop(&mut self, intake: &mut dyn Intake) {
        if !self.stopping {
            self.stopping = true;
            self.inbox.closed.store(true, Ordering::Release);
            self.goodbye = self.now.saturating_add(GOODBYE);
            self.waiters.clear();
            self.handles().into_iter().for_each(|handle| self.drain(handle));
        }
        while self.inbox.clients.pop().is_some() {}
        if self.clients() == 0 {
            return;
        }
        if self.now < self.goodbye {
            return intake.poll_at(self.goodbye);
        }
        for handle in self.handles() {
            let owed = self.connection(handle).is_some_and(|c| !c.out.is_empty());
            if owed {
                tracing::warn!("an nbd client did not take its last replies");
                self.kill(handle, "did not take its replies before the device stopped");
            }
        }
    }

    /// Cuts off clients that hold memory others could have used and do not move.
    fn check_stalls(&mut self, intake: &mut dyn Intake) {
        if !self.memory.as_ref().is_some_and(|memory| memory.short) {
            return;
        }
        if self.now >= self.next_stall_check {
            self.next_stall_check = self.now.saturating_add(STALL_CHECK);
            self.memory.iter_mut().for_each(|memory| memory.short = false);
            for handle in self.handles() {
                let limit = self.now.saturating_sub(STALL);
                let stalled = self.parts(handle).is_some_and(|(connection, memory)| {
                    memory.holds(handle.slot) && connection.stalls(limit)
                });
                if stalled {
                    tracing::warn!("an nbd client held memory without moving for 30 s");
                    self.kill(handle, "held memory without moving");
                }
            }
            return;
        }
        intake.poll_at(self.next_stall_check);
    }

    fn arm(&mut self, intake: &mut dyn Intake) {
        let mut to_arm = std::mem::take(&mut self.to_arm);
        for handle in to_arm.drain(..) {
            let Some(connection) = self.connection(handle) else { continue };
            let fd = std::os::fd::AsRawFd::as_raw_fd(&connection.fd);
            let idle = !connection.readable && !connection.draining && !connection.rests();
            if idle && !connection.read_watch {
                connection.read_watch = true;
                intake.watch(fd, Interest::Read, key(handle, Interest::Read));
            }
            if connection.blocked && !connection.write_watch {
                connection.write_watch = true;
                intake.watch(fd, Interest::Write, key(handle, Interest::Write));
            }
        }
        self.to_arm = to_arm;
    }
}

/// Generation, slot and direction in one number.
fn key(handle: Handle, interest: Interest) -> u32 {
    let direction = u32::from(interest == Interest::Write);
    u32::from(handle.generation) << 16 | u32::from(handle.slot & 0x7fff) << 1 | direction
}

fn from_key(key: u32) -> (Handle, Interest) {
    let interest = if key & 1 == 0 { Interest::Read } else { Interest::Write };
    (Handle { slot: (key >> 1) as u16 & 0x7fff, generation: (key >> 16) as u16 }, interest)
}

impl FrontEnd for NbdFront {
    fn poll(&mut self, intake: &mut dyn Intake) {
        self.now = intake.now();
        if intake.stopping() || self.inbox.leaving.load(Ordering::Acquire) {
            self.stop(intake);
        } else {
            while let Some(client) = self.inbox.clients.pop() {
                self.adopt(client);
            }
        }
        self.serve_waiters();
        self.hand_in(intake);
        let mut steps = STEPS;
        while steps > 0 && self.handing.is_empty() && intake.room() > 0 {
            let Some(handle) = self.ready.pop_front() else { break };
            self.turn(handle);
            self.hand_in(intake);
            steps -= 1;
        }
        self.send_all();
        self.check_stalls(intake);
        // What was just sent gave memory back.
        self.serve_waiters();
        self.hand_in(intake);
        if !self.ready.is_empty() && self.handing.is_empty() && intake.room() > 0 {
            intake.poll_at(self.now);
        }
        self.bury(intake);
        self.arm(intake);
    }

    fn ready(&mut self, key: u32, events: i32) {
        let (handle, interest) = from_key(key);
        // Also for one that was killed since: its watch is spent.
        let place = self.slots.get_mut(usize::from(handle.slot)).and_then(Option::as_mut);
        if let Some(connection) = place.filter(|c| c.generation == handle.generation) {
            match interest {
                Interest::Read => connection.read_watch = false,
                Interest::Write => connection.write_watch = false,
            }
        }
        let Some(connection) = self.connection(handle) else { return };
        if events < 0 {
            tracing::warn!(errno = -events, "the watch on an nbd client failed");
            return self.kill(handle, "the watch failed");
        }
        match interest {
            Interest::Read => {
                connection.readable = true;
                self.enqueue(handle);
            }
            Interest::Write => {
                connection.blocked = false;
                if !connection.dirty {
                    connection.dirty = true;
                    self.dirty.push(handle);
                }
            }
        }
    }

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        let ticket = Ticket::from_tag(tag);
        let Some(request) = self.table.get_mut(ticket) else { return };
        if request.part_done(outcome) {
            self.finish(ticket);
        }
    }

    fn flush_replies(&mut self) {
        self.send_all();
        // The queue may sleep now without another `poll`, and only `poll` can watch a socket that
        // is full, read on, or close.
        let freed = self.memory.as_ref().is_some_and(|memory| memory.freed);
        let memory = freed && !self.waiters.is_empty();
        let left = !self.to_arm.is_empty() || !self.dying.is_empty() || !self.ready.is_empty();
        if (left || memory || self.finished())
            && let Some(waker) = self.inbox.waker.get()
        {
            waker.wake();
        }
    }

    /// A client lives on one processor with its queue more often than not: small strides and giving
    /// way let both and the disk work at the same time.
    fn stride(&self) -> Stride {
        Stride { completions: 8, requests: 16, give_way: true }
    }

    fn gone(&self) -> bool {
        self.inbox.leaving.load(Ordering::Acquire) && self.finished()
    }

    fn finished(&self) -> bool {
        self.stopping && self.table.len() == 0 && self.clients() == 0
    }
}

impl Drop for NbdFront {
    fn drop(&mut self) {
        if self.table.len() > 0 {
            // The kernel may still write into the blocks: the mapping must outlive us.
            std::mem::forget(self.memory.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_the_client_and_the_direction() {
        for (slot, generation) in [(0, 0), (1, 65535), (0x7fff, 1), (300, 300)] {
            let handle = Handle { slot, generation };
            for interest in [Interest::Read, Interest::Write] {
                assert_eq!(from_key(key(handle, interest)), (handle, interest));
            }
        }
    }
}
