//! Numbers of a new or growing image: how large, where the data begins, what CHS to write.

use crate::error::{FormatError, Result};
use crate::units::{ClusterSize, HEADER_WORDS, PAGE, Sector};
use crate::version::Version;

/// Cylinders, heads and sectors: informative, but everybody writes the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chs {
    /// Cylinders.
    pub cylinders: u32,
    /// Heads.
    pub heads: u32,
    /// Sectors per track.
    pub sectors: u32,
}

/// More entries than this the kernel driver refuses when it grows an image.
const MAX_V2_ENTRIES: u64 = 0xFFFF_FFFC;

/// The geometry of a device: 63 sectors and 16 heads between the two limits of old BIOSes, else the
/// largest of a few numbers that divide the size.
#[must_use]
pub fn chs(size: Sector) -> Chs {
    let size = size.0;
    if size > 1_032_192 && size < 16_777_216 {
        return Chs { cylinders: (size / (63 * 16)) as u32, heads: 16, sectors: 63 };
    }
    let divides = |of: u64, by: &u64| of != 0 && of.is_multiple_of(*by);
    let sectors = [63, 32, 16, 8].into_iter().find(|n| divides(size, n));
    let heads = sectors.and_then(|s| [16, 8, 4, 2].into_iter().find(|n| divides(size / s, n)));
    let (sectors, heads) = match (sectors, heads) {
        (Some(sectors), Some(heads)) => (sectors, heads),
        _ => (1, 1),
    };
    let cylinders = u32::try_from(size / sectors / heads).unwrap_or(u32::MAX);
    Chs { cylinders, heads: heads as u32, sectors: sectors as u32 }
}

/// Bytes of header and entries.
#[must_use]
pub const fn bat_bytes(entries: u64) -> u64 {
    (entries + HEADER_WORDS) * 4
}

/// Clusters header and BAT need.
#[must_use]
pub const fn bat_clusters_for(entries: u64, cluster: ClusterSize) -> u64 {
    cluster.count(bat_bytes(entries))
}

/// Pages of 4 KiB header and BAT need.
#[must_use]
pub const fn bat_pages_for(entries: u64) -> u64 {
    bat_bytes(entries).div_ceil(PAGE)
}

/// Entries a device of this size needs.
#[must_use]
pub const fn entries_for(size: Sector, cluster: ClusterSize) -> u64 {
    size.0.div_ceil(cluster.sectors() as u64)
}

/// The most entries an image can have so that each of them can be mapped at the same time.
#[must_use]
pub const fn max_entries(version: Version, cluster: ClusterSize) -> u64 {
    // Places an entry can name, counted in clusters from byte 0 of the file: v1 names sectors
    // below 2^32 - 1, v2 clusters below 2^32 - 1; the reserved word is never one of them.
    let places = match version {
        Version::V1 => (u32::MAX as u64).div_ceil(cluster.sectors() as u64),
        Version::V2 => u32::MAX as u64,
    };
    // Header and BAT take some of them: at least one for each (cluster / 4) entries.
    let per = cluster.bytes() / 4;
    let mut entries = places * per / (per + 1);
    while entries + bat_clusters_for(entries, cluster) > places {
        entries -= 1;
    }
    match version {
        Version::V2 if entries > MAX_V2_ENTRIES => MAX_V2_ENTRIES,
        _ => entries,
    }
}

/// The largest device of an image.
#[must_use]
pub const fn max_size(version: Version, cluster: ClusterSize) -> Sector {
    // Fits the 32-bit field of v1: header and BAT take at least one cluster below 2^32 sectors.
    Sector(max_entries(version, cluster) * cluster.sectors() as u64)
}

/// A size rounded up to a cluster.
///
/// # Errors
/// 0, or more than the format can name: said, never cut as the original does.
pub const fn round_size(version: Version, cluster: ClusterSize, size: Sector) -> Result<Sector> {
    if size.0 == 0 {
        return Err(FormatError::ZeroSize);
    }
    let max = max_size(version, cluster);
    if size.0 > max.0 {
        let cluster = cluster.sectors();
        return Err(FormatError::TooLarge { size: size.0, max: max.0, cluster, version });
    }
    // The limit is a cluster multiple: rounding cannot pass it.
    Ok(Sector(size.0.next_multiple_of(cluster.sectors() as u64)))
}

#[cfg(test)]
mod tests;
