//! What the file system under a file can do.
//!
//! `fallocate` modes are tried on an unnamed file in the same directory, never on the file itself:
//! at open time it is not locked yet, and another process may be growing it. Where no unnamed
//! file can be made, a table by file system answers; the engine takes `EOPNOTSUPP` later anyway.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, StatFs, StatxFlags, fallocate, fcntl_getfl,
    fcntl_setfl, fstat, fstatfs, open, statx,
};
use rustix::io::{Errno, pread};

use crate::Caps;
use crate::aligned::{AlignedBuf, PAGE};

const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58F6;
const EXT: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;
const BTRFS: u64 = 0x9123_683E;
const F2FS: u64 = 0xF2F5_2010;
const ZFS: u64 = 0x2FC1_2FC1;
const NFS: u64 = 0x6969;

/// `(punch, zero_range, reserve)`.
type Modes = (bool, bool, bool);

/// Looks at an open file; turns `O_DIRECT` on when asked and possible.
pub(super) fn discover(file: &File, path: &Path, writable: bool, direct: bool) -> Caps {
    let fd = file.as_fd();
    // A block device is not on the file system its name is on.
    let regular = fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_file());
    let fs = if regular { fstatfs(fd).ok() } else { None };
    let magic = fs.map_or(0, |fs| kind(&fs));
    let align = if direct { direct_alignment(fd, magic) } else { None };
    let (mem_align, offset_align) = align.unwrap_or((1, 1));
    let mut modes = known(magic);
    if writable
        && regular
        && let Some(probed) = probe(path, magic)
    {
        modes = probed;
    }
    // Reserving on tmpfs takes memory, on ZFS it cannot guarantee a later write (copy on write).
    let worth = !matches!(magic, TMPFS | RAMFS | ZFS);
    let block = fs.map_or(4096, |fs| u64::try_from(fs.f_bsize).unwrap_or(4096));
    Caps {
        direct: align.is_some(),
        mem_align,
        offset_align,
        block: sane_block(block),
        punch: modes.0,
        zero_range: modes.1,
        reserve: modes.2 && worth,
    }
}

/// Whether the file is on a file system that lives in memory.
pub(super) fn in_memory(file: &File) -> bool {
    let regular = fstat(file).is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_file());
    regular && fstatfs(file).is_ok_and(|fs| matches!(kind(&fs), TMPFS | RAMFS))
}

/// The file system's magic number, whatever the width of the field.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "32 bits are defined")]
fn kind(fs: &StatFs) -> u64 {
    u64::from(fs.f_type as u32)
}

/// A power of two from 512 to 1 MiB, else 4096.
fn sane_block(block: u64) -> u32 {
    match u32::try_from(block) {
        Ok(b) if b.is_power_of_two() && (512..=1 << 20).contains(&b) => b,
        _ => 4096,
    }
}

fn known(magic: u64) -> Modes {
    match magic {
        EXT | XFS | BTRFS | F2FS => (true, true, true),
        TMPFS | ZFS => (true, false, false),
        NFS => (true, false, true),
        _ => (false, false, false),
    }
}

/// Tries each mode on an unnamed file beside `path`.
fn probe(path: &Path, magic: u64) -> Option<Modes> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let scratch = open(dir, flags, Mode::from_raw_mode(0o600)).ok()?;
    // Through a link the directory may be on another file system than the file.
    if kind(&fstatfs(&scratch).ok()?) != magic {
        return None;
    }
    let works = |flags| {
        !matches!(
            fallocate(&scratch, flags | FallocateFlags::KEEP_SIZE, 0, 4096),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
        )
    };
    let reserve = works(FallocateFlags::empty());
    Some((works(FallocateFlags::PUNCH_HOLE), works(FallocateFlags::ZERO_RANGE), reserve))
}

/// Switches `O_DIRECT` on; `(mem, offset)` alignment, or `None` when the file stays buffered.
fn direct_alignment(fd: BorrowedFd<'_>, magic: u64) -> Option<(u32, u32)> {
    if matches!(magic, TMPFS | RAMFS) {
        return None; // Memory either way; newer kernels accept the flag and ignore it.
    }
    let told = told_alignment(fd);
    if told == Some((0, 0)) {
        return None;
    }
    let buffered = fcntl_getfl(fd).ok()?;
    fcntl_setfl(fd, buffered | OFlags::DIRECT).ok()?;
    let align = told.or_else(|| tried_alignment(fd)).filter(fits_a_page);
    if align.is_none() {
        let _ = fcntl_setfl(fd, buffered);
    }
    align
}

/// Whether a page of a block table can be read and written alone.
fn fits_a_page(&(mem, offset): &(u32, u32)) -> bool {
    let fits = |align: u32| align.is_power_of_two() && align as usize <= PAGE;
    fits(mem) && fits(offset)
}

/// The alignment of an open file that is read and written directly; `None`: not any more.
pub(super) fn realigned(file: &File) -> Option<(u32, u32)> {
    let fd = file.as_fd();
    told_alignment(fd).or_else(|| tried_alignment(fd)).filter(fits_a_page)
}

/// Switches `O_DIRECT` off.
pub(super) fn make_buffered(file: &File) -> std::io::Result<()> {
    let flags = fcntl_getfl(file)?;
    Ok(fcntl_setfl(file, flags - OFlags::DIRECT)?)
}

/// What statx says: `None` when it does not, zeros when direct I/O is not possible.
fn told_alignment(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return None;
    }
    let (mem, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
    if mem == 0 || offset == 0 { Some((0, 0)) } else { Some((mem, offset)) }
}

/// The smallest alignment a read is taken with; an empty file proves nothing, so a page then.
fn tried_alignment(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let mut buf = AlignedBuf::new(2 * PAGE).ok()?;
    for align in [512usize, PAGE] {
        match pread(fd, &mut buf[align..2 * align], align as u64) {
            Ok(got) if got > 0 || align == PAGE => {
                return u32::try_from(align).ok().map(|a| (a, a));
            }
            Ok(_) | Err(Errno::INVAL) => {}
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_sane_power_of_two() {
        assert_eq!(sane_block(1024), 1024);
        assert_eq!(sane_block(0), 4096);
        assert_eq!(sane_block(131_072), 131_072);
        assert_eq!(sane_block(1 << 30), 4096);
        assert_eq!(sane_block(3000), 4096);
    }
}
