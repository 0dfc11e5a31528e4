//! Host crashes at every operation of create, open, close and snapshot (I9, I12, I13), and every
//! operation failing once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

use ploop_engine::CloseReport;
use ploop_format::{ClusterSize, Header, Sector, Version};
use ploop_image::{
    CheckOptions, CreateOptions, Disk, ImageError, Kind, LockWait, OpenOptions, check, create,
    snapshot,
};
use ploop_io::sim::{SimOptions, SimWorld, SurvivorPlan, Verdict};
use ploop_io::{Dir, OpKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const HOME: &str = "/disk";
const IMAGE: &str = "/disk/root.hds";
const DATA: u8 = 0x5a;
const CLUSTER: usize = 32_768;

fn options() -> OpenOptions {
    OpenOptions { wait: LockWait::NONE, ..OpenOptions::default() }
}

fn make(world: &SimWorld, kind: Kind) -> Result<(), ImageError> {
    let cluster = ClusterSize::from_sectors(64).unwrap();
    let options = CreateOptions { size: Sector(2048), version: Version::V2, cluster, kind };
    let (dir, entropy) = (world.dir(), world.entropy(1));
    create(&dir, &entropy, Path::new(IMAGE), &options, &mut |_, _| {}).map(drop)
}

/// A world with a directory and nothing in it.
fn empty() -> SimWorld {
    let world = SimWorld::new(7, SimOptions::default());
    world.mkdir(Path::new(HOME));
    world
}

/// A world with a durable disk: guest cluster 3 holds data, clusters behind it are unused.
fn with_disk() -> SimWorld {
    let maker = empty();
    make(&maker, Kind::Expanded).unwrap();
    let world = empty();
    let mut image = maker.read_file(Path::new(IMAGE)).unwrap();
    image[64 + 12..64 + 16].copy_from_slice(&1u32.to_le_bytes());
    image.extend([DATA; CLUSTER]);
    image.extend([0xee; 3 * CLUSTER]);
    world.put_file(Path::new(IMAGE), &image);
    let xml = Path::new("/disk/DiskDescriptor.xml");
    world.put_file(xml, &maker.read_file(xml).unwrap());
    world
}

fn plans() -> Vec<SurvivorPlan> {
    let mut plans = vec![
        SurvivorPlan::None,
        SurvivorPlan::All,
        SurvivorPlan::OldestLost,
        SurvivorPlan::NewestLost,
        SurvivorPlan::TornMiddle,
    ];
    plans.extend((0..6).map(SurvivorPlan::Random));
    plans
}

/// Crashes `work` after each of its operations with every plan, then lets `judge` look.
fn crash_everywhere(
    scene: impl Fn() -> SimWorld,
    work: impl Fn(&SimWorld) -> Result<(), ImageError>,
    judge: impl Fn(&SimWorld, &str),
) {
    let world = scene();
    let before = world.operations();
    work(&world).unwrap();
    let count = world.operations() - before;
    assert!(count > 3, "only {count} operations");
    for last in 0..=count {
        for plan in plans() {
            let world = scene();
            world.crash_after(Some(world.operations() + last));
            let _ = work(&world);
            world.crash_after(None);
            let world = world.crash(&plan).world;
            judge(&world, &format!("crash after {last} of {count}, {plan:?}"));
        }
    }
}

/// The disk opens, its data is there, and after a clean close nothing is found.
fn assert_whole(world: &SimWorld, at: &str) {
    let dir = world.dir();
    let found = check(&dir, Path::new(HOME), &CheckOptions::default(), &options())
        .unwrap_or_else(|e| panic!("{at}: {e}"));
    // I13: nothing but the mark.
    assert!([0, 37].contains(&found.exit_code()), "{at}: {found:#?}");
    let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options())
        .unwrap_or_else(|e| panic!("{at}: {e}"));
    let image = world.read_file(Path::new(IMAGE)).unwrap();
    assert_eq!(image[64 + 12..64 + 16], 1u32.to_le_bytes(), "{at}");
    assert!(image[CLUSTER..2 * CLUSTER].iter().all(|b| *b == DATA), "{at}");
    let spec = disk.spec();
    let top = Header::parse(&spec.header).unwrap();
    assert!(top.in_use().is_in_use(), "{at}");
    drop(spec);
    disk.abort().unwrap_or_else(|e| panic!("{at}: {e}"));
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    let report = check(&dir, Path::new(HOME), &force, &options()).unwrap();
    assert_eq!(report.exit_code(), 0, "{at}: {report:#?}");
    assert!(report.images.iter().all(|i| i.leaks == 0 && i.findings.is_empty()), "{at}");
}

fn open_and_close(world: &SimWorld) -> Result<(), ImageError> {
    let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options())?;
    let report = CloseReport { clean: true, failure: None, end: 2 * CLUSTER as u64, mapped: true };
    disk.close(report)
}

fn take_snapshot(world: &SimWorld) -> Result<(), ImageError> {
    let (dir, entropy) = (world.dir(), world.entropy(2));
    snapshot(&dir, &entropy, Path::new(HOME), None, &options()).map(drop)
}

#[test]
fn open_and_close_survive_a_crash_anywhere() {
    crash_everywhere(with_disk, open_and_close, assert_whole);
}

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

/// Fails each operation of `work` once, then lets `judge` look at the outcome.
fn fail_everywhere(
    scene: impl Fn() -> SimWorld,
    work: impl Fn(&SimWorld) -> Result<(), ImageError>,
    judge: impl Fn(&SimWorld, Result<(), ImageError>, &str),
) {
    for which in 0.. {
        for errno in [5, 28] {
            let world = scene();
            let seen = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&seen);
            world.set_hook(Some(Box::new(move |attempt| {
                let now = count.fetch_add(1, Ordering::Relaxed);
                // Only what takes space runs out of it.
                let fits = errno == 5 || !matches!(attempt.kind, OpKind::Read | OpKind::Sync);
                if now == which && fits { Verdict::FailTorn(errno) } else { Verdict::Normal }
            })));
            let done = work(&world);
            world.set_hook(None);
            if seen.load(Ordering::Relaxed) <= which {
                assert!(which > 3, "only {which} operations");
                return;
            }
            judge(&world, done, &format!("operation {which} failed with errno {errno}"));
        }
    }
}

#[test]
fn a_failed_operation_of_open_close_or_snapshot_leaves_a_whole_disk() {
    let judge = |world: &SimWorld, done: Result<(), ImageError>, at: &str| {
        if let Err(error) = &done {
            assert_ne!(error.exit_code(), 0, "{at}");
        }
        assert_whole(world, at);
    };
    fail_everywhere(with_disk, open_and_close, judge);
    fail_everywhere(with_disk, take_snapshot, judge);
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
fn after_success_nothing_is_lost() {
    let world = with_disk();
    take_snapshot(&world).unwrap();
    let world = world.crash(&SurvivorPlan::None).world;
    assert_whole(&world, "after the snapshot");
    let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options()).unwrap();
    assert_eq!(disk.spec().levels.len(), 2);
    drop(disk);
    // A kill keeps the disk, the mark and nothing else.
    world.kill();
    let report = check(&world.dir(), Path::new(HOME), &CheckOptions::default(), &options());
    assert_eq!(report.unwrap().exit_code(), 37);
    assert_whole(&world, "after a kill");
}
