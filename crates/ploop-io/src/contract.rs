//! The contract between the engine and everything below it.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Names an open file to an [`Io`]: the descriptor number for the real engines, the simulator's
/// own number for `sim`. Get it from [`RawFile::id`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct FileId(pub i32);

impl FileId {
    /// No descriptor has this bit: a process can have 2^20 or so.
    const MEMORY: i32 = 1 << 30;

    /// A descriptor of a file that lives in memory (tmpfs).
    #[must_use]
    pub const fn in_memory(fd: i32) -> Self {
        Self(fd | Self::MEMORY)
    }

    /// Whether the file lives in memory: a transfer is a copy and waits for nothing, so a ring
    /// makes short ones itself instead of handing them to a worker of the kernel.
    #[must_use]
    pub const fn is_memory(self) -> bool {
        self.0 >= 0 && self.0 & Self::MEMORY != 0
    }

    /// The descriptor, for the real engines.
    #[must_use]
    pub const fn fd(self) -> i32 {
        if self.is_memory() { self.0 & !Self::MEMORY } else { self.0 }
    }
}

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum OpKind {
    /// Read `len` bytes at `offset` into `buf`.
    Read,
    /// Write `len` bytes from `buf` at `offset`.
    Write,
    /// Write with `RWF_DSYNC`: durable when it completes.
    WriteDsync,
    /// `fdatasync`.
    Datasync,
    /// `fsync`.
    Sync,
    /// `fallocate(PUNCH_HOLE | KEEP_SIZE)` over `offset..offset+len`.
    Punch,
    /// `fallocate(ZERO_RANGE | KEEP_SIZE)`.
    ZeroRange,
    /// `fallocate(KEEP_SIZE)`: reserve blocks, the length of the file stays.
    Reserve,
    /// `ftruncate` to `offset`.
    Truncate,
}

/// One operation. The caller keeps `buf` valid and the file open until its completion was reaped.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// Comes back in the completion.
    pub token: u64,
    /// What to do.
    pub kind: OpKind,
    /// On which file.
    pub file: FileId,
    /// Byte position.
    pub offset: u64,
    /// Bytes. At most `i32::MAX & !4095` for reads and writes.
    pub len: u64,
    /// The caller's memory; null for operations without data.
    pub buf: *mut u8,
    /// The memory is a driver's, at this place of the ring's table ([`Io::lend`]); `buf` counts
    /// from its start.
    pub lent: Option<u16>,
}

/// The end of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The token of the operation, or of the watch.
    pub token: u64,
    /// Bytes moved (may be short) or 0; a negative errno on failure. For a watch: the poll events.
    pub result: i32,
}

/// What to wait for on a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// Readable (or closed by the peer).
    Read,
    /// Writable (or closed by the peer).
    Write,
}

/// A command of a driver to one of its files (`IORING_OP_URING_CMD` with 16 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// Comes back in the completion, whose result is the driver's.
    pub token: u64,
    /// The driver's file.
    pub fd: i32,
    /// Which command.
    pub operation: u32,
    /// What the driver reads with it.
    pub payload: [u8; 16],
    /// The submission's own address field, which some drivers read too; else 0.
    pub addr: u64,
}

/// Wakes the thread that waits in [`Io::wait`]. Cheap when that thread is not asleep.
pub trait Wake: Send + Sync {
    /// Makes a present or the next `wait` return.
    fn wake(&self);
}

/// A shared [`Wake`].
pub type Waker = Arc<dyn Wake>;

/// A queue's own ring. Never blocks but in [`Io::wait`].
///
/// Short reads and writes are reported as they are (the engine continues them); `EINTR` and
/// `EAGAIN` are handled inside. No operation is lost: everything pushed completes exactly once.
pub trait Io {
    /// Takes an operation. Never fails: what does not fit the ring waits inside.
    ///
    /// # Safety
    /// `op.buf` must be valid for `op.len` bytes (writable for a read), and the file open, until
    /// the completion with `op.token` was reaped. A lent buffer is checked by the kernel.
    unsafe fn push(&mut self, op: Op);

    /// Hands everything pushed to the kernel; does not wait.
    ///
    /// # Errors
    /// The ring itself is broken (not an operation): the device must stop.
    fn submit(&mut self) -> io::Result<()>;

    /// Appends every completion that is there.
    fn reap(&mut self, out: &mut Vec<Completion>);

    /// Submits, then sleeps until a completion, a wake or the timeout. `idle` is asked after the
    /// thread has announced that it sleeps: when it says `false`, `wait` returns at once (so a
    /// message pushed before its `wake` is never slept over).
    ///
    /// # Errors
    /// As [`Io::submit`].
    fn wait(&mut self, timeout: Option<Duration>, idle: &dyn Fn() -> bool) -> io::Result<()>;

    /// Lets other threads of this processor run, if there are any.
    fn give_way(&self) {
        std::thread::yield_now();
    }

    /// A handle that other threads wake this ring's thread with.
    fn waker(&self) -> Waker;

    /// Reports readiness of `fd` once, as a completion with `token` (result = poll events).
    fn watch(&mut self, fd: i32, interest: Interest, token: u64);

    /// Takes back a watch. Its completion may still come once (with `-ECANCELED` or events).
    fn unwatch(&mut self, token: u64);

    /// Sends a command, which may stay with the driver for any time; `false` when this engine
    /// has no commands, and then there is no completion. A ring that is dropped takes the
    /// commands it has back from the driver.
    ///
    /// # Safety
    /// Memory the command names must be valid until its completion was reaped or the ring was
    /// dropped.
    #[must_use = "false: there will be no completion"]
    unsafe fn command(&mut self, _command: Command) -> bool {
        false
    }

    /// Makes room for `count` buffers that a driver puts into the ring's table by itself, and
    /// returns the place of the first; `None` when this engine has no such table, or no room.
    fn lend(&mut self, _count: u16) -> Option<u16> {
        None
    }
}

/// What the file system under a file can do; probed at open, never assumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Opened with `O_DIRECT`.
    pub direct: bool,
    /// Alignment a buffer's address must have (1 when buffered).
    pub mem_align: u32,
    /// Alignment of offset and length (1 when buffered); from statx where the kernel tells.
    pub offset_align: u32,
    /// The file system's block: punches are rounded inwards to it.
    pub block: u32,
    /// `PUNCH_HOLE` works.
    pub punch: bool,
    /// `ZERO_RANGE` works.
    pub zero_range: bool,
    /// `fallocate(KEEP_SIZE)` works and is worth it (not on tmpfs).
    pub reserve: bool,
}

impl Caps {
    /// What a direct transfer must fit: its memory, and its offset and length; 1 when buffered.
    #[must_use]
    pub const fn direct_align(&self) -> (u32, u32) {
        (self.mem_align, self.offset_align)
    }
}

/// Who a file is: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Ident {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// A byte range for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRange {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

/// An open file. The blocking calls are for open, close and tools; the data path uses [`Io`].
///
/// They loop over short transfers themselves, bounce what direct I/O cannot take, and on the
/// simulator count as operations that can fail or be the last before a crash.
#[allow(clippy::len_without_is_empty, reason = "an image is never empty")]
pub trait RawFile: Send + Sync + fmt::Debug + Any {
    /// The name an [`Io`] knows the file by.
    fn id(&self) -> FileId;
    /// The path it was opened by.
    fn path(&self) -> &Path;
    /// What the file system can do; the alignment as far as it is known.
    fn caps(&self) -> Caps;
    /// Asks the file system again for the alignment of direct I/O, which may rise while the file
    /// is open (a reflink copy on XFS takes it from 512 to 4096), and returns what is known now.
    /// It never falls. More than 4096, or none at all: the file is buffered from then on.
    fn realign(&self) -> Caps;
    /// Gives direct I/O up: every position and length is taken then.
    ///
    /// # Errors
    /// The kernel refuses.
    fn buffer(&self) -> io::Result<()>;
    /// Opened for writing.
    fn writable(&self) -> bool;
    /// Device and inode.
    fn ident(&self) -> io::Result<Ident>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Bytes of disk space in use (`st_blocks * 512`).
    fn allocated(&self) -> io::Result<u64>;
    /// Bytes that the file system has free for this process.
    fn free_space(&self) -> io::Result<u64>;
    /// Reads until `buf` is full or the end of the file; returns the bytes read.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// The first place from `at` on that may not be a hole; `None` when none is left before the end
    /// of the file. Only for files that nobody writes meanwhile (F25).
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        Ok(Some(at))
    }
    /// Writes all of `buf`.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()>;
    /// `ftruncate`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// `fallocate(KEEP_SIZE)`.
    fn reserve(&self, at: u64, len: u64) -> io::Result<()>;
    /// `fallocate(PUNCH_HOLE)`.
    fn punch(&self, at: u64, len: u64) -> io::Result<()>;
    /// `fsync`.
    fn sync(&self) -> io::Result<()>;
    /// `fdatasync`.
    fn datasync(&self) -> io::Result<()>;
    /// Takes an open-file-description lock without waiting; `Ok(false)` when another holds it.
    /// It belongs to this very description (F7) and goes when the last reference closes.
    fn try_lock(&self, range: LockRange, exclusive: bool) -> io::Result<bool>;
    /// Whether an exclusive lock on the range would be refused because of another process.
    fn is_locked(&self, range: LockRange) -> io::Result<bool>;
    /// Gives the lock back.
    fn unlock(&self, range: LockRange) -> io::Result<()>;
    /// `flock(LOCK_EX | LOCK_NB)` for the `.lck` file; `Ok(false)` when another holds it.
    fn try_flock(&self) -> io::Result<bool>;
}

/// A shared open file; closed when the last reference goes.
pub type File = Arc<dyn RawFile>;

/// How to open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenHow {
    /// For reading and writing; else read-only.
    pub write: bool,
    /// Create, and fail when it exists (`O_CREAT | O_EXCL`).
    pub create_new: bool,
    /// Create when absent.
    pub create: bool,
    /// Ask for `O_DIRECT`; falls back to buffered when the file system refuses (see [`Caps`]).
    pub direct: bool,
    /// Mode bits for a created file (0 means 0600).
    pub mode: u32,
    /// Whose a created file is to be, as far as this process may say; else the process's own.
    pub owner: Option<Owner>,
}

/// Whose a file is, and what who may do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Number of the user.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Mode bits.
    pub mode: u32,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Device and inode.
    pub ident: Ident,
    /// Length in bytes.
    pub len: u64,
    /// Names it has (hard links).
    pub links: u64,
    /// A regular file.
    pub is_file: bool,
    /// A directory.
    pub is_dir: bool,
    /// Whose it is.
    pub owner: Owner,
}

/// Names: the only way the engine and the image code reach a file system.
pub trait Dir: Send + Sync {
    /// Opens or creates a file. All descriptors are `O_CLOEXEC`. No file is created through a link.
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<File>;
    /// Renames over whatever is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// `fsync` of a directory.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// What a name stands for; follows links.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// The absolute path without links.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;
    /// Names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Reads a small file whole; fails when it is longer than `limit` bytes.
    fn read_small(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
}

/// Time.
pub trait Clock: Send + Sync {
    /// Nanoseconds on a clock that never goes back.
    fn now(&self) -> u64;
    /// Seconds since 1970.
    fn wall(&self) -> u64;
}

/// Random bytes.
pub trait Entropy: Send + Sync {
    /// Fills the buffer.
    fn fill(&self, buf: &mut [u8]);
}
