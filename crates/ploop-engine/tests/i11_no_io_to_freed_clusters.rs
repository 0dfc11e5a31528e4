//! I11: no I/O reaches a file cluster after it was freed. Clusters are written, read, unmapped and
//! reused by several queues at once; each cluster's bytes carry its own number, so bytes of
//! another one are seen at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::*;
use ploop_engine::*;
use ploop_io::EngineChoice;

const CLUSTERS: u64 = 48;

fn stamp(cluster: u64, len: usize) -> Vec<u8> {
    cluster.to_le_bytes().repeat(len / 8)
}

fn stress(rig: &Rig, g: Geometry, queue: usize, seed: u64) {
    let mut rng = Rng(seed);
    for _ in 0..1500 {
        let cluster = 1 + rng.below(CLUSTERS - 1);
        let start = cluster * g.cluster.bytes();
        let from = rng.below(8) * 4096;
        match rng.below(4) {
            0 => {
                let op = [Operation::Discard, Operation::WriteZeroes][rng.below(2) as usize];
                rig.plain(queue, op, start, g.cluster.bytes(), Flags::default()).unwrap();
            }
            1 => {
                let bytes = stamp(cluster, 4096);
                rig.write(queue, start + from, &bytes, Flags::default()).unwrap();
            }
            2 if rng.below(20) == 0 => {
                rig.plain(queue, Operation::Flush, 0, 0, Flags::default()).unwrap();
            }
            _ => {
                let got = rig.read(queue, start, g.cluster.bytes() as usize).unwrap();
                for word in got.chunks_exact(8) {
                    let word = u64::from_le_bytes(word.try_into().unwrap());
                    assert!(word == 0 || word == cluster, "cluster {cluster} shows {word}");
                }
            }
        }
    }
}

fn run(engine: EngineChoice) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let g = Geometry::new(64, CLUSTERS << 15);
    let path = dir.path().join("top");
    make_image(&path, g, &[]);
    let options = DeviceOptions { queues: 3, depth: 16, ..DeviceOptions::default() };
    let rig = Rig::start(spec(g, std::slice::from_ref(&path), false), options, engine);
    std::thread::scope(|scope| {
        for worker in 0..9 {
            let rig = &rig;
            scope.spawn(move || stress(rig, g, worker % 3, 77 + worker as u64));
        }
    });
    assert!(rig.device.keeper_stats().unmapped.get() > 0, "clusters were freed");
    assert!(rig.stop().clean);
    scan(&path, g);
}

#[test]
fn on_the_ring() {
    run(EngineChoice::Uring);
}

#[test]
fn on_threads() {
    run(EngineChoice::Threads);
}
