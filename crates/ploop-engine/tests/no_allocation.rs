//! The path of a mapped read or overwrite allocates nothing, on any thread: a counting allocator
//! watches 100,000 of them on the engine the machine has.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::{Geometry, Rng, make_image, spec};
use ploop_engine::*;
use ploop_io::{AlignedBuf, Engine, EngineChoice, RealClock};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTS.load(Ordering::Relaxed) {
            CALLS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DEPTH: usize = 32;
const BLOCK: u64 = 4096;
const WARM: u64 = 2_000;
const WATCHED: u64 = 100_000;

/// Keeps `DEPTH` requests in flight, reads and overwrites in turn.
struct Load {
    buffers: Vec<AlignedBuf>,
    free: Vec<u64>,
    rng: Rng,
    blocks: u64,
    given: u64,
    ended: u64,
}

impl FrontEnd for Load {
    fn poll(&mut self, intake: &mut dyn Intake) {
        while self.given < WARM + WATCHED && intake.room() > 0 {
            let Some(tag) = self.free.pop() else { return };
            let memory = &mut self.buffers[tag as usize];
            // SAFETY: the buffer is not touched until its request completed.
            let buffer = unsafe { Buffer::new(memory.as_mut_ptr(), memory.len()) };
            let write = self.given % 2 == 1;
            intake.push(Request {
                tag,
                operation: if write { Operation::Write } else { Operation::Read },
                flags: Flags::default(),
                offset: self.rng.below(self.blocks) * BLOCK,
                len: BLOCK,
                buffer,
            });
            self.given += 1;
        }
    }

    fn ready(&mut self, _key: u32, _events: i32) {}

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        assert_eq!(outcome, Ok(0));
        self.free.push(tag);
        self.ended += 1;
        if self.ended == WARM {
            COUNTS.store(true, Ordering::SeqCst);
        } else if self.ended == WARM + WATCHED {
            COUNTS.store(false, Ordering::SeqCst);
        }
    }

    fn finished(&self) -> bool {
        true
    }
}

/// Ends the device when all is done.
struct UntilDone<'a>(Load, &'a Device);

impl FrontEnd for UntilDone<'_> {
    fn poll(&mut self, intake: &mut dyn Intake) {
        self.0.poll(intake);
        if self.0.ended == WARM + WATCHED {
            self.1.stop();
        }
        // Nobody else wakes this queue.
        intake.poll_at(intake.now() + 1_000_000);
    }

    fn ready(&mut self, key: u32, events: i32) {
        self.0.ready(key, events);
    }

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        self.0.complete(tag, outcome);
    }

    fn finished(&self) -> bool {
        self.0.ended == WARM + WATCHED
    }
}

#[test]
fn a_hundred_thousand_mapped_reads_and_writes_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let geometry = Geometry::new(128, 4 << 20);
    let path = dir.path().join("top.hds");
    let content: Vec<_> = (0..64).map(|n| (n, vec![n as u8; 64 << 10])).collect();
    make_image(&path, geometry, &content);
    let options = DeviceOptions { queues: 1, depth: DEPTH, ..DeviceOptions::default() };
    let device = Device::new(spec(geometry, &[path], false), options).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (io, _) = Engine::open(EngineChoice::Auto).unwrap();
            let mut keeper = device.keeper(io).unwrap();
            keeper.run(&RealClock, &|| ended.load(Ordering::SeqCst)).unwrap()
        });
        let (io, _) = Engine::open(EngineChoice::Auto).unwrap();
        println!("engine {}", io.name());
        let load = Load {
            buffers: (0..DEPTH).map(|_| AlignedBuf::new(BLOCK as usize).unwrap()).collect(),
            free: (0..DEPTH as u64).collect(),
            rng: Rng(7),
            blocks: (4 << 20) / BLOCK,
            given: 0,
            ended: 0,
        };
        let mut queue = device.queue(0, io);
        queue.run(&mut UntilDone(load, &device), &RealClock).unwrap();
        ended.store(true, Ordering::SeqCst);
        device.wake_keeper();
    });
    assert_eq!(CALLS.load(Ordering::SeqCst), 0, "allocations in {WATCHED} mapped operations");
}
