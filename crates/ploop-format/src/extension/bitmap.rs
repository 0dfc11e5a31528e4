//! The bitmap of blocks that changed since a backup: its element of the extension.
//!
//! | byte | size | field |
//! |---|---|---|
//! | 0 | 8 | device size in sectors, as in the header |
//! | 8 | 16 | name, in text order |
//! | 24 | 4 | sectors per bit, a power of two |
//! | 28 | 4 | number of L1 entries |
//! | 32 | 8 each | L1: one entry per cluster of bits |

use super::is_cluster;
use crate::guid::Guid;
use crate::header::Header;
use crate::units::{ClusterSize, Sector};
use std::collections::HashSet;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First word of the element.
pub const MAGIC: u64 = 0x2038_5FAE_252C_B34A;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    size: U64,
    name: [u8; 16],
    granularity: U32,
    l1_len: U32,
}

const _: () = assert!(size_of::<Raw>() == 32);

/// Why a bitmap is not usable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BitmapError {
    /// The data ends before the fields or the table.
    #[error("it has {have} bytes, {need} are needed")]
    Short {
        /// Bytes of the element.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// For a device of another size.
    #[error("it is for a device of {bitmap} sectors, this one has {device}")]
    Size {
        /// What it says.
        bitmap: u64,
        /// What the header says.
        device: u64,
    },
    /// No power of two.
    #[error("a bit stands for {0} sectors, no power of two")]
    Granularity(u32),
    /// Too few or too many entries for the size.
    #[error("it has {have} L1 entries, its size needs {need}")]
    L1Len {
        /// What it says.
        have: u64,
        /// What the size needs.
        need: u64,
    },
    /// An entry names no cluster of the file.
    #[error("L1 entry {index} is sector {at}, no data cluster of the file")]
    L1Place {
        /// Which.
        index: usize,
        /// What it says.
        at: u64,
    },
    /// Two entries share a cluster, or one is the extension itself.
    #[error("L1 entry {index} is sector {at}, which has another use already")]
    L1Shared {
        /// Which.
        index: usize,
        /// What it says.
        at: u64,
    },
}

/// Where the bits of one L1 entry are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L1Entry {
    /// All clear.
    Clear,
    /// All set.
    Set,
    /// In the cluster at this sector; bit n is bit n % 8 of byte n / 8.
    At(Sector),
}

impl L1Entry {
    const fn from_word(word: u64) -> Self {
        match word {
            0 => Self::Clear,
            1 => Self::Set,
            at => Self::At(Sector(at)),
        }
    }

    /// The word on disk.
    #[must_use]
    pub const fn word(self) -> u64 {
        match self {
            Self::Clear => 0,
            Self::Set => 1,
            Self::At(at) => at.0,
        }
    }
}

/// A bitmap of changed blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyBitmap {
    /// Flags of its element.
    pub flags: u64,
    /// Size of the device.
    pub size: Sector,
    /// Its name.
    pub name: Guid,
    /// Sectors per bit.
    pub granularity: u32,
    /// Where the bits are.
    pub l1: Vec<L1Entry>,
}

/// Bits a bitmap has.
#[must_use]
pub const fn bits(size: Sector, granularity: u32) -> u64 {
    size.0.div_ceil(granularity as u64)
}

/// L1 entries a bitmap has.
#[must_use]
pub const fn l1_len(size: Sector, granularity: u32, cluster: ClusterSize) -> u64 {
    cluster.count(bits(size, granularity).div_ceil(8))
}

impl DirtyBitmap {
    /// A bitmap with no bit set; `granularity` must be a power of two.
    ///
    /// # Errors
    /// It is not.
    pub fn new(header: &Header, name: Guid, granularity: u32) -> Result<Self, BitmapError> {
        if !granularity.is_power_of_two() {
            return Err(BitmapError::Granularity(granularity));
        }
        let size = header.size();
        let len = l1_len(size, granularity, header.cluster()) as usize;
        Ok(Self { flags: 0, size, name, granularity, l1: vec![L1Entry::Clear; len] })
    }

    pub(super) fn parse(
        data: &[u8],
        flags: u64,
        header: &Header,
        file_len: u64,
    ) -> Result<Self, BitmapError> {
        let short = |need| BitmapError::Short { have: data.len(), need };
        let (raw, table) = Raw::ref_from_prefix(data).map_err(|_| short(size_of::<Raw>()))?;
        let (size, granularity) = (Sector(raw.size.get()), raw.granularity.get());
        if size != header.size() {
            return Err(BitmapError::Size { bitmap: size.0, device: header.size().0 });
        }
        if !granularity.is_power_of_two() {
            return Err(BitmapError::Granularity(granularity));
        }
        let have = u64::from(raw.l1_len.get());
        let need = l1_len(size, granularity, header.cluster());
        if have != need {
            return Err(BitmapError::L1Len { have, need });
        }
        // At most 2^32 words of 8 bytes: fits.
        let bytes = have as usize * 8;
        let table = table.get(..bytes).ok_or_else(|| short(size_of::<Raw>() + bytes))?;
        let l1 =
            table.as_chunks::<8>().0.iter().map(|w| L1Entry::from_word(u64::from_le_bytes(*w)));
        let new =
            Self { flags, size, name: Guid::from_bytes(raw.name), granularity, l1: l1.collect() };
        new.check_places(header, file_len)?;
        Ok(new)
    }

    fn check_places(&self, header: &Header, file_len: u64) -> Result<(), BitmapError> {
        let mut taken = HashSet::from([header.extension_offset()]);
        for (index, entry) in self.l1.iter().enumerate() {
            let L1Entry::At(at) = *entry else { continue };
            if !is_cluster(header, file_len, at) {
                return Err(BitmapError::L1Place { index, at: at.0 });
            }
            if !taken.insert(at) {
                return Err(BitmapError::L1Shared { index, at: at.0 });
            }
        }
        Ok(())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let raw = Raw {
            size: self.size.0.into(),
            name: self.name.to_bytes(),
            granularity: self.granularity.into(),
            l1_len: U32::new(u32::try_from(self.l1.len()).unwrap_or(u32::MAX)),
        };
        let mut bytes = raw.as_bytes().to_vec();
        bytes.extend(self.l1.iter().flat_map(|entry| entry.word().to_le_bytes()));
        bytes
    }

    /// Bits it has.
    #[must_use]
    pub const fn bits(&self) -> u64 {
        bits(self.size, self.granularity)
    }

    /// Clusters of the file that hold bits, to be counted as used.
    pub fn clusters(&self) -> impl Iterator<Item = Sector> {
        self.l1.iter().filter_map(|entry| match entry {
            L1Entry::At(at) => Some(*at),
            L1Entry::Clear | L1Entry::Set => None,
        })
    }
}
