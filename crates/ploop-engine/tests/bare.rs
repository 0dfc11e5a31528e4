//! Pages of a BAT that are holes of its file are taken for such without a read, and written as any
//! other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]

mod common;

use common::*;
use ploop_engine::*;
use ploop_io::EngineChoice;
use std::os::unix::fs::FileExt;

const CLUSTER: u64 = 32 << 10;
const PAGE: u64 = 4096;
/// Four pages of BAT.
const SIZE: u64 = 4000 * CLUSTER;

#[test]
fn holes_of_the_bat_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    let g = Geometry::new(64, SIZE);
    let full = vec![7; CLUSTER as usize];
    make_image(&base, g, &[(1500, full.clone())]);
    make_image(&top, g, &[(1, full.clone()), (3500, full.clone())]);
    let mut spec = spec(g, &[base, top.clone()], false);
    // The base has a page that the top has not: only what all lack is bare.
    spec.levels[0].bare = vec![2..4];
    spec.levels[1].bare = vec![1..3];
    // A read of the page that both lack would find this.
    let file = std::fs::OpenOptions::new().write(true).open(&top).unwrap();
    file.write_all_at(&[0xEE; PAGE as usize], 2 * PAGE).unwrap();
    let options = DeviceOptions { depth: 16, ..DeviceOptions::default() };
    let rig = Rig::start(spec, options, EngineChoice::Threads);
    let told: Vec<(u64, u32)> =
        whole(&rig).iter().map(|record| (record.len / CLUSTER, record.level)).collect();
    let hole = ExtentRecord::HOLE;
    assert_eq!(told, [(1, hole), (1, 1), (1498, hole), (1, 0), (1999, hole), (1, 1), (499, hole)]);
    assert!(rig.read(0, 2100 * CLUSTER, 4096).unwrap().iter().all(|byte| *byte == 0));
    rig.write(0, 2100 * CLUSTER, &full, Flags { fua: true, ..Flags::default() }).unwrap();
    assert_eq!(rig.read(0, 2100 * CLUSTER, full.len()).unwrap()[..], full[..]);
    assert!(rig.stop().clean);
    assert_eq!(scan(&top, g).keys().copied().max(), Some(3500));
    assert!(scan(&top, g).contains_key(&2100));
}

/// All records of the device, neighbours of one level joined.
fn whole(rig: &Rig) -> Vec<ExtentRecord> {
    let mut all: Vec<ExtentRecord> = Vec::new();
    let mut at = 0;
    while at < SIZE {
        for record in rig.extents(at, SIZE - at) {
            at += record.len;
            match all.last_mut() {
                Some(last) if last.level == record.level => last.len += record.len,
                _ => all.push(record),
            }
        }
    }
    all
}
