//! Loop devices over the FUSE file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::{CLUSTER, Fake, Place, able_loop, fio_verify, pattern, run};
use ploop_fuse::{Error, FuseOptions, FuseServer, LoopDevice, LoopOptions, LoopStatus};
use ploop_fuse::{clear_stale, device_size, partition};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SIZE: u64 = 64 << 20;

/// Unmounts a folder also when the test fails.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path, folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        run("mount", &[device.to_str().unwrap(), folder.to_str().unwrap()]);
        Self(folder)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// Waits for what happens a little later.
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn attach(server: &FuseServer) -> LoopDevice {
    LoopDevice::attach(server.path(), LoopOptions::default()).unwrap()
}

#[test]
fn status_and_life() {
    if !able_loop(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let mut server = fake.serve(&path, FuseOptions::default());
    let device = attach(&server);
    let name = device.path().to_path_buf();
    assert_eq!((device.size().unwrap(), device_size(&name).unwrap()), (SIZE, SIZE));
    let status = LoopStatus::of(&name).unwrap().unwrap();
    assert_eq!(status.file, server.path());
    assert_eq!(status.number, device.number());
    let data = std::fs::metadata(&path).unwrap();
    assert_eq!(status.file_id, Some((data.dev(), data.ino())));
    assert!(status.autoclear && status.direct_io && !status.read_only);
    assert!(LoopStatus::list().unwrap().contains(&status));
    assert!(server.stop().unwrap_err().is_busy());
    // What the device's page cache holds is written before the device goes.
    let bytes = pattern(1 << 20, 3);
    OpenOptions::new().write(true).open(&name).unwrap().write_all_at(&bytes, 4096).unwrap();
    device.detach().unwrap();
    assert!(fake.disk.data.lock().unwrap()[4096..][..bytes.len()] == bytes);
    assert_ne!(LoopStatus::of(&name).unwrap().map(|now| now.file), Some(status.file));
    server.stop().unwrap();
    // Nobody's device is left when the value is dropped.
    let server = fake.serve(&path, FuseOptions { read_only: true, ..FuseOptions::default() });
    let options = LoopOptions { read_only: true, block_size: 4096, ..LoopOptions::default() };
    let device = LoopDevice::attach(server.path(), options).unwrap();
    assert!(LoopStatus::of(device.path()).unwrap().unwrap().read_only);
    let mut back = vec![0; bytes.len()];
    File::open(device.path()).unwrap().read_exact_at(&mut back, 4096).unwrap();
    assert!(back == bytes);
    drop(device);
    let ours = |status: &LoopStatus| status.file == server.path();
    eventually("autoclear", || !LoopStatus::list().unwrap().iter().any(ours));
}

#[test]
fn many_attach_at_once() {
    if !able_loop(&[]) {
        return;
    }
    let place = Place::new();
    let fake = Fake::new(SIZE, 512);
    let server = fake.serve(&place.at("disk"), FuseOptions::default());
    let devices: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..10).map(|_| scope.spawn(|| attach(&server))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut numbers: Vec<_> = devices.iter().map(LoopDevice::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 10);
    for device in devices {
        device.detach().unwrap();
    }
}

#[test]
fn fio_verifies_through_a_loop_device() {
    if !able_loop(&["fio"]) {
        return;
    }
    let place = Place::new();
    let fake = Fake::new(SIZE, 512);
    let server = fake.serve(&place.at("disk"), FuseOptions::default());
    let device = attach(&server);
    fio_verify(device.path(), "32M", &["--bs=4k", "--ioengine=libaio"]);
    fio_verify(device.path(), "64M", &["--bsrange=512-256k", "--ioengine=io_uring"]);
    let most = fake.disk.most_in_flight.load(Ordering::Relaxed);
    assert!(most > 2, "requests came one at a time: {most}");
    device.detach().unwrap();
}

#[test]
fn a_file_system_lives_on_it() {
    if !able_loop(&["mkfs.ext4", "fstrim", "e2fsck", "cmp"]) {
        return;
    }
    let place = Place::new();
    let fake = Fake::new(SIZE, 512);
    let server = fake.serve(&place.at("disk"), FuseOptions::default());
    let source = place.at("source");
    std::fs::write(&source, pattern(20 << 20, 4)).unwrap();
    let device = attach(&server);
    let name = device.path().to_str().unwrap().to_owned();
    run("mkfs.ext4", &["-q", "-F", &name]);
    {
        let mounted = Mounted::new(device.path(), place.at("mnt"));
        let copy = mounted.0.join("copy");
        run("cp", &[source.to_str().unwrap(), copy.to_str().unwrap()]);
        let gone = mounted.0.join("gone");
        std::fs::write(&gone, vec![9; 16 << 20]).unwrap();
        run("sync", &["-f", gone.to_str().unwrap()]);
        std::fs::remove_file(&gone).unwrap();
        run("sync", &["-f", mounted.0.to_str().unwrap()]);
        let before = fake.disk.unmapped.load(Ordering::Relaxed);
        run("fstrim", &[mounted.0.to_str().unwrap()]);
        let unmapped = fake.disk.unmapped.load(Ordering::Relaxed) - before;
        assert!(unmapped >= 12, "fstrim gave back {unmapped} clusters");
    }
    run("e2fsck", &["-f", "-n", &name]);
    let again = Mounted::new(device.path(), place.at("mnt"));
    run("cmp", &[source.to_str().unwrap(), again.0.join("copy").to_str().unwrap()]);
    drop(again);
    assert!(fake.disk.flushes.load(Ordering::Relaxed) > 0);
    device.detach().unwrap();
}

#[test]
fn partitions_are_added_and_deleted() {
    if !able_loop(&["mkfs.ext4"]) {
        return;
    }
    let place = Place::new();
    let fake = Fake::new(SIZE, 512);
    let server = fake.serve(&place.at("disk"), FuseOptions::default());
    let device = attach(&server);
    let (start, len) = (CLUSTER, SIZE - 2 * CLUSTER);
    let one = partition::add(device.path(), 1, start, len).unwrap();
    assert_eq!(one, partition::path(device.path(), 1));
    assert_eq!(partition::place(device.path(), 1), Some((start, len)));
    assert_eq!(partition::add(device.path(), 1, start, len).unwrap(), one);
    assert!(partition::add(device.path(), 1, start + 4096, 4096).is_err());
    assert!(partition::add(device.path(), 2, start, len).is_err());
    assert_eq!(device_size(&one).unwrap(), len);
    run("mkfs.ext4", &["-q", "-F", one.to_str().unwrap()]);
    let mounted = Mounted::new(&one, place.at("mnt"));
    assert!(matches!(partition::delete(device.path(), 1), Err(Error::Busy { .. })));
    drop(mounted);
    partition::delete(device.path(), 1).unwrap();
    partition::delete(device.path(), 1).unwrap();
    assert_eq!(partition::place(device.path(), 1), None);
    device.detach().unwrap();
}

#[test]
fn a_grown_file_is_taken_over() {
    if !able_loop(&[]) {
        return;
    }
    let place = Place::new();
    let mut fake = Fake::new(SIZE, 512);
    fake.limits.size = SIZE / 2;
    let server = fake.serve(&place.at("disk"), FuseOptions::default());
    let device = attach(&server);
    assert_eq!(device.size().unwrap(), SIZE / 2);
    server.set_size(SIZE).unwrap();
    device.update_size().unwrap();
    assert_eq!(device.size().unwrap(), SIZE);
    device.detach().unwrap();
}

/// Memory as direct I/O wants it.
#[repr(align(4096))]
struct Page([u8; 4096]);

fn direct(path: &Path) -> File {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

/// A write that ends while the kernel asks for the size makes it keep the old one.
#[test]
fn a_grown_device_is_read_to_its_new_end_beside_writes() {
    if !able_loop(&[]) {
        return;
    }
    const STEP: u64 = 64 << 10;
    let place = Place::new();
    let mut fake = Fake::new(SIZE, 512);
    fake.limits.size = SIZE / 2;
    let server = fake.serve(&place.at("disk"), FuseOptions::default());
    let device = attach(&server);
    let over = std::sync::atomic::AtomicBool::new(false);
    let (path, over) = (device.path(), &over);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                let (file, page) = (direct(path), Page([7; 4096]));
                while !over.load(Ordering::SeqCst) {
                    file.write_all_at(&page.0, writer << 20).unwrap();
                }
            });
        }
        let read = |size: u64| {
            let mut page = Page([1; 4096]);
            direct(path).read_exact_at(&mut page.0, size - 4096).map(|()| page.0 == [0; 4096])
        };
        let mut failed = Vec::new();
        for size in (SIZE / 2 + STEP..=SIZE).step_by(STEP as usize) {
            server.set_size(size).unwrap();
            device.update_size().unwrap();
            let told = device.size().unwrap();
            if told != size || !read(size).is_ok_and(|zeros| zeros) {
                failed.push((told, size));
            }
        }
        over.store(true, Ordering::SeqCst);
        assert!(failed.is_empty(), "{} of {}: {failed:?}", failed.len(), SIZE / 2 / STEP);
    });
    device.detach().unwrap();
}

/// A server in another process, killed at the latest when dropped.
struct Server {
    child: Child,
    device: PathBuf,
}

impl Server {
    fn start(file: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "served_by_another_process", "--nocapture"])
            .env("PLOOP_TEST_SERVE", file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let device = lines.find_map(|line| {
            line.ok()?.split_once("ready ").map(|(_, device)| PathBuf::from(device))
        });
        Self { child, device: device.unwrap() }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        let child = &mut self.child;
        eventually("the end of a killed server", || child.try_wait().unwrap().is_some());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// Not a test of its own: the process that `a_killed_server_leaves_nothing_for_long` kills.
#[test]
fn served_by_another_process() {
    let Some(file) = std::env::var_os("PLOOP_TEST_SERVE") else {
        println!("skip: the other process of a_killed_server_leaves_nothing_for_long");
        return;
    };
    let fake = Fake::new(SIZE, 512);
    let server = fake.serve(Path::new(&file), FuseOptions::default());
    let device = attach(&server);
    println!("\nready {}", device.path().display());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_server_leaves_nothing_for_long() {
    if !able_loop(&["mkfs.ext4"]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    // Pages of the device that nobody can write out any more must not hold the dying process.
    let mut other = Server::start(&path);
    let device = OpenOptions::new().write(true).open(&other.device).unwrap();
    device.write_all_at(&pattern(8 << 20, 1), 0).unwrap();
    drop(device);
    other.kill();
    let unused = |device: &Path| LoopStatus::of(device).unwrap().is_none();
    eventually("autoclear", || unused(&other.device));
    // The mount of the dead one is taken away, by hand and by the next server.
    let dead = rustix::fs::statvfs(&path).map(drop);
    assert_eq!(dead, Err(rustix::io::Errno::NOTCONN));
    assert!(clear_stale(&path).unwrap());
    assert!(!clear_stale(&path).unwrap());
    let mut other = Server::start(&path);
    run("mkfs.ext4", &["-q", "-F", other.device.to_str().unwrap()]);
    let mounted = Mounted::new(&other.device, place.at("mnt"));
    std::fs::write(mounted.0.join("file"), pattern(1 << 20, 2)).unwrap();
    other.kill();
    let status = || LoopStatus::of(&other.device).unwrap().expect("a mounted device stays");
    assert_eq!(status().file.file_name(), path.file_name());
    // The kernel believes the attributes of the dead file for a second.
    eventually("a file that cannot be asked", || status().file_id.is_none());
    drop(mounted);
    eventually("autoclear after the unmount", || unused(&other.device));
    let fake = Fake::new(SIZE, 512);
    let mut server = fake.serve(&path, FuseOptions::default());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
    server.stop().unwrap();
}
