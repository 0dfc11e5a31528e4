//! Who writes where: shared for whole blocks, exclusive for a read-modify-write.
//!
//! A read-modify-write of a block would put back what a whole-block write has just replaced, or
//! what a neighbour changed in the same block. So every write, discard and zeroing holds its range
//! of blocks here while it is in flight: those of whole blocks beside each other, a
//! read-modify-write alone. Nobody blocks: who must wait is told later. The lock is held for a
//! look at a few numbers.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a range is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hold {
    /// Beside other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

/// Who wants a range: a request of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    pub(crate) queue: usize,
    pub(crate) slot: u32,
}

#[derive(Clone, Copy)]
struct Range {
    holder: Holder,
    start: u64,
    end: u64,
    hold: Hold,
}

impl Range {
    fn excludes(&self, other: &Self) -> bool {
        let apart = self.end <= other.start || other.end <= self.start;
        !apart && (self.hold == Hold::Exclusive || other.hold == Hold::Exclusive)
    }
}

#[derive(Default)]
struct State {
    held: Vec<Range>,
    waiting: VecDeque<Range>,
}

/// The ranges of one file.
#[derive(Default)]
pub(crate) struct Ranges {
    state: Mutex<State>,
}

impl Ranges {
    /// Whether the holder has the range now; if not, [`Ranges::release`] names it later. First
    /// come, first served among ranges that exclude each other. One range for a holder.
    pub(crate) fn acquire(&self, holder: Holder, start: u64, end: u64, hold: Hold) -> bool {
        let range = Range { holder, start, end, hold };
        let mut state = self.lock();
        let blocked = state.held.iter().any(|held| held.excludes(&range))
            || state.waiting.iter().any(|waiting| waiting.excludes(&range));
        if blocked {
            state.waiting.push_back(range);
        } else {
            state.held.push(range);
        }
        !blocked
    }

    /// Gives a range back; `go` is told who has one now.
    pub(crate) fn release(&self, holder: Holder, mut go: impl FnMut(Holder)) {
        let mut state = self.lock();
        if let Some(at) = state.held.iter().position(|range| range.holder == holder) {
            state.held.swap_remove(at);
        }
        if state.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut state.waiting);
        let mut ready = Vec::new();
        for range in waiting {
            let blocked = state.held.iter().any(|held| held.excludes(&range))
                || state.waiting.iter().any(|earlier| earlier.excludes(&range));
            if blocked {
                state.waiting.push_back(range);
            } else {
                state.held.push(range);
                ready.push(range.holder);
            }
        }
        drop(state);
        ready.into_iter().for_each(&mut go);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(slot: u32) -> Holder {
        Holder { queue: 0, slot }
    }

    fn release(ranges: &Ranges, slot: u32) -> Vec<u32> {
        let mut told = Vec::new();
        ranges.release(who(slot), |holder| told.push(holder.slot));
        told
    }

    #[test]
    fn shared_beside_each_other_exclusive_alone() {
        let ranges = Ranges::default();
        assert!(ranges.acquire(who(1), 0, 8, Hold::Shared));
        assert!(ranges.acquire(who(2), 4, 12, Hold::Shared));
        assert!(!ranges.acquire(who(3), 6, 7, Hold::Exclusive));
        assert!(ranges.acquire(who(4), 12, 13, Hold::Exclusive));
        assert_eq!(release(&ranges, 1), []);
        assert_eq!(release(&ranges, 2), [3]);
        assert_eq!(release(&ranges, 3), []);
        assert_eq!(release(&ranges, 4), []);
        assert!(ranges.lock().held.is_empty());
    }

    #[test]
    fn a_waiting_exclusive_is_not_overtaken() {
        let ranges = Ranges::default();
        assert!(ranges.acquire(who(1), 0, 8, Hold::Shared));
        assert!(!ranges.acquire(who(2), 0, 4, Hold::Exclusive));
        assert!(!ranges.acquire(who(3), 0, 1, Hold::Shared));
        assert!(ranges.acquire(who(4), 4, 8, Hold::Shared));
        assert_eq!(release(&ranges, 1), [2]);
        assert_eq!(release(&ranges, 2), [3]);
        release(&ranges, 3);
        release(&ranges, 4);
        assert!(ranges.lock().held.is_empty() && ranges.lock().waiting.is_empty());
    }
}
