//! A merge while the disk is in use. What lies lowest becomes the top, so that nothing but the
//! copy-up of the running device has to be trusted with the data:
//!
//! | step | who | a crash behind it leaves |
//! |---|---|---|
//! | the lowest image forgets what the others have | [`turn`] | the old chain, marked |
//! | the files change places in the descriptor: the lowest is top | [`turn`] | the same content |
//! | what the others have is copied up, with guests at work | the device | the same content |
//! | the others, not needed any more, leave the descriptor | [`drop_covered`] | the new chain |
//!
//! The first two and the last happen while requests wait. The marks are those of the original
//! (`TemporaryZero`, `TemporaryZeroSwap`), and an offline merge ends what was begun.

use super::lookup;
use super::merge::{Plan, Store, Which, stopped, unmark};
use super::target::{self, Target};
use super::{document, grow, refused, same, unlink};
use crate::error::{ErrorKind, ImageError, Result};
use crate::open::pieces::{open_all, take_notes};
use crate::open::plan::Reach;
use crate::open::{Level, Note, OpenOptions, Prepared, recover};
use crate::snapshot::repair;
use ploop_format::descriptor::Temporary;
use ploop_format::{ClusterSize, Descriptor};
use ploop_io::planted::{Bug, on};
use ploop_io::{Dir, Entropy};
use std::path::{Path, PathBuf};

/// A chain that was turned.
#[derive(Clone, Debug)]
pub struct Turned {
    /// The image that takes everything in, the top now.
    pub image: PathBuf,
    /// Levels that are to go.
    pub levels: usize,
    /// Bytes that they hold; less is to be copied when they share clusters.
    pub bytes: u64,
}

/// Turns the chain of a disk whose device pauses: the top is to be merged into its parent, or
/// everything into the base.
///
/// # Errors
/// As [`super::merge()`], and a raw image at the lower end (38). The disk holds what it held.
pub fn turn(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    which: Which,
    options: &OpenOptions,
) -> Result<Turned> {
    let planned = document(dir, target)?;
    let plan = Plan::make(&planned, which)?;
    if plan.tip != planned.parsed.top {
        let text = format!("{} is not the top: merge it as it is", plan.tip);
        return Err(ImageError::new(ErrorKind::Param, text));
    }
    let options = OpenOptions { read_only: false, ..options.clone() };
    let reach = plan.reach();
    let mut pieces = open_all(dir, target, &options, Some(&reach))?;
    let (mut image, mut bytes) = (PathBuf::new(), 0);
    for (n, prepared) in pieces.iter_mut().enumerate() {
        same(&planned, prepared.document.as_ref())?;
        repair(prepared, &options)?;
        let at = prepared.levels.len() - plan.sources.len() - 1;
        let path = &prepared.levels[at].path;
        if prepared.levels[at].head.is_none() {
            let text = format!(
                "{} is raw: levels go into it only while the disk is closed",
                path.display()
            );
            return Err(ImageError::new(ErrorKind::Param, text));
        }
        if n == 0 {
            image = path.clone();
        }
        grow::all_to_fit(prepared, at)?;
        for source in &prepared.levels[at + 1..] {
            bytes += lookup::count(source, prepared.cluster)? * prepared.cluster.bytes();
        }
    }
    let store = Store::new(dir, entropy, &options, &planned);
    let mut targets = Vec::with_capacity(pieces.len());
    let forgot = forget_all(&mut pieces, &plan, &options, &mut targets)
        .and_then(|()| store.put(marked(&plan, &planned.parsed, Temporary::Zero)));
    if let Err(error) = forgot {
        let undone = target::each(&mut targets, Target::cancel);
        return Err(stopped(undone.and_then(|()| unmark(&store)), error));
    }
    let turned = target::apply_keeping(&mut targets).and_then(|()| {
        let turned = marked(&plan, &planned.parsed, Temporary::ZeroSwap);
        store.put(turned.and_then(|mut parsed| {
            parsed.in_pieces(|piece, _| piece.turn(&plan.chain()))?;
            Ok(parsed)
        }))
    });
    if let Err(error) = turned {
        // Nothing was cut or given back yet: every snapshot can be what it was. But old entries may
        // come back only under the old order, or they would hide what is newer.
        if on(Bug::TurnUndoFirst) {
            target::each(&mut targets, Target::undo)?;
        }
        let order = store.put(marked(&plan, &planned.parsed, Temporary::Zero));
        let undone = order.and_then(|()| target::each(&mut targets, Target::undo));
        return Err(stopped(undone.and_then(|()| unmark(&store)), error));
    }
    // The next device takes the image over as it is, marked: to give a gigabyte back takes longer
    // than requests may wait.
    if options.held.is_empty() {
        target::each(&mut targets, Target::finish)?;
    }
    Ok(Turned { image, levels: plan.sources.len(), bytes })
}

/// In every piece the lowest image forgets what the others have; it is not written yet.
fn forget_all<'a>(
    pieces: &'a mut [Prepared],
    plan: &Plan,
    options: &OpenOptions,
    targets: &mut Vec<Target<'a>>,
) -> Result<()> {
    for prepared in pieces {
        let cluster = prepared.cluster;
        let at = prepared.levels.len() - plan.sources.len() - 1;
        let (low, sources) = prepared.levels.split_at_mut(at + 1);
        let Some(level) = low.last_mut() else {
            return Err(ImageError::new(ErrorKind::Descriptor, "a disk without images"));
        };
        // A record of a life that somebody has ended without us would count with the mark.
        recover::forget(level, options);
        let Some(target) = Target::begin(level, cluster)? else {
            return Err(ImageError::new(ErrorKind::BadImage, "a raw image cannot be the top"));
        };
        targets.push(target);
        if let Some(target) = targets.last_mut() {
            forget(target, sources, cluster)?;
        }
    }
    Ok(())
}

/// The descriptor while the merge goes on.
fn marked(
    plan: &Plan,
    parsed: &Descriptor,
    state: Temporary,
) -> std::result::Result<Descriptor, ploop_format::DescriptorError> {
    let mut parsed = plan.marked(parsed)?;
    parsed.set_temporary(plan.target, state)?;
    Ok(parsed)
}

/// The entries of the lowest image that a level above it has too become holes: nobody sees them.
fn forget(target: &mut Target<'_>, sources: &[Level], cluster: ClusterSize) -> Result<()> {
    lookup::each(sources, cluster, target.entries(), |at, lookups| {
        let mut above = false;
        for lookup in lookups {
            above = above || lookup.find(at)?.is_some();
        }
        if above && !on(Bug::TurnKeepsOld) && target.has(at)? {
            target.set(at, None)?;
        }
        Ok(())
    })
}

/// Levels that left a chain.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// How many.
    pub levels: usize,
    /// What there is to say.
    pub notes: Vec<Note>,
}

/// Takes the levels under the top that wait to be merged out of the chain: the top has everything
/// they have.
///
/// # Errors
/// The top lacks something (38), another process has one of them (37), or a step failed: then the
/// chain is as it was.
pub fn drop_covered(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    options: &OpenOptions,
) -> Result<Dropped> {
    let planned = document(dir, target)?;
    let no = |error| refused(&planned.path, error);
    let parsed = &planned.parsed;
    let lower = parsed.turned().map_err(no)?;
    let mut after = parsed.clone();
    let mut gone = Vec::with_capacity(lower.len());
    for guid in &lower {
        gone.extend(after.in_pieces(|piece, _| piece.drop_covered(*guid)).map_err(no)?);
    }
    let options = OpenOptions { read_only: false, ..options.clone() };
    let reach = Reach::of(parsed.top, lower.iter().chain([&parsed.top]).copied().collect());
    let mut pieces = open_all(dir, target, &options, Some(&reach))?;
    for prepared in &mut pieces {
        same(&planned, prepared.document.as_ref())?;
        repair(prepared, &options)?;
        let at = prepared.levels.len() - 1 - lower.len();
        let (levels, top) = prepared.levels.split_at(prepared.levels.len() - 1);
        for level in &levels[at..] {
            covers(&top[0], level, prepared.cluster)?;
        }
    }
    Store::new(dir, entropy, &options, &planned).put(Ok(after))?;
    let mut notes = take_notes(&mut pieces);
    drop(pieces);
    unlink(dir, &planned, &gone, &mut notes);
    Ok(Dropped { levels: lower.len(), notes })
}

/// Every cluster of the lower level is in the top.
fn covers(top: &Level, lower: &Level, cluster: ClusterSize) -> Result<()> {
    // A raw image has every cluster up to its end.
    let raw = cluster.count(lower.len);
    let entries = lower.head.as_ref().map_or(raw, |head| head.live());
    lookup::each([top, lower], cluster, entries, |at, lookups| {
        let [high, low] = lookups else { return Ok(()) };
        if low.find(at)?.is_some() && high.find(at)?.is_none() && !on(Bug::DropUncovered) {
            let text = format!(
                "cluster {at} of {} is not in {}: the merge is not at its end",
                lower.path.display(),
                top.path.display()
            );
            return Err(ImageError::new(ErrorKind::Param, text));
        }
        Ok(())
    })
}
