//! Open-file-description locks: they belong to one description and go with it.

use crate::LockRange;

#[derive(Clone, Copy, Debug)]
struct Held {
    ino: u64,
    description: i32,
    start: u64,
    end: u64,
    exclusive: bool,
}

/// All locks of a world.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    held: Vec<Held>,
    flocks: Vec<(u64, i32)>,
}

/// A length of 0 means up to the end, as in `fcntl`.
fn end_of(range: LockRange) -> u64 {
    if range.len == 0 { u64::MAX } else { range.start.saturating_add(range.len) }
}

impl Locks {
    /// Whether another description stands in the way.
    pub(super) fn conflict(
        &self,
        ino: u64,
        description: i32,
        range: LockRange,
        exclusive: bool,
    ) -> bool {
        let end = end_of(range);
        self.held.iter().any(|h| {
            h.ino == ino
                && h.description != description
                && h.start < end
                && range.start < h.end
                && (exclusive || h.exclusive)
        })
    }

    /// Takes a lock nobody stands in the way of; replaces what the description had there.
    pub(super) fn take(&mut self, ino: u64, description: i32, range: LockRange, exclusive: bool) {
        self.release(ino, description, range);
        let end = end_of(range);
        self.held.push(Held { ino, description, start: range.start, end, exclusive });
    }

    /// Gives a range back; a lock that reaches over its edges keeps the rest.
    pub(super) fn release(&mut self, ino: u64, description: i32, range: LockRange) {
        let end = end_of(range);
        let mut kept = Vec::with_capacity(self.held.len() + 1);
        for h in self.held.drain(..) {
            let apart = h.ino != ino
                || h.description != description
                || h.end <= range.start
                || end <= h.start;
            if apart {
                kept.push(h);
                continue;
            }
            if h.start < range.start {
                kept.push(Held { end: range.start, ..h });
            }
            if end < h.end {
                kept.push(Held { start: end, ..h });
            }
        }
        self.held = kept;
    }

    /// `flock(LOCK_EX | LOCK_NB)`.
    pub(super) fn flock(&mut self, ino: u64, description: i32) -> bool {
        match self.flocks.iter().find(|(i, _)| *i == ino) {
            Some((_, owner)) => *owner == description,
            None => {
                self.flocks.push((ino, description));
                true
            }
        }
    }

    /// The description is closed.
    pub(super) fn close(&mut self, description: i32) {
        self.held.retain(|h| h.description != description);
        self.flocks.retain(|(_, owner)| *owner != description);
    }
}
