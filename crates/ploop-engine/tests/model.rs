//! Random operations against a flat array, on real files, with real threads.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::*;
use ploop_engine::*;
use ploop_format::Version;
use ploop_io::EngineChoice;
use std::path::PathBuf;

struct Case {
    g: Geometry,
    levels: usize,
    raw_base: bool,
    engine: EngineChoice,
    queues: usize,
    seed: u64,
    steps: usize,
}

/// Makes a chain with random content; returns the paths and the flat content.
fn make_chain(dir: &std::path::Path, case: &Case, rng: &mut Rng) -> (Vec<PathBuf>, Vec<u8>) {
    let g = case.g;
    let cluster = g.cluster.bytes() as usize;
    let mut flat = vec![0u8; g.size as usize];
    let mut paths = Vec::new();
    for level in 0..case.levels {
        let path = dir.join(format!("level{level}"));
        if case.raw_base && level == 0 {
            // A raw file may end anywhere (F18).
            let len =
                if case.levels > 1 { g.size as usize * 2 / 3 + 1000 } else { g.size as usize };
            let bytes = pattern(rng, len);
            flat[..len].copy_from_slice(&bytes);
            std::fs::write(&path, bytes).unwrap();
        } else {
            let mut content = Vec::new();
            for guest in 0..g.entries() {
                if level + 1 < case.levels && rng.below(3) == 0 {
                    let mut bytes = pattern(rng, cluster);
                    if rng.below(4) == 0 {
                        bytes[cluster / 2..].fill(0);
                    }
                    let at = guest as usize * cluster;
                    let n = cluster.min(flat.len() - at);
                    flat[at..at + n].copy_from_slice(&bytes[..n]);
                    content.push((guest, bytes));
                }
            }
            make_image(&path, g, &content);
        }
        paths.push(path);
    }
    (paths, flat)
}

fn run(case: &Case) {
    let dir =
        tempfile::tempdir_in(std::env::var("PLOOP_TEST_DIR").unwrap_or("/var/tmp".into())).unwrap();
    let mut rng = Rng(case.seed | 1);
    let (paths, mut flat) = make_chain(dir.path(), case, &mut rng);
    let lowers: Vec<Vec<u8>> =
        paths[..paths.len() - 1].iter().map(|p| std::fs::read(p).unwrap()).collect();
    for life in 0..2 {
        let options = DeviceOptions { queues: case.queues, depth: 32, ..DeviceOptions::default() };
        let rig = Rig::start(spec(case.g, &paths, case.raw_base), options, case.engine);
        let share = case.g.size / case.queues as u64 / 65536 * 65536;
        std::thread::scope(|scope| {
            let mut rest = &mut flat[..];
            let mut base = 0;
            for queue in 0..case.queues {
                let (mine, others) = rest.split_at_mut(share as usize);
                rest = others;
                let rig = &rig;
                let seed = case.seed + queue as u64 * 7919 + life * 104_729;
                scope.spawn(move || {
                    let mut rng = Rng(seed | 1);
                    let mut model = vec![0; base as usize];
                    model.extend_from_slice(mine);
                    for _ in 0..case.steps {
                        step(rig, &mut model, queue, base, share, &mut rng);
                    }
                    mine.copy_from_slice(&model[base as usize..]);
                });
                base += share;
            }
        });
        let extents = rig.extents(0, case.g.size);
        assert!(!extents.is_empty());
        let report = rig.stop();
        assert!(report.clean, "{report:?}");
        if !(case.raw_base && case.levels == 1) {
            let map = scan(paths.last().unwrap(), case.g);
            assert_eq!(report.mapped, !map.is_empty());
            let end =
                map.values().max().map_or(case.g.data_start(), |a| a + case.g.cluster.bytes());
            assert_eq!(report.end, end);
        }
        for (path, before) in paths.iter().zip(&lowers) {
            assert!(std::fs::read(path).unwrap() == *before, "I6: {path:?} changed");
        }
        // Everything reads back in the next life.
        let rig =
            Rig::start(spec(case.g, &paths, case.raw_base), DeviceOptions::default(), case.engine);
        for (n, want) in flat.chunks(1 << 20).enumerate() {
            let got = rig.read(0, (n << 20) as u64, want.len()).unwrap();
            let bad = got.iter().zip(want).position(|(a, b)| a != b);
            assert_eq!(bad, None, "life {life}, MiB {n}");
        }
        assert!(rig.stop().clean);
    }
}

fn case(seed: u64) -> Case {
    Case {
        g: Geometry::new(64, 8 << 20),
        levels: 1,
        raw_base: false,
        engine: EngineChoice::Uring,
        queues: 2,
        seed,
        steps: 600,
    }
}

#[test]
fn a_single_image() {
    run(&case(1));
}

#[test]
fn a_single_image_on_the_thread_engine() {
    run(&Case { engine: EngineChoice::Threads, ..case(2) });
}

#[test]
fn a_chain_of_three() {
    run(&Case { levels: 3, ..case(3) });
}

#[test]
fn a_chain_over_a_raw_base() {
    run(&Case { levels: 2, raw_base: true, ..case(4) });
}

#[test]
fn a_raw_disk() {
    run(&Case { raw_base: true, ..case(5) });
}

#[test]
fn version_one() {
    let mut c = Case { levels: 2, ..case(6) };
    c.g.version = Version::V1;
    run(&c);
}

#[test]
fn a_device_that_is_not_whole_clusters() {
    run(&Case { g: Geometry::new(64, (8 << 20) + 12 * 512), levels: 2, queues: 1, ..case(7) });
}

#[test]
fn large_clusters_and_a_deep_chain() {
    run(&Case { g: Geometry::new(4096, 32 << 20), levels: 5, steps: 300, ..case(8) });
}

#[test]
fn many_seeds() {
    for seed in 100..112 {
        run(&Case { levels: 1 + seed as usize % 4, steps: 200, ..case(seed) });
    }
}

#[test]
fn clusters_of_unknown_owner_are_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let g = Geometry::new(64, 1 << 20);
    let path = dir.path().join("top");
    let content = [(0, vec![1; 32 << 10]), (1, vec![2; 32 << 10])];
    make_image(&path, g, &content);
    let mut spec = spec(g, &[path], false);
    spec.read_only = true;
    spec.refused = vec![ploop_format::GuestCluster(1)];
    let rig = Rig::start(spec, DeviceOptions::default(), EngineChoice::Uring);
    assert_eq!(rig.read(0, 0, 512).unwrap()[0], 1);
    assert_eq!(rig.read(0, 32 << 10, 512).unwrap_err(), Errno::IO);
    assert_eq!(rig.write(0, 0, &[0; 512], Flags::default()), Err(Errno::ROFS));
    assert!(rig.stop().clean);
}
