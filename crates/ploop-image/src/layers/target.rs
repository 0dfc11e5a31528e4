//! The image that levels are merged into. Until [`apply`] it shows what it showed before:
//! copies go to clusters that no entry names.

use super::sync;
use crate::close::finish;
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::head::{self, Head};
use crate::open::Level;
use crate::scan::{Scan, scan};
use fixedbitset::FixedBitSet;
use ploop_format::units::{PAGE, SECTOR};
use ploop_format::{ClusterSize, FileCluster, GuestCluster, Sector, entry_at, put_entry};
use ploop_io::planted::{Bug, on};
use std::collections::BTreeMap;

type Page = Box<[u8; PAGE as usize]>;

/// A ploop image that is open for writing.
pub(super) struct Target<'a> {
    pub level: &'a mut Level,
    head: Head,
    cluster: ClusterSize,
    /// Clusters that an entry names, or named when the merge began, or a copy went to.
    used: FixedBitSet,
    /// Length before the merge; what lies behind reads as zeros.
    before: u64,
    len: u64,
    /// Where the search for a free cluster goes on.
    next: usize,
    mapped: u64,
    /// Pages that change: as they are, as they will be.
    pages: BTreeMap<u64, (Page, Page)>,
    /// Places that no entry names when the pages are written.
    freed: Vec<FileCluster>,
}

impl<'a> Target<'a> {
    /// Checks the BAT (F6), then marks the image in use.
    pub fn begin(level: &'a mut Level, cluster: ClusterSize) -> Result<Option<Self>> {
        let Some(head) = level.head.clone() else { return Ok(None) };
        sync(&*level.file, Bug::NoSyncMergeBegin)?;
        head.check_writable(&level.path)?;
        let Scan { used, mapped, .. } = good(level, &head)?;
        stamp(level)?;
        let before = level.len;
        Ok(Some(Self {
            head,
            cluster,
            used,
            before,
            len: before,
            next: 0,
            mapped,
            pages: BTreeMap::new(),
            freed: Vec::new(),
            level,
        }))
    }

    /// A place for a copy: its first byte, and whether zeros are there.
    pub fn place(&mut self) -> (FileCluster, bool) {
        while self.next < self.used.len() && self.used.contains(self.next) {
            self.next += 1;
        }
        let at = self.next;
        if at >= self.used.len() {
            self.used.grow(at + 1);
        }
        self.used.insert(at);
        self.next += 1;
        let start = self.cluster.file_start(FileCluster(at as u64));
        self.len = self.len.max(start + self.cluster.bytes());
        (FileCluster(at as u64), start >= self.before)
    }

    /// Gives the file the length its places need (F14: one step, before they are written).
    pub fn extend(&mut self) -> Result<()> {
        if self.len > self.level.len {
            let path = &self.level.path;
            self.level.file.set_len(self.len).at(
                ErrorKind::Truncate,
                "cannot set the length of",
                path,
            )?;
            self.level.len = self.len;
        }
        Ok(())
    }

    /// The entry that a cluster will have; `None` is a hole.
    pub fn set(&mut self, cluster: GuestCluster, place: Option<FileCluster>) -> Result<()> {
        let old = self.word(cluster)?;
        let new = match place {
            None => 0,
            Some(place) => self.entry(place)?,
        };
        let slot = cluster.slot();
        if let Some((_, page)) = self.pages.get_mut(&slot.page.0) {
            put_entry(&mut page[..], slot.index, new);
        }
        if old != 0 {
            self.freed.push(self.file_cluster(old));
        }
        self.mapped = self.mapped + u64::from(new != 0) - u64::from(old != 0);
        Ok(())
    }

    /// A place that was not needed after all.
    pub fn give_back(&mut self, place: FileCluster) {
        self.used.set(place.0 as usize, false);
        self.next = self.next.min(place.0 as usize);
    }

    /// The copies are durable; then the entries that name them, each page whole (I1). What they
    /// named before stays as it is until [`Target::release`].
    fn put(&mut self) -> Result<()> {
        self.write(false)?;
        sync(&*self.level.file, Bug::NoSyncMergeBat)
    }

    /// The space of what is not named any more is left to the next open.
    fn keep(&mut self) -> Result<()> {
        for place in std::mem::take(&mut self.freed) {
            self.used.set(place.0 as usize, false);
        }
        Ok(())
    }

    /// Entries of the BAT.
    pub fn entries(&self) -> u64 {
        self.head.entries()
    }

    /// Whether the image has a cluster.
    pub fn has(&mut self, cluster: GuestCluster) -> Result<bool> {
        Ok(self.word(cluster)? != 0)
    }

    /// Everything copied is durable.
    pub fn sync_data(&self) -> Result<()> {
        sync(&*self.level.file, Bug::NoSyncMergeData)
    }

    /// Puts the entries back as they were.
    pub fn undo(&mut self) -> Result<()> {
        self.write(true)?;
        sync(&*self.level.file, Bug::NoSyncMergeBat)?;
        self.freed.clear();
        self.cancel()
    }

    /// Nothing was applied: the image is what it was.
    pub fn cancel(&mut self) -> Result<()> {
        self.pages.clear();
        let Scan { used, mapped, .. } = good(self.level, &self.head)?;
        (self.used, self.mapped) = (used, mapped);
        self.finish()
    }

    /// Cuts the tail and clears the mark.
    pub fn finish(&mut self) -> Result<()> {
        let last = self.used.maximum().map_or(0, |bit| bit as u64 + 1);
        let end = self.cluster.file_start(FileCluster(last)).max(self.head.data_start());
        finish(self.level, Some(end), self.mapped != 0)?;
        self.level.len = end;
        Ok(())
    }

    fn write(&self, old: bool) -> Result<()> {
        for (number, (before, after)) in self.pages.iter().filter(|(_, (a, b))| a != b) {
            let mut bytes = if old { before.clone() } else { after.clone() };
            if *number == 0 {
                // The header is the one on disk: marked in use.
                bytes[..64].copy_from_slice(&head::bytes(&*self.level.file, &self.level.path)?);
            }
            let path = &self.level.path;
            self.level.file.write_at(&bytes[..], number * PAGE).at(
                ErrorKind::Write,
                "cannot write the BAT of",
                path,
            )?;
        }
        Ok(())
    }

    /// Space of places that no durable entry names any more. A host that cannot give it back keeps
    /// it until the next writable open uses it.
    fn release(&mut self) -> Result<()> {
        let size = self.cluster.bytes();
        let mut freed = std::mem::take(&mut self.freed);
        freed.sort_unstable();
        let mut at = 0;
        while at < freed.len() {
            let mut end = at + 1;
            while end < freed.len() && freed[end].0 == freed[end - 1].0 + 1 {
                end += 1;
            }
            if self.level.file.caps().punch {
                let _ = self.level.file.punch(freed[at].0 * size, (end - at) as u64 * size);
            }
            at = end;
        }
        for place in freed {
            self.used.set(place.0 as usize, false);
        }
        Ok(())
    }

    fn word(&mut self, cluster: GuestCluster) -> Result<u32> {
        let slot = cluster.slot();
        if !self.pages.contains_key(&slot.page.0) {
            let mut page: Page = Box::new([0; PAGE as usize]);
            let path = &self.level.path;
            self.level.file.read_at(&mut page[..], slot.page.bytes()).at(
                ErrorKind::Read,
                "cannot read the BAT of",
                path,
            )?;
            self.pages.insert(slot.page.0, (page.clone(), page));
        }
        let (_, page) = &self.pages[&slot.page.0];
        Ok(entry_at(&page[..], slot.index))
    }

    fn file_cluster(&self, word: u32) -> FileCluster {
        self.head.header.bounds(self.len).file_cluster(word)
    }

    fn entry(&self, place: FileCluster) -> Result<u32> {
        let at = Sector(self.cluster.file_start(place) / SECTOR);
        self.head.version().entry(at, self.cluster).ok_or_else(|| {
            let text = format!(
                "{} would need cluster {place}, which its format version cannot name",
                self.level.path.display()
            );
            ImageError::new(ErrorKind::BadImage, text)
        })
    }
}

/// Does the same with the target in each piece; one that fails does not keep the others from it.
pub(super) fn each<'a>(
    targets: &mut [Target<'a>],
    mut does: impl FnMut(&mut Target<'a>) -> Result<()>,
) -> Result<()> {
    let mut first = Ok(());
    for target in targets {
        let done = does(target);
        first = first.and(done);
    }
    first
}

/// The new entries of every piece, then the space of the old ones: none of it goes before all can
/// stay.
pub(super) fn apply(targets: &mut [Target<'_>]) -> Result<()> {
    let written = if on(Bug::MergeFirstPiece) { 1 } else { targets.len() };
    targets[..written].iter_mut().try_for_each(Target::put)?;
    each(targets, Target::release)
}

/// As [`apply`], with the space left to the next open.
pub(super) fn apply_keeping(targets: &mut [Target<'_>]) -> Result<()> {
    targets.iter_mut().try_for_each(Target::put)?;
    each(targets, Target::keep)
}

/// The BAT of an image that is to be written.
pub(super) fn good(level: &Level, head: &Head) -> Result<Scan> {
    let table = head.table(level.len);
    let mut first = None;
    let scan = scan(&*level.file, &table, &[], &mut |bad| {
        first.get_or_insert(bad);
    })
    .at(ErrorKind::Read, "cannot read the BAT of", &level.path)?;
    match first {
        None => Ok(scan),
        Some(bad) => {
            let text =
                format!("{} has {} bad BAT entries: {}", level.path.display(), scan.bad, bad);
            Err(ImageError::new(ErrorKind::BadImage, text).hint("ploop check -f -c shows all"))
        }
    }
}

/// The in-use mark, durable before the first change (I12); a ragged end is rounded up (F14).
pub(super) fn stamp(level: &mut Level) -> Result<()> {
    let Some(head) = &mut level.head else { return Ok(()) };
    head.header = head::rewrite(&*level.file, &level.path, |header| header.stamp_below())?;
    let whole = head.header.bounds(level.len).rounded_up().file_len;
    sync(&*level.file, Bug::NoSyncMergeMark)?;
    if whole != level.len {
        level.file.set_len(whole).at(
            ErrorKind::Truncate,
            "cannot set the length of",
            &level.path,
        )?;
        sync(&*level.file, Bug::NoSyncMergeMark)?;
        level.len = whole;
    }
    Ok(())
}
