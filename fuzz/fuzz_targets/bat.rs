//! A header, a file length, a page number and the words of that page: every entry that is accepted
//! lies inside the file, behind the BAT.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ploop_format::{BatPage, BatPageView, Header, entry_at};

fuzz_target!(|data: &[u8]| {
    let Ok(header) = Header::parse(data) else { return };
    let Some((numbers, words)) = data[64..].split_first_chunk::<12>() else { return };
    let len = u64::from_le_bytes(numbers[..8].try_into().unwrap());
    let page = u32::from_le_bytes(numbers[8..].try_into().unwrap());
    let mut bytes = [0u8; 4096];
    let have = words.len().min(4096);
    bytes[..have].copy_from_slice(&words[..have]);

    let page = BatPage(u64::from(page) % (header.bat_pages() + 1));
    let view = BatPageView::new(header.entries(), page, &bytes).unwrap();
    let bounds = header.bounds(len);
    let mut bad = 0;
    for (cluster, entry) in view.iter() {
        assert!(cluster.0 < header.entries());
        assert_eq!(cluster.slot().page, page);
        assert_eq!(view.entry(cluster), Some(entry));
        assert_eq!(entry_at(&bytes, cluster.slot().index), entry);
        match bounds.classify(entry) {
            Ok(Some(at)) => {
                assert!(at.bytes() >= header.data_start());
                assert!(at.bytes() + header.cluster().bytes() <= len);
                assert_eq!(header.version().position(entry, header.cluster()), at);
                assert!(bounds.file_cluster(entry).0 < bounds.whole_clusters());
            }
            Ok(None) => assert_eq!(entry, 0),
            Err(_) => bad += 1,
        }
    }
    assert_eq!(view.mapped(bounds).filter(Result::is_err).count(), bad);
    assert_eq!(view.check_entries(bounds).is_ok(), bad == 0);
    let _ = view.garbage();
});
