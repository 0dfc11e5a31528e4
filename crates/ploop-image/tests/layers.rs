//! Operations on the layers of a disk that nobody has open.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_format::{Descriptor, Guid, Sector, Temporary};
use ploop_image::layers::{
    Copier, Deleted, InTurn, Merged, Move, Which, Work, delete, drop_empty, grow, lower, merge,
    merge_leftovers, switch,
};
use ploop_image::{CheckOptions, ErrorKind, ImageError, Kind, check, snapshot};
use ploop_io::{File, RealDir, RealEntropy};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

const BYTES: u64 = SMALL as u64 * 512;

fn take(home: &Path) -> Guid {
    snapshot(&RealDir, &RealEntropy, home, None, &quick()).unwrap().guid
}

fn run(home: &Path, which: Which) -> Result<Merged, ImageError> {
    let mut work = Work { progress: &mut |_, _| true, copier: &InTurn };
    merge(&RealDir, &RealEntropy, home, which, &quick(), &mut work)
}

fn remove(home: &Path, guid: Guid) -> Result<Deleted, ImageError> {
    let mut work = Work { progress: &mut |_, _| true, copier: &InTurn };
    delete(&RealDir, &RealEntropy, home, guid, &quick(), &mut work)
}

fn descriptor(home: &Path) -> Descriptor {
    Descriptor::parse(&fs::read(home.join("DiskDescriptor.xml")).unwrap()).unwrap()
}

fn chain(home: &Path) -> Vec<PathBuf> {
    descriptor(home).chain().unwrap().iter().map(|image| home.join(&image.file)).collect()
}

/// The last image of the chain.
fn top(home: &Path) -> PathBuf {
    chain(home).pop().unwrap()
}

/// What guest clusters hold, by the files alone: the first byte of each that some level has.
fn content(home: &Path) -> BTreeMap<u64, u8> {
    let mut found = BTreeMap::new();
    for image in chain(home) {
        let bytes = fs::read(&image).unwrap();
        let slots = u32::from_le_bytes(bytes[32..36].try_into().unwrap());
        for slot in 0..u64::from(slots) {
            let at = 64 + 4 * slot as usize;
            let cluster = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            if cluster != 0 {
                let data = &bytes[(u64::from(cluster) * BYTES) as usize..][..BYTES as usize];
                assert!(data.iter().all(|byte| *byte == data[0]), "one byte a cluster");
                found.insert(slot, data[0]);
            }
        }
    }
    found
}

fn assert_fine(home: &Path) {
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    let report = check(&RealDir, home, &force, &quick()).unwrap();
    assert_eq!(report.exit_code(), 0, "{report:#?}");
    assert!(report.findings.is_empty(), "{report:#?}");
    for image in chain(home) {
        assert_qemu_clean(&image);
    }
}

/// A disk of three levels: base 1 2 3, middle 2 4, top 3 5 of zeros.
fn three() -> (TestDisk, Guid, Guid) {
    let disk = TestDisk::new();
    let home = disk.home.path();
    for (slot, byte) in [(1, 0x11), (2, 0x12), (3, 0x13)] {
        write_cluster(&top(home), SMALL, slot, byte);
    }
    let low = take(home);
    for (slot, byte) in [(2, 0x22), (4, 0x24)] {
        write_cluster(&top(home), SMALL, slot, byte);
    }
    let middle = take(home);
    for (slot, byte) in [(3, 0x33), (5, 0x00)] {
        write_cluster(&top(home), SMALL, slot, byte);
    }
    (disk, low, middle)
}

fn all() -> BTreeMap<u64, u8> {
    BTreeMap::from([(1, 0x11), (2, 0x22), (3, 0x33), (4, 0x24), (5, 0)])
}

#[test]
fn the_top_goes_into_its_parent() {
    let (disk, low, middle) = three();
    let home = disk.home.path();
    let (files, before) = (chain(home), content(home));
    assert_eq!(before, all());
    let done = run(home, Which::Top).unwrap();
    assert_eq!((done.levels, done.bytes), (1, 2 * BYTES));
    assert_eq!(chain(home), files[..2], "the parent's file stays");
    assert!(!files[2].exists());
    let parsed = descriptor(home);
    assert!(parsed.shot(middle).is_none() && parsed.shot(low).is_some());
    let mut after = content(home);
    assert_eq!(after.remove(&5), None, "zeros over a hole are a hole");
    after.insert(5, 0);
    assert_eq!(after, before);
    assert_fine(home);
}

#[test]
fn zeros_over_data_of_a_lower_level_stay() {
    let (disk, ..) = three();
    let home = disk.home.path();
    write_cluster(&top(home), SMALL, 1, 0);
    run(home, Which::Top).unwrap();
    assert_eq!(content(home)[&1], 0);
    run(home, Which::Top).unwrap();
    assert_eq!(content(home).get(&1), None, "nothing lies below the base");
    assert_fine(home);
}

#[test]
fn an_inner_level_goes_into_its_parent() {
    let (disk, low, middle) = three();
    let home = disk.home.path();
    let files = chain(home);
    let done = run(home, Which::One(middle)).unwrap();
    assert_eq!(done.image, files[0]);
    assert_eq!(content(home), all());
    assert_eq!(chain(home), [files[0].clone(), files[2].clone()]);
    assert!(descriptor(home).shot(low).is_none());
    assert_fine(home);
    assert_eq!(run(home, Which::One(low)).unwrap_err().exit_code(), 43);
    assert_eq!(run(home, Which::One(middle)).unwrap_err().exit_code(), 38, "the base");
}

#[test]
fn all_levels_go_into_the_base_each_cluster_once() {
    let (disk, ..) = three();
    let home = disk.home.path();
    write_cluster(&top(home), SMALL, 2, 0x32);
    let done = run(home, Which::All).unwrap();
    // 2 from the top, not from the middle as well; 3, 4, 5.
    assert_eq!((done.levels, done.bytes), (2, 4 * BYTES));
    let want = BTreeMap::from([(1, 0x11), (2, 0x32), (3, 0x33), (4, 0x24)]);
    assert_eq!(content(home), want);
    assert_eq!(chain(home), [disk.image().canonicalize().unwrap()]);
    assert_fine(home);
    assert_eq!(run(home, Which::All).unwrap_err().exit_code(), 38, "nothing is left to merge");
}

#[test]
fn a_raw_base_takes_levels_in() {
    let disk = TestDisk::with(&options(Kind::Raw { sparse: true }));
    let home = disk.home.path();
    poke(disk.image(), BYTES, &vec![0x11; BYTES as usize]);
    take(home);
    write_cluster(&top(home), SMALL, 1, 0x21);
    take(home);
    write_cluster(&top(home), SMALL, 7, 0x37);
    run(home, Which::All).unwrap();
    let bytes = fs::read(disk.image()).unwrap();
    assert_eq!(bytes.len(), 20_480 * 512);
    for slot in 0..160 {
        let want = [(1, 0x21), (7, 0x37)].iter().find(|(s, _)| *s == slot).map_or(0, |(_, b)| *b);
        assert!(bytes[slot * BYTES as usize..][..BYTES as usize].iter().all(|b| *b == want));
    }
    assert_eq!(chain(home).len(), 1);
}

#[test]
fn zeros_over_a_raw_base_become_holes() {
    let disk = TestDisk::with(&options(Kind::Raw { sparse: true }));
    let home = disk.home.path();
    poke(disk.image(), 0, &vec![0x11; 8 * BYTES as usize]);
    take(home);
    for slot in 0..8 {
        write_cluster(&top(home), SMALL, slot, if slot == 3 { 0x23 } else { 0 });
    }
    let blocks = |path: &Path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap());
    let before = blocks(disk.image());
    run(home, Which::Top).unwrap();
    let bytes = fs::read(disk.image()).unwrap();
    let value = |at: usize| if at / BYTES as usize == 3 { 0x23 } else { 0 };
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == value(at)));
    assert!(blocks(disk.image()) < before / 4, "{} of {before}", blocks(disk.image()));
}

#[test]
fn a_top_leaves_a_raw_base_only_when_it_is_empty() {
    let disk = TestDisk::with(&options(Kind::Raw { sparse: true }));
    let home = disk.home.path();
    fs::File::options().write(true).open(disk.image()).unwrap().set_len(3 * BYTES).unwrap();
    let guid = take(home);
    write_cluster(&top(home), SMALL, 7, 0x37);
    let error = drop_empty(&RealDir, &RealEntropy, home, &quick()).unwrap_err();
    assert_eq!(error.exit_code(), 38);
    assert!(error.to_string().contains("cluster 7 is in"), "{error}");
    assert_eq!(chain(home).len(), 2);
    // The base is as long as the device, and nobody's snapshot any more.
    let began = lower(&RealDir, &RealEntropy, home, &quick()).unwrap();
    assert_eq!((began.levels, began.bytes), (1, BYTES));
    assert_eq!(fs::metadata(disk.image()).unwrap().len(), 20_480 * 512);
    assert_eq!(descriptor(home).shot(guid).unwrap().temporary, Temporary::Yes);
    assert!(drop_empty(&RealDir, &RealEntropy, home, &quick()).is_err(), "still not empty");
    // Nobody brought it down: the way of a closed disk goes on.
    run(home, Which::Top).unwrap();
    assert_eq!(chain(home).len(), 1);
    assert_eq!(fs::read(disk.image()).unwrap()[7 * BYTES as usize], 0x37);
    // Under an empty top.
    take(home);
    lower(&RealDir, &RealEntropy, home, &quick()).unwrap();
    assert_eq!(drop_empty(&RealDir, &RealEntropy, home, &quick()).unwrap().levels, 1);
    assert_eq!(chain(home).len(), 1);
}

#[test]
fn only_a_raw_base_takes_a_top_down() {
    let (disk, ..) = three();
    let home = disk.home.path();
    let before = fs::read(home.join("DiskDescriptor.xml")).unwrap();
    for result in [
        lower(&RealDir, &RealEntropy, home, &quick()).map(drop),
        drop_empty(&RealDir, &RealEntropy, home, &quick()).map(drop),
    ] {
        assert_eq!(result.unwrap_err().exit_code(), 38);
    }
    assert_eq!(fs::read(home.join("DiskDescriptor.xml")).unwrap(), before);
}

/// Fails, or finds the host full, after some copies.
struct Breaks(usize);

impl Copier for Breaks {
    fn run(&self, moves: &[Move], to: &File) -> io::Result<Vec<bool>> {
        InTurn.run(&moves[..self.0.min(moves.len())], to)?;
        Err(io::Error::from_raw_os_error(28))
    }
}

#[test]
fn a_merge_that_stops_leaves_every_snapshot_as_it_was() {
    let (disk, ..) = three();
    let home = disk.home.path();
    // All but the header: the mark came and went, and with it a stale Empty flag.
    let files = || -> Vec<_> {
        chain(home).iter().map(|path| fs::read(path).unwrap()[64..].to_vec()).collect()
    };
    let before = files();
    let text = fs::read(home.join("DiskDescriptor.xml")).unwrap();
    for which in [Which::Top, Which::All] {
        for step in 0..2 {
            let mut calls = 0;
            let mut stop = |_, _| {
                calls += 1;
                calls <= step
            };
            let mut work = Work { progress: &mut stop, copier: &InTurn };
            let error = merge(&RealDir, &RealEntropy, home, which, &quick(), &mut work);
            let error = error.unwrap_err();
            assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Cancelled, 29));
            let mut work = Work { progress: &mut |_, _| true, copier: &Breaks(step) };
            let error = merge(&RealDir, &RealEntropy, home, which, &quick(), &mut work);
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Write);
            assert!(files() == before, "{which:?} {step}");
            assert_eq!(fs::read(home.join("DiskDescriptor.xml")).unwrap(), text);
        }
    }
    assert_fine(home);
}

#[test]
fn a_switch_goes_back_and_may_keep_what_was() {
    let (disk, low, middle) = three();
    let home = disk.home.path();
    let old = top(home);
    let options = quick();
    let done = switch(&RealDir, &RealEntropy, home, low, false, &options).unwrap();
    assert!(!old.exists());
    assert_eq!(top(home), done.image);
    assert_eq!(content(home), BTreeMap::from([(1, 0x11), (2, 0x12), (3, 0x13)]));
    assert_fine(home);
    write_cluster(&top(home), SMALL, 9, 0x49);
    let kept = switch(&RealDir, &RealEntropy, home, middle, true, &options).unwrap().kept.unwrap();
    assert_eq!(content(home)[&4], 0x24);
    switch(&RealDir, &RealEntropy, home, kept, false, &options).unwrap();
    assert_eq!(content(home)[&9], 0x49);
    assert_fine(home);
    let unknown: Guid = "{11111111-2222-4333-8444-555555555555}".parse().unwrap();
    let error = switch(&RealDir, &RealEntropy, home, unknown, false, &options).unwrap_err();
    assert_eq!(error.exit_code(), 43);
    let error = switch(&RealDir, &RealEntropy, home, Guid::TOP, false, &options).unwrap_err();
    assert_eq!(error.exit_code(), 38);
    // A damaged branch is found before anything is given up.
    poke(&chain(home)[0], 28, &77u32.to_le_bytes());
    let text = fs::read(home.join("DiskDescriptor.xml")).unwrap();
    assert!(switch(&RealDir, &RealEntropy, home, low, false, &options).is_err());
    assert_eq!(fs::read(home.join("DiskDescriptor.xml")).unwrap(), text);
}

#[test]
fn a_snapshot_goes_as_its_children_let_it() {
    let (disk, low, middle) = three();
    let home = disk.home.path();
    let kept = switch(&RealDir, &RealEntropy, home, low, true, &quick()).unwrap().kept.unwrap();
    assert_eq!(run(home, Which::One(middle)).unwrap_err().exit_code(), 38, "low has two children");
    assert!(matches!(remove(home, low).unwrap(), Deleted::Marked));
    assert_eq!(descriptor(home).shot(low).unwrap().temporary, Temporary::Yes);
    let error = switch(&RealDir, &RealEntropy, home, low, false, &quick()).unwrap_err();
    assert_eq!(error.exit_code(), 38, "it waits to be merged");
    // With the branch away it can go.
    assert!(matches!(remove(home, kept).unwrap(), Deleted::Removed(_)));
    assert!(matches!(remove(home, middle).unwrap(), Deleted::Removed(_)));
    let mut work = Work { progress: &mut |_, _| true, copier: &InTurn };
    let done = merge_leftovers(&RealDir, &RealEntropy, home, &quick(), &mut work).unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(chain(home), [disk.image().canonicalize().unwrap()]);
    assert_eq!(content(home), BTreeMap::from([(1, 0x11), (2, 0x12), (3, 0x13)]));
    assert_fine(home);
    assert_eq!(remove(home, Guid::TOP).unwrap_err().exit_code(), 38, "all the disk has");
}

#[test]
fn without_its_top_a_disk_is_what_it_was() {
    let (disk, ..) = three();
    let home = disk.home.path();
    let old = top(home);
    assert!(matches!(remove(home, Guid::TOP).unwrap(), Deleted::Removed(_)));
    assert!(!old.exists());
    assert_eq!(content(home), BTreeMap::from([(1, 0x11), (2, 0x22), (3, 0x13), (4, 0x24)]));
    assert_fine(home);
}

#[test]
fn a_disk_grows_within_its_bat_and_what_lay_behind_it_does_not_show() {
    let disk = TestDisk::new();
    let home = disk.home.path();
    write_cluster(disk.image(), SMALL, 3, 0x13);
    // F20: a word behind the last entry would become one.
    poke32(disk.image(), 64 + 4 * 160, 1);
    let done = grow(&RealDir, home, Sector(200 * 128 - 1), &quick()).unwrap();
    assert_eq!((done.before, done.size), (Sector(20_480), Sector(200 * 128)));
    assert_eq!(content(home), BTreeMap::from([(3, 0x13)]));
    assert_eq!(descriptor(home).size_sectors, 200 * 128);
    assert_fine(home);
    let error = grow(&RealDir, home, Sector(128), &quick()).unwrap_err();
    assert_eq!(error.exit_code(), 38);
}

#[test]
fn clusters_move_out_of_the_way_of_a_larger_bat() {
    let (disk, ..) = three();
    let home = disk.home.path();
    let before = content(home);
    // Past 16368 entries the BAT of 64 KiB clusters takes a second one.
    let size = Sector(40_000 * 128);
    let low = disk.image();
    let error = grow(&RealDir, low, size, &quick()).unwrap_err();
    assert_eq!(error.exit_code(), 38, "larger than the image on it: {error}");
    grow(&RealDir, home, size, &quick()).unwrap();
    assert_eq!(content(home), before);
    assert_fine(home);
    run(home, Which::All).unwrap();
    assert_eq!(peek32(low, 32), 40_000);
    let mut after = content(home);
    after.insert(5, 0);
    assert_eq!(after, before);
    assert_fine(home);
}

#[test]
fn the_grow_of_the_sample_is_the_originals() {
    let home = tempfile::tempdir().unwrap();
    let image = copy("grow-before", &home);
    grow(&RealDir, &image, Sector(20_000 * 64), &quick()).unwrap();
    let theirs = samples::samples_dir().join("grow-after");
    assert_qemu_clean(&image);
    let (ours, theirs) = (image.to_str().unwrap(), theirs.to_str().unwrap());
    if let Some((code, text)) =
        tool("qemu-img", &["compare", "-f", "parallels", "-F", "parallels", ours, theirs])
    {
        assert_eq!(code, 0, "{text}");
    }
    assert_eq!(peek32(&image, 32), 20_000);
    assert_eq!(len(&image), fs::metadata(theirs).unwrap().len(), "no cluster more than theirs");
}

/// F20: a crash may have left a descriptor with an older size than its top has; a raw base has no
/// size of its own.
#[test]
fn a_merge_into_a_raw_base_keeps_the_size_of_the_device() {
    let larger = Sector(40_960);
    for live in [false, true] {
        let disk = TestDisk::with(&options(Kind::Raw { sparse: true }));
        let home = disk.home.path();
        take(home);
        let path = home.join("DiskDescriptor.xml");
        let old = fs::read(&path).unwrap();
        grow(&RealDir, home, larger, &quick()).unwrap();
        fs::write(&path, old).unwrap();
        match live {
            false => drop(run(home, Which::Top).unwrap()),
            true => {
                lower(&RealDir, &RealEntropy, home, &quick()).unwrap();
                drop_empty(&RealDir, &RealEntropy, home, &quick()).unwrap();
            }
        }
        assert_eq!(chain(home).len(), 1);
        assert_eq!(descriptor(home).size_sectors, larger.0, "live: {live}");
        let disk = open(home, &quick()).unwrap();
        assert_eq!(disk.size(), larger);
        disk.abort().unwrap();
    }
}
