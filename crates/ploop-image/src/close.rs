//! Closing a disk: cut the tail, put back Empty, clear the mark last (T19, F15).

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::head;
use crate::held::Held;
use crate::lock;
use crate::open::{Disk, Level, Prepared};
use ploop_engine::{CloseReport, PieceEnd};
use ploop_format::InUse;
use ploop_io::planted::{Bug, on, synced};

impl Disk {
    /// Finishes the files after the engine has ended, and releases them.
    ///
    /// # Errors
    /// The report is not clean or a step failed: the image keeps its in-use mark (I10, I12).
    pub fn close(self, report: CloseReport) -> Result<()> {
        let closed = self.finish_tops(&report);
        // A child between its fork and exec may still share the descriptions.
        for level in self.pieces().flat_map(|piece| &piece.levels) {
            lock::release(&*level.file);
        }
        closed
    }

    /// As [`Disk::close`], for an operation on the files and the open behind it: they stay open and
    /// locked. The inner error is that of an image which would not take its last change: it is
    /// still marked, and whole.
    ///
    /// # Errors
    /// As [`Disk::close`].
    pub(crate) fn close_held(self, report: CloseReport) -> Result<(Held, Result<()>)> {
        let closed = match self.finish_tops(&report) {
            Err(error) if !error.is_refused() => return Err(error),
            closed => closed,
        };
        let kept = [&self.kept].into_iter().chain(self.more.iter().map(|part| &part.kept));
        for kept in kept.flatten() {
            kept.forget();
        }
        Ok((self.held(), closed))
    }

    /// Every piece; one that cannot be finished does not keep the others from it.
    fn finish_tops(&self, report: &CloseReport) -> Result<()> {
        let mut first = None;
        let kept = [&self.kept].into_iter().chain(self.more.iter().map(|part| &part.kept));
        for (n, (prepared, kept)) in self.pieces().zip(kept).enumerate() {
            let own = match n.checked_sub(1) {
                None => Some(PieceEnd { end: report.end, mapped: report.mapped }),
                Some(n) => report.more.get(n).copied(),
            };
            match finish_top(prepared, report, own) {
                Ok(()) => {
                    if let Some(kept) = kept {
                        kept.forget();
                    }
                }
                // One that is no mere want of space counts more.
                Err(error) => {
                    let keep = first.as_ref().is_some_and(|first: &ImageError| {
                        !first.is_refused() || error.is_refused()
                    });
                    first = if keep { first } else { Some(error) };
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Takes the open back when the device was not started: nothing was written.
    ///
    /// # Errors
    /// As [`Disk::close`].
    pub fn abort(self) -> Result<()> {
        let end_of = |piece: &Prepared| match &piece.scan {
            Some(scan) => PieceEnd { end: scan.end(piece.cluster), mapped: scan.mapped != 0 },
            None => PieceEnd { end: 0, mapped: true },
        };
        let PieceEnd { end, mapped } = end_of(&self.prepared);
        let more = self.pieces().skip(1).map(end_of).collect();
        let report = CloseReport { clean: true, failure: None, end, mapped, changed: false, more };
        self.close(report)
    }
}

/// One piece, or the disk.
fn finish_top(prepared: &Prepared, report: &CloseReport, own: Option<PieceEnd>) -> Result<()> {
    if !prepared.writable {
        return Ok(());
    }
    let top = prepared.top()?;
    let Some(PieceEnd { end, mapped }) = own.filter(|_| report.clean) else {
        let why = report.failure.as_deref().unwrap_or("the device stopped with an error");
        let text = format!("{} stays marked in use: {why}", top.path.display());
        return Err(ImageError::new(ErrorKind::NotClean, text)
            .hint("what was flushed before the error is there; open it again to go on"));
    };
    if let Some(below) = prepared.below() {
        let synced = below.file.sync().at(ErrorKind::Sync, "cannot sync", &below.path);
        synced.map_err(|e| stays(top, e))?;
    }
    let end = Some(prepared.closed_len(end));
    let stamp = prepared.stamp.filter(|_| !report.changed);
    finish_as(top, end, mapped, stamp).map_err(|e| stays(top, e))
}

fn stays(top: &Level, why: ImageError) -> ImageError {
    let text = format!("{} stays marked in use", top.path.display());
    ImageError::new(ErrorKind::NotClean, text).because(why)
}

/// Everything durable, then the length, then the mark; `end` is the length to cut to.
pub(crate) fn finish(top: &Level, end: Option<u64>, mapped: bool) -> Result<()> {
    finish_as(top, end, mapped, None)
}

/// As [`finish`]; an image that is what it was keeps the stamp of the program that closed it.
fn finish_as(top: &Level, end: Option<u64>, mapped: bool, stamp: Option<InUse>) -> Result<()> {
    let path = &top.path;
    let mark_first = on(Bug::MarkBeforeData);
    if !mark_first {
        synced(Bug::NoSyncClose, || top.file.sync()).at(ErrorKind::Sync, "cannot sync", path)?;
    }
    let Some(header) = &top.head else { return Ok(()) };
    let end =
        end.map(|end| end - if on(Bug::CloseCutsTooFar) { header.cluster().bytes() } else { 0 });
    let early = on(Bug::MarkBeforeCut);
    if let Some(end) = end.filter(|_| !early) {
        cut(top, end.max(header.data_start()))?;
    }
    head::rewrite(&*top.file, path, |header| {
        header.close(!mapped, None);
        if let Some(stamp) = stamp {
            header.set_in_use(stamp);
        }
    })?;
    if let Some(end) = end.filter(|_| early) {
        cut(top, end.max(header.data_start()))?;
    }
    synced(Bug::NoSyncMark, || top.file.sync()).at(ErrorKind::Sync, "cannot sync", path)
}

/// Cuts what no entry names; never makes the file longer.
fn cut(top: &Level, end: u64) -> Result<()> {
    let path = &top.path;
    let len = top.file.len().at(ErrorKind::Stat, "cannot stat", path)?;
    let bytes = top.head.as_ref().map_or(1, |head| head.cluster().bytes());
    if !end.is_multiple_of(bytes) || end > len {
        let text =
            format!("{}: the last cluster ends at byte {end}, the file has {len}", path.display());
        return Err(ImageError::new(ErrorKind::BadImage, text));
    }
    if end < len {
        top.file.set_len(end).at(ErrorKind::Truncate, "cannot cut", path)?;
        // The mark may only go when the new length is durable (I7).
        synced(Bug::NoSyncCut, || top.file.sync()).at(ErrorKind::Sync, "cannot sync", path)?;
    }
    Ok(())
}
