//! Images as other programs make them: more BAT entries than the device needs, no first block, raw
//! files of any length, two versions in one chain.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_engine::LevelKind;
use ploop_format::{Sector, Version};
use ploop_image::layers::{InTurn, Which, Work, grow, merge};
use ploop_image::{
    CheckOptions, CreateOptions, ErrorKind, Kind, Note, check, restore_descriptor, snapshot,
};
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
    poke32(disk.image(), 64 + 4 * SPARE, 0);
    grow(&RealDir, &taken.image, ALL, &quick()).unwrap();
    let opened = disk.open().unwrap();
    assert_eq!(opened.size(), ALL);
    opened.abort().unwrap();
}

/// The first block was never written; the BAT tells where data is.
#[test]
fn an_image_without_a_first_block_is_read() {
    let disk = TestDisk::new();
    let home = disk.home.path();
    write_cluster(disk.image(), SMALL, SLOT, 0x13);
    poke32(disk.image(), 48, u32::MAX);
    let opened = open(home, &read_only()).unwrap();
    let said = opened.notes().iter().any(|note| matches!(note, Note::NoFirstBlock(_)));
    assert!(said, "{:?}", opened.notes());
    let LevelKind::Ploop { data_start, .. } = opened.spec().levels[0].kind else { panic!() };
    assert_eq!(data_start, u64::from(SMALL) * 512);
    opened.abort().unwrap();
    let error = disk.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadImage);
    assert!(error.hint_text().unwrap().contains("qemu-img check"), "{:?}", error.hint_text());
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    assert_eq!(check(&RealDir, home, &force, &quick()).unwrap().exit_code(), 11);
    let image = disk.image().to_str().unwrap();
    if tool("qemu-img", &["check", "-f", "parallels", "-r", "all", image]).is_some() {
        disk.open().unwrap().abort().unwrap();
        fine(home);
    }
    // Below a top it is only read anyway.
    poke32(disk.image(), 48, SMALL);
    snapshot(&RealDir, &RealEntropy, home, None, &quick()).unwrap();
    poke32(disk.image(), 48, u32::MAX);
    disk.open().unwrap().abort().unwrap();
}

#[test]
fn a_chain_of_two_versions_says_what_reads_it() {
    let disk = TestDisk::new();
    let home = disk.home.path();
    write_cluster(disk.image(), SMALL, 0, 0x11);
    let taken = snapshot(&RealDir, &RealEntropy, home, None, &quick()).unwrap();
    let v1 = TestDisk::with(&CreateOptions { version: Version::V1, ..options(Kind::Expanded) });
    std::fs::copy(v1.image(), &taken.image).unwrap();
    let end = len(&taken.image);
    poke(&taken.image, end, &vec![0x33; SMALL as usize * 512]);
    poke32(&taken.image, 64 + 4 * SLOT, (end / 512) as u32);
    let error = disk.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadImage);
    assert!(error.to_string().contains("mix the versions"), "{error}");
    // The hint works as it is written.
    let hint = error.hint_text().unwrap().split("qemu-img ").nth(1).unwrap();
    let raw = home.join("new.raw");
    let command = hint.replace("NEW.raw", raw.to_str().unwrap());
    let words: Vec<&str> = command.split_whitespace().collect();
    let Some((code, text)) = tool("qemu-img", &words) else { return };
    assert_eq!(code, 0, "{text}");
    let bytes = std::fs::read(&raw).unwrap();
    let at = |slot: u64| bytes[slot as usize * SMALL as usize * 512];
    assert_eq!((at(0), at(1), at(SLOT)), (0x11, 0, 0x33));
}

/// A raw file ends where it ends: inside a cluster, inside a sector.
#[test]
fn a_raw_base_may_end_inside_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let (home, raw) = (folder.path(), folder.path().join("root.raw"));
    let bytes = u64::from(SMALL) * 512;
    let size = 3 * bytes + 1000;
    std::fs::write(&raw, vec![0x77; size as usize]).unwrap();
    let kind = Some(Kind::Raw { sparse: true });
    restore_descriptor(&RealDir, &RealEntropy, home, &raw, kind, Some(cluster(SMALL))).unwrap();
    let opened = open(home, &quick()).unwrap();
    assert_eq!(opened.size(), Sector(size.div_ceil(512)));
    opened.abort().unwrap();
    let taken = snapshot(&RealDir, &RealEntropy, home, None, &quick()).unwrap();
    write_cluster(&taken.image, SMALL, SLOT, 0x33);
    open(home, &quick()).unwrap().abort().unwrap();
    fine(home);
    let mut work = Work { progress: &mut |_, _| true, copier: &InTurn };
    merge(&RealDir, &RealEntropy, home, Which::Top, &quick(), &mut work).unwrap();
    let now = std::fs::read(&raw).unwrap();
    assert_eq!(now.len() as u64, size.next_multiple_of(512));
    let (before, after) = now.split_at(3 * bytes as usize);
    assert!(before.iter().all(|b| *b == 0x77) && after.iter().all(|b| *b == 0x33));
    let grown = grow(&RealDir, home, Sector(7 * u64::from(SMALL) + 3), &quick()).unwrap();
    open(home, &quick()).unwrap().abort().unwrap();
    assert_eq!(len(&raw), grown.size.0 * 512);
    assert!(std::fs::read(&raw).unwrap()[now.len()..].iter().all(|b| *b == 0));
    fine(home);
    // Without a cluster size one is chosen, whether it divides the file or not.
    std::fs::remove_file(home.join("DiskDescriptor.xml")).unwrap();
    set_len(&raw, size);
    restore_descriptor(&RealDir, &RealEntropy, home, &raw, kind, None).unwrap();
    open(home, &quick()).unwrap().abort().unwrap();
}
