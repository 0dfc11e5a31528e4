//! The two generations of the image format, and how each writes a position.

use crate::units::{self, ClusterSize, Sector};

/// The two generations of the image format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Version {
    /// `WithoutFreeSpace`: a BAT entry is a position in sectors.
    V1,
    /// `WithouFreSpacExt`: a BAT entry is a position in clusters.
    V2,
}

impl Version {
    /// The generation a signature stands for.
    #[must_use]
    pub const fn of_signature(start: &[u8; 16]) -> Option<Self> {
        match start {
            b"WithoutFreeSpace" => Some(Self::V1),
            b"WithouFreSpacExt" => Some(Self::V2),
            _ => None,
        }
    }

    /// The first bytes of an image.
    #[must_use]
    pub const fn signature(self) -> &'static [u8; 16] {
        match self {
            Self::V1 => b"WithoutFreeSpace",
            Self::V2 => b"WithouFreSpacExt",
        }
    }

    /// The file position a non-zero BAT entry names.
    #[must_use]
    pub const fn position(self, entry: u32, size: ClusterSize) -> Sector {
        match self {
            Self::V1 => Sector(entry as u64),
            Self::V2 => Sector((entry as u64) << (size.log2() - units::SECTOR_SHIFT)),
        }
    }

    /// The BAT entry for a cluster-aligned file position; `None` when it does not fit the format
    /// (v1 ends at 2^32 - 1 sectors, v2 below entry `0xFFFF_FFFF`).
    #[must_use]
    pub const fn entry(self, at: Sector, size: ClusterSize) -> Option<u32> {
        let value = match self {
            Self::V1 => at.0,
            Self::V2 => at.0 >> (size.log2() - units::SECTOR_SHIFT),
        };
        if value == 0 || value >= u32::MAX as u64 { None } else { Some(value as u32) }
    }
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}
