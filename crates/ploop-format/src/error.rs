//! What can be wrong with a header, a size or an entry: small kinds that carry the numbers.

use crate::units::{ClusterSize, GuestCluster};
use crate::{Sector, Version};

/// Result of reading or making a header.
pub type Result<T> = core::result::Result<T, FormatError>;

/// Why bytes are not a usable header, or numbers not a possible image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Fewer bytes than a header takes.
    #[error("the file has {have} bytes, a header takes 64")]
    Short {
        /// Bytes there were.
        have: usize,
    },
    /// The first 16 bytes are neither signature.
    #[error("no ploop signature")]
    Signature,
    /// `m_Type` is not 2.
    #[error("the type is {0}, expected 2")]
    Type(u32),
    /// `m_Sectors` is no legal cluster size.
    #[error("the cluster size is {0} sectors, expected a power of two from 64 to 131072")]
    ClusterSize(u32),
    /// `m_Size` is 0.
    #[error("the BAT has no entries")]
    NoEntries,
    /// `m_SizeInSectors` is more than the BAT covers.
    #[error("the device has {size} sectors, its BAT covers {covered}")]
    SizeBeyondBat {
        /// `m_SizeInSectors`.
        size: u64,
        /// Entries times cluster.
        covered: u64,
    },
    /// `m_FirstBlockOffset` is no cluster boundary, or 0 in v2.
    #[error("the first block is sector {first}, no multiple of a cluster of {cluster} sectors")]
    FirstBlock {
        /// `m_FirstBlockOffset`.
        first: u32,
        /// Sectors per cluster.
        cluster: u32,
    },
    /// `m_FirstBlockOffset` was never written: the image is only read.
    #[error("the first block is 0xffffffff, so nobody has said where data begins")]
    NoFirstBlock,
    /// The data would begin inside the BAT.
    #[error("the first block is byte {first}, header and BAT end at {needed}")]
    DataInsideBat {
        /// Where the header says data begins.
        first: u64,
        /// First byte behind the last entry.
        needed: u64,
    },
    /// `m_Flags` has the one value that is never valid.
    #[error("the flags are {0:#x}")]
    Flags(u32),
    /// The file ends inside header and BAT.
    #[error("the file has {len} bytes, header and BAT take {needed}")]
    Truncated {
        /// Length of the file.
        len: u64,
        /// First byte behind the last entry.
        needed: u64,
    },
    /// A v1 image whose clusters are not at cluster boundaries: it is only read.
    #[error("the data begins at byte {start}, no multiple of a cluster of {cluster} bytes")]
    DataUnaligned {
        /// First byte of data.
        start: u64,
        /// Bytes per cluster.
        cluster: u64,
    },
    /// A writer stopped while it converted the image to the other version.
    #[error("the image was being converted to another format version when its writer stopped")]
    ConversionInterrupted,
    /// A device needs at least one sector.
    #[error("a device of 0 sectors")]
    ZeroSize,
    /// More than the format can name.
    #[error(
        "{size} sectors are more than a {version} image with clusters of {cluster} sectors \
         can hold: {max}"
    )]
    TooLarge {
        /// What was asked for, in sectors.
        size: u64,
        /// Largest possible size in sectors.
        max: u64,
        /// Sectors per cluster.
        cluster: u32,
        /// The generation of the format.
        version: Version,
    },
    /// A grow to fewer entries.
    #[error("the device has {have} sectors, it does not shrink to {asked}")]
    Shrink {
        /// Size now, in sectors.
        have: u64,
        /// Size asked for, in sectors.
        asked: u64,
    },
}

/// Why a BAT entry cannot be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
pub enum EntryFault {
    /// The value that no version of the format gives a meaning to.
    #[error("the reserved value 0xffffffff")]
    Reserved,
    /// A v1 position between two cluster boundaries.
    #[error("sector {}, no cluster boundary", at.0)]
    Misaligned {
        /// The position.
        at: Sector,
    },
    /// A position inside header and BAT.
    #[error("sector {}, header and BAT end at sector {}", at.0, data.0)]
    InsideBat {
        /// The position.
        at: Sector,
        /// Where data begins.
        data: Sector,
    },
    /// Another entry names the same cluster: what a pass over the whole BAT finds.
    #[error("sector {}, another entry does too", at.0)]
    Duplicate {
        /// The position.
        at: Sector,
    },
    /// The cluster does not lie inside the file as a whole.
    #[error("sector {}, the cluster ends at byte {end}, the file has {len} bytes", at.0)]
    PastEof {
        /// The position.
        at: Sector,
        /// First byte behind the cluster.
        end: u64,
        /// Length of the file.
        len: u64,
    },
}

/// A BAT entry that cannot be right, and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("BAT entry {slot} ({value:#x}) points to {fault}")]
pub struct BadEntry {
    /// Which entry.
    pub slot: GuestCluster,
    /// The word on disk.
    pub value: u32,
    /// What is wrong with it.
    pub fault: EntryFault,
}

impl FormatError {
    pub(crate) const fn cluster(first: u32, size: ClusterSize) -> Self {
        Self::FirstBlock { first, cluster: size.sectors() }
    }
}
