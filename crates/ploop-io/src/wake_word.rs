//! The word that says whether a thread sleeps.
//!
//! A message pushed before `notify` is never slept over: either the sender sees `ASLEEP` and rings
//! the bell, or the sleeper sees `NOTIFIED` and does not sleep. Modelled in `tests/loom_wake.rs`.

#[cfg(feature = "loom")]
use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicU32, Ordering, fence};

const AWAKE: u32 = 0;
const NOTIFIED: u32 = 1;
const ASLEEP: u32 = 2;

/// One thread's word.
#[derive(Debug)]
pub struct WakeWord {
    state: AtomicU32,
}

impl WakeWord {
    /// Awake.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "the model's atomics have no default")]
    pub fn new() -> Self {
        Self { state: AtomicU32::new(AWAKE) }
    }

    /// The owner is about to sleep; it looks at its inbox after this. `false`: it was notified, and
    /// must not sleep.
    pub fn announce(&self) -> bool {
        let (seq, word) = (Ordering::SeqCst, &self.state);
        let slept = word.compare_exchange(AWAKE, ASLEEP, seq, seq).is_ok();
        // The loads of the inbox stay behind the announcement.
        fence(seq);
        slept
    }

    /// The owner is awake again; takes the notification with it.
    pub fn awake(&self) {
        self.state.swap(AWAKE, Ordering::SeqCst);
    }

    /// After a message was pushed. `true`: the owner sleeps, ring its bell.
    #[must_use]
    pub fn notify(&self) -> bool {
        self.state.swap(NOTIFIED, Ordering::SeqCst) == ASLEEP
    }
}
