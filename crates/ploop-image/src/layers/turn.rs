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
use super::target::Target;
use super::{document, grow, refused, same, unlink};
use crate::error::{ErrorKind, ImageError, Result};
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
    let mut prepared = Prepared::open_reach(dir, target, &options, Some(&reach))?;
    same(&planned, prepared.document.as_ref())?;
    repair(&mut prepared, &options)?;
    let cluster = prepared.cluster;
    let at = prepared.levels.len() - plan.sources.len() - 1;
    let image = prepared.levels[at].path.clone();
    if prepared.levels[at].head.is_none() {
        let text =
            format!("{} is raw: levels go into it only while the disk is closed", image.display());
        return Err(ImageError::new(ErrorKind::Param, text));
    }
    grow::all_to_fit(&mut prepared, at)?;
    let (low, sources) = prepared.levels.split_at_mut(at + 1);
    let mut clusters = 0;
    for source in sources.iter() {
        clusters += lookup::count(source, cluster)?;
    }
    let Some(level) = low.last_mut() else {
        return Err(ImageError::new(ErrorKind::Descriptor, "a disk without images"));
    };
    // A record of a life that somebody has ended without us would count with the mark.
    recover::forget(level, &options);
    let store = Store::new(dir, entropy, &options, &planned);
    let Some(mut target) = Target::begin(level, cluster)? else {
        return Err(ImageError::new(ErrorKind::BadImage, "a raw image cannot be the top"));
    };
    let forgot = forget(&mut target, sources, cluster)
        .and_then(|()| store.put(marked(&plan, &planned.parsed, Temporary::Zero)));
    if let Err(error) = forgot {
        return Err(stopped(target.cancel().and_then(|()| unmark(&store)), error));
    }
    let turned = target.apply_keeping().and_then(|()| {
        let turned = marked(&plan, &planned.parsed, Temporary::ZeroSwap);
        store.put(turned.and_then(|mut parsed| {
            parsed.turn(&plan.chain())?;
            Ok(parsed)
        }))
    });
    if let Err(error) = turned {
        // Nothing was cut or given back yet: every snapshot can be what it was. But old entries may
        // come back only under the old order, or they would hide what is newer.
        if on(Bug::TurnUndoFirst) {
            target.undo()?;
        }
        let order = store.put(marked(&plan, &planned.parsed, Temporary::Zero));
        let undone = order.and_then(|()| target.undo()).and_then(|()| unmark(&store));
        return Err(stopped(undone, error));
    }
    // The next device takes the image over as it is, marked: to give a gigabyte back takes longer
    // than requests may wait.
    if options.held.is_empty() {
        target.finish()?;
    }
    Ok(Turned { image, levels: plan.sources.len(), bytes: clusters * cluster.bytes() })
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
        gone.push(after.drop_covered(*guid).map_err(no)?);
    }
    let options = OpenOptions { read_only: false, ..options.clone() };
    let reach = Reach::of(parsed.top, lower.iter().chain([&parsed.top]).copied().collect());
    let mut prepared = Prepared::open_reach(dir, target, &options, Some(&reach))?;
    same(&planned, prepared.document.as_ref())?;
    repair(&mut prepared, &options)?;
    let at = prepared.levels.len() - 1 - lower.len();
    let (levels, top) = prepared.levels.split_at(prepared.levels.len() - 1);
    for level in &levels[at..] {
        covers(&top[0], level, prepared.cluster)?;
    }
    Store::new(dir, entropy, &options, &planned).put(Ok(after))?;
    let mut notes = std::mem::take(&mut prepared.notes);
    drop(prepared);
    unlink(dir, &planned, &gone, &mut notes);
    Ok(Dropped { levels: gone.len(), notes })
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
