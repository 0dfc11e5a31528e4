//! I9: at every crash point the descriptor names a chain that opens and holds every flushed byte.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod crashing;
use crashing::*;
use ploop_format::Sector;
use ploop_image::ImageError;
use ploop_image::{Disk, Kind};
use ploop_io::Dir;
use ploop_io::sim::{SimWorld, SurvivorPlan};
use std::path::Path;
use std::sync::Arc;

#[test]
fn a_snapshot_is_there_or_not_never_half() {
    crash_everywhere(with_disk, take_snapshot, assert_whole);
}

#[test]
fn a_created_disk_opens_or_does_not_exist() {
    for kind in [Kind::Expanded, Kind::Preallocated, Kind::Raw { sparse: true }] {
        let judge = |world: &SimWorld, at: &str| {
            if world.read_file(Path::new("/disk/DiskDescriptor.xml")).is_err() {
                return;
            }
            let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options())
                .unwrap_or_else(|e| panic!("{kind:?} {at}: {e}"));
            assert_eq!(disk.size(), Sector(2048), "{at}");
            disk.abort().unwrap();
        };
        crash_everywhere(empty, |world| make(world, kind), judge);
    }
}

#[test]
fn a_failed_create_leaves_nothing() {
    for kind in [Kind::Expanded, Kind::Preallocated, Kind::Raw { sparse: false }] {
        let judge = |world: &SimWorld, done: Result<(), ImageError>, at: &str| {
            let names = world.dir().list(Path::new(HOME)).unwrap();
            match done {
                Ok(()) => assert_eq!(names.len(), 2, "{kind:?} {at}: {names:?}"),
                Err(_) => assert!(names.is_empty(), "{kind:?} {at}: {names:?}"),
            }
        };
        fail_everywhere(empty, |world| make(world, kind), judge);
    }
}

#[test]
fn a_finished_snapshot_is_durable() {
    let world = with_disk();
    take_snapshot(&world).unwrap();
    let world = world.crash(&SurvivorPlan::None).world;
    assert_whole(&world, "after the snapshot");
    let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options()).unwrap();
    assert_eq!(disk.spec().levels.len(), 2);
}
