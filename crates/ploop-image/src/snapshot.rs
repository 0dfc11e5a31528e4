//! A snapshot of a disk that is not open: the top is frozen, a new delta goes on it.
//!
//! Order (I9): repair the old top, then make the new delta durable under its name, then put the
//! new descriptor in force with one rename. A crash before the rename leaves a file that `check`
//! lists; after it the new chain is complete.

use crate::close::finish;
use crate::create::{home_of, open_new};
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::open::pieces::{join_notes, open_all, take_notes};
use crate::open::plan::{Document, MAX_LEVELS};
use crate::open::{Disk, Note, OpenOptions, Prepared, recover, stamp};
use crate::owner;
use crate::store::{self, Spares};
use ploop_format::descriptor::Temporary;
use ploop_format::{Descriptor, DescriptorError, Guid, Header, Version, geometry};
use ploop_io::planted::{Bug, on, synced};
use ploop_io::{Dir, Entropy, Owner};
use std::path::{Path, PathBuf};

/// A snapshot that was taken.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its name: that of the image that froze.
    pub guid: Guid,
    /// The new top; of a split disk that of its first piece.
    pub image: PathBuf,
    /// What there is to say.
    pub notes: Vec<Note>,
}

/// What snapshot is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Its name; a new one if none.
    pub guid: Option<Guid>,
    /// It is to be merged away as soon as nobody has it open.
    pub temporary: bool,
    /// Made beforehand; it is taken away when the snapshot fails.
    pub ready: Option<Ready>,
}

/// What a snapshot needs, made beforehand: the new delta (of a split disk one for each piece) and
/// the new descriptor, all durable. No descriptor in force names a delta yet.
#[derive(Clone, Debug)]
pub struct Ready {
    guid: Guid,
    deltas: Deltas,
    text: String,
    staged: store::Staged,
}

/// New deltas, one for each piece.
#[derive(Clone, Debug)]
pub(crate) struct Deltas {
    /// As the descriptor names them.
    pub files: Vec<String>,
    /// Where they are.
    pub paths: Vec<PathBuf>,
}

impl Deltas {
    /// Names for them.
    pub fn named(dir: &dyn Dir, entropy: &dyn Entropy, document: &Document) -> Self {
        let files = store::delta_files(dir, entropy, document);
        let paths = files.iter().map(|file| document.home().join(file)).collect();
        Self { files, paths }
    }

    /// Makes each on the image it will lie on, durable with its name: all of them or none.
    pub fn make<'a>(
        &self,
        dir: &dyn Dir,
        descriptor: &Path,
        pieces: impl Iterator<Item = &'a Prepared>,
    ) -> Result<()> {
        for (n, (path, piece)) in self.paths.iter().zip(pieces).enumerate() {
            let made = piece.top().and_then(|top| {
                let owner = owner::of_delta(dir, &top.path, descriptor, path);
                make_delta(dir, path, &new_header(piece)?, owner)
            });
            if on(Bug::SnapshotOnePiece) {
                return made;
            }
            if let Err(error) = made {
                self.paths[..n].iter().for_each(|path| drop(dir.unlink(path)));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes them away; one that stays is listed by check and never opened.
    pub fn unlink(&self, dir: &dyn Dir) {
        self.paths.iter().for_each(|path| drop(dir.unlink(path)));
    }
}

impl Ready {
    /// Takes it away again, unless a descriptor names the delta by now.
    pub fn discard(&self, dir: &dyn Dir, target: &Path) {
        self.staged.discard(dir);
        let named = crate::layers::describe(dir, target).is_ok_and(|parsed| {
            parsed.images.iter().any(|image| image.file == self.deltas.files[0])
        });
        if !named {
            self.deltas.unlink(dir);
        }
    }
}

impl Disk {
    /// Makes the files of a snapshot while the disk is served: then requests need not wait for
    /// them (P12). Nothing else may change the layers until the snapshot is taken.
    ///
    /// # Errors
    /// It is a lone image or the name is taken (38), or a file cannot be made.
    pub fn prepare_snapshot(
        &self,
        dir: &dyn Dir,
        entropy: &dyn Entropy,
        wish: &Wish,
    ) -> Result<Ready> {
        let Some(document) = &self.prepared.document else {
            return Err(ImageError::new(ErrorKind::Param, "a snapshot needs a descriptor"));
        };
        let guid = wish.guid.unwrap_or_else(|| store::new_guid(entropy));
        let deltas = Deltas::named(dir, entropy, document);
        let text = with_snapshot(document, guid, &deltas.files, wish.temporary)?;
        deltas.make(dir, &document.path, self.pieces())?;
        match store::stage(dir, entropy, &Spares::default(), &document.path, &text) {
            Ok(staged) => Ok(Ready { guid, deltas, text, staged }),
            Err(error) => {
                deltas.unlink(dir);
                Err(error)
            }
        }
    }
}

/// The text of a descriptor that has one more snapshot.
fn with_snapshot(
    document: &Document,
    guid: Guid,
    files: &[String],
    temporary: bool,
) -> Result<String> {
    let mut parsed = Descriptor::clone(&document.disk);
    let added = parsed.in_pieces(|piece, n| {
        piece.add_snapshot(guid, &files[n])?;
        match temporary {
            true => piece.set_temporary(guid, Temporary::Yes),
            false => Ok(()),
        }
    });
    let text = added.and_then(|_| parsed.to_xml());
    text.map_err(|e| refused(&document.path, e))
}

/// Bytes of entries that a new delta has more than its device needs, at most.
const SPARE_BAT: u64 = 4 << 20;
/// Bytes of one write of the new delta.
const STEP: u64 = 1 << 20;

/// Freezes the top of a disk that nobody has open under the name `guid` (a new one if none).
///
/// # Errors
/// The disk is open (37), its chain is full or the name is taken (38), the top is damaged (11) or
/// carries change tracking that nobody allowed to drop (44), or a step failed: then the disk is as
/// it was, unless the text says that the directory could not be synced.
pub fn snapshot(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    guid: Option<Guid>,
    options: &OpenOptions,
) -> Result<Snapshot> {
    snapshot_as(dir, entropy, target, &Wish { guid, ..Wish::default() }, options)
}

/// As [`snapshot()`], as it is wanted.
///
/// # Errors
/// As [`snapshot()`].
pub fn snapshot_as(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    wish: &Wish,
    options: &OpenOptions,
) -> Result<Snapshot> {
    let taken = take(dir, entropy, target, wish, options);
    if let (Err(_), Some(ready)) = (&taken, &wish.ready) {
        ready.discard(dir, target);
    }
    taken
}

fn take(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    wish: &Wish,
    options: &OpenOptions,
) -> Result<Snapshot> {
    let ready = wish.ready.as_ref();
    let options = OpenOptions { read_only: false, ..options.clone() };
    let mut pieces = open_all(dir, target, &options, None)?;
    join_notes(&mut pieces);
    let count = pieces.len();
    let Some(prepared) = pieces.first_mut() else {
        return Err(ImageError::new(ErrorKind::Descriptor, "a disk without images"));
    };
    let Some(document) = prepared.document.clone() else {
        let text = format!("{} is a lone image: a snapshot needs a descriptor", target.display());
        return Err(
            ImageError::new(ErrorKind::Param, text).hint("make one with ploop restore-descriptor")
        );
    };
    if !prepared.writable {
        let text = format!("{} is not the top of its disk, it is frozen", target.display());
        return Err(ImageError::new(ErrorKind::Param, text).hint("name the disk, not an image"));
    }
    let levels = prepared.levels.len();
    if (levels + 1) * count > MAX_LEVELS {
        let each = if count > 1 { format!(" in each of {count} pieces") } else { String::new() };
        let text =
            format!("the chain has {levels} images{each} already, {MAX_LEVELS} is the limit");
        return Err(ImageError::new(ErrorKind::Param, text).hint("merge some snapshots first"));
    }
    if levels + 1 >= crate::open::ORIGINAL_LEVELS {
        prepared.notes.push(Note::LongChain(levels + 1));
    }
    let (guid, deltas) = match ready {
        Some(ready) => (ready.guid, ready.deltas.clone()),
        None => (
            wish.guid.unwrap_or_else(|| store::new_guid(entropy)),
            Deltas::named(dir, entropy, &document),
        ),
    };
    let text = with_snapshot(&document, guid, &deltas.files, wish.temporary)?;
    for piece in &mut pieces {
        repair(piece, &options)?;
    }
    if !on(Bug::RenameBeforeDelta) && ready.is_none() {
        deltas.make(dir, &document.path, pieces.iter())?;
    }
    let staged = match ready.filter(|ready| ready.text == text) {
        Some(ready) => Ok(ready.staged.clone().with(options.held.spares())),
        None => store::stage(dir, entropy, options.held.spares(), &document.path, &text),
    };
    let committed = staged.and_then(|staged| staged.commit(dir));
    if on(Bug::RenameBeforeDelta) && ready.is_none() {
        deltas.make(dir, &document.path, pieces.iter())?;
    }
    if let Err(error) = committed {
        // Only when the old descriptor is still in force does nothing name the new files.
        if document.unchanged(dir) && ready.is_none() {
            deltas.unlink(dir);
        }
        return Err(error);
    }
    let notes = take_notes(&mut pieces);
    let image = deltas.paths.first().cloned().unwrap_or_default();
    Ok(Snapshot { guid, image, notes })
}

fn refused(path: &Path, error: DescriptorError) -> ImageError {
    let kind = match error {
        DescriptorError::Duplicate(_) | DescriptorError::Reserved(_) => ErrorKind::Param,
        _ => ErrorKind::Descriptor,
    };
    ImageError::new(kind, format!("{} cannot take this snapshot", path.display())).because(error)
}

/// What an open and a clean close would do: mark cleared, tail and bitmap cut (F14, C6).
pub(crate) fn repair(prepared: &mut Prepared, options: &OpenOptions) -> Result<()> {
    let Some(scan) = &prepared.scan else { return Ok(()) };
    let end = scan.end(prepared.cluster);
    let mapped = scan.mapped != 0;
    let top = prepared.top()?;
    let Some(head) = &top.head else { return Ok(()) };
    let tail = top.len > prepared.closed_len(end);
    let ragged = head.header.bounds(top.len).ragged() != 0;
    if !head.dirty() && !tail && !ragged && !prepared.drop_bitmap {
        return Ok(());
    }
    stamp::stamp(prepared)?;
    finish(prepared.top()?, Some(prepared.closed_len(end)), mapped)?;
    recover::forget(prepared.top()?, options);
    Ok(())
}

/// The header of the new delta: geometry of the old top, size to the sector (QEMU's may end inside
/// a cluster), first block minimal (C9).
pub(crate) fn new_header(prepared: &Prepared) -> Result<Header> {
    let top = prepared.top()?;
    let version = top.head.as_ref().map_or(Version::V2, |head| head.version());
    let made = Header::new(version, prepared.cluster, prepared.size);
    // As many entries as the old top, though the device may need fewer: the kernel's driver wants
    // no level with more of them than the one above. Not for any number that an image claims.
    let entries = top.head.as_ref().map_or(0, |head| head.entries());
    let many = geometry::bat_bytes(entries) > SPARE_BAT + made.map_or(0, |h| h.data_start());
    let made = made.map(|header| if many { header } else { header.with_entries(entries) });
    let made = made.and_then(|header| header.with_size(prepared.size));
    made.map_err(|e| ImageError::new(ErrorKind::BadImage, "no delta can have this size").because(e))
}

/// Makes the new delta and its name durable; removes it when that fails.
pub(crate) fn make_delta(
    dir: &dyn Dir,
    path: &Path,
    header: &Header,
    owner: Option<Owner>,
) -> Result<()> {
    let file = open_new(dir, path, owner)?;
    let home = home_of(path);
    let made = write_empty(&*file, header).and_then(|()| {
        synced(Bug::NoSyncDeltaName, || dir.sync_dir(&home)).at(
            ErrorKind::SyncNew,
            "cannot sync",
            &home,
        )
    });
    if made.is_err() {
        drop(file);
        let _ = dir.unlink(path);
    }
    made
}

fn write_empty(file: &dyn ploop_io::RawFile, header: &Header) -> Result<()> {
    let path = file.path();
    let end = header.data_start();
    let mut buffer = vec![0u8; STEP.min(end) as usize];
    let bytes = header.encode();
    buffer[..bytes.len()].copy_from_slice(&bytes);
    let mut at = 0;
    while at < end {
        let len = STEP.min(end - at);
        file.write_at(&buffer[..len as usize], at).at(ErrorKind::Write, "cannot write", path)?;
        buffer[..bytes.len()].fill(0);
        at += len;
    }
    synced(Bug::NoSyncDelta, || file.sync()).at(ErrorKind::SyncNew, "cannot sync", path)
}
