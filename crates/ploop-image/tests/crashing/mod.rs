//! A disk in the simulator: crashed after, or failing at, every operation of a piece of work.
#![allow(dead_code, reason = "each test binary uses a part")]

use ploop_engine::CloseReport;
use ploop_format::{ClusterSize, Header, Sector, Version};
use ploop_image::{
    CheckOptions, CreateOptions, Disk, ImageError, Kind, LockWait, OpenOptions, check, create,
    snapshot,
};
use ploop_io::OpKind;
use ploop_io::sim::{SimOptions, SimWorld, SurvivorPlan, Verdict};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub const HOME: &str = "/disk";
pub const IMAGE: &str = "/disk/root.hds";
pub const DATA: u8 = 0x5a;
pub const CLUSTER: usize = 32_768;

pub fn options() -> OpenOptions {
    OpenOptions { wait: LockWait::NONE, ..OpenOptions::default() }
}

pub fn make(world: &SimWorld, kind: Kind) -> Result<(), ImageError> {
    let cluster = ClusterSize::from_sectors(64).unwrap();
    let options = CreateOptions { size: Sector(2048), version: Version::V2, cluster, kind };
    let (dir, entropy) = (world.dir(), world.entropy(1));
    create(&dir, &entropy, Path::new(IMAGE), &options, &mut |_, _| {}).map(drop)
}

/// A world with a directory and nothing in it.
pub fn empty() -> SimWorld {
    let world = SimWorld::new(7, SimOptions::default());
    world.mkdir(Path::new(HOME));
    world
}

/// A world with a durable disk: guest cluster 3 holds data, clusters behind it are unused.
pub fn with_disk() -> SimWorld {
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

pub fn plans() -> Vec<SurvivorPlan> {
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
pub fn crash_everywhere(
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
pub fn assert_whole(world: &SimWorld, at: &str) {
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

pub fn open_and_close(world: &SimWorld) -> Result<(), ImageError> {
    let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options())?;
    let report = CloseReport {
        clean: true,
        failure: None,
        end: 2 * CLUSTER as u64,
        mapped: true,
        changed: true,
        more: Vec::new(),
    };
    disk.close(report)
}

pub fn open_and_abort(world: &SimWorld) -> Result<(), ImageError> {
    Disk::open(Arc::new(world.dir()), Path::new(HOME), &options())?.abort()
}

pub fn take_snapshot(world: &SimWorld) -> Result<(), ImageError> {
    let (dir, entropy) = (world.dir(), world.entropy(2));
    snapshot(&dir, &entropy, Path::new(HOME), None, &options()).map(drop)
}

/// Fails each operation of `work` once, then lets `judge` look at the outcome.
pub fn fail_everywhere(
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
