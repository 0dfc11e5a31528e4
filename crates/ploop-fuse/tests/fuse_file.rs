//! The FUSE file as programs see it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use common::{CLUSTER, Fake, Place, able, fio_verify, pattern, run};
use ploop_fuse::{Error, FuseOptions, FuseServer};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::atomic::Ordering;
use std::time::Duration;

const SIZE: u64 = 32 << 20;

fn open(path: &std::path::Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn copying_in_and_out() {
    if !able(&["dd", "cmp", "cp"]) {
        return;
    }
    let place = Place::new();
    let (file, source, back) = (place.at("disk"), place.at("source"), place.at("back"));
    std::fs::write(&source, pattern(SIZE as usize, 1)).unwrap();
    let fake = Fake::new(SIZE, 512);
    let mut server = fake.serve(&file, FuseOptions::default());
    assert_eq!(server.path(), file.canonicalize().unwrap());
    let (input, output) = (format!("if={}", source.display()), format!("of={}", file.display()));
    run("dd", &[&input, &output, "bs=1M", "conv=notrunc,fsync", "status=none"]);
    assert!(fake.disk.flushes.load(Ordering::Relaxed) > 0);
    let (file_name, source_name) = (file.to_str().unwrap(), source.to_str().unwrap());
    run("cp", &[file_name, back.to_str().unwrap()]);
    run("cmp", &[source_name, back.to_str().unwrap()]);
    run("cmp", &[source_name, file_name]);
    // cp truncates first, and skips what is a hole in its source: zeros are there afterwards.
    let holes = std::fs::File::options().write(true).open(&source).unwrap();
    holes.set_len(SIZE / 4).unwrap();
    holes.set_len(SIZE).unwrap();
    run("cp", &["--sparse=always", source_name, file_name]);
    run("cmp", &[source_name, file_name]);
    assert_eq!(std::fs::metadata(&file).unwrap().len(), SIZE);
    server.stop().unwrap();
    assert!(!file.exists(), "the file was created by the server and stays");
}

#[test]
fn attributes_and_refusals() {
    if !able(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    std::fs::write(&path, b"below").unwrap();
    let fake = Fake::new(SIZE, 512);
    let options =
        FuseOptions { allocated: Some(std::sync::Arc::new(|| 12345)), ..FuseOptions::default() };
    let mut server = fake.serve(&path, options);
    let data = std::fs::metadata(&path).unwrap();
    assert!(data.is_file());
    assert_eq!((data.len(), data.blksize(), data.blocks()), (SIZE, CLUSTER, 25));
    let file = open(&path);
    file.set_len(SIZE).unwrap();
    assert_eq!(file.set_len(SIZE - 512).unwrap_err().raw_os_error(), Some(libc::EPERM));
    assert_eq!(file.write_at(b"x", SIZE).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(file.write_at(&[7; 1000], SIZE - 100).unwrap(), 100);
    let mut end = [1; 200];
    assert_eq!(file.read_at(&mut end, SIZE - 100).unwrap(), 100);
    assert_eq!(end[..100], [7; 100]);
    assert_eq!(file.read_at(&mut end, SIZE + 5).unwrap(), 0);
    let space = rustix::fs::statvfs(&path).unwrap();
    assert_eq!((space.f_bsize, space.f_blocks), (4096, SIZE / 4096));
    assert!(matches!(
        FuseServer::mount(&path, &fake.queues, fake.limits, FuseOptions::default()),
        Err(Error::AlreadyServed { .. })
    ));
    // In use: refused, and still served.
    assert!(server.stop().unwrap_err().is_busy());
    assert_eq!(file.read_at(&mut end, 0).unwrap(), 200);
    drop(file);
    server.stop().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"below");
    assert!(matches!(
        FuseServer::mount(&place.at(""), &fake.queues, fake.limits, FuseOptions::default()),
        Err(Error::NotAFile { .. })
    ));
}

#[test]
fn read_only_refuses_writing() {
    if !able(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let _server = fake.serve(&path, FuseOptions { read_only: true, ..FuseOptions::default() });
    let refused = OpenOptions::new().write(true).open(&path).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert_eq!(std::fs::read(&path).unwrap().len() as u64, SIZE);
}

#[test]
fn sync_writes_are_forced_through() {
    if !able(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let _server = fake.serve(&path, FuseOptions::default());
    open(&path).write_all_at(&[1; 4096], 0).unwrap();
    assert_eq!(fake.disk.fua.load(Ordering::Relaxed), 0);
    let sync = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
    sync.write_all_at(&[2; 4096], 4096).unwrap();
    assert_eq!(fake.disk.fua.load(Ordering::Relaxed), 1);
    sync.write_all_at(&[2; 10], 9000).unwrap();
    assert_eq!(fake.disk.fua.load(Ordering::Relaxed), 2);
    let before = fake.disk.flushes.load(Ordering::Relaxed);
    sync.sync_data().unwrap();
    assert!(fake.disk.flushes.load(Ordering::Relaxed) > before);
}

/// Odd offsets and lengths, against a plain buffer, by several threads that share blocks.
fn odd_accesses(block: u32) {
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(8 << 20, block);
    let _server = fake.serve(&path, FuseOptions::default());
    let file = open(&path);
    let stripe = 1000;
    std::thread::scope(|scope| {
        // Thread n owns every fourth stripe of 1000 bytes: neighbours share blocks.
        for thread in 0..4u64 {
            let file = &file;
            scope.spawn(move || {
                for round in 0..60 {
                    let at = (round * 4 + thread) * stripe + 37;
                    file.write_all_at(&pattern(stripe as usize, at), at).unwrap();
                }
            });
        }
    });
    let mut expected = vec![0; 37];
    for at in (0..240).map(|n| n * stripe + 37) {
        expected.extend(pattern(stripe as usize, at));
    }
    let mut got = vec![0; expected.len()];
    file.read_exact_at(&mut got, 0).unwrap();
    assert!(got == expected, "a neighbour's write was lost");
    let mut model = vec![0; 8 << 20];
    model[..got.len()].copy_from_slice(&got);
    for n in 0..200u64 {
        let at = (n * 7_919_333) % (7 << 20);
        let len = 1 + (n * 104_729) % 700_000;
        let bytes = pattern(len as usize, n);
        file.write_all_at(&bytes, at).unwrap();
        model[at as usize..(at + len) as usize].copy_from_slice(&bytes);
        let from = (n * 611_953) % (7 << 20);
        let mut got = vec![0; (1 + (n * 50_111) % 900_000) as usize];
        file.read_exact_at(&mut got, from).unwrap();
        assert!(got == model[from as usize..][..got.len()], "read of {} at {from}", got.len());
    }
    assert!(*fake.disk.data.lock().unwrap() == model);
}

#[test]
fn odd_offsets_and_lengths() {
    if able(&[]) {
        odd_accesses(512);
        odd_accesses(4096);
    }
}

#[test]
fn mapped_memory() {
    if !able(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let _server = fake.serve(&path, FuseOptions::default());
    let file = open(&path);
    file.write_all_at(&pattern(65536, 5), 0).unwrap();
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    // SAFETY: a fresh mapping, unmapped below, touched by this thread only.
    unsafe {
        let map = mmap(std::ptr::null_mut(), 65536, ProtFlags::READ, MapFlags::PRIVATE, &file, 0);
        let map = map.unwrap();
        let bytes = std::slice::from_raw_parts(map.cast::<u8>(), 65536);
        assert!(bytes == pattern(65536, 5));
        munmap(map, 65536).unwrap();
    }
}

#[test]
fn fallocate_zeroes_and_gives_back() {
    if !able(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let _server = fake.serve(&path, FuseOptions::default());
    let file = open(&path);
    let mut model = pattern(SIZE as usize, 9);
    file.write_all_at(&model, 0).unwrap();
    let keep = FallocateFlags::KEEP_SIZE;
    let punch = FallocateFlags::PUNCH_HOLE | keep;
    let zero = FallocateFlags::ZERO_RANGE;
    let mut change = |mode, at: u64, len: u64| {
        fallocate(&file, mode, at, len).unwrap();
        model[at as usize..(at + len).min(SIZE) as usize].fill(0);
        assert!(*fake.disk.data.lock().unwrap() == model, "{mode:?} {len} at {at}");
    };
    change(punch, 100, 50);
    change(punch, 512, 1024);
    change(punch, 3000, 3000);
    change(zero, 5 << 20, 100_001);
    change(zero | keep, (6 << 20) + 511, 2);
    assert_eq!(fake.disk.unmapped.load(Ordering::Relaxed), 0);
    change(zero, 8 << 20, 2 << 20);
    assert_eq!(fake.disk.unmapped.load(Ordering::Relaxed), 0, "ZERO_RANGE keeps the blocks");
    change(punch, (10 << 20) - 7, (12 << 20) + 14);
    assert_eq!(fake.disk.unmapped.load(Ordering::Relaxed), 12);
    change(punch, SIZE - 1000, 5000);
    fallocate(&file, punch, SIZE + 4096, 4096).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, SIZE).unwrap();
    let beyond = fallocate(&file, FallocateFlags::empty(), 0, SIZE + 1).unwrap_err();
    assert_eq!(beyond, rustix::io::Errno::NOSPC);
    assert_eq!(fallocate(&file, zero, SIZE - 5, 10).unwrap_err(), rustix::io::Errno::NOSPC);
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    assert!(*fake.disk.data.lock().unwrap() == model);
}

#[test]
fn holes_are_found() {
    if !able(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let _server = fake.serve(&path, FuseOptions::default());
    let file = open(&path);
    file.write_all_at(&[1; 4096], 3 * CLUSTER + 8192).unwrap();
    file.write_all_at(&[1; 4096], 20 * CLUSTER).unwrap();
    let data = |at| seek(&file, SeekFrom::Data(at));
    let hole = |at| seek(&file, SeekFrom::Hole(at));
    assert_eq!(data(0), Ok(3 * CLUSTER));
    assert_eq!(data(3 * CLUSTER + 77), Ok(3 * CLUSTER + 77));
    assert_eq!(hole(3 * CLUSTER + 77), Ok(4 * CLUSTER));
    assert_eq!(hole(5), Ok(5));
    assert_eq!(data(4 * CLUSTER), Ok(20 * CLUSTER));
    assert_eq!(data(21 * CLUSTER), Err(rustix::io::Errno::NXIO));
    assert_eq!(hole(SIZE), Err(rustix::io::Errno::NXIO));
    file.write_all_at(&[1; 4096], SIZE - 4096).unwrap();
    assert_eq!(hole(SIZE - 100), Ok(SIZE));
}

#[test]
fn fio_verifies_with_writes_in_flight() {
    if !able(&["fio"]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let _server = fake.serve(&path, FuseOptions::default());
    fio_verify(&path, "32M", &["--bs=4k", "--ioengine=libaio"]);
    fio_verify(&path, "32M", &["--bsrange=512-1M", "--blockalign=512", "--ioengine=io_uring"]);
    let most = fake.disk.most_in_flight.load(Ordering::Relaxed);
    assert!(most > 2, "requests came one at a time: {most}");
}

#[test]
fn one_queue_calls_the_others_in() {
    if !able(&["fio"]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let _server = fake.serve_at_home(&path, FuseOptions { share_at: 4, ..FuseOptions::default() });
    let one = fake.disk.served_by[0].load(Ordering::Relaxed);
    open(&path).write_all_at(&[1; 4096], 0).unwrap();
    open(&path).sync_all().unwrap();
    assert!(fake.disk.served_by[0].load(Ordering::Relaxed) > one, "the home serves");
    assert_eq!(fake.disk.served_by[1].load(Ordering::Relaxed), 0, "the other sleeps");
    fio_verify(&path, "32M", &["--bs=4k", "--ioengine=libaio", "--iodepth=32"]);
    fio_verify(&path, "32M", &["--bsrange=512-64k", "--blockalign=512", "--ioengine=io_uring"]);
    assert!(fake.disk.served_by[1].load(Ordering::Relaxed) > 0, "the other helps");
}

#[test]
fn attributes_answer_while_writes_are_held() {
    if !able(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let server = fake.serve(&path, FuseOptions::default());
    let file = open(&path);
    fake.disk.hold.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..12u64)
            .map(|n| {
                let file = &file;
                // Some of them read, change and write one block after the other.
                let at = if n % 2 == 0 { n * 1_000_000 } else { 77 + n };
                scope.spawn(move || file.write_at(&[n as u8 + 1; 4096], at).unwrap())
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        assert!(writers.iter().all(|writer| !writer.is_finished()));
        assert_eq!(rustix::fs::statvfs(&path).unwrap().f_blocks, SIZE / 4096);
        fake.disk.hold.store(false, Ordering::SeqCst);
    });
    drop(file);
    drop(server);
}

#[test]
fn a_stopped_device_gives_errors() {
    if !able(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let fake = Fake::new(SIZE, 512);
    let mut server = fake.serve(&path, FuseOptions::default());
    let file = open(&path);
    server.detach_lazy().unwrap();
    assert!(!path.exists());
    file.write_all_at(&[3; 10], 5).unwrap();
    assert!(!server.wait(Duration::from_millis(20)));
    fake.stop();
    std::thread::sleep(Duration::from_millis(100));
    let refused = file.write_at(&[3; 10], 5).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    drop(file);
    assert!(server.wait(Duration::from_secs(5)));
}

#[test]
fn a_new_size_is_seen_at_once() {
    if !able(&[]) {
        return;
    }
    let place = Place::new();
    let path = place.at("disk");
    let mut fake = Fake::new(SIZE, 512);
    fake.limits.size = SIZE / 2;
    let server = fake.serve(&path, FuseOptions::default());
    let file = open(&path);
    assert_eq!(file.metadata().unwrap().len(), SIZE / 2);
    server.set_size(SIZE).unwrap();
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    file.write_all_at(&[1; 4096], SIZE - 4096).unwrap();
}
