//! Descriptors of a disk that is split into pieces.
#![allow(clippy::unwrap_used, reason = "a test")]

use ploop_format::descriptor::Piece;
use ploop_format::{Descriptor, DescriptorError as E, Guid, ImageRef, Sector};

const SPLIT: &str = include_str!("data/split.xml");
const PIECE: u64 = 3_989_504;
const LOWER: &str = "{7c1d2f10-94a3-4a3f-8e0c-51b7e1a4d001}";

fn parse(text: &str) -> Descriptor {
    Descriptor::parse(text.as_bytes()).unwrap()
}

fn error(from: &str, to: &str) -> E {
    assert!(SPLIT.contains(from), "{from}");
    Descriptor::parse(SPLIT.replacen(from, to, 1).as_bytes()).unwrap_err()
}

fn files(images: &[ImageRef]) -> Vec<&str> {
    images.iter().map(|image| image.file.as_str()).collect()
}

fn delta(n: usize, guid: Guid) -> String {
    format!("disk.hdd.{n}.{guid}.hds")
}

#[test]
fn a_split_disk_is_read_and_written_byte_for_byte() {
    let d = parse(SPLIT);
    assert_eq!((d.pieces(), d.size_sectors), (6, 20_971_520));
    let bounds: Vec<u64> = (0..6).map(|n| n * PIECE).chain([20_971_520]).collect();
    assert_eq!(d.bounds(), bounds);
    let lower: Guid = LOWER.parse().unwrap();
    assert_eq!(files(&d.more[4].images), [delta(5, lower), delta(5, d.top)]);
    assert_eq!(d.all_images().count(), 12);
    assert_eq!(d.to_xml().unwrap(), SPLIT);
}

#[test]
fn a_piece_is_a_disk_of_its_own() {
    let d = parse(SPLIT);
    let last = d.piece(5);
    assert_eq!((last.pieces(), last.size_sectors), (1, 20_971_520 - 5 * PIECE));
    let chain = last.chain().unwrap();
    assert_eq!(files(&chain)[1], delta(5, d.top));
    assert_eq!(last.to_xml(), Err(E::Part), "its descriptor is that of the disk");
}

#[test]
fn one_change_is_made_in_all_pieces() {
    let mut d = parse(SPLIT);
    let (old, snapshot, unique) = (d.top, Guid::from_random([1; 16]), Guid::from_random([2; 16]));
    let new = d.delta_files(unique);
    assert_eq!(new[3], delta(3, unique));
    d.in_pieces(|piece, n| piece.add_snapshot(snapshot, &new[n])).unwrap();
    let again = parse(&d.to_xml().unwrap());
    assert_eq!((again.bounds(), again.shots.len()), (d.bounds(), 3));
    for n in 0..6 {
        let chain = again.piece(n).chain().unwrap();
        assert_eq!(files(&chain)[1..], [delta(n, old), delta(n, unique)]);
    }
    let gone = d.in_pieces(|piece, _| piece.merge_into_parent(Guid::TOP)).unwrap();
    assert_eq!(files(&gone)[2], delta(2, unique));
    assert_eq!(files(&parse(&d.to_xml().unwrap()).more[1].images)[1], delta(2, old));
    assert!(SPLIT.contains("<PhysicalSectorSize>4096<") && SPLIT.contains("<LogicSectorSize>512<"));
    assert!(d.to_xml().unwrap().contains("<LogicSectorSize>512</LogicSectorSize>"));
}

#[test]
fn a_change_that_fails_in_one_piece_changes_none() {
    let mut d = parse(SPLIT);
    let (before, snapshot) = (d.clone(), Guid::from_random([1; 16]));
    let taken = d.in_pieces(|piece, n| {
        let file = if n == 4 { piece.images[0].file.clone() } else { format!("new.{n}") };
        piece.add_snapshot(snapshot, &file)
    });
    assert!(matches!(taken, Err(E::DuplicateFile(_))));
    assert_eq!(d, before);
    d.add_snapshot(snapshot, "new").unwrap();
    assert!(matches!(d.to_xml(), Err(E::PieceImage { .. })), "a change of the first piece alone");
}

#[test]
fn the_last_piece_takes_another_size() {
    let mut d = parse(SPLIT);
    d.set_size(Sector(30_000_000));
    let again = parse(&d.to_xml().unwrap());
    assert_eq!((again.bounds()[5], again.bounds()[6]), (5 * PIECE, 30_000_000));
    d.set_size(Sector(1000));
    assert!(matches!(d.to_xml(), Err(E::PieceEmpty { piece: 5, .. })));
}

#[test]
fn pieces_that_do_not_make_one_disk() {
    let first = "<End>3989504<";
    let gap = error("<Start>3989504<", "<Start>3991552<");
    assert_eq!(gap, E::PieceStart { piece: 1, start: 3_991_552, expected: PIECE });
    let late = error("<Start>0<", "<Start>2048<");
    assert_eq!(late, E::PieceStart { piece: 0, start: 2048, expected: 0 });
    let overlap = error(first, "<End>3991552<");
    assert_eq!(overlap, E::PieceStart { piece: 1, start: PIECE, expected: 3_991_552 });
    let end = error("<End>20971520<", "<End>20973568<");
    assert_eq!(end, E::PieceEnd { piece: 5, end: 20_973_568, size: 20_971_520 });
    let end = error("<Disk_size>20971520<", "<Disk_size>20971519<");
    assert_eq!(end, E::PieceEnd { piece: 5, end: 20_971_520, size: 20_971_519 });
    assert_eq!(error(first, "<End>0<"), E::PieceEmpty { piece: 0, start: 0, end: 0 });
    let odd = SPLIT.replace(">3989504<", ">3989505<");
    let odd = Descriptor::parse(odd.as_bytes()).unwrap_err();
    assert_eq!(odd, E::PieceAlign { piece: 1, start: PIECE + 1, cluster: 2048 });
    let at = SPLIT.rfind("<Blocksize>2048").unwrap();
    let other = format!("{}{}", &SPLIT[..at], SPLIT[at..].replacen("2048", "64", 1));
    let other = Descriptor::parse(other.as_bytes()).unwrap_err();
    assert_eq!(other, E::PieceCluster { piece: 5, have: 64, first: 2048 });
    assert_eq!(error("<Start>7979008</Start>", ""), E::Missing("Start"));
}

#[test]
fn every_piece_has_the_same_snapshots() {
    let stray: Guid = "{99999999-94a3-4a3f-8e0c-51b7e1a4d001}".parse().unwrap();
    let at = SPLIT.find("<Start>7979008<").unwrap();
    let other = SPLIT[at..].replacen(&format!("<GUID>{LOWER}<"), &format!("<GUID>{stray}<"), 1);
    let other = Descriptor::parse(format!("{}{other}", &SPLIT[..at]).as_bytes()).unwrap_err();
    assert_eq!(other, E::PieceImage { piece: 2, guid: LOWER.parse().unwrap() });
    let twice = error(&format!("disk.hdd.3.{LOWER}"), &format!("disk.hdd.1.{LOWER}"));
    assert_eq!(twice, E::DuplicateFile(format!("disk.hdd.1.{LOWER}.hds")));
    let mut d = parse(SPLIT);
    let image = d.more[0].images[0].clone();
    d.more.push(Piece { start: 20_000_000, images: vec![image] });
    assert!(d.check().is_err());
}

#[test]
fn a_split_disk_as_one_piece() {
    let d = parse(SPLIT);
    let files = ["one".to_owned(), "two".to_owned()];
    let one = d.in_one_piece(&files).unwrap();
    let again = parse(&one.to_xml().unwrap());
    assert_eq!((again.pieces(), again.bounds()), (1, vec![0, 20_971_520]));
    assert_eq!(self::files(&again.images), ["one", "two"]);
    assert_eq!((again.shots.clone(), again.top), (d.shots.clone(), d.top));
    assert!(one.to_xml().unwrap().contains("<Name>split</Name>"), "what we do not know stays");
    assert_eq!(d.in_one_piece(&files[..1]), Err(E::Count { images: 1, shots: 2 }));
    assert!(matches!(d.in_one_piece(&["a".into(), "a".into()]), Err(E::DuplicateFile(_))));
}
