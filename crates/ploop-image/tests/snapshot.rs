//! Offline snapshots.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_format::{Descriptor, Guid};
use ploop_image::{CheckOptions, Disk, ErrorKind, Kind, check, snapshot, snapshots};
use ploop_io::{RealDir, RealEntropy};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn take(home: &Path, guid: Option<Guid>) -> Result<ploop_image::Snapshot, ploop_image::ImageError> {
    snapshot(&RealDir, &RealEntropy, home, guid, &quick())
}

fn assert_fine(home: &Path) {
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    let report = check(&RealDir, home, &force, &quick()).unwrap();
    assert!(report.spotless(), "{report:#?}");
}

#[test]
fn the_old_top_is_frozen_and_a_new_one_lies_on_it() {
    let disk = TestDisk::new();
    let guid: Guid = "{11111111-2222-4333-8444-555555555555}".parse().unwrap();
    let done = take(disk.home.path(), Some(guid)).unwrap();
    assert_eq!(done.guid, guid);
    assert_qemu_clean(&done.image);
    assert_fine(disk.home.path());
    let list = snapshots(&RealDir, disk.home.path(), None).unwrap();
    let summary: Vec<_> =
        list.iter().map(|s| (s.uuid.as_str(), s.parent_uuid.as_str(), s.current)).collect();
    let (old, top) = (guid.to_string(), Guid::TOP.to_string());
    assert_eq!(summary, [(old.as_str(), "", false), (top.as_str(), old.as_str(), true)]);
    assert_eq!(list[1].fname, done.image.canonicalize().unwrap());
    let open = disk.open().unwrap();
    assert_eq!(open.spec().levels.len(), 2);
    assert_eq!((in_use(disk.image()), in_use(&done.image)), (0, 0x746F_6E59));
    open.abort().unwrap();
    assert_eq!(snapshots(&RealDir, disk.home.path(), Some(guid)).unwrap().len(), 1);
    let error = snapshots(&RealDir, disk.home.path(), Some(Guid::BACKUP)).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::NoSnapshot, 43));
}

#[test]
fn an_image_below_the_top_stands_for_the_disk_as_it_was() {
    let disk = TestDisk::new();
    let done = take(disk.home.path(), None).unwrap();
    let open = Disk::open(Arc::new(RealDir), disk.image(), &quick()).unwrap();
    assert!(open.read_only());
    assert_eq!(open.images().collect::<Vec<_>>(), [disk.image().canonicalize().unwrap()]);
    assert!(open.notes().iter().any(|n| n.to_string().contains("is not the top")));
    drop(open);
    let open = Disk::open(Arc::new(RealDir), &done.image, &quick()).unwrap();
    assert!(!open.read_only(), "the top's path stands for the whole disk");
    assert_eq!(open.images().count(), 2);
    open.abort().unwrap();
    let error = take(disk.image(), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Param);
    assert_fine(disk.home.path());
}

#[test]
fn a_crashed_top_is_repaired_before_it_freezes() {
    let disk = TestDisk::new();
    write_cluster(disk.image(), SMALL, 0, 7);
    drop(disk.open().unwrap());
    set_len(disk.image(), 65_536 * 8);
    take(disk.home.path(), None).unwrap();
    assert_eq!((in_use(disk.image()), len(disk.image())), (0, 65_536 * 2));
    assert_fine(disk.home.path());
    assert_qemu_clean(disk.image());
}

#[test]
fn a_refused_snapshot_changes_nothing() {
    let disk = TestDisk::new();
    take(disk.home.path(), None).unwrap();
    let before = listing(disk.home.path());
    let taken: Guid = {
        let parsed = Descriptor::parse(&fs::read(&disk.made.descriptor).unwrap()).unwrap();
        parsed.shots[0].guid
    };
    for guid in [taken, Guid::TOP, Guid::NONE, Guid::BACKUP] {
        let error = take(disk.home.path(), Some(guid)).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Param, 38), "{error}");
    }
    let open = disk.open().unwrap();
    let error = take(disk.home.path(), None).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::InUse, 37), "{error}");
    open.abort().unwrap();
    assert_eq!(listing(disk.home.path()), before);
}

fn listing(home: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(home)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name(), fs::read(e.path()).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn raw_base_and_foreign_elements_survive() {
    let disk = TestDisk::with(&options(Kind::Raw { sparse: true }));
    let text = fs::read_to_string(&disk.made.descriptor).unwrap();
    let text = text.replace("<Padding>", "<Foreign a=\"1\">x</Foreign><Padding>");
    fs::write(&disk.made.descriptor, text).unwrap();
    for _ in 0..3 {
        take(disk.home.path(), None).unwrap();
    }
    let text = fs::read_to_string(&disk.made.descriptor).unwrap();
    assert!(text.contains("<Foreign a=\"1\">x</Foreign>"), "{text}");
    let spec = disk.open().unwrap().spec();
    assert_eq!(spec.levels.len(), 4);
    assert_eq!(spec.levels[0].kind, ploop_engine::LevelKind::Raw);
    assert_eq!(spec.size.0, 20_480);
}

#[test]
fn a_chain_of_253_opens_and_takes_no_more() {
    let disk = TestDisk::new();
    let mut noted = 0;
    for _ in 1..253 {
        let done = take(disk.home.path(), None).unwrap();
        noted += usize::from(done.notes.iter().any(|n| n.to_string().contains("127")));
    }
    assert_eq!(noted, 253 - 126, "a note from the 127th image on (T12)");
    assert_eq!(disk.open().unwrap().spec().levels.len(), 253);
    let error = take(disk.home.path(), None).unwrap_err();
    assert_eq!(error.exit_code(), 38, "{error}");
}

#[test]
fn the_delta_on_a_preallocated_base_grows_and_is_cut() {
    let disk = TestDisk::with(&options(Kind::Preallocated));
    let done = take(disk.home.path(), None).unwrap();
    let open = disk.open().unwrap();
    assert!(!open.spec().preallocated);
    set_len(&done.image, 65_536 * 5);
    open.close(clean(65_536, false)).unwrap();
    assert_eq!(len(&done.image), 65_536);
    assert_fine(disk.home.path());
}
