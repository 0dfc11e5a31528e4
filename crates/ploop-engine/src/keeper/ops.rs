//! The keeper's operations in flight, by token.

use ploop_format::{BatPage, GuestCluster};
use std::ops::Range;

/// What an operation of the keeper belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Task {
    /// A level's copy of a BAT page.
    Load(BatPage, usize),
    /// A level's part of the window that is read ahead.
    Ahead,
    /// A write of so many BAT pages from this one on.
    Pages(BatPage, u64),
    /// The sync with this number, of this level.
    Sync(u64, u8),
    /// A step of a copy-up.
    Copy(GuestCluster),
    /// A step of a run of patches, by its number.
    Patch(GuestCluster, u64),
    /// Extension of a piece's top: blocks, then length.
    Extend(usize),
    /// Space of the level under a piece's top.
    Below(usize),
    /// Cleaning of file clusters of a piece's top.
    Clean(usize, Range<u64>),
}

/// Slots of operations.
#[derive(Default)]
pub(super) struct Tasks {
    slots: Vec<Option<Task>>,
    free: Vec<usize>,
}

impl Tasks {
    /// A token for a task.
    pub fn add(&mut self, task: Task) -> u64 {
        match self.free.pop() {
            Some(n) => {
                self.slots[n] = Some(task);
                n as u64
            }
            None => {
                self.slots.push(Some(task));
                self.slots.len() as u64 - 1
            }
        }
    }

    /// The task of a token that completed.
    pub fn take(&mut self, token: u64) -> Option<Task> {
        let n = usize::try_from(token).ok()?;
        let task = self.slots.get_mut(n)?.take()?;
        self.free.push(n);
        Some(task)
    }

    /// Nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}
