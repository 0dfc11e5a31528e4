//! Keeping the data path alive while the host is short of memory (D7).
//!
//! The host's write-back may wait for this very process: then it must not wait for write-back.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

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

/// Locks all present and future memory of the process.
///
/// Not tried under a finite `RLIMIT_MEMLOCK` without `CAP_IPC_LOCK`: it would succeed and make
/// later allocations fail.
///
/// # Errors
/// A sentence for the log; serving goes on.
pub fn lock_memory() -> Result<(), String> {
    let may = capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::IPC_LOCK));
    if !may && let Some(limit) = getrlimit(Resource::Memlock).current {
        return Err(format!(
            "memory is not locked: RLIMIT_MEMLOCK is {limit} bytes and CAP_IPC_LOCK is missing; \
             a host that swaps to its own ploop device can hang"
        ));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
        .map_err(|errno| format!("memory is not locked: mlockall was refused ({errno})"))
}
