//! Create, open, close: what is on disk after each step.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_engine::{CloseReport, LevelKind};
use ploop_format::{Descriptor, Sector, Version};
use ploop_image::{CheckOptions, CreateOptions, ErrorKind, Kind, Note, check, create};
use ploop_io::{RealDir, RealEntropy};
use std::fs;

const IN_USE: u32 = 0x746F_6E59;

fn assert_spotless(disk: &TestDisk) {
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    let report = check(&RealDir, disk.home.path(), &force, &quick()).unwrap();
    assert!(report.spotless(), "{report:#?}");
}

#[test]
fn a_new_disk_is_what_qemu_and_check_accept() {
    for sectors in [64, 128, 2048] {
        let size = Sector(65_536 * 3 + 8);
        let options = CreateOptions { size, cluster: cluster(sectors), ..options(Kind::Expanded) };
        let disk = TestDisk::with(&options);
        let rounded = size.0.next_multiple_of(u64::from(sectors));
        assert_eq!(disk.made.size, Sector(rounded));
        assert_qemu_clean(disk.image());
        assert_spotless(&disk);
        let image = disk.image().to_str().unwrap();
        let info = ["info", "-f", "parallels", "--output=json", image];
        if let Some((code, text)) = tool("qemu-img", &info) {
            assert_eq!(code, 0, "{text}");
            assert!(text.contains(&format!("\"virtual-size\": {}", rounded * 512)), "{text}");
        }
        let parsed = Descriptor::parse(&fs::read(&disk.made.descriptor).unwrap()).unwrap();
        assert_eq!((parsed.size_sectors, parsed.cluster.sectors()), (rounded, sectors));
    }
}

#[test]
fn open_marks_and_close_clears() {
    let disk = TestDisk::new();
    assert_eq!(peek32(disk.image(), 52) & 1, 1, "a new image is empty");
    let open = disk.open().unwrap();
    assert_eq!(in_use(disk.image()), IN_USE);
    assert_eq!(peek32(disk.image(), 52) & 1, 0, "F15: the stamp clears Empty");
    let spec = open.spec();
    assert_eq!(spec.header[44..48], IN_USE.to_le_bytes());
    assert!(matches!(
        spec.levels[0].kind,
        LevelKind::Ploop { version: Version::V2, entries: 160, data_start: 65_536 }
    ));
    assert_eq!(spec.used.count_ones(..), 1);
    assert!(open.notes().iter().all(|n| matches!(n, Note::Buffered(_))), "{:?}", open.notes());
    drop(spec);
    open.close(clean(65_536, false)).unwrap();
    assert_eq!((in_use(disk.image()), peek32(disk.image(), 52) & 1), (0, 1));
    assert_spotless(&disk);
    assert_qemu_clean(disk.image());
}

#[test]
fn what_was_written_reads_back_through_qemu() {
    let disk = TestDisk::new();
    let open = disk.open().unwrap();
    write_cluster(disk.image(), SMALL, 3, 0x5a);
    set_len(disk.image(), 65_536 * 9);
    open.close(clean(2 * 65_536, true)).unwrap();
    assert_eq!(len(disk.image()), 2 * 65_536, "the tail is cut");
    assert_eq!(peek32(disk.image(), 52) & 1, 0);
    assert_qemu_clean(disk.image());
    assert_spotless(&disk);
    let raw = disk.home.path().join("out.raw");
    let (image, out) = (disk.image().to_str().unwrap(), raw.to_str().unwrap());
    let convert = ["convert", "-f", "parallels", "-O", "raw", image, out];
    if let Some((code, text)) = tool("qemu-img", &convert) {
        assert_eq!(code, 0, "{text}");
        let bytes = fs::read(&raw).unwrap();
        assert_eq!(bytes.len(), 20_480 * 512);
        let (from, to) = (3 * 65_536, 4 * 65_536);
        assert!(bytes[from..to].iter().all(|b| *b == 0x5a));
        assert!(bytes[..from].iter().chain(&bytes[to..]).all(|b| *b == 0));
    }
    let again = disk.open().unwrap().spec();
    assert_eq!(again.used.ones().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_failed_close_leaves_the_mark_and_the_next_open_tells() {
    let disk = TestDisk::new();
    let open = disk.open().unwrap();
    let failure = Some("page 0 could not be written".to_owned());
    let error =
        open.close(CloseReport { clean: false, failure, ..common::clean(0, true) }).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::NotClean, 7));
    assert!(error.to_string().contains("page 0"), "{error}");
    assert_eq!(in_use(disk.image()), IN_USE);
    // T19: after a kill check says 37 and nothing else.
    let report = check(&RealDir, disk.home.path(), &CheckOptions::default(), &quick()).unwrap();
    assert_eq!(report.exit_code(), 37);
    let open = disk.open().unwrap();
    assert!(open.notes().iter().any(|n| matches!(n, Note::Crashed(_))));
    open.abort().unwrap();
    assert_spotless(&disk);
}

#[test]
fn a_conversion_flag_on_a_clean_image_does_not_outlive_the_open() {
    let disk = TestDisk::new();
    poke32(disk.image(), 52, 2);
    // A process that dies: nothing is closed.
    drop(disk.open().unwrap());
    assert_eq!((in_use(disk.image()), peek32(disk.image(), 52)), (IN_USE, 0));
    disk.open().unwrap().close(clean(65_536, false)).unwrap();
    assert_spotless(&disk);
}

#[test]
fn an_aborted_open_leaves_no_trace() {
    let disk = TestDisk::new();
    let before = fs::read(disk.image()).unwrap();
    disk.open().unwrap().abort().unwrap();
    assert_eq!(fs::read(disk.image()).unwrap(), before);
    let mut names: Vec<_> =
        fs::read_dir(disk.home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["DiskDescriptor.xml", "DiskDescriptor.xml.lck", "root.hds"]);
}

#[test]
fn a_close_that_would_cut_data_is_refused() {
    let disk = TestDisk::new();
    for end in [65_537, 65_536 * 7] {
        let error = disk.open().unwrap().close(clean(end, true)).unwrap_err();
        assert_eq!(error.exit_code(), 7, "{error}");
        assert_eq!(len(disk.image()), 65_536);
    }
}

#[test]
fn a_read_only_open_changes_nothing() {
    let disk = TestDisk::new();
    let before = fs::read(disk.image()).unwrap();
    let one = open(disk.home.path(), &read_only()).unwrap();
    let two = open(disk.image(), &read_only()).unwrap();
    assert!(one.spec().read_only && two.read_only());
    one.close(clean(0, false)).unwrap();
    two.close(clean(0, false)).unwrap();
    assert_eq!(fs::read(disk.image()).unwrap(), before);
}

#[test]
fn preallocated_disks_are_mapped_one_to_one_and_never_cut() {
    let disk = TestDisk::with(&options(Kind::Preallocated));
    let whole = 65_536 + 20_480 * 512;
    assert_eq!(len(disk.image()), whole);
    assert_eq!((peek32(disk.image(), 64), peek32(disk.image(), 64 + 4 * 159)), (1, 160));
    assert_eq!(peek32(disk.image(), 64 + 4 * 160), 0);
    assert_qemu_clean(disk.image());
    assert_spotless(&disk);
    let open = disk.open().unwrap();
    assert!(open.spec().preallocated);
    assert_eq!(open.spec().used.count_ones(..), 161);
    open.close(clean(65_536 * 2, true)).unwrap();
    assert_eq!(len(disk.image()), whole);
}

#[test]
fn raw_disks_have_no_mark_and_the_length_of_the_device() {
    for sparse in [false, true] {
        let disk = TestDisk::with(&options(Kind::Raw { sparse }));
        assert_eq!(len(disk.image()), 20_480 * 512);
        // A guest may write anything there: it stays a raw disk.
        poke(disk.image(), 0, b"WithouFreSpacExt");
        let open = disk.open().unwrap();
        let spec = open.spec();
        assert_eq!((spec.levels[0].kind, spec.size), (LevelKind::Raw, Sector(20_480)));
        assert_eq!(spec.used.len(), 0);
        let before = fs::read(disk.image()).unwrap();
        open.close(clean(0, true)).unwrap();
        assert_eq!(fs::read(disk.image()).unwrap(), before);
    }
}

#[test]
fn a_directory_holds_one_disk() {
    let disk = TestDisk::new();
    let make = |name: &str| {
        let path = disk.home.path().join(name);
        create(&RealDir, &RealEntropy, &path, &options(Kind::Expanded), &mut |_, _| {})
    };
    let error = make("other.hds").unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::DescriptorExists, 17));
    assert!(!disk.home.path().join("other.hds").exists());
    fs::remove_file(&disk.made.descriptor).unwrap();
    let error = make("root.hds").unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ImageExists, 38));
    assert!(!disk.made.descriptor.exists());
}

#[test]
fn progress_of_long_work_ends_at_the_whole() {
    let home = tempfile::tempdir().unwrap();
    let mut last = (0, 0);
    let path = home.path().join("root.hds");
    let raw = options(Kind::Raw { sparse: false });
    create(&RealDir, &RealEntropy, &path, &raw, &mut |done, all| {
        assert!(done > last.0 && done <= all);
        last = (done, all);
    })
    .unwrap();
    assert_eq!(last, (20_480 * 512, 20_480 * 512));
}
