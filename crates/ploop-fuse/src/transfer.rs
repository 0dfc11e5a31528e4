//! From bytes of a file to requests the engine takes.
//!
//! Everything here is a chain of callbacks: each function hands a request in and returns, `done`
//! is called on the queue's thread (at once when the device has stopped). Requests are split at
//! the engine's limits and spread over its queues.

use crate::pool::{Bounce, Pool};
use crate::ranges::{Held, Hold, Ranges};
use ploop_engine::remote::RemoteHandle;
use ploop_engine::{Buffer, Errno, ExtentRecord, Flags, Limits, Operation, Outcome, Request};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of extent records asked for at once.
const EXTENT_BYTES: usize = 4096;

/// The engine as the file system sees it.
pub(crate) struct Engine {
    handles: Vec<RemoteHandle>,
    turn: AtomicUsize,
    limits: Limits,
    size: AtomicU64,
    pool: Arc<Pool>,
    ranges: Arc<Ranges>,
}

/// What the pieces of one transfer share.
struct Pieces<F> {
    left: AtomicUsize,
    error: Mutex<Option<Errno>>,
    end: Mutex<Option<(Bounce, F)>>,
}

/// A range being zeroed: partial blocks first, then whole ones.
struct Zeroing<F> {
    edges: Vec<Range<u64>>,
    whole: Range<u64>,
    flags: Flags,
    held: Held,
    done: F,
}

impl Engine {
    pub(crate) fn new(handles: Vec<RemoteHandle>, limits: Limits) -> Arc<Self> {
        let engine = Self {
            handles,
            turn: AtomicUsize::new(0),
            size: AtomicU64::new(0),
            pool: Pool::new(limits.buffer_align),
            ranges: Arc::default(),
            limits,
        };
        engine.set_size(limits.size);
        Arc::new(engine)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes of the file: whole blocks of the device.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size / self.block() * self.block(), Ordering::Relaxed);
    }

    fn block(&self) -> u64 {
        u64::from(self.limits.block)
    }

    /// The blocks that a byte range touches, in bytes.
    fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        let block = self.block();
        range.start / block * block..range.end.div_ceil(block) * block
    }

    fn take(&self, len: u64) -> Result<Bounce, Errno> {
        usize::try_from(len).ok().and_then(|len| self.pool.take(len)).ok_or(Errno::NOMEM)
    }

    /// The same for a worker's thread, which may wait for one.
    fn wait(&self, len: u64) -> Result<Bounce, Errno> {
        usize::try_from(len).ok().and_then(|len| self.pool.wait(len)).ok_or(Errno::NOMEM)
    }

    fn submit(&self, request: Request, done: impl FnOnce(Outcome) + Send + 'static) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match self.handles.get(turn % self.handles.len().max(1)) {
            Some(handle) => handle.submit(request, Box::new(done)),
            None => done(Err(Errno::SHUTDOWN)),
        }
    }

    /// Everything answered before is durable.
    pub(crate) fn flush(&self, done: impl FnOnce(Outcome) + Send + 'static) {
        self.submit(plain(Operation::Flush, Flags::default(), 0, 0), done);
    }

    /// Reads `range`, which lies inside the file; `done` gets its bytes.
    pub(crate) fn read(
        &self,
        range: Range<u64>,
        done: impl FnOnce(Result<&[u8], Errno>) + Send + 'static,
    ) {
        let blocks = self.blocks(&range);
        let bounce = match self.wait(blocks.end - blocks.start) {
            Ok(bounce) => bounce,
            Err(error) => return done(Err(error)),
        };
        let skip = (range.start - blocks.start) as usize;
        let len = (range.end - range.start) as usize;
        let flags = Flags::default();
        self.transfer(Operation::Read, flags, blocks.start, bounce, move |bounce, outcome| {
            done(outcome.map(|()| &bounce.bytes()[skip..skip + len]));
        });
    }

    /// Writes `data` at `at`, inside the file. Partial blocks are read, changed and written while
    /// nobody else writes them: the slow path.
    pub(crate) fn write(
        self: &Arc<Self>,
        at: u64,
        data: &[u8],
        fua: bool,
        done: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let range = at..at + data.len() as u64;
        let blocks = self.blocks(&range);
        let mut bounce = match self.wait(blocks.end - blocks.start) {
            Ok(bounce) => bounce,
            Err(error) => return done(Err(error)),
        };
        let skip = (range.start - blocks.start) as usize;
        bounce.bytes_mut()[skip..skip + data.len()].copy_from_slice(data);
        let flags = Flags { fua, ..Flags::default() };
        let hold = if blocks == range { Hold::Shared } else { Hold::Exclusive };
        let engine = Arc::clone(self);
        self.ranges.acquire(blocks.start, blocks.end, hold, move |held| {
            let done = move |outcome| {
                drop(held);
                done(outcome);
            };
            engine.write_blocks(range, bounce, flags, done);
        });
    }

    /// Writes a buffer of whole blocks of which only `range` has been filled.
    fn write_blocks(
        self: Arc<Self>,
        range: Range<u64>,
        bounce: Bounce,
        flags: Flags,
        done: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let blocks = self.blocks(&range);
        let block = self.block();
        let mut missing = Vec::new();
        if range.start > blocks.start {
            missing.push(blocks.start);
        }
        if range.end < blocks.end && missing.first() != Some(&(blocks.end - block)) {
            missing.push(blocks.end - block);
        }
        self.fill_block(range, missing, bounce, move |engine, bounce, outcome| match outcome {
            Ok(()) => {
                let end = move |_: Bounce, outcome| done(outcome);
                engine.transfer(Operation::Write, flags, blocks.start, bounce, end);
            }
            Err(error) => done(Err(error)),
        });
    }

    /// Fills what lies outside `range` in the blocks at `missing` from the device.
    fn fill_block(
        self: Arc<Self>,
        range: Range<u64>,
        mut missing: Vec<u64>,
        mut bounce: Bounce,
        done: impl FnOnce(&Arc<Self>, Bounce, Result<(), Errno>) + Send + 'static,
    ) {
        let Some(at) = missing.pop() else {
            return done(&self, bounce, Ok(()));
        };
        let old = match self.take(self.block()) {
            Ok(old) => old,
            Err(error) => return done(&self, bounce, Err(error)),
        };
        let engine = Arc::clone(&self);
        self.transfer(Operation::Read, Flags::default(), at, old, move |old, outcome| {
            if let Err(error) = outcome {
                return done(&engine, bounce, Err(error));
            }
            let base = (at - engine.blocks(&range).start) as usize;
            let block = &mut bounce.bytes_mut()[base..base + old.len()];
            let head = range.start.saturating_sub(at).min(old.len() as u64) as usize;
            let tail = range.end.saturating_sub(at).min(old.len() as u64) as usize;
            block[..head].copy_from_slice(&old.bytes()[..head]);
            block[tail..].copy_from_slice(&old.bytes()[tail..]);
            engine.fill_block(range, missing, bounce, done);
        });
    }

    /// Reads or writes a buffer of whole blocks, in pieces of the longest transfer.
    fn transfer<F>(&self, operation: Operation, flags: Flags, at: u64, bounce: Bounce, done: F)
    where
        F: FnOnce(Bounce, Result<(), Errno>) + Send + 'static,
    {
        let longest = (u64::from(self.limits.max_transfer) / self.block()).max(1) * self.block();
        let len = bounce.len() as u64;
        if len <= longest {
            // SAFETY: the bounce is owned by the callback, and nobody touches it before.
            let buffer = unsafe { Buffer::new(bounce.ptr(), bounce.len()) };
            let request = Request { buffer, ..plain(operation, flags, at, len) };
            return self.submit(request, move |outcome| done(bounce, outcome.map(drop)));
        }
        let pieces: Vec<_> = (0..len).step_by(longest as usize).collect();
        let memory = bounce.ptr();
        let shared = Arc::new(Pieces {
            left: AtomicUsize::new(pieces.len()),
            error: Mutex::default(),
            end: Mutex::new(Some((bounce, done))),
        });
        // Buffers first: the last callback may free the memory while this loop still runs.
        let requests: Vec<_> = pieces
            .into_iter()
            .map(|start| {
                let len = longest.min(len - start);
                // SAFETY: inside the bounce, disjoint from the others; the bounce lives in
                // `shared` until the last piece is done.
                let buffer =
                    unsafe { Buffer::new(memory.wrapping_add(start as usize), len as usize) };
                Request { buffer, ..plain(operation, flags, at + start, len) }
            })
            .collect();
        for request in requests {
            let shared = Arc::clone(&shared);
            self.submit(request, move |outcome| shared.ended(outcome));
        }
    }

    /// Makes `range`, inside the file, read as zeros: whole blocks by zeroing, the edges by
    /// writing zeros (F24).
    pub(crate) fn zero(
        self: &Arc<Self>,
        range: Range<u64>,
        flags: Flags,
        done: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let block = self.block();
        let blocks = self.blocks(&range);
        let whole = range.start.div_ceil(block) * block..range.end / block * block;
        let mut edges = Vec::new();
        if whole.start > whole.end {
            edges.push(range.clone());
        } else {
            edges.extend([range.start..whole.start, whole.end..range.end]);
            edges.retain(|edge| !edge.is_empty());
        }
        let hold = if edges.is_empty() { Hold::Shared } else { Hold::Exclusive };
        let engine = Arc::clone(self);
        self.ranges.acquire(blocks.start, blocks.end, hold, move |held| {
            engine.zero_next(Zeroing { edges, whole, flags, held, done });
        });
    }

    fn zero_next<F>(self: Arc<Self>, mut job: Zeroing<F>)
    where
        F: FnOnce(Result<(), Errno>) + Send + 'static,
    {
        if let Some(edge) = job.edges.pop() {
            let blocks = self.blocks(&edge);
            let mut bounce = match self.take(blocks.end - blocks.start) {
                Ok(bounce) => bounce,
                Err(error) => return job.end(Err(error)),
            };
            bounce.bytes_mut().fill(0);
            let engine = Arc::clone(&self);
            return self.write_blocks(edge, bounce, job.flags, move |outcome| match outcome {
                Ok(()) => engine.zero_next(job),
                Err(error) => job.end(Err(error)),
            });
        }
        if job.whole.start >= job.whole.end {
            return job.end(Ok(()));
        }
        let longest = (self.limits.max_zero / self.block()).max(1) * self.block();
        let len = longest.min(job.whole.end - job.whole.start);
        let request = plain(Operation::WriteZeroes, job.flags, job.whole.start, len);
        job.whole.start += len;
        let engine = Arc::clone(&self);
        self.submit(request, move |outcome| match outcome {
            Ok(_) => engine.zero_next(job),
            Err(error) => job.end(Err(error)),
        });
    }

    /// The first byte of data (or of a hole) at or after `at`. Past the end of the data: `ENXIO`
    /// for data, the file's size for a hole.
    pub(crate) fn seek(
        self: &Arc<Self>,
        at: u64,
        hole: bool,
        done: impl FnOnce(Result<u64, Errno>) + Send + 'static,
    ) {
        let size = self.size();
        if at >= size {
            return done(if hole { Ok(size) } else { Err(Errno::NXIO) });
        }
        let start = at / self.block() * self.block();
        let records = match self.take(EXTENT_BYTES as u64) {
            Ok(records) => records,
            Err(error) => return done(Err(error)),
        };
        // SAFETY: the buffer is owned by the callback, and nobody touches it before.
        let buffer = unsafe { Buffer::new(records.ptr(), records.len()) };
        let request =
            Request { buffer, ..plain(Operation::Extents, Flags::default(), start, size - start) };
        let engine = Arc::clone(self);
        self.submit(request, move |outcome| {
            let filled = match outcome {
                Ok(filled) => (filled as usize).min(records.len()),
                // No answer: all of it may be data.
                Err(Errno::OPNOTSUPP) => return done(Ok(if hole { size } else { at })),
                Err(error) => return done(Err(error)),
            };
            let mut end = start;
            for record in ExtentRecord::parse(&records.bytes()[..filled]) {
                let from = end.max(at);
                end = end.saturating_add(record.len).min(size);
                if end > from && (record.level == ExtentRecord::HOLE) == hole {
                    return done(Ok(from));
                }
            }
            if end <= start {
                return done(Err(Errno::IO));
            }
            drop(records);
            engine.seek(end.max(at), hole, done);
        });
    }
}

impl<F> Zeroing<F>
where
    F: FnOnce(Result<(), Errno>),
{
    fn end(self, outcome: Result<(), Errno>) {
        drop(self.held);
        (self.done)(outcome);
    }
}

impl<F> Pieces<F>
where
    F: FnOnce(Bounce, Result<(), Errno>),
{
    fn ended(&self, outcome: Outcome) {
        if let Err(error) = outcome {
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((bounce, done)) = end {
            done(bounce, error.map_or(Ok(()), Err));
        }
    }
}

fn plain(operation: Operation, flags: Flags, offset: u64, len: u64) -> Request {
    Request { tag: 0, operation, flags, offset, len, buffer: Buffer::NONE }
}
