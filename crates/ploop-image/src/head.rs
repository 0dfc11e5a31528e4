//! The header of an open image: reading it, judging it, and the one sector write that changes it.

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::extension::{self, Extension};
use crate::fields::Fields;
use crate::scan::Table;
use ploop_format::units::SECTOR;
use ploop_format::{ClusterSize, Sector, Version};
use ploop_io::RawFile;
use std::path::Path;

/// Bytes of a header.
pub(crate) const BYTES: usize = 64;
/// Position of the in-use word.
const IN_USE_AT: usize = 44;
/// Position of the flags.
const FLAGS_AT: usize = 52;
/// Position of the extension's offset in sectors.
const EXTENSION_AT: usize = 56;
/// The word of an image that is open.
const IN_USE: u32 = 0x746F_6E59;
/// The word of a closed image whose extension is valid.
const WITH_EXTENSION: u32 = 0x312E_3276;
/// Bit 0 of the flags: no entry is mapped.
const EMPTY: u32 = 1;
/// Bit 1 of the flags: the format version is being converted.
const CONVERTING: u32 = 2;

/// A header that was read and passed the checks every open needs.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The bytes as they are on disk now.
    pub bytes: [u8; BYTES],
    fields: Fields,
}

impl Head {
    /// Reads and checks the header of a ploop image.
    pub fn read(file: &dyn RawFile, path: &Path, len: u64) -> Result<Self> {
        let mut bytes = [0u8; BYTES];
        let got = file.read_at(&mut bytes, 0).at(ErrorKind::Read, "cannot read", path)?;
        if got < BYTES {
            let text = format!("{} has {len} bytes, a header takes {BYTES}", path.display());
            return Err(ImageError::new(ErrorKind::BadImage, text));
        }
        let fields = Fields::parse(&bytes).map_err(|e| {
            let text = format!("{} is not a usable ploop image", path.display());
            ImageError::new(ErrorKind::BadImage, text).because(e)
        })?;
        Ok(Self { bytes, fields })
    }

    /// As [`Head::read`]; `None` when the file has no ploop signature.
    pub fn read_if_ploop(file: &dyn RawFile, path: &Path, len: u64) -> Result<Option<Self>> {
        let mut start = [0u8; 16];
        let got = file.read_at(&mut start, 0).at(ErrorKind::Read, "cannot read", path)?;
        if got < start.len() || !crate::fields::is_signature(&start) {
            return Ok(None);
        }
        Self::read(file, path, len).map(Some)
    }

    /// Generation of the format.
    pub fn version(&self) -> Version {
        self.fields.version
    }

    /// Cluster size.
    pub fn cluster(&self) -> ClusterSize {
        self.fields.cluster
    }

    /// Entries of the BAT.
    pub fn entries(&self) -> u64 {
        self.fields.entries
    }

    /// Size of the device.
    pub fn size(&self) -> Sector {
        self.fields.size
    }

    /// First byte behind header and BAT.
    pub fn data_start(&self) -> u64 {
        self.fields.data_start
    }

    /// The in-use word.
    pub fn in_use_word(&self) -> u32 {
        word(&self.bytes, IN_USE_AT)
    }

    /// Not closed: every word but 0 and "v2.1" (T4, I12).
    pub fn dirty(&self) -> bool {
        !matches!(self.in_use_word(), 0 | WITH_EXTENSION)
    }

    /// The conversion flag.
    pub fn converting(&self) -> bool {
        word(&self.bytes, FLAGS_AT) & CONVERTING != 0
    }

    /// Where the table lies, in a file of this length.
    pub fn table(&self, len: u64) -> Table {
        Table {
            version: self.version(),
            cluster: self.cluster(),
            entries: self.entries(),
            data_start: self.data_start(),
            len,
        }
    }

    /// An interrupted conversion leaves half of the entries scaled (T5).
    pub fn check_conversion(&self, path: &Path) -> Result<()> {
        if self.dirty() && self.converting() {
            let text = format!(
                "{} was being converted to another format version when its writer stopped",
                path.display()
            );
            return Err(ImageError::new(ErrorKind::Conversion, text)
                .hint("the original tool restores it from the .idx file beside it"));
        }
        Ok(())
    }

    /// Data that is not at cluster boundaries is only read (F22).
    pub fn check_writable(&self, path: &Path) -> Result<()> {
        if self.data_start() % self.cluster().bytes() != 0 {
            let text = format!(
                "the data of {} begins at byte {}, no multiple of its clusters of {} bytes",
                path.display(),
                self.data_start(),
                self.cluster().bytes()
            );
            return Err(ImageError::new(ErrorKind::BadImage, text).hint("open it with --ro"));
        }
        Ok(())
    }

    /// The extension, when the header says it is valid.
    pub fn extension(&self, file: &dyn RawFile, path: &Path) -> Result<Extension> {
        let sectors = u64::from_le_bytes(take(&self.bytes, EXTENSION_AT));
        if self.in_use_word() != WITH_EXTENSION || sectors == 0 {
            return Ok(Extension::None);
        }
        extension::read(file, path, self.cluster(), self.size(), Sector(sectors))
    }

    /// Whether a writable open must drop a bitmap; refuses when nobody allowed it (T9).
    pub fn check_extension(&self, file: &dyn RawFile, path: &Path, drop: bool) -> Result<bool> {
        match self.extension(file, path)? {
            Extension::None => Ok(false),
            Extension::Good { unknown: true, .. } => {
                let text = format!(
                    "{} carries an extension this version does not know: it is only read",
                    path.display()
                );
                Err(ImageError::new(ErrorKind::ChangeTracking, text).hint("open it with --ro"))
            }
            Extension::Good { .. } | Extension::Bad(_) if drop => Ok(true),
            Extension::Good { .. } => {
                let text = format!("{} carries a dirty bitmap", path.display());
                Err(ImageError::new(ErrorKind::ChangeTracking, text)
                    .hint("--drop-cbt drops it, the next backup is a full one"))
            }
            Extension::Bad(why) => {
                let text = format!("the extension of {} is damaged: {why}", path.display());
                Err(ImageError::new(ErrorKind::BadImage, text).hint("--drop-cbt drops it"))
            }
        }
    }

    /// Takes the bytes that are on disk now.
    pub fn replace(&mut self, bytes: [u8; BYTES]) {
        self.bytes = bytes;
    }
}

fn take<const N: usize>(bytes: &[u8; BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn word(bytes: &[u8; BYTES], at: usize) -> u32 {
    u32::from_le_bytes(take(bytes, at))
}

fn put(bytes: &mut [u8; BYTES], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Header bytes of an open image: in use, not empty, no extension (F15). The rest stays.
pub(crate) fn set_in_use(bytes: &mut [u8; BYTES]) {
    put(bytes, IN_USE_AT, IN_USE);
    let flags = word(bytes, FLAGS_AT);
    put(bytes, FLAGS_AT, flags & !EMPTY);
    bytes[EXTENSION_AT..EXTENSION_AT + 8].fill(0);
}

/// Header bytes of a closed image without extension.
pub(crate) fn set_closed(bytes: &mut [u8; BYTES], empty: bool) {
    put(bytes, IN_USE_AT, 0);
    let flags = word(bytes, FLAGS_AT) & !(EMPTY | CONVERTING);
    put(bytes, FLAGS_AT, if empty { flags | EMPTY } else { flags });
    bytes[EXTENSION_AT..EXTENSION_AT + 8].fill(0);
}

/// Changes the header by one write of one sector (of the file's own size), not synced (I8).
pub(crate) fn rewrite(
    file: &dyn RawFile,
    path: &Path,
    change: impl FnOnce(&mut [u8; BYTES]),
) -> Result<[u8; BYTES]> {
    let unit = u64::from(file.caps().offset_align).max(SECTOR) as usize;
    let mut sector = vec![0u8; unit];
    let got = file.read_at(&mut sector, 0).at(ErrorKind::Read, "cannot read", path)?;
    let Some((bytes, _)) = sector[..got].split_first_chunk_mut::<BYTES>() else {
        let text = format!("{} has {got} bytes, a header takes {BYTES}", path.display());
        return Err(ImageError::new(ErrorKind::BadImage, text));
    };
    change(bytes);
    let after = *bytes;
    file.write_at(&sector[..got], 0).at(ErrorKind::Write, "cannot write the header of", path)?;
    Ok(after)
}
