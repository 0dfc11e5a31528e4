//! Latencies in log-linear buckets: within 1/64 of the truth, no allocation after the start.

/// Bits of a value that are kept.
const KEPT: u32 = 6;
const LINEAR: usize = 1 << KEPT;
const BUCKETS: usize = (64 - KEPT as usize + 1) * LINEAR;

/// Counts of nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

fn bucket(value: u64) -> usize {
    let bits = 64 - value.leading_zeros();
    let shift = bits.saturating_sub(KEPT + 1);
    shift as usize * LINEAR + usize::try_from(value >> shift).unwrap_or(0)
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    if bucket < 2 * LINEAR {
        return bucket as u64;
    }
    let shift = bucket / LINEAR - 1;
    let low = ((bucket - shift * LINEAR) as u64) << shift;
    low + (1 << shift) / 2
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// Counts all of another.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest, exactly.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that `per_mille` of all do not exceed.
    #[must_use]
    pub fn percentile(&self, per_mille: u64) -> u64 {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return middle(at).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Histogram, bucket, middle};

    #[test]
    fn buckets_are_near_the_truth() {
        for value in [0, 1, 63, 64, 127, 128, 129, 1000, 123_456, 1 << 40, u64::MAX / 3] {
            let near = middle(bucket(value));
            assert!(near.abs_diff(value) <= value / 64, "{value}: {near}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn percentiles_of_a_line() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|n| histogram.add(n * 1000));
        assert!(histogram.percentile(500).abs_diff(5_000_000) < 100_000);
        assert!(histogram.percentile(999).abs_diff(9_990_000) < 200_000);
        assert_eq!(histogram.max(), 10_000_000);
        assert_eq!(histogram.percentile(1000), 10_000_000);
        assert_eq!(Histogram::default().percentile(500), 0);
    }
}
