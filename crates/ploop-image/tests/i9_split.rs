//! I9 of a disk in pieces: at every crash point, and after every failure, all pieces are those of
//! one descriptor, and the disk holds what it held.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod crashing;
use crashing::*;
use ploop_format::{ClusterSize, Descriptor, Header, ImageType, Sector, Version};
use ploop_image::layers::{InTurn, Which, Work, drop_covered, grow, join, merge, switch, turn};
use ploop_image::{CheckOptions, Disk, ErrorKind, ImageError, check};
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
fn image(version: Version, piece: usize, level: usize) -> Vec<u8> {
    let cluster = ClusterSize::from_sectors(64).unwrap();
    let header = Header::new(version, cluster, Sector(PIECES[piece] * 64)).unwrap();
    let mut file = vec![0; header.data_start() as usize];
    file[..64].copy_from_slice(&header.encode());
    for n in 0..PIECES[piece] {
        if has(level, n) {
            let unit = if version == Version::V1 { 512 } else { CLUSTER };
            let entry = (file.len() / unit) as u32;
            file[64 + n as usize * 4..][..4].copy_from_slice(&entry.to_le_bytes());
            file.extend([byte(piece, level, n); CLUSTER]);
        }
    }
    file
}

fn has(level: usize, n: u64) -> bool {
    if level == 0 { n % 2 == 1 } else { n.is_multiple_of(3) }
}

fn byte(piece: usize, level: usize, n: u64) -> u8 {
    1 + level as u8 * 100 + (start_of(piece) + n) as u8
}

/// A raw base of the same content, whose last cluster of zeros is not there.
fn raw(piece: usize) -> Vec<u8> {
    let all = 0..PIECES[piece];
    let bytes = all.map(|n| if has(0, n) { byte(piece, 0, n) } else { 0 });
    let mut file: Vec<u8> = bytes.flat_map(|byte| [byte; CLUSTER]).collect();
    let end = file.iter().rposition(|byte| *byte != 0).unwrap();
    file.truncate(end + 1);
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
    scene_as(Version::V2, false)
}

fn scene_as(version: Version, raw_base: bool) -> SimWorld {
    let world = empty();
    for piece in 0..PIECES.len() {
        for (level, guid) in guids().iter().enumerate() {
            let path = format!("{HOME}/d.{piece}.{guid}.hds");
            let bytes = match raw_base && level == 0 {
                true => raw(piece),
                false => image(version, piece, level),
            };
            world.put_file(Path::new(&path), &bytes);
        }
    }
    let base = format!("<GUID>{LOW}</GUID><Type>");
    let text = match raw_base {
        true => descriptor().replace(&format!("{base}Compressed"), &format!("{base}Plain")),
        false => descriptor(),
    };
    world.put_file(Path::new(XML), text.as_bytes());
    world
}

/// The first byte of each cluster of the disk, told from the files, without the image code.
fn content(world: &SimWorld, at: &str) -> Vec<u8> {
    let text = world.read_file(Path::new(XML)).unwrap();
    let parsed = Descriptor::parse(&text).unwrap_or_else(|e| panic!("{at}: {e}"));
    let mut out = Vec::new();
    for (piece, bounds) in parsed.bounds().windows(2).enumerate() {
        let mut bytes = vec![0; ((bounds[1] - bounds[0]) / 64) as usize];
        for image in parsed.piece(piece).chain().unwrap_or_else(|e| panic!("{at}: {e}")) {
            let file = world.read_file(&Path::new(HOME).join(&image.file));
            let file = file.unwrap_or_else(|e| panic!("{at}: {} of {piece}: {e}", image.file));
            if image.kind == ImageType::Plain {
                for (byte, cluster) in bytes.iter_mut().zip(file.chunks(CLUSTER)) {
                    *byte = cluster[0];
                }
                continue;
            }
            let v1 = &file[..16] == b"WithoutFreeSpace";
            let unit = if v1 { 512 } else { CLUSTER };
            for (n, byte) in bytes.iter_mut().enumerate() {
                let entry = u32::from_le_bytes(*file[64 + n * 4..].first_chunk().unwrap());
                if entry != 0 {
                    let from = entry as usize * unit;
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

fn parsed(world: &SimWorld) -> Descriptor {
    Descriptor::parse(&world.read_file(Path::new(XML)).unwrap()).unwrap()
}

fn pieces(world: &SimWorld) -> usize {
    parsed(world).pieces()
}

/// What it held at first, and zeros where it grew.
fn same_content(world: &SimWorld, at: &str) {
    let (want, have) = (content(&scene(), "at first"), content(world, at));
    assert_eq!(have[..want.len()], want, "{at}");
    assert!(have[want.len()..].iter().all(|byte| *byte == 0), "{at}");
}

fn judge(world: &SimWorld, at: &str) {
    same_content(world, at);
    let dir = world.dir();
    let found = check(&dir, Path::new(HOME), &CheckOptions::default(), &options())
        .unwrap_or_else(|e| panic!("{at}: {e}"));
    assert!([0, 37].contains(&found.exit_code()), "{at}: {found:#?}");
    let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options())
        .unwrap_or_else(|e| panic!("{at}: {e}"));
    assert_eq!(disk.spec().more.len() + 1, pieces(world), "{at}");
    disk.abort().unwrap_or_else(|e| panic!("{at}: {e}"));
    let force = CheckOptions { force: true, ..CheckOptions::default() };
    let report = check(&dir, Path::new(HOME), &force, &options()).unwrap();
    assert_eq!(report.exit_code(), 0, "{at}: {report:#?}");
    // Space that an interrupted merge had freed waits for the next one.
    assert!(report.images.iter().all(|i| i.findings.is_empty()), "{at}");
    same_content(world, &format!("{at}, after an open and a close"));
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

fn join_as(world: &SimWorld, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<(), ImageError> {
    let (dir, entropy) = (world.dir(), world.entropy(6));
    let mut work = Work { progress, copier: &InTurn };
    join(&dir, &entropy, Path::new(HOME), &options(), &mut work).map(drop)
}

fn images(world: &SimWorld) -> usize {
    let list = ploop_io::Dir::list(&world.dir(), Path::new(HOME)).unwrap();
    list.iter().filter(|path| path.to_string_lossy().ends_with(".hds")).count()
}

#[test]
fn pieces_are_joined_or_the_disk_is_the_split_one() {
    everywhere(|world| join_as(world, &mut |_, _| true));
}

#[test]
fn joined_pieces_keep_every_level_in_both_versions_and_on_a_raw_base() {
    for (version, raw) in [(Version::V1, false), (Version::V2, false), (Version::V2, true)] {
        let world = scene_as(version, raw);
        join_as(&world, &mut |_, _| true).unwrap();
        judge(&world, "joined");
        assert_eq!((pieces(&world), images(&world)), (1, 2), "{version:?}, raw {raw}");
        let parsed = parsed(&world);
        assert_eq!(parsed.shots.len(), 2);
        let base = parsed.image(LOW.parse().unwrap()).unwrap();
        assert_eq!(base.kind == ImageType::Plain, raw);
        // The base alone is what it was.
        let (dir, entropy) = (world.dir(), world.entropy(7));
        let low = LOW.parse().unwrap();
        switch(&dir, &entropy, Path::new(HOME), low, false, &options()).unwrap();
        let of_piece =
            |piece| (0..PIECES[piece]).map(move |n| if has(0, n) { byte(piece, 0, n) } else { 0 });
        let want: Vec<u8> = (0..PIECES.len()).flat_map(of_piece).collect();
        assert_eq!(content(&world, "the base"), want);
        // Nothing is left to do.
        join_as(&world, &mut |_, _| true).unwrap();
    }
}

#[test]
fn every_branch_of_the_snapshots_is_joined() {
    let world = scene();
    let (dir, entropy) = (world.dir(), world.entropy(5));
    let low = LOW.parse().unwrap();
    switch(&dir, &entropy, Path::new(HOME), low, true, &options()).unwrap();
    let mut shots = parsed(&world).shots.into_iter();
    let kept = shots.find(|shot| shot.guid.to_string() != TOP && shot.parent == low).unwrap().guid;
    let at_base = content(&world, "the base");
    join_as(&world, &mut |_, _| true).unwrap();
    assert_eq!((pieces(&world), images(&world), parsed(&world).shots.len()), (1, 3, 3));
    assert_eq!(content(&world, "joined"), at_base);
    let (dir, entropy) = (world.dir(), world.entropy(8));
    switch(&dir, &entropy, Path::new(HOME), kept, false, &options()).unwrap();
    judge(&world, "back to the other branch");
}

#[test]
fn a_join_that_is_stopped_leaves_nothing() {
    for at in 0..4 {
        let world = scene();
        let text = world.read_file(Path::new(XML)).unwrap();
        let mut told = 0;
        let stopped = join_as(&world, &mut |_, _| {
            told += 1;
            told <= at
        });
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled, "{at}");
        assert_eq!(world.read_file(Path::new(XML)).unwrap(), text);
        assert_eq!(images(&world), 4, "{at}: no new image stays");
        judge(&world, "stopped");
    }
}

#[test]
fn a_disk_in_use_is_not_joined() {
    let world = scene();
    let disk = Disk::open(Arc::new(world.dir()), Path::new(HOME), &options()).unwrap();
    let refused = join_as(&world, &mut |_, _| true).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse, "{refused}");
    disk.abort().unwrap();
    judge(&world, "refused");
}
