//! Stage 7: write back. Dirty BAT pages -> disk, in the order the invariants demand.
//!
//! ```text
//!           change [stage]                write [submit_page]        completion [page_written]
//!   CLEAN ------------------> STAGED ---------------------> IN FLIGHT --------------> WRITTEN
//!     ^                         ^  |  entries of a copy-up wait in `pending` until a      |
//!     |                         |  |  sync that began after them has ended [stage_ready]  |
//!     |                         +--+------------------ failed, or changed again ---------+
//!     +------------- a sync that began after the write has ended [pages_synced] ---------+
//! ```
//! Every change has a number. A page knows `clean_upto`: all its changes up to that number are
//! durable. A page is written from its *staged* image, never from the cells: an entry gets there
//! only when it is safe to become durable (F1). At most one write of a page is in flight (F10).

use super::Keeper;
use super::ops::Task;
use super::recorded::PageSlots;
use crate::front::{Errno, is_no_space};
use crate::limits::{
    DIRTY_PAGES, EAGER_CHANGES, FULL_TRIES, JOINED_PAGES, PAGE_RETRY_NS, PAGE_TRIES,
};
use crate::map::Place;
use crate::sync::Ordering;
use ploop_format::units::{HEADER_WORDS, PAGE, PAGE_WORDS};
use ploop_format::{BatPage, GuestCluster, put_entry};
use ploop_io::planted::{Bug, on};
use ploop_io::{AlignedBuf, Io, OpKind};
use std::collections::{BTreeMap, HashMap};

/// An entry that may not be staged yet.
struct Pending {
    index: usize,
    entry: u32,
    seq: u64,
    /// When the entry changed.
    since: u64,
    /// Staged when the sync with this number has ended.
    after_sync: u64,
}

/// A write of a page on its way.
struct Flight {
    /// Number among all page writes.
    number: u64,
    /// Changes up to this one are in it.
    upto: u64,
    dsync: bool,
}

/// A page whose changes are not all durable.
struct DirtyPage {
    staged: AlignedBuf,
    /// What the write in flight reads from.
    image: AlignedBuf,
    pending: Vec<Pending>,
    /// Changes on record (F2).
    slots: PageSlots,
    /// `staged` differs from what was last submitted.
    unwritten: bool,
    flight: Option<Flight>,
    /// `(upto, sync)`: written; durable when that sync has ended.
    written: Vec<(u64, u64)>,
    clean_upto: u64,
    last_change: u64,
    /// Fixed when the page turns from written to unwritten; never pushed back.
    deadline: u64,
    /// Somebody waits for this page with FUA.
    wanted_upto: u64,
    tries: u32,
    /// Writes that found no space since the last one that ended well.
    full: u32,
    retry_at: u64,
    /// A synchronous write found no space: write plainly, then sync.
    plain: bool,
}

/// All dirty pages.
#[derive(Default)]
pub(super) struct Pages {
    dirty: BTreeMap<u64, DirtyPage>,
    /// Page writes started.
    writes: u64,
    /// What writes of several pages in flight read from, by their first page.
    runs: HashMap<u64, AlignedBuf>,
    /// Pages whose staged image was not submitted.
    unwritten: usize,
    /// Entries that wait for a sync, over all pages.
    pending: usize,
    /// Not later than the earliest deadline; exact unless `stale`.
    next_due: Option<u64>,
    stale: bool,
    /// Flushes come after a few changes each: a page is written as soon as it changes, so that the
    /// flush finds it on disk and only syncs.
    pub eager: bool,
    /// Something happened that can make a page writable or durable.
    pub touched: bool,
}

impl Pages {
    pub fn len(&self) -> usize {
        self.dirty.len()
    }

    pub fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Number of the newest page write.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Whether all changes of a page up to `seq` are durable.
    pub fn is_durable(&self, page: BatPage, seq: u64) -> bool {
        self.dirty.get(&page.0).is_none_or(|p| p.clean_upto >= seq)
    }

    /// All changes of all pages up to this number are durable.
    pub fn durable_upto(&self) -> u64 {
        let open = self.dirty.values().filter(|p| p.clean_upto < p.last_change);
        open.map(|p| p.clean_upto).min().unwrap_or(u64::MAX)
    }

    /// Pages wait to be written, more than a flush should find.
    fn is_crowded(&self) -> bool {
        self.unwritten > DIRTY_PAGES
    }

    /// So many pages are not durable that the keeper syncs by itself, to forget them.
    pub fn wants_sync(&self) -> bool {
        self.dirty.len() > 4 * DIRTY_PAGES
    }

    /// Number of the last change of a page; 0 when it is durable.
    pub fn last_change(&self, page: BatPage) -> u64 {
        self.dirty.get(&page.0).map_or(0, |p| p.last_change)
    }

    /// Asks for a page to become durable up to a change, without a flush (FUA).
    pub fn want(&mut self, page: BatPage, seq: u64) {
        if let Some(p) = self.dirty.get_mut(&page.0) {
            p.wanted_upto = p.wanted_upto.max(seq);
            self.touched = true;
        }
    }

    /// The writes of a page have found no space again and again.
    pub fn is_full(&self) -> bool {
        self.dirty.values().any(|page| page.full >= FULL_TRIES)
    }

    /// Tries of a close that was taken back do not count (I10).
    pub fn try_anew(&mut self) {
        self.dirty.values_mut().filter(|page| page.full > 0).for_each(|page| page.tries = 0);
        (self.touched, self.stale) = (true, true);
    }

    /// Deadlines are other ones now.
    pub fn forget_due(&mut self) {
        self.stale = true;
    }

    /// The changes of a page that are on record.
    pub fn slots(&mut self, page: BatPage) -> Option<&mut PageSlots> {
        self.dirty.get_mut(&page.0).map(|p| &mut p.slots)
    }

    /// A write with a number up to this one is in flight.
    pub fn in_flight_upto(&self, number: u64) -> bool {
        self.dirty.values().any(|p| p.flight.as_ref().is_some_and(|f| f.number <= number))
    }

    /// The newest sync that changes up to `seq`, or those wanted with FUA, wait for: to be staged,
    /// and to be durable.
    pub fn sync_wanted(&self, seq: u64) -> (u64, u64) {
        let mut stage = 0;
        let mut written = 0;
        for page in self.dirty.values() {
            let goal = seq.max(page.wanted_upto).min(page.last_change);
            if page.clean_upto >= goal {
                continue;
            }
            for p in page.pending.iter().filter(|p| p.seq <= goal) {
                stage = stage.max(p.after_sync);
            }
            let ends = page.written.iter().map(|(_, sync)| *sync).max();
            written = written.max(ends.unwrap_or(0));
        }
        (stage, written)
    }

    /// The newest sync that entries waiting beyond their page's deadline need.
    pub fn sync_overdue(&self, now: u64) -> u64 {
        if self.pending == 0 {
            return 0;
        }
        let due = self.dirty.values().filter(|p| p.deadline <= now);
        due.flat_map(|p| p.pending.iter().map(|e| e.after_sync)).max().unwrap_or(0)
    }
}

impl DirtyPage {
    fn waits(&self) -> bool {
        self.unwritten || !self.pending.is_empty()
    }
}

impl<I: Io> Keeper<I> {
    /// Records the change number `self.seq` of one entry; called before its cell is set.
    pub(super) fn stage(&mut self, cluster: GuestCluster, entry: u32, after_sync: Option<u64>) {
        let slot = cluster.slot();
        if !self.pages.dirty.contains_key(&slot.page.0) {
            let fresh = self.dirty_page(slot.page);
            self.pages.dirty.insert(slot.page.0, fresh);
            self.shared.sync_slot.mark_dirty();
            if let Some(page) = self.shared.map.page(slot.page) {
                page.mark_dirty();
            }
        }
        self.pages.eager &= self.seq - self.syncs.asked() <= EAGER_CHANGES;
        let delay = self.page_delay();
        let Some(page) = self.pages.dirty.get_mut(&slot.page.0) else { return };
        if !on(Bug::RecordNot) {
            let (p, own) = (self.shared.pieces.of(cluster), self.shared.pieces.own(cluster));
            self.recorded[p].put(&mut page.slots, own, entry, self.seq);
        }
        if page.waits() {
            self.shared.keeper_stats.changes_joined.add(1);
        } else {
            page.deadline = self.now + delay;
        }
        let due = self.pages.next_due.map_or(page.deadline, |at| at.min(page.deadline));
        self.pages.next_due = Some(due);
        page.last_change = self.seq;
        let before = page.pending.len();
        page.pending.retain(|p| p.index != slot.index);
        match after_sync {
            Some(after_sync) => {
                let (index, seq, since) = (slot.index, self.seq, self.now);
                page.pending.push(Pending { index, entry, seq, since, after_sync });
            }
            None => {
                put_entry(&mut page.staged, slot.index, entry);
                self.pages.unwritten += usize::from(!page.unwritten);
                page.unwritten = true;
            }
        }
        self.pages.pending = self.pages.pending + page.pending.len() - before;
    }

    /// How long a change may wait before its page is written.
    fn page_delay(&self) -> u64 {
        match self.pages.eager {
            true => 0,
            false => self.shared.options.metadata_delay_ms * 1_000_000,
        }
    }

    /// The staged image of a page that was durable: what the cells say of the top.
    fn dirty_page(&self, at: BatPage) -> DirtyPage {
        let mut staged = crate::memory::buffer(PAGE as usize);
        if let (Some(page), Some(version)) = (self.shared.map.page(at), self.version) {
            for index in 0..PAGE_WORDS as usize {
                if let Place::At { level, at } = page.get(index).place
                    && self.shared.chain.is_top(level)
                {
                    put_entry(&mut staged, index, version.entry(at, self.cluster).unwrap_or(0));
                }
            }
        }
        if self.shared.pieces.own_page(at).0 == 0 && !on(Bug::Page0NoHeader) {
            // F10: the header's words travel with page 0.
            let header = &self.headers[self.shared.pieces.of_page(at)];
            staged[..HEADER_WORDS as usize * 4].copy_from_slice(header);
        }
        DirtyPage {
            staged,
            image: crate::memory::buffer(PAGE as usize),
            pending: Vec::new(),
            slots: PageSlots::default(),
            unwritten: false,
            flight: None,
            written: Vec::new(),
            clean_upto: self.seq - 1,
            last_change: self.seq,
            deadline: u64::MAX,
            wanted_upto: 0,
            tries: 0,
            full: 0,
            retry_at: 0,
            plain: false,
        }
    }

    /// Writes every page that somebody waits for, or whose deadline has passed.
    pub(super) fn pump_pages(&mut self) {
        let due = self.page_deadline().is_some_and(|at| at <= self.now);
        let crowded = self.pages.is_crowded() || self.record_is_low();
        if !self.pages.touched && !due && !crowded {
            return;
        }
        self.pages.touched = false;
        self.pages.stale = true;
        // What is due soon goes along: neighbours are joined, and dirtied at about the same time.
        let soon = self.shared.options.metadata_delay_ms * 500_000;
        let horizon = if due { self.now + soon } else { self.now };
        let flush = self.syncs.flush_upto().max(if self.closing { self.seq } else { 0 });
        let flush = flush.max(self.quarantine.wants_upto());
        let now = self.now;
        let failed = self.shared.failed.load(Ordering::SeqCst);
        let ready: Vec<Ready> = self
            .pages
            .dirty
            .iter()
            .filter(|(_, p)| p.unwritten && p.flight.is_none() && p.retry_at <= now && !failed)
            .filter_map(|(n, p)| {
                let flushed = p.clean_upto < flush.min(p.last_change);
                let wanted = p.wanted_upto > p.clean_upto;
                let write = flushed || wanted || crowded || p.deadline <= horizon;
                // With only FUA waiting, the page's own DSYNC makes it durable at once.
                let dsync = wanted && !flushed && !p.plain;
                write.then_some(Ready { page: *n, dsync, alone: p.tries > 0 })
            })
            .collect();
        // P4: neighbours in one write. One that failed before goes alone.
        let joins = |a: &Ready, b: &Ready| {
            a.page + 1 == b.page && a.dsync == b.dsync && !a.alone && !b.alone
        };
        for run in ready.chunk_by(joins).flat_map(|run| run.chunks(JOINED_PAGES)) {
            match run {
                [one] => self.submit_page(BatPage(one.page), one.dsync),
                _ => self.submit_run(run[0].page, run.len() as u64, run[0].dsync),
            }
        }
    }

    fn submit_page(&mut self, at: BatPage, dsync: bool) {
        self.pages.writes += 1;
        self.take_off(at, dsync);
        let Some(page) = self.pages.dirty.get_mut(&at.0) else { return };
        page.image.copy_from_slice(&page.staged);
        let buf = page.image.as_mut_ptr();
        let (p, own) = (self.shared.pieces.of_page(at), self.shared.pieces.own_page(at));
        self.push(p, Task::Pages(at, 1), page_write(dsync), own.bytes(), PAGE, buf);
        self.shared.keeper_stats.pages_written.add(1);
    }

    /// Writes neighbours together.
    fn submit_run(&mut self, first: u64, count: u64, dsync: bool) {
        self.pages.writes += 1;
        let mut image = crate::memory::buffer((count * PAGE) as usize);
        for (n, part) in (first..first + count).zip(image.chunks_exact_mut(PAGE as usize)) {
            self.take_off(BatPage(n), dsync);
            if let Some(page) = self.pages.dirty.get(&n) {
                part.copy_from_slice(&page.staged);
            }
        }
        let buf = image.as_mut_ptr();
        self.pages.runs.insert(first, image);
        let first = BatPage(first);
        let p = self.shared.pieces.of_page(first);
        let (at, len) = (self.shared.pieces.own_page(first).bytes(), count * PAGE);
        self.push(p, Task::Pages(first, count), page_write(dsync), at, len, buf);
        self.shared.keeper_stats.pages_written.add(count);
    }

    /// A page is about to be submitted as it is staged now.
    fn take_off(&mut self, at: BatPage, dsync: bool) {
        let number = self.pages.writes;
        let delay = self.page_delay();
        let Some(page) = self.pages.dirty.get_mut(&at.0) else { return };
        let upto = page.pending.iter().map(|p| p.seq - 1).min().unwrap_or(self.seq);
        page.flight = Some(Flight { number, upto, dsync });
        self.pages.unwritten -= usize::from(page.unwritten);
        page.unwritten = false;
        let oldest = page.pending.iter().map(|p| p.since).min();
        page.deadline = oldest.map_or(u64::MAX, |since| since + delay);
        if on(Bug::RecordEarly) {
            self.off_record(at, upto);
        }
    }

    /// A write of one page or several has ended.
    pub(super) fn pages_written(&mut self, first: BatPage, count: u64, result: i32) {
        self.pages.runs.remove(&first.0);
        for n in 0..count {
            let whole = result < 0 || result as u64 >= (n + 1) * PAGE;
            // Bytes of this page: all, or too few, or the error of all.
            let own = if result < 0 { result } else { i32::from(whole) * PAGE as i32 };
            self.page_written(BatPage(first.0 + n), own);
        }
    }

    fn page_written(&mut self, at: BatPage, result: i32) {
        let next_sync = match on(Bug::PageSyncEarly) && self.syncs.is_running() {
            true => self.syncs.next() - 1,
            false => self.syncs.next(),
        };
        self.pages.touched = true;
        self.pages.stale = true;
        let Some(page) = self.pages.dirty.get_mut(&at.0) else { return };
        let Some(flight) = page.flight.take() else { return };
        if result as i64 == PAGE as i64 || on(Bug::PageErrorIgnored) {
            (page.tries, page.full) = (0, 0);
            self.shared.full.store(false, Ordering::SeqCst);
            let upto = match on(Bug::DirtyForgotten) {
                true => page.last_change,
                false => flight.upto,
            };
            if on(Bug::DirtyForgotten) {
                self.pages.unwritten -= usize::from(page.unwritten);
                page.unwritten = false;
            }
            if flight.dsync {
                page.clean_upto = page.clean_upto.max(upto);
                self.quarantine.touched = true;
            } else {
                page.written.push((upto, next_sync));
            }
            self.off_record(at, upto);
            self.retire_page(at);
            return;
        }
        // I10: never dropped; the page stays as it was and is tried again.
        self.pages.unwritten += usize::from(!page.unwritten);
        page.unwritten = true;
        page.deadline = page.deadline.min(self.now);
        page.retry_at = self.now + PAGE_RETRY_NS;
        let errno = Errno::from_raw_os_error(if result < 0 { -result } else { 5 });
        // Refused before anything was done: pages are too small for direct I/O now.
        let misfit = errno == Errno::INVAL;
        let no_space = is_no_space(errno);
        page.plain = no_space;
        if flight.dsync && !no_space && !misfit && !on(Bug::DsyncErrorIgnored) {
            // F5: a failed RWF_DSYNC is a failed sync.
            tracing::error!("a synchronous write of page {at} of the block table failed: {errno}");
            self.shared.fail();
            return;
        }
        // F17: a full disk passes; anything else may stay.
        if !no_space || self.closing {
            page.tries += 1;
        }
        page.full = if no_space { page.full.saturating_add(1) } else { 0 };
        // Said when it begins: it goes on as long as the host is full.
        if page.full <= 1 {
            tracing::warn!("page {at} of the block table was not written: {errno}; trying again");
        }
        let tries = page.tries;
        if misfit {
            self.realign();
        }
        if tries >= PAGE_TRIES {
            self.shared.frozen.store(true, Ordering::SeqCst);
            tracing::error!("page {at} cannot be written after {PAGE_TRIES} tries: read-only now");
            self.fail_waiters(Errno::IO);
        }
        self.give_up_on_full_pages();
    }

    /// I16: whoever waits for pages that find no space hears of it, after one more try, unless
    /// such requests are held (F17). The pages stay dirty and are tried on.
    pub(super) fn give_up_on_full_pages(&mut self) {
        if self.pages.is_full() {
            // Until any page is written; one that still finds no space says so a moment later.
            self.shared.full.store(true, Ordering::SeqCst);
        }
        if !self.shared.never_holds() {
            return;
        }
        let full = |p: &&DirtyPage| p.full >= FULL_TRIES;
        let Some(upto) = self.pages.dirty.values().filter(full).map(|p| p.clean_upto).min() else {
            return;
        };
        self.fail_durability(upto, Errno::NOSPC);
        self.fail_record_waiters(Errno::NOSPC);
    }

    /// The writes of a page have found no space again and again.
    pub(super) fn is_full_page(&self, page: BatPage) -> bool {
        self.pages.dirty.get(&page.0).is_some_and(|p| p.full >= FULL_TRIES)
    }

    /// A sync has ended well: entries it covered are staged, pages it covered are durable.
    pub(super) fn pages_synced(&mut self, number: u64) {
        let mut durable = Vec::new();
        for (n, page) in &mut self.pages.dirty {
            let staged = &mut page.staged;
            let before = page.pending.len();
            page.pending.retain(|p| {
                let ready = p.after_sync <= number;
                if ready {
                    put_entry(staged, p.index, p.entry);
                }
                !ready
            });
            let staged = before - page.pending.len();
            if staged > 0 {
                self.pages.pending -= staged;
                self.pages.unwritten += usize::from(!page.unwritten);
                page.unwritten = true;
            }
            let ended = page.written.iter().filter(|(_, sync)| *sync <= number);
            if let Some(upto) = ended.map(|(upto, _)| *upto).max() {
                page.clean_upto = page.clean_upto.max(upto);
                page.written.retain(|(_, sync)| *sync > number);
                durable.push(BatPage(*n));
            }
        }
        for page in durable {
            self.retire_page(page);
        }
        self.pages.touched = true;
        self.pages.stale = true;
        self.quarantine.touched = true;
    }

    /// Forgets a page whose changes are all durable.
    fn retire_page(&mut self, at: BatPage) {
        let Some(page) = self.pages.dirty.get(&at.0) else { return };
        let clean = page.clean_upto >= page.last_change
            && page.pending.is_empty()
            && page.flight.is_none()
            && !page.unwritten;
        if clean {
            debug_assert!(page.slots.is_empty(), "F2: written changes are off the record");
            self.pages.dirty.remove(&at.0);
            self.pages.stale = true;
            if let Some(page) = self.shared.map.page(at) {
                page.mark_durable();
            }
            if self.pages.dirty.is_empty() {
                self.shared.sync_slot.mark_clean();
                // The next flush comes from a queue, unseen here.
                self.syncs.nothing_asked(self.seq);
            }
        }
    }

    /// When the next page is due. Scans the pages only after something else than a new change.
    pub(super) fn page_deadline(&mut self) -> Option<u64> {
        if self.pages.stale {
            self.pages.next_due = self.earliest();
            self.pages.stale = false;
        }
        self.pages.next_due
    }

    fn earliest(&self) -> Option<u64> {
        if self.shared.failed.load(Ordering::SeqCst) {
            return None;
        }
        let syncing = self.syncs.is_busy();
        let due = |p: &DirtyPage| {
            let write = p.unwritten && p.flight.is_none();
            let stage = !p.pending.is_empty() && !syncing;
            (write || stage).then_some(p.deadline.max(p.retry_at)).filter(|at| *at != u64::MAX)
        };
        self.pages.dirty.values().filter_map(due).min()
    }
}

/// A page to be written now.
struct Ready {
    page: u64,
    dsync: bool,
    /// Not with neighbours.
    alone: bool,
}

fn page_write(dsync: bool) -> OpKind {
    if dsync && !on(Bug::NoDsyncPage) { OpKind::WriteDsync } else { OpKind::Write }
}
