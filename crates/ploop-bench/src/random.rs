//! Random numbers at the cost of a few instructions.

/// xorshift64*.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that follow from the seed; streams of one seed are far apart.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        // splitmix64: neighbouring seeds give unlike states.
        let mut z = seed.wrapping_add(stream.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((z ^ (z >> 31)) | 1)
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `n`, without a division.
    pub fn below(&mut self, n: u64) -> u64 {
        let high = (u128::from(self.next()) * u128::from(n)) >> 64;
        u64::try_from(high).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn all_of_a_range_comes_up_about_equally_often() {
        let mut random = Random::new(1, 0);
        let mut seen = [0u32; 10];
        for _ in 0..100_000 {
            seen[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|n| (9_000..11_000).contains(n)), "{seen:?}");
        assert_ne!(Random::new(1, 0).next(), Random::new(1, 1).next());
    }
}
