//! The weight of the entropy bonus, which may follow the entropy.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::GrpoConfig;

/// Weight of the bonus from step to step.
///
/// An adaptive weight rises while the entropy of a step is at or below its target and falls while it is above; the bonus
/// is off unless the step before was at or below it (Skywork-OR1; He et al. 2025, arXiv:2505.22312, section 4).
#[derive(Debug)]
pub(super) struct EntropyControl {
    /// Cells, since a method measures without being changed.
    coef: Cell<f64>,
    /// Mean entropy of the last step; infinite before the first.
    last: Cell<f64>,
    /// Sum and count over the step so far.
    window: Cell<(f64, f64)>,
}

impl EntropyControl {
    pub(super) fn new(config: &GrpoConfig) -> Self {
        Self { coef: Cell::new(config.entropy_coef), last: Cell::new(f64::INFINITY), window: Cell::default() }
    }

    /// The weight that the present step has.
    pub(super) fn applied(&self, config: &GrpoConfig) -> f64 {
        let is_on = !config.use_adaptive_entropy || self.last.get() <= config.entropy_target;
        if is_on { self.coef.get() } else { 0.0 }
    }

    /// The weight before it is switched on or off.
    pub(super) fn coef(&self) -> f64 {
        self.coef.get()
    }

    /// Notes the entropies of a micro-batch; the last of a step changes the weight.
    pub(super) fn observe(&self, config: &GrpoConfig, sum: f64, count: f64, is_last: bool) {
        if !config.use_adaptive_entropy {
            return;
        }
        let (window_sum, window_count) = self.window.get();
        self.window.set((window_sum + sum, window_count + count));
        if !is_last {
            return;
        }
        let (sum, count) = self.window.take();
        let entropy = sum / count.max(1.0);
        let GrpoConfig { entropy_coef_delta: delta, entropy_coef_min: min, entropy_coef_max: max, .. } = *config;
        let coef = self.coef.get();
        self.coef.set(if entropy <= config.entropy_target { (coef + delta).min(max) } else { (coef - delta).max(min) });
        self.last.set(entropy);
    }

    /// What a resumed run needs.
    pub(super) fn state(&self, config: &GrpoConfig) -> Option<Value> {
        // JSON has no infinity; before the first step there is nothing to keep.
        (config.use_adaptive_entropy && self.last.get().is_finite())
            .then(|| json!({ "coef": self.coef.get(), "last": self.last.get() }))
    }

    pub(super) fn restore(&self, values: &mut Map<String, Value>, key: &str) -> Result<(), String> {
        let Some(saved) = values.remove(key) else { return Ok(()) };
        let number = |name: &str| saved[name].as_f64().ok_or_else(|| format!("`{key}.{name}` is no number"));
        self.coef.set(number("coef")?);
        self.last.set(number("last")?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_follows_the_entropy_of_whole_steps() {
        let config = GrpoConfig {
            use_adaptive_entropy: true,
            entropy_coef: 0.1,
            entropy_coef_delta: 0.05,
            entropy_coef_max: 0.15,
            entropy_target: 1.0,
            ..GrpoConfig::default()
        };
        let control = EntropyControl::new(&config);
        assert_eq!(control.applied(&config), 0.0);
        // Micro-batches of 3 tokens at 2 and 9 tokens at 0.5: a mean of 0.875.
        control.observe(&config, 6.0, 3.0, false);
        assert_eq!(control.coef(), 0.1);
        control.observe(&config, 4.5, 9.0, true);
        assert_eq!(control.applied(&config), 0.15);
        control.observe(&config, 0.0, 1.0, true);
        assert_eq!(control.applied(&config), 0.15);
        control.observe(&config, 2.0, 1.0, true);
        assert_eq!((control.applied(&config), (control.coef() * 1e6).round()), (0.0, 1e5));

        let resumed = EntropyControl::new(&config);
        let mut values = Map::new();
        values.insert("entropy".into(), control.state(&config).unwrap());
        resumed.restore(&mut values, "entropy").unwrap();
        assert_eq!((resumed.coef(), resumed.last.get()), (control.coef(), 2.0));
    }
}
