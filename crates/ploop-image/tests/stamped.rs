//! An image that Parallels Desktop closed: the word at byte 44 is its stamp, not a mark.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_engine::CloseReport;
use ploop_image::{CheckOptions, Note, check, snapshot};
use ploop_io::{RealDir, RealEntropy};
use std::fs;

const STAMPS: [&[u8; 4]; 2] = [b"pd17", b"pd22"];
const PAGE_0_CLEAN: u64 = 65_536;

fn stamped(stamp: &[u8; 4]) -> TestDisk {
    let disk = TestDisk::new();
    write_cluster(disk.image(), SMALL, 3, 0x5a);
    poke(disk.image(), 44, stamp);
    // Not empty.
    poke32(disk.image(), 52, 0);
    disk
}

fn end() -> u64 {
    2 * PAGE_0_CLEAN
}

#[test]
fn a_stamped_image_was_closed() {
    for stamp in STAMPS {
        let disk = stamped(stamp);
        let before = fs::read(disk.image()).unwrap();
        let report = check(&RealDir, disk.home.path(), &CheckOptions::default(), &quick()).unwrap();
        assert!(report.spotless() && report.exit_code() == 0, "{report:#?}");
        let open =
            ploop_image::Disk::open(std::sync::Arc::new(RealDir), disk.home.path(), &read_only());
        let open = open.unwrap();
        let quiet = |notes: &[Note]| notes.iter().all(|n| matches!(n, Note::Buffered(_)));
        assert!(quiet(open.notes()), "{:?}", open.notes());
        open.abort().unwrap();
        let open = disk.open().unwrap();
        assert!(quiet(open.notes()), "{:?}", open.notes());
        assert_eq!(in_use(disk.image()), 0x746F_6E59, "I12: marked while it is open");
        open.abort().unwrap();
        assert_eq!(fs::read(disk.image()).unwrap(), before, "nothing was written");
    }
}

#[test]
fn the_stamp_goes_with_the_first_change() {
    let disk = stamped(b"pd22");
    let report = |changed| CloseReport { changed, ..clean(end(), true) };
    disk.open().unwrap().close(report(false)).unwrap();
    assert_eq!(in_use(disk.image()).to_le_bytes(), *b"pd22");
    disk.open().unwrap().close(report(true)).unwrap();
    assert_eq!(in_use(disk.image()), 0, "it tells its program that the image is as it left it");
}

#[test]
fn a_cut_tail_is_a_change_and_a_snapshot_of_a_whole_image_is_none() {
    let disk = stamped(b"pd17");
    set_len(disk.image(), end() + PAGE_0_CLEAN);
    disk.open().unwrap().abort().unwrap();
    assert_eq!((len(disk.image()), in_use(disk.image())), (end(), 0));
    poke(disk.image(), 44, b"pd17");
    let before = fs::read(disk.image()).unwrap();
    snapshot(&RealDir, &RealEntropy, disk.home.path(), None, &quick()).unwrap();
    assert_eq!(fs::read(disk.image()).unwrap(), before, "the frozen image stays as it was closed");
    let open = disk.open().unwrap();
    assert!(!open.notes().iter().any(|n| matches!(n, Note::DirtyLower(_))), "{:?}", open.notes());
    open.abort().unwrap();
    assert_eq!(fs::read(disk.image()).unwrap(), before);
}

#[test]
fn another_word_counts_as_in_use() {
    for word in [b"pdxx", b"PD22", b"\x01\0\0\0"] {
        let disk = stamped(word);
        let report = check(&RealDir, disk.home.path(), &CheckOptions::default(), &quick()).unwrap();
        assert_eq!(report.exit_code(), 37, "{word:?}");
    }
}
