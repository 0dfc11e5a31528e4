//! Whose new files are: those of the disk's user stay that user's, whoever runs the operation.

use crate::create::home_of;
use ploop_io::{Dir, Owner};
use std::path::Path;

/// Of a new image: what the image it lies on has. One in another directory is another disk's, so
/// then the disk's own descriptor tells whose, and nobody else may read it.
pub(crate) fn of_delta(
    dir: &dyn Dir,
    below: &Path,
    descriptor: &Path,
    new: &Path,
) -> Option<Owner> {
    let beside = home_of(below) == home_of(new);
    let owner = dir.stat(if beside { below } else { descriptor }).ok()?.owner;
    let mode = if beside { owner.mode & 0o666 | 0o600 } else { 0o600 };
    Some(Owner { mode, ..owner })
}

/// Of a new text of a descriptor: the old one's. Of the first one: its image's.
pub(crate) fn of_text(dir: &dyn Dir, target: &Path, image: Option<&Path>) -> Option<Owner> {
    if let Ok(old) = dir.stat(target) {
        return Some(old.owner);
    }
    dir.stat(image?).ok().map(|image| Owner { mode: 0o644, ..image.owner })
}

/// Of the lock file beside a descriptor: who may write that one may take the lock.
pub(crate) fn of_lock(dir: &dyn Dir, descriptor: &Path) -> Option<Owner> {
    let owner = dir.stat(descriptor).ok()?.owner;
    Some(Owner { mode: owner.mode & 0o666 | 0o600, ..owner })
}

/// Of the first image of a disk: the directory's user, if root makes it for somebody.
pub(crate) fn of_first(dir: &dyn Dir, home: &Path) -> Option<Owner> {
    dir.stat(home).ok().map(|home| Owner { mode: 0o600, ..home.owner })
}
