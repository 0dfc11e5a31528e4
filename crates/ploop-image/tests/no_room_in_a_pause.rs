//! F20: an operation on the layers of a disk in use that finds no room for a descriptor, or a
//! directory in which no name can change, leaves the chain as it was and the device running. What
//! needs an inode or a block is made before requests wait.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;

use common::{TestDisk, quick};
use ploop_engine::CloseReport;
use ploop_format::Sector;
use ploop_image::layers::{self, Which};
use ploop_image::{
    Disk, ErrorKind, Exchange, OpenOptions, Result, Spares, Wish, snapshot, snapshot_as,
};
use ploop_io::{Dir, File, OpenHow, RealDir, RealEntropy, Stat};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

const ENOSPC: i32 = 28;
const EPERM: i32 = 1;
const EIO: i32 = 5;

/// The host's directories, which may begin to refuse: 0 is no refusal, else the errno.
#[derive(Default)]
struct Host {
    create: AtomicI32,
    rename: AtomicI32,
    /// Directory syncs that fail.
    sync: AtomicU32,
}

fn refused(errno: &AtomicI32) -> io::Result<()> {
    match errno.load(Ordering::SeqCst) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

impl Dir for Host {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<File> {
        if how.create_new || how.create {
            refused(&self.create)?;
        }
        RealDir.open(path, how)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        refused(&self.rename)?;
        RealDir.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        refused(&self.rename)?;
        RealDir.unlink(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let left = self.sync.load(Ordering::SeqCst);
        if left > 0 {
            self.sync.store(left - 1, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(EIO));
        }
        RealDir.sync_dir(dir)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        RealDir.stat(path)
    }
    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        RealDir.canonical(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDir.list(dir)
    }
    fn read_small(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        RealDir.read_small(path, limit)
    }
}

/// Closed as a device that has written nothing.
fn report(disk: &Disk) -> CloseReport {
    let end = fs::metadata(disk.images().last().unwrap()).unwrap().len();
    CloseReport { clean: true, failure: None, end, mapped: false, changed: true, more: Vec::new() }
}

/// An open disk of two levels on such a host.
struct Scene {
    disk: TestDisk,
    host: Arc<Host>,
    open: Option<Disk>,
}

impl Scene {
    fn new() -> Self {
        let disk = TestDisk::new();
        snapshot(&RealDir, &RealEntropy, disk.home.path(), None, &quick()).unwrap();
        let host = Arc::new(Host::default());
        let open = Disk::open(host.clone(), disk.home.path(), &quick()).unwrap();
        Self { disk, host, open: Some(open) }
    }

    fn spares(&self) -> Result<Spares> {
        self.open.as_ref().unwrap().spares(&*self.host, &RealEntropy, 5)
    }

    /// An operation in a pause; the device goes on in any case.
    fn pause<T>(
        &mut self,
        spares: &Spares,
        operate: impl FnOnce(&dyn Dir, &Path, &OpenOptions) -> Result<T>,
    ) -> Result<T> {
        let disk = self.open.take().unwrap();
        let options = quick();
        let (home, host) = (self.disk.home.path(), self.host.clone());
        let how = Exchange {
            target: home,
            entropy: &RealEntropy,
            options: &options,
            also_write: vec![],
            spares: spares.clone(),
        };
        let report = report(&disk);
        let operate = |options: &OpenOptions| operate(&*self.host, home, options);
        let (done, next) = disk.exchange(report, host, how, operate).unwrap();
        self.open = Some(next);
        done
    }

    fn descriptor(&self) -> String {
        fs::read_to_string(self.disk.home.path().join("DiskDescriptor.xml")).unwrap()
    }

    fn temporary_files(&self) -> usize {
        let names = fs::read_dir(self.disk.home.path()).unwrap().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().contains(".tmp.")).count()
    }
}

type Operation = fn(&dyn Dir, &Path, &OpenOptions) -> Result<()>;

/// What an open disk can be asked for; a new top is made beforehand, as a server does.
const OPERATIONS: [(&str, Operation); 3] = [
    ("grow", |dir, home, options| layers::grow(dir, home, Sector(40_960), options).map(drop)),
    ("turn", |dir, home, options| {
        layers::turn(dir, &RealEntropy, home, Which::Top, options).map(drop)
    }),
    ("turn all", |dir, home, options| {
        layers::turn(dir, &RealEntropy, home, Which::All, options).map(drop)
    }),
];

#[test]
fn nothing_in_a_pause_needs_a_new_file() {
    for (name, operate) in OPERATIONS {
        for errno in [ENOSPC, 122, 27] {
            let mut scene = Scene::new();
            let spares = scene.spares().unwrap();
            scene.host.create.store(errno, Ordering::SeqCst);
            let before = scene.descriptor();
            scene.pause(&spares, operate).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_ne!(scene.descriptor(), before, "{name}");
            spares.discard(&RealDir);
            assert_eq!(scene.temporary_files(), 0, "{name}");
        }
    }
    // A snapshot has its files made before; one to make sure is beside them.
    let mut scene = Scene::new();
    let wish = Wish::default();
    let disk = scene.open.as_ref().unwrap();
    let ready = disk.prepare_snapshot(&*scene.host, &RealEntropy, &wish).unwrap();
    let spares = scene.spares().unwrap();
    scene.host.create.store(ENOSPC, Ordering::SeqCst);
    let wish = Wish { ready: Some(ready), ..wish };
    let taken = scene
        .pause(&spares, |dir, home, options| snapshot_as(dir, &RealEntropy, home, &wish, options));
    taken.unwrap();
    assert_eq!(scene.open.as_ref().unwrap().images().count(), 3);
}

#[test]
fn a_directory_whose_names_cannot_change_leaves_everything_as_it_was() {
    for (name, operate) in OPERATIONS {
        let mut scene = Scene::new();
        let spares = scene.spares().unwrap();
        scene.host.create.store(EPERM, Ordering::SeqCst);
        scene.host.rename.store(EPERM, Ordering::SeqCst);
        let before = scene.descriptor();
        let size = scene.open.as_ref().unwrap().size();
        let error = scene.pause(&spares, operate).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rename, "{name}: {error}");
        assert_eq!(scene.descriptor(), before, "{name}");
        assert_eq!(scene.open.as_ref().unwrap().images().count(), 2, "{name}");
        assert_eq!(scene.open.as_ref().unwrap().size(), size, "{name}");
        // The next one finds a directory that takes names again.
        scene.host.create.store(0, Ordering::SeqCst);
        scene.host.rename.store(0, Ordering::SeqCst);
        let spares = scene.spares().unwrap();
        scene.pause(&spares, operate).unwrap_or_else(|error| panic!("{name} again: {error}"));
    }
}

#[test]
fn a_host_without_room_refuses_before_the_pause() {
    let scene = Scene::new();
    for (errno, word) in [(ENOSPC, "inodes"), (122, "quota"), (27, "ulimit")] {
        scene.host.create.store(errno, Ordering::SeqCst);
        let error = scene.spares().unwrap_err();
        assert!(error.hint_text().unwrap().contains(word), "{error}");
        assert_eq!(scene.temporary_files(), 0);
    }
}

/// F12: only a directory sync that failed makes the descriptor be written once more, and that needs
/// no new file either.
#[test]
fn a_directory_sync_that_failed_is_made_good_without_a_new_file() {
    let mut scene = Scene::new();
    let spares = scene.spares().unwrap();
    scene.host.create.store(ENOSPC, Ordering::SeqCst);
    scene.host.sync.store(1, Ordering::SeqCst);
    let failed =
        scene.pause(&spares, |dir, home, options| layers::grow(dir, home, Sector(40_960), options));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::SyncNew);
    assert_eq!(scene.host.sync.load(Ordering::SeqCst), 0);
    assert!(scene.open.is_some());
}
