//! Any bytes as a header: no panic, and what is accepted keeps its promises.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ploop_format::{Header, Sector, geometry};

fuzz_target!(|data: &[u8]| {
    let Ok(header) = Header::parse(data) else { return };
    assert_eq!(header.encode()[..], data[..64]);
    assert!(header.size() <= header.covered());
    assert!(header.data_start() >= header.bat_bytes());
    let needed = geometry::bat_clusters_for(header.entries(), header.cluster());
    assert!(needed <= header.bat_clusters());

    let (numbers, _) = data[64..].as_chunks::<8>();
    for number in numbers.iter().map(|n| u64::from_le_bytes(*n)).take(4) {
        if let Ok(parts) = header.check_file_len(number) {
            assert!(parts.ragged < header.cluster().bytes() || parts.clusters == 0);
        }
        if let Ok(grown) = header.grown(Sector(number)) {
            assert!(grown.size().0 >= number && grown.size() >= header.size());
            assert!(grown.data_start() >= header.data_start());
            assert_eq!(Header::parse(&grown.encode()), Ok(grown));
        }
    }

    let mut closed = header;
    closed.stamp();
    assert!(closed.in_use().is_in_use() && closed.extension().is_none());
    closed.close(header.claims_empty(), header.extension());
    assert_eq!(Header::parse(&closed.encode()), Ok(closed));
});
