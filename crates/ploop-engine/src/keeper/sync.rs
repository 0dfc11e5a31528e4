//! One sync of the top in flight at a time; it serves every waiter that came before it began.
//!
//! Syncs are numbered. Whoever needs "a sync that starts from now on" remembers [`Syncs::next`]
//! and is served when [`Syncs::done`] has reached it (I3, F5).

use super::Keeper;
use super::ops::Task;
use crate::chain::Level;
use crate::front::Errno;
use crate::limits::EAGER_CHANGES;
use crate::message::{Answer, Caller};
use crate::sync::Ordering;
use crate::sync::Ordering::SeqCst;
use ploop_format::BatPage;
use ploop_io::planted::{Bug, on};
use ploop_io::{Io, OpKind};
use std::ptr;

struct Flush {
    caller: Caller,
    /// Changes up to this one must be durable.
    seq: u64,
    /// And the data: this sync.
    sync: u64,
}

struct Durable {
    caller: Caller,
    page: BatPage,
    seq: u64,
}

/// The sync slot of the top, and who waits.
#[derive(Default)]
pub(super) struct Syncs {
    started: u64,
    done: u64,
    running: bool,
    /// Files whose sync has not ended, and the first error.
    files: usize,
    error: Option<(Errno, u8)>,
    /// A queue has the slot, and wakes the keeper when it gives it back.
    blocked: bool,
    /// When the last one began.
    began: u64,
    /// Do not start before the page writes up to this number have ended.
    hold: Option<u64>,
    /// Number of the last change that an earlier flush asked for.
    asked: u64,
    flushes: Vec<Flush>,
    durables: Vec<Durable>,
}

impl Syncs {
    /// The number of the next sync that will start.
    pub fn next(&self) -> u64 {
        self.started + 1
    }

    /// A sync is in flight.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// The last change that a flush has asked for.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// Changes up to this one are durable: no flush asks for them any more.
    pub fn nothing_asked(&mut self, seq: u64) {
        self.asked = seq;
    }

    /// The next sync begins when one in flight has ended, and its end wakes the keeper.
    pub fn is_busy(&self) -> bool {
        self.running || self.blocked
    }

    /// Changes up to this number are waited for by flushes.
    pub fn flush_upto(&self) -> u64 {
        self.flushes.iter().map(|f| f.seq).max().unwrap_or(0)
    }
}

impl<I: Io> Keeper<I> {
    /// FLUSH: everything acknowledged before now, on any queue, becomes durable.
    pub(super) fn flush(&mut self, caller: Caller) {
        if self.shared.limits.read_only {
            self.answer(caller, Answer::Done);
            return;
        }
        if self.refuse(caller) {
            return;
        }
        let early = on(Bug::FlushEarly) && self.syncs.running;
        let sync = self.syncs.next() - u64::from(early);
        let seq = if on(Bug::FlushNoPages) { 0 } else { self.seq };
        self.pages.eager = self.seq - self.syncs.asked <= EAGER_CHANGES;
        self.syncs.asked = self.seq;
        self.syncs.flushes.push(Flush { caller, seq, sync });
        self.pages.touched = true;
    }

    /// FUA: the present changes of one page become durable (F3).
    pub(super) fn durable(&mut self, caller: Caller, page: BatPage) {
        if self.refuse(caller) {
            return;
        }
        let seq = self.pages.last_change(page);
        self.pages.want(page, seq);
        self.syncs.durables.push(Durable { caller, page, seq });
    }

    /// Starts a sync when somebody needs one and the slot is free.
    pub(super) fn pump_sync(&mut self) {
        if std::mem::take(&mut self.syncs.blocked) {
            self.pages.forget_due();
        }
        if self.syncs.running || self.shared.failed.load(Ordering::SeqCst) {
            return;
        }
        let upto = self.syncs.flush_upto().max(self.quarantine.wants_upto());
        let all = self.closing || self.pages.wants_sync();
        let upto = if all { self.seq } else { upto };
        let nobody = upto == 0 && self.syncs.durables.is_empty();
        let (stage, written) = if nobody { (0, 0) } else { self.pages.sync_wanted(upto) };
        let now = if self.record_is_low() { u64::MAX } else { self.now };
        let stage = stage.max(self.pages.sync_overdue(now));
        let data = self.syncs.flushes.iter().map(|f| f.sync).max().unwrap_or(0);
        let space = (0..self.spaces.len()).map(|p| self.space_sync(p)).max().unwrap_or(0);
        let need = stage.max(written).max(data).max(space);
        if need <= self.syncs.done {
            return;
        }
        // Without copy-ups one sync serves data and pages: let the page writes of this group
        // end first. Only those already started are waited for, so the sync is not starved.
        let urgent = stage > self.syncs.done || space > self.syncs.done;
        let hold = *self.syncs.hold.get_or_insert(self.pages.writes());
        if !urgent && self.pages.in_flight_upto(hold) {
            return;
        }
        self.syncs.blocked = !self.shared.sync_slot.take_or_want();
        if self.syncs.blocked {
            self.pages.forget_due();
            return;
        }
        self.syncs.hold = None;
        self.syncs.started += 1;
        self.syncs.running = true;
        self.pages.forget_due();
        self.syncs.began = self.now;
        let number = self.syncs.started;
        self.shared.keeper_stats.syncs.add(1);
        let shared = std::sync::Arc::clone(&self.shared);
        // I3: what was written there before this moment has set the flag before.
        let debts = |level: &Level| shared.written[usize::from(level.id)].swap(false, SeqCst);
        let split = shared.pieces.is_split();
        for p in 0..shared.pieces.count() {
            let top = shared.chain.top_of(p);
            // One at least: its end is the end of this sync.
            let last = p + 1 == shared.pieces.count() && self.syncs.files == 0;
            let skip = on(Bug::SyncFirstPiece) && p > 0 && self.syncs.files > 0;
            if !split || debts(top) && !skip || last {
                let kind = if on(Bug::NoSyncKeeper) { OpKind::Reserve } else { OpKind::Datasync };
                self.sync_file(number, top, kind);
            }
            let below = shared.below(p).filter(|level| debts(level));
            if let Some(below) = below.filter(|_| !on(Bug::BelowUnsynced)) {
                self.sync_file(number, below, OpKind::Datasync);
            }
        }
    }

    fn sync_file(&mut self, number: u64, level: &Level, kind: OpKind) {
        let len = u64::from(kind == OpKind::Reserve);
        self.syncs.files += 1;
        self.push_to(Task::Sync(number, level.id), level.fid, kind, 0, len, ptr::null_mut());
    }

    pub(super) fn sync_ended(&mut self, number: u64, level: u8, result: i32) {
        if result < 0 {
            self.syncs.error.get_or_insert((Errno::from_raw_os_error(-result), level));
        }
        self.syncs.files -= 1;
        if self.syncs.files > 0 {
            return;
        }
        self.syncs.running = false;
        self.pages.forget_due();
        let error = self.syncs.error.take();
        if let Some((errno, level)) = error.filter(|_| !on(Bug::SyncErrorIgnored)) {
            let path = self.shared.chain.level(level).file.path();
            tracing::error!(
                "sync of {} failed: {errno}; no flush succeeds any more",
                path.display()
            );
            // Before the slot is free: no sync may begin after this one and succeed.
            self.shared.fail();
            let _ = self.shared.sync_slot.give_back();
            self.fail_waiters(Errno::IO);
            return;
        }
        let _ = self.shared.sync_slot.give_back();
        // F5: an answer looks at FAILED first; a queue's DSYNC write may have failed meanwhile.
        if self.shared.failed.load(Ordering::SeqCst) {
            self.fail_waiters(Errno::IO);
            return;
        }
        self.syncs.done = number;
        let took = self.now.saturating_sub(self.syncs.began);
        self.shared.keeper_stats.sync_latency.record(took);
        self.pages_synced(number);
        for p in 0..self.spaces.len() {
            self.space_synced(p, number);
        }
    }

    /// Answers every flush and FUA whose changes are durable.
    pub(super) fn answer_durable(&mut self) {
        let done = self.syncs.done;
        let durable = if self.syncs.flushes.is_empty() { 0 } else { self.pages.durable_upto() };
        let flushed = |f: &mut Flush| f.sync <= done && f.seq <= durable;
        let flushes: Vec<Flush> = self.syncs.flushes.extract_if(.., flushed).collect();
        let is_durable = |d: &mut Durable| self.pages.is_durable(d.page, d.seq);
        let durables: Vec<Durable> = self.syncs.durables.extract_if(.., is_durable).collect();
        // Before the answers: who gets one may look at the counters at once.
        let stats = &self.shared.keeper_stats;
        stats.flushes.add(flushes.len() as u64);
        stats.sync_batches.record((flushes.len() + durables.len()) as u64);
        let callers = flushes.into_iter().map(|f| f.caller);
        for caller in callers.chain(durables.into_iter().map(|d| d.caller)) {
            self.answer(caller, Answer::Done);
        }
    }

    /// Flushes of changes behind `upto` fail, and FUA of pages that find no space (F17): what was
    /// answered stays in memory and on record, and the next flush asks for it again.
    pub(super) fn fail_durability(&mut self, upto: u64, errno: Errno) {
        let flushes = self.syncs.flushes.extract_if(.., |f| f.seq > upto);
        let mut callers: Vec<Caller> = flushes.map(|f| f.caller).collect();
        let mut durables = std::mem::take(&mut self.syncs.durables);
        callers.extend(durables.extract_if(.., |d| self.is_full_page(d.page)).map(|d| d.caller));
        self.syncs.durables = durables;
        for caller in callers {
            self.answer(caller, Answer::Failed(errno));
        }
    }

    /// Nothing can become durable any more: everyone who waits for that fails (F5, I10), and so
    /// do those who wait for space.
    pub(super) fn fail_waiters(&mut self, errno: Errno) {
        let flushes = std::mem::take(&mut self.syncs.flushes);
        let durables = std::mem::take(&mut self.syncs.durables);
        let callers = flushes.into_iter().map(|f| f.caller);
        for caller in callers.chain(durables.into_iter().map(|d| d.caller)) {
            self.answer(caller, Answer::Failed(errno));
        }
        self.fail_space_waiters(errno);
        self.fail_record_waiters(errno);
    }
}
