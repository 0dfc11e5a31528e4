//! I8: a header change is one sector write; open and close write nothing else.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod crashing;
use crashing::*;
use ploop_io::OpKind;
use ploop_io::sim::Verdict;
use std::path::Path;
use std::sync::{Arc, Mutex};

#[test]
fn open_and_close_write_one_sector_each() {
    let world = with_disk();
    let writes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&writes);
    world.set_hook(Some(Box::new(move |attempt| {
        let data = matches!(attempt.kind, OpKind::Write | OpKind::WriteDsync);
        if data && attempt.path == Path::new(IMAGE) {
            seen.lock().unwrap().push((attempt.offset, attempt.len));
        }
        Verdict::Normal
    })));
    open_and_close(&world).unwrap();
    world.set_hook(None);
    let writes = writes.lock().unwrap().clone();
    assert_eq!(writes.len(), 2, "the mark, and the mark cleared: {writes:?}");
    let unit = u64::from(
        ploop_io::Dir::open(&world.dir(), Path::new(IMAGE), ploop_io::OpenHow::default())
            .unwrap()
            .caps()
            .offset_align,
    );
    for (offset, len) in writes {
        assert_eq!(offset, 0);
        assert!(len <= unit.max(512), "{len} bytes, the file takes {unit}");
    }
}
