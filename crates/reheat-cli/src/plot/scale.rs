//! Round numbers for axes.

/// An axis from `low` to `high`, both of them ticks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) step: f64,
}

impl Scale {
    /// The smallest axis with round ticks that holds all `values` and has about `ticks` intervals.
    pub(super) fn around(values: impl Iterator<Item = f64>, ticks: usize) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (0.0, 1.0); // nothing to draw
        }
        if high - low <= f64::EPSILON * high.abs() {
            let around = if high == 0.0 { 1.0 } else { high.abs() / 2.0 };
            (low, high) = (low - around, high + around);
        }
        let step = round_step((high - low) / ticks.max(1) as f64);
        // A bound that is a tick but for rounding stays one.
        Self { low: (low / step + 1e-9).floor() * step, high: (high / step - 1e-9).ceil() * step, step }
    }

    /// The axis that ends exactly at the data, for steps and tokens.
    pub(super) fn exact(values: impl Iterator<Item = f64>, ticks: usize) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        if low >= high || !low.is_finite() {
            return Self::around([low, high].into_iter().filter(|value| value.is_finite()), ticks);
        }
        Self { low, high, step: round_step((high - low) / ticks.max(1) as f64) }
    }

    /// The round values on the axis, ascending.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil();
        let last = (self.high / self.step + 1e-9).floor();
        let count = (last - first).max(0.0) as usize;
        (0..=count).map(|index| (first + index as f64) * self.step).collect()
    }

    /// Where `value` lies, from 0 to 1.
    pub(super) fn position(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// A tick's label with as many digits as tell it from its neighbours.
    pub(super) fn label(&self, value: f64) -> String {
        let value = if value.abs() < self.step * 1e-6 { 0.0 } else { value };
        let largest = self.low.abs().max(self.high.abs());
        if largest > 0.0 && !(1e-3..1e5).contains(&largest) {
            if value == 0.0 {
                return "0".to_owned();
            }
            let exponent = |number: f64| (number.log10() + 1e-9).floor();
            let digits = (exponent(value.abs()) - exponent(self.step)).max(0.0) as usize;
            return format!("{value:.digits$e}");
        }
        let digits = (-self.step.log10()).ceil().clamp(0.0, 6.0) as usize;
        format!("{value:.digits$}")
    }
}

/// 1, 2 or 5 times a power of ten, at least `raw`.
fn round_step(raw: f64) -> f64 {
    let magnitude = 10f64.powf(raw.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let factor = steps.into_iter().find(|factor| factor * magnitude >= raw * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_round_and_hold_the_data() {
        let scale = Scale::around([0.13, 3.91].into_iter(), 5);
        assert_eq!((scale.low, scale.high, scale.step), (0.0, 4.0, 1.0));
        assert_eq!(scale.ticks(), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(scale.label(2.0), "2");
    }

    #[test]
    fn small_numbers_keep_telling_digits() {
        let scale = Scale::around([0.0, 2e-5].into_iter(), 4);
        assert_eq!(
            scale.ticks().into_iter().map(|tick| scale.label(tick)).collect::<Vec<_>>(),
            ["0", "5e-6", "1.0e-5", "1.5e-5", "2.0e-5"]
        );
        let scale = Scale::around([0.501, 0.512].into_iter(), 4);
        assert_eq!(scale.label(scale.low), "0.500");
    }

    #[test]
    fn a_constant_and_nothing_have_an_axis() {
        for values in [vec![], vec![0.0], vec![3.0, 3.0], vec![-1.0]] {
            let scale = Scale::around(values.into_iter(), 4);
            assert!(scale.low < scale.high && scale.ticks().len() >= 2, "{scale:?}");
        }
    }
}
