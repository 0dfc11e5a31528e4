//! The format extension: one cluster behind the data that holds elements, in practice a bitmap of
//! changed blocks. Valid only while the header says "v2.1" (T9, F15).
//!
//! | byte | size | field |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 16 | MD5 of everything from byte 24 to the end of the cluster |
//! | 24 | | elements, one after another: magic 8, flags 8, size 4, zero 4, data |
//!
//! An element with magic 0 ends the list. Our writer and QEMU's begin each element at a multiple of
//! 8; the original puts them end to end. The only element it writes has a multiple of 8 bytes.

mod bitmap;

pub use bitmap::{BitmapError, DirtyBitmap, L1Entry, l1_len};

use crate::header::Header;
use crate::units::{ClusterSize, Sector};
use md5::{Digest, Md5};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First word of an extension.
pub const MAGIC: u64 = 0xAB23_4CEF_23DC_EA87;
/// Element flag: who cannot load the element must not change the image.
pub const NECESSARY: u64 = 1;
/// Element flag: who does not know the element keeps it as it is.
pub const TRANSIT: u64 = 2;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    magic: U64,
    md5: [u8; 16],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ElementHead {
    magic: U64,
    flags: U64,
    size: U32,
    unused: U32,
}

const HEAD: usize = size_of::<Head>();
const ELEMENT: usize = size_of::<ElementHead>();
const _: () = assert!(HEAD == 24 && ELEMENT == 24);

/// Why an extension is not usable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtensionError {
    /// The header names a place inside header and BAT, past the end, or between clusters.
    #[error("the extension is at sector {at}, data is from byte {start} to {end}")]
    Place {
        /// Where the header says it is, in sectors.
        at: u64,
        /// First byte of data.
        start: u64,
        /// Length of the file.
        end: u64,
    },
    /// Not as long as a cluster.
    #[error("{have} bytes, an extension takes a cluster of {cluster}")]
    Length {
        /// Bytes given.
        have: usize,
        /// Bytes per cluster.
        cluster: u64,
    },
    /// It does not begin with the magic.
    #[error("its first word is {0:#x}")]
    Magic(u64),
    /// The bytes are not those that were summed.
    #[error("its checksum does not fit its bytes")]
    Checksum,
    /// An element reaches behind the cluster.
    #[error("the element at byte {at} has {size} bytes, {left} are left")]
    ElementSize {
        /// Where the element begins.
        at: usize,
        /// Its data.
        size: usize,
        /// Bytes to the end of the cluster.
        left: usize,
    },
    /// Flags nobody defined.
    #[error("the element at byte {at} has the flags {flags:#x}")]
    ElementFlags {
        /// Where the element begins.
        at: usize,
        /// Its flags.
        flags: u64,
    },
    /// A second bitmap.
    #[error("more than one dirty bitmap")]
    TwoBitmaps,
    /// The bitmap is damaged.
    #[error("the dirty bitmap: {0}")]
    Bitmap(#[from] BitmapError),
    /// The elements do not fit a cluster.
    #[error("the elements take {need} bytes, a cluster has {cluster}")]
    Full {
        /// Bytes all would take.
        need: usize,
        /// Bytes per cluster.
        cluster: u64,
    },
}

/// An element this version does not know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unknown {
    /// Its kind.
    pub magic: u64,
    /// [`NECESSARY`], [`TRANSIT`].
    pub flags: u64,
    /// Its data.
    pub data: Vec<u8>,
}

/// What an extension holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extension {
    /// The bitmap of changed blocks.
    pub bitmap: Option<DirtyBitmap>,
    /// Elements of kinds we do not know, in order.
    pub unknown: Vec<Unknown>,
}

impl Extension {
    /// Where the extension lies, if the header says it has a valid one.
    ///
    /// # Errors
    /// It says so, but the place is impossible.
    pub fn place(header: &Header, file_len: u64) -> Result<Option<Sector>, ExtensionError> {
        let Some(at) = header.extension() else { return Ok(None) };
        match is_cluster(header, file_len, at) {
            true => Ok(Some(at)),
            false => {
                Err(ExtensionError::Place { at: at.0, start: header.data_start(), end: file_len })
            }
        }
    }

    /// Reads the extension cluster of an image whose file has `file_len` bytes.
    ///
    /// # Errors
    /// A checksum, size, flag or position that cannot be.
    pub fn parse(bytes: &[u8], header: &Header, file_len: u64) -> Result<Self, ExtensionError> {
        let cluster = header.cluster().bytes();
        let short = ExtensionError::Length { have: bytes.len(), cluster };
        if bytes.len() as u64 != cluster {
            return Err(short);
        }
        let (head, summed) = Head::ref_from_prefix(bytes).map_err(|_| short)?;
        if head.magic != MAGIC {
            return Err(ExtensionError::Magic(head.magic.get()));
        }
        if <[u8; 16]>::from(Md5::digest(summed)) != head.md5 {
            return Err(ExtensionError::Checksum);
        }
        let padded = Self::elements(summed, true, header, file_len);
        // A list that makes no sense with padding may be one without.
        padded.or_else(|error| Self::elements(summed, false, header, file_len).map_err(|_| error))
    }

    fn elements(
        bytes: &[u8],
        padded: bool,
        header: &Header,
        file_len: u64,
    ) -> Result<Self, ExtensionError> {
        let mut found = Self::default();
        let mut at = 0;
        // A list that fills the cluster needs no end mark.
        while let Some(Ok((head, rest))) = bytes.get(at..).map(ElementHead::ref_from_prefix) {
            if head.magic == 0 {
                break;
            }
            let size = head.size.get() as usize;
            let left = rest.len();
            let place = at + HEAD;
            let data =
                rest.get(..size).ok_or(ExtensionError::ElementSize { at: place, size, left })?;
            let flags = head.flags.get();
            if flags & !(NECESSARY | TRANSIT) != 0 {
                return Err(ExtensionError::ElementFlags { at: place, flags });
            }
            if head.magic == bitmap::MAGIC {
                let new = DirtyBitmap::parse(data, flags, header, file_len)?;
                if found.bitmap.replace(new).is_some() {
                    return Err(ExtensionError::TwoBitmaps);
                }
            } else {
                let magic = head.magic.get();
                found.unknown.push(Unknown { magic, flags, data: data.to_vec() });
            }
            at += ELEMENT + if padded { size.next_multiple_of(8) } else { size };
        }
        Ok(found)
    }

    /// The bytes of the extension cluster.
    ///
    /// # Errors
    /// They do not fit a cluster.
    pub fn encode(&self, cluster: ClusterSize) -> Result<Vec<u8>, ExtensionError> {
        let mut summed = Vec::new();
        let mut put = |magic: u64, flags: u64, data: &[u8]| {
            let size = U32::new(u32::try_from(data.len()).unwrap_or(u32::MAX));
            let head =
                ElementHead { magic: magic.into(), flags: flags.into(), size, unused: 0.into() };
            summed.extend_from_slice(head.as_bytes());
            summed.extend_from_slice(data);
            summed.resize(summed.len().next_multiple_of(8), 0);
        };
        if let Some(bitmap) = &self.bitmap {
            put(bitmap::MAGIC, bitmap.flags, &bitmap.encode());
        }
        for element in &self.unknown {
            put(element.magic, element.flags, &element.data);
        }
        let bytes = cluster.bytes();
        let need = HEAD + summed.len();
        if need as u64 > bytes {
            return Err(ExtensionError::Full { need, cluster: bytes });
        }
        summed.resize(bytes as usize - HEAD, 0);
        let head = Head { magic: MAGIC.into(), md5: Md5::digest(&summed).into() };
        let mut all = head.as_bytes().to_vec();
        all.append(&mut summed);
        Ok(all)
    }

    /// Whether the image must not be changed because of an element we cannot load (F15).
    #[must_use]
    pub fn forbids_writing(&self) -> bool {
        self.unknown.iter().any(|element| element.flags & NECESSARY != 0)
    }

    /// Drops the elements a writer that does not know them must drop.
    pub fn keep_for_writer(&mut self) {
        self.unknown.retain(|element| element.flags & (NECESSARY | TRANSIT) != 0);
    }
}

/// Whether a whole cluster of the file begins at the sector, behind the BAT.
fn is_cluster(header: &Header, file_len: u64, at: Sector) -> bool {
    let (start, cluster) = (header.data_start(), header.cluster());
    let Some(byte) = at.0.checked_mul(crate::units::SECTOR) else { return false };
    byte >= start
        && cluster.offset_in(byte) == cluster.offset_in(start)
        && byte.checked_add(cluster.bytes()).is_some_and(|end| end <= file_len)
}

#[cfg(test)]
mod tests;
