//! A bitmap laid out as QEMU's sample, every typed error, lists with and without padding.

use super::*;
use crate::guid::Guid;
use crate::header::InUse;
use crate::version::Version;
use proptest::prelude::*;

const LEN: u64 = 8 << 20;

/// 64 GiB, 1 MiB clusters, extension at byte 2 MiB, its bitmap cluster at 1 MiB.
fn header() -> Header {
    let cluster = ClusterSize::from_sectors(2048).unwrap();
    let mut header = Header::new(Version::V2, cluster, Sector(64 << 21)).unwrap();
    header.close(false, Some(Sector(0x1000)));
    header
}

fn bitmap() -> DirtyBitmap {
    let name = "{e4f2eed0-37fe-4539-b50b-85d2e7fd235f}".parse().unwrap();
    let mut bitmap = DirtyBitmap::new(&header(), name, 128).unwrap();
    bitmap.l1[0] = L1Entry::At(Sector(2048));
    bitmap
}

fn bytes(extension: &Extension) -> Vec<u8> {
    extension.encode(header().cluster()).unwrap()
}

/// Makes the checksum fit again.
fn sum(mut bytes: Vec<u8>) -> Vec<u8> {
    let md5: [u8; 16] = Md5::digest(&bytes[24..]).into();
    bytes[8..24].copy_from_slice(&md5);
    bytes
}

fn damaged(at: usize, new: &[u8]) -> ExtensionError {
    let mut all = bytes(&Extension { bitmap: Some(bitmap()), unknown: vec![] });
    all[at..at + new.len()].copy_from_slice(new);
    Extension::parse(&sum(all), &header(), LEN).unwrap_err()
}

#[test]
fn layout_byte_by_byte() {
    let all = bytes(&Extension { bitmap: Some(bitmap()), unknown: vec![] });
    assert_eq!(all.len(), 1 << 20);
    assert_eq!(all[..8], [0x87, 0xea, 0xdc, 0x23, 0xef, 0x4c, 0x23, 0xab]);
    assert_eq!(all[24..32], [0x4a, 0xb3, 0x2c, 0x25, 0xae, 0x5f, 0x38, 0x20]);
    assert_eq!(all[32..48], [0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(all[48..56], (64u64 << 21).to_le_bytes());
    assert_eq!(all[56..60], [0xe4, 0xf2, 0xee, 0xd0]);
    assert_eq!(all[72..80], [128, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(all[80..88], 2048u64.to_le_bytes());
    assert!(all[88..].iter().all(|b| *b == 0));
    let back = Extension::parse(&all, &header(), LEN).unwrap();
    let found = back.bitmap.unwrap();
    assert_eq!(found, bitmap());
    assert_eq!((found.bits(), found.clusters().collect::<Vec<_>>()), (1 << 20, vec![Sector(2048)]));
}

#[test]
fn l1_lengths() {
    let k32 = ClusterSize::from_sectors(64).unwrap();
    assert_eq!(l1_len(Sector(64 << 21), k32), 4);
    assert_eq!(l1_len(Sector(128 * 8 * (32 << 10)), k32), 1);
    assert_eq!(l1_len(Sector(128 * 8 * (32 << 10) + 1), k32), 2);
    fn l1_len(size: Sector, cluster: ClusterSize) -> u64 {
        bitmap::l1_len(size, 128, cluster)
    }
}

#[test]
fn the_place_is_a_data_cluster() {
    let mut h = header();
    assert_eq!(Extension::place(&h, LEN), Ok(Some(Sector(0x1000))));
    for at in [0x1001, 0x7ff, 1, 0x4000, u64::MAX, u64::MAX / 512] {
        h.close(false, Some(Sector(at)));
        let error = ExtensionError::Place { at, start: 1 << 20, end: LEN };
        assert_eq!(Extension::place(&h, LEN), Err(error));
    }
    h.set_in_use(InUse::InUse);
    assert_eq!(Extension::place(&h, LEN), Ok(None));
}

#[test]
fn every_error_of_the_list() {
    use ExtensionError as E;
    let good = bytes(&Extension { bitmap: Some(bitmap()), unknown: vec![] });
    let parse = |b: &[u8]| Extension::parse(b, &header(), LEN).unwrap_err();
    assert_eq!(parse(&good[1..]), E::Length { have: (1 << 20) - 1, cluster: 1 << 20 });
    let mut other = good.clone();
    other[0] = 0;
    assert!(matches!(parse(&other), E::Magic(_)));
    let mut other = good.clone();
    other[1 << 19] ^= 1;
    assert_eq!(parse(&other), E::Checksum);
    assert_eq!(damaged(32, &[4]), E::ElementFlags { at: 24, flags: 4 });
    let size = u32::MAX.to_le_bytes();
    let left = (1 << 20) - 48;
    assert_eq!(damaged(40, &size), E::ElementSize { at: 24, size: u32::MAX as usize, left });
    let element = good[24..88].to_vec();
    let mut twice = good.clone();
    twice[88..152].copy_from_slice(&element);
    assert_eq!(parse(&sum(twice)), E::TwoBitmaps);
    let data = vec![0; 1 << 20];
    let full = Extension { bitmap: None, unknown: vec![Unknown { magic: 1, flags: 0, data }] };
    let error = E::Full { need: (1 << 20) + 48, cluster: 1 << 20 };
    assert_eq!(full.encode(header().cluster()), Err(error));
}

#[test]
fn every_error_of_the_bitmap() {
    use BitmapError as B;
    let device = 64 << 21;
    assert_eq!(damaged(48, &[1]), B::Size { bitmap: device + 1, device }.into());
    assert_eq!(damaged(72, &[0]), B::Granularity(0).into());
    assert_eq!(damaged(72, &[129]), B::Granularity(129).into());
    assert_eq!(damaged(76, &[2]), B::L1Len { have: 2, need: 1 }.into());
    assert_eq!(damaged(40, &[31]), B::Short { have: 31, need: 32 }.into());
    assert_eq!(damaged(40, &[39]), B::Short { have: 39, need: 40 }.into());
    let at = |sector: u64| damaged(80, &sector.to_le_bytes());
    for bad in [2, 2049, 0x4000, u64::MAX] {
        assert_eq!(at(bad), B::L1Place { index: 0, at: bad }.into());
    }
    assert_eq!(at(0x1000), B::L1Shared { index: 0, at: 0x1000 }.into());
    assert_eq!(DirtyBitmap::new(&header(), Guid::NONE, 3), Err(B::Granularity(3)));
}

#[test]
fn unknown_elements_by_their_flags() {
    let element = |magic, flags, size| Unknown { magic, flags, data: vec![7; size] };
    let unknown = vec![element(5, 0, 3), element(6, TRANSIT, 8), element(7, NECESSARY, 0)];
    let mut all = Extension { bitmap: Some(bitmap()), unknown };
    assert_eq!(Extension::parse(&bytes(&all), &header(), LEN), Ok(all.clone()));
    assert!(all.forbids_writing());
    all.keep_for_writer();
    assert_eq!(all.unknown.iter().map(|e| e.magic).collect::<Vec<_>>(), [6, 7]);
}

#[test]
fn elements_end_to_end_are_read_too() {
    let element = |magic, data: &[u8]| Unknown { magic, flags: TRANSIT, data: data.to_vec() };
    let unknown = vec![element(5, b"abc"), element(6, b"12345678")];
    let wanted = Extension { bitmap: None, unknown };
    let mut all = vec![0; 1 << 20];
    all[..8].copy_from_slice(&MAGIC.to_le_bytes());
    let mut at = 24;
    for e in &wanted.unknown {
        all[at..at + 8].copy_from_slice(&e.magic.to_le_bytes());
        all[at + 8] = TRANSIT as u8;
        all[at + 16] = e.data.len() as u8;
        all[at + 24..at + 24 + e.data.len()].copy_from_slice(&e.data);
        at += 24 + e.data.len();
    }
    assert_eq!(Extension::parse(&sum(all), &header(), LEN), Ok(wanted));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_with_a_good_checksum(
        list in prop::collection::vec(any::<u8>(), 0..300),
        kind: bool,
    ) {
        let cluster = ClusterSize::from_sectors(64).unwrap();
        let header = Header::new(Version::V2, cluster, Sector(1 << 20)).unwrap();
        let mut all = vec![0; 32 << 10];
        all[..8].copy_from_slice(&MAGIC.to_le_bytes());
        all[24..24 + list.len()].copy_from_slice(&list);
        if kind {
            all[24..32].copy_from_slice(&bitmap::MAGIC.to_le_bytes());
            all[32..48].fill(0);
            all[40] = 48;
        }
        if let Ok(found) = Extension::parse(&sum(all), &header, LEN) {
            let again = found.encode(cluster).unwrap();
            prop_assert_eq!(Extension::parse(&again, &header, LEN), Ok(found));
        }
    }
}
