//! Header dumps of the original and of QEMU, every typed error, and round trips.

use super::*;
use proptest::prelude::*;

/// `init -s 64m` of the original, version 2.
fn init_64m() -> [u8; 64] {
    let mut b = [0u8; 64];
    b[..16].copy_from_slice(b"WithouFreSpacExt");
    b[16..36].copy_from_slice(&[2, 0, 0, 0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0x40, 0, 0, 0]);
    b[36..56].copy_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 1, 0, 0, 0]);
    b
}

fn with(at: usize, value: u32) -> [u8; 64] {
    let mut b = init_64m();
    b[at..at + 4].copy_from_slice(&value.to_le_bytes());
    b
}

fn with_v1(at: usize, value: u32) -> [u8; 64] {
    let mut b = with(at, value);
    b[..16].copy_from_slice(b"WithoutFreeSpace");
    b
}

fn cluster(sectors: u32) -> ClusterSize {
    ClusterSize::from_sectors(sectors).unwrap()
}

#[test]
fn reads_the_dump_of_64_mib() {
    let h = Header::parse(&init_64m()).unwrap();
    assert_eq!((h.version(), h.kind(), h.heads(), h.cylinders()), (Version::V2, 2, 16, 256));
    assert_eq!((h.cluster().sectors(), h.entries(), h.size()), (2048, 64, Sector(0x20000)));
    assert_eq!((h.in_use(), h.first_block(), h.flags()), (InUse::Closed, Sector(2048), EMPTY));
    assert_eq!((h.extension_offset(), h.extension()), (Sector(0), None));
    assert_eq!((h.data_start(), h.bat_clusters(), h.bat_pages()), (1 << 20, 1, 1));
    assert_eq!(h.bat_bytes(), (64 + 16) * 4);
    assert!(h.claims_empty() && !h.is_converting() && !h.in_use().is_in_use());
    assert!(h.check_aligned().is_ok());
}

#[test]
fn makes_the_dumps() {
    let h = Header::new(Version::V2, cluster(2048), Sector(0x20000)).unwrap();
    assert_eq!(h.encode(), init_64m());
    // 10 GiB, 64 KiB clusters.
    let h = Header::new(Version::V2, cluster(128), Sector(0x140_0000)).unwrap();
    assert_eq!((h.cylinders(), h.heads(), h.entries()), (0xa000, 16, 0x28000));
    assert_eq!((h.first_block(), h.data_start()), (Sector(0x580), 704 << 10));
    // 512 MiB, 32 KiB clusters: three BAT clusters, entry 9600 lies in the second.
    let h = Header::new(Version::V2, cluster(64), Sector(1 << 20)).unwrap();
    assert_eq!((h.entries(), h.first_block(), h.bat_clusters()), (0x4000, Sector(0xc0), 3));
    // 1 GiB.
    let h = Header::new(Version::V1, cluster(2048), Sector(1 << 21)).unwrap();
    assert_eq!((h.heads(), h.cylinders()), (16, 2080));
    assert_eq!(&h.encode()[..16], b"WithoutFreeSpace");
}

#[test]
fn grows_as_the_original() {
    let before = Header::new(Version::V2, cluster(64), Sector(8176 * 64)).unwrap();
    assert_eq!(before.first_block(), Sector(64));
    let after = before.grown(Sector(20_000 * 64)).unwrap();
    assert_eq!((after.entries(), after.size()), (20_000, Sector(0x13_8800)));
    assert_eq!((after.first_block(), after.cylinders(), after.heads()), (Sector(192), 0x4f5, 16));
    let shrink = FormatError::Shrink { have: 1_280_000, asked: 64 };
    assert_eq!(after.grown(Sector(1)), Err(shrink));
}

#[test]
fn a_grow_takes_no_entry_away() {
    // A device smaller than its BAT, data farther than needed.
    let mut bytes = with(32, 300_000);
    bytes[48..52].copy_from_slice(&(256u32 * 2048).to_le_bytes());
    let h = Header::parse(&bytes).unwrap();
    let grown = h.grown(Sector(0x30000)).unwrap();
    assert_eq!((grown.size(), grown.entries()), (Sector(0x30000), 300_000));
    assert_eq!(grown.first_block(), Sector(256 * 2048));
    let grown = h.grown(Sector(300_001 * 2048)).unwrap();
    assert_eq!((grown.entries(), grown.first_block()), (300_001, Sector(256 * 2048)));
}

#[test]
fn every_error_has_its_numbers() {
    use FormatError as E;
    let parse = |b: [u8; 64]| Header::parse(&b).unwrap_err();
    assert_eq!(Header::parse(&init_64m()[..63]), Err(E::Short { have: 63 }));
    assert_eq!(Header::parse(&[]), Err(E::Short { have: 0 }));
    assert_eq!(parse(with(0, 0)), E::Signature);
    assert_eq!(parse(with(16, 3)), E::Type(3));
    for bad in [0, 1, 63, 129, 262_144, u32::MAX] {
        assert_eq!(parse(with(28, bad)), E::ClusterSize(bad));
    }
    assert_eq!(parse(with(32, 0)), E::NoEntries);
    assert_eq!(parse(with(32, 63)), E::SizeBeyondBat { size: 0x20000, covered: 63 * 2048 });
    assert_eq!(parse(with(40, 1)), E::SizeBeyondBat { size: 0x1_0002_0000, covered: 0x20000 });
    assert_eq!(parse(with(48, 0)), E::FirstBlock { first: 0, cluster: 2048 });
    assert_eq!(parse(with(48, 2047)), E::FirstBlock { first: 2047, cluster: 2048 });
    let needed = (262_129 + 16) * 4;
    assert_eq!(parse(with(32, 262_129)), E::DataInsideBat { first: 1 << 20, needed });
    assert_eq!(parse(with(52, u32::MAX)), E::Flags(u32::MAX));
    let text = parse(with(40, 1)).to_string();
    assert_eq!(text, "the device has 4295098368 sectors, its BAT covers 131072");
}

#[test]
fn what_is_legal_though_odd() {
    // QEMU rounds the size to sectors only.
    let h = Header::parse(&with(36, 0x1_ffff)).unwrap();
    assert_eq!((h.size(), h.covered()), (Sector(0x1_ffff), Sector(0x20000)));
    // More room before the data than needed.
    assert_eq!(Header::parse(&with(48, 6 * 2048)).unwrap().bat_clusters(), 6);
    // The upper half of the size means nothing in v1.
    assert_eq!(Header::parse(&with_v1(40, 77)).unwrap().size(), Sector(0x20000));
}

#[test]
fn a_v1_image_without_first_block_is_only_read() {
    let h = Header::parse(&with_v1(48, 0)).unwrap();
    assert_eq!((h.first_block(), h.data_start(), h.bat_clusters()), (Sector(0), 512, 1));
    let unaligned = FormatError::DataUnaligned { start: 512, cluster: 1 << 20 };
    assert_eq!(h.check_aligned(), Err(unaligned));
    assert_eq!(h.grown(Sector(1 << 20)), Err(unaligned));
    let len = h.check_file_len(512 + (3 << 20)).unwrap();
    assert_eq!(len, FileLen { clusters: 4, ragged: 0 });
    let len = h.check_file_len(512 + (3 << 20) + 5).unwrap();
    assert_eq!(len, FileLen { clusters: 4, ragged: 5 });
    assert!(Header::parse(&with_v1(48, 2047)).is_err());
}

#[test]
fn in_use_words() {
    for (word, state, dirty) in [
        (0, InUse::Closed, false),
        (0x312e_3276, InUse::ClosedV21, false),
        (0x746f_6e59, InUse::InUse, true),
        (1, InUse::Unknown(1), true),
        (0x3731_6470, InUse::Stamped(0x3731_6470), false),
        (u32::from_le_bytes(*b"pd22"), InUse::Stamped(0x3232_6470), false),
        (u32::from_le_bytes(*b"pdxx"), InUse::Unknown(0x7878_6470), true),
        (u32::from_le_bytes(*b"PD22"), InUse::Unknown(0x3232_4450), true),
    ] {
        let h = Header::parse(&with(44, word)).unwrap();
        assert_eq!((h.in_use(), h.in_use().is_in_use()), (state, dirty));
        assert_eq!(state.word(), word);
    }
    assert_eq!(&InUse::ClosedV21.word().to_le_bytes(), b"v2.1");
}

#[test]
fn an_interrupted_conversion_is_told() {
    let mut h = Header::parse(&with(52, CONVERTING)).unwrap();
    assert!(h.check_conversion().is_ok());
    h.set_in_use(InUse::InUse);
    assert_eq!(h.check_conversion(), Err(FormatError::ConversionInterrupted));
}

#[test]
fn the_extension_counts_only_with_v21() {
    let mut h = Header::parse(&init_64m()).unwrap();
    h.set_extension_offset(Sector(0x1000));
    assert_eq!(h.extension(), None);
    h.close(false, Some(Sector(0x1000)));
    assert_eq!(h.extension(), Some(Sector(0x1000)));
    h.stamp();
    assert_eq!((h.extension(), h.extension_offset()), (None, Sector(0)));
    assert!(h.in_use().is_in_use() && !h.claims_empty());
}

#[test]
fn unknown_bits_survive() {
    let mut bytes = with_v1(40, 0xdead_beef);
    bytes[52..56].copy_from_slice(&0x8000_0005u32.to_le_bytes());
    let mut h = Header::parse(&bytes).unwrap();
    assert_eq!(h.encode(), bytes);
    h.stamp();
    h.close(true, None);
    assert_eq!(h.encode(), bytes);
}

#[test]
fn file_length() {
    let h = Header::parse(&init_64m()).unwrap();
    assert_eq!(h.check_file_len(319), Err(FormatError::Truncated { len: 319, needed: 320 }));
    assert_eq!(h.check_file_len(320), Ok(FileLen { clusters: 0, ragged: 320 }));
    assert_eq!(h.check_file_len(3 << 20), Ok(FileLen { clusters: 3, ragged: 0 }));
    assert_eq!(h.check_file_len((3 << 20) + 1), Ok(FileLen { clusters: 3, ragged: 1 }));
    assert_eq!(h.check_file_len(u64::MAX).unwrap().ragged, (1 << 20) - 1);
}

#[test]
fn a_size_need_not_fill_the_last_cluster() {
    let h = Header::new(Version::V2, cluster(64), Sector(2000 * 64)).unwrap();
    assert_eq!(h.bat_pages(), 2);
    let less = h.with_size(Sector(2000 * 64 - 8)).unwrap();
    assert_eq!((less.size(), less.entries()), (Sector(2000 * 64 - 8), 2000));
    assert!(h.with_size(Sector(2000 * 64 + 1)).is_err());
}

proptest! {
    #[test]
    fn parse_never_panics_and_keeps_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(h) = Header::parse(&bytes) {
            prop_assert_eq!(&h.encode()[..], &bytes[..64]);
        }
    }

    #[test]
    fn any_words_behind_a_signature(
        v1: bool,
        words in prop::array::uniform12(any::<u32>()),
        len: u64,
    ) {
        let mut bytes = if v1 { with_v1(16, 2) } else { with(16, 2) };
        for (at, word) in words.iter().enumerate().skip(1) {
            bytes[16 + at * 4..20 + at * 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[28..32].copy_from_slice(&(64u32 << (words[3] % 12)).to_le_bytes());
        bytes[40..44].copy_from_slice(&(words[6] % 2).to_le_bytes());
        if let Ok(h) = Header::parse(&bytes) {
            prop_assert_eq!(h.encode(), bytes);
            prop_assert!(h.data_start() >= h.bat_bytes());
            if let Ok(parts) = h.check_file_len(len) {
                prop_assert!(parts.ragged < h.cluster().bytes());
            }
        }
    }

    #[test]
    fn new_headers_are_valid(v1: bool, log2 in 6u32..18, size in 1u64..1 << 42) {
        let version = if v1 { Version::V1 } else { Version::V2 };
        let size = Sector(size);
        match Header::new(version, cluster(1 << log2), size) {
            Ok(h) => {
                prop_assert_eq!(Header::parse(&h.encode()), Ok(h));
                prop_assert!(h.size() >= size && h.size() == h.covered());
                prop_assert_eq!(h.data_start(), h.bat_clusters() << h.cluster().log2());
                let last = h.preallocated_entry(h.entries() - 1);
                prop_assert!(last.is_some());
            }
            Err(e) => {
                let max = geometry::max_size(version, cluster(1 << log2));
                prop_assert!(size > max, "{}", e);
            }
        }
    }
}
