//! The open images of a device, by stable id.

use crate::spec::{LevelKind, LevelSpec};
use ploop_format::units::PAGE;
use ploop_format::{BatPage, Bounds, ClusterSize, GuestCluster, Sector, entry_at};
use ploop_io::{File, FileId};

/// One open image.
#[derive(Clone, Debug)]
pub struct Level {
    /// Stable id: the level's number when the device was opened.
    pub id: u8,
    /// Keeps the descriptor open.
    pub file: File,
    /// Its name for the rings.
    pub fid: FileId,
    /// How it stores clusters.
    pub kind: LevelKind,
    /// Bytes at or past this read as zeros without I/O (F18).
    pub len: u64,
    /// The piece of a split disk it belongs to; 0 of any other.
    pub piece: usize,
}

/// All levels; base first.
#[derive(Debug)]
pub struct Chain {
    /// Cluster size of all levels.
    pub cluster: ClusterSize,
    /// Base first.
    pub levels: Vec<Level>,
    /// Images side by side at each depth: one, or one for each piece of a split disk.
    pub pieces: usize,
}

impl Chain {
    /// Numbers the levels.
    #[must_use]
    pub fn new(cluster: ClusterSize, specs: Vec<LevelSpec>, pieces: usize) -> Self {
        let levels = specs
            .into_iter()
            .enumerate()
            .map(|(id, s)| Level {
                id: id as u8,
                fid: s.file.id(),
                file: s.file,
                kind: s.kind,
                len: s.len,
                piece: id % pieces,
            })
            .collect();
        Self { cluster, levels, pieces }
    }

    /// The level that takes writes; of a split disk that of its first piece, which has the lowest
    /// number of all tops.
    #[must_use]
    pub fn top(&self) -> &Level {
        self.top_of(0)
    }

    /// The level of a piece that takes writes.
    #[must_use]
    pub fn top_of(&self, piece: usize) -> &Level {
        &self.levels[self.levels.len() - self.pieces + piece]
    }

    /// Whether a level is the top.
    #[must_use]
    pub fn is_top(&self, id: u8) -> bool {
        usize::from(id) + self.pieces >= self.levels.len()
    }

    /// The levels of a piece with their numbers, base first.
    pub fn levels_of(
        &self,
        piece: usize,
    ) -> impl DoubleEndedIterator<Item = (usize, &Level)> + ExactSizeIterator {
        self.levels.iter().enumerate().skip(piece).step_by(self.pieces)
    }

    /// A level by id.
    #[must_use]
    pub fn level(&self, id: u8) -> &Level {
        &self.levels[usize::from(id)]
    }

    /// Strictest alignment of a buffer's address.
    #[must_use]
    pub fn mem_align(&self) -> u32 {
        self.levels.iter().map(|l| l.file.caps().mem_align).max().unwrap_or(1)
    }
}

impl Level {
    /// Whether this level's BAT has its page of this number (a shorter lower level is a hole behind
    /// its end).
    #[must_use]
    pub fn has_page(&self, page: BatPage) -> bool {
        match self.kind {
            LevelKind::Raw => false,
            LevelKind::Ploop { entries, .. } => {
                page.cluster(0).map_or(entries > 0, |first| first.0 < entries)
            }
        }
    }

    /// What this level says about a cluster of its piece. `bytes` is its BAT page; ignored for a
    /// raw level.
    #[must_use]
    pub fn entry(
        &self,
        size: ClusterSize,
        cluster: GuestCluster,
        bytes: &[u8],
        len: u64,
    ) -> EntryState {
        match self.kind {
            LevelKind::Raw => {
                let start = size.guest_start(cluster);
                if start < self.len {
                    EntryState::At(Sector(start / ploop_format::units::SECTOR))
                } else {
                    EntryState::None
                }
            }
            LevelKind::Ploop { version, entries, data_start } => {
                if cluster.0 >= entries {
                    return EntryState::None;
                }
                let bounds = Bounds { version, cluster: size, data_start, file_len: len };
                match bounds.classify(entry_at(bytes, cluster.slot().index)) {
                    Ok(None) => EntryState::None,
                    Ok(Some(place)) => EntryState::At(place),
                    Err(_) => EntryState::Bad,
                }
            }
        }
    }
}

/// What one level's BAT says about a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryState {
    /// The level does not have it.
    None,
    /// It is here.
    At(Sector),
    /// The entry is broken (F23).
    Bad,
}

/// Byte position of a BAT page in its file.
#[must_use]
pub const fn page_offset(page: BatPage) -> u64 {
    page.0 * PAGE
}
