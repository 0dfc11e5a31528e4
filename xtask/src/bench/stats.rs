//! Medians and quartiles.

/// Median and quartiles of some numbers; `None` of none.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

pub fn spread(numbers: &[f64]) -> Option<Spread> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(Spread {
        lower: quantile(&sorted, 1)?,
        median: quantile(&sorted, 2)?,
        upper: quantile(&sorted, 3)?,
    })
}

/// The quarter-th quartile, between two numbers where it falls between them.
#[expect(clippy::cast_precision_loss, reason = "three quarters at most")]
fn quantile(sorted: &[f64], quarter: usize) -> Option<f64> {
    let at = quarter * sorted.len().checked_sub(1)?;
    let (low, part) = (at / 4, (at % 4) as f64 / 4.0);
    let high = (low + 1).min(sorted.len() - 1);
    Some(sorted[low] + (sorted[high] - sorted[low]) * part)
}

#[cfg(test)]
mod tests {
    use super::{Spread, spread};

    #[test]
    fn quartiles_of_a_few() {
        let five = spread(&[5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!(five, Some(Spread { lower: 2.0, median: 3.0, upper: 4.0 }));
        assert_eq!(spread(&[1.0, 2.0]).map(|s| s.median), Some(1.5));
        assert_eq!(spread(&[]), None);
    }
}
