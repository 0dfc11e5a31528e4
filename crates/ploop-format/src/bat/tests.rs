//! Every fault of an entry, at its exact limit.

use super::*;
use crate::header::Header;
use crate::units::SECTOR;
use proptest::prelude::*;

const K32: u64 = 32 << 10;

fn header(version: Version, entries: u64) -> Header {
    let cluster = ClusterSize::from_sectors(64).unwrap();
    Header::new(version, cluster, Sector(entries * 64)).unwrap()
}

fn page(words: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = vec![0u8; 4096];
    for (index, word) in words {
        bytes[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[test]
fn v2_limits() {
    let h = header(Version::V2, 512);
    let bounds = h.bounds(5 * K32);
    assert_eq!(bounds.classify(0), Ok(None));
    assert_eq!(bounds.classify(1), Ok(Some(Sector(64))));
    assert_eq!(bounds.classify(4), Ok(Some(Sector(256))));
    let past = EntryFault::PastEof { at: Sector(320), end: 6 * K32, len: 5 * K32 };
    assert_eq!(bounds.classify(5), Err(past));
    assert_eq!(bounds.classify(u32::MAX), Err(EntryFault::Reserved));
    let three = header(Version::V2, 0x4000).bounds(5 * K32);
    let inside = EntryFault::InsideBat { at: Sector(128), data: Sector(192) };
    assert_eq!(three.classify(2), Err(inside));
    assert_eq!(three.classify(3), Ok(Some(Sector(192))));
}

#[test]
fn a_ragged_end_is_past_the_end() {
    let h = header(Version::V2, 512);
    assert_eq!(h.bounds(5 * K32).classify(4), Ok(Some(Sector(256))));
    assert!(matches!(h.bounds(5 * K32 - 1).classify(4), Err(EntryFault::PastEof { .. })));
}

#[test]
fn v1_limits() {
    let bounds = header(Version::V1, 512).bounds(5 * K32);
    assert_eq!(bounds.classify(64), Ok(Some(Sector(64))));
    assert_eq!(bounds.classify(0x101), Err(EntryFault::Misaligned { at: Sector(0x101) }));
    assert_eq!(bounds.classify(1), Err(EntryFault::Misaligned { at: Sector(1) }));
    assert!(matches!(bounds.classify(320), Err(EntryFault::PastEof { .. })));
    assert_eq!(bounds.classify(u32::MAX), Err(EntryFault::Reserved));
}

#[test]
fn v1_counts_boundaries_from_its_data() {
    let mut bytes = header(Version::V1, 16).encode();
    bytes[48..52].fill(0);
    let h = Header::parse(&bytes).unwrap();
    assert_eq!(h.data_start(), 512);
    let bounds = h.bounds(512 + 2 * K32);
    assert_eq!(bounds.classify(1), Ok(Some(Sector(1))));
    assert_eq!(bounds.classify(65), Ok(Some(Sector(65))));
    assert_eq!(bounds.classify(64), Err(EntryFault::Misaligned { at: Sector(64) }));
    assert!(matches!(bounds.classify(129), Err(EntryFault::PastEof { .. })));
}

#[test]
fn two_tebibytes_of_file_do_not_wrap() {
    let cluster = ClusterSize::from_sectors(2048).unwrap();
    let entry = 1 << 21;
    let len = (1 << 41) + (1 << 20);
    let whole = Bounds { version: Version::V2, cluster, data_start: 1 << 20, file_len: len };
    assert_eq!(whole.classify(entry), Ok(Some(Sector((1 << 41) / SECTOR))));
    assert_eq!(whole.file_cluster(entry), FileCluster(1 << 21));
    assert!(Bounds { file_len: len - 1, ..whole }.classify(entry).is_err());
}

#[test]
fn a_page_shows_its_entries_only() {
    let h = header(Version::V2, 1010);
    let first = page(&[(0, 7), (15, 7), (16, 1), (1023, 2)]);
    let view = BatPageView::new(h.entries(), BatPage(0), &first).unwrap();
    assert_eq!(view.iter().count(), 1008);
    assert_eq!(view.iter().next(), Some((GuestCluster(0), 1)));
    assert_eq!(view.entry(GuestCluster(1007)), Some(2));
    assert_eq!(view.entry(GuestCluster(1008)), None);
    assert_eq!(view.garbage(), 0);
    let second = page(&[(0, 3), (1, 4), (2, 9), (500, 9)]);
    let view = BatPageView::new(h.entries(), BatPage(1), &second).unwrap();
    let all: Vec<_> = view.iter().collect();
    assert_eq!(all, [(GuestCluster(1008), 3), (GuestCluster(1009), 4)]);
    assert_eq!((view.entry(GuestCluster(1010)), view.garbage()), (None, 2));
    assert!(BatPageView::new(h.entries(), BatPage(2), &second).unwrap().iter().next().is_none());
    assert!(BatPageView::new(h.entries(), BatPage(0), &second[1..]).is_none());
    assert!(BatPageView::new(h.entries(), BatPage(0), &[0; 4100]).is_none());
    // The last page may end behind its last entry.
    let cut = BatPageView::new(h.entries(), BatPage(1), &second[..8]).unwrap();
    assert!(cut.iter().eq([(GuestCluster(1008), 3), (GuestCluster(1009), 4)]));
}

#[test]
fn an_entry_is_put_and_found_in_its_page() {
    let mut bytes = page(&[(1023, 9)]);
    let at = |cluster: u64| GuestCluster(cluster).slot().index;
    put_entry(&mut bytes, at(1006), 5);
    assert_eq!(bytes, page(&[(1022, 5), (1023, 9)]));
    assert_eq!(entry_at(&bytes, at(1006)), 5);
    assert_eq!(entry_at(&bytes, at(1007)), 9);
    // The same words of the next page.
    assert_eq!(entry_at(&bytes, at(1007 + 1024)), 9);
    assert_eq!(entry_at(&bytes[..4092], at(1007)), 0);
}

#[test]
fn a_bad_entry_says_where() {
    let h = header(Version::V2, 100);
    let bytes = page(&[(16, 1), (16 + 77, 9001)]);
    let view = BatPageView::new(h.entries(), BatPage(0), &bytes).unwrap();
    let bad = view.check_entries(h.bounds(4 * K32)).unwrap_err();
    assert_eq!((bad.slot, bad.value), (GuestCluster(77), 9001));
    assert_eq!(
        bad.to_string(),
        "BAT entry 77 (0x2329) points to sector 576064, the cluster ends at byte 294977536, \
         the file has 131072 bytes"
    );
    assert!(view.check_entries(h.bounds(9002 * K32)).is_ok());
}

proptest! {
    #[test]
    fn a_good_place_is_inside_and_comes_back(v1: bool, log2 in 6u32..18, entry: u32, len: u64) {
        let version = if v1 { Version::V1 } else { Version::V2 };
        let cluster = ClusterSize::from_sectors(1 << log2).unwrap();
        let bounds = Bounds { version, cluster, data_start: cluster.bytes(), file_len: len };
        if let Ok(Some(at)) = bounds.classify(entry) {
            prop_assert!(at.bytes() >= bounds.data_start && at.bytes() + cluster.bytes() <= len);
            prop_assert_eq!(version.entry(at, cluster), Some(entry));
        }
    }
}
