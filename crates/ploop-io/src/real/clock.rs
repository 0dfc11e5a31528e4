//! The host's clocks and its random bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::{Clock, Entropy};

/// `CLOCK_MONOTONIC` and the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    #[expect(clippy::cast_sign_loss, reason = "monotonic time since boot is not negative")]
    fn now(&self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    fn wall(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }
}

/// `getrandom`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealEntropy;

impl Entropy for RealEntropy {
    fn fill(&self, buf: &mut [u8]) {
        let mut rest = buf;
        while !rest.is_empty() {
            // SAFETY: the buffer is `rest`.
            let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
            match usize::try_from(got) {
                Ok(n) => rest = &mut rest[n..],
                Err(_) if crate::sys::last_errno() == libc::EINTR => {}
                // No kernel that has io_uring or OFD locks lacks getrandom; a filter that forbids
                // it leaves no source of unique names, and going on would reuse them.
                Err(_) => {
                    tracing::error!(error = %std::io::Error::last_os_error(), "getrandom failed");
                    std::process::abort();
                }
            }
        }
    }
}
