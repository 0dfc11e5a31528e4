//! The layout of a new image: rounded size, BAT, header bytes.

use crate::error::{ErrorKind, ImageError, Result};
use ploop_format::units::{HEADER_WORDS, SECTOR_SHIFT};
use ploop_format::{ClusterSize, FileCluster, Sector, Version};

/// Bit 0 of the flags: no entry is mapped.
const EMPTY: u32 = 1;

/// Where everything of a new image goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    version: Version,
    cluster: ClusterSize,
    size: Sector,
    entries: u32,
    data_start: u64,
}

impl Layout {
    /// A size in sectors, rounded up to a cluster.
    pub fn new(size: Sector, version: Version, cluster: ClusterSize) -> Result<Self> {
        let refuse = |why: String| {
            let text = format!("a device of {} sectors cannot be: {why}", size.0);
            Err(ImageError::new(ErrorKind::Param, text))
        };
        let sectors = u64::from(cluster.sectors());
        let entries = size.0.div_ceil(sectors);
        if entries == 0 {
            return refuse("it has no cluster".to_owned());
        }
        let Ok(entries) = u32::try_from(entries) else {
            return refuse(format!("it has {entries} clusters, a BAT has at most {}", u32::MAX));
        };
        let data_start =
            ((u64::from(entries) + HEADER_WORDS) * 4).next_multiple_of(cluster.bytes());
        let rounded = Sector(u64::from(entries) * sectors);
        if version == Version::V1 && rounded.0 > u64::from(u32::MAX) {
            return refuse(format!("version 1 ends at {} sectors", u32::MAX));
        }
        if data_start >> SECTOR_SHIFT > u64::from(u32::MAX) {
            return refuse(format!("its BAT takes {data_start} bytes"));
        }
        Ok(Self { version, cluster, size: rounded, entries, data_start })
    }

    /// The rounded size.
    pub fn size(&self) -> Sector {
        self.size
    }

    /// Cluster size.
    pub fn cluster(&self) -> ClusterSize {
        self.cluster
    }

    /// First byte behind header and BAT.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Heads and cylinders as the original computes them.
    pub fn heads_cylinders(&self) -> (u32, u32) {
        let (heads, _, cylinders) = self.geometry();
        (heads, u32::try_from(cylinders).unwrap_or(u32::MAX))
    }

    /// Heads, sectors per track and cylinders.
    fn geometry(&self) -> (u32, u32, u64) {
        let size = self.size.0;
        if size > 1_032_192 && size < 16_777_216 {
            return (16, 63, size / 1008);
        }
        let sectors = [63u64, 32, 16, 8].into_iter().find(|s| size % s == 0);
        let Some(sectors) = sectors else { return (1, 1, size) };
        let tracks = size / sectors;
        match [16u64, 8, 4, 2].into_iter().find(|h| tracks % h == 0) {
            Some(heads) => (heads as u32, sectors as u32, tracks / heads),
            None => (1, 1, size),
        }
    }

    /// The header of the new image; `mapped` when all entries are filled.
    pub fn header(&self, mapped: bool) -> [u8; 64] {
        let mut bytes = [0u8; 64];
        let signature: &[u8; 16] = match self.version {
            Version::V1 => b"WithoutFreeSpace",
            Version::V2 => b"WithouFreSpacExt",
        };
        let (heads, cylinders) = self.heads_cylinders();
        let flags = if mapped { 0 } else { EMPTY };
        bytes[..16].copy_from_slice(signature);
        let words = [
            (16, 2),
            (20, heads),
            (24, cylinders),
            (28, self.cluster.sectors()),
            (32, self.entries),
            (48, (self.data_start >> SECTOR_SHIFT) as u32),
            (52, flags),
        ];
        for (at, value) in words {
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        bytes[36..44].copy_from_slice(&self.size.0.to_le_bytes());
        bytes
    }

    /// Bytes `at..` of header and BAT; entries filled 1:1 when `mapped`. 64-bit throughout.
    pub fn table_bytes(&self, at: u64, out: &mut [u8], mapped: bool) -> Result<()> {
        out.fill(0);
        if at == 0 {
            out[..64].copy_from_slice(&self.header(mapped));
        }
        if !mapped {
            return Ok(());
        }
        let first_cluster = self.data_start >> self.cluster.log2();
        for (index, word) in out.chunks_exact_mut(4).enumerate() {
            let Some(slot) = (at / 4 + index as u64).checked_sub(HEADER_WORDS) else { continue };
            if slot >= u64::from(self.entries) {
                break;
            }
            let position = self.cluster.file_start(FileCluster(first_cluster + slot));
            let sector = Sector(position >> SECTOR_SHIFT);
            let Some(entry) = self.version.entry(sector, self.cluster) else {
                let text = format!("cluster {} does not fit a BAT entry", first_cluster + slot);
                return Err(ImageError::new(ErrorKind::Param, text));
            };
            word.copy_from_slice(&entry.to_le_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: u64, sectors: u32) -> Layout {
        let cluster = ClusterSize::from_sectors(sectors).unwrap();
        Layout::new(Sector(size), Version::V2, cluster).unwrap()
    }

    #[test]
    fn figures_of_the_original() {
        let small = layout(131_072, 2048);
        assert_eq!((small.heads_cylinders(), small.data_start()), ((16, 256), 1 << 20));
        assert_eq!(layout(2_097_152, 2048).heads_cylinders(), (16, 2080));
        let ten = layout(0x140_0000, 128);
        assert_eq!(
            (ten.entries, ten.data_start >> 9, ten.heads_cylinders().0),
            (0x28000, 0x580, 16)
        );
        assert_eq!(layout(1 << 20, 64).data_start >> 9, 0xc0);
    }

    #[test]
    fn entries_of_a_large_preallocated_image_do_not_wrap() {
        let big = layout(8 << 31, 2048); // 8 TiB
        let mut out = vec![0u8; 4096];
        let last = u64::from(big.entries) - 1;
        let at = (last + HEADER_WORDS) * 4 / 4096 * 4096;
        big.table_bytes(at, &mut out, true).unwrap();
        let word = ((last + HEADER_WORDS) * 4 - at) as usize;
        let value = u32::from_le_bytes(out[word..word + 4].try_into().unwrap());
        assert_eq!(u64::from(value), big.data_start / (1 << 20) + last);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let cluster = ClusterSize::from_sectors(2048).unwrap();
        assert!(Layout::new(Sector(0), Version::V2, cluster).is_err());
        assert!(Layout::new(Sector(1 << 32), Version::V1, cluster).is_err());
        assert!(Layout::new(Sector(u64::MAX), Version::V2, cluster).is_err());
    }
}
