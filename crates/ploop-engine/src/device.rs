//! A device: what its queues and its keeper share.

use crate::align::Align;
use crate::bare::Bare;
use crate::chain::Chain;
use crate::chain::Level;
use crate::front::Limits;
use crate::grace::Grace;
use crate::keeper::{Keeper, Spare};
use crate::limits::{EXTRA_PIECES, MAX_TRANSFER, MAX_ZERO, STOCK};
use crate::map::Map;
use crate::message::{Answer, Link, ToKeeper};
use crate::pieces::Pieces;
use crate::queue::Queue;
use crate::record::Record;
use crate::spec::{DeviceOptions, DeviceSpec, GiveUp, LevelKind, OnEnospc};
use crate::stats::{KeeperStats, QueueStats};
use crate::sync_slot::SyncSlot;
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use ploop_format::GuestCluster;
use ploop_io::{FileId, Io};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// Why a device cannot be made of a spec.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// The chain is empty or too long.
    #[error("a chain has 1 to 253 deltas, this one has {0}")]
    Levels(usize),
    /// The device has no sector.
    #[error("the device has no sector")]
    Empty,
    /// A split disk without all images of its pieces, or with pieces in no order.
    #[error("{levels} images are no chain over {pieces} pieces in the order of the device")]
    Pieces {
        /// Images.
        levels: usize,
        /// Pieces.
        pieces: usize,
    },
    /// Only the base may be raw.
    #[error("level {0} is raw, only the base may be")]
    RawAbove(usize),
    /// A queue or depth of nothing.
    #[error("{queues} queues of depth {depth}: 1 to 64 queues of depth 1 to 4096 are possible")]
    Queues {
        /// Asked.
        queues: usize,
        /// Asked.
        depth: usize,
    },
    /// No device has such blocks.
    #[error("a logical block of {0} bytes: 512, 1024, 2048 and 4096 are possible")]
    Block(u32),
    /// A device does not shrink.
    #[error("the device has {was} bytes, it cannot become one of {now}")]
    Smaller {
        /// So far.
        was: u64,
        /// Wanted.
        now: u64,
    },
    /// Top and device disagree.
    #[error("the top has {entries} BAT entries, a device of {clusters} clusters needs as many")]
    ShortTop {
        /// Entries of the top.
        entries: u64,
        /// Clusters of the device.
        clusters: u64,
    },
}

/// What all threads of a device see.
pub struct Shared {
    /// Guest cluster -> place.
    pub map: Map,
    /// In-flight protection.
    pub grace: Grace,
    /// The open images.
    pub chain: Chain,
    /// Which of them serve which part of the device.
    pub pieces: Pieces,
    /// Pages of the map that need no read.
    pub bare: Bare,
    /// What direct I/O on them wants.
    pub align: Align,
    /// What front ends may ask.
    pub limits: Limits,
    /// The opener's choices.
    pub options: DeviceOptions,
    /// The top is a plain file.
    pub raw_top: bool,
    /// Discard keeps blocks (C8).
    pub keep_blocks: bool,
    /// A sync failed: no FLUSH or FUA is acknowledged any more (F5, I10).
    pub failed: AtomicBool,
    /// One sync of the top in flight, whoever asks (F5).
    pub sync_slot: CachePadded<SyncSlot>,
    /// Metadata cannot be written: writes fail (I10).
    pub frozen: AtomicBool,
    /// A page of the block table finds no space, again and again (F17).
    pub full: AtomicBool,
    /// What the next life finds after a kill (F2): one for each piece.
    pub records: Vec<Option<Record>>,
    /// No new requests are taken.
    pub stopping: AtomicBool,
    /// Nothing new is begun until another device takes this one's place.
    pub pausing: AtomicBool,
    /// The lowest level that a merge takes clusters from.
    pub floor: u8,
    /// The lowest level that writes change in place.
    pub in_place: u8,
    /// The top goes down into the plain file under it, which is written in place.
    pub down: bool,
    /// Levels other than a lone top that were written since a sync of them began (I3).
    pub written: Box<[AtomicBool]>,
    /// Some data or mapping is not what it was when the device was made.
    pub changed: AtomicBool,
    /// To the keeper.
    pub keeper: Link<ToKeeper>,
    /// To the queues.
    pub queues: Box<[Link<(u32, Answer)>]>,
    /// Clean clusters that the keeper has handed out: of each piece of the disk for each queue.
    stocks: Box<[ArrayQueue<u64>]>,
    /// Counters of the queues.
    pub queue_stats: Arc<[CachePadded<QueueStats>]>,
    /// Counters of the keeper.
    pub keeper_stats: Arc<CachePadded<KeeperStats>>,
}

impl Shared {
    /// The level under the top of a piece, when writes change it in place.
    pub fn below(&self, piece: usize) -> Option<&Level> {
        let top = usize::from(self.chain.top_of(piece).id);
        let below = top.checked_sub(self.chain.pieces).map(|below| below as u8)?;
        (self.in_place <= below).then(|| self.chain.level(below))
    }

    /// The clean clusters of a piece that a queue may write to.
    pub fn stock(&self, queue: usize, piece: usize) -> &ArrayQueue<u64> {
        &self.stocks[queue * self.pieces.count() + piece]
    }

    /// Those of a piece for all queues.
    pub fn stocks(&self, piece: usize) -> impl Iterator<Item = &ArrayQueue<u64>> {
        self.stocks.iter().skip(piece).step_by(self.pieces.count())
    }

    /// The level of a file that is written.
    pub fn level_of(&self, file: FileId) -> Option<&Level> {
        self.chain.levels.iter().rev().find(|level| level.fid == file)
    }

    /// A file was written, before the answer: a flush behind it finds the flag (I3). A write that
    /// failed may have changed something too, and reads have shown it since.
    pub fn written(&self, file: FileId) {
        self.changes();
        self.owes(file);
    }

    /// The next sync is for this file too.
    pub fn owes(&self, file: FileId) {
        if !self.pieces.is_split() && file == self.chain.top().fid {
            return;
        }
        if let Some(level) = self.level_of(file) {
            self.written[usize::from(level.id)].store(true, Ordering::SeqCst);
        }
    }

    /// Several files are written: their syncs are the keeper's.
    pub fn several(&self) -> bool {
        self.pieces.is_split() || self.below(0).is_some()
    }

    /// What is on the disk changes. Stored once: the line stays shared by all queues.
    pub fn changes(&self) {
        if !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::SeqCst);
        }
    }

    /// F5: a sync failed, which is final for the file; the next life hears of it too (I10).
    pub fn fail(&self) {
        for record in self.records.iter().flatten() {
            record.fail();
        }
        self.failed.store(true, Ordering::SeqCst);
    }

    /// T17: the device ends, so what waits for space is tried once more and fails then.
    #[must_use]
    pub fn gives_up(&self) -> bool {
        self.stopping.load(Ordering::SeqCst) || self.options.give_up.is_set()
    }

    /// Nobody is to wait for space on the host: not any more, or not at all.
    #[must_use]
    pub fn never_holds(&self) -> bool {
        self.options.on_enospc == OnEnospc::Fail || self.gives_up()
    }

    /// Writes are refused: a sync failed, or metadata cannot be written.
    #[must_use]
    pub fn refuses_writes(&self) -> bool {
        self.failed.load(Ordering::Acquire) || self.frozen.load(Ordering::Acquire)
    }
}

/// An open device: hands out its queues and its keeper, and stops them.
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
    spec: Arc<Mutex<Option<DeviceSpec>>>,
}

impl Device {
    /// Prepares a device; nothing runs yet and no file is changed.
    ///
    /// # Errors
    /// The spec is not one of a device.
    pub fn new(spec: DeviceSpec, options: DeviceOptions) -> Result<Self, DeviceError> {
        let stats = Stats {
            queues: (0..options.queues).map(|_| CachePadded::default()).collect(),
            keeper: Arc::default(),
        };
        Self::with(spec, options, stats, None)
    }

    /// The device that takes this one's place on the same queues, with the same counters: its chain
    /// is another one, or its size.
    ///
    /// # Errors
    /// The spec is not one of a device, or wants of requests what this one did not.
    pub fn successor(&self, spec: DeviceSpec) -> Result<Self, DeviceError> {
        let shared = &self.shared;
        let stats = Stats {
            queues: Arc::clone(&shared.queue_stats),
            keeper: Arc::clone(&shared.keeper_stats),
        };
        Self::with(spec, shared.options.clone(), stats, Some(shared.limits))
    }

    fn with(
        spec: DeviceSpec,
        options: DeviceOptions,
        stats: Stats,
        before: Option<Limits>,
    ) -> Result<Self, DeviceError> {
        check(&spec, &options)?;
        let size = spec.size.bytes();
        let starts: Vec<GuestCluster> = spec.more.iter().map(|piece| piece.start).collect();
        let pieces = Pieces::new(spec.cluster, size, &starts);
        let chain = Chain::new(spec.cluster, spec.levels.clone(), pieces.count());
        let align = Align::of(&chain);
        let limits = Limits {
            size,
            // T14: the disk's own, whatever its files want.
            block: spec.block,
            physical_block: chain.top().file.caps().block.max(spec.physical_block).max(spec.block),
            cluster: spec.cluster.bytes(),
            buffer_align: chain.mem_align(),
            max_transfer: MAX_TRANSFER,
            max_zero: MAX_ZERO,
            read_only: spec.read_only,
        };
        let limits = match before {
            Some(before) => limits.after(before)?,
            None => limits,
        };
        let messages = options.queues * (options.depth * 2 + EXTRA_PIECES) * 2 + 64;
        let link = || Link::new((options.depth * 2 + EXTRA_PIECES) * 2);
        let count = pieces.count();
        let stocks = options.queues * count;
        let number = |depth: usize| u8::try_from(depth.saturating_mul(count)).unwrap_or(u8::MAX);
        let depth = chain.levels.len() / count;
        let below = depth.checked_sub(2).filter(|below| spec.in_place <= *below);
        let down = below.is_some_and(|below| chain.levels[below * count].kind == LevelKind::Raw);
        let records = spec.more.iter().map(|piece| piece.record.clone());
        let bare = Bare::new(&chain, &spec.levels, &pieces);
        let shared = Shared {
            map: Map::new(pieces.places()),
            grace: Grace::new(options.queues),
            raw_top: chain.top().kind == LevelKind::Raw,
            written: chain.levels.iter().map(|_| AtomicBool::new(false)).collect(),
            chain,
            pieces,
            bare,
            align,
            limits,
            keep_blocks: spec.preallocated,
            failed: AtomicBool::new(false),
            records: [spec.record.clone()].into_iter().chain(records).collect(),
            frozen: AtomicBool::new(false),
            full: AtomicBool::new(false),
            sync_slot: CachePadded::default(),
            stopping: AtomicBool::new(false),
            pausing: AtomicBool::new(false),
            floor: number(spec.floor),
            in_place: number(spec.in_place),
            down,
            changed: AtomicBool::new(false),
            keeper: Link::new(messages),
            queues: (0..options.queues).map(|_| link()).collect(),
            stocks: (0..stocks).map(|_| ArrayQueue::new(STOCK)).collect(),
            queue_stats: stats.queues,
            keeper_stats: stats.keeper,
            options,
        };
        Ok(Self { shared: Arc::new(shared), spec: Arc::new(Mutex::new(Some(spec))) })
    }

    /// What front ends may ask.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Queue `n`, on the thread that will run it. Once per number.
    #[must_use]
    pub fn queue<I: Io>(&self, n: usize, io: I) -> Queue<I> {
        Queue::new(Arc::clone(&self.shared), n, io)
    }

    /// The keeper, on the thread that will run it; `None` the second time.
    #[must_use]
    pub fn keeper<I: Io>(&self, io: I) -> Option<Keeper<I>> {
        self.keeper_after(io, Spare::default())
    }

    /// As [`Device::keeper`], with memory of the keeper of the device before.
    #[must_use]
    pub fn keeper_after<I: Io>(&self, io: I, spare: Spare) -> Option<Keeper<I>> {
        let spec = self.spec.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Keeper::new(Arc::clone(&self.shared), spec, io, spare))
    }

    /// T17: what is held because the host has no space is tried once more and fails then, and so
    /// does what comes after it; `false` holds again. Call it before anything is waited for that
    /// may wait for this device: its page cache, its partitions, its users.
    pub fn give_up(&self, on: bool) {
        self.shared.options.give_up.set(on);
        self.shared.queues.iter().for_each(Link::wake);
        self.shared.keeper.wake();
    }

    /// Whether held requests are to fail.
    #[must_use]
    pub fn has_given_up(&self) -> bool {
        self.shared.options.give_up.is_set()
    }

    /// The word behind [`Device::give_up`], for threads that must not keep the device open.
    #[must_use]
    pub fn give_up_word(&self) -> GiveUp {
        self.shared.options.give_up.clone()
    }

    /// Asks the queues to finish; the keeper is closed after they have returned.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for queue in &self.shared.queues {
            queue.wake();
        }
    }

    /// Asks the queues to finish what is under way and to begin nothing new; their
    /// [`Queue::run`] then returns. Another device goes on for them ([`Queue::renew`]).
    pub fn pause(&self) {
        self.shared.pausing.store(true, Ordering::SeqCst);
        for queue in &self.shared.queues {
            queue.wake();
        }
        self.shared.keeper.wake();
    }

    /// Takes a pause back: the queues go on with this device ([`Queue::run`] again).
    pub fn go_on(&self) {
        self.shared.pausing.store(false, Ordering::SeqCst);
    }

    /// Makes the keeper look again, after a queue has returned.
    pub fn wake_keeper(&self) {
        self.shared.keeper.wake();
    }

    /// Whether a sync failed or metadata cannot be written.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.shared.refuses_writes()
    }

    /// Whether a page of the block table finds no space, now and when it was tried before: a flush
    /// may be held for long (F17).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::SeqCst)
    }

    /// Counters of queue `n`.
    #[must_use]
    pub fn queue_stats(&self, n: usize) -> &QueueStats {
        &self.shared.queue_stats[n]
    }

    /// In how many pieces the disk is split: as many of its last levels are tops.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.shared.pieces.count()
    }

    /// Number of queues.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.shared.queues.len()
    }

    /// Counters of the keeper.
    #[must_use]
    pub fn keeper_stats(&self) -> &KeeperStats {
        &self.shared.keeper_stats
    }

    /// Pages of the map with cells of their own; pages of holes share theirs.
    #[must_use]
    pub fn pages_resident(&self) -> usize {
        self.shared.map.resident()
    }

    /// BAT pages in memory.
    #[must_use]
    pub fn pages_loaded(&self) -> usize {
        self.shared.map.loaded()
    }
}

/// The counters of a device.
struct Stats {
    queues: Arc<[CachePadded<QueueStats>]>,
    keeper: Arc<CachePadded<KeeperStats>>,
}

impl Limits {
    /// Clients were told the limits of a device before; what they send must do for this one.
    fn after(self, before: Self) -> Result<Self, DeviceError> {
        if self.size < before.size {
            return Err(DeviceError::Smaller { was: before.size, now: self.size });
        }
        let buffer_align = self.buffer_align.max(before.buffer_align);
        Ok(Self { block: before.block, buffer_align, ..self })
    }
}

fn check(spec: &DeviceSpec, options: &DeviceOptions) -> Result<(), DeviceError> {
    if spec.levels.is_empty() || spec.levels.len() > 253 {
        return Err(DeviceError::Levels(spec.levels.len()));
    }
    let size = spec.size.bytes();
    if spec.size.0 == 0 {
        return Err(DeviceError::Empty);
    }
    let (levels, count) = (spec.levels.len(), spec.more.len() + 1);
    let last = spec.more.last().map_or(0, |piece| spec.cluster.guest_start(piece.start));
    let starts = [0].into_iter().chain(spec.more.iter().map(|piece| piece.start.0));
    if !levels.is_multiple_of(count) || !starts.is_sorted_by(|a, b| a < b) || last >= size {
        return Err(DeviceError::Pieces { levels, pieces: count });
    }
    if let Some(n) = spec.levels.iter().skip(count).position(|l| l.kind == LevelKind::Raw) {
        return Err(DeviceError::RawAbove(n / count + 1));
    }
    if !spec.block.is_power_of_two() || !(512..=4096).contains(&spec.block) {
        return Err(DeviceError::Block(spec.block));
    }
    let (queues, depth) = (options.queues, options.depth);
    if !(1..=64).contains(&queues) || !(1..=4096).contains(&depth) {
        return Err(DeviceError::Queues { queues, depth });
    }
    let starts: Vec<GuestCluster> = spec.more.iter().map(|piece| piece.start).collect();
    let pieces = Pieces::new(spec.cluster, size, &starts);
    for (n, top) in spec.levels[levels - count..].iter().enumerate() {
        let clusters = pieces.clusters(n);
        if let LevelKind::Ploop { entries, .. } = top.kind
            && entries < clusters
        {
            return Err(DeviceError::ShortTop { entries, clusters });
        }
    }
    Ok(())
}
