//! The block table: pages viewed in place, and what a word may say.

use crate::error::{BadEntry, EntryFault};
use crate::units::{
    BatPage, ClusterSize, FileCluster, GuestCluster, HEADER_WORDS, PAGE, PAGE_WORDS, Sector,
};
use crate::version::Version;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// The limits entries have in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// How an entry names a position.
    pub version: Version,
    /// The cluster size.
    pub cluster: ClusterSize,
    /// First byte of data.
    pub data_start: u64,
    /// Length of the file.
    pub file_len: u64,
}

impl Bounds {
    /// The place an entry names; `None` = not allocated (I7: wholly inside the file, behind the
    /// BAT).
    ///
    /// # Errors
    /// It names no place a cluster can have.
    #[inline]
    pub const fn classify(&self, entry: u32) -> Result<Option<Sector>, EntryFault> {
        if entry == 0 {
            return Ok(None);
        }
        if entry == u32::MAX {
            return Err(EntryFault::Reserved);
        }
        let at = self.version.position(entry, self.cluster);
        let start = at.bytes();
        // Boundaries count from the start of the data: a v1 image may have them shifted.
        if self.cluster.offset_in(start) != self.cluster.offset_in(self.data_start) {
            return Err(EntryFault::Misaligned { at });
        }
        if start < self.data_start {
            let data = Sector(self.data_start / crate::units::SECTOR);
            return Err(EntryFault::InsideBat { at, data });
        }
        // Below 2^32 clusters of at most 2^26 bytes: no overflow.
        let end = start + self.cluster.bytes();
        if end > self.file_len {
            return Err(EntryFault::PastEof { at, end, len: self.file_len });
        }
        Ok(Some(at))
    }

    /// The file cluster that an entry names, whether the file has it or not.
    #[must_use]
    #[inline]
    pub const fn file_cluster(&self, entry: u32) -> FileCluster {
        let at = self.version.position(entry, self.cluster).bytes();
        FileCluster(at.saturating_sub(self.shift()) >> self.cluster.log2())
    }

    /// Bytes by which an unaligned v1 image has its clusters shifted; 0 for all others.
    #[must_use]
    pub const fn shift(&self) -> u64 {
        self.cluster.offset_in(self.data_start)
    }

    /// Whole or partial clusters of the file.
    #[must_use]
    pub const fn file_clusters(&self) -> u64 {
        self.cluster.count(self.file_len.saturating_sub(self.shift()))
    }

    /// Whole clusters of the file.
    #[must_use]
    pub const fn whole_clusters(&self) -> u64 {
        self.file_len.saturating_sub(self.shift()) >> self.cluster.log2()
    }

    /// Bytes behind the last whole cluster.
    #[must_use]
    pub const fn ragged(&self) -> u64 {
        self.cluster.offset_in(self.file_len.saturating_sub(self.shift()))
    }

    /// The same with the file rounded up to a whole cluster.
    #[must_use]
    pub const fn rounded_up(self) -> Self {
        match self.ragged() {
            0 => self,
            ragged => Self { file_len: self.file_len + (self.cluster.bytes() - ragged), ..self },
        }
    }
}

/// The entry at a [`Slot::index`](crate::Slot) of a BAT page; 0 when the bytes end before it.
#[must_use]
#[inline]
pub fn entry_at(page: &[u8], index: usize) -> u32 {
    let (words, _) = page.as_chunks::<4>();
    words.get(index).map_or(0, |word| u32::from_le_bytes(*word))
}

/// Puts the entry at a [`Slot::index`](crate::Slot) into a BAT page, which must reach so far.
#[inline]
pub fn put_entry(page: &mut [u8], index: usize, entry: u32) {
    let (words, _) = page.as_chunks_mut::<4>();
    words[index] = entry.to_le_bytes();
}

/// A page of header and BAT, looked at where it is.
#[derive(Clone, Copy)]
pub struct BatPageView<'a> {
    page: BatPage,
    words: &'a [U32],
    /// The entries of the image that lie in this page: words `first..end`.
    first: usize,
    end: usize,
}

impl<'a> BatPageView<'a> {
    /// Looks at the bytes of a page of a BAT with so many entries. The last page may be cut behind
    /// its last entry; `None` for more than a page or for half a word.
    #[must_use]
    pub fn new(entries: u64, page: BatPage, bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() as u64 > PAGE {
            return None;
        }
        let words = <[U32]>::ref_from_bytes(bytes).ok()?;
        let left = (entries + HEADER_WORDS).saturating_sub(page.0 * PAGE_WORDS);
        let end = left.min(PAGE_WORDS) as usize;
        let first = if page.0 == 0 { HEADER_WORDS as usize } else { 0 };
        Some(Self { page, words, first: first.min(end), end })
    }

    /// The word of an entry; `None` when it is not in this page or behind the BAT.
    #[must_use]
    pub fn entry(&self, cluster: GuestCluster) -> Option<u32> {
        let slot = cluster.slot();
        let here = slot.page == self.page && (self.first..self.end).contains(&slot.index);
        here.then(|| self.words.get(slot.index).map(|word| word.get())).flatten()
    }

    /// Entries of the page in order, holes included; never the header's words or words behind
    /// the last entry.
    pub fn iter(&self) -> impl Iterator<Item = (GuestCluster, u32)> + use<'a> {
        let page = self.page;
        self.words
            .iter()
            .enumerate()
            .take(self.end)
            .skip(self.first)
            .filter_map(move |(index, word)| Some((page.cluster(index)?, word.get())))
    }

    /// Mapped entries: the cluster, the word and the place it names, or what is wrong with it.
    #[inline]
    pub fn mapped(
        &self,
        bounds: Bounds,
    ) -> impl Iterator<Item = Result<(GuestCluster, u32, Sector), BadEntry>> + use<'a> {
        let mapped = self.iter().filter(|(_, value)| *value != 0);
        mapped.filter_map(move |(slot, value)| match bounds.classify(value) {
            Ok(place) => place.map(|at| Ok((slot, value, at))),
            Err(fault) => Some(Err(BadEntry { slot, value, fault })),
        })
    }

    /// Every entry names a place inside the file.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check_entries(&self, bounds: Bounds) -> Result<(), BadEntry> {
        self.mapped(bounds).try_for_each(|entry| entry.map(drop))
    }

    /// Words behind the last entry of the BAT that are not 0: left-overs that must be wiped before
    /// a grow makes entries of them (F20).
    #[must_use]
    pub fn garbage(&self) -> usize {
        self.words.iter().skip(self.end).filter(|word| word.get() != 0).count()
    }
}

#[cfg(test)]
mod tests;
