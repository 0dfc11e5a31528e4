//! Keeping the data path alive while the host is short of memory (D7).
//!
//! The host's write-back may wait for this very process: then it must not wait for write-back.

use std::hint::black_box;
use std::io;

/// Stack touched beforehand.
const STACK: usize = 128 << 10;
/// One block of heap touched beforehand.
const BLOCK: usize = 64 << 10;

/// `PR_SET_IO_FLUSHER` of `linux/prctl.h` (since 5.6).
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that this thread serves a block device: its allocations do not wait for
/// write-back. Threads started by it inherit this.
///
/// # Errors
/// A sentence for the log; serving goes on.
pub fn protect_thread() -> Result<(), String> {
    // SAFETY: a plain prctl without memory.
    let ret = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1usize, 0usize, 0usize, 0usize) };
    if ret == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(format!(
        "PR_SET_IO_FLUSHER was refused ({error}): without CAP_SYS_RESOURCE a host short of memory \
         that writes to its own ploop device can hang"
    ))
}

/// Touches memory that this thread will need while it serves: some of its stack, and `heap` bytes
/// of what the allocator keeps for it. Memory may be locked, but a page is there only once it was
/// touched, and touching it later may wait for write-back (D7).
pub fn touch_thread(heap: usize) {
    touch_stack();
    // Blocks small enough to come from the thread's own heap, and to go back there.
    let blocks: Vec<_> = (0..heap.div_ceil(BLOCK)).map(|_| vec![1_u8; BLOCK]).collect();
    black_box(&blocks);
}

#[inline(never)]
fn touch_stack() {
    let mut bytes = [1_u8; STACK];
    black_box(&mut bytes);
}
