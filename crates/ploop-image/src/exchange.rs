//! A disk whose images change between two devices, with requests waiting: closed as by a clean
//! close, changed by an operation on layers, opened again; the files stay open and locked.

use crate::error::{ErrorKind, ImageError, Result};
use crate::locate::{self, Located};
use crate::open::plan::Document;
use crate::open::{Disk, OpenOptions};
use crate::store::{self, Spares};
use ploop_engine::CloseReport;
use ploop_format::Guid;
use ploop_io::planted::{Bug, on};
use ploop_io::{Dir, Entropy};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long somebody who looks at a file may keep a device from going on.
const GLANCE: Duration = Duration::from_millis(20);

/// What an exchange works with.
pub struct Exchange<'a> {
    /// Where the disk is.
    pub target: &'a Path,
    /// For names of its own.
    pub entropy: &'a dyn Entropy,
    /// How the disk is opened.
    pub options: &'a OpenOptions,
    /// Images below the top that the next device has open for writing too, if the operation ends
    /// well, which then has their locks.
    pub also_write: Vec<Guid>,
    /// Files for the descriptors that the operation writes, made before the pause.
    pub spares: Spares,
}

impl Disk {
    /// Makes files for the descriptors that an operation in a pause will write. A host without
    /// space or inodes, or a directory that cannot be changed, shows here, while the device serves.
    ///
    /// # Errors
    /// A file cannot be made, or has no space.
    pub fn spares(&self, dir: &dyn Dir, entropy: &dyn Entropy, count: usize) -> Result<Spares> {
        match &self.prepared.document {
            Some(document) => Spares::beside(dir, entropy, document, count),
            None => Ok(Spares::default()),
        }
    }

    /// Closes the images with the report of the device that paused, has `operate` work on them, and
    /// opens them for the next device. An operation that fails leaves the disk as it was, so the
    /// device goes on; its error is the inner one. The same when the images cannot be closed for
    /// want of space: they are opened again as they are.
    ///
    /// # Errors
    /// The images cannot be opened, a sync of one failed (F5), or nobody knows which descriptor a
    /// crash would bring back (F12): nothing may be served any more.
    pub fn exchange<T>(
        self,
        report: CloseReport,
        dir: Arc<dyn Dir>,
        how: Exchange<'_>,
        operate: impl FnOnce(&OpenOptions) -> Result<T>,
    ) -> Result<(Result<T>, Self)> {
        let read_only = self.read_only();
        let (held, closed) = self.close_held(report)?;
        let spares = &how.spares;
        let held = held.with_spares(spares.clone());
        let options = OpenOptions { held, ..how.options.clone() };
        // Guests wait meanwhile: who has a file that is wanted is not waited for, but for a glance.
        let hasty = OpenOptions { wait: options.wait.at_most(GLANCE), ..options.clone() };
        let done = match closed.and_then(|()| operate(&hasty)) {
            Err(error) if error.kind() == ErrorKind::Sync => return Err(error),
            done => done,
        };
        if done.is_err() {
            // What it has written is what the open will see, so a crash must not change that.
            options.held.sync()?;
            // A descriptor that was never renamed, or whose directory was synced since, is sure.
            let unsure = spares.unsure() && !on(Bug::ExchangeUnsure);
            if unsure || on(Bug::DescriptorInPause) {
                affirm(&*dir, &how)?;
            }
        }
        // Somebody else may have what was to be written, or the operation would not have failed.
        let also_write = if done.is_ok() { how.also_write } else { Vec::new() };
        let disk = reopen(&dir, how.target, &OpenOptions { also_write, ..options })?;
        if disk.read_only() != read_only {
            let text = format!("{} is another disk now", how.target.display());
            return Err(ImageError::new(ErrorKind::Descriptor, text));
        }
        Ok((done, disk))
    }
}

/// Opens the images again. A file system that never writes in place may want space for the in-use
/// mark, and have it a moment later.
fn reopen(dir: &Arc<dyn Dir>, target: &Path, options: &OpenOptions) -> Result<Disk> {
    let mut spent = Duration::ZERO;
    loop {
        match Disk::open(Arc::clone(dir), target, options) {
            Err(error) if error.kind().is_refusal() && options.wait.again(&mut spent) => {}
            done => return done,
        }
    }
}

/// The descriptor in force is the one that a crash brings back.
fn affirm(dir: &dyn Dir, how: &Exchange<'_>) -> Result<()> {
    match locate::locate(dir, how.target)? {
        Located::Image(_) => Ok(()),
        Located::Descriptor(path) => {
            store::again(dir, how.entropy, &how.spares, &Document::read(dir, &path)?)
        }
    }
}
