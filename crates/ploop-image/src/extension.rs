//! The format extension of an open image: read, judged, and the clusters it takes.

use crate::error::{ErrorKind, IoContext, Result};
use ploop_format::Header;
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

/// Reads the extension, when the header says there is a valid one.
pub(crate) fn read(file: &dyn RawFile, path: &Path, header: &Header) -> Result<Extension> {
    use ploop_format::Extension as Format;
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
