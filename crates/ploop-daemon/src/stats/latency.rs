//! What a histogram says: percentiles, and what came between two readings of it.

use super::types::{Bucket, Latency};

impl Latency {
    /// From buckets in order, the sum of all durations and the longest.
    #[must_use]
    pub fn new(buckets: Vec<Bucket>, sum_ns: u64, max_ns: u64) -> Self {
        let count = buckets.iter().map(|bucket| bucket.count).sum();
        let at = |per_mille| percentile(&buckets, count, per_mille).min(max_ns);
        let (p50_ns, p99_ns, p999_ns) = (at(500), at(990), at(999));
        Self { count, sum_ns, p50_ns, p99_ns, p999_ns, max_ns, buckets }
    }

    /// The mean; 0 when there is none.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }

    /// What came after an earlier reading. The longest of an interval is not recorded: unless it is
    /// the longest of all, it is the end of its bucket.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |below: Option<u64>| {
            earlier.buckets.iter().find(|b| b.below_ns == below).map_or(0, |b| b.count)
        };
        let buckets: Vec<Bucket> = self
            .buckets
            .iter()
            .map(|b| Bucket { count: b.count.saturating_sub(before(b.below_ns)), ..*b })
            .filter(|b| b.count > 0)
            .collect();
        let end = buckets.last().map_or(0, |last| last.below_ns.unwrap_or(u64::MAX));
        let max_ns = if self.max_ns > earlier.max_ns { self.max_ns } else { end.min(self.max_ns) };
        Self::new(buckets, self.sum_ns.saturating_sub(earlier.sum_ns), max_ns)
    }
}

/// The end of the bucket in which the n-th of `count` durations lies, n rounded up.
fn percentile(buckets: &[Bucket], count: u64, per_mille: u64) -> u64 {
    let rank = u128::from(count) * u128::from(per_mille);
    let rank = u64::try_from(rank.div_ceil(1000)).unwrap_or(u64::MAX).max(1);
    let mut seen = 0;
    for bucket in buckets {
        seen += bucket.count;
        if seen >= rank {
            return bucket.below_ns.unwrap_or(u64::MAX);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(counts: &[(u64, u64)]) -> Vec<Bucket> {
        let bucket = |&(below, count): &(u64, u64)| Bucket { below_ns: Some(below), count };
        counts.iter().map(bucket).collect()
    }

    #[test]
    fn nothing_has_no_percentiles() {
        assert_eq!(Latency::new(vec![], 0, 0), Latency::default());
        assert_eq!(Latency::default().mean_ns(), 0);
    }

    #[test]
    fn one_duration_is_every_percentile() {
        let one = Latency::new(buckets(&[(2000, 1)]), 1800, 1800);
        assert_eq!((one.count, one.p50_ns, one.p99_ns, one.p999_ns), (1, 1800, 1800, 1800));
    }

    #[test]
    fn percentiles_are_the_ends_of_their_buckets() {
        let all = Latency::new(buckets(&[(10, 500), (20, 490), (40, 9), (80, 1)]), 9_000, 77);
        assert_eq!((all.count, all.mean_ns()), (1000, 9));
        assert_eq!((all.p50_ns, all.p99_ns, all.p999_ns, all.max_ns), (10, 20, 40, 77));
        let more = Latency::new(buckets(&[(10, 500), (20, 490), (40, 9), (80, 2)]), 9_000, 77);
        // 1001 * 0.5 rounds up to the 501st, 1001 * 0.99 to the 991st, 1001 * 0.999 to the 1000th.
        assert_eq!((more.p50_ns, more.p99_ns, more.p999_ns), (20, 40, 77));
    }

    #[test]
    fn the_last_bucket_has_no_end_but_the_longest() {
        let long = Latency::new(vec![Bucket { below_ns: None, count: 3 }], 900, 400);
        assert_eq!((long.p50_ns, long.max_ns), (400, 400));
    }

    #[test]
    fn an_interval_is_the_difference() {
        let first = Latency::new(buckets(&[(10, 5), (40, 1)]), 80, 33);
        let second = Latency::new(buckets(&[(10, 5), (20, 4), (40, 2)]), 170, 38);
        let between = second.since(&first);
        assert_eq!((between.count, between.sum_ns), (5, 90));
        assert_eq!(between.buckets, buckets(&[(20, 4), (40, 1)]));
        assert_eq!((between.p50_ns, between.max_ns), (20, 38));
        let third = Latency::new(buckets(&[(10, 5), (20, 5), (40, 2)]), 185, 38);
        assert_eq!(third.since(&second).max_ns, 20, "its bucket's end");
        assert_eq!(third.since(&third), Latency::default());
    }
}
