//! Where a level has a cluster: its BAT, read ahead in pieces.

use super::target::good;
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::open::Level;
use ploop_format::units::{HEADER_WORDS, PAGE, PAGE_WORDS, SECTOR};
use ploop_format::{BadEntry, BatPage, ClusterSize, GuestCluster, entry_at};

/// BAT pages of one read.
pub(super) const AHEAD: u64 = 64;

/// A level, and a piece of its BAT.
pub(super) struct Lookup<'a> {
    level: &'a Level,
    cluster: ClusterSize,
    /// First page in memory.
    first: u64,
    bytes: Vec<u8>,
}

/// A cluster of a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// Byte position in the file.
    pub at: u64,
    /// Bytes the file has there; the rest of the cluster reads as zeros (F18).
    pub len: u64,
}

impl<'a> Lookup<'a> {
    pub fn new(level: &'a Level, cluster: ClusterSize) -> Self {
        Self { level, cluster, first: 0, bytes: Vec::new() }
    }

    pub fn level(&self) -> &'a Level {
        self.level
    }

    /// Has the pages `first..first + AHEAD` at hand.
    pub fn load(&mut self, first: u64) -> Result<()> {
        self.first = first;
        self.bytes.clear();
        let Some(head) = &self.level.head else { return Ok(()) };
        let end = head.header.bat_pages().min(first + AHEAD);
        if end <= first {
            return Ok(());
        }
        let path = &self.level.path;
        self.bytes.resize(((end - first) * PAGE) as usize, 0);
        let got = self.level.file.read_at(&mut self.bytes, first * PAGE);
        let got = got.at(ErrorKind::Read, "cannot read the BAT of", path)?;
        if got < self.bytes.len() {
            let text = format!("{} ends inside its BAT", path.display());
            return Err(ImageError::new(ErrorKind::BadImage, text));
        }
        Ok(())
    }

    /// Where the level has a cluster of the loaded pages.
    pub fn find(&self, cluster: GuestCluster) -> Result<Option<Found>> {
        let size = self.cluster.bytes();
        let Some(head) = &self.level.head else {
            let at = self.cluster.guest_start(cluster);
            let left = self.level.len.saturating_sub(at);
            return Ok((left > 0).then(|| Found { at, len: left.min(size) }));
        };
        if cluster.0 >= head.live() {
            return Ok(None);
        }
        let at = ((cluster.slot().page.0 - self.first) * PAGE) as usize;
        let value = entry_at(&self.bytes[at..], cluster.slot().index);
        let bounds = head.header.bounds(self.level.len);
        let place = bounds.classify(value).map_err(|fault| {
            let bad = BadEntry { slot: cluster, value, fault };
            let text = format!("{}: {bad}", self.level.path.display());
            ImageError::new(ErrorKind::BadImage, text)
        })?;
        Ok(place.map(|at| Found { at: at.0 * SECTOR, len: size }))
    }
}

/// Looks at the first clusters of a device, so many: where each of the levels has one.
pub(super) fn each<'a>(
    levels: impl IntoIterator<Item = &'a Level>,
    cluster: ClusterSize,
    clusters: u64,
    mut look: impl FnMut(GuestCluster, &[Lookup<'a>]) -> Result<()>,
) -> Result<()> {
    let pages = GuestCluster(clusters.saturating_sub(1)).slot().page.0 + 1;
    let levels = levels.into_iter();
    let mut lookups: Vec<_> = levels.map(|level| Lookup::new(level, cluster)).collect();
    for first in (0..pages).step_by(AHEAD as usize) {
        for lookup in &mut lookups {
            lookup.load(first)?;
        }
        let begin = BatPage(first).cluster(0).unwrap_or_default();
        let end = ((first + AHEAD) * PAGE_WORDS - HEADER_WORDS).min(clusters);
        for at in (begin.0..end).map(GuestCluster) {
            look(at, &lookups)?;
        }
    }
    Ok(())
}

/// Mapped clusters of a level whose every entry is good.
pub(super) fn count(level: &Level, cluster: ClusterSize) -> Result<u64> {
    let Some(head) = &level.head else { return Ok(cluster.count(level.len)) };
    good(level, head).map(|scan| scan.mapped)
}
