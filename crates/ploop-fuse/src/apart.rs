//! A thread with a table of descriptors of its own, for whatever touches our own block device.
//!
//! Such a call may wait for the device: its page cache is written out, its partitions are read. If
//! the process is killed meanwhile, that thread waits on, and with it everything in its table stays
//! open: in the common one that would be /dev/fuse, so that nobody is told that the server is gone,
//! and the wait never ends. With a table of its own it waits alone; the others close /dev/fuse.

use std::io;

/// Runs something on such a thread and waits for it. Whatever it needs it opens there: no
/// descriptor of the caller is open.
///
/// # Errors
/// There is no thread to be had, or no table.
pub fn apart<T: Send>(run: impl FnOnce() -> T + Send) -> io::Result<T> {
    let thread = || own_table().map(|()| run());
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("ploop-apart".to_owned());
        match builder.spawn_scoped(scope, thread)?.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Gives this thread an own table of descriptors, with standard input to error only.
pub(crate) fn own_table() -> io::Result<()> {
    const CLOSE_RANGE_UNSHARE: libc::c_uint = 2;
    // SAFETY: closes copies of descriptors, in a table that no other thread sees; this thread
    // owns none of them.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, u32::MAX, CLOSE_RANGE_UNSHARE)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
