use serde::Serialize;

/// How a quantity is spread over examples.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Spread {
    /// Number of values.
    pub count: u64,
    /// Their sum.
    pub total: u64,
    /// The smallest.
    pub min: u32,
    /// Their mean.
    pub mean: f64,
    /// Half of the values are at most this.
    pub median: u32,
    /// 90% of the values are at most this.
    pub p90: u32,
    /// 95% of the values are at most this.
    pub p95: u32,
    /// 99% of the values are at most this.
    pub p99: u32,
    /// The largest.
    pub max: u32,
}

impl Spread {
    /// The spread of some values, `None` if there are none.
    ///
    /// ```
    /// use reheat_data::Spread;
    ///
    /// let spread = Spread::of(&[4, 1, 3, 2]).unwrap();
    /// assert_eq!((spread.min, spread.median, spread.p90, spread.max, spread.mean), (1, 2, 4, 4, 2.5));
    /// ```
    #[must_use]
    pub fn of(values: &[u32]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let total = sorted.iter().map(|value| u64::from(*value)).sum();
        // The smallest value that so many percent of the values don't exceed.
        let percentile = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
        Some(Self {
            count: sorted.len() as u64,
            total,
            min,
            mean: total as f64 / sorted.len() as f64,
            median: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
            max,
        })
    }
}
