//! The header of an open image: reading it, judging it, and the one sector write that changes it.

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::extension::{self, Extension};
use crate::scan::Table;
use ploop_format::header::HEADER_BYTES;
use ploop_format::units::SECTOR;
use ploop_format::{ClusterSize, Header, Sector, Version};
use ploop_io::RawFile;
use std::path::Path;

/// How a file begins: the header, none in a raw one.
#[derive(Clone, Debug)]
pub(crate) struct Start(pub Option<Head>);

/// A header that was read and passed the checks every open needs.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub header: Header,
}

impl Head {
    /// Reads and checks the header of a ploop image.
    pub fn read(file: &dyn RawFile, path: &Path) -> Result<Self> {
        let mut bytes = [0u8; HEADER_BYTES];
        let got = file.read_at(&mut bytes, 0).at(ErrorKind::Read, "cannot read", path)?;
        let header = Header::parse(&bytes[..got]).map_err(|e| bad(path, e))?;
        Ok(Self { header })
    }

    /// As [`Head::read`]; `None` when the file has no ploop signature.
    pub fn read_if_ploop(file: &dyn RawFile, path: &Path) -> Result<Option<Self>> {
        let mut bytes = [0u8; HEADER_BYTES];
        let got = file.read_at(&mut bytes, 0).at(ErrorKind::Read, "cannot read", path)?;
        let signature = bytes.first_chunk().filter(|_| got >= 16);
        if signature.and_then(Version::of_signature).is_none() {
            return Ok(None);
        }
        let header = Header::parse(&bytes[..got]).map_err(|e| bad(path, e))?;
        Ok(Some(Self { header }))
    }

    /// Generation of the format.
    pub fn version(&self) -> Version {
        self.header.version()
    }

    /// Generation of the format as a number.
    pub fn version_number(&self) -> u32 {
        match self.version() {
            Version::V1 => 1,
            Version::V2 => 2,
        }
    }

    /// Cluster size.
    pub fn cluster(&self) -> ClusterSize {
        self.header.cluster()
    }

    /// Entries of the BAT.
    pub fn entries(&self) -> u64 {
        self.header.entries()
    }

    /// Entries that the device uses: the others, if a foreign tool made more, are no part of it.
    pub fn live(&self) -> u64 {
        self.cluster().count(self.size().bytes()).min(self.entries())
    }

    /// Size of the device.
    pub fn size(&self) -> Sector {
        self.header.size()
    }

    /// First byte behind header and BAT.
    pub fn data_start(&self) -> u64 {
        self.header.data_start()
    }

    /// The in-use word.
    pub fn in_use_word(&self) -> u32 {
        self.header.in_use().word()
    }

    /// Not closed: every word but 0 and "v2.1" (T4, I12).
    pub fn dirty(&self) -> bool {
        self.header.in_use().is_in_use()
    }

    /// The conversion flag.
    pub fn converting(&self) -> bool {
        self.header.is_converting()
    }

    /// Where the table lies, in a file of this length.
    pub fn table(&self, len: u64) -> Table {
        Table { entries: self.entries(), bounds: self.header.bounds(len) }
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
        let hint = match self.header.has_first_block() {
            true => "open it with --ro",
            false => "open it with --ro; qemu-img check -f parallels -r all puts it right",
        };
        self.header.check_aligned().map_err(|e| bad(path, e).hint(hint))
    }

    /// The extension, when the header says it is valid.
    pub fn extension(&self, file: &dyn RawFile, path: &Path) -> Result<Extension> {
        extension::read(file, path, &self.header)
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
}

/// The error of a header that cannot be used.
fn bad(path: &Path, error: ploop_format::FormatError) -> ImageError {
    let text = format!("{} is not a usable ploop image", path.display());
    ImageError::new(ErrorKind::BadImage, text).because(error)
}

/// The header's bytes on disk.
pub(crate) fn bytes(file: &dyn RawFile, path: &Path) -> Result<[u8; HEADER_BYTES]> {
    let mut bytes = [0u8; HEADER_BYTES];
    file.read_at(&mut bytes, 0).at(ErrorKind::Read, "cannot read", path)?;
    Ok(bytes)
}

/// Changes the header by one write of one sector (of the file's own size), not synced (I8).
pub(crate) fn rewrite(
    file: &dyn RawFile,
    path: &Path,
    change: impl FnOnce(&mut Header),
) -> Result<Header> {
    let unit = u64::from(file.caps().offset_align).max(SECTOR) as usize;
    let mut sector = vec![0u8; unit];
    let got = file.read_at(&mut sector, 0).at(ErrorKind::Read, "cannot read", path)?;
    let mut header = Header::parse(&sector[..got]).map_err(|e| bad(path, e))?;
    change(&mut header);
    let new = header.encode();
    // A host without space may refuse what is there already.
    if sector[..HEADER_BYTES] == new {
        return Ok(header);
    }
    sector[..HEADER_BYTES].copy_from_slice(&new);
    file.write_at(&sector[..got], 0).at(ErrorKind::Write, "cannot write the header of", path)?;
    Ok(header)
}
