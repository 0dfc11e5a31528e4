//! The in-use mark: one sector write, durable before the first change (I12, F15).

use super::{Note, Prepared, recover};
use crate::error::{ErrorKind, IoContext, Result};
use crate::head;
use fixedbitset::FixedBitSet;
use ploop_format::InUse;
use ploop_io::planted::{Bug, on, synced};

/// Marks the top, then does the changes of length that need the mark.
pub(crate) fn stamp(prepared: &mut Prepared) -> Result<()> {
    extend_raw(prepared)?;
    prepared.stamp = stays(prepared);
    if let Some(top) = prepared.levels.last() {
        recover::apply(top, &prepared.changes)?;
    }
    let below = prepared.below_top;
    let Some(top) = prepared.levels.last_mut() else { return Ok(()) };
    let Some(header) = &mut top.head else { return Ok(()) };
    // In use, no extension, not empty: the one write after which the old words mean nothing.
    if !on(Bug::MarkNot) {
        header.header = head::rewrite(&*top.file, &top.path, |header| match below {
            true => header.stamp_below(),
            false => header.stamp(),
        })?;
    }
    synced(Bug::NoSyncStamp, || top.file.sync()).at(ErrorKind::Sync, "cannot sync", &top.path)?;
    fix_length(prepared)
}

/// The stamp of another program, if opening and closing the image changes nothing else.
fn stays(prepared: &Prepared) -> Option<InUse> {
    let top = prepared.levels.last()?;
    let header = &top.head.as_ref()?.header;
    let stamp = header.writers_stamp()?;
    let end = prepared.scan.as_ref()?.end(prepared.cluster).max(header.data_start());
    let whole = prepared.preallocated || end == top.len;
    (whole && prepared.changes.is_empty() && !prepared.drop_bitmap).then_some(stamp)
}

/// Cuts the dropped bitmap, and ends the file at a cluster boundary (T5, T9, F14).
fn fix_length(prepared: &mut Prepared) -> Result<()> {
    let cluster = prepared.cluster;
    let (Some(top), Some(scan)) = (prepared.levels.last_mut(), &mut prepared.scan) else {
        return Ok(());
    };
    let wanted = if prepared.drop_bitmap {
        prepared.notes.push(Note::BitmapDropped(top.path.clone()));
        scan.end(cluster)
    } else {
        // No entry lies in a ragged end, else the scan had refused it.
        top.len.next_multiple_of(cluster.bytes())
    };
    if wanted == top.len {
        return Ok(());
    }
    top.file.set_len(wanted).at(ErrorKind::Truncate, "cannot set the length of", &top.path)?;
    synced(Bug::NoSyncLength, || top.file.sync()).at(ErrorKind::Sync, "cannot sync", &top.path)?;
    top.len = wanted;
    let mut used = FixedBitSet::with_capacity(cluster.count(wanted) as usize);
    used.extend(scan.used.ones());
    scan.used = used;
    Ok(())
}

/// A writable raw file gets the length of the disk; a raw has no mark (I12).
fn extend_raw(prepared: &mut Prepared) -> Result<()> {
    let size = prepared.size.bytes();
    let Some(top) = prepared.levels.last_mut() else { return Ok(()) };
    if top.head.is_none() && top.len < size {
        top.file.set_len(size).at(ErrorKind::Truncate, "cannot set the length of", &top.path)?;
        synced(Bug::NoSyncRaw, || top.file.sync()).at(ErrorKind::Sync, "cannot sync", &top.path)?;
        top.len = size;
    }
    Ok(())
}
