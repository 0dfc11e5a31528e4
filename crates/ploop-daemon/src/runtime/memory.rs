//! Keeping the server alive when the host is short of memory (D7), and dead when it is broken
//! (F27).

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use std::sync::Once;

/// Locks what is mapped now, and from now on every page once it is touched.
///
/// # Errors
/// What could not be done, in words; serving goes on.
pub fn lock() -> Result<(), String> {
    let all = Rlimit { current: None, maximum: None };
    let capable =
        || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    let unlimited = setrlimit(Resource::Memlock, all).is_ok()
        || getrlimit(Resource::Memlock).current.is_none()
        || capable();
    if !unlimited {
        // With a limit, a locked future would make allocations fail later: worse than no lock.
        return Err(
            "memory is not locked (RLIMIT_MEMLOCK is finite and CAP_IPC_LOCK is missing): \
                    writing to this disk from this host may stall when memory is short"
                .to_owned(),
        );
    }
    // Two calls: pages that are there are locked now; the large, mostly empty ranges reserved
    // later (the map of a 16 TiB disk) are locked page by page as they are touched.
    mlockall(MlockAllFlags::CURRENT)
        .and_then(|()| mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT))
        .map_err(|error| format!("memory is not locked: {error}"))
}

/// From now on a panic in any thread ends the process (F27): a device that lost a thread must not
/// go on acknowledging. Opening again recovers (F2).
pub fn panic_is_abort() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            report(info);
            std::process::abort();
        }));
    });
}
