//! Locks of an open file description (F7): byte ranges by `F_OFD_*`, whole files by `flock`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::LockRange;

/// What to put on a range.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Shared,
    Exclusive,
    None,
}

/// Sets or clears a lock; `false` when another description is in the way.
pub(super) fn set(fd: BorrowedFd<'_>, range: LockRange, kind: Kind) -> io::Result<bool> {
    let mut lock = describe(range, kind)?;
    match call(fd, libc::F_OFD_SETLK, &mut lock) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Whether an exclusive lock would be refused.
pub(super) fn test(fd: BorrowedFd<'_>, range: LockRange) -> io::Result<bool> {
    let mut lock = describe(range, Kind::Exclusive)?;
    call(fd, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// `flock(LOCK_EX | LOCK_NB)`; `false` when another description holds it.
pub(super) fn whole(fd: BorrowedFd<'_>) -> io::Result<bool> {
    loop {
        return match flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

fn describe(range: LockRange, kind: Kind) -> io::Result<libc::flock> {
    let (Ok(start), Ok(len)) = (range.start.try_into(), range.len.try_into()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let kind = match kind {
        Kind::Shared => libc::F_RDLCK,
        Kind::Exclusive => libc::F_WRLCK,
        Kind::None => libc::F_UNLCK,
    };
    #[expect(clippy::cast_possible_truncation, reason = "small constants")]
    Ok(libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: len,
        // Must be 0 for OFD locks.
        l_pid: 0,
    })
}

fn call(fd: BorrowedFd<'_>, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: `lock` is a whole `struct flock` that lives through the call.
        let ret = unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) };
        if ret == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}
