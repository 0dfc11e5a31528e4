//! The top's sync slot: one sync in flight per file, whoever asks for it (F5).
//!
//! A queue that finds nothing dirty takes the slot for a FLUSH of its own and meets no other
//! thread. The keeper says that it wants the slot before it tries; from then on no queue takes it,
//! and the queue that gives it back wakes the keeper.

use crate::sync::{AtomicBool, Ordering, fence};
use ploop_io::planted::{Bug, on};

/// Who may sync, and whether anything but data waits for it.
#[derive(Debug)]
pub struct SyncSlot {
    taken: AtomicBool,
    wanted: AtomicBool,
    /// Changes of the map are not durable: only the keeper can answer a FLUSH.
    dirty: AtomicBool,
}

impl Default for SyncSlot {
    fn default() -> Self {
        Self {
            taken: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
        }
    }
}

impl SyncSlot {
    /// The keeper: a change of the map is made, and not durable. Called before its cell is set.
    pub fn mark_dirty(&self) {
        self.dirty.store(true, Ordering::SeqCst);
    }

    /// The keeper: every change is durable.
    pub fn mark_clean(&self) {
        self.dirty.store(false, Ordering::SeqCst);
    }

    /// Whether changes of the map wait to become durable.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::SeqCst)
    }

    /// A queue takes the slot for a FLUSH: nothing is dirty, and nobody else has or wants it.
    #[must_use]
    pub fn take_for_flush(&self) -> bool {
        let clean = !self.is_dirty() || on(Bug::FlushPastDirty);
        clean && !self.wanted.load(Ordering::SeqCst) && self.take()
    }

    /// The keeper takes the slot; when it cannot, it is woken as soon as it can.
    #[must_use]
    pub fn take_or_want(&self) -> bool {
        self.wanted.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let taken = self.take();
        if taken {
            self.wanted.store(false, Ordering::SeqCst);
        }
        taken
    }

    fn take(&self) -> bool {
        self.taken.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Gives the slot back. Returns whether the keeper must be woken.
    #[must_use]
    pub fn give_back(&self) -> bool {
        self.taken.store(false, Ordering::SeqCst);
        // The keeper says so, then tries; this gives back, then looks: one of them sees the other.
        fence(Ordering::SeqCst);
        self.wanted.load(Ordering::SeqCst)
    }
}
