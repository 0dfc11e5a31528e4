//! Writing a descriptor: a new text beside the old one, then one rename (I9). Where requests wait
//! for it, the files for the new texts were made before: see [`Spares`].

use crate::create::home_of;
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::open::plan::Document;
use crate::owner;
use ploop_format::{Guid, Sector};
use ploop_io::planted::{Bug, on, synced};
use ploop_io::{Dir, Entropy, File, OpenHow};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A new text may be longer than the old one by so much and still fits its file.
const ROOM: u64 = 4096;

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

/// New names for a delta of the disk, of a split disk for one in each piece: beside the piece's
/// first image, when that lies in the disk's own directory, else in that directory itself.
pub(crate) fn delta_files(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    document: &Document,
) -> Vec<String> {
    let own = |file: String| {
        let Some((folder, name)) = file.rsplit_once('/') else { return file };
        let folder = dir.canonical(&document.home().join(format!("{folder}/")));
        match folder.is_ok_and(|folder| folder.starts_with(document.home())) {
            true => file,
            false => name.to_owned(),
        }
    };
    document.disk.delta_files(new_guid(entropy)).into_iter().map(own).collect()
}

/// Files for the descriptors that an operation on layers will write, with their space: made while
/// the device is served, so that nothing in the pause needs an inode, a block or a new name (F20).
/// Clones share them.
#[derive(Clone, Default)]
pub struct Spares(Arc<Shared>);

#[derive(Default)]
struct Shared {
    files: Mutex<Vec<Spare>>,
    /// A descriptor was renamed and its directory was not synced since: a crash may bring the old
    /// one back (F12).
    unsure: AtomicBool,
}

struct Spare {
    path: PathBuf,
    file: File,
    room: u64,
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.files().iter().map(|spare| &spare.path)).finish()
    }
}

impl Spares {
    /// Makes `count` files beside a descriptor.
    pub(crate) fn beside(
        dir: &dyn Dir,
        entropy: &dyn Entropy,
        document: &Document,
        count: usize,
    ) -> Result<Self> {
        let spares = Self::default();
        let room = (document.bytes.len() as u64 + ROOM).next_multiple_of(ROOM);
        for _ in 0..count {
            let path = beside(&document.path, &format!(".tmp.{}", new_guid(entropy)));
            let made = make(dir, &path, &document.path, None).and_then(|file| {
                let filled = fill(&file, room);
                if filled.is_err() {
                    let _ = dir.unlink(&path);
                }
                filled.map(|()| file)
            });
            match made {
                Ok(file) => spares.files().push(Spare { path, file, room }),
                Err(error) => {
                    spares.discard(dir);
                    return Err(error);
                }
            }
        }
        Ok(spares)
    }

    fn files(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for a text of this length, if there is one.
    fn take(&self, target: &Path, len: u64) -> Option<Spare> {
        if on(Bug::DescriptorInPause) {
            return None;
        }
        let mut files = self.files();
        let fits = |spare: &Spare| spare.path.parent() == target.parent() && spare.room >= len;
        let at = files.iter().position(fits)?;
        Some(files.swap_remove(at))
    }

    /// A crash may bring another descriptor back than the one in force.
    pub(crate) fn unsure(&self) -> bool {
        self.0.unsure.load(Ordering::SeqCst)
    }

    /// Removes what was not needed.
    pub fn discard(&self, dir: &dyn Dir) {
        let mut home = None;
        for spare in self.files().drain(..) {
            // One that stays is listed by check and never opened.
            let _ = dir.unlink(&spare.path);
            home = Some(home_of(&spare.path));
        }
        if let Some(home) = home {
            // So that none comes back.
            let _ = synced(Bug::NoSyncUnlink, || dir.sync_dir(&home));
        }
    }
}

/// Gives a new file the blocks of `room` bytes. Reserved ones where that is possible: a file system
/// that never writes in place needs no others for the first write to them.
fn fill(file: &File, room: u64) -> Result<()> {
    let path = file.path();
    if file.caps().reserve && file.reserve(0, room).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; room as usize];
    file.write_at(&zeros, 0).at(ErrorKind::Reserve, "cannot reserve space for", path)
}

/// A text staged beside its descriptor: durable, not in force.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    tmp: PathBuf,
    target: PathBuf,
    spares: Spares,
}

/// Writes `text` beside `target`: into one of the spare files, or a new one. Its name is new, so no
/// link of somebody else is followed.
pub(crate) fn stage(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    spares: &Spares,
    target: &Path,
    text: &str,
) -> Result<Staged> {
    stage_as(dir, spares, target, &format!(".tmp.{}", new_guid(entropy)), text, None)
}

/// Writes the descriptor that is in force once more: after a failure nobody knows which one a crash
/// would bring back (F12).
pub(crate) fn again(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    spares: &Spares,
    document: &Document,
) -> Result<()> {
    let text = String::from_utf8_lossy(&document.bytes);
    stage(dir, entropy, spares, &document.path, &text)?.commit(dir)
}

/// The size in a descriptor follows the top's header: a grow ended between the two (F20).
pub(crate) fn put_size(
    dir: &dyn Dir,
    spares: &Spares,
    document: &Document,
    size: Sector,
) -> Result<()> {
    let mut parsed = ploop_format::Descriptor::clone(&document.disk);
    // Of a split disk it is the last piece that has another size.
    parsed.set_size(Sector(document.start + size.0));
    let text = parsed.to_xml().map_err(|e| {
        let text = format!("{} cannot take the size {}", document.path.display(), size.0);
        ImageError::new(ErrorKind::Descriptor, text).because(e)
    })?;
    const NAME: &str = ".tmp.size";
    // Of a repair that ended in the middle; ours alone under the locks of the disk.
    let _ = dir.unlink(&beside(&document.path, NAME));
    stage_as(dir, spares, &document.path, NAME, &text, None)?.commit(dir)
}

/// The path of a file beside the descriptor.
fn beside(target: &Path, name: &str) -> PathBuf {
    let mut path = target.as_os_str().to_owned();
    path.push(name);
    PathBuf::from(path)
}

/// `image`: what the first descriptor of a directory stands beside.
fn make(dir: &dyn Dir, path: &Path, target: &Path, image: Option<&Path>) -> Result<File> {
    let owner = owner::of_text(dir, target, image);
    let how = OpenHow { write: true, create_new: true, mode: 0o644, owner, ..OpenHow::default() };
    dir.open(path, how).at(ErrorKind::Create, "cannot create", path)
}

fn stage_as(
    dir: &dyn Dir,
    spares: &Spares,
    target: &Path,
    name: &str,
    text: &str,
    image: Option<&Path>,
) -> Result<Staged> {
    let (tmp, file) = match spares.take(target, text.len() as u64) {
        Some(spare) => (spare.path, spare.file),
        None => {
            let tmp = beside(target, name);
            let file = make(dir, &tmp, target, image)?;
            (tmp, file)
        }
    };
    let staged = Staged { tmp, target: target.to_owned(), spares: spares.clone() };
    let written =
        write_whole(&file, text).at(ErrorKind::Write, "cannot write", &staged.tmp).and_then(|()| {
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

/// The text and nothing behind it.
fn write_whole(file: &File, text: &str) -> std::io::Result<()> {
    let len = text.len() as u64;
    file.write_at(text.as_bytes(), 0)?;
    if file.len()? == len { Ok(()) } else { file.set_len(len) }
}

impl Staged {
    /// As part of the operation that has these spare files.
    pub fn with(self, spares: &Spares) -> Self {
        Self { spares: spares.clone(), ..self }
    }

    /// Puts the text in force: rename, then the directory made durable.
    pub fn commit(self, dir: &dyn Dir) -> Result<()> {
        if let Err(e) = dir.rename(&self.tmp, &self.target) {
            let text = format!("cannot rename {} to {}", self.tmp.display(), self.target.display());
            self.discard(dir);
            return Err(ImageError::new(ErrorKind::Rename, text).because(e));
        }
        let home = home_of(&self.target);
        let unsure = &self.spares.0.unsure;
        unsure.store(true, Ordering::SeqCst);
        synced(Bug::NoSyncRename, || dir.sync_dir(&home)).at(
            ErrorKind::SyncNew,
            "cannot sync",
            &home,
        )?;
        unsure.store(false, Ordering::SeqCst);
        Ok(())
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
    stage_as(dir, &Spares::default(), target, &name, text, Some(image))?.commit(dir)
}
