//! A new top on a snapshot: the disk goes back to what it was then.
//!
//! The new delta is durable before the descriptor names it, and the old top goes after the
//! descriptor is in force (I9). The chain under the snapshot is opened and checked before anything
//! is given up.

use super::{document, refused, same, unlink};
use crate::error::{ErrorKind, ImageError, Result};
use crate::open::pieces::{open_all, take_notes};
use crate::open::plan::{MAX_LEVELS, Reach};
use crate::open::{Note, OpenOptions};
use crate::snapshot::{Deltas, repair};
use crate::store;
use ploop_format::Guid;
use ploop_io::planted::{Bug, on};
use ploop_io::{Dir, Entropy};
use std::path::{Path, PathBuf};

/// A switch that was made.
#[derive(Clone, Debug)]
pub struct Switched {
    /// The new top.
    pub image: PathBuf,
    /// The name the old top was kept under.
    pub kept: Option<Guid>,
    /// What there is to say.
    pub notes: Vec<Note>,
}

/// Puts a new top on the snapshot `guid`. The old top is removed; with `keep` it becomes a snapshot
/// of a new name.
///
/// # Errors
/// No such snapshot (43), it is the top or waits to be merged (38), the disk is in use (37), a
/// level is damaged (11), or a step failed: then the disk is as it was.
pub fn switch(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    guid: Guid,
    keep: bool,
    options: &OpenOptions,
) -> Result<Switched> {
    let planned = document(dir, target)?;
    let options = OpenOptions { read_only: false, ..options.clone() };
    let kept = keep.then(|| store::new_guid(entropy));
    let mut parsed = planned.parsed.clone();
    let deltas = Deltas::named(dir, entropy, &planned);
    let dropped = parsed.in_pieces(|piece, n| piece.switch(guid, &deltas.files[n], kept));
    let dropped = dropped.map_err(|e| refused(&planned.path, e))?;
    let text = parsed.to_xml().map_err(|e| refused(&planned.path, e))?;
    // The top's exclusive lock: nobody has the disk open.
    let top = Reach::of(planned.parsed.top, vec![planned.parsed.top]);
    let mut old = open_all(dir, target, &options, Some(&top))?;
    for prepared in &mut old {
        same(&planned, prepared.document.as_ref())?;
        if keep {
            repair(prepared, &options)?;
        }
    }
    let read_only = OpenOptions { read_only: true, ..options.clone() };
    let branch = Reach::of(guid, Vec::new());
    let branch = open_all(dir, target, &read_only, Some(&branch))?;
    let levels = branch.first().map_or(0, |piece| piece.levels.len());
    if (levels + 1) * branch.len() > MAX_LEVELS {
        let text = format!("{guid} lies on a chain of {levels} images, {MAX_LEVELS} is the limit");
        return Err(ImageError::new(ErrorKind::Param, text));
    }
    deltas.make(dir, &planned.path, branch.iter())?;
    let mut notes = take_notes(&mut old);
    let gone: Vec<_> = dropped.into_iter().flatten().collect();
    if on(Bug::SwitchUnlinksFirst) {
        unlink(dir, &planned, &gone, &mut notes);
    }
    let staged = store::stage(dir, entropy, options.held.spares(), &planned.path, &text);
    if let Err(error) = staged.and_then(|staged| staged.commit(dir)) {
        // Only when the old descriptor is still in force does nothing name the new files.
        if planned.unchanged(dir) {
            deltas.unlink(dir);
        }
        return Err(error);
    }
    let image = deltas.paths.first().cloned().unwrap_or_default();
    drop((old, branch));
    unlink(dir, &planned, &gone, &mut notes);
    Ok(Switched { image, kept, notes })
}
