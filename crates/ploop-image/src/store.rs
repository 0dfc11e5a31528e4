//! Writing a descriptor: a new text beside the old one, then one rename (I9).

use crate::create::home_of;
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::open::plan::Document;
use crate::owner;
use ploop_format::{Guid, Sector};
use ploop_io::planted::{Bug, synced};
use ploop_io::{Dir, Entropy, OpenHow};
use std::path::{Path, PathBuf};

/// A new random name, version 4.
pub(crate) fn new_guid(entropy: &dyn Entropy) -> Guid {
    let mut bytes = [0u8; 16];
    entropy.fill(&mut bytes);
    Guid::from_random(bytes)
}

/// The last part of a path as text.
pub(crate) fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|n| n.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        let text = format!("{} is no usable file name", path.display());
        ImageError::new(ErrorKind::Param, text)
    })
}

/// A new name for a delta of the disk: beside the first image, when that lies in the disk's own
/// directory, else in that directory itself.
pub(crate) fn delta_file(dir: &dyn Dir, entropy: &dyn Entropy, document: &Document) -> String {
    let file = document.parsed.delta_file(new_guid(entropy));
    let Some((folder, name)) = file.rsplit_once('/') else { return file };
    let folder = dir.canonical(&document.home().join(format!("{folder}/")));
    match folder.is_ok_and(|folder| folder.starts_with(document.home())) {
        true => file,
        false => name.to_owned(),
    }
}

/// A text staged beside its descriptor: durable, not in force.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    tmp: PathBuf,
    target: PathBuf,
}

/// Writes `text` beside `target`. The name is new, so no link of somebody else is followed.
pub(crate) fn stage(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    text: &str,
) -> Result<Staged> {
    stage_as(dir, target, &format!(".tmp.{}", new_guid(entropy)), text, None)
}

/// Writes the descriptor that is in force once more: after a failure nobody knows which one a crash
/// would bring back (F12).
pub(crate) fn again(dir: &dyn Dir, entropy: &dyn Entropy, document: &Document) -> Result<()> {
    let text = String::from_utf8_lossy(&document.bytes);
    stage(dir, entropy, &document.path, &text)?.commit(dir)
}

/// The size in a descriptor follows the top's header: a grow ended between the two (F20).
pub(crate) fn put_size(dir: &dyn Dir, document: &Document, size: Sector) -> Result<()> {
    let mut parsed = document.parsed.clone();
    parsed.set_size(size);
    let text = parsed.to_xml().map_err(|e| {
        let text = format!("{} cannot take the size {}", document.path.display(), size.0);
        ImageError::new(ErrorKind::Descriptor, text).because(e)
    })?;
    const NAME: &str = ".tmp.size";
    // Of a repair that ended in the middle; ours alone under the locks of the disk.
    let mut stale = document.path.as_os_str().to_owned();
    stale.push(NAME);
    let _ = dir.unlink(Path::new(&stale));
    stage_as(dir, &document.path, NAME, &text, None)?.commit(dir)
}

/// `image`: what the first descriptor of a directory stands beside.
fn stage_as(
    dir: &dyn Dir,
    target: &Path,
    name: &str,
    text: &str,
    image: Option<&Path>,
) -> Result<Staged> {
    let mut tmp = target.as_os_str().to_owned();
    tmp.push(name);
    let staged = Staged { tmp: PathBuf::from(tmp), target: target.to_owned() };
    let owner = owner::of_text(dir, target, image);
    let how = OpenHow { write: true, create_new: true, mode: 0o644, owner, ..OpenHow::default() };
    let file = dir.open(&staged.tmp, how).at(ErrorKind::Create, "cannot create", &staged.tmp)?;
    let written = file
        .write_at(text.as_bytes(), 0)
        .at(ErrorKind::Write, "cannot write", &staged.tmp)
        .and_then(|()| {
            synced(Bug::NoSyncText, || file.sync()).at(
                ErrorKind::SyncNew,
                "cannot sync",
                &staged.tmp,
            )
        });
    match written {
        Ok(()) => Ok(staged),
        Err(error) => {
            staged.discard(dir);
            Err(error)
        }
    }
}

impl Staged {
    /// Puts the text in force: rename, then the directory made durable.
    pub fn commit(self, dir: &dyn Dir) -> Result<()> {
        if let Err(e) = dir.rename(&self.tmp, &self.target) {
            let text = format!("cannot rename {} to {}", self.tmp.display(), self.target.display());
            self.discard(dir);
            return Err(ImageError::new(ErrorKind::Rename, text).because(e));
        }
        let home = home_of(&self.target);
        synced(Bug::NoSyncRename, || dir.sync_dir(&home)).at(
            ErrorKind::SyncNew,
            "cannot sync",
            &home,
        )
    }

    /// Removes the staged text.
    pub fn discard(&self, dir: &dyn Dir) {
        // A left-over is listed by check and never opened.
        let _ = dir.unlink(&self.tmp);
    }
}

/// Writes the first descriptor of a directory, beside an image.
pub(crate) fn store_new(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    text: &str,
    image: &Path,
) -> Result<()> {
    let name = format!(".tmp.{}", new_guid(entropy));
    stage_as(dir, target, &name, text, Some(image))?.commit(dir)
}
