//! What the conformance tests share: an engine, a file, and a way to run operations.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ploop_io::{
    AlignedBuf, Completion, Dir, File, Io, Null, Op, OpKind, OpenHow, RealDir, Threads, Uring,
    why_no_uring,
};
use tempfile::TempDir;

/// Longest a test waits for anything: only a bug takes that long.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Uring,
    Threads,
    Null,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The disk the target directory is on.
    Disk,
    /// tmpfs.
    Shm,
}

/// Says on the test's output that it did not run, and why.
#[allow(clippy::print_stderr, reason = "a skipped test says why")]
pub fn skip(why: &str) {
    eprintln!("skip: {why}");
}

/// An engine for this thread, with a ring of 64 entries.
pub fn engine(kind: Kind) -> Option<Box<dyn Io>> {
    match kind {
        Kind::Uring => match Uring::new(64) {
            Ok(ring) => Some(Box::new(ring)),
            Err(error) => {
                skip(&why_no_uring(&error));
                None
            }
        },
        Kind::Threads => Some(Box::new(Threads::new().unwrap())),
        Kind::Null => Some(Box::new(Null::new().unwrap())),
    }
}

pub fn temp(place: Place) -> TempDir {
    match place {
        Place::Disk => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        Place::Shm => tempfile::tempdir_in("/dev/shm").unwrap(),
    }
}

pub fn create(path: &Path, direct: bool) -> File {
    let how = OpenHow { write: true, create_new: true, direct, ..OpenHow::default() };
    RealDir.open(path, how).unwrap()
}

/// An engine and a file of its own.
pub struct Rig {
    pub io: Box<dyn Io>,
    pub file: File,
    pub kind: Kind,
    pub place: Place,
    pub dir: TempDir,
    early: HashMap<u64, i32>,
}

impl Rig {
    pub fn new(kind: Kind, place: Place) -> Option<Self> {
        let io = engine(kind)?;
        let dir = temp(place);
        let file = create(&dir.path().join("image"), false);
        Some(Self { io, file, kind, place, dir, early: HashMap::new() })
    }

    pub fn op(&self, token: u64, kind: OpKind, offset: u64, len: u64, buf: *mut u8) -> Op {
        Op { token, kind, file: self.file.id(), offset, len, buf, lent: None }
    }

    /// Runs one operation to its end.
    pub fn run(&mut self, kind: OpKind, offset: u64, len: u64, buf: *mut u8) -> i32 {
        const TOKEN: u64 = 7_000_000;
        let op = self.op(TOKEN, kind, offset, len, buf);
        // SAFETY: the caller's buffer outlives this call, which waits for the completion.
        unsafe { self.io.push(op) };
        self.until(TOKEN)
    }

    /// Waits for the completion of `token`.
    pub fn until(&mut self, token: u64) -> i32 {
        let start = Instant::now();
        let mut got = Vec::new();
        loop {
            if let Some(result) = self.early.remove(&token) {
                return result;
            }
            assert!(start.elapsed() < PATIENCE, "no completion of {token}");
            self.io.wait(Some(Duration::from_secs(5)), &|| true).unwrap();
            self.io.reap(&mut got);
            for Completion { token, result } in got.drain(..) {
                assert_eq!(self.early.insert(token, result), None, "{token} completed twice");
            }
        }
    }

    /// A write of `len` bytes of `byte`.
    pub fn write(&mut self, at: u64, len: usize, byte: u8) -> i32 {
        let mut buf = AlignedBuf::new(len).unwrap();
        buf.fill(byte);
        self.run(OpKind::Write, at, len as u64, buf.as_mut_ptr())
    }

    /// What the file holds, through the engine.
    pub fn read(&mut self, at: u64, len: usize) -> (i32, AlignedBuf) {
        let mut buf = AlignedBuf::new(len).unwrap();
        buf.fill(0xEE);
        let got = self.run(OpKind::Read, at, len as u64, buf.as_mut_ptr());
        (got, buf)
    }
}

/// A small generator, so that a failing test can be run again.
pub struct Lcg(pub u64);

impl Lcg {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}
