//! Every route of every operation is counted as what it is, in the queue that served it, and the
//! keeper's counters say what it did.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::*;
use ploop_engine::stats::{CLASSES, QueueStats};
use ploop_engine::*;
use ploop_io::EngineChoice;
use std::collections::BTreeMap;

const SIZE: u64 = 32 << 15;
const CLUSTER: u64 = 1 << 15;
const NONE: Flags = Flags { fua: false, preflush: false, no_unmap: false, fast_zero: false };

fn start(dir: &tempfile::TempDir, queues: usize) -> Rig {
    let g = Geometry::new(64, SIZE);
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    let full = |byte: u8| vec![byte; CLUSTER as usize];
    let below: Vec<_> = (1..8).map(|n| (n, full(1))).collect();
    make_image(&base, g, &below);
    make_image(&top, g, &[(10, full(2)), (11, full(2)), (12, full(2)), (7, full(2))]);
    // No page is written before somebody asks for it.
    let metadata_delay_ms = 600_000;
    let options =
        DeviceOptions { queues, depth: 16, metadata_delay_ms, ..DeviceOptions::default() };
    Rig::start(spec(g, &[base, top], false), options, EngineChoice::Threads)
}

fn counts(stats: &QueueStats) -> BTreeMap<(&'static str, &'static str), (u64, u64)> {
    let mut all = BTreeMap::new();
    for (class, stats) in CLASSES.iter().zip(&stats.classes) {
        let requests: u64 = stats.latency.counts().sum();
        if requests > 0 || stats.bytes.get() > 0 {
            all.insert((class.operation, class.route), (requests, stats.bytes.get()));
        }
    }
    all
}

/// Does one thing and returns what was counted for it.
fn counted(rig: &Rig, act: impl FnOnce(&Rig)) -> Vec<(&'static str, &'static str, u64, u64)> {
    let before = counts(rig.device.queue_stats(0));
    act(rig);
    let after = counts(rig.device.queue_stats(0));
    let mut news = Vec::new();
    for ((operation, route), (requests, bytes)) in after {
        let (r, b) = before.get(&(operation, route)).copied().unwrap_or_default();
        if (requests, bytes) != (r, b) {
            news.push((operation, route, requests - r, bytes - b));
        }
    }
    news
}

fn write(at: u64, byte: u8, len: u64) -> impl FnOnce(&Rig) {
    move |rig| assert_eq!(rig.write(0, at, &vec![byte; len as usize], NONE), Ok(0))
}

fn read(at: u64, len: u64) -> impl FnOnce(&Rig) {
    move |rig| drop(rig.read(0, at, len as usize).unwrap())
}

fn plain(operation: Operation, at: u64, len: u64) -> impl FnOnce(&Rig) {
    move |rig| assert_eq!(rig.plain(0, operation, at, len, NONE), Ok(0))
}

#[test]
fn reads_and_writes_count_by_route() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let rig = start(&dir, 1);
    let c = CLUSTER;
    assert_eq!(counted(&rig, read(20 * c, 4096)), [("read", "hole", 1, 4096)]);
    assert_eq!(counted(&rig, read(10 * c, 4096)), [("read", "top", 1, 4096)]);
    assert_eq!(counted(&rig, read(c, 512)), [("read", "below", 1, 512)]);
    // Several pieces: the slowest route names the request, once.
    assert_eq!(counted(&rig, read(9 * c, 2 * c)), [("read", "top", 1, 2 * c)]);
    assert_eq!(counted(&rig, read(6 * c, 3 * c)), [("read", "below", 1, 3 * c)]);
    assert_eq!(counted(&rig, write(20 * c, 0, 4096)), [("write", "nothing", 1, 4096)]);
    assert_eq!(counted(&rig, write(20 * c, 3, 4096)), [("write", "allocate", 1, 4096)]);
    assert_eq!(counted(&rig, write(20 * c, 4, 4096)), [("write", "top", 1, 4096)]);
    assert_eq!(counted(&rig, write(c, 3, 4096)), [("write", "copy_up", 1, 4096)]);
    assert_eq!(counted(&rig, write(c, 3, 4096)), [("write", "top", 1, 4096)]);
    assert_eq!(counted(&rig, write(20 * c, 3, 2 * c)), [("write", "allocate", 1, 2 * c)]);
    // An allocation beside a copy-up: a copy-up.
    assert_eq!(counted(&rig, read(8 * c, 512)), [("read", "hole", 1, 512)]);
    assert_eq!(counted(&rig, write(6 * c, 3, 3 * c)), [("write", "copy_up", 1, 3 * c)]);
    let keeper = rig.device.keeper_stats();
    assert_eq!((keeper.allocated.get(), keeper.copied_up.get()), (3, 2));
    assert!(keeper.extensions.get() > 0 && keeper.extended.get() >= 5);
    assert!(rig.stop().clean);
}

#[test]
fn discards_zeroes_and_flushes_count_by_route() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let rig = start(&dir, 1);
    let c = CLUSTER;
    let discard = |at, len| plain(Operation::Discard, at, len);
    assert_eq!(counted(&rig, discard(20 * c, c)), [("discard", "nothing", 1, c)]);
    assert_eq!(counted(&rig, discard(10 * c, 4096)), [("discard", "punch", 1, 4096)]);
    assert_eq!(counted(&rig, discard(10 * c, c)), [("discard", "unmap", 1, c)]);
    let zero = |at, len| plain(Operation::WriteZeroes, at, len);
    assert_eq!(counted(&rig, zero(10 * c, c)), [("write_zeroes", "nothing", 1, c)]);
    assert_eq!(counted(&rig, zero(11 * c, 4096)), [("write_zeroes", "top", 1, 4096)]);
    assert_eq!(counted(&rig, zero(11 * c, c)), [("write_zeroes", "unmap", 1, c)]);
    assert_eq!(counted(&rig, zero(2 * c, c)), [("write_zeroes", "allocate", 1, c)]);
    assert_eq!(counted(&rig, zero(3 * c, 4096)), [("write_zeroes", "copy_up", 1, 4096)]);
    assert_eq!(counted(&rig, plain(Operation::Flush, 0, 0)), [("flush", "flush", 1, 0)]);
    let asked = counted(&rig, |rig| drop(rig.extents(0, SIZE)));
    assert_eq!(asked, [("extents", "map", 1, SIZE)]);
    let keeper = rig.device.keeper_stats();
    assert_eq!((keeper.unmapped.get(), keeper.copied_up.get()), (2, 1));
    assert_eq!(keeper.sync_batches.counts().sum::<u64>(), 1);
    assert_eq!((keeper.sync_batches.sum(), keeper.sync_batches.max()), (1, 1));
    assert!(keeper.sync_latency.counts().sum::<u64>() <= keeper.syncs.get());
    assert!(keeper.changes_joined.get() > 0 && keeper.dirty_pages_max.get() == 1);
    assert!(rig.stop().clean);
}

#[test]
fn errors_count_apart_and_latency_is_what_the_clock_said() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let rig = start(&dir, 2);
    let nothing = counted(&rig, |rig| {
        assert!(rig.read(0, SIZE, 512).is_err());
        assert!(rig.write(0, SIZE, &[1; 512], NONE).is_err());
        assert!(rig.write(0, SIZE - 511, &[1; 512], NONE).is_err());
    });
    assert!(nothing.is_empty(), "{nothing:?}");
    let errors: Vec<u64> = rig.device.queue_stats(0).errors.iter().map(|e| e.get()).collect();
    assert_eq!(errors, [1, 2, 0, 0, 0, 0, 0]);
    // The other queue counts for itself.
    let began = std::time::Instant::now();
    rig.write(1, 25 * CLUSTER, &[5; 4096], Flags { fua: true, ..NONE }).unwrap();
    let took = began.elapsed().as_nanos() as u64;
    let stats = rig.device.queue_stats(1);
    assert_eq!(counts(stats), [(("write", "allocate"), (1, 4096))].into());
    let latency = &stats.classes[5].latency;
    assert_eq!((CLASSES[5].operation, CLASSES[5].route), ("write", "allocate"));
    // Its turn may have begun a little before the request came.
    let most = took + 1_000_000_000;
    assert!(latency.max() > 0 && latency.max() <= most, "{} of {took} ns", latency.max());
    assert_eq!(latency.sum(), latency.max());
    assert!(rig.stop().clean);
}
