//! I15: a read that begins after an acknowledgement, on any queue, sees that write or a later one,
//! also when the write allocated, copied up or followed an unmapping.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::*;
use ploop_engine::*;
use ploop_io::EngineChoice;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn on_every_queue_through_allocation_copy_up_and_unmapping() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let g = Geometry::new(64, 2 << 20);
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    // Every other cluster is in the base: its first write is a copy-up.
    let content: Vec<_> = (0..g.entries()).step_by(2).map(|c| (c, vec![0; 32 << 10])).collect();
    make_image(&base, g, &content);
    make_image(&top, g, &[]);
    let options = DeviceOptions { queues: 3, depth: 16, ..DeviceOptions::default() };
    let rig = Rig::start(spec(g, &[base, top], false), options, EngineChoice::Uring);
    // The newest acknowledged number of each cluster; one writer, two readers.
    let acked: Vec<AtomicU64> = (0..g.entries()).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng(15);
            for number in 1..4000u64 {
                let cluster = rng.below(g.entries());
                let at = cluster * g.cluster.bytes();
                if rng.below(6) == 0 {
                    // Numbers never fall back: what is zeroed is written again before it counts.
                    let len = g.cluster.bytes();
                    acked[cluster as usize].store(0, Ordering::SeqCst);
                    rig.plain(0, Operation::WriteZeroes, at, len, Flags::default()).unwrap();
                }
                let bytes = number.to_le_bytes().repeat(512);
                rig.write(0, at + 8192, &bytes, Flags::default()).unwrap();
                acked[cluster as usize].store(number, Ordering::SeqCst);
            }
            done.store(1, Ordering::SeqCst);
        });
        for queue in 1..3 {
            let (rig, acked, done) = (&rig, &acked, &done);
            scope.spawn(move || {
                let mut rng = Rng(queue as u64 * 31);
                while done.load(Ordering::SeqCst) == 0 {
                    let cluster = rng.below(g.entries());
                    let before = acked[cluster as usize].load(Ordering::SeqCst);
                    let at = cluster * g.cluster.bytes() + 8192;
                    let got = rig.read(queue, at, 4096).unwrap();
                    let after = acked[cluster as usize].load(Ordering::SeqCst);
                    let words =
                        got.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap()));
                    let oldest = words.min().unwrap();
                    // A zeroing in between is told by `after` being 0 or newer.
                    assert!(oldest >= before || after != before, "{oldest} after {before}");
                }
            });
        }
    });
    assert!(rig.stop().clean);
}
