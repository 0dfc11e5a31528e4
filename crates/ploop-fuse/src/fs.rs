//! The file system: its root is the one file.
//!
//! It behaves like a block device that looks like a file: the size is fixed, so `O_TRUNC` and
//! `truncate` to another size are refused with `EPERM`. Ignoring them would let `cp` of a sparse
//! file skip the holes and leave old data there.

use crate::transfer::Engine;
use crate::worker;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use ploop_engine::Flags;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Longest request the kernel makes (`fs.fuse.max_pages_limit`).
pub(crate) const LONGEST: u32 = 1 << 20;
/// How long the kernel may believe an attribute. A changed size is told at once.
const ATTRIBUTES: Duration = Duration::from_secs(1);
/// The file handle's bit of a descriptor opened for writing.
const WRITABLE: u64 = 1;

/// Tells how many bytes the disk takes.
pub(crate) type Allocated = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Who the file is: taken from the file it is mounted over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// The file system.
pub(crate) struct FuseExport {
    engine: Arc<Engine>,
    read_only: bool,
    owner: Owner,
    max_background: u16,
    allocated: Option<Allocated>,
    born: SystemTime,
    /// Nanoseconds from `born` to the last change.
    changed: AtomicU64,
}

impl FuseExport {
    pub(crate) fn new(
        engine: Arc<Engine>,
        read_only: bool,
        owner: Owner,
        max_background: u16,
        allocated: Option<Allocated>,
    ) -> Self {
        let born = SystemTime::now();
        let changed = AtomicU64::new(0);
        Self { engine, read_only, owner, max_background, allocated, born, changed }
    }

    fn attributes(&self) -> FileAttr {
        let size = self.engine.size();
        let changed = self.born + Duration::from_nanos(self.changed.load(Ordering::Relaxed));
        let mode = if self.read_only { self.owner.mode & !0o222 } else { self.owner.mode };
        FileAttr {
            ino: INodeNo::ROOT,
            size,
            blocks: self.allocated.as_ref().map_or(size, |bytes| bytes()).div_ceil(512),
            atime: changed,
            mtime: changed,
            ctime: changed,
            crtime: self.born,
            kind: FileType::RegularFile,
            perm: (mode & 0o777) as u16,
            nlink: 1,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: self.blksize(),
            flags: 0,
        }
    }

    /// One cluster: what is best read and written at once.
    fn blksize(&self) -> u32 {
        match u32::try_from(self.engine.limits().cluster) {
            Ok(cluster) if cluster.is_power_of_two() => cluster.clamp(4096, LONGEST),
            _ => 4096,
        }
    }

    fn touch(&self) {
        let since = self.born.elapsed().unwrap_or_default().as_nanos();
        self.changed.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Replies to `fallocate`.
    fn allocate(&self, offset: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        let size = self.engine.size();
        let Some(end) = offset.checked_add(len) else { return reply.error(Errno::EFBIG) };
        let punch = mode == libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        let zero = mode & !KEEP == libc::FALLOC_FL_ZERO_RANGE;
        if !punch && !zero {
            // Space is not promised: clusters are taken when they are written.
            return match mode & !KEEP {
                0 if end <= size => reply.ok(),
                0 => reply.error(Errno::ENOSPC),
                _ => reply.error(Errno::EOPNOTSUPP),
            };
        }
        if zero && mode & KEEP == 0 && end > size {
            return reply.error(Errno::ENOSPC);
        }
        let range = offset.min(size)..end.min(size);
        if range.is_empty() {
            return reply.ok();
        }
        self.touch();
        // A punched hole reads as zeros and gives space back: zeroing that may unmap.
        let flags = Flags { no_unmap: zero, ..Flags::default() };
        self.engine.zero(range, flags, |outcome| answer(outcome, reply));
    }
}

/// The engine's errno for the kernel. `ENOSYS` would switch the operation off for good.
fn errno(error: ploop_engine::Errno) -> Errno {
    match error.raw_os_error() {
        libc::ENOSYS | libc::ESHUTDOWN => Errno::EIO,
        code => Errno::from_i32(code),
    }
}

fn answer<T>(outcome: Result<T, ploop_engine::Errno>, reply: ReplyEmpty) {
    match outcome {
        Ok(_) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for FuseExport {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without FUSE_ASYNC_DIO a direct-I/O file is served one request at a time.
        for wanted in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP] {
            if config.add_capabilities(wanted).is_err() {
                tracing::debug!(?wanted, "not offered by this kernel");
            }
        }
        // Refused values are answered with the nearest good one; the defaults then stay.
        let _ = config.set_max_write(LONGEST);
        let _ = config.set_max_background(self.max_background.max(1));
        let _ = config.set_congestion_threshold(self.max_background.max(1));
        Ok(())
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn getattr(&self, _req: &Request, _ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        worker::ready();
        reply.attr(&ATTRIBUTES, &self.attributes());
    }

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let other = |new: Option<u32>, now| new.is_some_and(|new| new != now);
        let resize = size.is_some_and(|size| size != self.engine.size());
        let mode = mode.map(|mode| mode & 0o7777);
        if resize
            || other(mode, self.owner.mode & 0o7777)
            || other(uid, self.owner.uid)
            || other(gid, self.owner.gid)
        {
            return reply.error(if self.read_only { Errno::EROFS } else { Errno::EPERM });
        }
        reply.attr(&ATTRIBUTES, &self.attributes());
    }

    fn open(&self, _req: &Request, _ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        worker::ready();
        let writable = flags.acc_mode() != OpenAccMode::O_RDONLY;
        if writable && self.read_only {
            return reply.error(Errno::EROFS);
        }
        let mut how = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        if !writable {
            how |= FopenFlags::FOPEN_NOFLUSH;
        }
        reply.opened(FileHandle(if writable { WRITABLE } else { 0 }), how);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        worker::ready();
        let end = offset.saturating_add(u64::from(size)).min(self.engine.size());
        if end <= offset {
            return reply.data(&[]);
        }
        self.engine.read(offset..end, |outcome| match outcome {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        worker::ready();
        if self.read_only {
            return reply.error(Errno::EROFS);
        }
        let room = self.engine.size().saturating_sub(offset);
        if room == 0 && !data.is_empty() {
            return reply.error(Errno::ENOSPC);
        }
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        if len == 0 {
            return reply.written(0);
        }
        self.touch();
        // O_SYNC contains O_DSYNC; RWF_DSYNC arrives the same way.
        let fua = flags.0 & libc::O_DSYNC != 0;
        self.engine.write(offset, &data[..len], fua, move |outcome| match outcome {
            Ok(()) => reply.written(len as u32),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if fh.0 & WRITABLE == 0 {
            return reply.ok();
        }
        self.engine.flush(|outcome| answer(outcome, reply));
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        worker::ready();
        if self.read_only {
            return reply.ok();
        }
        self.engine.flush(|outcome| answer(outcome, reply));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // A loop device takes its discard granularity from here.
        let limits = self.engine.limits();
        let block = limits.physical_block.max(limits.block).clamp(512, 4096);
        let blocks = self.engine.size() / u64::from(block);
        reply.statfs(blocks, 0, 0, 1, 0, block, 255, block);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        worker::ready();
        if self.read_only {
            return reply.error(Errno::EROFS);
        }
        self.allocate(offset, length, mode, reply);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let hole = match whence {
            libc::SEEK_HOLE => true,
            libc::SEEK_DATA => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let at = match u64::try_from(offset) {
            Ok(at) if at < self.engine.size() => at,
            _ => return reply.error(Errno::ENXIO),
        };
        self.engine.seek(at, hole, |outcome| match outcome {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(error)),
        });
    }

    // ENOSYS: the kernel asks once and never again.
    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
