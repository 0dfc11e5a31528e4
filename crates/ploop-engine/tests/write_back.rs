//! Delayed write-back: changes of a page are collected, however many pages are dirty (P4).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::{Geometry, Rig, Rng, make_image, scan, spec};
use ploop_engine::*;
use ploop_io::EngineChoice;

/// More pages than a flush of one page after the other should find.
const PAGES: u64 = 600;
const WRITES: u64 = 4000;

#[test]
fn random_allocation_does_not_write_a_page_for_every_change() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = dir.path().join("top.hds");
    let geometry = Geometry::new(64, PAGES * 1024 * (32 << 10));
    make_image(&path, geometry, &[]);
    let options = DeviceOptions { metadata_delay_ms: 3_600_000, ..DeviceOptions::default() };
    let spec = spec(geometry, std::slice::from_ref(&path), false);
    let rig = Rig::start(spec, options, EngineChoice::Auto);
    let mut rng = Rng(5);
    for _ in 0..WRITES {
        let at = rng.below(geometry.entries()) * geometry.cluster.bytes();
        rig.write(0, at, &[7; 4096], Flags::default()).unwrap();
    }
    let stats = rig.device.keeper_stats();
    let (dirty, before) = (stats.dirty_pages.get(), stats.pages_written.get());
    assert!(dirty > PAGES * 9 / 10, "{dirty} pages are dirty");
    assert_eq!(before, 0, "no deadline has passed, and nobody waits");
    rig.plain(0, Operation::Flush, 0, 0, Flags::default()).unwrap();
    let written = rig.device.keeper_stats().pages_written.get();
    println!("{WRITES} changes, {dirty} dirty pages, {written} written by the flush");
    assert!(written >= dirty && written <= PAGES + 1);
    assert!(rig.stop().clean);
    assert!(scan(&path, geometry).len() as u64 > WRITES * 9 / 10);
}

/// A database writes, flushes, writes, flushes: the page of a change is on its way before the flush
/// that asks for it. A few changes without a flush, and pages are collected again.
#[test]
fn a_flush_after_every_change_finds_the_page_written() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = dir.path().join("top.hds");
    let geometry = Geometry::new(64, 100 * 1024 * (32 << 10));
    make_image(&path, geometry, &[]);
    let options = DeviceOptions { metadata_delay_ms: 3_600_000, ..DeviceOptions::default() };
    let spec = spec(geometry, std::slice::from_ref(&path), false);
    let rig = Rig::start(spec, options, EngineChoice::Auto);
    let written = || rig.device.keeper_stats().pages_written.get();
    let change = |n: u64| {
        let at = n * 1024 * geometry.cluster.bytes();
        rig.write(0, at, &[7; 4096], Flags::default()).unwrap();
    };
    let flush = || rig.plain(0, Operation::Flush, 0, 0, Flags::default()).unwrap();
    let settles = |want: u64| {
        (0..2000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            written() == want
        })
    };
    change(0);
    assert_eq!(written(), 0, "nobody has flushed yet");
    flush();
    for n in 1..6 {
        change(n);
        assert!(settles(n + 1), "change {n}: {} pages written before its flush", written());
        flush();
        assert_eq!(written(), n + 1, "the flush had none left to write");
    }
    for n in 6..16 {
        change(n);
    }
    flush();
    let before = written();
    for n in 16..20 {
        change(n);
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(written(), before, "ten changes in a flush: pages wait again");
    assert!(rig.stop().clean);
}

/// Copy-ups that go on and on: what one sync did not cover waits for the next deadline, not for the
/// next sync.
#[test]
fn copy_ups_share_a_sync_for_each_deadline() {
    const DELAY_MS: u64 = 200;
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let geometry = Geometry::new(64, 4000 * (32 << 10));
    let paths = ["base.hds", "top.hds"].map(|name| dir.path().join(name));
    let bytes = vec![3; 32 << 10];
    let content: Vec<_> = (0..geometry.entries()).map(|n| (n, bytes.clone())).collect();
    make_image(&paths[0], geometry, &content);
    make_image(&paths[1], geometry, &[]);
    let options = DeviceOptions { metadata_delay_ms: DELAY_MS, ..DeviceOptions::default() };
    let rig = Rig::start(spec(geometry, &paths, false), options, EngineChoice::Auto);
    let begun = std::time::Instant::now();
    for n in 0..geometry.entries() {
        rig.write(0, n * geometry.cluster.bytes(), &[7; 4096], Flags::default()).unwrap();
        if begun.elapsed().as_millis() > 5 * u128::from(DELAY_MS) {
            break;
        }
    }
    let deadlines = begun.elapsed().as_millis() as u64 / DELAY_MS;
    let stats = rig.device.keeper_stats();
    let (syncs, grown) = (stats.syncs.get(), stats.extensions.get());
    println!("{} copies, {syncs} syncs, {grown} extensions", stats.copied_up.get());
    assert!(syncs <= grown + deadlines + 4, "{syncs} syncs, {deadlines} deadlines");
    assert!(rig.stop().clean);
}
