//! The format extension: one cluster with a checksum, that names the clusters of a dirty bitmap.

use crate::error::{ErrorKind, IoContext, Result};
use md5::{Digest, Md5};
use ploop_format::units::SECTOR;
use ploop_format::{ClusterSize, Sector};
use ploop_io::RawFile;
use std::path::Path;

const MAGIC: u64 = 0xAB23_4CEF_23DC_EA87;
const DIRTY_BITMAP: u64 = 0x2038_5FAE_252C_B34A;
/// Checksum and magic are not part of what is summed.
const SUMMED_FROM: usize = 24;
/// Bytes before an element's data: magic, flags, size, padding.
const ELEMENT: usize = 24;
/// Bytes of a bitmap's data before its table: size, uuid, granularity, length.
const BITMAP: usize = 32;

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

/// Reads the extension cluster at a position of the file.
pub(crate) fn read(
    file: &dyn RawFile,
    path: &Path,
    cluster: ClusterSize,
    size: Sector,
    at: Sector,
) -> Result<Extension> {
    let len = file.len().at(ErrorKind::Stat, "cannot stat", path)?;
    let end = at.0.checked_mul(SECTOR).and_then(|start| start.checked_add(cluster.bytes()));
    if at.0 % u64::from(cluster.sectors()) != 0 || end.is_none_or(|end| end > len) {
        return Ok(Extension::Bad(format!("it would be at sector {}, outside the file", at.0)));
    }
    let mut bytes = vec![0u8; cluster.bytes() as usize];
    let got = file.read_at(&mut bytes, at.bytes()).at(ErrorKind::Read, "cannot read", path)?;
    if got < bytes.len() {
        return Ok(Extension::Bad(format!("only {got} of its bytes can be read")));
    }
    Ok(match parse(&bytes, cluster, size) {
        Ok((mut clusters, unknown)) => {
            clusters.push(at.0 / u64::from(cluster.sectors()));
            Extension::Good { clusters, unknown }
        }
        Err(why) => Extension::Bad(why),
    })
}

fn parse(bytes: &[u8], cluster: ClusterSize, size: Sector) -> Result<(Vec<u64>, bool), String> {
    if long(bytes, 0) != Some(MAGIC) {
        return Err("it has the wrong magic".to_owned());
    }
    let sum = Md5::digest(&bytes[SUMMED_FROM..]);
    if bytes.get(8..SUMMED_FROM) != Some(&sum[..]) {
        return Err("its checksum is wrong".to_owned());
    }
    let mut clusters = Vec::new();
    let (mut unknown, mut bitmaps) = (false, 0);
    let mut at = SUMMED_FROM;
    while let Some(magic) = long(bytes, at).filter(|magic| *magic != 0) {
        let len = word(bytes, at + 16).ok_or("an element is cut off")? as usize;
        let start = at + ELEMENT;
        let data = start.checked_add(len).and_then(|end| bytes.get(start..end));
        let data = data.ok_or_else(|| format!("an element of {len} bytes does not fit"))?;
        if magic == DIRTY_BITMAP {
            bitmaps += 1;
            bitmap(data, cluster, size, &mut clusters)?;
        } else {
            unknown = true;
        }
        at = start + len.next_multiple_of(8);
    }
    if bitmaps > 1 {
        return Err(format!("it holds {bitmaps} bitmaps"));
    }
    Ok((clusters, unknown))
}

fn bitmap(
    data: &[u8],
    cluster: ClusterSize,
    size: Sector,
    clusters: &mut Vec<u64>,
) -> Result<(), String> {
    let sectors = long(data, 0).ok_or("a bitmap is cut off")?;
    let granularity = word(data, 24).ok_or("a bitmap is cut off")?;
    let slots = word(data, 28).ok_or("a bitmap is cut off")?;
    if sectors != size.0 {
        return Err(format!("its bitmap is for {sectors} sectors, the device has {}", size.0));
    }
    if !granularity.is_power_of_two() {
        return Err(format!("its bitmap has a granularity of {granularity} sectors"));
    }
    let bits = sectors.div_ceil(u64::from(granularity));
    let wanted = bits.div_ceil(8).div_ceil(cluster.bytes());
    if u64::from(slots) != wanted {
        return Err(format!("its bitmap has {slots} parts, {wanted} are needed"));
    }
    for slot in 0..slots as usize {
        match long(data, BITMAP + 8 * slot).ok_or("the table of a bitmap is cut off")? {
            0 | 1 => {}
            at if at % u64::from(cluster.sectors()) == 0 => {
                clusters.push(at / u64::from(cluster.sectors()));
            }
            at => return Err(format!("part {slot} of its bitmap is at sector {at}")),
        }
    }
    Ok(())
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}
