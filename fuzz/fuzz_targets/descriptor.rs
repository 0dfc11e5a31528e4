//! Any bytes as a descriptor: what is read can be written, means the same when read again, and
//! takes every change or refuses it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ploop_format::{Descriptor, Guid};

fn again(descriptor: &Descriptor) -> Descriptor {
    let text = descriptor.to_xml().expect("what was read or changed can be written");
    // Escaping makes text longer: a document near the limit may pass it.
    match Descriptor::parse(text.as_bytes()) {
        Ok(read) => {
            assert_eq!(read.to_xml().expect("it was just read"), text);
            read
        }
        Err(ploop_format::DescriptorError::TooLong { .. }) => descriptor.clone(),
        Err(error) => panic!("{error}\n{text}"),
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(first) = Descriptor::parse(data) else { return };
    let chain = first.chain().expect("a checked tree has a chain");
    assert!(!chain.is_empty() && chain.len() <= first.images.len());
    let read = again(&first);
    assert_eq!(read.top, first.top);
    assert_eq!(read.size_sectors, first.size_sectors);
    assert_eq!(read.chain().expect("as before").len(), chain.len());

    let mut changed = first.clone();
    let name = |n: usize| format!("fuzzed <&> \"delta\".{n}.hds");
    let snapshot = Guid::from_random([7; 16]);
    if changed.in_pieces(|piece, n| piece.add_snapshot(snapshot, &name(n))).is_ok() {
        let read = again(&changed);
        assert_eq!(read.chain().expect("one more").len(), chain.len() + 1);
        let merged = changed.in_pieces(|piece, _| piece.merge_into_parent(piece.top));
        merged.expect("the new top is the only child");
        assert_eq!(again(&changed).chain().expect("as before").len(), chain.len());
    }
    for shot in first.shots.clone() {
        let mut changed = first.clone();
        if changed.in_pieces(|piece, _| piece.remove(shot.guid)).is_ok()
            || changed.in_pieces(|piece, _| piece.merge_into_parent(shot.guid)).is_ok()
        {
            again(&changed);
        }
    }
});
