//! Files that a disk has open and locked, handed on: to an operation on its layers while a server
//! has the disk, and to the open behind it. Nobody gets in between.

use crate::error::{ErrorKind, IoContext, Result};
use crate::head::Start;
use crate::lock::{self, Mode};
use crate::open::Level;
use crate::store::Spares;
use ploop_io::File;
use ploop_io::planted::{Bug, synced};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files and their locks. Clones share them.
#[derive(Clone, Default)]
pub struct Held {
    files: Arc<Mutex<Vec<Entry>>>,
    /// The `.lck` file of the original tools.
    pub(crate) lck: Option<File>,
    /// For the descriptors that an operation will write.
    spares: Spares,
}

struct Entry {
    path: PathBuf,
    file: File,
    /// Its description may write.
    write: bool,
    /// Its locks; `None` while they are let go.
    mode: Option<Mode>,
    /// How it begins, as long as the locks keep everybody from writing.
    start: Option<Start>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.files().iter().map(|entry| &entry.path)).finish()
    }
}

impl Held {
    fn files(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same with files for new descriptors.
    pub(crate) fn with_spares(self, spares: Spares) -> Self {
        Self { spares, ..self }
    }

    /// Files for new descriptors; none of a disk that nobody has open.
    pub(crate) fn spares(&self) -> &Spares {
        &self.spares
    }

    pub(crate) fn locked(lck: Option<File>) -> Self {
        Self { lck, ..Self::default() }
    }

    pub(crate) fn add(&self, level: &Level) {
        let Level { path, file, write, .. } = level;
        let mode = Some(if *write { Mode::Exclusive } else { Mode::Shared });
        let start = (!write).then(|| Start(level.head.clone()));
        let entry = Entry { path: path.clone(), file: file.clone(), write: *write, mode, start };
        self.files().push(entry);
    }

    /// How a file begins, when that is known and nobody could change it since: its headers need
    /// not be read while requests wait.
    pub(crate) fn start(&self, path: &Path) -> Option<Start> {
        let files = self.files();
        let entry = files.iter().find(|entry| entry.path == path)?;
        entry.start.clone().filter(|_| entry.mode == Some(Mode::Shared))
    }

    /// Remembers how a file begins that was read under its lock.
    pub(crate) fn learn(&self, path: &Path, start: &Start) {
        let mut files = self.files();
        let entry = files.iter_mut().find(|entry| entry.path == path);
        if let Some(entry) = entry.filter(|entry| entry.mode == Some(Mode::Shared)) {
            entry.start = Some(start.clone());
        }
    }

    /// Nobody has anything open.
    pub(crate) fn is_empty(&self) -> bool {
        self.files().is_empty()
    }

    /// Syncs every file that may have been written.
    pub(crate) fn sync(&self) -> Result<()> {
        for entry in self.files().iter().filter(|entry| entry.write) {
            synced(Bug::NoSyncExchange, || entry.file.sync()).at(
                ErrorKind::Sync,
                "cannot sync",
                &entry.path,
            )?;
        }
        Ok(())
    }

    /// The lock of the original tools alone, for an operation on another branch of the tree.
    #[must_use]
    pub fn lock_only(&self) -> Self {
        Self::locked(self.lck.clone())
    }

    /// The open file of a path, when its description does for what is wanted.
    pub(crate) fn file(&self, path: &Path, write: bool) -> Option<File> {
        let files = self.files();
        let entry = files.iter().find(|entry| entry.path == path)?;
        (entry.write || !write).then(|| entry.file.clone())
    }

    /// Locks a file, as [`lock::try_level`] does. What is held already is changed, never let go,
    /// but for a file that was only read and is to be written now: that needs another description.
    pub(crate) fn try_level(
        &self,
        path: &Path,
        file: &File,
        mode: Mode,
        base: bool,
    ) -> io::Result<bool> {
        let mut files = self.files();
        let Some(entry) = files.iter_mut().find(|entry| entry.path == path) else {
            return lock::try_level(&**file, mode, base);
        };
        if mode == Mode::Exclusive {
            entry.start = None;
        }
        if !Arc::ptr_eq(&entry.file, file) {
            lock::release(&*entry.file);
            let got = lock::try_level(&**file, mode, base)?;
            if got {
                *entry = Entry {
                    path: path.to_owned(),
                    file: file.clone(),
                    write: true,
                    mode: Some(mode),
                    start: None,
                };
            } else if !lock::try_level(&*entry.file, Mode::Shared, base)? {
                entry.mode = None;
            }
            return Ok(got);
        }
        match (entry.mode, mode) {
            (Some(Mode::Exclusive), Mode::Shared) => lock::share(&**file, base)?,
            (Some(had), wanted) if had == wanted => {
                if base && !lock::try_long(&**file, mode)? {
                    return Ok(false);
                }
            }
            _ => {
                let got = lock::try_level(&**file, mode, base)?;
                if !got && !lock::try_level(&**file, Mode::Shared, base)? {
                    entry.mode = None;
                }
                if !got {
                    return Ok(false);
                }
            }
        }
        entry.mode = Some(mode);
        Ok(true)
    }
}
