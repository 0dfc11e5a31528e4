//! What an open refuses, with which class and code, and that it changes nothing then.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_image::{
    AnyFile, CheckOptions, ErrorKind, Kind, Note, OpenOptions, check, restore_descriptor, snapshot,
    statfs,
};
use ploop_io::{RealDir, RealEntropy};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

fn refused(home: &Path, options: &OpenOptions) -> (ErrorKind, u8, String) {
    let error = open(home, options).unwrap_err();
    (error.kind(), error.exit_code(), error.to_string())
}

fn edit(disk: &TestDisk, from: &str, to: &str) {
    let text = fs::read_to_string(&disk.made.descriptor).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&disk.made.descriptor, text.replace(from, to)).unwrap();
}

#[test]
fn a_second_writer_is_told_who_has_it() {
    let disk = TestDisk::new();
    let first = disk.open().unwrap();
    let ident = first.ident();
    let (kind, code, text) = refused(disk.home.path(), &quick());
    assert_eq!((kind, code), (ErrorKind::InUse, 37), "{text}");
    assert!(text.contains("another process"), "{text}");
    let who = Arc::new(move |asked| (asked == ident).then(|| "ploop serve, pid 77".to_owned()));
    let named = OpenOptions { who: Some(who), ..quick() };
    let (_, _, text) = refused(disk.home.path(), &named);
    assert!(text.contains("ploop serve, pid 77"), "{text}");
    // Readers too: they would see half of what is written.
    assert_eq!(refused(disk.home.path(), &OpenOptions { read_only: true, ..named }).1, 37);
    let checked = check(&RealDir, disk.home.path(), &CheckOptions::default(), &quick());
    assert_eq!(checked.unwrap_err().exit_code(), 37);
    first.abort().unwrap();
    disk.open().unwrap().abort().unwrap();
}

#[test]
fn readers_keep_writers_out_and_share_with_readers() {
    let disk = TestDisk::new();
    let one = open(disk.home.path(), &read_only()).unwrap();
    let two = open(disk.home.path(), &read_only()).unwrap();
    assert_eq!(refused(disk.home.path(), &quick()).1, 37);
    drop((one, two));
    disk.open().unwrap().abort().unwrap();
}

#[test]
fn the_top_is_exclusive_whatever_descriptor_names_it() {
    let disk = TestDisk::new();
    let other = tempfile::tempdir().unwrap();
    fs::hard_link(disk.image(), other.path().join("root.hds")).unwrap();
    fs::copy(&disk.made.descriptor, other.path().join("DiskDescriptor.xml")).unwrap();
    let how = OpenOptions { change_shared: true, ..quick() };
    let first = open(disk.home.path(), &how).unwrap();
    assert_eq!(refused(other.path(), &how).1, 37);
    first.abort().unwrap();
    let second = open(other.path(), &how).unwrap();
    assert_eq!(refused(disk.home.path(), &how).1, 37);
    second.abort().unwrap();
}

#[test]
fn clones_of_one_base_run_at_once() {
    let disk = TestDisk::new();
    snapshot(&RealDir, &RealEntropy, disk.home.path(), None, &quick()).unwrap();
    let clone = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(disk.home.path()).unwrap().map(|e| e.unwrap()) {
        let to = clone.path().join(entry.file_name());
        if entry.file_name() == "root.hds" {
            fs::hard_link(entry.path(), to).unwrap();
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
    let one = disk.open().unwrap();
    let two = open(clone.path(), &quick()).unwrap();
    // Nobody writes the base under them, whatever he asks for.
    let how = OpenOptions { change_shared: true, ..quick() };
    let lone = tempfile::tempdir().unwrap();
    fs::hard_link(disk.image(), lone.path().join("root.hds")).unwrap();
    restore_descriptor(
        &RealDir,
        &RealEntropy,
        lone.path(),
        &lone.path().join("root.hds"),
        Some(Kind::Expanded),
        None,
    )
    .unwrap();
    assert_eq!(refused(lone.path(), &how).1, 37);
    one.abort().unwrap();
    two.abort().unwrap();
}

#[test]
fn qemu_and_we_keep_each_other_out() {
    let disk = TestDisk::new();
    let image = disk.image().to_str().unwrap().to_owned();
    let first = disk.open().unwrap();
    let read = ["-f", "parallels", "-c", "read 0 4k", &image];
    let Some((code, text)) = tool("qemu-io", &read) else { return };
    assert_ne!(code, 0, "{text}");
    assert!(text.contains("lock"), "{text}");
    first.abort().unwrap();
    // A reader lets QEMU read, not write.
    let reader = open(disk.home.path(), &read_only()).unwrap();
    let (code, text) =
        tool("qemu-io", &["-r", "-f", "parallels", "-c", "read 0 4k", &image]).unwrap();
    assert_eq!(code, 0, "{text}");
    assert_ne!(tool("qemu-io", &read).unwrap().0, 0);
    drop(reader);
    for (flags, ours) in [(vec![], read_only()), (vec!["-r"], quick()), (vec![], quick())] {
        let mut qemu = Command::new("qemu-io")
            .args(flags)
            .args(["-f", "parallels", &image])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Its prompt comes when the image is open.
        let mut byte = [0u8; 1];
        std::io::Read::read_exact(qemu.stdout.as_mut().unwrap(), &mut byte).unwrap();
        let error = open(disk.home.path(), &ours);
        drop(qemu.stdin.take());
        qemu.wait().unwrap();
        assert_eq!(error.unwrap_err().exit_code(), 37);
    }
}

#[test]
fn a_lock_file_of_an_old_tool_is_respected() {
    let disk = TestDisk::new();
    let lck = disk.home.path().join("DiskDescriptor.xml.lck");
    let file = ploop_io::Dir::open(
        &RealDir,
        &lck,
        ploop_io::OpenHow { write: true, create: true, ..Default::default() },
    )
    .unwrap();
    assert!(file.try_flock().unwrap());
    let (kind, _, text) = refused(disk.home.path(), &quick());
    assert_eq!(kind, ErrorKind::InUse);
    assert!(text.contains(".lck"), "{text}");
    assert_eq!(refused(disk.home.path(), &read_only()).0, ErrorKind::InUse);
    drop(file);
    disk.open().unwrap().abort().unwrap();
}

#[test]
fn files_outside_the_directory_need_a_gate() {
    let disk = TestDisk::new();
    let outside = tempfile::tempdir().unwrap();
    let moved = outside.path().join("root.hds");
    fs::rename(disk.image(), &moved).unwrap();
    let absolute = moved.to_str().unwrap().to_owned();
    edit(&disk, "root.hds", &absolute);
    let (kind, code, text) = refused(disk.home.path(), &quick());
    assert_eq!((kind, code), (ErrorKind::Gate, 4), "{text}");
    assert!(text.contains(outside.path().to_str().unwrap()), "{text}");
    edit(&disk, &absolute, "link.hds");
    std::os::unix::fs::symlink(&moved, disk.home.path().join("link.hds")).unwrap();
    assert_eq!(refused(disk.home.path(), &quick()).0, ErrorKind::Gate);
    // Through it the file is read; to be changed takes more.
    let any = OpenOptions { gate: Arc::new(AnyFile), ..quick() };
    assert_eq!(refused(disk.home.path(), &any).0, ErrorKind::Shared);
    open(disk.home.path(), &OpenOptions { read_only: true, ..any.clone() })
        .unwrap()
        .abort()
        .unwrap();
    let any = OpenOptions { change_shared: true, ..any };
    open(disk.home.path(), &any).unwrap().abort().unwrap();
}

#[test]
fn a_valid_bitmap_is_not_lost_by_accident() {
    let disk = TestDisk::new();
    write_cluster(disk.image(), SMALL, 5, 9);
    let with = plant_bitmap(disk.image());
    let (kind, code, text) = refused(disk.home.path(), &quick());
    assert_eq!((kind, code), (ErrorKind::ChangeTracking, 44), "{text}");
    assert_eq!(fs::read(disk.image()).unwrap(), with);
    let report = check(
        &RealDir,
        disk.home.path(),
        &CheckOptions { force: true, ..Default::default() },
        &quick(),
    )
    .unwrap();
    assert!(report.spotless(), "{report:#?}");
    drop(open(disk.home.path(), &read_only()).unwrap());
    let drop_it = OpenOptions { drop_cbt: true, ..quick() };
    let opened = open(disk.home.path(), &drop_it).unwrap();
    assert!(opened.notes().iter().any(|n| matches!(n, Note::BitmapDropped(_))));
    assert_eq!(len(disk.image()), 2 * 65_536, "header first, then cut");
    assert_eq!((peek32(disk.image(), 56), peek32(disk.image(), 60)), (0, 0), "F15");
    opened.abort().unwrap();
    assert_qemu_clean(disk.image());
    // A damaged one is no bitmap: 11.
    plant_bitmap(disk.image());
    poke(disk.image(), 44, b"pd22");
    assert_eq!(refused(disk.home.path(), &quick()).1, 44, "closed by another program: the same");
    poke(disk.image(), 44, b"v2.1");
    poke(disk.image(), 65_536 * 2 + 100, b"x");
    assert_eq!(refused(disk.home.path(), &quick()).1, 11);
    // That program did not say that there is one.
    poke(disk.image(), 44, b"pd22");
    open(disk.home.path(), &quick()).unwrap().abort().unwrap();
}

/// Appends an extension with an all-set bitmap; returns the file.
fn plant_bitmap(image: &Path) -> Vec<u8> {
    use ploop_format::extension::{DirtyBitmap, Extension};
    use ploop_format::{Guid, Header, InUse, Sector};
    let bytes = fs::read(image).unwrap();
    let mut header = Header::parse(&bytes).unwrap();
    let bitmap = DirtyBitmap::new(&header, Guid::from_random([7; 16]), 128).unwrap();
    let extension = Extension { bitmap: Some(bitmap), ..Extension::default() };
    let end = bytes.len() as u64;
    poke(image, end, &extension.encode(header.cluster()).unwrap());
    header.set_in_use(InUse::ClosedV21);
    header.set_extension_offset(Sector(end / 512));
    poke(image, 0, &header.encode());
    fs::read(image).unwrap()
}

#[test]
fn chains_that_do_not_fit_are_refused() {
    let defects: [(&str, u64, &[u8]); 3] = [
        ("version", 0, b"WithoutFreeSpace"),
        ("larger than the one above", 32, &400u32.to_le_bytes()),
        ("cluster", 28, &256u32.to_le_bytes()),
    ];
    for (name, at, bytes) in defects {
        let disk = TestDisk::new();
        snapshot(&RealDir, &RealEntropy, disk.home.path(), None, &quick()).unwrap();
        // The base is the defective one; its first block fits both cluster sizes.
        if name == "cluster" {
            poke32(disk.image(), 48, 256);
            set_len(disk.image(), 131_072);
        }
        if name.starts_with("larger") {
            // Its device too: entries that the device does not use are no harm.
            poke(disk.image(), 36, &51_200u64.to_le_bytes());
        }
        poke(disk.image(), at, bytes);
        for options in [quick(), read_only()] {
            let (kind, code, text) = refused(disk.home.path(), &options);
            assert_eq!((kind, code), (ErrorKind::BadImage, 11), "{name}: {text}");
        }
        let report = check(&RealDir, disk.home.path(), &CheckOptions::default(), &quick()).unwrap();
        assert_eq!(report.exit_code(), if name == "cluster" { 38 } else { 11 }, "{report:#?}");
    }
}

#[test]
fn descriptors_that_make_no_sense_are_refused() {
    let cases = [
        ("<Blocksize>128<", "<Blocksize>100<", ErrorKind::Descriptor),
        ("<Blocksize>128<", "<Blocksize>256<", ErrorKind::BadImage),
        ("root.hds", "nowhere.hds", ErrorKind::Open),
        ("root.hds", "DiskDescriptor.xml", ErrorKind::BadImage),
        ("root.hds", ".", ErrorKind::Gate),
        ("<Image>", "<Bild>", ErrorKind::Descriptor),
        ("Compressed", "Vhdx", ErrorKind::Descriptor),
    ];
    for (from, to, kind) in cases {
        let disk = TestDisk::new();
        edit(&disk, from, to);
        let (got, _, text) = refused(disk.home.path(), &quick());
        assert_eq!(got, kind, "{to}: {text}");
    }
    let home = tempfile::tempdir().unwrap();
    assert_eq!(refused(home.path(), &quick()).0, ErrorKind::Descriptor);
    assert_eq!(refused(&home.path().join("no"), &quick()).0, ErrorKind::Open);
}

#[test]
fn a_lone_image_is_only_read_and_a_named_one_is_its_disk() {
    let disk = TestDisk::new();
    let named = open(disk.image(), &quick()).unwrap();
    assert!(!named.read_only() && named.descriptor().is_some());
    named.abort().unwrap();
    let home = tempfile::tempdir().unwrap();
    let lone = home.path().join("a.hds");
    fs::copy(disk.image(), &lone).unwrap();
    let opened = open(&lone, &quick()).unwrap();
    assert!(opened.read_only() && opened.descriptor().is_none());
    assert!(opened.notes().iter().any(|n| matches!(n, Note::LoneImage(_))));
    let made = restore_descriptor(&RealDir, &RealEntropy, home.path(), &lone, None, None).unwrap();
    assert_eq!(made, home.path().canonicalize().unwrap().join("DiskDescriptor.xml"));
    drop(opened);
    open(home.path(), &quick()).unwrap().abort().unwrap();
    let again = restore_descriptor(&RealDir, &RealEntropy, home.path(), &lone, None, None);
    assert_eq!(again.unwrap_err().exit_code(), 17);
}

#[test]
fn a_raw_file_is_never_guessed() {
    let home = tempfile::tempdir().unwrap();
    let raw = home.path().join("a.raw");
    fs::write(&raw, vec![0u8; 96 * 1024]).unwrap();
    let restore = |kind| restore_descriptor(&RealDir, &RealEntropy, home.path(), &raw, kind, None);
    assert_eq!(restore(None).unwrap_err().exit_code(), 11);
    restore(Some(Kind::Raw { sparse: true })).unwrap();
    let opened = open(home.path(), &quick()).unwrap();
    assert_eq!(opened.spec().cluster.sectors(), 64, "the largest that divides 96 KiB");
    assert_eq!(opened.size().bytes(), 96 * 1024);
    opened.abort().unwrap();
}

#[test]
fn orphans_are_listed_and_never_opened() {
    let disk = TestDisk::new();
    let orphan = disk.home.path().join("root.hds.{00000000-1111-4222-8333-444444444444}");
    fs::write(&orphan, b"left over").unwrap();
    fs::write(disk.home.path().join("DiskDescriptor.xml.tmp.1"), b"x").unwrap();
    let report = check(&RealDir, disk.home.path(), &CheckOptions::default(), &quick()).unwrap();
    assert_eq!((report.exit_code(), report.findings.len()), (0, 2), "{report:#?}");
    disk.open().unwrap().abort().unwrap();
}

#[test]
fn a_directory_without_permission_gives_an_open_error() {
    if tool("id", &["-u"]).is_none_or(|(_, uid)| uid.trim() == "0") {
        eprintln!("skip: root may read everything");
        return;
    }
    let disk = TestDisk::new();
    fs::set_permissions(disk.image(), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(refused(disk.home.path(), &quick()).0, ErrorKind::Open);
}

#[test]
fn the_numbers_of_an_unmounted_file_system_are_read() {
    let disk = TestDisk::new();
    let read = || statfs(&RealDir, disk.home.path());
    assert_eq!(read().unwrap(), None);
    let path = disk.home.path().join(".statfs");
    let words = [4096u64, 1000, 900, 64, 60];
    fs::write(&path, words.map(u64::to_ne_bytes).concat()).unwrap();
    let found = read().unwrap().unwrap();
    assert_eq!((found.block_size, found.blocks, found.free_blocks), (4096, 1000, 900));
    assert_eq!((found.inodes, found.free_inodes), (64, 60));
    fs::write(&path, b"short").unwrap();
    assert_eq!(read().unwrap_err().exit_code(), 6);
}

#[test]
fn a_v1_image_with_shifted_data_is_read_and_checked_not_written() {
    let disk = TestDisk::new();
    // 160 entries: header and BAT take 704 bytes, the data begins at sector 2.
    poke(disk.image(), 0, b"WithoutFreeSpace");
    poke32(disk.image(), 48, 0);
    poke32(disk.image(), 64, 2);
    poke32(disk.image(), 68, 2 + 128);
    set_len(disk.image(), (2 + 256) * 512);
    let (kind, code, text) = refused(disk.home.path(), &quick());
    assert_eq!((kind, code), (ErrorKind::BadImage, 11), "{text}");
    let reading = open(disk.home.path(), &read_only()).unwrap();
    let kind = reading.spec().levels[0].kind;
    assert!(matches!(kind, ploop_engine::LevelKind::Ploop { data_start: 1024, .. }), "{kind:?}");
    drop(reading);
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    let report = check(&RealDir, disk.home.path(), &force, &quick()).unwrap();
    assert_eq!((report.exit_code(), report.images[0].leaks), (0, 0), "{report:#?}");
}

#[test]
fn a_read_only_open_names_the_clusters_that_share_a_place() {
    let home = tempfile::tempdir().unwrap();
    let image = home.path().join("dup");
    samples::copy_sample("corrupt/dup", &image).unwrap();
    let open = open(&image, &read_only()).unwrap();
    let refused: Vec<u64> = open.spec().refused.iter().map(|c| c.0).collect();
    assert_eq!(refused.len(), 2, "both of the pair: {refused:?}");
    assert!(open.notes().iter().any(|n| n.to_string().contains("share their place")));
}
