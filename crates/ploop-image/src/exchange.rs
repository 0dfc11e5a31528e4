//! A disk whose images change between two devices, with requests waiting: closed as by a clean
//! close, changed by an operation on layers, opened again; the files stay open and locked.

use crate::error::{ErrorKind, ImageError, Result};
use crate::locate::{self, Located};
use crate::open::plan::Document;
use crate::open::{Disk, OpenOptions};
use crate::store;
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
}

impl Disk {
    /// Closes the images with the report of the device that paused, has `operate` work on them, and
    /// opens them for the next device. An operation that fails leaves the disk as it was, so the
    /// device goes on; its error is the inner one.
    ///
    /// # Errors
    /// The images cannot be closed or opened, a sync of one failed (F5), or nobody knows which
    /// descriptor a crash would bring back (F12): nothing may be served any more.
    pub fn exchange<T>(
        self,
        report: CloseReport,
        dir: Arc<dyn Dir>,
        how: Exchange<'_>,
        operate: impl FnOnce(&OpenOptions) -> Result<T>,
    ) -> Result<(Result<T>, Self)> {
        let read_only = self.read_only();
        let held = self.close_held(report)?;
        let options = OpenOptions { held, ..how.options.clone() };
        // Guests wait meanwhile: who has a file that is wanted is not waited for, but for a glance.
        let hasty = OpenOptions { wait: options.wait.at_most(GLANCE), ..options.clone() };
        let done = match operate(&hasty) {
            Err(error) if error.kind() == ErrorKind::Sync => return Err(error),
            done => done,
        };
        if done.is_err() && !on(Bug::ExchangeUnsure) {
            // What it has written is what the open will see, so a crash must not change that.
            options.held.sync()?;
            affirm(&*dir, how.entropy, how.target)?;
        }
        // Somebody else may have what was to be written, or the operation would not have failed.
        let also_write = if done.is_ok() { how.also_write } else { Vec::new() };
        let disk = Self::open(dir, how.target, &OpenOptions { also_write, ..options })?;
        if disk.read_only() != read_only {
            let text = format!("{} is another disk now", how.target.display());
            return Err(ImageError::new(ErrorKind::Descriptor, text));
        }
        Ok((done, disk))
    }
}

/// The descriptor in force is the one that a crash brings back.
fn affirm(dir: &dyn Dir, entropy: &dyn Entropy, target: &Path) -> Result<()> {
    match locate::locate(dir, target)? {
        Located::Image(_) => Ok(()),
        Located::Descriptor(path) => store::again(dir, entropy, &Document::read(dir, &path)?),
    }
}
