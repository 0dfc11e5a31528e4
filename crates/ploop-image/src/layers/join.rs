//! A split disk becomes a disk in one piece: each of its levels, in all pieces, one new image.
//!
//! | step | a crash behind it leaves |
//! |---|---|
//! | every level copied into a new image, durable with its name | the split disk, stray files |
//! | the descriptor names the new images as those of one piece | the disk in one piece |
//! | the old files removed | the disk in one piece |
//!
//! The old images stay what they are: stopped or failed, the disk is the split one. It takes the
//! space of a second copy of everything.

use super::lookup;
use super::merge::{self, Step};
use super::target::{self, Target};
use super::{Work, document, refused, same, sync, unlink};
use crate::create::{home_of, open_new};
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::head::Head;
use crate::held::Held;
use crate::locate::{self, Located};
use crate::open::pieces::{open_all, take_notes};
use crate::open::plan::{Document, Reach};
use crate::open::{Level, Note, OpenOptions, Prepared};
use crate::owner;
use crate::snapshot::{make_delta, repair};
use crate::store::{self, Spares};
use ploop_format::{ClusterSize, Descriptor, GuestCluster, Guid, Header, ImageRef, Sector};
use ploop_io::planted::{Bug, on, synced};
use ploop_io::{Dir, Entropy, OpenHow};
use std::path::{Path, PathBuf};

/// A disk whose pieces were joined.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The new top; the present one when the disk was in one piece already.
    pub image: PathBuf,
    /// Pieces that the disk was in.
    pub pieces: usize,
    /// Levels that were copied.
    pub levels: usize,
    /// Bytes that were copied.
    pub bytes: u64,
    /// What there is to say.
    pub notes: Vec<Note>,
}

/// Joins the pieces of a split disk that nobody has open; its snapshots stay. A disk in one piece
/// stays as it is.
///
/// # Errors
/// One of its images is in use (37), damaged (11), or may be another disk's too (38); its format
/// version cannot have an image of this size (38); stopped as asked (29); or a step failed. The
/// disk is what it was.
pub fn join(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    options: &OpenOptions,
    work: &mut Work<'_>,
) -> Result<Joined> {
    let as_it_is = |image| Joined { image, pieces: 1, levels: 0, bytes: 0, notes: Vec::new() };
    if let Located::Image(image) = locate::locate(dir, target)? {
        return Ok(as_it_is(image));
    }
    let planned = document(dir, target)?;
    let pieces = planned.disk.pieces();
    if pieces == 1 {
        let top = planned.parsed.image(planned.parsed.top);
        return Ok(as_it_is(top.map(|top| planned.home().join(&top.file)).unwrap_or_default()));
    }
    let mut tree = Tree::open(dir, target, &planned, options)?;
    let images = &planned.parsed.images;
    let files: Vec<String> = images
        .iter()
        .flat_map(|_| store::delta_files(dir, entropy, &planned).into_iter().next())
        .collect();
    let paths: Vec<PathBuf> = files.iter().map(|file| planned.home().join(file)).collect();
    let mut joining = planned.disk.in_one_piece(&files).map_err(|e| refused(&planned.path, e))?;
    joining.set_size(tree.size());
    let copied = copy_levels(dir, &planned, &tree, &paths, options, work)
        .and_then(|bytes| put(dir, entropy, &planned, &joining).map(|()| bytes));
    let bytes = match copied {
        Ok(bytes) => bytes,
        Err(error) => {
            // Only when the old descriptor is still in force does nothing name the new files.
            if planned.unchanged(dir) {
                paths.iter().for_each(|path| drop(dir.unlink(path)));
            }
            return Err(error);
        }
    };
    let at = images.iter().position(|image| image.guid == planned.parsed.top);
    let image = at.map(|at| paths[at].clone()).unwrap_or_default();
    let mut notes = tree.notes();
    drop(tree);
    let gone: Vec<ImageRef> = planned.disk.all_images().cloned().collect();
    unlink(dir, &planned, &gone, &mut notes);
    Ok(Joined { image, pieces, levels: files.len(), bytes, notes })
}

fn put(dir: &dyn Dir, entropy: &dyn Entropy, planned: &Document, new: &Descriptor) -> Result<()> {
    let text = new.to_xml().map_err(|e| refused(&planned.path, e))?;
    store::stage(dir, entropy, &Spares::default(), &planned.path, &text)?.commit(dir)
}

/// All images of a disk, locked: nobody else has one open, and none is another disk's too.
struct Tree {
    branches: Vec<Branch>,
}

/// One end of the tree: the top, or a snapshot that nothing lies on.
struct Branch {
    chain: Vec<Guid>,
    pieces: Vec<Prepared>,
}

impl Tree {
    fn open(
        dir: &dyn Dir,
        target: &Path,
        planned: &Document,
        options: &OpenOptions,
    ) -> Result<Self> {
        let parsed = &planned.parsed;
        let all: Vec<Guid> = parsed.shots.iter().map(|shot| shot.guid).collect();
        let ends = all
            .iter()
            .filter(|guid| **guid != parsed.top && parsed.children(**guid).next().is_none());
        let mut held = Held::default();
        let mut branches: Vec<Branch> = Vec::new();
        for tip in [&parsed.top].into_iter().chain(ends) {
            let chain = parsed.chain_of(*tip).map_err(|e| refused(&planned.path, e))?;
            let chain = chain.iter().map(|image| image.guid).collect();
            let reach = Reach::of(*tip, all.clone());
            let options = OpenOptions { read_only: false, held: held.clone(), ..options.clone() };
            let mut pieces = open_all(dir, target, &options, Some(&reach))?;
            for prepared in &mut pieces {
                same(planned, prepared.document.as_ref())?;
                // The top may be one that was killed (F2, F6).
                repair(prepared, &options)?;
            }
            if branches.is_empty() {
                held = Held::locked(pieces.first().and_then(|piece| piece._lck.clone()));
            }
            for level in pieces.iter().flat_map(|piece| &piece.levels) {
                if held.file(&level.path, true).is_none() {
                    held.add(level);
                }
            }
            branches.push(Branch { chain, pieces });
        }
        Ok(Self { branches })
    }

    /// Size of the device.
    fn size(&self) -> Sector {
        let top = self.branches.first();
        Sector(top.map_or(0, |top| top.pieces.iter().map(|piece| piece.size.0).sum()))
    }

    fn notes(&mut self) -> Vec<Note> {
        self.branches.first_mut().map(|top| take_notes(&mut top.pieces)).unwrap_or_default()
    }

    /// A snapshot's image in each piece, and whether nothing lies below it.
    fn level(&self, guid: Guid) -> Option<Source<'_>> {
        let (branch, at) = self.branches.iter().find_map(|branch| {
            branch.chain.iter().position(|have| *have == guid).map(|at| (branch, at))
        })?;
        let cluster = branch.pieces.first()?.cluster;
        let mut source = Source { parts: Vec::new(), cluster, base: at == 0, size: Sector(0) };
        let mut start = 0;
        for piece in &branch.pieces {
            let level = piece.levels.get(at)?;
            let size = level.size().0.min(piece.size.0);
            source.parts.push(Part { start: cluster.count(start << 9), size: Sector(size), level });
            source.size = Sector(start + size);
            start += piece.size.0;
        }
        Some(source)
    }
}

impl Level {
    /// Sectors that it has something for.
    fn size(&self) -> Sector {
        self.head.as_ref().map_or(Sector(self.len.div_ceil(512)), Head::size)
    }
}

/// One level of a disk.
struct Source<'a> {
    parts: Vec<Part<'a>>,
    cluster: ClusterSize,
    /// Nothing lies below it: what it does not have is zeros.
    base: bool,
    /// Of the image that it becomes: to the end of what the last piece has. Of the others the
    /// rest is a hole, as it was (F18).
    size: Sector,
}

/// The image of one piece.
struct Part<'a> {
    /// Its first cluster on the device.
    start: u64,
    /// Sectors of it that the piece shows.
    size: Sector,
    level: &'a Level,
}

/// Copies every level; what was made is for the caller to remove.
fn copy_levels(
    dir: &dyn Dir,
    planned: &Document,
    tree: &Tree,
    paths: &[PathBuf],
    options: &OpenOptions,
    work: &mut Work<'_>,
) -> Result<u64> {
    let no = || ImageError::new(ErrorKind::Descriptor, "a disk without images");
    let mut sources = Vec::with_capacity(paths.len());
    let mut copy = Copy { done: 0, total: 0 };
    for image in &planned.parsed.images {
        let source = tree.level(image.guid).ok_or_else(no)?;
        for part in &source.parts {
            copy.total += lookup::count(part.level, source.cluster)? * source.cluster.bytes();
        }
        sources.push(source);
    }
    for (source, path) in sources.iter().zip(paths) {
        let below = &source.parts.first().ok_or_else(no)?.level;
        let owner = owner::of_delta(dir, &below.path, &planned.path, path);
        match &below.head {
            Some(head) => {
                make_delta(dir, path, &source.header(head)?, owner)?;
                copy.fill_ploop(open_made(dir, path, options)?, source, work)?;
            }
            None => {
                drop(open_new(dir, path, owner)?);
                copy.fill_raw(&open_made(dir, path, options)?, source, work)?;
                let home = home_of(path);
                synced(Bug::NoSyncDeltaName, || dir.sync_dir(&home)).at(
                    ErrorKind::SyncNew,
                    "cannot sync",
                    &home,
                )?;
            }
        }
    }
    work.go_on(copy.done, copy.total)?;
    Ok(copy.done)
}

impl Source<'_> {
    /// Of the image that it becomes.
    fn header(&self, old: &Head) -> Result<Header> {
        let made = Header::new(old.version(), self.cluster, self.size);
        made.and_then(|header| header.with_size(self.size)).map_err(|e| {
            let text = format!("version {} cannot have one image", old.version_number());
            ImageError::new(ErrorKind::Param, text).because(e)
        })
    }
}

/// How far it is.
struct Copy {
    done: u64,
    total: u64,
}

impl Copy {
    fn fill_ploop(
        &mut self,
        mut level: Level,
        source: &Source<'_>,
        work: &mut Work<'_>,
    ) -> Result<()> {
        level.head = Some(Head::read(&*level.file, &level.path)?);
        let file = level.file.clone();
        let Some(mut target) = Target::begin(&mut level, source.cluster)? else { return Ok(()) };
        self.each_batch(source, work, |batch, work| {
            merge::copy_batch(batch, &mut target, source.cluster, &file, work)
        })?;
        target.sync_data()?;
        target::apply(std::slice::from_mut(&mut target))?;
        target.finish()
    }

    /// What it does not have reads as zeros in a new file.
    fn fill_raw(&mut self, level: &Level, source: &Source<'_>, work: &mut Work<'_>) -> Result<()> {
        let size = source.size.bytes();
        let what = "cannot set the length of";
        level.file.set_len(size).at(ErrorKind::Truncate, what, &level.path)?;
        self.each_batch(source, work, |batch, work| {
            let to = |step: &Step| {
                let at = source.cluster.guest_start(step.cluster);
                step.to(at, source.cluster.bytes().min(size - at), true, true)
            };
            let moves: Vec<_> = batch.iter().map(to).collect();
            merge::run(work, &moves, &level.file).map(drop)
        })?;
        sync(&*level.file, Bug::NoSyncMergeData)
    }

    /// What the level has, piece after piece.
    fn each_batch(
        &mut self,
        source: &Source<'_>,
        work: &mut Work<'_>,
        mut each: impl FnMut(&[Step], &mut Work<'_>) -> Result<()>,
    ) -> Result<()> {
        let limit = merge::batch_limit(source.cluster);
        for (n, part) in source.parts.iter().enumerate() {
            let clusters = source.cluster.count(part.size.bytes());
            let mut batch = Vec::with_capacity(limit);
            lookup::each([part.level], source.cluster, clusters, |at, lookups| {
                if let Some(found) = lookups[0].find(at)? {
                    let from = part.level.file.clone();
                    let cluster = GuestCluster(part.start + at.0);
                    batch.push(Step { cluster, from, found, below: !source.base });
                }
                let last = at.0 + 1 == clusters;
                if batch.is_empty() || batch.len() < limit && !last {
                    return Ok(());
                }
                work.go_on(self.done, self.total)?;
                each(&batch, work)?;
                self.done += batch.len() as u64 * source.cluster.bytes();
                batch.clear();
                Ok(())
            })?;
            if on(Bug::JoinFirstPiece) && n == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// A new image; no descriptor names it yet.
fn open_made(dir: &dyn Dir, path: &Path, options: &OpenOptions) -> Result<Level> {
    let how = OpenHow { write: true, direct: options.direct, ..OpenHow::default() };
    let file = dir.open(path, how).at(ErrorKind::Open, "cannot open", path)?;
    let len = file.len().at(ErrorKind::Stat, "cannot stat", path)?;
    Ok(Level { path: path.to_owned(), file, head: None, len, write: true, own: true })
}
