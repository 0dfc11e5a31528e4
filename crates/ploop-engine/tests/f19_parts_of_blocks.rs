//! Requests of any byte range, from memory at any address: what direct I/O cannot take is rewritten
//! under a claim, or by a lone queue itself, and bytes beside it stay what they are, whoever writes
//! them meanwhile (F19).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::*;
use ploop_engine::*;
use ploop_io::{AlignedBuf, EngineChoice};
use std::path::{Path, PathBuf};

const CLUSTER: u64 = 32 << 10;
const SIZE: u64 = 16 * CLUSTER + 512;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::var("PLOOP_TEST_DIR").unwrap_or("/var/tmp".into())).unwrap()
}

/// A request whose memory begins `skip` bytes behind a page's start.
fn data(rig: &Rig, queue: usize, write: bool, at: u64, bytes: &mut [u8], skip: usize, fua: bool) {
    let mut memory = AlignedBuf::new(bytes.len() + skip).unwrap();
    memory[skip..].copy_from_slice(bytes);
    // SAFETY: `call` returns after completion.
    let buffer = unsafe { Buffer::new(memory[skip..].as_mut_ptr(), bytes.len()) };
    let operation = if write { Operation::Write } else { Operation::Read };
    let flags = Flags { fua, ..Flags::default() };
    let len = bytes.len() as u64;
    let request = Request { tag: 0, operation, flags, offset: at, len, buffer };
    assert_eq!(rig.handles[queue].call(request), Ok(0), "{operation:?} of {len} at {at}");
    bytes.copy_from_slice(&memory[skip..]);
}

/// A chain with something in each level below the top.
fn chain(dir: &Path, g: Geometry, levels: usize, raw: bool) -> (Vec<PathBuf>, Vec<u8>) {
    let mut rng = Rng(77);
    let mut flat = vec![0u8; g.size as usize];
    let mut paths = Vec::new();
    for level in 0..levels {
        let path = dir.join(format!("level{level}"));
        if raw && level == 0 {
            flat.copy_from_slice(&pattern(&mut rng, g.size as usize));
            std::fs::write(&path, &flat).unwrap();
        } else {
            let mut content = Vec::new();
            for guest in (0..g.entries() - 1).filter(|n| level + 1 < levels && n % 3 == 0) {
                let bytes = pattern(&mut rng, CLUSTER as usize);
                let at = (guest * CLUSTER) as usize;
                flat[at..at + CLUSTER as usize].copy_from_slice(&bytes);
                content.push((guest, bytes));
            }
            make_image(&path, g, &content);
        }
        paths.push(path);
    }
    (paths, flat)
}

/// Requests of which blocks were rewritten.
fn rewritten(rig: &Rig) -> u64 {
    (0..rig.device.queues()).map(|n| rig.device.queue_stats(n).rewritten.get()).sum()
}

/// Random ranges of `from..to`, by bytes, against a flat array.
fn life(rig: &Rig, queue: usize, flat: &mut [u8], base: u64, seed: u64) {
    let mut rng = Rng(seed | 1);
    for _ in 0..400 {
        let most = [5, 700, 9000, 80_000][rng.below(4) as usize];
        let from = rng.below(flat.len() as u64 - 1);
        let len = (1 + rng.below(most)).min(flat.len() as u64 - from);
        let (at, skip) = (base + from, [0, 1, 512][rng.below(3) as usize]);
        let mine = &mut flat[from as usize..(from + len) as usize];
        let flags = Flags { fua: rng.below(4) == 0, ..Flags::default() };
        match rng.below(10) {
            0..5 => {
                let bytes = pattern(&mut rng, len as usize);
                mine.copy_from_slice(&bytes);
                data(rig, queue, true, at, mine, skip, flags.fua);
            }
            5 => {
                rig.plain(queue, Operation::WriteZeroes, at, len, flags).unwrap();
                mine.fill(0);
            }
            6 => {
                rig.plain(queue, Operation::Discard, at, len, flags).unwrap();
                let mut got = vec![1; len as usize];
                data(rig, queue, false, at, &mut got, skip, false);
                assert!(got.iter().zip(&*mine).all(|(new, old)| new == old || *new == 0));
                mine.copy_from_slice(&got);
            }
            _ => {
                let mut got = vec![1; len as usize];
                data(rig, queue, false, at, &mut got, skip, false);
                assert!(got == mine, "read of {len} at {at}");
            }
        }
    }
    rig.plain(queue, Operation::Flush, 0, 0, Flags::default()).unwrap();
}

#[test]
fn every_byte_range_is_served() {
    for (levels, raw) in [(1, false), (3, false), (1, true), (2, true)] {
        let dir = scratch();
        let g = Geometry::new(64, SIZE);
        let (paths, mut flat) = chain(dir.path(), g, levels, raw);
        for (seed, queues) in [(0, 2), (1, 1), (2, 2), (3, 1)] {
            let options = DeviceOptions { queues, depth: 8, ..DeviceOptions::default() };
            let rig = Rig::start(spec(g, &paths, raw), options, EngineChoice::Auto);
            // Not at a block's border.
            let (low, high) = flat.split_at_mut(200_001);
            std::thread::scope(|scope| {
                scope.spawn(|| life(&rig, 0, low, 0, seed * 2 + 3));
                scope.spawn(|| life(&rig, queues - 1, high, 200_001, seed * 2 + 4));
            });
            let mut all = vec![0; flat.len()];
            data(&rig, 0, false, 0, &mut all, 0, false);
            assert!(all == flat, "{levels} levels, raw {raw}, {queues} queues");
            assert!(rewritten(&rig) > 100, "blocks were rewritten");
            assert!(rig.stop().clean);
        }
        if raw {
            let len = std::fs::metadata(&paths[0]).unwrap().len();
            assert_eq!(len, SIZE, "a plain file keeps its length");
        }
    }
}

/// Each writer has every eighth byte-run of the same few blocks, and one writes whole blocks in the
/// same cluster; everybody finds what it has written, at once and at the end.
#[test]
fn writers_of_one_block_do_not_undo_each_other() {
    writers(2);
}

#[test]
fn writers_of_one_block_on_one_queue_do_not_undo_each_other() {
    writers(1);
}

fn writers(queues: usize) {
    let dir = scratch();
    let g = Geometry::new(64, SIZE);
    let (paths, _) = chain(dir.path(), g, 1, false);
    let options = DeviceOptions { queues, depth: 16, ..DeviceOptions::default() };
    let rig = Rig::start(spec(g, &paths, false), options, EngineChoice::Auto);
    std::thread::scope(|scope| {
        for writer in 0..8u64 {
            let rig = &rig;
            scope.spawn(move || {
                let queue = writer as usize % queues;
                for turn in 0..300u64 {
                    let (at, len) = match writer {
                        7 => (turn % 2 * 4096, 4096),
                        _ => (8192 + turn % 4 * 700 + writer * 100, 100),
                    };
                    let value = (turn % 251) as u8 + 1;
                    data(rig, queue, true, at, &mut vec![value; len], 0, turn % 7 == 0);
                    let mut got = vec![0; len];
                    data(rig, queues - 1 - queue, false, at, &mut got, 0, false);
                    assert!(got.iter().all(|b| *b == value), "writer {writer}, turn {turn}");
                }
            });
        }
    });
    for writer in 0..7u64 {
        for place in 0..4u64 {
            let mut got = vec![0; 100];
            data(&rig, 0, false, 8192 + place * 700 + writer * 100, &mut got, 0, false);
            let last = (0..300).rev().find(|turn| turn % 4 == place).unwrap();
            assert!(got.iter().all(|b| u64::from(*b) == last % 251 + 1), "writer {writer}");
        }
    }
    assert_eq!(rewritten(&rig), 7 * 300, "all but the writes of whole blocks");
    assert!(rig.stop().clean);
}

/// The block that clients see is the disk's, and stays what it was when a device takes another's
/// place.
#[test]
fn the_block_size_is_the_disks_own() {
    let dir = scratch();
    let g = Geometry::new(64, SIZE);
    let (paths, _) = chain(dir.path(), g, 1, false);
    let of = |block| DeviceSpec { block, ..spec(g, &paths, false) };
    let device = Device::new(of(512), DeviceOptions::default()).unwrap();
    assert_eq!(device.limits().block, 512);
    let named = Device::new(of(4096), DeviceOptions::default()).unwrap();
    assert_eq!((named.limits().block, named.limits().physical_block), (4096, 4096));
    assert_eq!(device.successor(of(4096)).unwrap().limits().block, 512);
    let refused = Device::new(of(520), DeviceOptions::default()).err();
    assert_eq!(refused, Some(DeviceError::Block(520)));
}
