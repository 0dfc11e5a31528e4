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
    keep_heap();
    // Two calls: pages that are there are locked now; the large, mostly empty ranges reserved
    // later (the map of a 16 TiB disk) are locked page by page as they are touched.
    mlockall(MlockAllFlags::CURRENT)
        .and_then(|()| mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT))
        .map_err(|error| format!("memory is not locked: {error}"))
}

/// What was touched stays: the allocator gives nothing back that is freed between two requests.
fn keep_heap() {
    const KEPT: libc::c_int = 64 << 20;
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator.
    if unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT) } != 1 {
        tracing::debug!("the allocator may give touched memory back");
    }
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

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_there_is_locked_and_what_comes_is_when_touched() {
        if let Err(why) = super::lock() {
            assert!(why.contains("not locked"), "{why}");
            ploop_e2e::skip("what_is_there_is_locked", &why);
            return;
        }
        let locked = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmLck")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        assert!(locked() > 1000, "{} KiB", locked());
        // 16 GiB that nobody touches cost nothing, a map of a large disk say.
        let large = Vec::<u8>::with_capacity(16 << 30);
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let resident: u64 = status.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(resident < (1 << 30) / 4096, "{resident} pages");
        drop(large);
    }
}
