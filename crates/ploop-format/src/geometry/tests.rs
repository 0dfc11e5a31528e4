//! Limits to the cluster, and the CHS of known images.

use super::*;
use crate::header::Header;
use crate::units::SECTOR;

fn all_clusters() -> impl Iterator<Item = ClusterSize> {
    (6..18).filter_map(|log2| ClusterSize::from_sectors(1 << log2))
}

#[test]
fn chs_of_known_images() {
    for (size, cylinders, heads, sectors) in [
        (131_072, 256, 16, 32),
        (16_384, 32, 16, 32),
        (1 << 21, 2080, 16, 63),
        (1_280_000, 1269, 16, 63),
        (0x140_0000, 40_960, 16, 32),
        (1_032_192, 1024, 16, 63),
        (16_777_216, 32_768, 16, 32),
        (64, 1, 2, 32),
        (1, 1, 1, 1),
        (8, 8, 1, 1),
        (0, 0, 1, 1),
    ] {
        assert_eq!(chs(Sector(size)), Chs { cylinders, heads, sectors }, "{size}");
    }
    assert_eq!(chs(Sector(1 << 60)).cylinders, u32::MAX);
}

#[test]
fn bat_numbers() {
    let m1 = ClusterSize::from_sectors(2048).unwrap();
    let k32 = ClusterSize::from_sectors(64).unwrap();
    assert_eq!((bat_clusters_for(262_128, m1), bat_clusters_for(262_129, m1)), (1, 2));
    assert_eq!((bat_clusters_for(8176, k32), bat_clusters_for(8177, k32)), (1, 2));
    assert_eq!(bat_clusters_for(20_000, k32), 3);
    assert_eq!((bat_pages_for(1008), bat_pages_for(1009)), (1, 2));
    assert_eq!((entries_for(Sector(64), k32), entries_for(Sector(65), k32)), (1, 2));
}

#[test]
fn the_largest_image_can_be_mapped_whole() {
    for cluster in all_clusters() {
        for version in [Version::V1, Version::V2] {
            let max = max_size(version, cluster);
            let header = Header::new(version, cluster, max).unwrap();
            assert_eq!(header.size(), max);
            let last = header.preallocated_entry(header.entries() - 1).unwrap();
            assert!(last < u32::MAX);
            assert_eq!(header.preallocated_entry(header.entries()), None);
            let bounds = header.bounds(header.preallocated_len());
            assert!(bounds.classify(last).unwrap().is_some());
            // One cluster more could not be.
            let more = Sector(max.0 + 1);
            let (size, max, sectors) = (more.0, max.0, cluster.sectors());
            let error = FormatError::TooLarge { size, max, cluster: sectors, version };
            assert_eq!(Header::new(version, cluster, more), Err(error));
            let next = header.data_start() + header.covered().bytes();
            let entry = version.entry(Sector(next / SECTOR), cluster);
            let grows = bat_clusters_for(header.entries() + 1, cluster) > header.bat_clusters();
            assert!(entry.is_none() || grows || header.entries() == MAX_V2_ENTRIES);
        }
    }
}

#[test]
fn limits_are_said() {
    let m1 = ClusterSize::from_sectors(2048).unwrap();
    let error = Header::new(Version::V1, m1, Sector(3 << 31)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "6442450944 sectors are more than a v1 image with clusters of 2048 sectors can hold: \
         4294948864"
    );
    assert_eq!(Header::new(Version::V2, m1, Sector(0)), Err(FormatError::ZeroSize));
    assert_eq!(round_size(Version::V2, m1, Sector(1)), Ok(Sector(2048)));
    assert_eq!(round_size(Version::V2, m1, Sector(4096)), Ok(Sector(4096)));
    assert!(round_size(Version::V2, m1, Sector(u64::MAX)).is_err());
}

#[test]
fn preallocated_as_the_original() {
    let k32 = ClusterSize::from_sectors(64).unwrap();
    let v2 = Header::new(Version::V2, k32, Sector(16_384)).unwrap();
    assert_eq!(v2.preallocated_len(), 8_421_376);
    assert_eq!((v2.preallocated_entry(0), v2.preallocated_entry(255)), (Some(1), Some(256)));
    let v1 = Header::new(Version::V1, k32, Sector(16_384)).unwrap();
    assert_eq!((v1.preallocated_entry(0), v1.preallocated_entry(1)), (Some(64), Some(128)));
}
