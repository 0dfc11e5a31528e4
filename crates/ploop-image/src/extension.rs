//! The format extension of an open image: read, judged, and the clusters it takes.

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use ploop_format::extension::{DirtyBitmap, L1Entry, l1_len};
use ploop_format::units::SECTOR;
use ploop_format::{Extension as Format, Header, InUse, Sector};
use ploop_io::RawFile;
use std::path::Path;

/// The extension of an image.
#[derive(Debug)]
pub(crate) enum Extension {
    /// None, or void because the image was not closed.
    None,
    /// Damaged; says how.
    Bad(String),
    /// Valid.
    Good {
        /// The file clusters it takes.
        clusters: Vec<u64>,
        /// Holds an element we cannot carry over.
        unknown: bool,
    },
}

/// A dirty bitmap in memory, while its image is changed.
#[derive(Debug)]
pub(crate) struct Kept {
    bitmap: DirtyBitmap,
    /// The bits of the entries that have a cluster, in order.
    bits: Vec<Vec<u8>>,
}

/// Takes a valid bitmap into memory.
pub(crate) fn keep(file: &dyn RawFile, path: &Path, header: &Header) -> Result<Option<Kept>> {
    let Extension::Good { unknown: false, .. } = read(file, path, header)? else { return Ok(None) };
    let mut bytes = vec![0u8; header.cluster().bytes() as usize];
    let at = header.extension_offset().bytes();
    file.read_at(&mut bytes, at).at(ErrorKind::Read, "cannot read", path)?;
    let len = file.len().at(ErrorKind::Stat, "cannot stat", path)?;
    let found = Format::parse(&bytes, header, len).map_err(|e| {
        let text = format!("the extension of {} is damaged", path.display());
        ImageError::new(ErrorKind::BadImage, text).because(e)
    })?;
    let Some(bitmap) = found.bitmap else { return Ok(None) };
    let mut bits = Vec::new();
    for at in bitmap.clusters() {
        file.read_at(&mut bytes, at.bytes()).at(ErrorKind::Read, "cannot read", path)?;
        bits.push(bytes.clone());
    }
    Ok(Some(Kept { bitmap, bits }))
}

impl Kept {
    /// Writes the bitmap behind `end`, for a device of the header's size. What the device has
    /// grown by was never changed. Returns where the extension is; not synced.
    pub fn put(mut self, file: &dyn RawFile, header: &Header, end: u64) -> Result<Sector> {
        let (path, cluster) = (file.path(), header.cluster());
        let len = l1_len(header.size(), self.bitmap.granularity, cluster) as usize;
        self.bitmap.size = header.size();
        self.bitmap.l1.resize(len, L1Entry::Clear);
        let (mut at, mut bits) = (end, self.bits.iter());
        for entry in &mut self.bitmap.l1 {
            let L1Entry::At(_) = entry else { continue };
            let Some(bits) = bits.next() else { continue };
            file.write_at(bits, at).at(ErrorKind::Write, "cannot write", path)?;
            *entry = L1Entry::At(Sector(at / SECTOR));
            at += cluster.bytes();
        }
        let extension = Format { bitmap: Some(self.bitmap), unknown: Vec::new() };
        let bytes = extension.encode(cluster).map_err(|e| {
            let text = format!("the dirty bitmap of {} does not fit", path.display());
            ImageError::new(ErrorKind::ChangeTracking, text)
                .because(e)
                .hint("--drop-cbt drops it, the next backup is a full one")
        })?;
        file.write_at(&bytes, at).at(ErrorKind::Write, "cannot write", path)?;
        Ok(Sector(at / SECTOR))
    }
}

/// Reads the extension, when the header says there is a valid one.
pub(crate) fn read(file: &dyn RawFile, path: &Path, header: &Header) -> Result<Extension> {
    if header.writers_stamp().is_none() {
        return read_valid(file, path, header);
    }
    // Nobody knows whether a program that leaves its stamp keeps the extension: its checksum says.
    let mut valid = *header;
    valid.set_in_use(InUse::ClosedV21);
    Ok(match read_valid(file, path, &valid)? {
        Extension::Bad(_) => Extension::None,
        found => found,
    })
}

fn read_valid(file: &dyn RawFile, path: &Path, header: &Header) -> Result<Extension> {
    let len = file.len().at(ErrorKind::Stat, "cannot stat", path)?;
    let at = match Format::place(header, len) {
        Ok(Some(at)) => at,
        Ok(None) => return Ok(Extension::None),
        Err(error) => return Ok(Extension::Bad(error.to_string())),
    };
    let mut bytes = vec![0u8; header.cluster().bytes() as usize];
    let got = file.read_at(&mut bytes, at.bytes()).at(ErrorKind::Read, "cannot read", path)?;
    let found = match Format::parse(&bytes[..got], header, len) {
        Ok(found) => found,
        Err(error) => return Ok(Extension::Bad(error.to_string())),
    };
    let sectors = u64::from(header.cluster().sectors());
    let named = found.bitmap.iter().flat_map(|bitmap| bitmap.clusters());
    let clusters = named.chain([at]).map(|at| at.0 / sectors).collect();
    Ok(Extension::Good { clusters, unknown: !found.unknown.is_empty() })
}
