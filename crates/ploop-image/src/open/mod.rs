//! Opening a disk: files, locks, headers, BAT of the top, in-use mark.
//!
//! The order is the one of F6: lock, sync the top, read and check, replay what a killed server left
//! (F2), stamp. What a step needs is in its own file; [`Disk::open`] is their list.
//!
//! | part | what |
//! |---|---|
//! | `plan` | what a disk consists of, before any image is opened |
//! | `attempt` | every file opened and locked, before a byte of them is read |
//! | `chain` | the levels read and checked |
//! | `pieces` | the pieces of a split disk |
//! | `settle` | a lower image that an interrupted merge or grow of ours left marked |
//! | `recover` | changes of the map that a killed server left on record (F2, I14) |
//! | `stamp` | the in-use mark |
//! | `note` | what an open has to say without failing |

pub(crate) mod attempt;
mod chain;
mod note;
pub(crate) mod pieces;
pub(crate) mod plan;
pub(crate) mod recover;
mod settle;
pub(crate) mod stamp;

pub use note::Note;
pub use plan::{MAX_LEVELS, ORIGINAL_LEVELS};

use crate::error::{ErrorKind, ImageError, Result};
use crate::gate::{InsideDirectory, OpenGate};
use crate::held::Held;
use crate::lock::LockWait;
use crate::scan;
pub(crate) use chain::{Level, Prepared};
use pieces::Part;
use ploop_engine::{DeviceSpec, LevelKind, LevelSpec};
use ploop_format::{Guid, Sector};
use ploop_io::{Dir, File, Ident, Records};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Says who has a file open ("ploop serve, pid 77"), when somebody knows (T6).
pub type Who = Arc<dyn Fn(Ident) -> Option<String> + Send + Sync>;

/// How to open a disk.
#[derive(Clone)]
pub struct OpenOptions {
    /// No write reaches any file.
    pub read_only: bool,
    /// Drop change tracking, which a writable open would make wrong (T9).
    pub drop_cbt: bool,
    /// Ask for direct I/O.
    pub direct: bool,
    /// Which files the descriptor may name.
    pub gate: Arc<dyn OpenGate>,
    /// Files may be changed that others may have too: outside the disk's directory, or with more
    /// than one name.
    pub change_shared: bool,
    /// How long to wait for another process's locks.
    pub wait: LockWait,
    /// Names the other process.
    pub who: Option<Who>,
    /// Says that the other one goes on: then nobody waits for its locks.
    pub stays: Option<fn(Ident) -> bool>,
    /// Where acknowledged changes outlive the process (F2); `None`: a kill loses what was not
    /// flushed, and what a killed server left is not looked for.
    pub records: Option<Arc<dyn Records>>,
    /// Files that are open and locked already.
    pub held: Held,
    /// Images below the top that are opened for writing too, for a merge into them.
    pub also_write: Vec<Guid>,
    /// An image below the top stands for its snapshot, of a split disk in all pieces: else one that
    /// is named there is refused, for it is of one piece only.
    pub snapshot: bool,
    /// Only headers and BATs are looked at: the content may be encrypted.
    pub structure_only: bool,
    /// Which piece of a split disk: whoever works on all of them goes through them.
    pub piece: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            drop_cbt: false,
            direct: true,
            gate: Arc::new(InsideDirectory),
            change_shared: false,
            wait: LockWait::SOME,
            who: None,
            stays: None,
            records: None,
            held: Held::default(),
            also_write: Vec::new(),
            snapshot: false,
            structure_only: false,
            piece: 0,
        }
    }
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("read_only", &self.read_only)
            .field("drop_cbt", &self.drop_cbt)
            .field("direct", &self.direct)
            .field("gate", &self.gate)
            .field("change_shared", &self.change_shared)
            .field("wait", &self.wait)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

/// An open disk: its files, its locks, and the in-use mark when it is writable.
///
/// Dropping it without [`Disk::close`] or [`Disk::abort`] leaves the mark, as a kill would.
#[derive(Debug)]
pub struct Disk {
    /// The disk, or its first piece.
    pub(crate) prepared: Prepared,
    /// Changes that a kill must not lose; of a writable ploop top.
    pub(crate) kept: Option<recover::Kept>,
    /// The pieces behind the first one of a split disk.
    pub(crate) more: Vec<Part>,
}

impl Disk {
    /// Opens the disk `target` stands for: a descriptor, its directory or a lone image.
    ///
    /// # Errors
    /// Typed; see [`crate::ErrorKind`]. Nothing was changed on any file when it fails before the
    /// mark; a failure of the mark itself may leave the image marked in use.
    pub fn open(dir: Arc<dyn Dir>, target: &Path, options: &OpenOptions) -> Result<Self> {
        let mut pieces = pieces::open_all(&*dir, target, options, None)?;
        let mut kept = Vec::with_capacity(pieces.len());
        for piece in pieces.iter_mut().filter(|piece| piece.writable) {
            stamp::stamp(piece)?;
            let top = piece.levels.last();
            kept.push(top.and_then(|top| recover::begin(top, options, &mut piece.notes)));
        }
        if let Some(last) = pieces.last().filter(|last| last.writable) {
            last.repair_size(&*dir, options.held.spares());
        }
        pieces::join_notes(&mut pieces);
        kept.resize_with(pieces.len(), || None);
        let mut parts =
            pieces.into_iter().zip(kept).map(|(prepared, kept)| Part { prepared, kept });
        let Some(Part { prepared, kept }) = parts.next() else {
            return Err(ImageError::new(ErrorKind::Descriptor, "a disk without images"));
        };
        Ok(Self { prepared, kept, more: parts.collect() })
    }

    /// The disk, or each of its pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Prepared> {
        [&self.prepared].into_iter().chain(self.more.iter().map(|part| &part.prepared))
    }

    /// All images, base first: those of all pieces at each depth, in the order of the pieces.
    fn levels(&self) -> impl Iterator<Item = &Level> {
        let depth = 0..self.prepared.levels.len();
        depth.flat_map(|n| self.pieces().filter_map(move |piece| piece.levels.get(n)))
    }

    /// In how many pieces the disk is split: 1 for most.
    #[must_use]
    pub fn split(&self) -> usize {
        self.more.len() + 1
    }

    /// What the engine serves. Its files are the ones that carry the locks (F7).
    #[must_use]
    pub fn spec(&self) -> DeviceSpec {
        let p = &self.prepared;
        let levels = self.levels().map(Level::spec).collect();
        let starts = self.pieces().scan(0, |end, piece| {
            let start = *end;
            *end += p.cluster.count(piece.size.bytes());
            Some(start)
        });
        let more = self.more.iter().zip(starts.skip(1)).map(|(part, start)| part.spec(start));
        let below = self.pieces().all(|piece| piece.below().is_some());
        let top = p.levels.last().and_then(|level| level.head.as_ref());
        DeviceSpec {
            levels,
            more: more.collect(),
            cluster: p.cluster,
            size: self.size(),
            block: p.sector_sizes().0,
            physical_block: p.sector_sizes().1,
            read_only: !p.writable,
            used: p.scan.as_ref().map(|scan| scan.used.clone()).unwrap_or_default(),
            header: top.map_or([0; 64], |head| head.header.encode()),
            refused: p.refused.clone(),
            record: self.kept.as_ref().map(|kept| kept.record.clone()),
            preallocated: p.preallocated,
            floor: p.levels.len() - 1 - p.waiting(),
            in_place: p.levels.len() - 1 - usize::from(below),
        }
    }

    /// Levels under the top that it takes in, see [`crate::layers::turn`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.prepared.waiting()
    }

    /// The open files with their locks, for an operation beside the one that serves them.
    #[must_use]
    pub fn held(&self) -> Held {
        let held = Held::locked(self.prepared._lck.clone());
        for level in self.levels() {
            held.add(level);
        }
        held
    }

    /// The base is a raw file under other images.
    #[must_use]
    pub fn has_raw_base(&self) -> bool {
        let levels = &self.prepared.levels;
        levels.len() > 1 && levels[0].head.is_none()
    }

    /// Lines for the user.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.prepared.notes
    }

    /// What the disk is found by also after its images have changed: the descriptor; a snapshot or
    /// a lone image by its own path.
    #[must_use]
    pub fn target(&self) -> Option<&Path> {
        let frozen = self.notes().iter().any(|note| matches!(note, Note::Frozen(_)));
        let top = self.prepared.levels.last().map(|level| level.path.as_path());
        self.descriptor().filter(|_| !frozen).or(top)
    }

    /// The descriptor; none for a lone image.
    #[must_use]
    pub fn descriptor(&self) -> Option<&Path> {
        self.prepared.descriptor.as_deref()
    }

    /// The image files, base first.
    pub fn images(&self) -> impl Iterator<Item = &Path> {
        self.levels().map(|level| level.path.as_path())
    }

    /// Who the file is that [`Disk::target`] names when it is no descriptor: a lone image, or the
    /// image of a snapshot.
    #[must_use]
    pub fn ident(&self) -> Ident {
        self.prepared.ident
    }

    /// No write reaches any file.
    #[must_use]
    pub fn read_only(&self) -> bool {
        !self.prepared.writable
    }

    /// Size of the device.
    #[must_use]
    pub fn size(&self) -> Sector {
        Sector(self.pieces().map(|piece| piece.size.0).sum())
    }

    /// The file that new data goes to; of a split disk that of its first piece.
    #[must_use]
    pub fn top(&self) -> Option<&File> {
        self.tops().next()
    }

    /// The files that new data goes to: one, or one in each piece.
    pub fn tops(&self) -> impl Iterator<Item = &File> {
        self.pieces().filter_map(|piece| piece.levels.last().map(|level| &level.file))
    }

    /// All paths as owned values, base first.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.images().map(Path::to_owned).collect()
    }
}

impl Level {
    fn spec(&self) -> LevelSpec {
        let kind = match &self.head {
            None => LevelKind::Raw,
            Some(head) => LevelKind::Ploop {
                version: head.version(),
                entries: head.live(),
                data_start: head.data_start(),
            },
        };
        let bare = self.head.as_ref().map_or_else(Vec::new, |head| {
            scan::bare_pages(&*self.file, head.live()).unwrap_or_default()
        });
        LevelSpec { file: Arc::clone(&self.file), kind, len: self.len, bare }
    }
}
