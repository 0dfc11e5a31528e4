//! The same findings however a disk is named, and no waiting on what is no file.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_image::check::FindingKind;
use ploop_image::locate::DESCRIPTOR;
use ploop_image::{CheckOptions, CheckReport, ErrorKind, check, info};
use ploop_io::RealDir;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const PLAIN: CheckOptions = CheckOptions { force: false, duplicates: false, read_only: false };
const FORCED: CheckOptions = CheckOptions { force: true, duplicates: false, read_only: false };

fn run(path: &Path, options: &CheckOptions) -> CheckReport {
    check(&RealDir, path, options, &quick()).unwrap()
}

#[test]
fn a_doubled_entry_is_found_by_the_image_as_by_the_directory() {
    let disk = TestDisk::new();
    write_cluster(disk.image(), SMALL, 0, 1);
    let twice = peek32(disk.image(), 64);
    poke32(disk.image(), 64 + 4, twice);
    let by_image = run(disk.image(), &FORCED);
    let by_directory = run(disk.home.path(), &FORCED);
    assert_eq!(by_image.images, by_directory.images);
    assert_eq!(by_image.exit_code(), 11);
    assert_eq!(by_image.images[0].findings[0].kind, FindingKind::Duplicate);
    assert_eq!(disk.open().unwrap_err().kind(), ErrorKind::BadImage, "and by an open");
}

#[test]
fn an_image_shorter_than_its_highest_entry_is_never_fine() {
    let disk = TestDisk::new();
    write_cluster(disk.image(), SMALL, 3, 1);
    assert_eq!(run(disk.image(), &PLAIN).exit_code(), 0);
    set_len(disk.image(), len(disk.image()) - 65_536);
    for options in [PLAIN, FORCED] {
        for target in [disk.image(), disk.home.path()] {
            let report = run(target, &options);
            assert_eq!(report.exit_code(), 11, "{report:?}");
            let found = &report.images[0].findings[0];
            assert_eq!((found.kind, found.slot), (FindingKind::PastEnd, Some(3)));
        }
    }
    assert_eq!(disk.open().unwrap_err().kind(), ErrorKind::BadImage, "and by an open");
}

#[test]
fn words_behind_the_bat_are_told_and_do_not_count_anywhere() {
    let disk = TestDisk::new();
    let entries = 20_480 / u64::from(SMALL);
    poke32(disk.image(), 64 + 4 * entries, 1);
    let report = run(disk.image(), &FORCED);
    assert_eq!(report.exit_code(), 0, "{report:?}");
    assert_eq!(report.images[0].findings[0].kind, FindingKind::Garbage);
    let open = disk.open().unwrap();
    open.close(clean(0, false)).unwrap();
}

#[test]
fn nothing_is_counted_of_what_cannot_be_read() {
    let disk = TestDisk::new();
    poke32(disk.image(), 16, 9);
    let report = run(disk.image(), &FORCED);
    assert_eq!(report.exit_code(), 11);
    assert!(!report.images[0].raw && !report.images[0].counted, "{report:?}");
}

/// The largest BAT, in a file of a few kilobytes.
#[test]
fn a_bat_of_holes_is_scanned_at_once() {
    let disk = TestDisk::new();
    let clusters = u32::MAX;
    poke32(disk.image(), 32, clusters);
    let size = u64::from(clusters) * u64::from(SMALL);
    poke(disk.image(), 36, &size.to_le_bytes());
    let data = (64 + 4 * u64::from(clusters)).next_multiple_of(65_536);
    poke32(disk.image(), 48, (data / 512) as u32);
    set_len(disk.image(), data);
    let begin = Instant::now();
    let report = run(disk.image(), &FORCED);
    assert_eq!((report.exit_code(), report.images[0].allocated), (0, 0), "{report:?}");
    assert!(begin.elapsed() < Duration::from_secs(20), "16 GiB were read: {:?}", begin.elapsed());
    // The last entry is seen all the same.
    poke32(disk.image(), 64 + 4 * (u64::from(clusters) - 1), 7);
    let report = run(disk.image(), &FORCED);
    assert_eq!(report.images[0].findings[0].slot, Some(u64::from(clusters) - 1), "{report:?}");
}

#[test]
fn no_path_makes_anybody_wait() {
    let fifo = |path: &Path| {
        let _ = fs::remove_file(path);
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    let disk = TestDisk::new();
    let home = disk.home.path();
    let refused = |target: &Path| {
        let error = info(&RealDir, target, &quick()).unwrap_err();
        assert!(error.to_string().contains(" a"), "{error}");
        assert!([ErrorKind::Open, ErrorKind::Descriptor].contains(&error.kind()), "{error}");
    };
    // The image that the descriptor names.
    fifo(disk.image());
    refused(home);
    assert!(check(&RealDir, home, &PLAIN, &quick()).is_err());
    refused(disk.image());
    // The descriptor, and one beside an image.
    let other = TestDisk::new();
    fifo(&other.home.path().join(DESCRIPTOR));
    refused(other.home.path());
    let _ = info(&RealDir, other.image(), &quick());
    // What is beside a disk.
    let third = TestDisk::new();
    fifo(&third.home.path().join(".statfs"));
    assert!(ploop_image::statfs(&RealDir, third.home.path()).is_err());
    fifo(&third.home.path().join("DiskDescriptor.xml.lck"));
    assert!(third.open().is_err());
}
