//! The header's fields as numbers that are safe to compute with.

use ploop_format::units::{HEADER_WORDS, SECTOR_SHIFT};
use ploop_format::{ClusterSize, Sector, Version};

/// What a usable header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    pub version: Version,
    pub cluster: ClusterSize,
    pub entries: u64,
    pub size: Sector,
    /// In bytes.
    pub data_start: u64,
}

const V1: &[u8; 16] = b"WithoutFreeSpace";
const V2: &[u8; 16] = b"WithouFreSpacExt";

/// The generation a signature stands for.
pub(crate) fn version_of(start: &[u8; 16]) -> Option<Version> {
    match start {
        V1 => Some(Version::V1),
        V2 => Some(Version::V2),
        _ => None,
    }
}

/// Whether these are the first bytes of a ploop image.
pub(crate) fn is_signature(start: &[u8; 16]) -> bool {
    version_of(start).is_some()
}

impl Fields {
    /// Checks a header (T5); the error is a phrase with the numbers.
    pub fn parse(bytes: &[u8; 64]) -> Result<Self, String> {
        let (start, _) = bytes.split_first_chunk::<16>().ok_or("no header")?;
        let version = version_of(start).ok_or("it has no ploop signature")?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if word(16) != 2 {
            return Err(format!("its type is {}, not 2", word(16)));
        }
        let cluster = ClusterSize::from_sectors(word(28))
            .ok_or_else(|| format!("its cluster size is {} sectors", word(28)))?;
        let entries = u64::from(word(32));
        let high = if version == Version::V1 { 0 } else { u64::from(word(40)) };
        let size = Sector(u64::from(word(36)) | high << 32);
        if size.0.div_ceil(u64::from(cluster.sectors())) > entries {
            return Err(format!(
                "its device has {} sectors, {entries} clusters of {} sectors are fewer",
                size.0,
                cluster.sectors()
            ));
        }
        let table = (entries + HEADER_WORDS) * 4;
        let first = u64::from(word(48)) << SECTOR_SHIFT;
        let data_start = match first {
            0 if version == Version::V1 => table.next_multiple_of(1 << SECTOR_SHIFT),
            first if first % cluster.bytes() == 0 && first >= table => first,
            _ => {
                return Err(format!(
                    "its first block is sector {}, header and BAT take {table} bytes",
                    word(48)
                ));
            }
        };
        Ok(Self { version, cluster, entries, size, data_start })
    }
}
