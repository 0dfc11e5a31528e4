//! Who writes where: shared for whole blocks, exclusive for a read-modify-write.
//!
//! A read-modify-write of a block would put back what a whole-block write has just replaced, or
//! what a neighbour changed in the same block. So every write, discard and zeroing holds its range
//! of blocks here while it is in flight: those of whole blocks beside each other, a
//! read-modify-write alone. Nobody blocks: what must wait is called back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a range is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hold {
    /// Beside other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

type Go = Box<dyn FnOnce(Held) + Send>;

#[derive(Clone, Copy)]
struct Range {
    id: u64,
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
    next: u64,
    held: Vec<Range>,
    waiting: VecDeque<(Range, Go)>,
}

/// The ranges of one file.
#[derive(Default)]
pub(crate) struct Ranges {
    state: Mutex<State>,
}

/// A held range; released when dropped.
pub(crate) struct Held {
    ranges: Arc<Ranges>,
    id: u64,
}

impl Ranges {
    /// Calls `go` with the range held: now, or from the thread that releases the last obstacle.
    /// First come, first served among ranges that exclude each other.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        start: u64,
        end: u64,
        hold: Hold,
        go: impl FnOnce(Held) + Send + 'static,
    ) {
        let id = {
            let mut state = self.lock();
            let id = state.next;
            state.next += 1;
            let range = Range { id, start, end, hold };
            let blocked = state.held.iter().any(|held| held.excludes(&range))
                || state.waiting.iter().any(|(waiting, _)| waiting.excludes(&range));
            if blocked {
                state.waiting.push_back((range, Box::new(go)));
                return;
            }
            state.held.push(range);
            id
        };
        go(Held { ranges: Arc::clone(self), id });
    }

    fn release(self: &Arc<Self>, id: u64) {
        let ready = {
            let mut state = self.lock();
            if let Some(at) = state.held.iter().position(|range| range.id == id) {
                state.held.swap_remove(at);
            }
            if state.waiting.is_empty() {
                return;
            }
            let waiting = std::mem::take(&mut state.waiting);
            let mut ready = Vec::new();
            for (range, go) in waiting {
                let blocked = state.held.iter().any(|held| held.excludes(&range))
                    || state.waiting.iter().any(|(earlier, _)| earlier.excludes(&range));
                if blocked {
                    state.waiting.push_back((range, go));
                } else {
                    state.held.push(range);
                    ready.push((Held { ranges: Arc::clone(self), id: range.id }, go));
                }
            }
            ready
        };
        for (held, go) in ready {
            go(held);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ranges.release(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn ask(ranges: &Arc<Ranges>, start: u64, end: u64, hold: Hold) -> Receiver<Held> {
        let (sender, receiver) = channel();
        ranges.acquire(start, end, hold, move |held| sender.send(held).unwrap());
        receiver
    }

    #[test]
    fn shared_beside_each_other_exclusive_alone() {
        let ranges = Arc::new(Ranges::default());
        let a = ask(&ranges, 0, 8, Hold::Shared).try_recv().unwrap();
        let b = ask(&ranges, 4, 12, Hold::Shared).try_recv().unwrap();
        let exclusive = ask(&ranges, 6, 7, Hold::Exclusive);
        let apart = ask(&ranges, 12, 13, Hold::Exclusive).try_recv().unwrap();
        assert!(exclusive.try_recv().is_err());
        drop(a);
        assert!(exclusive.try_recv().is_err());
        drop(b);
        let held = exclusive.try_recv().unwrap();
        drop((held, apart));
        assert!(ranges.lock().held.is_empty());
    }

    #[test]
    fn a_waiting_exclusive_is_not_overtaken() {
        let ranges = Arc::new(Ranges::default());
        let first = ask(&ranges, 0, 8, Hold::Shared).try_recv().unwrap();
        let exclusive = ask(&ranges, 0, 4, Hold::Exclusive);
        let late = ask(&ranges, 0, 1, Hold::Shared);
        let beside = ask(&ranges, 4, 8, Hold::Shared).try_recv().unwrap();
        assert!(late.try_recv().is_err());
        drop(first);
        let held = exclusive.try_recv().unwrap();
        assert!(late.try_recv().is_err());
        drop(held);
        let late = late.try_recv().unwrap();
        drop((late, beside));
        assert!(ranges.lock().held.is_empty() && ranges.lock().waiting.is_empty());
    }
}
