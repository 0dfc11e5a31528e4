//! The keeper: the only writer of the map, the free set and the metadata on disk.
//!
//! A state machine, `Event -> apply -> keep the invariants`: it takes messages and completions,
//! changes its state, and starts what has become possible. It never blocks: page writes, punches
//! and syncs run in parallel and come back as completions.
//!
//! | file | what |
//! |---|---|
//! | `load.rs` | BAT pages into cells, on first touch |
//! | `ahead.rs` | BAT pages into cells before they are touched |
//! | `space.rs` | clean clusters: extension ahead of the frontier, cleaning of freed ones |
//! | `below.rs` | what a merge has taken from the level under the top is given back |
//! | `mapping.rs` | allocate, unmap, map clean: changes of one cell |
//! | `copyup.rs` | bring a cluster up from a lower level |
//! | `patch.rs` | parts of blocks, by read-modify-write under a claim, where queues are several |
//! | `pages.rs` | 7 write back: staged page images, generations |
//! | `sync.rs` | one sync in flight, group commit, FLUSH and FUA answers |
//! | `recorded.rs` | changes that no completed page write holds yet, kept for the next life |
//! | `quarantine.rs` | freed clusters: grace period, durable page, then cleaning |
//! | `ops` | operations in flight, by token |

mod ahead;
mod below;
mod copyup;
mod load;
mod mapping;
mod ops;
mod pages;
mod patch;
mod quarantine;
mod recorded;
mod space;
mod sync;

use crate::device::Shared;
use crate::front::Errno;
use crate::message::{Answer, Caller, ToKeeper};
use crate::spec::{CloseReport, DeviceSpec, LevelKind, PieceEnd, PieceSpec};
use crate::sync::Ordering;
pub use copyup::Spare;
use ops::{Task, Tasks};
use ploop_format::{ClusterSize, GuestCluster, Version};
use ploop_io::planted::{Bug, on};
use ploop_io::{Clock, Completion, FileId, Io, Op, OpKind};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The keeper of a device; lives on its thread.
pub struct Keeper<I: Io> {
    shared: Arc<Shared>,
    io: I,
    tasks: Tasks,
    completions: Vec<Completion>,
    now: u64,
    cluster: ClusterSize,
    /// Generation of the top's format; `None` for a raw top, which has no metadata.
    version: Option<Version>,
    /// The header bytes that page 0 of each piece is written with (F10).
    headers: Vec<[u8; 64]>,
    /// Clusters of each piece's read-only top that share a place (T5). Sorted.
    refused: Vec<Vec<GuestCluster>>,
    /// Number of the last change of the map.
    seq: u64,
    loads: load::Loads,
    ahead: ahead::Ahead,
    /// Of each piece's top.
    spaces: Vec<space::Space>,
    below: Vec<below::Below>,
    quarantine: quarantine::Quarantine,
    copies: copyup::Copies,
    patches: patch::Patches,
    recorded: Vec<recorded::Recorded>,
    pages: pages::Pages,
    syncs: sync::Syncs,
    closing: bool,
}

impl<I: Io> Keeper<I> {
    pub(crate) fn new(shared: Arc<Shared>, spec: DeviceSpec, io: I, spare: Spare) -> Self {
        shared.keeper.set_waker(io.waker());
        let top = shared.chain.top();
        let version = match top.kind {
            LevelKind::Ploop { version, .. } => Some(version),
            LevelKind::Raw => None,
        };
        let copies = copyup::Copies::new(&shared.chain, spare);
        let writes = !shared.limits.read_only;
        let several = shared.queues.len() > 1;
        let patches = patch::Patches::new(writes && several && shared.align.offset() > 1);
        // Read-only: nobody knows what is in use, and there is nothing to clean.
        let active = version.is_some() && !shared.limits.read_only;
        let first = PieceSpec {
            start: GuestCluster(0),
            used: spec.used,
            header: spec.header,
            refused: spec.refused,
            record: spec.record,
        };
        let (mut spaces, mut recorded) = (Vec::new(), Vec::new());
        let (mut headers, mut refused) = (Vec::new(), Vec::new());
        for (p, piece) in [first].into_iter().chain(spec.more).enumerate() {
            spaces.push(space::Space::new(&shared, p, piece.used, active));
            recorded.push(recorded::Recorded::new(piece.record));
            headers.push(piece.header);
            refused.push(piece.refused);
        }
        Self {
            tasks: Tasks::default(),
            completions: Vec::with_capacity(64),
            now: 0,
            cluster: shared.chain.cluster,
            version,
            headers,
            refused,
            seq: 0,
            loads: load::Loads::default(),
            ahead: ahead::Ahead::default(),
            spaces,
            below: (0..shared.pieces.count()).map(|p| below::Below::new(&shared, p)).collect(),
            quarantine: quarantine::Quarantine::default(),
            copies,
            patches,
            recorded,
            pages: pages::Pages::default(),
            syncs: sync::Syncs::default(),
            closing: false,
            shared,
            io,
        }
    }

    /// Memory for the keeper of the next device, when this one is done.
    #[must_use]
    pub fn take_spare(&mut self) -> Spare {
        self.copies.take_spare()
    }

    /// The ring, for the keeper of the next device, when this one is done.
    #[must_use]
    pub fn into_io(self) -> I {
        debug_assert!(self.tasks.is_empty());
        self.io
    }

    /// The keeper's ring.
    pub fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// Serves until `ended` says that all queues have returned, then closes.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn run(&mut self, clock: &dyn Clock, ended: &dyn Fn() -> bool) -> io::Result<CloseReport> {
        loop {
            if let Some(report) = self.run_to_pause(clock, ended)? {
                return Ok(report);
            }
        }
    }

    /// As [`Keeper::run`]; `None` when the device pauses and finds no space for the block table:
    /// nothing was closed, and the keeper can be run again.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn run_to_pause(
        &mut self,
        clock: &dyn Clock,
        ended: &dyn Fn() -> bool,
    ) -> io::Result<Option<CloseReport>> {
        loop {
            let deadline = self.step(clock.now());
            if ended() && !self.closing {
                self.begin_close();
                continue;
            }
            if self.closing && self.is_closed() {
                return Ok(Some(self.report()));
            }
            if self.cannot_close() {
                self.go_on();
                return Ok(None);
            }
            let timeout = deadline.map(|at| Duration::from_nanos(at.saturating_sub(clock.now())));
            let link = &self.shared.keeper;
            let closing = self.closing;
            let idle = || link.is_empty() && (closing || !ended());
            self.io.wait(timeout, &idle)?;
        }
    }

    /// One turn: messages, completions, and whatever became possible. Returns when to come again
    /// at the latest. Does not submit.
    pub fn step(&mut self, now: u64) -> Option<u64> {
        self.now = now;
        let shared = Arc::clone(&self.shared);
        while let Some(message) = shared.keeper.take() {
            self.message(message);
        }
        let mut completions = std::mem::take(&mut self.completions);
        self.io.reap(&mut completions);
        for c in completions.drain(..) {
            self.completed(c);
        }
        self.completions = completions;
        self.notice_failure();
        self.pump();
        self.count();
        self.next_deadline()
    }

    fn message(&mut self, message: ToKeeper) {
        match message {
            ToKeeper::Load(caller, page) => self.load(caller, page),
            ToKeeper::Wait(caller, cluster) => self.wait_for_claim(caller, cluster),
            ToKeeper::Allocate(caller, cluster) => self.allocate(caller, cluster),
            ToKeeper::AllocateAt(caller, cluster, to) => self.allocate_at(caller, cluster, to),
            ToKeeper::CopyUp { .. } => self.copy_up(message),
            ToKeeper::CopyDown(caller, cluster) => self.copy_down(caller, cluster),
            ToKeeper::CopyUpWritten(caller, cluster, result) => {
                self.copy_up_written(caller, cluster, result);
            }
            ToKeeper::Patch { .. } => self.patch(message),
            ToKeeper::Realign(caller) => {
                self.realign();
                self.answer(caller, Answer::Retry);
            }
            ToKeeper::Unmap(caller, cluster) => self.unmap(caller, cluster),
            ToKeeper::MapClean(caller, cluster) => self.map_clean(caller, cluster),
            ToKeeper::Durable(caller, page) => self.durable(caller, page),
            ToKeeper::Flush(caller) => self.flush(caller),
        }
    }

    fn completed(&mut self, c: Completion) {
        let task = self.tasks.take(c.token);
        if let Some(piece) = task.as_ref().and_then(|task| self.changed_by(task)) {
            self.shared.owes(self.shared.chain.top_of(piece).fid);
        }
        match task {
            Some(Task::Load(page, level)) => self.load_completed(page, level, c.result),
            Some(Task::Ahead) => self.ahead_completed(c.result),
            Some(Task::Pages(first, count)) => self.pages_written(first, count, c.result),
            Some(Task::Sync(number, level)) => self.sync_ended(number, level, c.result),
            Some(Task::Copy(cluster)) => self.copy_completed(cluster, c.result),
            Some(Task::Patch(cluster, run)) => self.patch_completed(cluster, run, c.result),
            Some(Task::Extend(p)) => self.extend_completed(p, c.result),
            Some(Task::Below(p)) => self.below_given(p, c.result),
            Some(Task::Clean(p, range)) => self.cleaned(p, range, c.result),
            None => tracing::error!("a completion with the unknown token {}", c.token),
        }
    }

    /// The piece whose top an operation has changed: the next sync is for it too.
    fn changed_by(&self, task: &Task) -> Option<usize> {
        match task {
            Task::Pages(page, _) => Some(self.shared.pieces.of_page(*page)),
            Task::Copy(cluster) => Some(self.shared.pieces.of(*cluster)),
            Task::Extend(p) | Task::Clean(p, _) => Some(*p),
            // A patch says itself which file it has written.
            Task::Load(..) | Task::Ahead | Task::Sync(..) | Task::Below(_) | Task::Patch(..) => {
                None
            }
        }
    }

    /// Starts everything that can start.
    fn pump(&mut self) {
        self.pump_loads();
        self.pump_ahead();
        self.pump_quarantine();
        self.pump_recorded();
        self.pump_space();
        self.pump_below();
        self.pump_copies();
        self.pump_patches();
        self.pump_pages();
        self.pump_sync();
        self.answer_durable();
    }

    fn next_deadline(&mut self) -> Option<u64> {
        let space = (0..self.spaces.len()).filter_map(|p| self.space_deadline(p)).min();
        [self.page_deadline(), space, self.quarantine_deadline()].into_iter().flatten().min()
    }

    fn answer(&self, caller: Caller, answer: Answer) {
        self.shared.queues[usize::from(caller.queue)].send((caller.slot, answer));
    }

    /// Starts an operation on the top of a piece.
    fn push(&mut self, p: usize, task: Task, kind: OpKind, offset: u64, len: u64, buf: *mut u8) {
        let top = self.shared.chain.top_of(p).fid;
        self.push_to(task, top, kind, offset, len, buf);
    }

    fn push_to(
        &mut self,
        task: Task,
        file: FileId,
        kind: OpKind,
        offset: u64,
        len: u64,
        buf: *mut u8,
    ) {
        let token = self.tasks.add(task);
        let op = Op { token, kind, file, offset, len, buf, lent: None };
        // SAFETY: every caller passes a buffer that its task owns until the completion (page
        // flight, copy buffer, the zeros of `Space`), or null; the chain keeps the file open, and
        // the ring drains before the keeper's fields go.
        unsafe { self.io.push(op) };
    }

    /// Lets everything durable become durable; nothing new is prepared.
    pub fn begin_close(&mut self) {
        self.closing = true;
        for p in 0..self.spaces.len() {
            self.take_stocks_back(p);
        }
        self.pages.touched = true;
    }

    /// F20: the close is for a pause, and pages that were changed since the last flush find no
    /// space. They are on record and in memory: the device goes on with them.
    #[must_use]
    pub fn cannot_close(&self) -> bool {
        let pausing = self.shared.pausing.load(Ordering::SeqCst) && !self.shared.gives_up();
        self.closing && pausing && self.pages.is_full() && !on(Bug::PauseAtAllCosts)
    }

    /// Takes [`Keeper::begin_close`] back.
    pub fn go_on(&mut self) {
        self.closing = false;
        self.pages.try_anew();
    }

    /// Whether the close is complete.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        if !self.closing || !self.tasks.is_empty() {
            return false;
        }
        let failed = self.shared.refuses_writes() || on(Bug::CloseUnsettled);
        let settled = self.spaces.iter().all(space::Space::is_settled);
        failed || (self.pages.is_clean() && self.quarantine.is_empty() && settled)
    }

    /// The result of a close.
    #[must_use]
    pub fn report(&self) -> CloseReport {
        let ends = |space: &space::Space| PieceEnd { end: space.end(), mapped: space.mapped() };
        let failure = if self.shared.failed.load(Ordering::SeqCst) {
            Some(format!(
                "a sync of {} failed: what was written since the last good one is in doubt",
                self.shared.chain.top().file.path().display()
            ))
        } else if self.shared.frozen.load(Ordering::SeqCst) {
            Some(format!(
                "{} pages of the block table of {} could not be written",
                self.pages.len(),
                self.shared.chain.top().file.path().display()
            ))
        } else {
            None
        };
        CloseReport {
            clean: failure.is_none(),
            failure,
            end: self.spaces[0].end(),
            mapped: self.spaces[0].mapped(),
            changed: self.shared.changed.load(Ordering::SeqCst),
            more: self.spaces[1..].iter().map(ends).collect(),
        }
    }

    fn count(&self) {
        let stats = &self.shared.keeper_stats;
        stats.dirty_pages.set(self.pages.len() as u64);
        stats.dirty_pages_max.raise(self.pages.len() as u64);
        stats.copying.set(self.copies.running() as u64);
        let unclean: usize = self.spaces.iter().map(space::Space::unclean).sum();
        let available: u64 = self.spaces.iter().map(space::Space::available).sum();
        stats.quarantine.set((self.quarantine.len() + unclean) as u64);
        let stocked: u64 = (0..self.spaces.len()).map(|p| self.stocked(p)).sum();
        stats.clean.set(available + stocked);
    }

    /// A queue may have found a failed sync.
    fn notice_failure(&mut self) {
        if self.shared.failed.load(Ordering::SeqCst) {
            self.fail_waiters(Errno::IO);
        }
    }
}
