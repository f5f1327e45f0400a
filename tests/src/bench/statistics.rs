//! Order statistics, and the bootstrap interval of a median.

/// A value below which `percent` of the sorted values lie, nearest rank; none of nothing.
pub fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    // Lists of measurements are short: their lengths are exact in a float.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Sorts measurements; there is no NaN among them.
pub fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The median: the mean of the two in the middle when there are two.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some(f64::midpoint(sorted[middle - 1], upper)) }
}

/// The 95 % interval of the median of `values`: percentile bootstrap with as many resamples.
pub fn median_interval(values: &[f64], resamples: u32, seed: u64) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let resample = |random: &mut fastrand::Rng| {
        sorted((0..values.len()).map(|_| values[random.usize(..values.len())]).collect())
    };
    let medians: Vec<f64> = (0..resamples).filter_map(|_| median(&resample(&mut random))).collect();
    let medians = sorted(medians);
    Some((percentile(&medians, 2.5)?, percentile(&medians, 97.5)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_nearest() {
        let values = sorted((1..=20).map(f64::from).collect());
        assert_eq!(percentile(&values, 95.0), Some(19.0));
        assert_eq!(percentile(&values, 100.0), Some(20.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(median(&values), Some(10.5));
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!((median(&[]), percentile(&[], 50.0)), (None, None));
    }

    #[test]
    fn the_interval_holds_the_median_and_is_the_same_for_a_seed() {
        let values: Vec<f64> = (0..40).map(|at| 1.0 + f64::from(at % 7) / 100.0).collect();
        let interval = median_interval(&values, 2000, 7).unwrap();
        let middle = median(&sorted(values.clone())).unwrap();
        assert!(
            interval.0 <= middle && middle <= interval.1 && interval.1 - interval.0 < 0.04,
            "{interval:?}"
        );
        assert_eq!(Some(interval), median_interval(&values, 2000, 7));
    }
}
