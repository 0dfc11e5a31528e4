//! What a device is made of: handed over by `ploop-image`, which opened, locked and checked it.

use crate::record::Record;
use fixedbitset::FixedBitSet;
use ploop_format::{ClusterSize, GuestCluster, Sector, Version};
use ploop_io::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a level stores its clusters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LevelKind {
    /// A ploop image with a BAT.
    Ploop {
        /// Generation of the format; one per chain.
        version: Version,
        /// Entries in the BAT (may be fewer than the top's: a hole behind them).
        entries: u64,
        /// First byte of the first data cluster; entries below it are bad.
        data_start: u64,
    },
    /// A plain file: guest cluster i is file cluster i. Only the base.
    Raw,
}

/// One image of the chain, open and locked.
#[derive(Clone, Debug)]
pub struct LevelSpec {
    /// The open file; its lock lives on this description (F7).
    pub file: File,
    /// How it stores clusters.
    pub kind: LevelKind,
    /// Length at open. Bytes at or past it read as zeros without I/O (F18).
    pub len: u64,
    /// Pages of its BAT, by number, that are holes of the file: no entry there names a cluster. In
    /// order; not all need be told.
    pub bare: Vec<Range<u64>>,
}

/// What a piece of a split disk has beside its levels.
#[derive(Clone, Debug)]
pub struct PieceSpec {
    /// Its first cluster on the device.
    pub start: GuestCluster,
    /// As [`DeviceSpec::used`], of its top.
    pub used: FixedBitSet,
    /// As [`DeviceSpec::header`], of its top.
    pub header: [u8; 64],
    /// As [`DeviceSpec::refused`], of its top; numbered in the piece.
    pub refused: Vec<GuestCluster>,
    /// As [`DeviceSpec::record`], of its top.
    pub record: Option<Record>,
}

/// A chain ready to be served.
#[derive(Clone, Debug)]
pub struct DeviceSpec {
    /// Base first, top last; 1..=253. Of a split disk the bases of all pieces first, in their
    /// order, then the images on them, at last the tops.
    pub levels: Vec<LevelSpec>,
    /// The pieces behind the first one of a split disk; none of any other.
    pub more: Vec<PieceSpec>,
    /// Cluster size of every level.
    pub cluster: ClusterSize,
    /// Size of the device; need not be whole clusters.
    pub size: Sector,
    /// Logical block that clients see: the disk's own, 512 unless its descriptor says otherwise.
    pub block: u32,
    /// Physical block that the descriptor names; 0: that of the file system below.
    pub physical_block: u32,
    /// No write reaches any file.
    pub read_only: bool,
    /// Writable top only: one bit per file cluster below its length, set when header, BAT or an
    /// entry takes it. What is clear holds unknown bytes (F6).
    pub used: FixedBitSet,
    /// Writable ploop top only: the 64 header bytes as they are on disk now (stamped in use).
    pub header: [u8; 64],
    /// Guest clusters whose entry in the top shares its place with another one (T5): a read-only
    /// device gives `EIO` for them. Sorted.
    pub refused: Vec<GuestCluster>,
    /// Where acknowledged changes are kept for the next life of the server (F2); `None`: a kill
    /// loses what was not flushed.
    pub record: Option<Record>,
    /// Discard must not give space back (a preallocated disk, C8).
    pub preallocated: bool,
    /// The lowest level that [`crate::Operation::Merge`] takes clusters from: how many images lie
    /// under it.
    pub floor: usize,
    /// The lowest level that writes change in place: the top, or the one under it too, when that
    /// was the top before a merge turned the chain, or is a plain file that the top goes into.
    pub in_place: usize,
}

/// What to do when the host has no space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnEnospc {
    /// Hold the request and retry (the original's behaviour).
    #[default]
    Hold,
    /// Return `ENOSPC`.
    Fail,
}

/// Set by whoever ends the device, before anything waits for its users: what is held because the
/// host has no space is tried once more and then fails (T17). Every clone is the same word.
#[derive(Clone, Debug, Default)]
pub struct GiveUp(Arc<AtomicBool>);

impl GiveUp {
    /// Nothing is held any more; or again, when the end was called off.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::SeqCst);
    }

    /// Whether held requests are to fail.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Choices of the one who opens the device.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Queue threads.
    pub queues: usize,
    /// Requests in flight per queue.
    pub depth: usize,
    /// Disk full.
    pub on_enospc: OnEnospc,
    /// A dirty BAT page is written at the latest after this many milliseconds (0 = at once).
    pub metadata_delay_ms: u64,
    /// Clean space kept ahead of the end of use grows up to this many bytes (P10).
    pub prealloc_bytes: u64,
    /// Between two tries of a held request, in milliseconds.
    pub enospc_retry_ms: u64,
    /// Set before the device ends, or from any thread when that is certain.
    pub give_up: GiveUp,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            depth: 128,
            on_enospc: OnEnospc::Hold,
            metadata_delay_ms: 250,
            prealloc_bytes: crate::limits::EXTEND_BYTES,
            enospc_retry_ms: 1000,
            give_up: GiveUp::default(),
        }
    }
}

/// What is left when a device was closed: what `ploop-image` needs to finish the files.
#[derive(Clone, Debug)]
pub struct CloseReport {
    /// Every acknowledged change is durable; the in-use mark may be cleared.
    pub clean: bool,
    /// Why not, in words with numbers.
    pub failure: Option<String>,
    /// The top may be cut to this length: the end of its last used cluster (ploop tops only).
    pub end: u64,
    /// Some entry of the top is mapped (else the Empty flag is put back).
    pub mapped: bool,
    /// Guests or a merge changed something: data, or where it lies.
    pub changed: bool,
    /// The same of the pieces behind the first one of a split disk.
    pub more: Vec<PieceEnd>,
}

/// What a piece of a split disk ends as, see [`CloseReport`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PieceEnd {
    /// As [`CloseReport::end`].
    pub end: u64,
    /// As [`CloseReport::mapped`].
    pub mapped: bool,
}
