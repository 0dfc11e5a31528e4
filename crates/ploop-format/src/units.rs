//! Units are types: sectors, guest clusters, file clusters, pages of the BAT.
//!
//! Every byte position is a `u64`. (The kernel driver shifts a 32-bit cluster number and wraps at
//! 2 TiB of file: docs/format.md.)

use core::fmt;

/// Bytes of a sector, the unit of every on-disk position.
pub const SECTOR: u64 = 512;
/// log2 of [`SECTOR`].
pub const SECTOR_SHIFT: u32 = 9;
/// Bytes of a BAT page: the unit of loading and writing the block table.
pub const PAGE: u64 = 4096;
/// 32-bit words in a BAT page.
pub const PAGE_WORDS: u64 = 1024;
/// Words the header takes before the first BAT entry.
pub const HEADER_WORDS: u64 = 16;

/// A position or a length in 512-byte sectors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sector(pub u64);

/// The number of a cluster of the device, counted from its first byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GuestCluster(pub u64);

/// The number of a cluster of an image file, counted from byte 0 of the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileCluster(pub u64);

/// The number of a 4 KiB page of header and BAT.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BatPage(pub u64);

/// A place in the BAT: page, and word inside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// The page.
    pub page: BatPage,
    /// The word in the page, 0..1024.
    pub index: usize,
}

impl Sector {
    /// The position in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 << SECTOR_SHIFT
    }
}

impl GuestCluster {
    /// Where the BAT keeps this cluster: entry `i` is word `i + 16` of header and BAT.
    #[must_use]
    pub const fn slot(self) -> Slot {
        let word = self.0 + HEADER_WORDS;
        Slot { page: BatPage(word / PAGE_WORDS), index: (word % PAGE_WORDS) as usize }
    }
}

impl BatPage {
    /// The guest cluster of word `index` of this page; `None` for the header's words.
    #[must_use]
    pub const fn cluster(self, index: usize) -> Option<GuestCluster> {
        let word = self.0 * PAGE_WORDS + index as u64;
        if word < HEADER_WORDS { None } else { Some(GuestCluster(word - HEADER_WORDS)) }
    }

    /// Byte position of the page in its file.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 * PAGE
    }
}

/// The size of a cluster: a power of two from 32 KiB to 64 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterSize {
    log2_bytes: u8,
}

impl ClusterSize {
    /// Smallest legal size in sectors (32 KiB).
    pub const MIN_SECTORS: u32 = 64;
    /// Largest legal size in sectors (64 MiB).
    pub const MAX_SECTORS: u32 = 131_072;

    /// From a number of sectors; `None` unless it is a power of two within the limits.
    #[must_use]
    pub const fn from_sectors(sectors: u32) -> Option<Self> {
        if !sectors.is_power_of_two() || sectors < Self::MIN_SECTORS || sectors > Self::MAX_SECTORS
        {
            return None;
        }
        Some(Self { log2_bytes: (sectors.trailing_zeros() + SECTOR_SHIFT) as u8 })
    }

    /// Bytes in a cluster.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.log2_bytes
    }

    /// Sectors in a cluster.
    #[must_use]
    pub const fn sectors(self) -> u32 {
        1 << (self.log2_bytes as u32 - SECTOR_SHIFT)
    }

    /// log2 of the bytes.
    #[must_use]
    pub const fn log2(self) -> u32 {
        self.log2_bytes as u32
    }

    /// The guest cluster that holds byte `at` of the device.
    #[must_use]
    pub const fn guest(self, at: u64) -> GuestCluster {
        GuestCluster(at >> self.log2_bytes)
    }

    /// First byte of a guest cluster on the device.
    #[must_use]
    pub const fn guest_start(self, cluster: GuestCluster) -> u64 {
        cluster.0 << self.log2_bytes
    }

    /// First byte of a file cluster in its file.
    #[must_use]
    pub const fn file_start(self, cluster: FileCluster) -> u64 {
        cluster.0 << self.log2_bytes
    }

    /// Byte offset of `at` inside its cluster.
    #[must_use]
    pub const fn offset_in(self, at: u64) -> u64 {
        at & (self.bytes() - 1)
    }

    /// How many clusters hold `bytes`, rounded up.
    #[must_use]
    pub const fn count(self, bytes: u64) -> u64 {
        (bytes >> self.log2_bytes) + ((bytes & (self.bytes() - 1) != 0) as u64)
    }
}

macro_rules! plain_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
plain_debug!(Sector, GuestCluster, FileCluster, BatPage);

impl fmt::Debug for ClusterSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterSize({} KiB)", self.bytes() / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_clusters_are_inverse() {
        for c in [0u64, 1, 1007, 1008, 1009, 2031, 2032, 4_294_967_295] {
            let slot = GuestCluster(c).slot();
            assert_eq!(slot.page.cluster(slot.index), Some(GuestCluster(c)));
        }
        assert_eq!(BatPage(0).cluster(15), None);
        assert_eq!(GuestCluster(1008).slot(), Slot { page: BatPage(1), index: 0 });
    }

    #[test]
    fn positions_do_not_wrap_at_two_tebibytes() {
        let size = ClusterSize::from_sectors(2048).unwrap();
        assert_eq!(size.file_start(FileCluster(1 << 21)), 1 << 41);
        assert_eq!(size.count((1 << 41) + 1), (1 << 21) + 1);
    }

    #[test]
    fn only_powers_of_two_within_limits() {
        for bad in [0, 1, 32, 63, 65, 129, 262_144] {
            assert!(ClusterSize::from_sectors(bad).is_none(), "{bad}");
        }
        assert_eq!(ClusterSize::from_sectors(64).unwrap().bytes(), 32 << 10);
        assert_eq!(ClusterSize::from_sectors(131_072).unwrap().bytes(), 64 << 20);
    }
}
