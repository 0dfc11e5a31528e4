//! Buffers of the engine. Out of memory ends the process as a panic does (F27): nothing that was
//! acknowledged by a flush is lost by that.

use ploop_io::AlignedBuf;
use std::alloc::{Layout, handle_alloc_error};

/// A zeroed, page-aligned buffer.
#[must_use]
pub fn buffer(len: usize) -> AlignedBuf {
    AlignedBuf::new(len).unwrap_or_else(|_| {
        let layout = Layout::from_size_align(len, ploop_io::PAGE);
        handle_alloc_error(layout.unwrap_or(Layout::new::<u8>()))
    })
}
