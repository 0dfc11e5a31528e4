//! The first 64 bytes of an image: one view of the bytes, checked once, and the few fields that
//! ever change.
//!
//! | byte | size | field |
//! |---|---|---|
//! | 0 | 16 | signature |
//! | 16 | 4 | type, always 2 |
//! | 20 | 4 | heads |
//! | 24 | 4 | cylinders |
//! | 28 | 4 | sectors per cluster |
//! | 32 | 4 | entries of the BAT |
//! | 36 | 8 | device size in sectors; v1 uses the low half |
//! | 44 | 4 | in-use word |
//! | 48 | 4 | first data block in sectors |
//! | 52 | 4 | flags |
//! | 56 | 8 | format extension in sectors |

use crate::bat::Bounds;
use crate::error::{FormatError, Result};
use crate::geometry;
use crate::units::{ClusterSize, PAGE, SECTOR, Sector};
use crate::version::Version;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;
/// Byte of the in-use word.
pub const IN_USE_AT: usize = 44;
/// The only legal type.
pub const TYPE: u32 = 2;
/// Flag: no data was ever written. A hint of the past, never believed (C5).
pub const EMPTY: u32 = 1;
/// Flag: the image is being converted to the other version.
pub const CONVERTING: u32 = 2;
/// Flag: an operation of ours has the image open below the top. Only beside the in-use word, set in
/// the same sector write; whoever closes the image clears it. The in-use word alone does not tell
/// who left it, so this is what lets the next open repair such an image (C6).
pub const BELOW: u32 = 1 << 30;
/// A first block that was never written. The entries tell where data is all the same; QEMU's check
/// puts the least possible value there.
pub const NO_FIRST_BLOCK: u32 = u32::MAX;
/// Flags that are never valid.
const BAD_FLAGS: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    signature: [u8; 16],
    kind: U32,
    heads: U32,
    cylinders: U32,
    cluster: U32,
    entries: U32,
    size_low: U32,
    size_high: U32,
    in_use: U32,
    first_block: U32,
    flags: U32,
    extension: U64,
}

const _: () = assert!(size_of::<Raw>() == HEADER_BYTES);

/// What the in-use word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum InUse {
    /// 0: closed by a writer that knows no extension; the extension is ignored.
    Closed,
    /// "v2.1": closed, and the extension is valid.
    ClosedV21,
    /// "pd" and two digits: closed by a version of Parallels Desktop, which leaves its stamp.
    Stamped(u32),
    /// Open, or its writer died.
    InUse,
    /// Any other word; counts as in use (I12).
    Unknown(u32),
}

impl InUse {
    const V21: u32 = 0x312E_3276;
    const OPEN: u32 = 0x746F_6E59;

    /// From the word on disk.
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Closed,
            Self::V21 => Self::ClosedV21,
            Self::OPEN => Self::InUse,
            stamp if is_stamp(stamp) => Self::Stamped(stamp),
            other => Self::Unknown(other),
        }
    }

    /// The word on disk.
    #[must_use]
    pub const fn word(self) -> u32 {
        match self {
            Self::Closed => 0,
            Self::ClosedV21 => Self::V21,
            Self::InUse => Self::OPEN,
            Self::Stamped(word) | Self::Unknown(word) => word,
        }
    }

    /// Not closed: everything but the two closed words and the stamps (T4, I12).
    #[must_use]
    pub const fn is_in_use(self) -> bool {
        !matches!(self, Self::Closed | Self::ClosedV21 | Self::Stamped(_))
    }
}

/// "pd17", "pd22": written when such a program closes an image. It sets the word of an open image
/// like everybody else.
const fn is_stamp(word: u32) -> bool {
    let [p, d, tens, ones] = word.to_le_bytes();
    p == b'p' && d == b'd' && tens.is_ascii_digit() && ones.is_ascii_digit()
}

/// How a file is divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileLen {
    /// Whole clusters, header and BAT included.
    pub clusters: u64,
    /// Bytes behind the last whole cluster: an interrupted extension (T5).
    pub ragged: u64,
}

/// A header that passed every check that needs no other byte of the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header {
    raw: Raw,
    version: Version,
    cluster: ClusterSize,
}

impl Header {
    /// Reads and checks a header; bytes behind the first 64 are not looked at.
    ///
    /// # Errors
    /// The first rule the bytes break.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Ok((raw, _)) = Raw::read_from_prefix(bytes) else {
            return Err(FormatError::Short { have: bytes.len() });
        };
        let version = Version::of_signature(&raw.signature).ok_or(FormatError::Signature)?;
        if raw.kind != TYPE {
            return Err(FormatError::Type(raw.kind.get()));
        }
        let cluster = ClusterSize::from_sectors(raw.cluster.get())
            .ok_or(FormatError::ClusterSize(raw.cluster.get()))?;
        let header = Self { raw, version, cluster };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        if self.raw.entries == 0 {
            return Err(FormatError::NoEntries);
        }
        // Smaller is legal (QEMU rounds to sectors only), larger is not (T5).
        if self.size() > self.covered() {
            let (size, covered) = (self.size().0, self.covered().0);
            return Err(FormatError::SizeBeyondBat { size, covered });
        }
        if self.raw.flags == BAD_FLAGS {
            return Err(FormatError::Flags(BAD_FLAGS));
        }
        let first = self.raw.first_block.get();
        if first == 0 && self.version == Version::V1 || first == NO_FIRST_BLOCK {
            return Ok(());
        }
        if first == 0 || !first.is_multiple_of(self.cluster.sectors()) {
            return Err(FormatError::cluster(first, self.cluster));
        }
        let (first, needed) = (Sector(first.into()).bytes(), self.bat_bytes());
        if first < needed {
            return Err(FormatError::DataInsideBat { first, needed });
        }
        Ok(())
    }

    /// The header of a new, empty image: the size rounded up to a cluster.
    ///
    /// # Errors
    /// No size, or more than the format can name.
    pub fn new(version: Version, cluster: ClusterSize, size: Sector) -> Result<Self> {
        let size = geometry::round_size(version, cluster, size)?;
        let mut header = Self { raw: Raw::new_zeroed(), version, cluster };
        header.raw.signature = *version.signature();
        header.raw.kind = TYPE.into();
        header.raw.cluster = cluster.sectors().into();
        header.raw.flags = EMPTY.into();
        header.put_geometry(size, 0, 0);
        Ok(header)
    }

    /// This header for a larger device, size rounded up to a cluster; first block minimal for it,
    /// or where it is if that is farther.
    /// In-use word, flags and extension offset stay. CHS follows the size, as the original's.
    ///
    /// # Errors
    /// Smaller than now, or more than the format can name.
    pub fn grown(&self, size: Sector) -> Result<Self> {
        let size = geometry::round_size(self.version, self.cluster, size)?;
        if size < self.size() {
            return Err(FormatError::Shrink { have: self.size().0, asked: size.0 });
        }
        self.check_aligned()?;
        let mut header = *self;
        // A BAT that is larger than its device, or a first block farther than needed, stays: no
        // entry vanishes, and what lies before the data goes on being BAT space.
        header.put_geometry(size, self.entries(), self.data_start());
        Ok(header)
    }

    /// The header of a new image with at least so many entries, more than the device may need.
    #[must_use]
    pub fn with_entries(&self, entries: u64) -> Self {
        let mut header = *self;
        header.put_geometry(self.size(), entries.min(u64::from(u32::MAX)), 0);
        header
    }

    /// This header with a size to the sector, which needs as many clusters as it has entries, or
    /// fewer.
    ///
    /// # Errors
    /// It needs more.
    pub fn with_size(&self, size: Sector) -> Result<Self> {
        let mut header = *self;
        header.raw.size_low = (size.0 as u32).into();
        header.raw.size_high = ((size.0 >> 32) as u32).into();
        Self::parse(&header.encode())
    }

    /// Size must have passed `round_size`: its entries and first block fit in 32 bits.
    fn put_geometry(&mut self, size: Sector, min_entries: u64, min_first: u64) {
        let entries = geometry::entries_for(size, self.cluster).max(min_entries);
        let needed = geometry::bat_clusters_for(entries, self.cluster) << self.cluster.log2();
        let first = needed.max(min_first);
        let chs = geometry::chs(size);
        self.raw.heads = chs.heads.into();
        self.raw.cylinders = chs.cylinders.into();
        self.raw.entries = (entries as u32).into();
        self.raw.size_low = (size.0 as u32).into();
        self.raw.size_high = ((size.0 >> 32) as u32).into();
        self.raw.first_block = ((first / SECTOR) as u32).into();
    }

    /// The bytes on disk; bits nobody here knows are the ones that were read.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        zerocopy::transmute!(self.raw)
    }

    /// Generation of the format.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// `m_Type`.
    #[must_use]
    pub const fn kind(&self) -> u32 {
        self.raw.kind.get()
    }

    /// `m_Heads`, informative.
    #[must_use]
    pub const fn heads(&self) -> u32 {
        self.raw.heads.get()
    }

    /// `m_Cylinders`, informative.
    #[must_use]
    pub const fn cylinders(&self) -> u32 {
        self.raw.cylinders.get()
    }

    /// Cluster size.
    #[must_use]
    pub const fn cluster(&self) -> ClusterSize {
        self.cluster
    }

    /// `m_Size`: entries of the BAT.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.raw.entries.get() as u64
    }

    /// `m_SizeInSectors`: size of the device. May end inside the last cluster.
    #[must_use]
    pub const fn size(&self) -> Sector {
        let low = self.raw.size_low.get() as u64;
        match self.version {
            Version::V1 => Sector(low),
            Version::V2 => Sector(low | (self.raw.size_high.get() as u64) << 32),
        }
    }

    /// What all entries together cover.
    #[must_use]
    pub const fn covered(&self) -> Sector {
        Sector(self.entries() * self.cluster.sectors() as u64)
    }

    /// `m_DiskInUse`.
    #[must_use]
    pub const fn in_use(&self) -> InUse {
        InUse::from_word(self.raw.in_use.get())
    }

    /// `m_FirstBlockOffset` as written; 0 in some v1 images, see [`Self::data_start`].
    #[must_use]
    pub const fn first_block(&self) -> Sector {
        Sector(self.raw.first_block.get() as u64)
    }

    /// `m_Flags`.
    #[must_use]
    pub const fn flags(&self) -> u32 {
        self.raw.flags.get()
    }

    /// Whether the Empty bit is set. Only a hint: it is not maintained by everybody.
    #[must_use]
    pub const fn claims_empty(&self) -> bool {
        self.flags() & EMPTY != 0
    }

    /// Whether a conversion was begun and not ended.
    #[must_use]
    pub const fn is_converting(&self) -> bool {
        self.flags() & CONVERTING != 0
    }

    /// `m_FormatExtensionOffset` as written.
    #[must_use]
    pub const fn extension_offset(&self) -> Sector {
        Sector(self.raw.extension.get())
    }

    /// Where the extension is, if the in-use word says it is valid.
    #[must_use]
    pub fn extension(&self) -> Option<Sector> {
        let at = self.extension_offset();
        (self.in_use() == InUse::ClosedV21 && at.0 != 0).then_some(at)
    }

    /// First byte behind the last entry.
    #[must_use]
    pub const fn bat_bytes(&self) -> u64 {
        geometry::bat_bytes(self.entries())
    }

    /// Whether the header says where data begins.
    #[must_use]
    pub const fn has_first_block(&self) -> bool {
        self.raw.first_block.get() != NO_FIRST_BLOCK
    }

    /// First byte of data. A v1 image with first block 0 begins at the next sector behind its BAT.
    #[must_use]
    pub const fn data_start(&self) -> u64 {
        match self.raw.first_block.get() {
            0 => self.bat_bytes().next_multiple_of(SECTOR),
            NO_FIRST_BLOCK => self.bat_bytes().next_multiple_of(self.cluster.bytes()),
            first => first as u64 * SECTOR,
        }
    }

    /// Clusters header and BAT have in the file, whole or partial.
    #[must_use]
    pub const fn bat_clusters(&self) -> u64 {
        self.cluster.count(self.data_start())
    }

    /// Pages of 4 KiB that hold header and entries.
    #[must_use]
    pub const fn bat_pages(&self) -> u64 {
        self.bat_bytes().div_ceil(PAGE)
    }

    /// Length of a preallocated image: header, BAT and every cluster.
    #[must_use]
    pub const fn preallocated_len(&self) -> u64 {
        self.data_start() + self.covered().bytes()
    }

    /// An entry of a preallocated image: clusters lie in order behind the BAT. `None` behind the
    /// last entry, or where the format cannot name the place.
    #[must_use]
    pub const fn preallocated_entry(&self, index: u64) -> Option<u32> {
        if index >= self.entries() {
            return None;
        }
        let at = self.data_start() + index * self.cluster().bytes();
        self.version().entry(Sector(at / SECTOR), self.cluster())
    }

    /// Whether data begins at a cluster boundary; if not, the image is only read.
    ///
    /// # Errors
    /// It does not.
    pub fn check_aligned(&self) -> Result<()> {
        if !self.has_first_block() {
            return Err(FormatError::NoFirstBlock);
        }
        let (start, cluster) = (self.data_start(), self.cluster.bytes());
        if self.cluster.offset_in(start) != 0 {
            return Err(FormatError::DataUnaligned { start, cluster });
        }
        Ok(())
    }

    /// An interrupted conversion leaves half of the entries scaled (T5).
    ///
    /// # Errors
    /// In use and converting.
    pub fn check_conversion(&self) -> Result<()> {
        if self.in_use().is_in_use() && self.is_converting() {
            return Err(FormatError::ConversionInterrupted);
        }
        Ok(())
    }

    /// Divides a file of `len` bytes into clusters.
    ///
    /// # Errors
    /// It ends inside header and BAT.
    pub fn check_file_len(&self, len: u64) -> Result<FileLen> {
        let needed = self.bat_bytes();
        if len < needed {
            return Err(FormatError::Truncated { len, needed });
        }
        // An unaligned v1 image has its cluster boundaries shifted.
        let shift = self.cluster.offset_in(self.data_start());
        let from = len.saturating_sub(shift);
        let head = u64::from(shift != 0 && len >= shift);
        let clusters = (from >> self.cluster.log2()) + head;
        let ragged = if len < shift { len } else { self.cluster.offset_in(from) };
        Ok(FileLen { clusters, ragged })
    }

    /// The limits entries of this image have in a file of `len` bytes.
    #[must_use]
    pub const fn bounds(&self, len: u64) -> Bounds {
        Bounds {
            version: self.version,
            cluster: self.cluster,
            data_start: self.data_start(),
            file_len: len,
        }
    }

    /// Sets the in-use word.
    pub fn set_in_use(&mut self, state: InUse) {
        self.raw.in_use = state.word().into();
    }

    /// Sets or clears flag bits; the others stay.
    pub fn set_flag(&mut self, flag: u32, on: bool) {
        let flags = self.flags();
        self.raw.flags = if on { flags | flag } else { flags & !flag }.into();
    }

    /// Sets the place of the extension; sector 0 = none.
    pub fn set_extension_offset(&mut self, at: Sector) {
        self.raw.extension = at.0.into();
    }

    /// Whether an operation of ours that changes images below the top left the mark.
    #[must_use]
    pub const fn is_marked_below(&self) -> bool {
        matches!(self.in_use(), InUse::InUse) && self.flags() & BELOW != 0
    }

    /// In one sector write: in use, not empty, no extension (F15), and not being converted: in use
    /// with that flag says that the entries are half of each version (T5).
    pub fn stamp(&mut self) {
        self.set_in_use(InUse::InUse);
        self.set_flag(CONVERTING | EMPTY | BELOW, false);
        self.set_extension_offset(Sector(0));
    }

    /// The stamp of the program that closed it last.
    #[must_use]
    pub const fn writers_stamp(&self) -> Option<InUse> {
        match self.in_use() {
            stamp @ InUse::Stamped(_) => Some(stamp),
            _ => None,
        }
    }

    /// As [`Self::stamp`], of an image below the top.
    pub fn stamp_below(&mut self) {
        self.stamp();
        self.set_flag(BELOW, true);
    }

    /// In one sector write: closed, with the extension's place if there is one (F15).
    pub fn close(&mut self, empty: bool, extension: Option<Sector>) {
        self.set_in_use(if extension.is_some() { InUse::ClosedV21 } else { InUse::Closed });
        self.set_flag(CONVERTING | BELOW, false);
        self.set_flag(EMPTY, empty);
        self.set_extension_offset(extension.unwrap_or_default());
    }
}

impl core::fmt::Debug for Header {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Header")
            .field("version", &self.version)
            .field("cluster", &self.cluster)
            .field("entries", &self.entries())
            .field("size", &self.size())
            .field("in_use", &self.in_use())
            .field("first_block", &self.first_block())
            .field("flags", &self.flags())
            .field("extension_offset", &self.extension_offset())
            .finish()
    }
}

#[cfg(test)]
mod tests;
