//! Counters of a queue and of the keeper: written by one thread, read by anybody.

use crate::front::Operation;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; the owner's thread only.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets; the owner's thread only.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Kinds of request counted, in the order of [`QueueStats::requests`].
pub const OPERATIONS: [&str; 6] = ["read", "write", "flush", "discard", "write_zeroes", "extents"];

/// Index of an operation in [`OPERATIONS`].
#[must_use]
pub const fn operation_index(operation: Operation) -> usize {
    match operation {
        Operation::Read => 0,
        Operation::Write => 1,
        Operation::Flush => 2,
        Operation::Discard => 3,
        Operation::WriteZeroes => 4,
        Operation::Extents => 5,
    }
}

/// One queue's counters.
#[derive(Debug, Default)]
pub struct QueueStats {
    /// Requests ended, by operation.
    pub requests: [Counter; 6],
    /// Bytes of ended requests, by operation.
    pub bytes: [Counter; 6],
    /// Requests that ended with an error.
    pub errors: Counter,
    /// Requests in flight now.
    pub in_flight: Counter,
    /// Requests held because the host has no space, now.
    pub parked: Counter,
    /// Held requests that failed because the device stopped (T17).
    pub abandoned: Counter,
}

/// The keeper's counters.
#[derive(Debug, Default)]
pub struct KeeperStats {
    /// Clusters allocated.
    pub allocated: Counter,
    /// Copy-ups done.
    pub copied_up: Counter,
    /// Clusters unmapped.
    pub unmapped: Counter,
    /// BAT pages read.
    pub pages_loaded: Counter,
    /// BAT pages written.
    pub pages_written: Counter,
    /// BAT pages that are not durable now.
    pub dirty_pages: Counter,
    /// Syncs of the top.
    pub syncs: Counter,
    /// Flushes answered.
    pub flushes: Counter,
    /// Clusters in quarantine or being cleaned, now.
    pub quarantine: Counter,
    /// Clean clusters ready, now.
    pub clean: Counter,
}
