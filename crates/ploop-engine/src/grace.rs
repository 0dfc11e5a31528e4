//! In-flight protection: no I/O reaches a file cluster after it was freed (I11, F8, F9).
//!
//! A queue registers one I/O of one piece *before* it reads the cell. The keeper changes the cell,
//! then waits a grace period: until everything registered before the change has left. Both sides
//! store first and load after a full fence, so one of them always sees the other (Dekker).
//!
//! The counters come in pairs chosen by the parity of an epoch, so that a grace period ends under
//! load: newcomers use the other counter. A grace period drains both, one after the other: a
//! queue may have read the epoch before a flip and counted itself after it.

use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};
use crossbeam_utils::CachePadded;

/// Counters of all queues.
pub struct Grace {
    epoch: CachePadded<AtomicU64>,
    waiting: CachePadded<AtomicBool>,
    lanes: Box<[CachePadded<Lane>]>,
}

struct Lane {
    inside: [AtomicU64; 2],
}

/// Proof of a registration; goes back to [`Grace::leave`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Ticket(u8);

/// A grace period in progress, held by the keeper.
#[derive(Debug)]
pub struct Period {
    draining: u8,
    second: bool,
}

impl Grace {
    /// Counters for `lanes` queues.
    #[must_use]
    pub fn new(lanes: usize) -> Self {
        let lane = || CachePadded::new(Lane { inside: [AtomicU64::new(0), AtomicU64::new(0)] });
        Self {
            epoch: CachePadded::new(AtomicU64::new(0)),
            waiting: CachePadded::new(AtomicBool::new(false)),
            lanes: (0..lanes).map(|_| lane()).collect(),
        }
    }

    /// Registers one I/O; the cell is read after this. Only `lane`'s own thread calls it.
    pub fn enter(&self, lane: usize) -> Ticket {
        let parity = (self.epoch.load(Ordering::Relaxed) & 1) as u8;
        let counter = &self.lanes[lane].inside[parity as usize];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ticket(parity)
    }

    /// The I/O has completed, or the piece waits for something else (F8). Returns whether the
    /// keeper waits for a grace period that this may have ended: then wake it.
    #[must_use]
    pub fn leave(&self, lane: usize, ticket: Ticket) -> bool {
        let counter = &self.lanes[lane].inside[ticket.0 as usize];
        let left = counter.load(Ordering::Relaxed) - 1;
        counter.store(left, Ordering::Release);
        fence(Ordering::SeqCst);
        left == 0 && self.waiting.load(Ordering::Relaxed)
    }

    /// Starts a grace period, after the keeper has changed the cells. One at a time.
    pub fn begin(&self) -> Period {
        self.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Period { draining: self.flip(), second: false }
    }

    /// Whether the period is over. When not, a queue's `leave` will ask for a wake.
    #[must_use]
    pub fn poll(&self, period: &mut Period) -> bool {
        loop {
            fence(Ordering::SeqCst);
            let parity = period.draining as usize;
            if self.lanes.iter().any(|l| l.inside[parity].load(Ordering::Acquire) != 0) {
                return false;
            }
            if period.second {
                self.waiting.store(false, Ordering::Relaxed);
                return true;
            }
            *period = Period { draining: self.flip(), second: true };
        }
    }

    /// Sends newcomers to the other counter; returns the parity to drain.
    fn flip(&self) -> u8 {
        let old = self.epoch.load(Ordering::Relaxed);
        self.epoch.store(old + 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        (old & 1) as u8
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn a_period_waits_for_those_inside_and_not_for_newcomers() {
        let grace = Grace::new(2);
        let early = grace.enter(0);
        let mut period = grace.begin();
        assert!(!grace.poll(&mut period));
        let late = grace.enter(1);
        assert!(!grace.poll(&mut period));
        assert!(grace.leave(0, early));
        // `late` came after the flip: the first half is over, the second drains it.
        assert!(!grace.poll(&mut period));
        let later = grace.enter(0);
        assert!(grace.leave(1, late));
        assert!(grace.poll(&mut period), "newcomers do not hold the period");
        assert!(!grace.leave(0, later));
    }

    #[test]
    fn a_straggler_with_an_old_parity_is_waited_for() {
        let grace = Grace::new(1);
        let mut first = grace.begin();
        assert!(grace.poll(&mut first));
        // As if the queue had read the epoch long ago.
        let stale = Ticket(((grace.epoch.load(Ordering::Relaxed) + 1) & 1) as u8);
        grace.lanes[0].inside[stale.0 as usize].store(1, Ordering::Relaxed);
        let mut second = grace.begin();
        assert!(!grace.poll(&mut second));
        assert!(grace.leave(0, stale));
        assert!(grace.poll(&mut second));
    }
}
