//! Bytes an attacker chose never make us panic, hang or write where nothing was opened.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_image::{CheckOptions, check, info, snapshot, snapshots};
use ploop_io::{RealDir, RealEntropy};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// Everything that reads a disk; results do not matter, only that there is one.
fn poke_at(home: &Path) {
    let all = CheckOptions { force: true, duplicates: true, read_only: true };
    let none = ploop_image::OpenOptions { wait: ploop_image::LockWait::NONE, ..quick() };
    let _ = check(&RealDir, home, &all, &none);
    let _ = check(&RealDir, &home.join("root.hds"), &all, &none);
    let _ = info(&RealDir, home, &none);
    let _ = snapshots(&RealDir, home, None);
    let reading = ploop_image::OpenOptions { read_only: true, ..none.clone() };
    if let Ok(disk) = open(home, &reading) {
        let _ = disk.spec();
        disk.abort().unwrap();
    }
    let before = fs::read(home.join("root.hds")).unwrap();
    let dropping = ploop_image::OpenOptions { drop_cbt: true, ..none };
    match open(home, &dropping) {
        Ok(disk) => {
            let spec = disk.spec();
            assert!(spec.used.len() as u64 * spec.cluster.bytes() < 1 << 30);
            disk.abort().unwrap();
        }
        Err(_) => assert_eq!(fs::read(home.join("root.hds")).unwrap(), before),
    }
    let _ = snapshot(&RealDir, &RealEntropy, home, None, &dropping);
}

fn interesting() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0..8u32,
        Just(u32::MAX),
        Just(0x746F_6E59),
        Just(0x312E_3276),
        (0..32u32).prop_map(|bit| 1 << bit),
    ]
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn mutated_headers_and_bats(
        words in proptest::collection::vec((0..200u64, interesting()), 1..6),
        cut in prop_oneof![4 => Just(None), 1 => (0..200_000u64).prop_map(Some)],
        v1 in any::<bool>(),
    ) {
        let disk = TestDisk::new();
        for slot in 0..3 {
            write_cluster(disk.image(), SMALL, slot, 1);
        }
        if v1 {
            poke(disk.image(), 0, b"WithoutFreeSpace");
        }
        for (word, value) in words {
            poke32(disk.image(), word * 4, value);
        }
        if let Some(cut) = cut {
            set_len(disk.image(), cut);
        }
        poke_at(disk.home.path());
    }

    #[test]
    fn mutated_descriptors(
        edits in proptest::collection::vec((0..1000usize, any::<u8>()), 1..8),
        cut in prop_oneof![4 => Just(None), 1 => (0..1000usize).prop_map(Some)],
    ) {
        let disk = TestDisk::new();
        let mut text = fs::read(&disk.made.descriptor).unwrap();
        let len = text.len();
        for (at, byte) in edits {
            text[at % len] = byte;
        }
        text.truncate(cut.unwrap_or(len));
        fs::write(&disk.made.descriptor, text).unwrap();
        poke_at(disk.home.path());
    }
}
