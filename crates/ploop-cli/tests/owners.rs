//! Root works on a disk of another user: every file that is made or replaced stays that user's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;
use common::World;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

const USER: u32 = 65_534;
const GROUP: u32 = 65_533;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let name = std::thread::current().name().unwrap_or("main").to_owned();
        ploop_e2e::skip(&name, "needs root, to give files away");
    }
    root
}

/// A disk of USER: the descriptor may be read by the group, images may be written by it.
fn disk(world: &World) -> String {
    let image = world.disk("a");
    world.ok(&["init", "-s", "16M", "-b", "128", "-t", "none", &image]);
    for (name, mode) in [("", 0o750), ("/root.hds", 0o660), ("/DiskDescriptor.xml", 0o640)] {
        let path = world.path(&format!("a{name}"));
        chown(&path, Some(USER), Some(GROUP)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    world.text("a")
}

fn assert_owned(world: &World, after: &str) -> usize {
    let mut images = 0;
    for entry in fs::read_dir(world.path("a")).unwrap().flatten() {
        let (name, meta) = (entry.file_name().into_string().unwrap(), entry.metadata().unwrap());
        let image = name.starts_with("root.hds");
        images += usize::from(image);
        let mode = if image { 0o660 } else { 0o640 };
        let found = (meta.uid(), meta.gid(), meta.mode() & 0o7777);
        assert_eq!(found, (USER, GROUP, mode), "{name} after {after}");
    }
    images
}

#[test]
fn operations_of_a_closed_disk() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let disk = disk(&world);
    world.ok(&["snapshot", &disk]);
    assert_eq!(assert_owned(&world, "a snapshot"), 2);
    world.ok(&["grow", "-s", "32M", &disk]);
    assert_owned(&world, "a grow");
    world.ok(&["snapshot-merge", &disk]);
    assert_eq!(assert_owned(&world, "a merge"), 1);
    let json = world.ok(&["--json", "snapshot", &disk]).json();
    let uuid = json["uuid"].as_str().unwrap();
    world.ok(&["snapshot-switch", "-D", "-u", uuid, &disk]);
    assert_eq!(assert_owned(&world, "a switch"), 3);
    world.ok(&["snapshot-switch", "-u", uuid, &disk]);
    assert_eq!(assert_owned(&world, "a switch back"), 3);
    assert!(world.path("a/DiskDescriptor.xml.lck").exists(), "the user can take it too");
}

#[test]
fn operations_of_an_open_disk() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let disk = disk(&world);
    let server = world.serve(&[&disk, "--nbd", &format!("unix:{}", world.text("s"))], 1);
    world.ok(&["snapshot", &disk]);
    assert_eq!(assert_owned(&world, "a snapshot"), 2);
    world.ok(&["grow", "-s", "32M", &disk]);
    world.ok(&["snapshot-merge", &disk]);
    assert_eq!(assert_owned(&world, "a merge"), 1);
    assert_eq!(server.end("-TERM"), 0);
    assert_owned(&world, "the end");
}

#[test]
fn new_disks_and_descriptors() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let disk = disk(&world);
    fs::remove_file(world.path("a/DiskDescriptor.xml")).unwrap();
    world.ok(&["restore-descriptor", &disk, &world.text("a/root.hds")]);
    let meta = |name: &str| {
        let meta = fs::metadata(world.path(name)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o777)
    };
    assert_eq!(meta("a/DiskDescriptor.xml"), (USER, GROUP, 0o644));
    let image = world.disk("b");
    chown(world.path("b"), Some(USER), Some(GROUP)).unwrap();
    world.ok(&["init", "-s", "16M", "-t", "none", &image]);
    assert_eq!(meta("b/root.hds"), (USER, GROUP, 0o600));
    assert_eq!(meta("b/DiskDescriptor.xml"), (USER, GROUP, 0o644));
}

/// Root would make a file wherever the disk's user wants one.
#[test]
fn no_file_is_made_through_a_link() {
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "16M", "-b", "128", "-t", "none", &image]);
    let lock = world.path("a/DiskDescriptor.xml.lck");
    let _ = fs::remove_file(&lock);
    symlink(world.path("elsewhere"), &lock).unwrap();
    world.run(&["snapshot", &world.text("a")]);
    assert!(!world.path("elsewhere").exists());
}
