//! Levels merged into the one below them, each cluster once: the highest level's copy.
//!
//! | step | a crash behind it leaves |
//! |---|---|
//! | every copy written to clusters that no entry of the target names, synced | the old chain |
//! | target and inner snapshots marked `Temporary` | the old chain |
//! | the target's BAT written, synced, mark cleared | the old chain: upper levels say the same |
//! | the descriptor without the merged levels | the new chain, files nobody names |
//! | the files removed | the new chain |
//!
//! A raw target has no BAT: its clusters are overwritten, so it is marked before the first of them,
//! and stays marked when the merge stops; the next merge does it again from the start.

use super::lookup::{self, AHEAD, Found, Lookup};
use super::target::{self, Target};
use super::{Move, Work, document, grow, must_be_own, refused, same, sync, unlink};
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::open::pieces::{open_all, take_notes};
use crate::open::plan::{Document, Reach};
use crate::open::{Level, Note, OpenOptions};
use crate::snapshot::repair;
use crate::store::{self, Spares};
use ploop_format::descriptor::Temporary;
use ploop_format::units::{HEADER_WORDS, PAGE_WORDS};
use ploop_format::{BatPage, ClusterSize, Descriptor, GuestCluster, Guid, ImageRef, Sector};
use ploop_io::planted::{Bug, on};
use ploop_io::{Dir, Entropy, File};
use std::path::{Path, PathBuf};

/// Moves handed over at a time: what a stop waits for, in clusters and in bytes.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 8 << 20;

/// Which levels to merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The top into its parent.
    Top,
    /// This one into its parent.
    One(Guid),
    /// All into the base.
    All,
    /// All below the top into the base.
    Frozen,
}

/// A merge that was made.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The image that took everything in.
    pub image: PathBuf,
    /// Levels that are gone.
    pub levels: usize,
    /// Bytes that were copied.
    pub bytes: u64,
    /// What there is to say.
    pub notes: Vec<Note>,
}

/// What will be merged into what.
pub(super) struct Plan {
    /// From the lowest merged level up.
    pub sources: Vec<Guid>,
    pub target: Guid,
    pub tip: Guid,
}

impl Plan {
    pub fn make(document: &Document, which: Which) -> Result<Self> {
        let parsed = &document.parsed;
        let no = |error| refused(&document.path, error);
        let tip = match which {
            Which::Top | Which::All => parsed.top,
            Which::Frozen => parsed.shot(parsed.top).map_or(Guid::NONE, |top| top.parent),
            Which::One(guid) => guid,
        };
        let chain = parsed.chain_of(tip).map_err(no)?;
        let first = match which {
            Which::All | Which::Frozen => 0,
            Which::Top | Which::One(_) => chain.len().saturating_sub(2),
        };
        if chain.len() < 2 {
            let text =
                format!("{} has nothing below {tip} to merge it into", document.path.display());
            return Err(ImageError::new(ErrorKind::Param, text));
        }
        let sources: Vec<Guid> = chain[first + 1..].iter().map(|image| image.guid).collect();
        let plan = Self { sources, target: chain[first].guid, tip };
        plan.after(parsed).map_err(no)?;
        Ok(plan)
    }

    /// The descriptor when it is done, and the images that are gone.
    pub fn after(
        &self,
        parsed: &Descriptor,
    ) -> Result<(Descriptor, Vec<ImageRef>), ploop_format::DescriptorError> {
        let mut parsed = parsed.clone();
        let mut gone = Vec::new();
        for guid in &self.sources {
            gone.extend(parsed.in_pieces(|piece, _| piece.merge_into_parent(*guid))?);
        }
        Ok((parsed, gone))
    }

    /// The descriptor while the target shows neither what it was nor what it will be. The inner
    /// snapshots lose their meaning with the target.
    pub fn marked(&self, parsed: &Descriptor) -> Result<Descriptor, ploop_format::DescriptorError> {
        let mut parsed = parsed.clone();
        let inner = self.sources.iter().filter(|guid| **guid != self.tip);
        for guid in inner.chain([&self.target]) {
            parsed.set_temporary(*guid, Temporary::Yes)?;
        }
        Ok(parsed)
    }

    /// The target and what goes into it, from below.
    pub fn chain(&self) -> Vec<Guid> {
        [self.target].into_iter().chain(self.sources.iter().copied()).collect()
    }

    /// All are written or go, so nobody else may have one open.
    pub fn reach(&self) -> Reach {
        let write = self.sources.iter().chain([&self.target]).copied().collect();
        Reach::of(self.tip, write)
    }
}

/// Merges levels of a disk that nobody has open.
///
/// # Errors
/// Nothing to merge, or other snapshots lie on what would change (38), no such snapshot (43), in
/// use (37), damaged (11), stopped as asked (29), or a step failed. The disk holds what it held.
pub fn merge(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    which: Which,
    options: &OpenOptions,
    work: &mut Work<'_>,
) -> Result<Merged> {
    let planned = document(dir, target)?;
    let plan = Plan::make(&planned, which)?;
    let options = OpenOptions { read_only: false, ..options.clone() };
    let reach = plan.reach();
    let mut pieces = open_all(dir, target, &options, Some(&reach))?;
    let mut sum = 0;
    for prepared in &mut pieces {
        same(&planned, prepared.document.as_ref())?;
        // The last one may be a top that was killed (F2, F6).
        repair(prepared, &options)?;
        let at = prepared.levels.len() - plan.sources.len() - 1;
        grow::all_to_fit(prepared, at)?;
        for source in &prepared.levels[at + 1..] {
            sum += lookup::count(source, prepared.cluster)?;
        }
    }
    let size = Sector(pieces.iter().map(|prepared| prepared.size.0).sum());
    let mut parts = Vec::with_capacity(pieces.len());
    for prepared in &mut pieces {
        let (cluster, size) = (prepared.cluster, prepared.size.bytes());
        let at = prepared.levels.len() - plan.sources.len() - 1;
        let (low, sources) = prepared.levels.split_at_mut(at + 1);
        let Some((level, below)) = low.split_last_mut() else {
            return Err(ImageError::new(ErrorKind::Descriptor, "a disk without images"));
        };
        let total = sum * cluster.bytes();
        parts.push((Job { cluster, below, sources, total, done: 0, size }, level));
    }
    let store = Store::new(dir, entropy, &options, &planned);
    let store = if plan.tip == planned.parsed.top { store.sized(size) } else { store };
    let image = parts.first().map(|(_, level)| level.path.clone()).unwrap_or_default();
    let bytes = match parts.iter().all(|(_, level)| level.head.is_some()) {
        true => into_ploop(&mut parts, &plan, &store, work)?,
        false => into_raw(&mut parts, &plan, &store, work)?,
    };
    let mut notes = take_notes(&mut pieces);
    let (_, gone) = plan.after(&planned.parsed).map_err(|e| refused(&planned.path, e))?;
    drop(pieces);
    unlink(dir, &planned, &gone, &mut notes);
    Ok(Merged { image, levels: plan.sources.len(), bytes, notes })
}

/// Whether a merge would change only files that are the disk's own, or all if the options say so.
///
/// # Errors
/// It would change another: which, and why it is taken for another's. Or as [`merge`].
pub fn may_merge(dir: &dyn Dir, target: &Path, which: Which, options: &OpenOptions) -> Result<()> {
    let planned = document(dir, target)?;
    let plan = Plan::make(&planned, which)?;
    for guid in plan.chain() {
        must_be_own(dir, &planned, guid, options)?;
    }
    Ok(())
}

/// Makes an image as large as the frozen ones that go into it, while a device that shows them
/// pauses: [`merge`] can then go on beside the device, for it moves nothing that is read.
///
/// # Errors
/// As [`merge`].
pub fn fit(dir: &dyn Dir, target: &Path, which: Which, options: &OpenOptions) -> Result<()> {
    let planned = document(dir, target)?;
    let plan = Plan::make(&planned, which)?;
    let options = OpenOptions { read_only: false, ..options.clone() };
    for mut prepared in open_all(dir, target, &options, Some(&plan.reach()))? {
        same(&planned, prepared.document.as_ref())?;
        let at = prepared.levels.len() - plan.sources.len() - 1;
        grow::all_to_fit(&mut prepared, at)?;
    }
    Ok(())
}

/// Merges what waits for it: snapshots marked `Temporary` with one child, from a merge that was
/// interrupted or a snapshot that could not go at once. Leaves alone what somebody has open.
///
/// # Errors
/// As [`merge`].
pub fn merge_leftovers(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    target: &Path,
    options: &OpenOptions,
    work: &mut Work<'_>,
) -> Result<Vec<Merged>> {
    let mut done = Vec::new();
    let mut skipped = Vec::new();
    loop {
        let parsed = document(dir, target)?.parsed;
        let waits = parsed.shots.iter().filter(|shot| shot.temporary != Temporary::No);
        let next = waits.filter(|shot| !skipped.contains(&shot.guid)).find_map(|shot| {
            let mut children = parsed.children(shot.guid);
            let child = children.next()?.guid;
            children.next().is_none().then_some((shot.guid, child))
        });
        let Some((parent, child)) = next else { return Ok(done) };
        match merge(dir, entropy, target, Which::One(child), options, work) {
            Ok(merged) => done.push(merged),
            Err(error) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::Shared) => {
                skipped.push(parent);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Puts descriptors in force.
pub(super) struct Store<'a> {
    pub dir: &'a dyn Dir,
    pub entropy: &'a dyn Entropy,
    pub spares: &'a Spares,
    pub document: &'a Document,
    /// Of the device, by its top.
    size: Option<Sector>,
}

impl<'a> Store<'a> {
    pub fn new(
        dir: &'a dyn Dir,
        entropy: &'a dyn Entropy,
        options: &'a OpenOptions,
        document: &'a Document,
    ) -> Self {
        Self { dir, entropy, spares: options.held.spares(), document, size: None }
    }

    /// The top goes: a raw image under it knows no size, and that of the descriptor may be an older
    /// one (F20).
    pub fn sized(self, size: Sector) -> Self {
        Self { size: Some(size), ..self }
    }

    pub fn put(&self, new: Result<Descriptor, ploop_format::DescriptorError>) -> Result<()> {
        let path = &self.document.path;
        let sized = |mut new: Descriptor| {
            if let Some(size) = self.size.filter(|size| new.size() != *size) {
                new.set_size(size);
            }
            new.to_xml()
        };
        let text = new.and_then(sized).map_err(|e| refused(path, e))?;
        store::stage(self.dir, self.entropy, self.spares, path, &text)?.commit(self.dir)
    }
}

/// What is copied.
struct Job<'a> {
    cluster: ClusterSize,
    below: &'a [Level],
    /// From the lowest up.
    sources: &'a [Level],
    total: u64,
    done: u64,
    /// Bytes of the device.
    size: u64,
}

/// The copies of all pieces are there before a BAT of one of them is written, and all BATs before
/// the descriptor: whatever stops it, every piece can be what it was.
fn into_ploop(
    parts: &mut [(Job<'_>, &mut Level)],
    plan: &Plan,
    store: &Store<'_>,
    work: &mut Work<'_>,
) -> Result<u64> {
    let parsed = &store.document.parsed;
    let mut targets = Vec::with_capacity(parts.len());
    let copied = copy_pieces(parts, &mut targets, work);
    let marked = copied.and_then(|bytes| store.put(plan.marked(parsed)).map(|()| bytes));
    let bytes = match marked {
        Ok(bytes) => bytes,
        Err(error) => {
            let undone = target::each(&mut targets, Target::cancel);
            return Err(stopped(undone.and_then(|()| unmark(store)), error));
        }
    };
    if let Err(error) = target::apply(&mut targets) {
        let undone = target::each(&mut targets, Target::undo);
        return Err(stopped(undone.and_then(|()| unmark(store)), error));
    }
    target::each(&mut targets, Target::finish)?;
    store.put(plan.after(parsed).map(|(after, _)| after))?;
    Ok(bytes)
}

/// Copies in every piece; the targets that were begun are told also when it stops.
fn copy_pieces<'a>(
    parts: &'a mut [(Job<'_>, &mut Level)],
    targets: &mut Vec<Target<'a>>,
    work: &mut Work<'_>,
) -> Result<u64> {
    let mut done = 0;
    for (job, level) in parts {
        let Some(target) = Target::begin(level, job.cluster)? else { continue };
        targets.push(target);
        let Some(target) = targets.last_mut() else { continue };
        job.done = done;
        job.copy_into(target, work)?;
        target.sync_data()?;
        done = job.done;
    }
    Ok(done)
}

/// The first error, with what could not be taken back.
pub(super) fn stopped(undone: Result<()>, error: ImageError) -> ImageError {
    match undone {
        Ok(()) => error,
        Err(undo) => {
            let text = format!("{error}; and it could not be taken back: {undo}");
            ImageError::new(error.kind(), text).hint("ploop snapshot-merge does it again")
        }
    }
}

/// The descriptor as it was, when it is not in force.
pub(super) fn unmark(store: &Store<'_>) -> Result<()> {
    match store.document.unchanged(store.dir) {
        true => Ok(()),
        false => store.put(Ok(store.document.parsed.clone())),
    }
}

fn into_raw(
    parts: &mut [(Job<'_>, &mut Level)],
    plan: &Plan,
    store: &Store<'_>,
    work: &mut Work<'_>,
) -> Result<u64> {
    let parsed = &store.document.parsed;
    for (job, level) in &mut *parts {
        let path = &level.path;
        sync(&*level.file, Bug::NoSyncMergeBegin)?;
        if level.len < job.size {
            let longer = level.file.set_len(job.size);
            longer.at(ErrorKind::Truncate, "cannot set the length of", path)?;
            level.len = job.size;
        }
    }
    store.put(plan.marked(parsed))?;
    let mut done = 0;
    for (job, level) in parts {
        job.done = done;
        job.copy_over(&level.file, work).map_err(|error| {
            error.hint("the levels above still hold everything; ploop snapshot-merge does it again")
        })?;
        sync(&*level.file, Bug::NoSyncMergeData)?;
        done = job.done;
    }
    store.put(plan.after(parsed).map(|(after, _)| after))?;
    Ok(done)
}

/// Moves handed over at a time.
pub(super) fn batch_limit(cluster: ClusterSize) -> usize {
    (BATCH_BYTES / cluster.bytes()).clamp(1, BATCH as u64) as usize
}

/// Copies to clusters of the target's `file` that no entry names.
pub(super) fn copy_batch(
    batch: &[Step],
    target: &mut Target<'_>,
    cluster: ClusterSize,
    file: &File,
    work: &Work<'_>,
) -> Result<()> {
    let mut places = Vec::with_capacity(batch.len());
    let mut moves = Vec::with_capacity(batch.len());
    for step in batch {
        let (place, fresh) = target.place();
        places.push(place);
        // What is not mapped reads as zeros, unless a lower level has it.
        let skip_zero = !step.below || on(Bug::MergeDropsZeros);
        moves.push(step.to(cluster.file_start(place), cluster.bytes(), fresh, skip_zero));
    }
    target.extend()?;
    let zeros = run(work, &moves, file)?;
    for ((step, place), zero) in batch.iter().zip(places).zip(zeros) {
        if zero {
            target.give_back(place);
        }
        target.set(step.cluster, (!zero).then_some(place))?;
    }
    Ok(())
}

/// A cluster to take from one of the sources.
pub(super) struct Step {
    pub cluster: GuestCluster,
    pub from: File,
    pub found: Found,
    /// A level below the target has it too.
    pub below: bool,
}

impl Job<'_> {
    /// Copies to clusters that no entry names.
    fn copy_into(&mut self, target: &mut Target<'_>, work: &mut Work<'_>) -> Result<()> {
        let file = target.level.file.clone();
        self.each_batch(work, |job, batch, work| {
            copy_batch(batch, target, job.cluster, &file, work)
        })
    }

    /// Copies over what is there.
    fn copy_over(&mut self, file: &File, work: &mut Work<'_>) -> Result<()> {
        self.each_batch(work, |job, batch, work| {
            let moves: Vec<Move> = batch
                .iter()
                .map(|step| {
                    let at = job.cluster.guest_start(step.cluster);
                    step.to(at, job.cluster.bytes().min(job.size - at), false, false)
                })
                .collect();
            run(work, &moves, file).map(drop)
        })
    }

    fn each_batch(
        &mut self,
        work: &mut Work<'_>,
        mut each: impl FnMut(&Self, &[Step], &mut Work<'_>) -> Result<()>,
    ) -> Result<()> {
        let clusters = self.cluster.count(self.size);
        let pages = GuestCluster(clusters.saturating_sub(1)).slot().page.0 + 1;
        let limit = batch_limit(self.cluster);
        for first in (0..pages).step_by(AHEAD as usize) {
            for batch in self.steps(first, clusters)?.chunks(limit) {
                work.go_on(self.done, self.total)?;
                each(self, batch, work)?;
                self.done += batch.len() as u64 * self.cluster.bytes();
            }
        }
        work.go_on(self.done, self.total)
    }

    /// What the pages `first..` hold of the sources, in the order of the device.
    fn steps(&self, first: u64, clusters: u64) -> Result<Vec<Step>> {
        let mut lookups = Vec::with_capacity(self.sources.len() + self.below.len());
        // The highest first, the target's own place left out.
        for level in self.sources.iter().rev().chain(self.below.iter().rev()) {
            let mut lookup = Lookup::new(level, self.cluster);
            lookup.load(first)?;
            lookups.push(lookup);
        }
        let (sources, below) = lookups.split_at_mut(self.sources.len());
        if on(Bug::MergeLowest) {
            sources.reverse();
        }
        let begin = BatPage(first).cluster(0).unwrap_or_default();
        let end = ((first + AHEAD) * PAGE_WORDS - HEADER_WORDS).min(clusters);
        let mut steps = Vec::new();
        for cluster in (begin.0..end).map(GuestCluster) {
            for lookup in &*sources {
                let Some(found) = lookup.find(cluster)? else { continue };
                let from = lookup.level().file.clone();
                let mut low = false;
                for lookup in &*below {
                    low = low || lookup.find(cluster)?.is_some();
                }
                steps.push(Step { cluster, from, found, below: low });
                break;
            }
        }
        Ok(steps)
    }
}

impl Step {
    pub fn to(&self, to_at: u64, len: u64, fresh: bool, skip_zero: bool) -> Move {
        Move {
            from: self.from.clone(),
            from_at: self.found.at,
            from_len: self.found.len,
            to_at,
            len,
            fresh,
            skip_zero,
            thin: true,
        }
    }
}

pub(super) fn run(work: &Work<'_>, moves: &[Move], to: &File) -> Result<Vec<bool>> {
    work.copier.run(moves, to).at(ErrorKind::Write, "cannot copy into", to.path())
}
