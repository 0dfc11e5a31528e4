//! A larger BAT in place: the clusters where it will be move to the end of the file first (F20).
//!
//! | step | a crash behind it leaves |
//! |---|---|
//! | the file longer, clusters copied, synced | the old image, a tail nobody names |
//! | their entries written, synced | the old image, the same content |
//! | zeros from the last used entry to the end of the new BAT, synced | the old image |
//! | the header, one sector, synced | the new image |

use super::copy::Move;
use super::sync;
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::head::{self, Head};
use crate::open::Level;
use crate::scan::for_chunks;
use fixedbitset::FixedBitSet;
use ploop_format::units::{HEADER_WORDS, PAGE, SECTOR};
use ploop_format::{FileCluster, GuestCluster, Header, Sector, geometry, put_entry};
use ploop_io::planted::{Bug, on};
use std::collections::BTreeMap;

/// Bytes of one write of zeros.
const STEP: u64 = 1 << 20;

/// Gives a marked image, whose BAT is good and takes the clusters in `used`, the new header.
pub(super) fn grow_level(level: &mut Level, used: &mut FixedBitSet, new: &Header) -> Result<()> {
    let Some(old) = level.head.clone() else { return Ok(()) };
    let cluster = old.cluster();
    let (first, end) = (old.data_start() >> cluster.log2(), new.data_start() >> cluster.log2());
    let early = on(Bug::GrowHeaderEarly);
    if early {
        put_header(level, new)?;
    }
    let moved = entries_in(level, &old, first, end)?;
    if end > first {
        relocate(level, used, &old, end, &moved)?;
    }
    zero(level, &old, new)?;
    if !early {
        put_header(level, new)?;
    }
    if used.len() < end as usize {
        used.grow(end as usize);
    }
    used.insert_range(first as usize..end as usize);
    Ok(())
}

fn put_header(level: &mut Level, new: &Header) -> Result<()> {
    let written = head::rewrite(&*level.file, &level.path, |header| {
        let (in_use, below) = (header.in_use(), header.is_marked_below());
        *header = *new;
        header.set_in_use(in_use);
        header.set_flag(ploop_format::BELOW, below);
        header.set_flag(ploop_format::EMPTY, false);
        header.set_extension_offset(Sector(0));
    })?;
    level.head = Some(Head { header: written });
    sync(&*level.file, Bug::NoSyncGrown)
}

/// Entries that name a cluster of `first..end`.
fn entries_in(
    level: &Level,
    head: &Head,
    first: u64,
    end: u64,
) -> Result<Vec<(GuestCluster, FileCluster)>> {
    let (version, cluster) = (head.version(), head.cluster());
    let mut found = Vec::new();
    if end == first {
        return Ok(found);
    }
    let start = HEADER_WORDS * 4;
    for_chunks(&*level.file, start, start + head.entries() * 4, |at, bytes| {
        for (n, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_le_bytes(*word);
            let place = version.position(word, cluster).bytes() >> cluster.log2();
            if word != 0 && (first..end).contains(&place) {
                let slot = at / 4 + n as u64 - HEADER_WORDS;
                found.push((GuestCluster(slot), FileCluster(place)));
            }
        }
        Ok(())
    })
    .at(ErrorKind::Read, "cannot read the BAT of", &level.path)?;
    Ok(found)
}

/// Copies the clusters behind everything else, then lets their entries name the copies.
fn relocate(
    level: &mut Level,
    used: &mut FixedBitSet,
    head: &Head,
    end: u64,
    moved: &[(GuestCluster, FileCluster)],
) -> Result<()> {
    let cluster = head.cluster();
    let path = level.path.clone();
    let start = cluster.count(level.len).max(end);
    let len = cluster.file_start(FileCluster(start + moved.len() as u64));
    if len > level.len {
        level.file.set_len(len).at(ErrorKind::Truncate, "cannot set the length of", &path)?;
        level.len = len;
    }
    let mut buffer = Move::buffer();
    let mut pages: BTreeMap<u64, Vec<(usize, u32)>> = BTreeMap::new();
    for (n, (slot, from)) in moved.iter().enumerate() {
        let to = FileCluster(start + n as u64);
        let one = Move {
            from: level.file.clone(),
            from_at: cluster.file_start(*from),
            from_len: cluster.bytes(),
            to_at: cluster.file_start(to),
            len: cluster.bytes(),
            fresh: true,
            skip_zero: false,
            thin: false,
        };
        one.run(&*level.file, &mut buffer).at(ErrorKind::Write, "cannot copy in", &path)?;
        let at = Sector(cluster.file_start(to) / SECTOR);
        let word = head.version().entry(at, cluster).ok_or_else(|| {
            let text = format!("{}: cluster {to} cannot be named by its version", path.display());
            ImageError::new(ErrorKind::Param, text)
        })?;
        let slot = slot.slot();
        pages.entry(slot.page.0).or_default().push((slot.index, word));
    }
    used.grow((start as usize + moved.len()).max(used.len()));
    used.insert_range(start as usize..start as usize + moved.len());
    sync(&*level.file, Bug::NoSyncRelocated)?;
    for (page, words) in &pages {
        let mut bytes = vec![0; PAGE as usize];
        let got = level.file.read_at(&mut bytes, page * PAGE);
        let got = got.at(ErrorKind::Read, "cannot read the BAT of", &path)?;
        for (index, word) in words {
            put_entry(&mut bytes, *index, *word);
        }
        let written = level.file.write_at(&bytes[..got], page * PAGE);
        written.at(ErrorKind::Write, "cannot write the BAT of", &path)?;
    }
    match pages.is_empty() {
        true => Ok(()),
        false => sync(&*level.file, Bug::NoSyncMoved),
    }
}

/// Zeros, written, from behind the last entry that the device used to the end of the new BAT (C5).
fn zero(level: &Level, old: &Head, new: &Header) -> Result<()> {
    let mut at = geometry::bat_bytes(old.live());
    let zeros = vec![0; STEP as usize];
    while at < new.data_start() {
        // Up to a page boundary first: the rest goes in whole pages.
        let len = match at % PAGE {
            0 => STEP.min(new.data_start() - at),
            odd => PAGE - odd,
        };
        let written = level.file.write_at(&zeros[..len as usize], at);
        written.at(ErrorKind::Write, "cannot write the BAT of", &level.path)?;
        at += len;
    }
    sync(&*level.file, Bug::NoSyncTable)
}
