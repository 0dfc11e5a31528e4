//! The generator as a front end: it lives on a queue's thread like NBD and FUSE do.

use crate::generator::{Generator, Kind, Order, Tally};
use crate::load::Load;
use ploop_engine::{Buffer, Flags, FrontEnd, Intake, Operation, Outcome, Request, Stride};
use ploop_io::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

/// Tells all queues when to begin, and when to end.
#[derive(Debug, Default)]
pub struct Gate {
    /// 0 = not yet; else no request is made from this time on.
    until: AtomicU64,
}

impl Gate {
    /// The load begins now and ends then. The queues have to be woken afterwards.
    pub fn open(&self, until: u64) {
        self.until.store(until.max(1), Ordering::SeqCst);
    }

    /// When the load ends, once it has begun.
    #[must_use]
    pub fn until(&self) -> Option<u64> {
        Some(self.until.load(Ordering::Relaxed)).filter(|&until| until != 0)
    }
}

/// A queue's load.
pub struct LoadFront {
    generator: Generator,
    block: u64,
    /// Completions of a batch worked on before the first submission.
    stride: usize,
    gate: Arc<Gate>,
    running: bool,
    waker: Waker,
    done: Option<Sender<Tally>>,
}

impl LoadFront {
    /// Waits for the gate; the tally is sent once all is done.
    #[must_use]
    pub fn new(
        generator: Generator,
        load: &Load,
        gate: Arc<Gate>,
        waker: Waker,
        done: Sender<Tally>,
    ) -> Self {
        let (block, stride) = (load.block, load.stride());
        Self { generator, block, stride, gate, running: false, waker, done: Some(done) }
    }

    fn request(&self, order: Order) -> Request {
        let (operation, len) = match order.kind {
            Kind::Read => (Operation::Read, self.block),
            Kind::Write => (Operation::Write, self.block),
            Kind::Flush => (Operation::Flush, 0),
        };
        let buffer = if len == 0 {
            Buffer::NONE
        } else {
            // SAFETY: the generator keeps its memory for as long as this front end lives, which is
            // not dropped before its queue ended all requests, and a place has one at a time.
            unsafe { Buffer::new(order.buf, usize::try_from(len).unwrap_or(0)) }
        };
        let (tag, offset) = (u64::from(order.place), order.offset);
        Request { tag, operation, flags: Flags::default(), offset, len, buffer }
    }
}

impl FrontEnd for LoadFront {
    fn poll(&mut self, intake: &mut dyn Intake) {
        let now = intake.now();
        if !self.running {
            match self.gate.until() {
                Some(until) => {
                    self.generator.ends_at(until);
                    self.running = true;
                }
                None if intake.stopping() => self.generator.stop(),
                None => return,
            }
        }
        if intake.stopping() {
            self.generator.stop();
        }
        self.generator.count(now);
        while intake.room() > 0
            && let Some(order) = self.generator.order(now)
        {
            let request = self.request(order);
            intake.push(request);
        }
        if self.generator.idle()
            && let Some(done) = self.done.take()
        {
            // Nobody listens when the measurement was given up.
            let _ = done.send(self.generator.take_tally());
        }
    }

    fn stride(&self) -> Stride {
        Stride { completions: self.stride, ..Stride::default() }
    }

    fn ready(&mut self, _key: u32, _events: i32) {}

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        self.generator.ended(u32::try_from(tag).unwrap_or(u32::MAX), outcome.is_ok());
    }

    fn flush_replies(&mut self) {
        // Ended in the same turn it was handed in (a hole): nothing else would wake the queue.
        if self.generator.has_ended() {
            self.waker.wake();
        }
    }

    fn finished(&self) -> bool {
        self.generator.idle()
    }
}
