//! The keeper's counters.

use super::{Counter, Histogram};

/// The keeper's counters.
#[derive(Debug, Default)]
pub struct KeeperStats {
    /// Clusters allocated.
    pub allocated: Counter,
    /// Copy-ups done.
    pub copied_up: Counter,
    /// Copy-ups under way, now.
    pub copying: Counter,
    /// Clusters unmapped.
    pub unmapped: Counter,
    /// BAT pages read, ahead or on first touch.
    pub pages_loaded: Counter,
    /// Writes of BAT pages.
    pub pages_written: Counter,
    /// Changes of entries that needed no page write of their own: one was to come.
    pub changes_joined: Counter,
    /// BAT pages that are not durable now.
    pub dirty_pages: Counter,
    /// The most there were at the end of a turn.
    pub dirty_pages_max: Counter,
    /// Syncs of the top.
    pub syncs: Counter,
    /// How long they took.
    pub sync_latency: Histogram,
    /// Flushes answered.
    pub flushes: Counter,
    /// FLUSH and FUA waiters answered together, by a sync or a synchronous page write.
    pub sync_batches: Batches,
    /// Clusters in quarantine or being cleaned, now.
    pub quarantine: Counter,
    /// Clean clusters ready, now.
    pub clean: Counter,
    /// Times the top was made longer.
    pub extensions: Counter,
    /// By how many clusters.
    pub extended: Counter,
    /// Clusters cut off again, because nobody took them (P10).
    pub given_back: Counter,
    /// Times the host had no space, not even for one cluster.
    pub extensions_refused: Counter,
}

/// Buckets of [`Batches`]: sizes 1, 2, 3-4, 5-8, ..., 65-128, more.
pub const BATCH_BUCKETS: usize = 9;

/// The largest size in a bucket of [`Batches`]; `None` for the last one.
#[must_use]
pub const fn batch_end(bucket: usize) -> Option<u64> {
    if bucket + 1 < BATCH_BUCKETS { Some(1 << bucket) } else { None }
}

/// Sizes of groups that were answered together.
#[derive(Debug, Default)]
pub struct Batches {
    buckets: [Counter; BATCH_BUCKETS],
    sum: Counter,
    max: Counter,
}

impl Batches {
    /// Counts a group; the owner's thread only.
    pub fn record(&self, size: u64) {
        if size == 0 {
            return;
        }
        let bucket = size.next_power_of_two().ilog2() as usize;
        self.buckets[bucket.min(BATCH_BUCKETS - 1)].add(1);
        self.sum.add(size);
        self.max.raise(size);
    }

    /// How many groups fell into each bucket.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(Counter::get)
    }

    /// Everybody in all groups.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// The largest group.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_fall_where_their_bucket_says() {
        for size in 1..=300u64 {
            let batches = Batches::default();
            batches.record(size);
            let bucket = batches.counts().position(|count| count == 1).unwrap();
            assert!(batch_end(bucket).is_none_or(|end| size <= end), "{size}");
            assert!(bucket == 0 || batch_end(bucket - 1).unwrap() < size, "{size}");
            assert_eq!((batches.sum(), batches.max()), (size, size));
        }
        let none = Batches::default();
        none.record(0);
        assert_eq!(none.counts().sum::<u64>(), 0);
    }
}
