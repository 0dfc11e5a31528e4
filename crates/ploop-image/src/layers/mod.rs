//! Operations on the layers of a disk that nobody has open: switch, delete, merge, grow.
//!
//! | file | what |
//! |---|---|
//! | `switch.rs` | a new top on a snapshot; the old top dropped or kept |
//! | `delete.rs` | a snapshot goes: with its file, into its child, or as soon as it can |
//! | `merge.rs` | levels into the one below them, each cluster once |
//! | `turn.rs` | a merge while the disk is in use: the lowest image becomes the top |
//! | `lower.rs` | the same where the lowest image is raw: it is written in place |
//! | `target.rs` | the image that levels are merged into: its BAT, its free clusters |
//! | `lookup.rs` | where a level has a cluster |
//! | `copy.rs` | one cluster from a file to another, zeros left out |
//! | `join.rs` | a split disk becomes one in one piece |
//! | `grow.rs`, `relocate.rs` | a larger device: clusters out of the way of a larger BAT |
//!
//! A crash at any point leaves the old chain or the new one (I9). A merge changes nothing that the
//! image it goes into shows until everything is copied: cancelled or failed, that image is what it
//! was. From then on the images that show something else are marked `Temporary`, as the original
//! marks them, until the new descriptor is in force.

mod copy;
mod delete;
mod grow;
mod join;
mod lookup;
mod lower;
mod merge;
mod relocate;
mod switch;
mod target;
mod turn;

pub use copy::{Copier, InTurn, Move};
pub use delete::{Deleted, delete};
pub use grow::{Grown, grow};
pub use join::{Joined, join};
pub use lower::{drop_empty, lower};
pub use merge::{Merged, Which, fit, may_merge, merge, merge_leftovers};
pub use switch::{Switched, switch};
pub use turn::{Dropped, Turned, drop_covered, turn};

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::gate;
use crate::locate::{self, Located};
use crate::open::pieces::refuse_piece;
use crate::open::plan::Document;
use crate::open::{Note, OpenOptions};
use ploop_format::{Descriptor, DescriptorError, Guid, ImageRef};
use ploop_io::Dir;
use ploop_io::planted::{Bug, on, synced};
use std::path::{Path, PathBuf};

/// How a long operation talks to whoever started it.
pub struct Work<'a> {
    /// Told bytes done and bytes in all; `false` stops the operation where it does no harm. May
    /// sleep, to hold a rate.
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
    /// Moves the data.
    pub copier: &'a dyn Copier,
}

impl Work<'_> {
    fn go_on(&mut self, done: u64, total: u64) -> Result<()> {
        match (self.progress)(done, total) {
            true => Ok(()),
            false => {
                let text = format!("stopped as asked, {done} of {total} bytes were copied");
                Err(ImageError::new(ErrorKind::Cancelled, text))
            }
        }
    }
}

/// What a disk's descriptor says.
///
/// # Errors
/// It is a lone image (38), or the descriptor is damaged (39).
pub fn describe(dir: &dyn Dir, target: &Path) -> Result<Descriptor> {
    Ok(document(dir, target)?.parsed)
}

/// The image file of a snapshot.
///
/// # Errors
/// There is no such snapshot (43), or as [`describe`].
pub fn image_of(dir: &dyn Dir, target: &Path, guid: Guid) -> Result<PathBuf> {
    let document = document(dir, target)?;
    match document.parsed.image(guid) {
        Some(image) => Ok(document.home().join(&image.file)),
        None => Err(refused(&document.path, DescriptorError::NoShot(guid))),
    }
}

/// The descriptor of a disk, to plan with; the operation compares it again under its locks.
fn document(dir: &dyn Dir, target: &Path) -> Result<Document> {
    match locate::locate(dir, target)? {
        Located::Descriptor(path) => {
            let document = Document::read(dir, &path)?;
            refuse_piece(dir, target, &document)?;
            Ok(document)
        }
        Located::Image(image) => {
            let text = format!("{} is a lone image: it has no snapshots", image.display());
            Err(ImageError::new(ErrorKind::Param, text)
                .hint("make a descriptor with ploop restore-descriptor"))
        }
    }
}

/// The plan was made before the locks were had.
fn same(planned: &Document, locked: Option<&Document>) -> Result<()> {
    if locked.is_some_and(|locked| locked.bytes == planned.bytes) {
        return Ok(());
    }
    let text = format!("{} changed while it was being locked", planned.path.display());
    Err(ImageError::new(ErrorKind::InUse, text).hint("try again"))
}

/// An image that is to change, now or by what follows, is the disk's own.
fn must_be_own(
    dir: &dyn Dir,
    document: &Document,
    guid: Guid,
    options: &OpenOptions,
) -> Result<()> {
    let images = document.disk.all_images().filter(|image| image.guid == guid);
    for image in images.filter(|_| !options.change_shared) {
        let home = document.home();
        let path = gate::pass(dir, &*options.gate, home, &home.join(&image.file))?;
        match gate::whose(dir, home, &path)? {
            Some(why) if !on(Bug::SharedWritten) => return Err(gate::not_own(&path, &why)),
            _ => {}
        }
    }
    Ok(())
}

/// What a descriptor says no to, with the exit code of the original.
fn refused(path: &Path, error: DescriptorError) -> ImageError {
    let kind = match error {
        DescriptorError::NoShot(_) => ErrorKind::NoSnapshot,
        DescriptorError::Duplicate(_)
        | DescriptorError::Reserved(_)
        | DescriptorError::IsTop(_)
        | DescriptorError::IsBase(_)
        | DescriptorError::Temporary(_)
        | DescriptorError::HasChildren { .. } => ErrorKind::Param,
        _ => ErrorKind::Descriptor,
    };
    ImageError::new(kind, format!("{} does not allow this", path.display())).because(error)
}

/// Removes the files of images that the descriptor in force does not name any more.
fn unlink(dir: &dyn Dir, document: &Document, images: &[ImageRef], notes: &mut Vec<Note>) {
    for image in images {
        let path = document.home().join(&image.file);
        // The disk is complete without it; check lists it.
        if let Err(error) = dir.unlink(&path) {
            notes.push(Note::NotRemoved { path, why: error.to_string() });
        }
    }
    if let Err(error) = synced(Bug::NoSyncUnlink, || dir.sync_dir(document.home())) {
        let path = document.home().to_owned();
        notes.push(Note::NotRemoved { path, why: error.to_string() });
    }
}

/// Syncs an image.
fn sync(file: &dyn ploop_io::RawFile, bug: Bug) -> Result<()> {
    synced(bug, || file.sync()).at(ErrorKind::Sync, "cannot sync", file.path())
}
