//! Opening an image with a large BAT: linear, fast, and small in memory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_format::Sector;
use ploop_image::{CreateOptions, Kind};
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Instant;

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
    let start = Instant::now();
    let open = disk.open().unwrap();
    let full = start.elapsed();
    assert_eq!(open.spec().used.count_ones(..), (first + mapped) as usize);
    open.abort().unwrap();
    eprintln!("open: {empty:?} empty, {full:?} full");
    // 200 ms are promised; debug builds on a busy machine take longer.
    let limit = if cfg!(debug_assertions) { 20_000 } else { 500 };
    assert!(full.as_millis() < limit, "{full:?}");
}
