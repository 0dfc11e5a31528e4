//! What is not the disk's own is read, never changed: images outside its directory, and those with
//! several names. And below the top an open changes nothing but what an operation of ours left.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_format::{BELOW, Descriptor, Guid, InUse, Sector, Temporary};
use ploop_image::layers::{
    InTurn, Which, Work, delete, grow, merge, merge_leftovers, switch, turn,
};
use ploop_image::{
    AnyFile, CheckOptions, CreateOptions, ErrorKind, Kind, Note, OpenOptions, check, create,
    snapshot,
};
use ploop_io::{RealDir, RealEntropy};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// In use, as everybody writes it.
const OPEN: u32 = 0x746F_6E59;
const BYTES: u64 = SMALL as u64 * 512;

/// A disk in `base/`, frozen once, and one in `clone/` whose lowest image is the other's base.
struct Family {
    folder: TempDir,
    frozen: Guid,
}

fn make(home: &Path, name: &str, options: &CreateOptions) -> PathBuf {
    fs::create_dir(home).unwrap();
    let path = home.join(name);
    create(&RealDir, &RealEntropy, &path, options, &mut |_, _| {}).unwrap().image
}

impl Family {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = make(&folder.path().join("base"), "root.hds", &options(Kind::Expanded));
        for (slot, byte) in [(0, 0x10), (3, 0x13)] {
            write_cluster(&base, SMALL, slot, byte);
        }
        let (home, clone) = (folder.path().join("base"), folder.path().join("clone"));
        snapshot(&RealDir, &RealEntropy, &home, None, &quick()).unwrap();
        let own = make(&clone, "top.hds", &options(Kind::Expanded));
        let frozen = snapshot(&RealDir, &RealEntropy, &clone, None, &quick()).unwrap().guid;
        fs::remove_file(own).unwrap();
        let path = clone.join("DiskDescriptor.xml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("<File>top.hds<", "<File>../base/root.hds<")).unwrap();
        let family = Self { folder, frozen };
        write_cluster(&family.top(), SMALL, 3, 0x33);
        family
    }

    fn clone(&self) -> PathBuf {
        self.folder.path().join("clone")
    }

    fn top(&self) -> PathBuf {
        let parsed = self.descriptor();
        self.clone().join(&parsed.image(parsed.top).unwrap().file)
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor::parse(&fs::read(self.clone().join("DiskDescriptor.xml")).unwrap()).unwrap()
    }

    /// Everything in the base's directory, by name.
    fn base(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let home = self.folder.path().join("base");
        let all = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path());
        all.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }
}

fn open_to_all() -> OpenOptions {
    OpenOptions { gate: Arc::new(AnyFile), ..quick() }
}

fn shared_too() -> OpenOptions {
    OpenOptions { change_shared: true, ..open_to_all() }
}

macro_rules! work {
    () => {
        Work { progress: &mut |_, _| true, copier: &InTurn }
    };
}

#[test]
fn no_operation_changes_the_base_that_others_lie_on() {
    let family = Family::new();
    let (home, how) = (family.clone(), open_to_all());
    let before = family.base();
    let (dir, random) = (&RealDir, &RealEntropy);
    let merged = |which| merge(dir, random, &home, which, &how, &mut work!()).map(drop);
    let kinds = [
        merged(Which::Top),
        merged(Which::All),
        turn(dir, random, &home, Which::Top, &how).map(drop),
        delete(dir, random, &home, family.frozen, &how, &mut work!()).map(drop),
    ];
    for result in kinds {
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Shared, 4), "{error}");
        let text = error.to_string();
        assert!(text.contains("base/root.hds") && text.contains("outside"), "{text}");
    }
    // What the clone has to itself can change all the same.
    let taken = snapshot(dir, random, &home, None, &how).unwrap();
    assert_eq!(taken.image.parent(), Some(&*home), "a new delta is made in the disk's directory");
    write_cluster(&family.top(), SMALL, 5, 0x55);
    switch(dir, random, &home, taken.guid, false, &how).unwrap();
    merged(Which::Top).unwrap();
    grow(dir, &home, Sector(40_960), &how).unwrap();
    open(&home, &how).unwrap().abort().unwrap();
    assert_eq!(family.base(), before);
}

#[test]
fn the_base_of_others_takes_a_merge_when_the_caller_says_so() {
    let family = Family::new();
    let before = family.base();
    let (dir, random) = (&RealDir, &RealEntropy);
    merge(dir, random, &family.clone(), Which::Top, &shared_too(), &mut work!()).unwrap();
    assert_ne!(family.base(), before);
    // The base is the top now: it is written only by those who say so.
    let error = open(&family.clone(), &open_to_all()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shared);
    open(&family.clone(), &shared_too()).unwrap().abort().unwrap();
    let only = OpenOptions { read_only: true, ..open_to_all() };
    open(&family.clone(), &only).unwrap().abort().unwrap();
}

/// A snapshot of another's image may wait to be merged since an older version marked it.
#[test]
fn a_base_of_others_that_waits_for_a_merge_goes_on_waiting() {
    let family = Family::new();
    let path = family.clone().join("DiskDescriptor.xml");
    let mut parsed = family.descriptor();
    parsed.set_temporary(family.frozen, Temporary::Yes).unwrap();
    fs::write(&path, parsed.to_xml().unwrap()).unwrap();
    let before = family.base();
    let (dir, random) = (&RealDir, &RealEntropy);
    let done = merge_leftovers(dir, random, &family.clone(), &open_to_all(), &mut work!()).unwrap();
    assert!(done.is_empty());
    assert_eq!(family.base(), before);
}

#[test]
fn an_image_with_several_names_is_only_read() {
    let disk = TestDisk::new();
    let other = disk.home.path().join("other");
    fs::hard_link(disk.image(), &other).unwrap();
    let before = fs::read(&other).unwrap();
    for result in [
        disk.open().map(drop),
        grow(&RealDir, disk.home.path(), Sector(40_960), &quick()).map(drop),
        grow(&RealDir, &other, Sector(40_960), &quick()).map(drop),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shared);
        assert!(error.to_string().contains("2 names (hard links)"), "{error}");
    }
    open(disk.home.path(), &read_only()).unwrap().abort().unwrap();
    assert_eq!(fs::read(&other).unwrap(), before);
    // A frozen one is no hindrance: the new top is the disk's own.
    fs::remove_file(&other).unwrap();
    snapshot(&RealDir, &RealEntropy, disk.home.path(), None, &quick()).unwrap();
    fs::hard_link(disk.image(), &other).unwrap();
    disk.open().unwrap().abort().unwrap();
    let (dir, random) = (&RealDir, &RealEntropy);
    let merged = merge(dir, random, disk.home.path(), Which::Top, &quick(), &mut work!());
    assert_eq!(merged.unwrap_err().kind(), ErrorKind::Shared);
}

#[test]
fn a_link_that_leads_outside_is_outside() {
    let folder = tempfile::tempdir().unwrap();
    let image = make(&folder.path().join("disk"), "root.hds", &options(Kind::Expanded));
    let elsewhere = folder.path().join("elsewhere.hds");
    fs::rename(&image, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &image).unwrap();
    let home = folder.path().join("disk");
    assert_eq!(open(&home, &quick()).unwrap_err().kind(), ErrorKind::Gate);
    assert_eq!(open(&home, &open_to_all()).unwrap_err().kind(), ErrorKind::Shared);
    open(&home, &shared_too()).unwrap().abort().unwrap();
    // A directory that leads outside does too, for a new delta.
    fs::remove_file(&image).unwrap();
    let far = folder.path().join("far");
    fs::create_dir(&far).unwrap();
    fs::rename(&elsewhere, far.join("root.hds")).unwrap();
    std::os::unix::fs::symlink(&far, home.join("sub")).unwrap();
    let path = home.join("DiskDescriptor.xml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("<File>root.hds<", "<File>sub/root.hds<")).unwrap();
    let taken = snapshot(&RealDir, &RealEntropy, &home, None, &shared_too()).unwrap();
    assert_eq!(taken.image.parent(), Some(&*home));
}

/// Words in the in-use field of a frozen base that are no proof of an operation of ours.
#[test]
fn a_mark_of_somebody_below_the_top_is_left_alone() {
    for word in [OPEN, 0x1234_5678] {
        let disk = TestDisk::new();
        write_cluster(disk.image(), SMALL, 1, 0x11);
        snapshot(&RealDir, &RealEntropy, disk.home.path(), None, &quick()).unwrap();
        poke32(disk.image(), 44, word);
        set_len(disk.image(), len(disk.image()) + 3 * BYTES);
        let before = fs::read(disk.image()).unwrap();
        let opened = disk.open().unwrap();
        let said = opened.notes().iter().any(|note| matches!(note, Note::DirtyLower(_)));
        assert!(said, "{:?}", opened.notes());
        opened.abort().unwrap();
        snapshot(&RealDir, &RealEntropy, disk.home.path(), None, &quick()).unwrap();
        assert!(fs::read(disk.image()).unwrap() == before, "word {word:#x}");
    }
}

/// The mark that a merge of ours left is cleared, but not before the whole chain was accepted.
#[test]
fn a_mark_of_ours_is_cleared_when_the_chain_is_good() {
    let disk = TestDisk::new();
    let home = disk.home.path();
    write_cluster(disk.image(), SMALL, 1, 0x11);
    let clean = len(disk.image());
    let taken = snapshot(&RealDir, &RealEntropy, home, None, &quick()).unwrap();
    poke32(disk.image(), 44, InUse::InUse.word());
    poke32(disk.image(), 52, BELOW);
    set_len(disk.image(), clean + 3 * BYTES);
    let before = fs::read(disk.image()).unwrap();
    // The top's BAT names the header.
    poke32(&taken.image, 64, 0x7FFF_FFFF);
    assert_eq!(disk.open().unwrap_err().kind(), ErrorKind::BadImage);
    assert!(fs::read(disk.image()).unwrap() == before, "the chain was refused");
    poke32(&taken.image, 64, 0);
    disk.open().unwrap().abort().unwrap();
    assert_eq!((in_use(disk.image()), peek32(disk.image(), 52)), (0, 0));
    assert_eq!(len(disk.image()), clean);
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    assert_eq!(check(&RealDir, home, &force, &quick()).unwrap().exit_code(), 0);
}
