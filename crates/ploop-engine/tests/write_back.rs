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
