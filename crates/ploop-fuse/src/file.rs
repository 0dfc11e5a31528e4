//! The one file: what each request means for it. Pure but for the clock and the disk's usage.
//!
//! It behaves like a block device that looks like a file: the size is fixed, so `truncate` to
//! another size is refused with `EPERM`. `O_TRUNC`, and `truncate` to nothing, make it read as
//! zeros and leave its size: ignoring them would let `cp` of a sparse file skip the holes and leave
//! old data there.

use crate::protocol::LONGEST;
use crate::protocol::abi::{
    Attr, AttrOut, FallocateIn, LseekIn, LseekOut, OpenOut, ROOT, SetattrIn, StatfsOut, TransferIn,
    WriteOut, fattr, fopen,
};
use crate::protocol::reply::Reply;
use crate::protocol::request::Request;
use crate::ranges::Ranges;
use ploop_engine::{Errno, Flags, Limits};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How long, in seconds, the kernel may believe an attribute. A changed size is told at once.
const ATTRIBUTES: u64 = 1;
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

/// The file, shared by the queues that serve it.
pub(crate) struct File {
    limits: Limits,
    size: AtomicU64,
    read_only: bool,
    owner: Owner,
    allocated: Option<Allocated>,
    born: SystemTime,
    /// Nanoseconds from `born` to the last change.
    changed: AtomicU64,
    pub(crate) ranges: Ranges,
    /// Requests in flight on its home from which on all queues serve it; and whether they do.
    pub(crate) share_at: usize,
    pub(crate) shared: AtomicBool,
}

/// What a request comes to.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// Nobody waits for an answer.
    Nothing,
    /// The answer is known.
    Answer(Reply),
    /// Bytes of the file, which lie inside it.
    Read(Range<u64>),
    /// The first bytes of the payload belong here, inside the file.
    Write { range: Range<u64>, fua: bool },
    /// Everything answered so far becomes durable.
    Flush,
    /// A range inside the file reads as zeros.
    Zero { range: Range<u64>, flags: Flags },
    /// The whole file reads as zeros; the answer is what it is then.
    Empty(Range<u64>),
    /// The first data, or hole, from here on.
    Seek { at: u64, hole: bool },
}

impl File {
    pub(crate) fn new(
        limits: Limits,
        read_only: bool,
        owner: Owner,
        allocated: Option<Allocated>,
        share_at: usize,
    ) -> Self {
        let file = Self {
            limits,
            size: AtomicU64::new(0),
            read_only,
            owner,
            allocated,
            born: SystemTime::now(),
            changed: AtomicU64::new(0),
            ranges: Ranges::default(),
            share_at,
            shared: AtomicBool::new(share_at == 0),
        };
        file.set_size(limits.size);
        file
    }

    /// Bytes of the file: whole blocks of the device.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size / self.block() * self.block(), Ordering::Relaxed);
    }

    /// Bytes of a block of the device.
    pub(crate) fn block(&self) -> u64 {
        u64::from(self.limits.block.max(1))
    }

    /// The blocks that a byte range touches, in bytes.
    pub(crate) fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        let block = self.block();
        range.start / block * block..range.end.div_ceil(block) * block
    }

    /// What a request means.
    pub(crate) fn plan(&self, unique: u64, request: &Request) -> Plan {
        let error = |error| Plan::Answer(Reply::error(unique, error));
        let empty = Plan::Answer(Reply::empty(unique));
        match request {
            Request::Forget | Request::Other(crate::protocol::abi::op::NOTIFY_REPLY) => {
                Plan::Nothing
            }
            Request::Lookup => error(Errno::NOENT),
            Request::Getattr => Plan::Answer(self.attributes(unique)),
            Request::Setattr(set) => self.set_attributes(unique, set),
            Request::Open(flags) => self.open(unique, *flags),
            Request::Read(read) => self.read(unique, read),
            Request::Write(write) => self.write(unique, write),
            Request::Statfs => Plan::Answer(self.figures(unique)),
            Request::Release | Request::Destroy => empty,
            Request::Flush(flush) if flush.fh & WRITABLE == 0 => empty,
            Request::Fsync if self.read_only => empty,
            Request::Flush(_) | Request::Fsync => Plan::Flush,
            Request::Fallocate(ask) => self.allocate(unique, ask),
            Request::Lseek(seek) => self.seek(unique, seek),
            Request::Ioctl => error(Errno::NOTTY),
            // A second handshake on a connection that has had one.
            Request::Init(_) => error(Errno::PROTO),
            // The kernel asks once and never again; for an interrupt it means that there are none.
            Request::Interrupt | Request::Other(_) => error(Errno::NOSYS),
        }
    }

    pub(crate) fn attributes(&self, unique: u64) -> Reply {
        let size = self.size();
        let changed = self.born + Duration::from_nanos(self.changed.load(Ordering::Relaxed));
        let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (time, nanos) = (since.as_secs(), since.subsec_nanos());
        let mode = if self.read_only { self.owner.mode & !0o222 } else { self.owner.mode };
        let attr = Attr {
            ino: ROOT,
            size,
            blocks: self.allocated.as_ref().map_or(size, |bytes| bytes()).div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            atimensec: nanos,
            mtimensec: nanos,
            ctimensec: nanos,
            mode: libc::S_IFREG | (mode & 0o777),
            nlink: 1,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: self.blksize(),
            flags: 0,
        };
        Reply::with(unique, &AttrOut { attr_valid: ATTRIBUTES, attr, ..AttrOut::default() })
    }

    /// One cluster: what is best read and written at once.
    fn blksize(&self) -> u32 {
        match u32::try_from(self.limits.cluster) {
            Ok(cluster) if cluster.is_power_of_two() => cluster.clamp(4096, LONGEST),
            _ => 4096,
        }
    }

    fn set_attributes(&self, unique: u64, set: &SetattrIn) -> Plan {
        let other = |bit, new, now| set.valid & bit != 0 && new != now;
        let cut = set.valid & fattr::SIZE != 0 && set.size != self.size();
        let empty = cut && set.size == 0 && !self.read_only;
        let resize = cut && !empty;
        if resize
            || other(fattr::MODE, set.mode & 0o7777, self.owner.mode & 0o7777)
            || other(fattr::UID, set.uid, self.owner.uid)
            || other(fattr::GID, set.gid, self.owner.gid)
        {
            let error = if self.read_only { Errno::ROFS } else { Errno::PERM };
            return Plan::Answer(Reply::error(unique, error));
        }
        if empty {
            self.touch();
            return Plan::Empty(0..self.size());
        }
        Plan::Answer(self.attributes(unique))
    }

    fn open(&self, unique: u64, flags: u32) -> Plan {
        let writable = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
        if writable && self.read_only {
            return Plan::Answer(Reply::error(unique, Errno::ROFS));
        }
        let mut how = fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES;
        if !writable {
            how |= fopen::NOFLUSH;
        }
        let fh = if writable { WRITABLE } else { 0 };
        Plan::Answer(Reply::with(unique, &OpenOut { fh, open_flags: how, backing_id: 0 }))
    }

    fn read(&self, unique: u64, read: &TransferIn) -> Plan {
        let end = read.offset.saturating_add(u64::from(read.size)).min(self.size());
        if end <= read.offset {
            return Plan::Answer(Reply::empty(unique));
        }
        Plan::Read(read.offset..end)
    }

    fn write(&self, unique: u64, write: &TransferIn) -> Plan {
        if self.read_only {
            return Plan::Answer(Reply::error(unique, Errno::ROFS));
        }
        let room = self.size().saturating_sub(write.offset);
        let len = room.min(u64::from(write.size));
        if room == 0 && write.size > 0 {
            return Plan::Answer(Reply::error(unique, Errno::NOSPC));
        }
        if len == 0 {
            return Plan::Answer(Reply::with(unique, &WriteOut::default()));
        }
        self.touch();
        // O_SYNC contains O_DSYNC; RWF_DSYNC arrives the same way.
        let fua = write.flags & libc::O_DSYNC as u32 != 0;
        Plan::Write { range: write.offset..write.offset + len, fua }
    }

    /// A loop device takes its discard granularity from here.
    fn figures(&self, unique: u64) -> Reply {
        let block = self.limits.physical_block.max(self.limits.block).clamp(512, 4096);
        let figures = StatfsOut {
            blocks: self.size() / u64::from(block),
            files: 1,
            bsize: block,
            namelen: 255,
            frsize: block,
            ..StatfsOut::default()
        };
        Reply::with(unique, &figures)
    }

    fn allocate(&self, unique: u64, ask: &FallocateIn) -> Plan {
        const KEEP: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
        const PUNCH: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32;
        const ZERO: u32 = libc::FALLOC_FL_ZERO_RANGE as u32;
        let error = |error| Plan::Answer(Reply::error(unique, error));
        if self.read_only {
            return error(Errno::ROFS);
        }
        let size = self.size();
        let Some(end) = ask.offset.checked_add(ask.length) else { return error(Errno::FBIG) };
        let punch = ask.mode == PUNCH | KEEP;
        let zero = ask.mode & !KEEP == ZERO;
        if !punch && !zero {
            // Space is not promised: clusters are taken when they are written.
            return match ask.mode & !KEEP {
                0 if end <= size => Plan::Answer(Reply::empty(unique)),
                0 => error(Errno::NOSPC),
                _ => error(Errno::OPNOTSUPP),
            };
        }
        if zero && ask.mode & KEEP == 0 && end > size {
            return error(Errno::NOSPC);
        }
        let range = ask.offset.min(size)..end.min(size);
        if range.is_empty() {
            return Plan::Answer(Reply::empty(unique));
        }
        self.touch();
        // A punched hole reads as zeros and gives space back: zeroing that may unmap.
        Plan::Zero { range, flags: Flags { no_unmap: zero, ..Flags::default() } }
    }

    fn seek(&self, unique: u64, seek: &LseekIn) -> Plan {
        let hole = match i32::try_from(seek.whence) {
            Ok(libc::SEEK_HOLE) => true,
            Ok(libc::SEEK_DATA) => false,
            _ => return Plan::Answer(Reply::error(unique, Errno::INVAL)),
        };
        // A negative offset is a large one here.
        if seek.offset >= self.size() {
            return Plan::Answer(Reply::error(unique, Errno::NXIO));
        }
        Plan::Seek { at: seek.offset, hole }
    }

    fn touch(&self) {
        let since = self.born.elapsed().unwrap_or_default().as_nanos();
        self.changed.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The answer to a seek.
pub(crate) fn found(unique: u64, offset: u64) -> Reply {
    Reply::with(unique, &LseekOut { offset })
}

/// The engine's errno for the kernel. `ENOSYS` would switch the operation off for good.
pub(crate) fn failed(unique: u64, error: Errno) -> Reply {
    let error = if matches!(error, Errno::NOSYS | Errno::SHUTDOWN) { Errno::IO } else { error };
    Reply::error(unique, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::abi::{FlushIn, OutHeader};
    use zerocopy::FromBytes;

    const SIZE: u64 = 1 << 20;

    fn file(read_only: bool) -> File {
        let limits = Limits {
            size: SIZE + 100,
            block: 512,
            physical_block: 4096,
            cluster: 1 << 20,
            buffer_align: 512,
            max_transfer: 1 << 20,
            max_zero: 1 << 30,
            read_only,
        };
        File::new(limits, read_only, Owner { uid: 1, gid: 2, mode: 0o100_644 }, None, 0)
    }

    fn error(plan: &Plan) -> i32 {
        let Plan::Answer(reply) = plan else { panic!("{plan:?}") };
        OutHeader::read_from_prefix(reply.bytes()).unwrap().0.error
    }

    fn transfer(offset: u64, size: u32) -> TransferIn {
        TransferIn { offset, size, ..TransferIn::default() }
    }

    #[test]
    fn transfers_are_cut_at_the_end() {
        let file = file(false);
        assert_eq!(file.size(), SIZE);
        let read = file.plan(1, &Request::Read(transfer(SIZE - 10, 100)));
        assert!(matches!(read, Plan::Read(range) if range == (SIZE - 10..SIZE)));
        assert_eq!(error(&file.plan(1, &Request::Read(transfer(u64::MAX, 100)))), 0);
        let write = file.plan(1, &Request::Write(transfer(SIZE - 10, 100)));
        assert!(matches!(write, Plan::Write { range, fua: false } if range == (SIZE - 10..SIZE)));
        let beyond = file.plan(1, &Request::Write(transfer(u64::MAX, 1)));
        assert_eq!(error(&beyond), -libc::ENOSPC);
        assert_eq!(error(&file.plan(1, &Request::Write(transfer(0, 0)))), 0);
    }

    #[test]
    fn nothing_changes_a_read_only_file() {
        let file = file(true);
        let refused = [
            Request::Write(transfer(0, 1)),
            Request::Fallocate(FallocateIn { length: 1, ..FallocateIn::default() }),
            Request::Open(libc::O_RDWR as u32),
            Request::Setattr(SetattrIn { valid: fattr::SIZE, ..SetattrIn::default() }),
        ];
        for request in refused {
            assert_eq!(error(&file.plan(1, &request)), -libc::EROFS, "{request:?}");
        }
        assert_eq!(error(&file.plan(1, &Request::Fsync)), 0);
        let flush = Request::Flush(FlushIn::default());
        assert_eq!(error(&file.plan(1, &flush)), 0);
    }

    #[test]
    fn a_truncation_empties_the_file_and_never_changes_its_size() {
        let file = file(false);
        let set = |size| SetattrIn { valid: fattr::SIZE, size, ..SetattrIn::default() };
        let plan = |set| file.plan(1, &Request::Setattr(set));
        assert!(matches!(plan(set(0)), Plan::Empty(range) if range == (0..SIZE)));
        assert_eq!(error(&plan(set(SIZE))), 0);
        for size in [1, SIZE - 512, SIZE + 1, u64::MAX] {
            assert_eq!(error(&plan(set(size))), -libc::EPERM, "{size}");
        }
        let chown = SetattrIn { valid: fattr::SIZE | fattr::UID, uid: 7, ..SetattrIn::default() };
        assert_eq!(error(&plan(chown)), -libc::EPERM, "nothing of it is done");
    }

    #[test]
    fn seeks_and_reservations_at_the_edges() {
        let file = file(false);
        let seek = |offset, whence| {
            file.plan(1, &Request::Lseek(LseekIn { offset, whence, ..LseekIn::default() }))
        };
        assert_eq!(error(&seek(u64::MAX, libc::SEEK_DATA as u32)), -libc::ENXIO);
        assert_eq!(error(&seek(0, 99)), -libc::EINVAL);
        assert!(matches!(seek(5, libc::SEEK_HOLE as u32), Plan::Seek { at: 5, hole: true }));
        let ask = FallocateIn { offset: u64::MAX, length: 2, ..FallocateIn::default() };
        assert_eq!(error(&file.plan(1, &Request::Fallocate(ask))), -libc::EFBIG);
    }

    #[test]
    fn the_rest_is_refused_or_ignored() {
        let file = file(false);
        assert!(matches!(file.plan(1, &Request::Forget), Plan::Nothing));
        assert_eq!(error(&file.plan(1, &Request::Interrupt)), -libc::ENOSYS);
        assert_eq!(error(&file.plan(1, &Request::Other(22))), -libc::ENOSYS);
        assert_eq!(error(&file.plan(1, &Request::Ioctl)), -libc::ENOTTY);
        assert_eq!(error(&file.plan(1, &Request::Lookup)), -libc::ENOENT);
        assert_eq!(error(&Plan::Answer(failed(1, Errno::SHUTDOWN))), -libc::EIO);
    }
}
