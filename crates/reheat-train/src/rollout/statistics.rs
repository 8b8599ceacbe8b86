//! Means and deviations of numbers of which some are missing.

/// The weighted sum of what there is; `None` where there is nothing.
pub(crate) fn weighted_sum(values: &[Option<f64>], weights: &[f64]) -> Option<f64> {
    let terms = values.iter().zip(weights).filter_map(|(value, weight)| Some((*value)? * weight));
    terms.reduce(|sum, term| sum + term)
}

/// The mean of what there is.
pub(crate) fn mean(values: &[Option<f64>]) -> Option<f64> {
    let count = values.iter().flatten().count();
    (count > 0).then(|| values.iter().flatten().sum::<f64>() / count as f64)
}

/// The standard deviation of what there is, by `n - 1`; one number has none.
pub(crate) fn standard_deviation(values: &[Option<f64>]) -> Option<f64> {
    let count = values.iter().flatten().count();
    if count < 2 {
        return None;
    }
    let mean = mean(values)?;
    let squares: f64 = values.iter().flatten().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (count - 1) as f64).sqrt())
}

/// Whether a deviation is only what rounding leaves (`torch.isclose` to 0).
pub(crate) fn is_zero(std: Option<f64>) -> bool {
    std.is_some_and(|std| std <= 1e-8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_no_zero() {
        let values = [Some(1.0), None, Some(3.0)];
        assert_eq!((mean(&values), standard_deviation(&values)), (Some(2.0), Some(2f64.sqrt())));
        assert_eq!((mean(&[None]), standard_deviation(&[Some(1.0), None])), (None, None));
        assert_eq!(weighted_sum(&values, &[1.0, 5.0, 0.5]), Some(2.5));
        assert_eq!(weighted_sum(&[None, None], &[1.0, 1.0]), None);
        assert!(is_zero(standard_deviation(&[Some(0.1); 7])) && !is_zero(None));
    }
}
