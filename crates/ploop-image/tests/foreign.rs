//! Images as other programs make them: more BAT entries than the device needs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_engine::LevelKind;
use ploop_format::Sector;
use ploop_image::layers::{InTurn, Which, Work, grow, merge};
use ploop_image::{CheckOptions, ErrorKind, check, snapshot};
use ploop_io::{RealDir, RealEntropy};
use std::path::Path;

/// Clusters of the device, and entries of an image that has some to spare.
const CLUSTERS: u32 = 160;
const ENTRIES: u32 = 200;
/// As many sectors as that many entries cover.
const ALL: Sector = Sector(ENTRIES as u64 * SMALL as u64);
/// An entry behind the device, and one of it.
const SPARE: u64 = 170;
const SLOT: u64 = 3;

fn entry(image: &Path, slot: u64) -> u32 {
    peek32(image, 64 + 4 * slot)
}

fn entries(image: &Path) -> u32 {
    peek32(image, 32)
}

/// A disk whose image has entries to spare, one of which names a cluster.
fn spare() -> TestDisk {
    let disk = TestDisk::new();
    assert_eq!(entries(disk.image()), CLUSTERS);
    poke32(disk.image(), 32, ENTRIES);
    write_cluster(disk.image(), SMALL, SLOT, 0x13);
    write_cluster(disk.image(), SMALL, SPARE, 0x70);
    disk
}

fn fine(home: &Path) {
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    let report = check(&RealDir, home, &force, &quick()).unwrap();
    assert_eq!(report.exit_code(), 0, "{report:#?}");
}

#[test]
fn entries_behind_the_device_are_legal_at_every_level() {
    let disk = spare();
    let home = disk.home.path();
    disk.open().unwrap().abort().unwrap();
    let taken = snapshot(&RealDir, &RealEntropy, home, None, &quick()).unwrap();
    assert_eq!(entries(&taken.image), ENTRIES, "the kernel's driver wants as many above");
    fine(home);
    for n in [ENTRIES, CLUSTERS] {
        poke32(&taken.image, 32, n);
        let opened = disk.open().unwrap();
        for level in opened.spec().levels {
            let LevelKind::Ploop { entries, .. } = level.kind else { panic!("{level:?}") };
            assert_eq!(entries, u64::from(CLUSTERS), "the others are no part of the device");
        }
        opened.abort().unwrap();
        fine(home);
    }
    // What a spare entry names shows neither when the device grows nor in a merge.
    grow(&RealDir, home, ALL, &quick()).unwrap();
    let mut work = Work { progress: &mut |_, _| true, copier: &InTurn };
    merge(&RealDir, &RealEntropy, home, Which::Top, &quick(), &mut work).unwrap();
    assert_eq!(entry(disk.image(), SPARE), 0);
    assert_ne!(entry(disk.image(), SLOT), 0);
    disk.open().unwrap().abort().unwrap();
    fine(home);
}

#[test]
fn a_grown_device_reads_as_zeros_where_spare_entries_were() {
    let disk = spare();
    grow(&RealDir, disk.home.path(), ALL, &quick()).unwrap();
    assert_eq!((entries(disk.image()), entry(disk.image(), SPARE)), (ENTRIES, 0));
    assert_ne!(entry(disk.image(), SLOT), 0);
    disk.open().unwrap().abort().unwrap();
    fine(disk.home.path());
}

/// A new delta does not take any number that an image claims.
#[test]
fn a_new_delta_has_not_any_number_of_entries() {
    let disk = TestDisk::new();
    let many = 1 << 26;
    let data = (u64::from(many) * 4 + 64).next_multiple_of(u64::from(SMALL) * 512);
    poke32(disk.image(), 32, many);
    poke32(disk.image(), 48, (data / 512) as u32);
    set_len(disk.image(), data);
    let home = disk.home.path();
    let taken = snapshot(&RealDir, &RealEntropy, home, None, &quick()).unwrap();
    assert_eq!(entries(&taken.image), CLUSTERS);
    disk.open().unwrap().abort().unwrap();
}

#[test]
fn a_top_that_is_smaller_than_its_base_can_grow() {
    let disk = TestDisk::new();
    let home = disk.home.path();
    write_cluster(disk.image(), SMALL, SLOT, 0x13);
    let taken = snapshot(&RealDir, &RealEntropy, home, None, &quick()).unwrap();
    // Its owner made the base larger.
    poke32(disk.image(), 32, ENTRIES);
    poke(disk.image(), 36, &ALL.0.to_le_bytes());
    let error = disk.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadImage);
    let hint = format!("ploop grow -s {} {}", ALL.0, taken.image.canonicalize().unwrap().display());
    assert!(error.hint_text().unwrap().contains(&hint), "{:?}", error.hint_text());
    let less = Sector(ALL.0 - 1000);
    assert_eq!(grow(&RealDir, home, less, &quick()).unwrap_err().kind(), ErrorKind::Param);
    // What the base has there would show.
    write_cluster(disk.image(), SMALL, SPARE, 0x70);
    let error = grow(&RealDir, home, ALL, &quick()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Param);
    assert!(error.to_string().contains("has cluster 170"), "{error}");
    poke32(disk.image(), 64 + 4 * SPARE as u64, 0);
    grow(&RealDir, &taken.image, ALL, &quick()).unwrap();
    let opened = disk.open().unwrap();
    assert_eq!(opened.size(), ALL);
    opened.abort().unwrap();
}
