//! Opening an image with a large BAT: linear, fast, and small in memory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_format::Sector;
use ploop_image::{CreateOptions, Kind};
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// 16 TiB at 1 MiB clusters: a BAT of 64 MiB.
#[test]
fn sixteen_tebibytes_open_fast() {
    let size = Sector(16 << 31);
    let options = CreateOptions { size, cluster: cluster(2048), ..options(Kind::Expanded) };
    let disk = TestDisk::with(&options);
    let start = Instant::now();
    let open = disk.open().unwrap();
    let empty = start.elapsed();
    open.abort().unwrap();
    // As full as ext4 lets the file be.
    let file = fs::OpenOptions::new().write(true).open(disk.image()).unwrap();
    let (first, mapped) = (65u32, 15u32 << 20);
    let entries: Vec<u8> = (0..mapped).flat_map(|i| (first + i).to_le_bytes()).collect();
    file.write_all_at(&entries, 64).unwrap();
    if let Err(error) = file.set_len(u64::from(first + mapped) << 20) {
        eprintln!("skip: the temporary directory takes no file of 15 TiB: {error}");
        return;
    }
    drop(file);
    let (start, cpu) = (Instant::now(), processor_time());
    let open = disk.open().unwrap();
    let (full, cpu) = (start.elapsed(), processor_time() - cpu);
    assert_eq!(open.spec().used.count_ones(..), (first + mapped) as usize);
    open.abort().unwrap();
    eprintln!("open: {empty:?} empty, {full:?} full, of that the processor {cpu:?}");
    // 200 ms are promised of a release build. A debug build runs beside other tests, so what it
    // waits for is not counted.
    let (spent, limit) = if cfg!(debug_assertions) { (cpu, 10_000) } else { (full, 500) };
    assert!(spent.as_millis() < limit, "{spent:?}");
}

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// A few bytes of file may claim the longest BAT there is; its holes are told to the engine.
#[test]
fn pages_that_are_holes_of_the_file_are_told() {
    let size = Sector(16 << 31);
    let options = CreateOptions { size, cluster: cluster(2048), ..options(Kind::Expanded) };
    let disk = TestDisk::with(&options);
    let file = fs::OpenOptions::new().write(true).open(disk.image()).unwrap();
    // Entry 5 Mi - 16 begins page 5120; the page behind 5 MiB of BAT has data, too.
    let len = file.metadata().unwrap().len();
    file.set_len(64).unwrap();
    file.set_len(len + (1 << 20)).unwrap();
    file.write_all_at(&65u32.to_le_bytes(), 20 << 20).unwrap();
    drop(file);
    let open = disk.open().unwrap();
    let bare = open.spec().levels[0].bare.clone();
    let (page, pages) = (20 << 8, 64 << 8);
    assert_eq!(bare[0], 1 << 8..page, "{bare:?}");
    assert!(bare[1].start > page && bare[1].start <= page + 256, "{bare:?}");
    assert_eq!((bare.len(), bare[1].end), (2, pages), "{bare:?}");
    open.abort().unwrap();
}
