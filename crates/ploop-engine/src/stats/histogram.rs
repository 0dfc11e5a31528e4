//! Durations in buckets: octaves of four, so that a bucket's end is at most a quarter above
//! whatever fell into it.

use super::Counter;

/// Everything below `1 << FIRST` ns shares the first bucket.
const FIRST: u32 = 10;
/// Everything from `1 << LAST` ns on shares the last bucket.
const LAST: u32 = 37;
/// An octave has `1 << SUB` buckets.
const SUB: u32 = 2;

/// Buckets: below 1.024 us, 27 octaves of four, 137 s and more.
pub const BUCKETS: usize = 2 + (((LAST - FIRST) as usize) << SUB);

/// The bucket of a duration.
#[must_use]
#[inline]
pub const fn bucket_of(nanos: u64) -> usize {
    if nanos < 1 << FIRST {
        return 0;
    }
    if nanos >= 1 << LAST {
        return BUCKETS - 1;
    }
    let octave = nanos.ilog2();
    let part = (nanos >> (octave - SUB)) & ((1 << SUB) - 1);
    1 + (((octave - FIRST) as usize) << SUB) + part as usize
}

/// The first duration, in ns, that is too long for a bucket; `None` for the last one.
#[must_use]
pub const fn bucket_end(bucket: usize) -> Option<u64> {
    if bucket == 0 {
        return Some(1 << FIRST);
    }
    if bucket >= BUCKETS - 1 {
        return None;
    }
    let octave = FIRST + ((bucket - 1) >> SUB) as u32;
    let part = (bucket - 1) as u64 & ((1 << SUB) - 1);
    Some((1 << octave) + ((part + 1) << (octave - SUB)))
}

/// Durations, counted by bucket.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
    max: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            sum: Counter::default(),
            max: Counter::default(),
        }
    }
}

impl Histogram {
    /// Counts a duration in ns; the owner's thread only.
    #[inline]
    pub fn record(&self, nanos: u64) {
        self.buckets[bucket_of(nanos)].add(1);
        self.sum.add(nanos);
        self.max.raise(nanos);
    }

    /// How many fell into each bucket.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(Counter::get)
    }

    /// Sum of all durations in ns.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// The longest duration in ns.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_join_without_gap_or_overlap() {
        assert_eq!(BUCKETS, 110);
        let mut start = 0;
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(start), bucket, "its first duration, {start} ns");
            let Some(end) = bucket_end(bucket) else {
                assert_eq!(bucket, BUCKETS - 1);
                assert_eq!(bucket_of(u64::MAX), bucket);
                break;
            };
            assert!(end > start);
            assert_eq!(bucket_of(end - 1), bucket, "its last duration, {} ns", end - 1);
            start = end;
        }
        assert_eq!(start, 1 << 37, "137 s");
    }

    #[test]
    fn a_bucket_is_at_most_a_quarter_wide() {
        for bucket in 1..BUCKETS - 1 {
            let start = bucket_end(bucket - 1).unwrap();
            let end = bucket_end(bucket).unwrap();
            assert!((end - start) * 4 <= start, "bucket {bucket}: {start}..{end}");
        }
    }

    #[test]
    fn what_is_recorded_is_there() {
        let histogram = Histogram::default();
        for nanos in [0, 1023, 1024, 5_000_000, u64::MAX >> 8] {
            histogram.record(nanos);
        }
        let counts: Vec<u64> = histogram.counts().collect();
        assert_eq!(counts.iter().sum::<u64>(), 5);
        assert_eq!((counts[0], counts[1], counts[BUCKETS - 1]), (2, 1, 1));
        assert_eq!(counts[bucket_of(5_000_000)], 1);
        assert_eq!(histogram.max(), u64::MAX >> 8);
        assert_eq!(histogram.sum(), 1023 + 1024 + 5_000_000 + (u64::MAX >> 8));
    }
}
