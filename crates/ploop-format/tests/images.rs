//! The first page of images made by the original tool and by QEMU, good and damaged: the seeds of
//! the fuzz target `bat` (header, file length, page number, words).

#![allow(clippy::unwrap_used, reason = "a test")]

use ploop_format::{
    BadEntry, BatPage, BatPageView, EntryFault, FormatError, GuestCluster, Header, InUse, Sector,
    Version,
};

macro_rules! seed {
    ($name:literal) => {
        include_bytes!(concat!("../../../fuzz/seeds/bat/", $name)).as_slice()
    };
}

struct Image {
    header: Header,
    len: u64,
    page: Vec<u8>,
}

fn image(seed: &[u8]) -> Result<Image, FormatError> {
    let header = Header::parse(seed)?;
    let len = u64::from_le_bytes(seed[64..72].try_into().unwrap());
    let mut page = seed[76..].to_vec();
    page.resize(4096, 0);
    Ok(Image { header, len, page })
}

impl Image {
    fn mapped(&self) -> Result<Vec<(GuestCluster, u32, Sector)>, BadEntry> {
        let view = BatPageView::new(self.header.entries(), BatPage(0), &self.page).unwrap();
        assert_eq!(view.garbage(), 0);
        view.mapped(self.header.bounds(self.len)).collect()
    }
}

#[test]
fn good_images() {
    for (name, seed, version, entries, mapped) in [
        ("v1", seed!("v1"), Version::V1, 2048, None),
        ("v2", seed!("v2"), Version::V2, 64, None),
        ("prealloc", seed!("prealloc"), Version::V2, 256, Some(256)),
        ("qemu", seed!("qemu"), Version::V2, 64, Some(0)),
        ("grow-before", seed!("grow-before"), Version::V2, 8176, Some(3)),
        ("grow-after", seed!("grow-after"), Version::V2, 20_000, Some(3)),
        ("chain-top", seed!("chain-top"), Version::V2, 512, None),
        ("v21", seed!("v21"), Version::V2, 512, Some(4)),
        ("conversion", seed!("conversion"), Version::V2, 512, Some(4)),
        ("dup", seed!("dup"), Version::V2, 512, Some(4)),
    ] {
        let image = image(seed).unwrap();
        assert_eq!((image.header.version(), image.header.entries()), (version, entries), "{name}");
        let found = image.mapped().unwrap_or_else(|bad| panic!("{name}: {bad}"));
        let len = image.header.check_file_len(image.len).unwrap();
        assert_eq!(len.ragged, 0, "{name}");
        match mapped {
            Some(mapped) => assert_eq!(found.len(), mapped, "{name}"),
            // Other pages have entries too.
            None => assert!(!found.is_empty() && (found.len() as u64) < len.clusters, "{name}"),
        }
    }
}

#[test]
fn a_grow_moves_what_was_in_the_way() {
    let (before, after) =
        (image(seed!("grow-before")).unwrap(), image(seed!("grow-after")).unwrap());
    let grown = before.header.grown(after.header.size()).unwrap();
    assert_eq!(grown.encode(), after.header.encode());
    let places = |image: &Image| -> Vec<u64> {
        image.mapped().unwrap().iter().map(|(_, _, at)| at.0 / 64).collect()
    };
    assert_eq!((places(&before), places(&after)), (vec![1, 2, 3], vec![5, 6, 3]));
}

#[test]
fn states() {
    let v21 = image(seed!("v21")).unwrap().header;
    assert_eq!((v21.in_use(), v21.extension()), (InUse::ClosedV21, None));
    let conversion = image(seed!("conversion")).unwrap().header;
    assert_eq!(conversion.check_conversion(), Err(FormatError::ConversionInterrupted));
}

#[test]
fn damaged_images() {
    let header = |seed| image(seed).err().unwrap();
    assert_eq!(header(seed!("badcl")), FormatError::ClusterSize(63));
    assert_eq!(header(seed!("fb0")), FormatError::FirstBlock { first: 0, cluster: 64 });
    let entry = |seed| image(seed).unwrap().mapped().unwrap_err();
    let bad = entry(seed!("beyond-eof"));
    assert_eq!(bad.value, 200);
    assert!(matches!(bad.fault, EntryFault::PastEof { .. }), "{bad}");
    let bad = entry(seed!("points-hdr"));
    assert!(matches!(bad.fault, EntryFault::InsideBat { .. }), "{bad}");
    let bad = entry(seed!("misaligned"));
    assert_eq!(
        (bad.slot, bad.fault),
        (GuestCluster(3), EntryFault::Misaligned { at: Sector(257) })
    );
}
