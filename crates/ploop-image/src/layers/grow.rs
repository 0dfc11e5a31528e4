//! A larger device: of a disk, of a lower image before levels are merged into it, of a lone image.

use super::relocate::grow_level;
use super::target::{good, stamp as mark};
use super::{lookup, sync};
use crate::close::finish;
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::extension::{self, Extension};
use crate::gate::{self, OpenGate};
use crate::head;
use crate::locate::{self, Located};
use crate::open::pieces::{open_all, refuse_piece};
use crate::open::plan::{Document, Reach};
use crate::open::{Level, Note, OpenOptions, Prepared, recover, stamp};
use crate::store;
use ploop_format::units::PAGE;
use ploop_format::{ClusterSize, Guid, Header, Sector};
use ploop_io::planted::Bug;
use ploop_io::{Dir, OpenHow};
use std::path::{Path, PathBuf};

/// A grow that was made.
#[derive(Clone, Debug)]
pub struct Grown {
    /// The image.
    pub image: PathBuf,
    /// Its size before.
    pub before: Sector,
    /// Its size now, rounded up.
    pub size: Sector,
    /// What there is to say.
    pub notes: Vec<Note>,
}

/// Makes a disk that nobody has open, or one image of it, larger. A dirty bitmap is kept (T9).
///
/// # Errors
/// Smaller than it is, larger than the format or than the image above allows (38), in use (37),
/// damaged (11), or a step failed: then the old size is fully usable.
pub fn grow(dir: &dyn Dir, target: &Path, size: Sector, options: &OpenOptions) -> Result<Grown> {
    let reach = whom(dir, target)?;
    let drop_asked = options.drop_cbt;
    let options = OpenOptions { read_only: false, drop_cbt: true, ..options.clone() };
    // Of a split disk the last piece grows; the others are looked at, and keep their locks.
    let mut pieces = open_all(dir, target, &options, Some(&reach))?;
    let Some(mut prepared) = pieces.pop() else {
        return Err(ImageError::new(ErrorKind::Descriptor, "a disk without images"));
    };
    let start = pieces.iter().map(|piece| piece.size.0).sum::<u64>();
    let kept = kept_bitmap(&prepared, drop_asked)?;
    prepared.notes.retain(|note| !matches!(note, Note::LoneImage(_)));
    let before = Sector(start + prepared.size.0);
    if size < before {
        let text = format!("the device has {} sectors, {} is less", before.0, size.0);
        return Err(ImageError::new(ErrorKind::Param, text)
            .hint("a device never gets smaller; ploop resize shrinks the file system on it"));
    }
    let is_top = prepared.document.as_ref().is_some_and(|d| d.parsed.top == reach.tip);
    let size = Sector(size.0 - start);
    let told = Told { dir, options: &options, document: prepared.document.clone(), is_top };
    let size = match &prepared.top()?.head {
        None => {
            let size = grow_raw(&mut prepared, size)?;
            told.tell(size)?;
            size
        }
        Some(head) => {
            let new = new_header(&head.header, size)?;
            check_below(&prepared, new.size())?;
            check_above(dir, &prepared, reach.tip, &new, &*options.gate)?;
            // F20: a directory that takes no new name refuses before the image has changed.
            told.tell(new.size())?;
            if let Err(error) = grow_ploop(&mut prepared, &new, kept, &options) {
                // Else the next open does that: a descriptor follows the header.
                let _ = told.tell(prepared.size);
                return Err(error);
            }
            new.size()
        }
    };
    let image = prepared.top()?.path.clone();
    let mut notes = std::mem::take(&mut prepared.notes);
    notes.retain(|note| drop_asked || !matches!(note, Note::BitmapDropped(_)));
    Ok(Grown { image, before, size: Sector(start + size.0), notes })
}

/// Who is to know the size of the device: its descriptor, when the top grows.
struct Told<'a> {
    dir: &'a dyn Dir,
    options: &'a OpenOptions,
    document: Option<Document>,
    is_top: bool,
}

impl Told<'_> {
    fn tell(&self, size: Sector) -> Result<()> {
        let now = self.document.as_ref().filter(|_| self.is_top);
        let Some(document) = now else { return Ok(()) };
        let said = Document::read(self.dir, &document.path)?.parsed.size();
        match said == Sector(document.start + size.0) {
            true => Ok(()),
            false => store::put_size(self.dir, self.options.held.spares(), document, size),
        }
    }
}

/// The image that is meant.
fn whom(dir: &dyn Dir, target: &Path) -> Result<Reach> {
    let path = match locate::locate(dir, target)? {
        Located::Descriptor(path) => path,
        Located::Image(_) => return Ok(Reach { grows: true, ..Reach::of(Guid::NONE, Vec::new()) }),
    };
    let document = Document::read(dir, &path)?;
    refuse_piece(dir, target, &document)?;
    let asked = match locate::locate_file(dir, target)? {
        Located::Image(image) => Some(image),
        Located::Descriptor(_) => None,
    };
    let named = document.parsed.images.iter().find(|image| {
        let path = dir.canonical(&document.home().join(&image.file));
        asked.as_ref().is_some_and(|asked| path.is_ok_and(|path| path == *asked))
    });
    let tip = named.map_or(document.parsed.top, |image| image.guid);
    Ok(Reach { grows: true, ..Reach::of(tip, vec![tip]) })
}

fn new_header(old: &Header, size: Sector) -> Result<Header> {
    if size == old.size() {
        return Ok(*old);
    }
    old.grown(size).map_err(|e| {
        ImageError::new(ErrorKind::Param, "the image cannot have this size").because(e)
    })
}

/// What lies below is not larger than the image will be, and has nothing behind its old end: that
/// would show where the grown device is to read as zeros (F18).
fn check_below(prepared: &Prepared, size: Sector) -> Result<()> {
    let Some((top, below)) = prepared.levels.split_last() else { return Ok(()) };
    let Some(head) = &top.head else { return Ok(()) };
    for level in below {
        let Some(low) = level.head.as_ref().filter(|low| low.live() > head.live()) else {
            continue;
        };
        let names = || format!("{} below {}", level.path.display(), top.path.display());
        if low.size() > size {
            let text = format!("{} has {} sectors, {} are less", names(), low.size().0, size.0);
            let hint = format!("ploop grow -s {}", low.size().0);
            return Err(ImageError::new(ErrorKind::Param, text).hint(hint));
        }
        lookup::each([level], prepared.cluster, low.live(), |at, lookups| {
            let hidden = at.0 >= head.live() && lookups[0].find(at)?.is_some();
            let text = || format!("{} has cluster {at}, behind the end of the device", names());
            if hidden { Err(ImageError::new(ErrorKind::Param, text())) } else { Ok(()) }
        })?;
    }
    Ok(())
}

/// A level is never larger than the one above it.
fn check_above(
    dir: &dyn Dir,
    prepared: &Prepared,
    tip: Guid,
    new: &Header,
    gate: &dyn OpenGate,
) -> Result<()> {
    let Some(document) = &prepared.document else { return Ok(()) };
    for child in document.parsed.children(tip) {
        let Some(image) = document.parsed.image(child.guid) else { continue };
        let path = gate::pass(dir, gate, document.home(), &document.home().join(&image.file))?;
        let file = dir.open(&path, OpenHow::default()).at(ErrorKind::Open, "cannot open", &path)?;
        let above = head::Head::read(&*file, &path)?;
        let clusters = new.cluster().count(new.size().bytes());
        if clusters > above.live() {
            let text = format!(
                "{} would have {clusters} clusters, {} on it has {}",
                prepared.top()?.path.display(),
                path.display(),
                above.live()
            );
            return Err(ImageError::new(ErrorKind::Param, text).hint("grow the top first"));
        }
    }
    Ok(())
}

/// The bitmap to put back; one that cannot be kept is dropped only when asked (T9).
fn kept_bitmap(prepared: &Prepared, drop_asked: bool) -> Result<Option<extension::Kept>> {
    let top = prepared.top()?;
    let Some(head) = &top.head else { return Ok(None) };
    if drop_asked {
        return Ok(None);
    }
    if let Extension::Bad(why) = head.extension(&*top.file, &top.path)? {
        let text = format!("the extension of {} is damaged: {why}", top.path.display());
        return Err(ImageError::new(ErrorKind::BadImage, text).hint("--drop-cbt drops it"));
    }
    extension::keep(&*top.file, &top.path, &head.header)
}

/// All zeros behind the old end; rounded up as the original does.
fn grow_raw(prepared: &mut Prepared, size: Sector) -> Result<Sector> {
    let bytes = size.bytes().next_multiple_of(PAGE);
    let Some(top) = prepared.levels.last_mut() else { return Ok(size) };
    if top.len < bytes {
        top.file.set_len(bytes).at(ErrorKind::Truncate, "cannot set the length of", &top.path)?;
        top.len = bytes;
        sync(&*top.file, Bug::NoSyncRawGrown)?;
    }
    Ok(Sector(bytes >> 9))
}

fn grow_ploop(
    prepared: &mut Prepared,
    new: &Header,
    kept: Option<extension::Kept>,
    options: &OpenOptions,
) -> Result<()> {
    if new.size() == prepared.size && !prepared.top()?.head.as_ref().is_some_and(|h| h.dirty()) {
        return Ok(());
    }
    stamp::stamp(prepared)?;
    let preallocated = prepared.preallocated;
    let (Some(scan), Some(top)) = (&mut prepared.scan, prepared.levels.last_mut()) else {
        return Ok(());
    };
    grow_level(top, &mut scan.used, new)?;
    let end = scan.end(new.cluster()).max(new.data_start());
    let (empty, top) = (scan.mapped == 0, &*top);
    match kept {
        None => finish(top, (!preallocated).then_some(end), !empty)?,
        Some(kept) => finish_with(top, end, empty, kept, new)?,
    }
    recover::forget(top, options);
    Ok(())
}

/// As [`finish`], with the bitmap behind the last cluster; it counts when the mark says so (F15).
fn finish_with(
    top: &Level,
    end: u64,
    empty: bool,
    kept: extension::Kept,
    new: &Header,
) -> Result<()> {
    let path = &top.path;
    top.file.set_len(end).at(ErrorKind::Truncate, "cannot cut", path)?;
    let at = kept.put(&*top.file, new, end)?;
    sync(&*top.file, Bug::NoSyncTable)?;
    head::rewrite(&*top.file, path, |header| header.close(empty, Some(at)))?;
    sync(&*top.file, Bug::NoSyncMark)
}

/// Makes the levels from `at` up as large as the device, before they are merged. From above, so
/// that no level is ever larger than the one on it (F18).
pub(super) fn all_to_fit(prepared: &mut Prepared, at: usize) -> Result<()> {
    let (cluster, size) = (prepared.cluster, prepared.size);
    for level in prepared.levels[at..].iter_mut().rev() {
        to_fit(level, cluster, size)?;
    }
    Ok(())
}

/// A ploop image at least as large as the device.
fn to_fit(level: &mut Level, cluster: ClusterSize, size: Sector) -> Result<()> {
    let Some(head) = level.head.clone() else { return Ok(()) };
    if head.size() >= size {
        return Ok(());
    }
    let new = new_header(&head.header, size)?;
    // To the sector: the device of a foreign image may end inside a cluster.
    let new = new.with_size(size).map_err(|e| {
        let text = format!("{} cannot have this size", level.path.display());
        ImageError::new(ErrorKind::Param, text).because(e)
    })?;
    head.check_writable(&level.path)?;
    let mut scan = good(level, &head)?;
    mark(level)?;
    grow_level(level, &mut scan.used, &new)?;
    finish(level, Some(scan.end(cluster).max(new.data_start())), scan.mapped != 0)?;
    level.len = scan.end(cluster).max(new.data_start());
    Ok(())
}
