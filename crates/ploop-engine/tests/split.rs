//! A device of several pieces, each with files of its own: random operations against a flat array,
//! across the borders; each piece's files are sound, and hold their part alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::*;
use ploop_engine::*;
use ploop_format::{GuestCluster, Sector, Version};
use ploop_io::EngineChoice;
use std::path::{Path, PathBuf};

const CLUSTER: u64 = 32 << 10;
/// Bytes of each piece: one whose BAT just passes a page, a tiny one, one that ends in a cluster.
const SIZES: [u64; 3] = [1010 * CLUSTER, 3 * CLUSTER, 200 * CLUSTER + 12 * 512];

fn geometry(piece: usize, version: Version) -> Geometry {
    Geometry { version, ..Geometry::new(64, SIZES[piece]) }
}

fn start_of(piece: usize) -> u64 {
    SIZES[..piece].iter().sum()
}

struct Disk {
    /// By piece, base first.
    paths: Vec<Vec<PathBuf>>,
    flat: Vec<u8>,
    version: Version,
}

fn make(dir: &Path, levels: usize, version: Version, rng: &mut Rng) -> Disk {
    let mut flat = vec![0; SIZES.iter().sum::<u64>() as usize];
    let mut paths = Vec::new();
    for (piece, size) in SIZES.iter().enumerate() {
        let g = geometry(piece, version);
        let mut own = Vec::new();
        for level in 0..levels {
            let path = dir.join(format!("piece{piece}.level{level}"));
            let mut content = Vec::new();
            for guest in (0..g.entries()).filter(|_| level + 1 < levels) {
                if rng.below(8) == 0 {
                    let bytes = pattern(rng, CLUSTER as usize);
                    let at = (start_of(piece) + guest * CLUSTER) as usize;
                    let end = (start_of(piece) + size) as usize;
                    let n = bytes.len().min(end - at);
                    flat[at..at + n].copy_from_slice(&bytes[..n]);
                    content.push((guest, bytes));
                }
            }
            make_image(&path, g, &content);
            own.push(path);
        }
        paths.push(own);
    }
    Disk { paths, flat, version }
}

fn split_spec(disk: &Disk) -> DeviceSpec {
    let spec_of = |piece| spec(geometry(piece, disk.version), &disk.paths[piece], false);
    let mut pieces: Vec<DeviceSpec> = (0..SIZES.len()).map(spec_of).collect();
    let depth = pieces[0].levels.len();
    let level = |n: usize| pieces.iter().map(move |piece| piece.levels[n].clone());
    let levels = (0..depth).flat_map(level).collect();
    let more = pieces[1..].iter().enumerate().map(|(n, piece)| PieceSpec {
        start: GuestCluster(start_of(n + 1) / CLUSTER),
        used: piece.used.clone(),
        header: piece.header,
        refused: Vec::new(),
        record: None,
    });
    let more = more.collect();
    let size = Sector(SIZES.iter().sum::<u64>() / 512);
    DeviceSpec { levels, more, size, ..pieces.swap_remove(0) }
}

/// What the files of a piece hold, told without the engine: newest level first.
fn content(disk: &Disk, piece: usize) -> Vec<u8> {
    let g = geometry(piece, disk.version);
    let mut out = vec![0; SIZES[piece] as usize];
    for path in &disk.paths[piece] {
        let file = std::fs::read(path).unwrap();
        for (guest, at) in scan(path, g) {
            let to = (guest * CLUSTER) as usize;
            let n = (CLUSTER as usize).min(out.len() - to);
            out[to..to + n].copy_from_slice(&file[at as usize..at as usize + n]);
        }
    }
    out
}

fn run(seed: u64, levels: usize, version: Version, engine: EngineChoice) {
    let dir =
        tempfile::tempdir_in(std::env::var("PLOOP_TEST_DIR").unwrap_or("/var/tmp".into())).unwrap();
    let mut rng = Rng(seed);
    let mut disk = make(dir.path(), levels, version, &mut rng);
    let lowers = |disk: &Disk| -> Vec<Vec<u8>> {
        let below = disk.paths.iter().flat_map(|own| &own[..levels - 1]);
        below.map(|path| std::fs::read(path).unwrap()).collect()
    };
    let frozen = lowers(&disk);
    for _ in 0..2 {
        let options = DeviceOptions { depth: 32, ..DeviceOptions::default() };
        let rig = Rig::start(split_spec(&disk), options, engine);
        let size = disk.flat.len() as u64;
        for n in 0..300 {
            // A third of all around the borders.
            let (base, span) = match n % 3 {
                0 => (start_of(1) - 2 * CLUSTER, 8 * CLUSTER),
                _ => (0, size / 512 * 512),
            };
            step(&rig, &mut disk.flat, 0, base, span, &mut rng);
        }
        let border = start_of(1) - 512;
        let bytes = pattern(&mut rng, 4 * CLUSTER as usize);
        rig.write(0, border, &bytes, Flags::default()).unwrap();
        disk.flat[border as usize..border as usize + bytes.len()].copy_from_slice(&bytes);
        rig.plain(0, Operation::Flush, 0, 0, Flags::default()).unwrap();
        // I3: what is acknowledged is in the files of all pieces.
        for (piece, size) in SIZES.iter().enumerate() {
            let want = &disk.flat[start_of(piece) as usize..][..*size as usize];
            assert!(content(&disk, piece) == want, "piece {piece} after a flush");
        }
        let report = rig.stop();
        assert!(report.clean, "{report:?}");
        assert!(lowers(&disk) == frozen, "I6");
        let ends = [report.end].into_iter().chain(report.more.iter().map(|piece| piece.end));
        for (piece, end) in ends.enumerate() {
            let g = geometry(piece, version);
            let map = scan(disk.paths[piece].last().unwrap(), g);
            let last = map.values().max().map_or(g.data_start(), |at| at + CLUSTER);
            assert_eq!(end, last, "piece {piece}");
        }
        let rig = Rig::start(split_spec(&disk), DeviceOptions::default(), engine);
        for (n, want) in disk.flat.chunks(1 << 20).enumerate() {
            let got = rig.read(0, (n << 20) as u64, want.len()).unwrap();
            assert!(got[..] == *want, "MiB {n}");
        }
        assert!(rig.stop().clean);
    }
}

#[test]
fn one_level() {
    run(0x51ed, 1, Version::V2, EngineChoice::Uring);
}

#[test]
fn a_chain_in_each_piece() {
    run(0x51ee, 3, Version::V2, EngineChoice::Uring);
}

#[test]
fn version_one_on_the_thread_engine() {
    run(0x51ef, 2, Version::V1, EngineChoice::Threads);
}

#[test]
fn a_chain_that_is_not_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = make(dir.path(), 2, Version::V2, &mut Rng(7));
    let mut short = split_spec(&disk);
    short.levels.pop();
    let options = DeviceOptions::default;
    let error = Device::new(short, options()).err().unwrap();
    assert_eq!(error, DeviceError::Pieces { levels: 5, pieces: 3 });
    let mut turned = split_spec(&disk);
    turned.more.reverse();
    assert!(matches!(Device::new(turned, options()), Err(DeviceError::Pieces { .. })));
    let mut large = split_spec(&disk);
    large.size = Sector(large.size.0 + 64);
    let error = Device::new(large, options()).err().unwrap();
    assert_eq!(error, DeviceError::ShortTop { entries: 201, clusters: 202 });
}
