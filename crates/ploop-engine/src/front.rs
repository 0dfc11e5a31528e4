//! Stage 1: what a front end hands in, and what it gets back.
//!
//! A front end sees no BAT and no file. It lives on a queue's thread; [`crate::remote`] is the
//! front end for code that lives on other threads.

use ploop_io::{Command, Interest, Lent};
pub use rustix::io::Errno;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Operation {
    /// Fill `buf` from the device.
    Read,
    /// Write `buf` to the device.
    Write,
    /// Everything acknowledged before this was received becomes durable.
    Flush,
    /// The range may lose its content; whole clusters read as zeros afterwards where nothing
    /// below has them.
    Discard,
    /// The range reads as zeros.
    WriteZeroes,
    /// Where the range is stored: fills `buf` with [`ExtentRecord`]s, as many as fit; the outcome
    /// is the number of bytes filled. Describes a prefix of the range, at least one record.
    Extents,
    /// The work of a merge; what is read stays the same. Clusters of the range that a level from
    /// [`crate::DeviceSpec::floor`] up has are brought to the top; over a plain file that is
    /// written in place, what the top has is brought down to it.
    Merge,
}

/// Modifiers of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// Durable, data and mapping, before it is acknowledged.
    pub fua: bool,
    /// A flush goes first; when it fails the data is not written.
    pub preflush: bool,
    /// Keep the blocks of zeroed ranges (virtio `unmap=0`, NBD `NO_HOLE`).
    pub no_unmap: bool,
    /// Fail with `EOPNOTSUPP` rather than write zero bytes (NBD `FAST_ZERO`).
    pub fast_zero: bool,
}

/// A front end's memory: valid from [`Intake::push`] until [`FrontEnd::complete`].
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    ptr: *mut u8,
    len: usize,
    lent: Option<Lent>,
}

// SAFETY: a Buffer is a promise about memory made by `Buffer::new`'s caller; the memory is used by
// one request at a time, and by whichever thread serves it.
unsafe impl Send for Buffer {}

impl Buffer {
    /// No memory, for operations without data.
    pub const NONE: Self = Self { ptr: std::ptr::null_mut(), len: 0, lent: None };

    /// Memory for a request.
    ///
    /// # Safety
    /// `ptr..ptr+len` must stay valid, and untouched by others (readable for a write, writable
    /// for a read), until the request is completed.
    #[must_use]
    pub const unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        Self { ptr, len, lent: None }
    }

    /// The same, but the data is with a driver: the disk reads and writes it there, and this
    /// memory is for what the engine itself must see.
    #[must_use]
    pub const fn lent(self, lent: Lent) -> Self {
        Self { lent: Some(lent), ..self }
    }

    /// `len` bytes of it, from byte `from` on.
    #[must_use]
    pub fn part(self, from: u64, len: u64) -> Self {
        let lent = self.lent.map(|lent| Lent { at: lent.at + from, ..lent });
        Self { ptr: self.ptr.wrapping_add(from as usize), len: len as usize, lent }
    }

    /// Where the data is, when it is with a driver.
    #[must_use]
    pub const fn at_driver(self) -> Option<Lent> {
        self.lent
    }

    /// Start of the memory.
    #[must_use]
    pub const fn ptr(self) -> *mut u8 {
        self.ptr
    }

    /// Bytes of memory.
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there is no memory.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// One request. Offset and length are bytes, any inside the device; what is not aligned as the
/// files want it is slower. `len` equals the buffer's length for reads and writes.
#[derive(Clone, Copy, Debug)]
#[must_use = "a request must be pushed or answered"]
pub struct Request {
    /// Comes back in [`FrontEnd::complete`].
    pub tag: u64,
    /// What to do.
    pub operation: Operation,
    /// Modifiers.
    pub flags: Flags,
    /// First byte on the device.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The front end's memory.
    pub buffer: Buffer,
}

/// How a request ended: bytes of `Extents`, else 0.
pub type Outcome = Result<u32, Errno>;

/// One answer of [`Operation::Extents`], 16 bytes in the native byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ExtentRecord {
    /// Length in bytes.
    pub len: u64,
    /// The level that has it, base = 0; [`ExtentRecord::HOLE`] when no level has.
    pub level: u32,
    /// Zero; room for more.
    pub reserved: u32,
}

impl ExtentRecord {
    /// No level has the range: it reads as zeros.
    pub const HOLE: u32 = u32::MAX;
    /// Bytes of a record.
    pub const BYTES: usize = 16;

    /// The record as bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.len.to_ne_bytes());
        out[8..12].copy_from_slice(&self.level.to_ne_bytes());
        out
    }

    /// Reads the records an `Extents` request left in its buffer.
    pub fn parse(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.chunks_exact(Self::BYTES).map(|b| Self {
            len: u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            level: u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            reserved: 0,
        })
    }
}

/// What the device takes. Constant while it is open, but for the size ([`FrontEnd::renewed`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Device size in bytes.
    pub size: u64,
    /// Logical block for clients whose protocol has one: a property of the disk, constant through
    /// every opening, pause and takeover (T14). The engine itself takes any range.
    pub block: u32,
    /// Preferred smallest I/O (the file system's block below).
    pub physical_block: u32,
    /// Preferred I/O size: one cluster.
    pub cluster: u64,
    /// Alignment of a buffer's address that saves a copy.
    pub buffer_align: u32,
    /// Longest read or write.
    pub max_transfer: u32,
    /// Longest discard or write-zeroes.
    pub max_zero: u64,
    /// No write, discard or zeroing is taken (they fail with `EROFS`... `EPERM` on NBD).
    pub read_only: bool,
}

/// The host does not let a file take more: its file system is full, a quota is used up, or the file
/// has the greatest length that a limit of the process or the file system allows. It may pass.
#[must_use]
pub fn is_no_space(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::FBIG)
}

/// What [`is_no_space`] means, in words.
#[must_use]
pub fn why_no_space(errno: Errno) -> &'static str {
    match errno {
        Errno::DQUOT => "a quota on the host is used up",
        Errno::FBIG => "the file has the greatest length that is allowed (ulimit -f, file system)",
        _ => "the host's file system is full",
    }
}

/// A front end's view of the queue it lives on, during [`FrontEnd::poll`].
pub trait Intake {
    /// Requests the queue has room for now. Pushing more is a bug (they are refused with `EAGAIN`).
    fn room(&self) -> usize;
    /// Hands a request in. It will be completed exactly once, maybe before `poll` returns... never
    /// from inside `push`.
    fn push(&mut self, request: Request);
    /// Asks for [`FrontEnd::ready`] once `fd` is ready. One-shot. `key` is the front end's own.
    fn watch(&mut self, fd: i32, interest: Interest, key: u32);
    /// Takes a watch back.
    fn unwatch(&mut self, key: u32);
    /// Sends a driver's command on the queue's own ring; its result comes to [`FrontEnd::ready`]
    /// under this key. `false` when the ring has no commands.
    ///
    /// # Safety
    /// As [`ploop_io::Io::command`].
    #[must_use = "false: there will be no result"]
    unsafe fn command(&mut self, _key: u32, _command: Command) -> bool {
        false
    }
    /// Makes room on the ring for buffers of a driver, as [`ploop_io::Io::lend`].
    fn lend(&mut self, _count: u16) -> Option<u16> {
        None
    }
    /// Asks for a `poll` not later than this time.
    fn poll_at(&mut self, nanos: u64);
    /// Now, in nanoseconds of the device's clock.
    fn now(&self) -> u64;
    /// The device is stopping: take no new requests, finish, then report `finished`.
    fn stopping(&self) -> bool;
}

/// How far a queue goes before it submits and sees to its front end again. A disk that completes
/// many operations at once stands still until the first new one comes: small strides bring it
/// sooner, large ones cost fewer calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stride {
    /// Completions of operations: so many first, twice as many next, until the batch is through.
    pub completions: usize,
    /// New requests.
    pub requests: usize,
    /// Between strides the thread lets others run: a client that was woken on this processor
    /// answers while the rest of the completions is worked on.
    pub give_way: bool,
}

impl Default for Stride {
    /// As far as there is work.
    fn default() -> Self {
        Self { completions: usize::MAX, requests: usize::MAX, give_way: false }
    }
}

impl Stride {
    /// What suits both of two front ends on one queue.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            completions: self.completions.min(other.completions),
            requests: self.requests.min(other.requests),
            give_way: self.give_way || other.give_way,
        }
    }
}

/// A source of requests that lives on one queue's thread. Nothing here may block.
pub trait FrontEnd {
    /// Called on every turn of the queue's loop: hand in requests while there is room.
    fn poll(&mut self, intake: &mut dyn Intake);
    /// A watched descriptor is ready (poll events), or the watch failed (negative errno); or the
    /// driver's result of a command.
    fn ready(&mut self, key: u32, events: i32);
    /// A request ended.
    fn complete(&mut self, tag: u64, outcome: Outcome);
    /// Called after a batch of `complete`s, once per turn: send replies now.
    fn flush_replies(&mut self) {}
    /// The device is another one now, larger perhaps; nothing is in flight.
    fn renewed(&mut self, _limits: Limits) {}
    /// How far the queue goes at a time.
    fn stride(&self) -> Stride {
        Stride::default()
    }
    /// It has ended before the device: nothing of it is under way, and nothing will come.
    fn gone(&self) -> bool {
        false
    }
    /// After [`Intake::stopping`]: nothing more will be handed in, all replies are out.
    fn finished(&self) -> bool;
}
