//! Closing a disk: cut the tail, put back Empty, clear the mark last (T19, F15).

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::head;
use crate::held::Held;
use crate::lock;
use crate::open::{Disk, Level};
use ploop_engine::CloseReport;
use ploop_format::InUse;
use ploop_io::planted::{Bug, on, synced};

impl Disk {
    /// Finishes the files after the engine has ended, and releases them.
    ///
    /// # Errors
    /// The report is not clean or a step failed: the image keeps its in-use mark (I10, I12).
    pub fn close(self, report: CloseReport) -> Result<()> {
        let closed = self.finish_top(report);
        if closed.is_ok()
            && let Some(kept) = &self.kept
        {
            kept.forget();
        }
        // A child between its fork and exec may still share the descriptions.
        for level in &self.prepared.levels {
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
        let closed = match self.finish_top(report) {
            Err(error) if !error.is_refused() => return Err(error),
            closed => closed,
        };
        if let Some(kept) = &self.kept {
            kept.forget();
        }
        Ok((self.held(), closed))
    }

    fn finish_top(&self, report: CloseReport) -> Result<()> {
        let prepared = &self.prepared;
        if !prepared.writable {
            return Ok(());
        }
        let top = prepared.top()?;
        if !report.clean {
            let why = report.failure.as_deref().unwrap_or("the device stopped with an error");
            let text = format!("{} stays marked in use: {why}", top.path.display());
            return Err(ImageError::new(ErrorKind::NotClean, text)
                .hint("what was flushed before the error is there; open it again to go on"));
        }
        if let Some(below) = prepared.below() {
            let synced = below.file.sync().at(ErrorKind::Sync, "cannot sync", &below.path);
            synced.map_err(|e| stays(top, e))?;
        }
        let end = Some(prepared.closed_len(report.end));
        let stamp = prepared.stamp.filter(|_| !report.changed);
        finish_as(top, end, report.mapped, stamp).map_err(|e| stays(top, e))
    }

    /// Takes the open back when the device was not started: nothing was written.
    ///
    /// # Errors
    /// As [`Disk::close`].
    pub fn abort(self) -> Result<()> {
        let report = match &self.prepared.scan {
            Some(scan) => CloseReport {
                clean: true,
                failure: None,
                end: scan.end(self.prepared.cluster),
                mapped: scan.mapped != 0,
                changed: false,
                more: Vec::new(),
            },
            None => CloseReport {
                clean: true,
                failure: None,
                end: 0,
                mapped: true,
                changed: false,
                more: Vec::new(),
            },
        };
        self.close(report)
    }
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
