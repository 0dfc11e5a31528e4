//! File systems at rest: `FIFREEZE` and `FITHAW`.

use crate::loop_status::outcome;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const FIFREEZE: libc::c_ulong = 0xc004_5877;
const FITHAW: libc::c_ulong = 0xc004_5878;

/// Writes everything out and holds every change back until [`thaw`].
///
/// # Errors
/// No right, frozen already, or the file system cannot.
pub fn freeze(directory: &File) -> io::Result<()> {
    // SAFETY: the argument is not looked at.
    outcome(unsafe { libc::ioctl(directory.as_raw_fd(), FIFREEZE, 0) }).map(drop)
}

/// Lets changes go on.
///
/// # Errors
/// No right, or it is not frozen.
pub fn thaw(directory: &File) -> io::Result<()> {
    // SAFETY: the argument is not looked at.
    outcome(unsafe { libc::ioctl(directory.as_raw_fd(), FITHAW, 0) }).map(drop)
}
