//! I9 of a disk in pieces: at every crash point, and after every failure, all pieces are those of
//! one descriptor, and the disk holds what it held.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod crashing;
use crashing::*;
use ploop_format::{ClusterSize, Descriptor, Header, Sector, Version};
use ploop_image::layers::{InTurn, Which, Work, drop_covered, grow, merge, switch, turn};
use ploop_image::{CheckOptions, Disk, ImageError, check};
use ploop_io::sim::SimWorld;
use std::path::Path;
use std::sync::Arc;

/// Clusters of each piece.
const PIECES: [u64; 2] = [3, 4];
const XML: &str = "/disk/DiskDescriptor.xml";
const LOW: &str = "{00000001-1111-4222-8333-444455556666}";
const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";

fn guids() -> [&'static str; 2] {
    [LOW, TOP]
}

fn start_of(piece: usize) -> u64 {
    PIECES[..piece].iter().sum()
}

/// An image whose clusters at odd places, or at those that 3 divides, hold their number.
fn image(piece: usize, level: usize) -> Vec<u8> {
    let cluster = ClusterSize::from_sectors(64).unwrap();
    let header = Header::new(Version::V2, cluster, Sector(PIECES[piece] * 64)).unwrap();
    let mut file = vec![0; header.data_start() as usize];
    file[..64].copy_from_slice(&header.encode());
    for n in 0..PIECES[piece] {
        let there = if level == 0 { n % 2 == 1 } else { n % 3 == 0 };
        if there {
            let entry = (file.len() / CLUSTER) as u32;
            file[64 + n as usize * 4..][..4].copy_from_slice(&entry.to_le_bytes());
            let byte = 1 + level as u8 * 100 + (start_of(piece) + n) as u8;
            file.extend([byte; CLUSTER]);
        }
    }
    file
}

fn descriptor() -> String {
    let total = start_of(PIECES.len()) * 64;
    let mut text = format!(
        "<?xml version=\"1.0\"?><Parallels_disk_image><Disk_Parameters><Disk_size>{total}\
         </Disk_size></Disk_Parameters><StorageData>"
    );
    for piece in 0..PIECES.len() {
        let (start, end) = (start_of(piece) * 64, start_of(piece + 1) * 64);
        text +=
            &format!("<Storage><Start>{start}</Start><End>{end}</End><Blocksize>64</Blocksize>");
        for guid in guids() {
            text += &format!(
                "<Image><GUID>{guid}</GUID><Type>Compressed</Type>\
                 <File>d.{piece}.{guid}.hds</File></Image>"
            );
        }
        text += "</Storage>";
    }
    let none = "{00000000-0000-0000-0000-000000000000}";
    text + &format!(
        "</StorageData><Snapshots><TopGUID>{TOP}</TopGUID>\
         <Shot><GUID>{TOP}</GUID><ParentGUID>{LOW}</ParentGUID></Shot>\
         <Shot><GUID>{LOW}</GUID><ParentGUID>{none}</ParentGUID></Shot>\
         </Snapshots></Parallels_disk_image>"
    )
}

fn scene() -> SimWorld {
    let world = empty();
    for piece in 0..PIECES.len() {
        for (level, guid) in guids().iter().enumerate() {
            let path = format!("{HOME}/d.{piece}.{guid}.hds");
            world.put_file(Path::new(&path), &image(piece, level));
        }
    }
    world.put_file(Path::new(XML), descriptor().as_bytes());
    world
}

/// The first byte of each cluster of the disk, told from the files, without the image code.
fn content(world: &SimWorld, at: &str) -> Vec<u8> {
    let text = world.read_file(Path::new(XML)).unwrap();
    let parsed = Descriptor::parse(&text).unwrap_or_else(|e| panic!("{at}: {e}"));
    let mut out = Vec::new();
    for (piece, count) in PIECES.iter().enumerate() {
        let mut bytes = vec![0; *count as usize];
        for image in parsed.piece(piece).chain().unwrap_or_else(|e| panic!("{at}: {e}")) {
            let file = world.read_file(&Path::new(HOME).join(&image.file));
            let file = file.unwrap_or_else(|e| panic!("{at}: {} of {piece}: {e}", image.file));
            for (n, byte) in bytes.iter_mut().enumerate() {
                let entry = u32::from_le_bytes(*file[64 + n * 4..].first_chunk().unwrap());
                if entry != 0 {
                    let from = entry as usize * CLUSTER;
                    let whole = &file[from..from + CLUSTER];
                    assert!(whole.iter().all(|b| *b == whole[0]), "{at}: half a cluster");
                    *byte = whole[0];
                }
            }
        }
        out.extend(bytes);
    }
    out
}

fn judge(world: &SimWorld, at: &str) {
    let want = content(&scene(), "at first");
    assert_eq!(content(world, at), want, "{at}");
    let dir = world.dir();
    let found = check(&dir, Path::new(HOME), &CheckOptions::default(), &options())
        .unwrap_or_else(|e| panic!("{at}: {e}"));
    assert!([0, 37].contains(&found.exit_code()), "{at}: {found:#?}");
    let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options())
        .unwrap_or_else(|e| panic!("{at}: {e}"));
    assert_eq!(disk.spec().more.len(), 1, "{at}");
    disk.abort().unwrap_or_else(|e| panic!("{at}: {e}"));
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    let report = check(&dir, Path::new(HOME), &force, &options()).unwrap();
    assert_eq!(report.exit_code(), 0, "{at}: {report:#?}");
    // Space that an interrupted merge had freed waits for the next one.
    assert!(report.images.iter().all(|i| i.findings.is_empty()), "{at}");
    assert_eq!(content(world, at), want, "{at}, after an open and a close");
}

fn everywhere(work: impl Fn(&SimWorld) -> Result<(), ImageError>) {
    crash_everywhere(scene, &work, judge);
    fail_everywhere(scene, &work, |world, _, at| judge(world, at));
}

fn merge_as(world: &SimWorld, which: Which) -> Result<(), ImageError> {
    let (dir, entropy) = (world.dir(), world.entropy(3));
    let mut work = Work { progress: &mut |_, _| true, copier: &InTurn };
    merge(&dir, &entropy, Path::new(HOME), which, &options(), &mut work).map(drop)
}

#[test]
fn an_open_and_a_close() {
    everywhere(open_and_abort);
}

#[test]
fn a_snapshot_is_in_all_pieces_or_in_none() {
    everywhere(take_snapshot);
}

#[test]
fn a_merge_is_done_in_all_pieces_or_in_none() {
    everywhere(|world| merge_as(world, Which::Top));
}

#[test]
fn a_turned_chain_and_its_end() {
    everywhere(|world| {
        let (dir, entropy) = (world.dir(), world.entropy(4));
        turn(&dir, &entropy, Path::new(HOME), Which::Top, &options()).map(drop)?;
        merge_as(world, Which::Top)
    });
}

#[test]
fn a_turned_chain_whose_top_lacks_something_stays() {
    let world = scene();
    let (dir, entropy) = (world.dir(), world.entropy(4));
    turn(&dir, &entropy, Path::new(HOME), Which::Top, &options()).unwrap();
    let error = drop_covered(&dir, &entropy, Path::new(HOME), &options()).unwrap_err();
    assert!(error.to_string().contains("not at its end"), "{error}");
    judge(&world, "after it was refused");
}

#[test]
fn a_switch_takes_all_pieces_back() {
    let world = scene();
    let mut want = Vec::new();
    for (piece, count) in PIECES.iter().enumerate() {
        let odd = (0..*count).map(|n| (n % 2) as u8 * (1 + (start_of(piece) + n) as u8));
        want.extend(odd);
    }
    let (dir, entropy) = (world.dir(), world.entropy(5));
    let low = LOW.parse().unwrap();
    switch(&dir, &entropy, Path::new(HOME), low, false, &options()).unwrap();
    assert_eq!(content(&world, "after the switch"), want);
}

#[test]
fn the_last_piece_grows() {
    let larger = Sector(start_of(PIECES.len()) * 64 + 640);
    let work = |world: &SimWorld| grow(&world.dir(), Path::new(HOME), larger, &options()).map(drop);
    everywhere(work);
    let world = scene();
    work(&world).unwrap();
    let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options()).unwrap();
    assert_eq!(disk.size(), larger);
    disk.abort().unwrap();
}
