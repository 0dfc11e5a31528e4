//! A snapshot goes: its file when nothing lies on it, into its child when there is one, later when
//! there are several.

use super::merge::{Merged, Which, merge};
use super::{Work, document, must_be_own, refused, same, unlink};
use crate::error::Result;
use crate::open::pieces::{open_all, take_notes};
use crate::open::plan::Reach;
use crate::open::{Note, OpenOptions};
use crate::store;
use ploop_format::descriptor::Temporary;
use ploop_format::{DescriptorError, Guid};
use ploop_io::{Dir, Entropy};
use std::path::Path;

/// What became of a snapshot.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// Nothing lay on it: its file is gone.
    Removed(Vec<Note>),
    /// Its only child took in what it had.
    Merged(Merged),
    /// Several snapshots lie on it: it goes when all but one of them are gone.
    Marked,
}

/// Deletes a snapshot of a disk that nobody has open. The name of the top drops what was written
/// since the last snapshot, which becomes the top.
///
/// # Errors
/// No such snapshot (43), it is the base of everything (38), in use (37), or as [`merge`].
pub fn delete(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    guid: Guid,
    options: &OpenOptions,
    work: &mut Work<'_>,
) -> Result<Deleted> {
    let planned = document(dir, target)?;
    let no = |error| refused(&planned.path, error);
    let mut parsed = planned.parsed.clone();
    parsed.shot(guid).ok_or_else(|| no(DescriptorError::NoShot(guid)))?;
    let children: Vec<Guid> = parsed.children(guid).map(|shot| shot.guid).collect();
    let top = guid == parsed.top;
    let (tip, gone) = match children.as_slice() {
        [] if top => (guid, Some(parsed.in_pieces(|piece, _| piece.drop_top()).map_err(no)?)),
        [] => (guid, Some(parsed.in_pieces(|piece, _| piece.remove(guid)).map_err(no)?)),
        [child] => {
            let merged = merge(dir, entropy, target, Which::One(*child), options, work)?;
            return Ok(Deleted::Merged(merged));
        }
        _ => {
            // What is marked now takes in its last child later.
            must_be_own(dir, &planned, guid, options)?;
            parsed.set_temporary(guid, Temporary::Yes).map_err(no)?;
            (parsed.top, None)
        }
    };
    let text = parsed.to_xml().map_err(no)?;
    // Exclusive: nobody has what goes, or the disk, open.
    let options = OpenOptions { read_only: false, ..options.clone() };
    let reach = Reach::of(tip, vec![tip]);
    let mut pieces = open_all(dir, target, &options, Some(&reach))?;
    for prepared in &pieces {
        same(&planned, prepared.document.as_ref())?;
    }
    store::stage(dir, entropy, options.held.spares(), &planned.path, &text)?.commit(dir)?;
    let mut notes = take_notes(&mut pieces);
    drop(pieces);
    match gone {
        None => Ok(Deleted::Marked),
        Some(images) => {
            unlink(dir, &planned, &images, &mut notes);
            Ok(Deleted::Removed(notes))
        }
    }
}
