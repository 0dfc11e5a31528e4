//! What a FUSE worker's thread touches before it serves (D7).
//!
//! fuser starts these threads, so the first request on each of them does it. A worker that touched
//! new memory later could wait for write-back into the file that it serves itself.

use std::cell::Cell;

/// For the callbacks of all requests the kernel has in flight, several times over.
const HEAP: usize = 512 << 10;

thread_local! {
    static READY: Cell<bool> = const { Cell::new(false) };
}

/// To be called first in every request that matters.
pub(crate) fn ready() {
    if !READY.replace(true) {
        ploop_io::touch_thread(HEAP);
    }
}
