//! FLUSH on the queue that received it, when no change of the map waits to become durable: one
//! sync on the queue's own ring for all flushes of a turn (I3). Else the keeper answers.
//!
//! Flushes that arrive while this queue's own sync runs wait for its end and share the next one.

use super::Queue;
use super::slots::Stage;
use crate::front::{Errno, Outcome};
use crate::message::ToKeeper;
use crate::sync::Ordering;
use ploop_io::planted::{Bug, on};
use ploop_io::{Io, Op, OpKind};

/// Token of the queue's sync; pieces are numbered far below.
pub(super) const SYNC: u64 = 1 << 62;

/// Flushes that wait, and those that the sync in flight serves.
pub(super) struct Flushes {
    waiting: Vec<u32>,
    served: Vec<u32>,
    /// The sync slot is this queue's.
    running: bool,
    /// When the sync was begun.
    began: u64,
}

impl Flushes {
    pub fn new(pieces: usize) -> Self {
        let list = || Vec::with_capacity(pieces);
        Self { waiting: list(), served: list(), running: false, began: 0 }
    }
}

impl<I: Io> Queue<I> {
    /// A piece needs everything answered so far to be durable: its answer ends the piece.
    pub(super) fn flush_piece(&mut self, index: u32) -> Option<Outcome> {
        if self.shared.limits.read_only {
            return Some(Ok(0));
        }
        self.slots.pieces[index as usize].stage = Stage::Settling;
        if on(Bug::FlushJoinsLate) && self.flushes.running {
            self.flushes.served.push(index);
        } else {
            self.flushes.waiting.push(index);
        }
        None
    }

    /// Starts a sync for the flushes of this turn, or hands them to the keeper.
    pub(super) fn pump_flushes(&mut self) {
        if self.flushes.waiting.is_empty() || self.flushes.running {
            return;
        }
        // Several files are the keeper's.
        if self.shared.several() || !self.shared.sync_slot.take_for_flush() {
            for n in 0..self.flushes.waiting.len() {
                let caller = self.caller(self.flushes.waiting[n]);
                self.shared.keeper.send(ToKeeper::Flush(caller));
            }
            self.flushes.waiting.clear();
            return;
        }
        std::mem::swap(&mut self.flushes.waiting, &mut self.flushes.served);
        self.flushes.running = true;
        self.flushes.began = self.now;
        let skip = on(Bug::NoSyncFlush);
        let op = Op {
            token: SYNC,
            kind: if skip { OpKind::Reserve } else { OpKind::Datasync },
            file: self.shared.chain.top().fid,
            offset: 0,
            len: u64::from(skip),
            buf: std::ptr::null_mut(),
            lent: None,
        };
        // SAFETY: no memory is involved; the chain keeps the file open.
        unsafe { self.io.push(op) };
        self.shared.queue_stats[self.lane].syncs.add(1);
    }

    /// The queue's sync ended.
    pub(super) fn sync_ended(&mut self, result: i32) {
        self.flushes.running = false;
        if result < 0 && !on(Bug::FlushErrorIgnored) {
            let errno = Errno::from_raw_os_error(-result);
            let path = self.shared.chain.top().file.path();
            tracing::error!(
                "sync of {} failed: {errno}; no flush succeeds any more",
                path.display()
            );
            // Before the slot is free: no sync may begin after this one and succeed (F5).
            self.shared.fail();
        }
        if self.shared.sync_slot.give_back() || result < 0 {
            self.shared.keeper.wake();
        }
        // F5: an answer looks at FAILED first.
        let failed = self.shared.failed.load(Ordering::SeqCst);
        let outcome = if failed { Err(Errno::IO) } else { Ok(0) };
        let stats = &self.shared.queue_stats[self.lane];
        stats.sync_latency.record(self.now.saturating_sub(self.flushes.began));
        stats.sync_batches.record(self.flushes.served.len() as u64);
        let mut served = std::mem::take(&mut self.flushes.served);
        for index in served.drain(..) {
            self.end_and_advance(index, outcome);
        }
        self.flushes.served = served;
    }
}
