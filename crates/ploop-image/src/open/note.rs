//! What an open has to say without failing. One line each on stderr.

use std::fmt;
use std::path::PathBuf;

/// Something worth a line, but no error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// A lone image is only read (T5).
    LoneImage(PathBuf),
    /// An image below the top was asked for: the disk as it was then, only read.
    Frozen(PathBuf),
    /// The bundle was moved: the image beside the descriptor is not where that says.
    Moved {
        /// What the descriptor says.
        named: PathBuf,
        /// What is used.
        used: PathBuf,
    },
    /// The top was not closed: scanned, found good (T5).
    Crashed(PathBuf),
    /// A lower image carries the in-use mark (C6).
    DirtyLower(PathBuf),
    /// The header does not say where data begins: the image is only read.
    NoFirstBlock(PathBuf),
    /// Entries of a read-only top share a place: nobody can say whose it is (T5).
    Shared {
        /// Which image.
        path: PathBuf,
        /// How many clusters give `EIO`.
        clusters: usize,
    },
    /// The chain is as long as the original tools refuse (T12).
    LongChain(usize),
    /// The file does not end at a cluster boundary.
    Ragged {
        /// Which image.
        path: PathBuf,
        /// Bytes behind the last whole cluster.
        bytes: u64,
    },
    /// The raw file is shorter than the disk.
    ShortRaw {
        /// Which file.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// Bytes of the device.
        size: u64,
    },
    /// The descriptor tells another size; the header rules (F20).
    SizeDiffers {
        /// Sectors in the descriptor.
        descriptor: u64,
        /// Sectors in the top's header.
        header: u64,
    },
    /// The `.lck` file of the original tools cannot be made.
    NoLockFile(PathBuf),
    /// Change tracking was dropped as asked (T9).
    BitmapDropped(PathBuf),
    /// The file system has no direct I/O (T14).
    Buffered(PathBuf),
    /// A killed server left changes of the BAT (F2).
    LeftOver {
        /// Which image.
        path: PathBuf,
        /// How many.
        changes: usize,
        /// A writable open writes them; a read-only one shows the image without.
        written: bool,
    },
    /// A sync had failed in the life that was killed (I10).
    SyncFailedBefore(PathBuf),
    /// A file that belongs to the disk no more is still there.
    NotRemoved {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is no memory that outlives the process.
    NoRecord {
        /// Which image.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoneImage(path) => {
                write!(f, "{} has no descriptor beside it: opened read-only", path.display())
            }
            Self::Frozen(path) => write!(
                f,
                "{} is not the top: the disk as it was when this image froze, read-only",
                path.display()
            ),
            Self::Moved { named, used } => write!(
                f,
                "{} is not there any more: {} beside the descriptor is used",
                named.display(),
                used.display()
            ),
            Self::Crashed(path) => {
                write!(f, "{} was not closed properly: its BAT was checked", path.display())
            }
            Self::DirtyLower(path) => {
                write!(f, "{} was not closed properly, it is only read", path.display())
            }
            Self::NoFirstBlock(path) => write!(
                f,
                "the header of {} does not say where data begins (0xffffffff): its BAT tells, the \
                 image is only read",
                path.display()
            ),
            Self::Shared { path, clusters } => write!(
                f,
                "{clusters} clusters of {} share their place with another: reading them gives EIO",
                path.display()
            ),
            Self::LongChain(levels) => write!(
                f,
                "the chain has {levels} images, the original tools take fewer than {}",
                super::plan::ORIGINAL_LEVELS
            ),
            Self::Ragged { path, bytes } => {
                write!(f, "{} ends {bytes} bytes behind a cluster boundary", path.display())
            }
            Self::ShortRaw { path, len, size } => write!(
                f,
                "{} has {len} bytes, the disk {size}: the rest reads as zeros",
                path.display()
            ),
            Self::SizeDiffers { descriptor, header } => write!(
                f,
                "the descriptor says {descriptor} sectors, the image {header}: the image is right"
            ),
            Self::NoLockFile(path) => {
                write!(f, "no lock file beside {}: old tools are not kept out", path.display())
            }
            Self::BitmapDropped(path) => {
                write!(f, "change tracking of {} was dropped", path.display())
            }
            Self::NotRemoved { path, why } => {
                write!(f, "{} could not be removed for good: {why}", path.display())
            }
            Self::LeftOver { .. } | Self::SyncFailedBefore(_) | Self::NoRecord { .. } => {
                self.former_life(f)
            }
            Self::Buffered(path) => {
                write!(f, "no direct I/O for {}: buffered with fdatasync", path.display())
            }
        }
    }
}

impl Note {
    /// Words about the record (F2).
    fn former_life(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOver { path, changes, written: true } => write!(
                f,
                "{} was not closed properly: its BAT was checked, {changes} changes that its \
                 killed server had acknowledged are now in it",
                path.display()
            ),
            Self::LeftOver { path, changes, written: false } => write!(
                f,
                "{} was not closed properly: {changes} changes that its killed server had \
                 acknowledged are not in it yet, a writable open brings them in",
                path.display()
            ),
            Self::SyncFailedBefore(path) => write!(
                f,
                "a sync of {} failed before its server was killed: what was written since the \
                 last good flush is in doubt",
                path.display()
            ),
            Self::NoRecord { path, why } => write!(
                f,
                "a kill of this server can lose what was written to {} and not flushed: {why}",
                path.display()
            ),
            _ => Ok(()),
        }
    }
}
