//! The levels of a disk: headers read, checked one by one and against the top.

use super::attempt::{self, Locked, Opened};
use super::plan::{ORIGINAL_LEVELS, Reach};
use super::{Note, OpenOptions, recover, settle};
use crate::create::home_of;
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::head::Head;
use crate::scan::{self, Scan, Table, scan};
use crate::store::{self, Spares};
use ploop_format::descriptor::Temporary;
use ploop_format::{BadEntry, ClusterSize, GuestCluster, InUse, Sector};
use ploop_io::planted::{Bug, on, synced};
use ploop_io::{Dir, File, Ident};
use std::io;
use std::path::{Path, PathBuf};

/// How many bad entries an error lists.
const LISTED: usize = 4;

/// One image of an open chain.
#[derive(Debug)]
pub(crate) struct Level {
    pub path: PathBuf,
    /// Carries the lock (F7).
    pub file: File,
    /// None for a raw base.
    pub head: Option<Head>,
    /// Length of the file (F18).
    pub len: u64,
    /// It is open for writing.
    pub write: bool,
    /// It may be changed: the disk's own, or the caller says so.
    pub own: bool,
}

/// A disk that is open, locked and checked, but not marked.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub descriptor: Option<PathBuf>,
    pub document: Option<super::plan::Document>,
    pub levels: Vec<Level>,
    pub writable: bool,
    /// The last level is not the disk's top: an operation on a part of the tree.
    pub below_top: bool,
    pub cluster: ClusterSize,
    pub size: Sector,
    pub preallocated: bool,
    pub notes: Vec<Note>,
    pub ident: Ident,
    /// Writable ploop top only.
    pub scan: Option<Scan>,
    /// What a killed server left for the BAT; written before the mark (F2).
    pub changes: Vec<(GuestCluster, u32)>,
    /// Read-only ploop top: clusters that share their place with another (T5).
    pub refused: Vec<GuestCluster>,
    /// Left by the program that closed the top; stays when the top stays what it is.
    pub stamp: Option<InUse>,
    /// Bytes of change tracking to cut once the header no longer names it.
    pub drop_bitmap: bool,
    /// Keeps the `.lck` file of the original tools locked.
    pub _lck: Option<File>,
}

/// I9, F12: a process that was killed between the rename of a descriptor and the sync of its
/// directory has left one in force that a crash would take back, with all that is written to its
/// images from now on. Nothing tells that from a sure one, so each writable open syncs the
/// directory. In a pause the descriptor is sure: the open of the device, or the operation, did it.
fn in_force(dir: &dyn Dir, locked: &Locked, options: &OpenOptions) -> Result<()> {
    let Some(document) = locked.plan.document.as_ref() else { return Ok(()) };
    if !locked.writable || !options.held.is_empty() {
        return Ok(());
    }
    let home = home_of(&document.path);
    match synced(Bug::NoSyncInForce, || dir.sync_dir(&home)) {
        // Who may not look into a directory has made no descriptor there either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done.at(ErrorKind::Sync, "cannot sync", &home),
    }
}

impl Prepared {
    /// Locks, reads and checks one piece, all of most disks, or a part of its tree; writes nothing.
    pub fn open_reach(
        dir: &dyn Dir,
        target: &Path,
        options: &OpenOptions,
        reach: Option<&Reach>,
    ) -> Result<Self> {
        let prepared = Self::open_once(dir, target, options, reach)?;
        // The whole chain was accepted: only now is anything below the top written (C6).
        let marked = settle::marked(&prepared, options);
        if marked.is_empty() {
            return Ok(prepared);
        }
        drop(prepared);
        for (level, path) in &marked {
            settle::settle(dir, path, *level == 0, options)?;
        }
        Self::open_once(dir, target, options, reach)
    }

    fn open_once(
        dir: &dyn Dir,
        target: &Path,
        options: &OpenOptions,
        reach: Option<&Reach>,
    ) -> Result<Self> {
        let mut locked = attempt::lock_all(dir, target, options, reach)?;
        in_force(dir, &locked, options)?;
        for (opened, member) in locked.files.iter().zip(&locked.plan.members) {
            if locked.writable && (member.write || member.written && !on(Bug::BaseUnsynced)) {
                // F6: what a former process wrote may be in the page cache only.
                synced(Bug::NoSyncOpen, || opened.file.sync()).at(
                    ErrorKind::Sync,
                    "cannot sync",
                    &opened.path,
                )?;
            }
        }
        let levels = read_levels(&mut locked, options)?;
        let grows = reach.is_some_and(|reach| reach.grows);
        check_chain(&levels, grows, &mut locked.notes)?;
        let mut prepared = Self::assemble(locked, levels)?;
        prepared.check_writable(options)?;
        Ok(prepared)
    }

    fn assemble(locked: Locked, levels: Vec<Level>) -> Result<Self> {
        let Locked { plan, files, writable, lck, mut notes } = locked;
        let descriptor = plan.document.as_ref().map(|d| d.path.clone());
        let parsed = plan.document.as_ref().map(|d| &d.parsed);
        let Some((ident, top)) = files.last().map(|f| f.ident).zip(levels.last()) else {
            return Err(ImageError::new(ErrorKind::Descriptor, "a disk without images"));
        };
        let said = parsed.map_or(0, |d| d.size_sectors);
        let claimed = parsed.map(|d| d.cluster);
        let (cluster, size) = match (&top.head, claimed) {
            (Some(head), _) => (head.cluster(), head.size()),
            (None, Some(cluster)) if said == 0 => (cluster, Sector(top.len >> 9)),
            (None, Some(cluster)) => (cluster, Sector(said)),
            (None, None) => {
                let text = format!("{} is raw and has no descriptor", top.path.display());
                return Err(ImageError::new(ErrorKind::BadImage, text));
            }
        };
        if let Some(claimed) = claimed.filter(|claimed| *claimed != cluster) {
            let text = format!(
                "the descriptor says clusters of {} sectors, {} has {}",
                claimed.sectors(),
                top.path.display(),
                cluster.sectors()
            );
            return Err(ImageError::new(ErrorKind::BadImage, text));
        }
        if said != 0 && said != size.0 {
            notes.push(Note::SizeDiffers { descriptor: said, header: size.0 });
        }
        if top.head.is_none() && top.len < size.bytes() {
            let (path, len) = (top.path.clone(), top.len);
            notes.push(Note::ShortRaw { path, len, size: size.bytes() });
        }
        // The word is about the first image; deltas on it grow as they are written (C8).
        let preallocated = levels.len() == 1 && parsed.is_some_and(|d| d.preallocated);
        let last = plan.members.last().map(|member| member.guid);
        let below_top = parsed.is_some_and(|parsed| Some(parsed.top) != last);
        let document = plan.document;
        Ok(Self {
            descriptor,
            document,
            levels,
            writable,
            below_top,
            cluster,
            size,
            preallocated,
            notes,
            ident,
            scan: None,
            changes: Vec::new(),
            refused: Vec::new(),
            stamp: None,
            drop_bitmap: false,
            _lck: lck,
        })
    }

    /// Logical and physical block that the descriptor names; 0: it does not say (T14).
    pub fn sector_sizes(&self) -> (u32, u32) {
        let parsed = self.document.as_ref().map(|document| &document.parsed);
        // Checked when it was read.
        let logical = parsed.and_then(|parsed| parsed.logical_sector().ok()).unwrap_or(512);
        (logical, parsed.and_then(|parsed| parsed.physical_sector()).unwrap_or(0))
    }

    /// Everything that a change of the top needs to be true (T5, T9).
    fn check_writable(&mut self, options: &OpenOptions) -> Result<()> {
        let Some(top) = self.levels.last() else { return Ok(()) };
        let Some(head) = &top.head else { return Ok(()) };
        if head.dirty() {
            self.notes.push(Note::Crashed(top.path.clone()));
        }
        self.changes = recover::look(top, head, options, &mut self.notes)?;
        if !self.writable {
            let path = top.path.clone();
            self.refused = scan::shared(&*top.file, &head.table(top.len)).at(
                ErrorKind::Read,
                "cannot read the BAT of",
                &path,
            )?;
            self.refused.retain(|cluster| cluster.0 < head.live());
            if !self.refused.is_empty() {
                self.notes.push(Note::Shared { path, clusters: self.refused.len() });
            }
            return Ok(());
        }
        head.check_writable(&top.path)?;
        self.drop_bitmap = head.check_extension(&*top.file, &top.path, options.drop_cbt)?;
        let table = head.table(top.len);
        if table.bounds.ragged() != 0 {
            self.notes.push(Note::Ragged { path: top.path.clone(), bytes: table.bounds.ragged() });
        }
        self.scan = Some(scan_top(top, &table, &self.changes)?);
        self.look_below()
    }

    /// Whether the level under the top can be written in place: no two clusters share a place in
    /// it. It was the top, but another tool may have turned the chain.
    fn look_below(&mut self) -> Result<()> {
        let Some((level, head)) = self.below().and_then(|l| l.head.as_ref().map(|h| (l, h))) else {
            return Ok(());
        };
        let found = scan(&*level.file, &head.table(level.len), &[], &mut |_| {});
        let bad = found.at(ErrorKind::Read, "cannot read the BAT of", &level.path)?.bad;
        let good = bad == 0 && level.own && head.check_writable(&level.path).is_ok();
        let below = self.levels.len() - 2;
        self.levels[below].write = good;
        Ok(())
    }

    /// A descriptor whose size a grow did not reach follows the header (F20). What cannot be
    /// written now is said by `check`, and changes nothing.
    pub fn repair_size(&self, dir: &dyn Dir, spares: &Spares) {
        let Some(document) = self.document.as_ref() else { return };
        let ploop = self.levels.last().is_some_and(|top| top.head.is_some());
        let said = document.parsed.size();
        if ploop && said != Sector(0) && said != self.size {
            let _ = store::put_size(dir, spares, document, self.size);
        }
    }

    /// Levels right under the top that it takes in ([`crate::layers::turn`]).
    pub fn waiting(&self) -> usize {
        let Some(parsed) = self.document.as_ref().map(|d| &d.parsed) else { return 0 };
        if !self.writable {
            return 0;
        }
        parsed.turned().map_or(0, |turned| turned.len()).min(self.levels.len() - 1)
    }

    /// The level under the top that was the top before a merge turned the chain, or the raw base
    /// that the top goes into: writes change it in place.
    pub fn below(&self) -> Option<&Level> {
        let below = self.levels.len().checked_sub(2)?;
        let merges = self.waiting() > 0 || self.goes_down();
        self.levels.get(below).filter(|level| level.write && merges)
    }

    /// The top goes into a raw base, which was opened for it ([`crate::layers::lower`]).
    fn goes_down(&self) -> bool {
        let [base, _] = &self.levels[..] else { return false };
        let parsed = self.document.as_ref().map(|document| &document.parsed);
        let chain = parsed.and_then(|parsed| Some((parsed, parsed.chain().ok()?)));
        let shot = chain.and_then(|(parsed, chain)| parsed.shot(chain.first()?.guid));
        let marked = shot.is_some_and(|shot| shot.temporary == Temporary::Yes);
        self.writable && base.write && base.head.is_none() && marked
    }

    /// The length of the top when it is closed and its last cluster ends at `end`. A preallocated
    /// image keeps what it had: space that no entry names yet is what it was made for. What lies
    /// behind a full table goes.
    pub fn closed_len(&self, end: u64) -> u64 {
        let (Some(scan), Some(top)) = (&self.scan, self.levels.last()) else { return end };
        let full = top.head.as_ref().is_some_and(|head| scan.mapped >= head.entries());
        match (self.preallocated, full) {
            (false, _) => end,
            (true, false) => end.max(top.len),
            (true, true) => end.max(scan.end(self.cluster)),
        }
    }

    /// The top.
    pub fn top(&self) -> Result<&Level> {
        self.levels
            .last()
            .ok_or_else(|| ImageError::new(ErrorKind::Descriptor, "a disk without images"))
    }
}

fn scan_top(top: &Level, table: &Table, changes: &[(GuestCluster, u32)]) -> Result<Scan> {
    let mut first: Vec<BadEntry> = Vec::new();
    let scan = scan(&*top.file, table, changes, &mut |bad| {
        if first.len() < LISTED {
            first.push(bad);
        }
    })
    .at(ErrorKind::Read, "cannot read the BAT of", &top.path)?;
    if scan.bad == 0 {
        return Ok(scan);
    }
    let list: Vec<String> = first.iter().map(BadEntry::to_string).collect();
    if !changes.is_empty() {
        let why = format!("with its {} changes, {}", changes.len(), list.join("; "));
        return Err(recover::unfit(top, &why));
    }
    let text =
        format!("{} has {} bad BAT entries: {}", top.path.display(), scan.bad, list.join("; "));
    Err(ImageError::new(ErrorKind::BadImage, text)
        .hint("ploop check -f -c shows all; --ro opens it, the clusters in question give EIO"))
}

fn read_levels(locked: &mut Locked, options: &OpenOptions) -> Result<Vec<Level>> {
    let mut levels = Vec::with_capacity(locked.files.len());
    for (n, opened) in locked.files.iter_mut().enumerate() {
        let member = &locked.plan.members[n];
        let write = locked.writable && member.write;
        let own = options.change_shared || member.shared.is_none();
        let head = opened.head(&options.held)?;
        let Opened { path, file, .. } = opened;
        let len = file.len().at(ErrorKind::Stat, "cannot stat", path)?;
        if options.direct && !file.caps().direct {
            locked.notes.push(Note::Buffered(path.clone()));
        }
        let (path, file) = (path.clone(), file.clone());
        levels.push(Level { path, file, head, len, write, own });
    }
    // Said once: the files of a disk share a file system nearly always.
    let mut said = false;
    locked.notes.retain(|note| {
        let first = !matches!(note, Note::Buffered(_)) || !said;
        said |= matches!(note, Note::Buffered(_));
        first
    });
    Ok(levels)
}

fn check_chain(levels: &[Level], grows: bool, notes: &mut Vec<Note>) -> Result<()> {
    if levels.len() >= ORIGINAL_LEVELS {
        notes.push(Note::LongChain(levels.len()));
    }
    for (index, level) in levels.iter().enumerate() {
        let Some(head) = &level.head else { continue };
        head.check_conversion(&level.path)?;
        if level.len < head.data_start() {
            let text = format!(
                "{} has {} bytes, header and BAT take {}",
                level.path.display(),
                level.len,
                head.data_start()
            );
            return Err(ImageError::new(ErrorKind::BadImage, text));
        }
        let lower = index + 1 < levels.len();
        if !head.header.has_first_block() {
            notes.push(Note::NoFirstBlock(level.path.clone()));
        }
        if lower && head.dirty() {
            notes.push(Note::DirtyLower(level.path.clone()));
        }
    }
    for (lower, pair) in levels.windows(2).enumerate() {
        // One that is to become larger may be too small for what is below it.
        let grows = grows && lower + 2 == levels.len();
        check_pair(&pair[0], &pair[1], grows)?;
    }
    Ok(())
}

/// Neighbours of a chain: one generation, one cluster size, sizes that never shrink (T5, F18).
fn check_pair(lower: &Level, upper: &Level, grows: bool) -> Result<()> {
    let (Some(low), Some(up)) = (&lower.head, &upper.head) else { return Ok(()) };
    let names = || format!("{} and {}", lower.path.display(), upper.path.display());
    let text = if low.version() != up.version() {
        let text =
            format!("{} mix the versions {:?} and {:?}", names(), low.version(), up.version());
        return Err(ImageError::new(ErrorKind::BadImage, text).hint(format!(
            "both can be read together by qemu-img convert -O raw --image-opts \
             driver=parallels,file.filename={},backing.driver=parallels,backing.file.filename={} \
             NEW.raw",
            upper.path.display(),
            lower.path.display()
        )));
    } else if low.cluster() != up.cluster() {
        let (a, b) = (low.cluster().sectors(), up.cluster().sectors());
        format!("{} have clusters of {a} and {b} sectors", names())
    } else if low.live() > up.live() && !grows {
        let (a, b) = (low.size().0, up.size().0);
        let text = format!("{} have {a} and {b} sectors: the lower is the larger one", names());
        let hint = format!("ploop grow -s {a} {}, if that is the top", upper.path.display());
        return Err(ImageError::new(ErrorKind::BadImage, text).hint(hint));
    } else {
        return Ok(());
    };
    Err(ImageError::new(ErrorKind::BadImage, text))
}
