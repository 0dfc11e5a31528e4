//! Elements of an extension behind a checksum that fits, or not: what is accepted lies inside the
//! file and comes back the same.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};
use ploop_format::{ClusterSize, Extension, ExtensionError, Header, Sector, Version};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Header: version, cluster, size, where the extension is, how long the file.
    v1: bool,
    log2: u8,
    size: u32,
    at: u32,
    len: u32,
    /// Whether magic and checksum are made to fit.
    fit: bool,
    elements: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let version = if input.v1 { Version::V1 } else { Version::V2 };
    // Clusters of 32 to 128 KiB: larger ones only make the checksum slow.
    let Some(cluster) = ClusterSize::from_sectors(64 << (input.log2 % 3)) else { return };
    let Ok(mut header) = Header::new(version, cluster, Sector(input.size.into())) else { return };
    header.close(false, Some(Sector(input.at.into())));
    let len = u64::from(input.len) << 9;
    if let Ok(Some(at)) = Extension::place(&header, len) {
        assert!(at.bytes() >= header.data_start() && at.bytes() + cluster.bytes() <= len);
    }

    let mut bytes = vec![0; cluster.bytes() as usize];
    let from = if input.fit { 24 } else { 0 };
    let have = input.elements.len().min(bytes.len() - from);
    bytes[from..from + have].copy_from_slice(&input.elements[..have]);
    if input.fit {
        bytes[..8].copy_from_slice(&ploop_format::extension::MAGIC.to_le_bytes());
        let sum: [u8; 16] = Md5::digest(&bytes[24..]).into();
        bytes[8..24].copy_from_slice(&sum);
    }
    let Ok(found) = Extension::parse(&bytes, &header, len) else { return };
    for at in found.bitmap.iter().flat_map(|bitmap| bitmap.clusters()) {
        assert!(at.bytes() >= header.data_start() && at.bytes() + cluster.bytes() <= len);
        assert!(at != header.extension_offset());
    }
    match found.encode(cluster) {
        Ok(again) => assert_eq!(Extension::parse(&again, &header, len), Ok(found)),
        // Elements end to end that fill the cluster take more room with padding.
        Err(error) => assert!(matches!(error, ExtensionError::Full { .. }), "{error}"),
    }
});
