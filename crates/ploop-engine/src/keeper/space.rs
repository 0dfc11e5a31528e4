//! Clean clusters: where they come from, and where freed ones go (I18, F6, F13, F14, F16, F17).
//!
//! ```text
//!   extension: reserve blocks -> move the length -> sync ----------------> frontier (clean)
//!   freed, or unknown at open: dirty -> cleaned (punch, zero) -> sync ---> punched  (clean)
//! ```
//! Nothing on the guest's path waits for this unless nothing clean is left.

use super::Keeper;
use super::ops::Task;
use crate::device::Shared;
use crate::front::{Errno, is_no_space, why_no_space};
use crate::limits::{
    AHEAD_SHARE, CLEAN_BYTES, CLEANERS, EXTEND_CLUSTERS, GIVE_BACK_NS, QUARANTINE_NS, STOCK_SHARE,
    ZERO_BUFFER,
};
use crate::message::{Answer, ToKeeper};
use crossbeam_queue::ArrayQueue;
use fixedbitset::FixedBitSet;
use ploop_format::{ClusterSize, FileCluster};
use ploop_io::planted::{Bug, on};
use ploop_io::{AlignedBuf, Io, OpKind};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::ptr;

/// One extension of the file: one length change at a time (F14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extend {
    Reserve,
    Truncate,
    /// The other way: what is kept ahead goes back to the host (P10).
    Cut,
    /// Clean when this sync has ended.
    Synced(u64),
}

/// File clusters of the top.
pub(super) struct Space {
    cluster: ClusterSize,
    /// The top is a ploop image and written: clusters are allocated at all.
    active: bool,
    /// Length of the file in clusters.
    clusters: u64,
    /// Clusters the BAT names, and header and BAT themselves; those in the queues' stocks too.
    used: FixedBitSet,
    /// How many.
    used_count: u64,
    /// Clusters of the device that are this file's: it never needs more of them.
    device: u64,
    /// Clusters of header and BAT.
    metadata: u64,
    /// Clean clusters with blocks, at the end of the file.
    frontier: Range<u64>,
    /// Clean clusters without blocks.
    punched: BTreeSet<u64>,
    /// Free, with unknown content.
    dirty: BTreeSet<u64>,
    cleaning: usize,
    cleaning_clusters: u64,
    /// Zeroed; clean when the sync with this number has ended.
    cleaned: Vec<(u64, Range<u64>, u64)>,
    clean_retry_at: u64,
    extend: Option<(Extend, Range<u64>)>,
    /// Clusters of the next extension.
    step: u64,
    /// The host had no space for the last one: a single cluster is tried.
    careful: bool,
    /// Clean clusters that are kept ahead at most.
    most: u64,
    /// Clean clusters that were taken since the last extension.
    taken: u64,
    /// When a clean cluster was taken last.
    taken_at: u64,
    /// The host had no space for one cluster.
    exhausted: bool,
    /// Why.
    why: Errno,
    /// It was asked while requests waited.
    refused: bool,
    /// That was said in the log; once until the file has grown again.
    told: bool,
    /// It is asked again at this time when requests wait and freed clusters are slow to come.
    ask_again_at: u64,
    reserve: bool,
    punch: bool,
    zero_range: bool,
    zeros: AlignedBuf,
    /// Bytes of `cleaning by writing` already written, for the one such job.
    scrub: Option<(Range<u64>, u64)>,
    /// Requests that wait for a clean cluster.
    pub waiters: VecDeque<ToKeeper>,
}

impl Space {
    pub fn new(shared: &Shared, p: usize, used: FixedBitSet, active: bool) -> Self {
        let chain = &shared.chain;
        let top = chain.top_of(p);
        let caps = top.file.caps();
        let clusters = top.len >> chain.cluster.log2();
        let mut used = used;
        used.grow(clusters as usize);
        let metadata = match top.kind {
            crate::spec::LevelKind::Ploop { data_start, .. } => chain.cluster.count(data_start),
            crate::spec::LevelKind::Raw => 0,
        };
        // F6: what the BAT does not name holds unknown bytes.
        let dirty =
            if active { used.zeroes().map(|c| c as u64).collect() } else { BTreeSet::new() };
        let count = used.count_ones(..) as u64;
        let free = top.file.free_space().unwrap_or(u64::MAX);
        // What was allowed is for all pieces.
        let ahead = shared.options.prealloc_bytes / shared.pieces.count().max(1) as u64;
        let most = most_for(chain.cluster, ahead, free);
        Self {
            cluster: chain.cluster,
            active,
            clusters,
            used,
            used_count: count,
            device: shared.pieces.clusters(p),
            metadata,
            frontier: clusters..clusters,
            punched: BTreeSet::new(),
            dirty,
            cleaning: 0,
            cleaning_clusters: 0,
            cleaned: Vec::new(),
            clean_retry_at: 0,
            extend: None,
            step: step_for(most, count),
            careful: false,
            most,
            taken: 0,
            taken_at: 0,
            exhausted: false,
            why: Errno::NOSPC,
            refused: false,
            told: false,
            ask_again_at: 0,
            reserve: caps.reserve,
            punch: caps.punch,
            zero_range: caps.zero_range,
            zeros: crate::memory::buffer(ZERO_BUFFER as usize),
            scrub: None,
            waiters: VecDeque::new(),
        }
    }

    /// Present length of the top in bytes.
    pub fn len(&self) -> u64 {
        self.clusters << self.cluster.log2()
    }

    /// End of the last used cluster, in bytes.
    pub fn end(&self) -> u64 {
        let last = self.used.ones().next_back().map_or(self.metadata, |c| c as u64 + 1);
        last.max(self.metadata) << self.cluster.log2()
    }

    /// Some data cluster is in use.
    pub fn mapped(&self) -> bool {
        self.used.ones().next_back().is_some_and(|c| c as u64 >= self.metadata)
    }

    /// Clean clusters at hand.
    pub fn available(&self) -> u64 {
        self.frontier.end - self.frontier.start + self.punched.len() as u64
    }

    /// Clusters that will be clean later.
    pub fn unclean(&self) -> usize {
        let cleaned: u64 = self.cleaned.iter().map(|(_, r, _)| r.end - r.start).sum();
        self.dirty.len() + (self.cleaning_clusters + cleaned) as usize
    }

    /// Requests wait, and the file cannot grow: freed clusters are needed now (F16).
    pub fn is_starved(&self) -> bool {
        self.exhausted && !self.waiters.is_empty()
    }

    /// Nothing is on its way.
    pub fn is_settled(&self) -> bool {
        self.cleaning == 0 && self.extend.is_none() && self.waiters.is_empty()
    }

    /// A cluster whose mapping was taken away: not used any more, not free yet.
    pub fn unmapped(&mut self, cluster: FileCluster) {
        self.set_used(cluster.0, false);
    }

    fn set_used(&mut self, n: u64, used: bool) {
        let was = self.used.contains(n as usize);
        self.used.set(n as usize, used);
        self.used_count = self.used_count + u64::from(used) - u64::from(was);
    }

    /// Clusters that the device can still ask for: those of it that have none in the image.
    fn needed(&self, stocked: u64) -> u64 {
        (self.device + self.metadata + stocked).saturating_sub(self.used_count)
    }

    /// Free, with unknown content; also the target of a copy-up that failed (F13).
    pub fn free_dirty(&mut self, cluster: FileCluster) {
        self.set_used(cluster.0, false);
        if on(Bug::CleanNot) {
            self.punched.insert(cluster.0);
            return;
        }
        self.dirty.insert(cluster.0);
    }

    /// A clean cluster has been used.
    pub(super) fn taken(&mut self, now: u64) {
        self.taken_at = now;
        self.taken += 1;
    }

    /// As if it were clean.
    pub(super) fn free_clean(&mut self, cluster: FileCluster) {
        self.punched.insert(cluster.0);
    }

    /// There are clusters at the end of the file that could go back to the host (P10).
    fn has_tail(&self) -> bool {
        let ahead = !self.frontier.is_empty() && self.frontier.end == self.clusters;
        ahead && self.extend.is_none()
    }

    /// Nothing was taken for a while.
    fn is_idle(&self, now: u64) -> bool {
        now.saturating_sub(self.taken_at) >= GIVE_BACK_NS
    }

    fn low(&self, stocked: u64) -> bool {
        // A whole step is left when the next one is asked for: writes go on while it comes.
        let wanted = self.step.max(2).min(self.most).min(self.needed(stocked));
        self.available() + stocked < wanted
    }

    /// Clusters of the next extension: so that no more is kept ahead than was allowed, nor than the
    /// device can need. Who waits gets what it waits for all the same.
    fn next_step(&self, stocked: u64) -> u64 {
        let most = self.most.min(self.needed(stocked));
        let room = most.saturating_sub(self.available() + stocked);
        let waiting = self.waiters.len() as u64;
        self.step.min(room).max(waiting.min(if self.careful { 1 } else { EXTEND_CLUSTERS }))
    }
}

/// P10: what was asked for, but no more than a share of what the host has free.
fn most_for(cluster: ClusterSize, ahead: u64, free: u64) -> u64 {
    let share = (free / AHEAD_SHARE) >> cluster.log2();
    (ahead >> cluster.log2()).min(share.max(EXTEND_CLUSTERS))
}

/// P10: a share of what is used, between a few clusters and half of `most`: the next step is asked
/// for when one is left.
fn step_for(most: u64, used: u64) -> u64 {
    let half = (most / 2).max(1);
    (used / 16).clamp(EXTEND_CLUSTERS.min(half), half)
}

impl<I: Io> Keeper<I> {
    /// Hands clean clusters of a piece to a queue that allocates there: two for each that it took,
    /// so that its stock fills up to its share.
    pub(super) fn fill_stock(&mut self, queue: u16, p: usize) {
        let queue = usize::from(queue);
        for _ in 0..2 {
            let stock = self.shared.stock(queue, p);
            let most = self.spaces[p].available().div_ceil(STOCK_SHARE);
            if stock.is_full() || stock.len() as u64 >= most || self.closing {
                return;
            }
            let Some(clean) = self.take_clean(p) else { return };
            let _ = self.shared.stock(queue, p).push(clean.0);
        }
    }

    /// What no queue has taken from its stock: the last of it is the tail again, and can be given
    /// back with it; the rest has blocks until it is cleaned.
    pub(super) fn take_stocks_back(&mut self, p: usize) {
        let s = &mut self.spaces[p];
        let pop = |stock| std::iter::from_fn(move || ArrayQueue::pop(stock));
        let mut back: BTreeSet<u64> = self.shared.stocks(p).flat_map(pop).collect();
        for n in &back {
            s.set_used(*n, false);
        }
        while s.frontier.start > 0 && back.remove(&(s.frontier.start - 1)) {
            s.frontier.start -= 1;
        }
        s.dirty.append(&mut back);
    }

    /// A clean cluster for a hole that this queue asks for.
    pub(super) fn take_clean_for(&mut self, queue: u16, p: usize) -> Option<FileCluster> {
        match self.shared.stock(usize::from(queue), p).pop() {
            Some(n) => {
                self.spaces[p].taken(self.now);
                Some(FileCluster(n))
            }
            None => self.take_clean(p),
        }
    }

    /// Clean clusters of a piece in the queues' hands.
    pub(super) fn stocked(&self, p: usize) -> u64 {
        self.shared.stocks(p).map(|stock| stock.len() as u64).sum()
    }

    /// A clean cluster that a BAT entry can name; `None` when there is none now.
    pub(super) fn take_clean(&mut self, p: usize) -> Option<FileCluster> {
        let space = &mut self.spaces[p];
        let stocks = || self.shared.stocks(p).find_map(ArrayQueue::pop);
        let n = match space.frontier.next() {
            Some(n) => n,
            None => space.punched.pop_first().or_else(stocks)?,
        };
        let at = self.position(FileCluster(n));
        if self.version.and_then(|v| v.entry(at, self.cluster)).is_none() {
            // F22: the format cannot name it.
            self.spaces[p].frontier = 0..0;
            self.spaces[p].exhausted = true;
            self.spaces[p].refused = true;
            self.spaces[p].ask_again_at = u64::MAX;
            return None;
        }
        self.spaces[p].set_used(n, true);
        self.spaces[p].taken(self.now);
        Some(FileCluster(n))
    }

    pub(super) fn pump_space(&mut self) {
        for p in 0..self.spaces.len() {
            self.pump_space_of(p);
        }
    }

    fn pump_space_of(&mut self, p: usize) {
        if !self.spaces[p].active {
            return;
        }
        if self.spaces[p].taken_at == 0 {
            self.spaces[p].taken_at = self.now;
        }
        self.serve_waiters(p);
        if self.shared.refuses_writes() {
            return;
        }
        // A close cuts off what lies behind the last used cluster, and leaves the rest as it is.
        if !self.closing {
            self.start_cleaning(p);
        }
        self.start_extension(p);
        self.start_cut(p);
        self.give_up_waiters(p);
    }

    fn serve_waiters(&mut self, p: usize) {
        for _ in 0..self.spaces[p].waiters.len() {
            if self.spaces[p].available() == 0 {
                return;
            }
            if let Some(message) = self.spaces[p].waiters.pop_front() {
                self.message(message);
            }
        }
    }

    /// F17: no clean cluster, none coming: the requests learn that the host is full. (They are
    /// held and come back.)
    fn give_up_waiters(&mut self, p: usize) {
        let s = &self.spaces[p];
        // Not what could not be cleaned just now: zeros need space too where nothing is punched.
        let dirty = !s.dirty.is_empty() && self.now >= s.clean_retry_at;
        let coming = s.extend.is_some()
            || dirty
            || s.cleaning > 0
            || !s.cleaned.is_empty()
            || !self.quarantine.is_empty();
        if !s.exhausted || s.waiters.is_empty() || coming {
            return;
        }
        self.spaces[p].exhausted = false;
        if self.spaces[p].refused || self.closing {
            let why = self.spaces[p].why;
            self.fail_space_waiters_of(p, why);
            self.fail_waiting_copies(why);
        } else {
            // What the host said before these came is old news.
            self.start_extension(p);
        }
    }

    pub(super) fn fail_space_waiters(&mut self, errno: Errno) {
        for p in 0..self.spaces.len() {
            self.fail_space_waiters_of(p, errno);
        }
        self.fail_waiting_copies(errno);
    }

    fn fail_space_waiters_of(&mut self, p: usize, errno: Errno) {
        for message in std::mem::take(&mut self.spaces[p].waiters) {
            let (ToKeeper::Allocate(caller, _)
            | ToKeeper::MapClean(caller, _)
            | ToKeeper::CopyUp { caller, .. }) = message
            else {
                continue;
            };
            self.answer(caller, Answer::Failed(errno));
        }
    }

    fn start_extension(&mut self, p: usize) {
        // I16: a freed cluster may wait long for one slow I/O (I11); the host may have space again
        // by then.
        if self.spaces[p].is_starved() && self.now >= self.spaces[p].ask_again_at {
            self.spaces[p].exhausted = false;
        }
        let (s, stocked) = (&self.spaces[p], self.stocked(p));
        // An idle disk keeps nothing ahead (P10); the first allocation finds that out.
        let wanted = (s.low(stocked) && !s.is_idle(self.now)) || !s.waiters.is_empty();
        // Freed clusters first, so that the file does not grow without need.
        let enough_coming = s.unclean() as u64 >= s.step.min(64) && s.waiters.is_empty();
        if self.closing || s.extend.is_some() || !wanted || s.exhausted || enough_coming {
            return;
        }
        let step = s.next_step(stocked);
        if step == 0 {
            return;
        }
        let range = s.clusters..s.clusters + step;
        let at = self.cluster.file_start(FileCluster(range.start));
        let len = step << self.cluster.log2();
        if self.spaces[p].reserve {
            self.spaces[p].extend = Some((Extend::Reserve, range));
            self.push(p, Task::Extend(p), OpKind::Reserve, at, len, ptr::null_mut());
        } else {
            self.spaces[p].extend = Some((Extend::Truncate, range));
            self.push(p, Task::Extend(p), OpKind::Truncate, at + len, 0, ptr::null_mut());
        }
    }

    pub(super) fn extend_completed(&mut self, p: usize, result: i32) {
        let Some((stage, range)) = self.spaces[p].extend.take() else { return };
        if stage == Extend::Cut {
            return self.cut_completed(p, range, result);
        }
        if result < 0 {
            self.extend_failed(p, stage, range, Errno::from_raw_os_error(-result));
            return;
        }
        if stage == Extend::Reserve {
            let end = self.cluster.file_start(FileCluster(range.end));
            self.spaces[p].extend = Some((Extend::Truncate, range));
            self.push(p, Task::Extend(p), OpKind::Truncate, end, 0, ptr::null_mut());
            return;
        }
        self.spaces[p].clusters = range.end;
        self.spaces[p].told = false;
        self.spaces[p].used.grow(range.end as usize);
        self.spaces[p].extend = Some((Extend::Synced(self.syncs.next()), range));
        if on(Bug::ExtendUnsynced) {
            self.space_synced(p, self.syncs.next());
        }
    }

    fn extend_failed(&mut self, p: usize, stage: Extend, range: Range<u64>, errno: Errno) {
        if matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS) && stage == Extend::Reserve {
            // P9: no reservation here; the length alone moves.
            self.spaces[p].reserve = false;
            return;
        }
        let no_space = is_no_space(errno);
        if no_space && range.end - range.start > 1 {
            (self.spaces[p].step, self.spaces[p].careful) = (1, true);
            return;
        }
        self.spaces[p].why = if no_space { errno } else { Errno::NOSPC };
        if !std::mem::replace(&mut self.spaces[p].told, true) {
            let (clusters, why) = (self.spaces[p].clusters, why_no_space(errno));
            match no_space {
                true => tracing::warn!("the top cannot grow beyond {clusters} clusters: {why}"),
                false => tracing::warn!("the top cannot grow beyond {clusters} clusters: {errno}"),
            }
        }
        self.spaces[p].refused = !self.spaces[p].waiters.is_empty();
        self.shared.keeper_stats.extensions_refused.add(1);
        self.spaces[p].exhausted = true;
        let pause = self.shared.options.enospc_retry_ms.max(1) * 1_000_000;
        self.spaces[p].ask_again_at = self.now + pause;
    }

    /// P10: gives back what is kept ahead when nobody has taken any of it for a while.
    fn start_cut(&mut self, p: usize) {
        if self.closing || self.spaces[p].extend.is_some() || !self.spaces[p].is_idle(self.now) {
            return;
        }
        self.take_stocks_back(p);
        let s = &mut self.spaces[p];
        if !s.has_tail() {
            return;
        }
        let range = std::mem::take(&mut s.frontier);
        let end = self.cluster.file_start(FileCluster(range.start));
        s.extend = Some((Extend::Cut, range));
        self.push(p, Task::Extend(p), OpKind::Truncate, end, 0, ptr::null_mut());
    }

    fn cut_completed(&mut self, p: usize, range: Range<u64>, result: i32) {
        let s = &mut self.spaces[p];
        if result < 0 {
            // It is still there, and clean.
            s.frontier = range;
            s.taken_at = self.now;
            return;
        }
        self.shared.keeper_stats.given_back.add(range.end - range.start);
        s.clusters = range.start;
        s.frontier = range.start..range.start;
        s.step = step_for(s.most, s.used_count);
    }

    fn start_cleaning(&mut self, p: usize) {
        while self.spaces[p].cleaning < CLEANERS && self.now >= self.spaces[p].clean_retry_at {
            // Without punching there is one such job, by writing; its end wakes the keeper.
            if self.spaces[p].scrub.is_some() {
                return;
            }
            let Some(first) = self.spaces[p].dirty.pop_first() else { return };
            let most = (CLEAN_BYTES >> self.cluster.log2()).max(1);
            let mut end = first + 1;
            // P1: neighbours together, within a bound.
            while end - first < most && self.spaces[p].dirty.remove(&end) {
                end += 1;
            }
            self.clean(p, first..end);
        }
    }

    fn clean(&mut self, p: usize, range: Range<u64>) {
        let at = self.cluster.file_start(FileCluster(range.start));
        let len = (range.end - range.start) << self.cluster.log2();
        let kind = if self.spaces[p].punch {
            OpKind::Punch
        } else if self.spaces[p].zero_range {
            OpKind::ZeroRange
        } else {
            self.spaces[p].scrub = Some((range.clone(), 0));
            self.count_cleaning(p, &range, true);
            self.scrub_step(p);
            return;
        };
        self.count_cleaning(p, &range, true);
        self.push(p, Task::Clean(p, range), kind, at, len, ptr::null_mut());
    }

    fn count_cleaning(&mut self, p: usize, range: &Range<u64>, begin: bool) {
        let n = range.end - range.start;
        if begin {
            self.spaces[p].cleaning += 1;
            self.spaces[p].cleaning_clusters += n;
        } else {
            self.spaces[p].cleaning -= 1;
            self.spaces[p].cleaning_clusters -= n;
        }
    }

    /// Without punching: zeros are written, a buffer at a time.
    fn scrub_step(&mut self, p: usize) {
        let Some((range, done)) = self.spaces[p].scrub.clone() else { return };
        let at = self.cluster.file_start(FileCluster(range.start)) + done;
        let left = ((range.end - range.start) << self.cluster.log2()) - done;
        let buf = self.spaces[p].zeros.as_mut_ptr();
        self.push(p, Task::Clean(p, range), OpKind::Write, at, left.min(ZERO_BUFFER), buf);
    }

    pub(super) fn cleaned(&mut self, p: usize, range: Range<u64>, result: i32) {
        if result < 0 {
            let errno = Errno::from_raw_os_error(-result);
            self.count_cleaning(p, &range, false);
            self.spaces[p].scrub = None;
            self.spaces[p].dirty.extend(range);
            if matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS) {
                if self.spaces[p].punch {
                    self.spaces[p].punch = false;
                } else {
                    self.spaces[p].zero_range = false;
                }
            } else {
                tracing::warn!("free clusters of the top were not cleaned: {errno}");
                self.spaces[p].clean_retry_at = self.now + QUARANTINE_NS;
            }
            return;
        }
        if let Some((_, done)) = &mut self.spaces[p].scrub {
            *done += result as u64;
            let whole = (range.end - range.start) << self.cluster.log2();
            if *done < whole && result > 0 && !self.closing {
                self.scrub_step(p);
                return;
            }
            let ended = *done >= whole;
            self.spaces[p].scrub = None;
            if !ended {
                // It stays unknown, also after a close.
                self.count_cleaning(p, &range, false);
                self.spaces[p].dirty.extend(range);
                return;
            }
        }
        self.count_cleaning(p, &range, false);
        if on(Bug::CleanUnsynced) {
            self.spaces[p].punched.extend(range);
            return;
        }
        self.spaces[p].cleaned.push((self.syncs.next(), range, self.now));
    }

    /// The sync that the space waits for, if it is worth one now; else 0.
    pub(super) fn space_sync(&self, p: usize) -> u64 {
        let s = &self.spaces[p];
        let mut need = 0;
        if let Some((Extend::Synced(sync), _)) = s.extend {
            need = sync;
        }
        // P1: cleaned clusters ride on somebody else's sync, for a while.
        let old = self.now.saturating_sub(QUARANTINE_NS);
        let hurry = !s.waiters.is_empty() || s.low(self.stocked(p));
        let wait = s.cleaned.iter().filter(|(_, _, since)| hurry || *since <= old);
        need.max(wait.map(|(sync, _, _)| *sync).max().unwrap_or(0))
    }

    /// A sync has ended well: what it covered is clean.
    pub(super) fn space_synced(&mut self, p: usize, number: u64) {
        let s = &mut self.spaces[p];
        for (_, range, _) in s.cleaned.iter().filter(|(sync, _, _)| *sync <= number) {
            s.punched.extend(range.clone());
        }
        s.cleaned.retain(|(sync, _, _)| *sync > number);
        if let Some((Extend::Synced(sync), range)) = s.extend.clone()
            && sync <= number
        {
            s.extend = None;
            self.shared.keeper_stats.extensions.add(1);
            self.shared.keeper_stats.extended.add(range.end - range.start);
            if s.frontier.is_empty() {
                s.frontier = range;
            } else {
                // The old frontier ends where the new one begins.
                s.frontier.end = range.end;
            }
            // A disk that takes what it is given gets more at a time.
            s.careful = false;
            let taken = std::mem::take(&mut s.taken);
            let used = if taken >= s.step { s.step * 32 } else { 0 };
            s.step = step_for(s.most, used.max(s.used_count));
        }
        if s.available() > 0 {
            s.exhausted = false;
        }
    }

    pub(super) fn space_deadline(&self, p: usize) -> Option<u64> {
        if self.shared.refuses_writes() {
            return None;
        }
        let idle =
            self.spaces[p].scrub.is_none() && self.spaces[p].cleaning < CLEANERS && !self.closing;
        let dirty = !self.spaces[p].dirty.is_empty() && idle;
        let clean = dirty.then_some(self.spaces[p].clean_retry_at);
        let running = self.syncs.is_busy();
        let cleaned =
            self.spaces[p].cleaned.iter().map(|(_, _, since)| since + QUARANTINE_NS).min();
        let cleaned = cleaned.filter(|_| !running);
        let starved = self.spaces[p].is_starved() && self.spaces[p].ask_again_at != u64::MAX;
        let ask = starved.then_some(self.spaces[p].ask_again_at);
        // What a close cuts off anyway must not keep waking the keeper meanwhile.
        let ahead =
            self.spaces[p].has_tail() || self.stocked(p) > 0 && self.spaces[p].extend.is_none();
        let tail = ahead && !self.closing;
        let idle = tail.then_some(self.spaces[p].taken_at + GIVE_BACK_NS);
        [clean, cleaned, ask, idle].into_iter().flatten().min()
    }
}
