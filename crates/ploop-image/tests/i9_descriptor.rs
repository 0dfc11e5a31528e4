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

/// Kills `work` after each of its operations. Whatever descriptor is in force then, `next` must not
/// let anything depend on it before a crash would bring the same one back.
fn kill_everywhere(
    work: impl Fn(&SimWorld) -> Result<(), ImageError>,
    next: impl Fn(&SimWorld) -> Result<(), ImageError>,
) {
    let text = |world: &SimWorld| world.read_file(Path::new("/disk/DiskDescriptor.xml")).unwrap();
    let world = with_disk();
    let before = world.operations();
    work(&world).unwrap();
    let count = world.operations() - before;
    let mut unsure = 0;
    for last in 0..=count {
        let world = with_disk();
        let old = text(&world);
        world.crash_after(Some(world.operations() + last));
        let _ = work(&world);
        world.crash_after(None);
        world.kill();
        let in_force = text(&world);
        unsure += usize::from(text(&world.crash(&SurvivorPlan::None).world) != in_force);
        next(&world).unwrap_or_else(|e| panic!("kill after {last} of {count}: {e}"));
        let now = text(&world);
        let world = world.crash(&SurvivorPlan::None).world;
        assert!(text(&world) == now, "kill after {last} of {count}: the old chain is back");
        assert!(now == in_force || now != old, "kill after {last} of {count}");
        assert_whole(&world, &format!("kill after {last} of {count}"));
    }
    assert!(unsure > 0, "no kill came between the rename and the sync of the directory");
}

#[test]
fn an_open_makes_the_descriptor_durable_that_a_killed_process_put_in_force() {
    // Open as by a server that is killed later: the mark and what it writes go to the new chain.
    let open =
        |world: &SimWorld| Disk::open(Arc::new(world.dir()), Path::new(HOME), &options()).map(drop);
    kill_everywhere(take_snapshot, open);
    kill_everywhere(take_snapshot, open_and_abort);
}

#[test]
fn an_operation_on_layers_makes_the_descriptor_durable_that_it_begins_with() {
    let snapshot = |world: &SimWorld| {
        let (dir, entropy) = (world.dir(), world.entropy(3));
        ploop_image::snapshot(&dir, &entropy, Path::new(HOME), None, &options()).map(drop)
    };
    kill_everywhere(take_snapshot, snapshot);
}
