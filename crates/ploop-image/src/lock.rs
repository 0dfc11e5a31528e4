//! Locks: one writer per image, together with QEMU and the three generations of the original.
//!
//! All are open-file-description locks on the very description that does the I/O (F7, I17), so
//! they last as long as ring operations in flight, also when the process is already dead.
//!
//! | bytes | who looks at them | writable top | lower, or read-only |
//! |---|---|---|---|
//! | 100..104 | QEMU: permissions in use | shared on all | shared on 100 |
//! | 200..205 | QEMU: what others may not do; ploop 9.x | **exclusive** | shared on 201, 203 |
//! | 300..305 | ploop 9.x: a long operation runs | exclusive (base) | shared (base) |
//!
//! QEMU's permissions are read, write, write unchanged, resize, in this order.
//! The exclusive range decides: it cannot be had while anybody denies anything, and nobody can
//! deny anything while it is held. QEMU and 9.x test with "could I write-lock this byte", so a
//! shared and an exclusive lock of ours look the same to them.

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::owner;
use ploop_io::{Dir, File, Ident, LockRange, OpenHow, RawFile};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a level is to be locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Nobody else has it open in any way.
    Exclusive,
    /// Others may read it, nobody writes.
    Shared,
}

const IN_USE: LockRange = LockRange { start: 100, len: 4 };
const IN_USE_READ: LockRange = LockRange { start: 100, len: 1 };
const IN_USE_WRITE: LockRange = LockRange { start: 101, len: 3 };
const DENIED: LockRange = LockRange { start: 200, len: 5 };
const DENIED_READ: LockRange = LockRange { start: 200, len: 1 };
const DENIED_WRITE: LockRange = LockRange { start: 201, len: 1 };
const DENIED_RESIZE: LockRange = LockRange { start: 203, len: 1 };
const LONG: LockRange = LockRange { start: 300, len: 5 };
const ALL: LockRange = LockRange { start: 100, len: 205 };

/// How long to try for a lock that another holds: a killed server's last operations drain first.
#[derive(Clone, Copy, Debug)]
pub struct LockWait {
    /// In all.
    pub total: Duration,
    /// Between two tries.
    pub step: Duration,
    /// Sleeps; the simulator has its own.
    pub sleep: fn(Duration),
}

impl LockWait {
    /// One try.
    pub const NONE: Self = Self { total: Duration::ZERO, step: Duration::ZERO, sleep: |_| {} };
    /// Three seconds.
    pub const SOME: Self = Self {
        total: Duration::from_secs(3),
        step: Duration::from_millis(50),
        // tidy: outside: the caller that wants another clock gives its own function
        sleep: std::thread::sleep,
    };

    /// Not longer than this in all.
    pub(crate) fn at_most(self, total: Duration) -> Self {
        Self { total: self.total.min(total), step: self.step.min(total / 4), ..self }
    }

    /// Sleeps a step; `false` when the time is over. `spent` is the caller's account.
    pub(crate) fn again(&self, spent: &mut Duration) -> bool {
        if *spent >= self.total || self.step.is_zero() {
            return false;
        }
        (self.sleep)(self.step);
        *spent += self.step;
        true
    }
}

/// Tries for all locks of one level. Takes none when it returns `false`.
pub(crate) fn try_level(file: &dyn RawFile, mode: Mode, base: bool) -> io::Result<bool> {
    let got = match mode {
        Mode::Exclusive => try_exclusive(file, base),
        Mode::Shared => try_shared(file, base),
    };
    if !matches!(got, Ok(true)) {
        release(file);
    }
    got
}

fn try_exclusive(file: &dyn RawFile, base: bool) -> io::Result<bool> {
    Ok(file.try_lock(DENIED, true)?
        && (!base || file.try_lock(LONG, true)?)
        && file.try_lock(IN_USE, false)?
        && !file.is_locked(IN_USE)?)
}

fn try_shared(file: &dyn RawFile, base: bool) -> io::Result<bool> {
    // Take first, test after: of two that come at once at least one sees the other.
    Ok(file.try_lock(IN_USE_READ, false)?
        && file.try_lock(DENIED_WRITE, false)?
        && file.try_lock(DENIED_RESIZE, false)?
        && (!base || file.try_lock(LONG, false)?)
        && !file.is_locked(IN_USE_WRITE)?
        && !file.is_locked(DENIED_READ)?)
}

/// Lets others read what was held alone; at no moment can they write.
pub(crate) fn share(file: &dyn RawFile, base: bool) -> io::Result<()> {
    file.try_lock(DENIED_WRITE, false)?;
    file.try_lock(DENIED_RESIZE, false)?;
    for start in [200, 202, 204] {
        file.unlock(LockRange { start, len: 1 })?;
    }
    file.unlock(IN_USE_WRITE)?;
    match base {
        true => file.try_lock(LONG, false).map(drop),
        false => file.unlock(LONG),
    }
}

/// Whether somebody who locks images as we do has this one open.
pub(crate) fn is_used(file: &dyn RawFile) -> io::Result<bool> {
    file.is_locked(IN_USE)
}

/// The lock of the base alone, on a level that has become the base.
pub(crate) fn try_long(file: &dyn RawFile, mode: Mode) -> io::Result<bool> {
    file.try_lock(LONG, mode == Mode::Exclusive)
}

/// Gives back every lock of a level. Closing the last reference does the same.
pub(crate) fn release(file: &dyn RawFile) {
    // A failure leaves the lock until the descriptor closes, which follows at once.
    let _ = file.unlock(ALL);
}

/// The lock file of ploop 1.x and 7.x beside a descriptor.
pub(crate) fn lck_path(descriptor: &Path) -> PathBuf {
    let mut name = descriptor.as_os_str().to_owned();
    name.push(".lck");
    PathBuf::from(name)
}

/// What trying for the `.lck` file gave.
pub(crate) enum LckFile {
    /// Held until the file is dropped.
    Held(File),
    /// The directory does not let us have one; the locks on the images guard alone.
    Absent,
    /// Another tool has it.
    Busy,
}

/// Tries for the `.lck` file. A reader only looks whether a tool of old is at work.
pub(crate) fn try_lck(dir: &dyn Dir, descriptor: &Path, write: bool) -> Result<LckFile> {
    let path = lck_path(descriptor);
    let owner = owner::of_lock(dir, descriptor).filter(|_| write);
    let how = OpenHow { write, create: write, mode: 0o644, owner, ..OpenHow::default() };
    let file = match dir.open(&path, how) {
        Ok(file) => file,
        Err(e) if absent(&e) => return Ok(LckFile::Absent),
        Err(e) => return Err(e).at(ErrorKind::LockFile, "cannot open", &path),
    };
    match file.try_flock().at(ErrorKind::LockFile, "cannot lock", &path)? {
        true => Ok(LckFile::Held(file)),
        false => Ok(LckFile::Busy),
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// The error of a lock that was not to be had: names the holder when somebody knows it (T6).
pub(crate) fn refused(
    path: &Path,
    ident: Option<Ident>,
    who: Option<&(dyn Fn(Ident) -> Option<String> + Send + Sync)>,
) -> ImageError {
    let holder = who.zip(ident).and_then(|(who, ident)| who(ident));
    let holder = holder.unwrap_or_else(|| "another process".to_owned());
    ImageError::new(ErrorKind::InUse, format!("{} is in use by {holder}", path.display()))
        .hint("stop the other one first; two read-only opens may share a disk")
}
