//! A merge of the top into a raw base while the disk is in use. A raw file cannot be the top of a
//! chain, so nothing is turned: the running device writes in place what the base has, and brings
//! down to it what the top has.
//!
//! | step | who | a crash behind it leaves |
//! |---|---|---|
//! | the base is as long as the device, and marked `Temporary` | [`lower`] | the same content |
//! | what the top has is brought down, with guests at work | the device | the same content |
//! | the top, which has nothing any more, leaves the descriptor | [`drop_empty`] | the base alone |
//!
//! The first and the last happen while requests wait. The mark is that of an offline merge into a
//! raw base, which ends what was begun: the base shows no snapshot any more, but what the top has
//! covers it.

use super::lookup;
use super::merge::{Plan, Store, Which};
use super::turn::{Dropped, Turned};
use super::{document, refused, same, sync, unlink};
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::open::pieces::{open_all, take_notes};
use crate::open::plan::Document;
use crate::open::{Level, OpenOptions, Prepared};
use crate::snapshot::repair;
use ploop_format::{ClusterSize, Sector};
use ploop_io::planted::{Bug, on};
use ploop_io::{Dir, Entropy};
use std::path::Path;

/// Has the top of a disk whose device pauses go into the raw base under it; the next device must
/// have the base open for writing.
///
/// # Errors
/// As [`super::merge()`], and another chain than a raw base and a top (38). The disk holds what it
/// held.
pub fn lower(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    options: &OpenOptions,
) -> Result<Turned> {
    let (planned, plan, pieces) = open(dir, target, options)?;
    let (mut image, mut bytes) = (None, 0);
    for prepared in &pieces {
        let (cluster, size) = (prepared.cluster, prepared.size.bytes());
        let [base, top] = &prepared.levels[..] else { return Err(not_raw(&plan)) };
        bytes += lookup::count(top, cluster)? * cluster.bytes();
        let path = &base.path;
        if base.len < size {
            base.file.set_len(size).at(ErrorKind::Truncate, "cannot set the length of", path)?;
        }
        sync(&*base.file, Bug::NoSyncMergeBegin)?;
        image = image.or_else(|| Some(path.clone()));
    }
    Store::new(dir, entropy, options, &planned).put(plan.marked(&planned.parsed))?;
    Ok(Turned { image: image.unwrap_or_default(), levels: 1, bytes })
}

/// Takes the top out of the chain: the base has everything.
///
/// # Errors
/// The top has something (38), another process has one of them (37), or a step failed: then the
/// chain is as it was.
pub fn drop_empty(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    options: &OpenOptions,
) -> Result<Dropped> {
    let (planned, plan, mut pieces) = open(dir, target, options)?;
    for prepared in &pieces {
        let [base, top] = &prepared.levels[..] else { return Err(not_raw(&plan)) };
        is_empty(top, prepared.cluster)?;
        sync(&*base.file, Bug::NoSyncMergeData)?;
    }
    let (after, gone) = plan.after(&planned.parsed).map_err(|e| refused(&planned.path, e))?;
    let size = Sector(pieces.iter().map(|prepared| prepared.size.0).sum());
    Store::new(dir, entropy, options, &planned).sized(size).put(Ok(after))?;
    let mut notes = take_notes(&mut pieces);
    drop(pieces);
    unlink(dir, &planned, &gone, &mut notes);
    Ok(Dropped { levels: 1, notes })
}

/// The pieces of the disk, which has a raw base and a top and nothing else.
fn open(
    dir: &dyn Dir,
    target: &Path,
    options: &OpenOptions,
) -> Result<(Document, Plan, Vec<Prepared>)> {
    let planned = document(dir, target)?;
    let plan = Plan::make(&planned, Which::Top)?;
    let options = OpenOptions { read_only: false, ..options.clone() };
    let mut pieces = open_all(dir, target, &options, Some(&plan.reach()))?;
    for prepared in &mut pieces {
        same(&planned, prepared.document.as_ref())?;
        repair(prepared, &options)?;
        match &prepared.levels[..] {
            [base, _] if base.head.is_none() => {}
            _ => return Err(not_raw(&plan)),
        }
    }
    Ok((planned, plan, pieces))
}

fn not_raw(plan: &Plan) -> ImageError {
    let text = format!("{} is not a raw base: the chain is turned instead", plan.target);
    ImageError::new(ErrorKind::Param, text)
}

/// No cluster is left in the top.
fn is_empty(top: &Level, cluster: ClusterSize) -> Result<()> {
    let entries = top.head.as_ref().map_or(0, |head| head.live());
    lookup::each([top], cluster, entries, |at, lookups| {
        let mut found = false;
        for lookup in lookups {
            found = found || lookup.find(at)?.is_some();
        }
        if found && !on(Bug::DropUncovered) {
            let text =
                format!("cluster {at} is in {}: the merge is not at its end", top.path.display());
            return Err(ImageError::new(ErrorKind::Param, text));
        }
        Ok(())
    })
}
