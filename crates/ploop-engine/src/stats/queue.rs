//! One queue's counters.

use super::{Batches, CLASSES, ClassId, Counter, Histogram};
use crate::front::Operation;

/// Kinds of request counted, in the order of [`QueueStats::errors`].
pub const OPERATIONS: [&str; 7] =
    ["read", "write", "flush", "discard", "write_zeroes", "extents", "merge"];

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
        Operation::Merge => 6,
    }
}

/// Requests of one operation and route that ended well; the histogram has their number.
#[derive(Debug, Default)]
pub struct ClassStats {
    /// Bytes of their ranges.
    pub bytes: Counter,
    /// From the turn that took a request in to the turn that saw its last piece end.
    pub latency: Histogram,
}

/// One queue's counters.
#[derive(Debug, Default)]
pub struct QueueStats {
    /// Requests that ended well, in the order of [`CLASSES`].
    pub classes: [ClassStats; CLASSES.len()],
    /// Requests that ended with an error, by operation.
    pub errors: [Counter; OPERATIONS.len()],
    /// Requests in flight now.
    pub in_flight: Counter,
    /// Pieces of requests held because the host has no space, now.
    pub parked: Counter,
    /// Requests that were held at least once.
    pub held: Counter,
    /// Times the queue went from holding no request to holding one.
    pub full_episodes: Counter,
    /// Held requests that failed because the device stopped (T17).
    pub abandoned: Counter,
    /// Requests of which a part was written by read-modify-write (F19).
    pub rewritten: Counter,
    /// Syncs of the top that the queue began by itself.
    pub syncs: Counter,
    /// How long they took.
    pub sync_latency: Histogram,
    /// Flushes answered together by one of them.
    pub sync_batches: Batches,
}

impl QueueStats {
    /// A request ended well, `nanos` after it was taken in; the queue's thread only.
    #[inline]
    pub fn ended(&self, class: ClassId, bytes: u64, nanos: u64) {
        let class = &self.classes[class.index()];
        class.bytes.add(bytes);
        class.latency.record(nanos);
    }

    /// A request ended with an error; the queue's thread only.
    pub fn failed(&self, operation: Operation) {
        self.errors[operation_index(operation)].add(1);
    }
}
