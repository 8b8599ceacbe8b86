//! Advice from the numbers of a run, by ranges that others have published.

use std::fmt;

use crate::LogRow;

/// Gradient norms of healthy runs (axolotl, `docs/training_stability`, 2026).
const GRAD_NORM: (f64, f64) = (0.1, 10.0);
/// Steps in a row that a gradient norm has to be out of its range.
const STEPS_OUT_OF_RANGE: u64 = 5;
/// Learning rates above it are unusual for all weights of a model of real size: TRL's default is 2e-5, and published
/// recipes for full fine-tuning (Tülu 3, SmolLM2, Qwen2.5) stay at or below 1e-4.
const FULL_LEARNING_RATE: f64 = 1e-4;
/// Parameters from which on a model is of real size; tiny ones learn with higher rates.
const REAL_SIZE: u64 = 50_000_000;
/// Steps after which a loss should have fallen, beside those of the warm-up.
const STEPS_TO_FALL: u64 = 50;
/// Share of sequences that may be cut before it is worth a word.
const TRUNCATED: f64 = 0.2;

/// Share of rows that may have nothing to learn before it is worth a word.
const NOT_LEARNED: f64 = 0.1;

/// What became of the rows, in shares of them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowShares {
    /// Those that were cut.
    pub truncated: f64,
    /// Those without a token to learn.
    pub not_learned: f64,
}

/// One thing to know, with the number that it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Advice {
    /// The gradient is large for several steps.
    GradientLarge(f64),
    /// The gradient is small for several steps.
    GradientSmall(f64),
    /// The loss after some steps is not below that of the beginning.
    LossNotFalling {
        /// Mean of the first steps.
        first: f64,
        /// Mean of the last steps.
        last: f64,
    },
    /// The learning rate is unusual for training all weights.
    LearningRateHigh(f64),
    /// Many sequences were cut.
    Truncated(f64),
    /// Many rows have no token to learn.
    NothingLearned(f64),
    /// In so large a share of the groups all completions have one reward, for several steps.
    NoSignal(f64),
    /// So large a share of the completions is cut at the longest length, for several steps.
    NeverEnding(f64),
    /// The distribution of tokens, in nats, leaves nothing to choose from for several steps.
    EntropyCollapsed(f64),
    /// So large a share of ratios is clipped for several steps.
    Clipped(f64),
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GradientLarge(norm) => write!(
                f,
                "grad_norm is {norm:.1} and healthy runs stay below {}: a lower learning_rate or longer warm-up helps",
                GRAD_NORM.1
            ),
            Self::GradientSmall(norm) => write!(
                f,
                "grad_norm is {norm:.3} and healthy runs stay above {}: little is learned, the learning_rate may be too low or the data known",
                GRAD_NORM.0
            ),
            Self::LossNotFalling { first, last } => write!(
                f,
                "the loss is {last:.3} after {first:.3} at the beginning: it does not fall, look at the data with `reheat data preview` and at the learning_rate"
            ),
            Self::LearningRateHigh(rate) => write!(
                f,
                "learning_rate is {rate:e}, and full fine-tuning stays at or below {FULL_LEARNING_RATE:e} in published recipes"
            ),
            Self::Truncated(share) => write!(
                f,
                "{:.0}% of the sequences were cut at max_length: answers may never end, a larger max_length keeps them",
                100.0 * share
            ),
            Self::NothingLearned(share) => write!(
                f,
                "{:.0}% of the rows have no token to learn: `reheat data preview` shows what is trained; does the answer lie beyond max_length, or the template not tell what the assistant says?",
                100.0 * share
            ),
            Self::NoSignal(share) => write!(
                f,
                "in {:.0}% of the groups all completions have the same reward, and nothing is learned from those: other prompts, a reward that tells them apart, more num_generations or a higher temperature help",
                100.0 * share
            ),
            Self::NeverEnding(share) => write!(
                f,
                "{:.0}% of the completions are cut at max_completion_length: a larger one, a soft_overlong reward, or mask_truncated_completions helps; does the model know its end token?",
                100.0 * share
            ),
            Self::EntropyCollapsed(entropy) => write!(
                f,
                "the entropy is {entropy:.3} nats per token: completions of a prompt are nearly the same, so that none is better; a lower learning_rate, beta above 0, or entropy_coef keeps variety"
            ),
            Self::Clipped(share) => write!(
                f,
                "{:.0}% of the ratios are clipped: the policy is far from the one that wrote the completions, a lower learning_rate or fewer num_iterations helps",
                100.0 * share
            ),
        }
    }
}

/// What a metric of completions has to be for several steps in a row before it is worth a word: name, bound, whether
/// above or below it, and the word.
type Lasting = (&'static str, f64, fn(f64, f64) -> bool, fn(f64) -> Advice);

/// Bounds of TRL's metrics. The share of groups without a signal is what DAPO's dynamic sampling is about (Yu et al.
/// 2025, arXiv:2503.14476, section 3.2), which is worth it from about half of them on; entropies of policies that still
/// learn stay above a few hundredths (Cui et al. 2025, The Entropy Mechanism, arXiv:2505.22617).
const LASTING: [Lasting; 4] = [
    ("frac_reward_zero_std", 0.8, |value, bound| value > bound, Advice::NoSignal),
    ("completions/clipped_ratio", 0.8, |value, bound| value > bound, Advice::NeverEnding),
    ("entropy", 0.02, |value, bound| value < bound, Advice::EntropyCollapsed),
    ("clip_ratio/region_mean", 0.3, |value, bound| value > bound, Advice::Clipped),
];

/// Watches a run and says each thing once.
#[derive(Debug, Clone, Default)]
pub struct Health {
    said: Vec<std::mem::Discriminant<Advice>>,
    large: u64,
    small: u64,
    /// Whether the run learns from its own completions: then its loss need not fall, and a step without a signal has no
    /// gradient.
    judges: bool,
    /// Steps in a row that each of [`LASTING`] was out of its bound.
    lasting: [u64; LASTING.len()],
    /// The first [`STEPS_TO_FALL`] losses, then the newest as many.
    first: Vec<f64>,
    last: std::collections::VecDeque<f64>,
    /// Steps of rising learning rate.
    warmup: u64,
    learning_rate: f64,
}

impl Health {
    /// A watch that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known before the first step: parameters of the model, whether all are trained, the peak learning rate, and
    /// the share of sequences that were cut.
    pub fn before(
        &mut self,
        num_parameters: u64,
        trains_all: bool,
        learning_rate: f64,
        shares: RowShares,
    ) -> Vec<Advice> {
        let mut advice = Vec::new();
        if trains_all && num_parameters >= REAL_SIZE && learning_rate > FULL_LEARNING_RATE {
            advice.push(Advice::LearningRateHigh(learning_rate));
        }
        if shares.truncated > TRUNCATED {
            advice.push(Advice::Truncated(shares.truncated));
        }
        if shares.not_learned > NOT_LEARNED {
            advice.push(Advice::NothingLearned(shares.not_learned));
        }
        self.once(advice)
    }

    /// What the row of a step tells.
    pub fn step(&mut self, row: &LogRow) -> Vec<Advice> {
        let mut advice = Vec::new();
        self.large = if row.grad_norm > GRAD_NORM.1 { self.large + 1 } else { 0 };
        self.small = if row.grad_norm < GRAD_NORM.0 { self.small + 1 } else { 0 };
        if self.large >= STEPS_OUT_OF_RANGE {
            advice.push(Advice::GradientLarge(row.grad_norm));
        }
        self.judges |= row.metric("frac_reward_zero_std").is_some();
        if self.small >= STEPS_OUT_OF_RANGE && !self.judges {
            advice.push(Advice::GradientSmall(row.grad_norm));
        }
        if row.learning_rate > self.learning_rate {
            self.warmup = row.step;
        }
        self.learning_rate = row.learning_rate;
        if self.judges {
            advice.extend(self.lasting(row));
        } else {
            advice.extend(self.falls(row));
        }
        self.once(advice)
    }

    /// What is wrong with completions, where it lasts.
    fn lasting(&mut self, row: &LogRow) -> Vec<Advice> {
        let mut advice = Vec::new();
        for ((name, bound, is_out, word), steps) in LASTING.into_iter().zip(&mut self.lasting) {
            // A step without new completions tells nothing of them.
            let Some(value) = row.metric(name) else { continue };
            *steps = if is_out(value, bound) { *steps + 1 } else { 0 };
            if *steps >= STEPS_OUT_OF_RANGE {
                advice.push(word(value));
            }
        }
        advice
    }

    fn falls(&mut self, row: &LogRow) -> Option<Advice> {
        let steps = STEPS_TO_FALL as usize;
        if self.first.len() < steps {
            self.first.push(row.loss);
            return None;
        }
        self.last.push_back(row.loss);
        if self.last.len() > steps {
            self.last.pop_front();
        }
        if self.last.len() < steps || row.step < self.warmup + STEPS_TO_FALL {
            return None;
        }
        let mean = |sum: f64| sum / steps as f64;
        let (first, last) = (mean(self.first.iter().sum()), mean(self.last.iter().sum()));
        (last >= first).then_some(Advice::LossNotFalling { first, last })
    }

    fn once(&mut self, mut advice: Vec<Advice>) -> Vec<Advice> {
        advice.retain(|one| !self.said.contains(&std::mem::discriminant(one)));
        self.said.extend(advice.iter().map(std::mem::discriminant));
        advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, loss: f64, grad_norm: f64) -> LogRow {
        LogRow {
            step,
            loss,
            grad_norm,
            learning_rate: 1e-5,
            metrics: std::collections::BTreeMap::new(),
            num_tokens: 0,
            epoch: 0.0,
            tokens_per_second: 0.0,
        }
    }

    #[test]
    fn a_large_gradient_is_told_once_and_only_when_it_lasts() {
        let mut health = Health::new();
        let said: Vec<_> = (1..=20)
            .flat_map(|step| health.step(&row(step, 1.0 / step as f64, if step == 3 { 50.0 } else { 1.0 })))
            .collect();
        assert_eq!(said, []);
        let said: Vec<_> = (21..=40).flat_map(|step| health.step(&row(step, 1.0 / step as f64, 14.25))).collect();
        assert_eq!(said, [Advice::GradientLarge(14.25)]);
        assert!(said[0].to_string().starts_with("grad_norm is 14.2 and healthy runs stay below 10"));
    }

    #[test]
    fn a_loss_that_does_not_fall_is_told() {
        let mut health = Health::new();
        let said: Vec<_> = (1..=300).flat_map(|step| health.step(&row(step, 2.0, 1.0))).collect();
        assert_eq!(said, [Advice::LossNotFalling { first: 2.0, last: 2.0 }]);
        let mut health = Health::new();
        let falling: Vec<_> = (1..=300).flat_map(|step| health.step(&row(step, 2.0 / step as f64, 1.0))).collect();
        assert_eq!(falling, []);
    }

    #[test]
    fn completions_without_a_signal_are_told_when_it_lasts() {
        let mut health = Health::new();
        let mut said = Vec::new();
        for step in 1..=200 {
            let share = if step == 3 { 0.5 } else { 1.0 };
            let metrics = [("frac_reward_zero_std", share), ("completions/clipped_ratio", 0.1)];
            let metrics = metrics.map(|(name, value)| (name.to_owned(), value)).into();
            said.extend(
                health.step(&LogRow { metrics, ..row(step, 0.0, 0.0) }).into_iter().map(|advice| (step, advice)),
            );
        }
        // A loss of 0 and a gradient of 0 follow from it, and are not told.
        assert_eq!(said, [(8, Advice::NoSignal(1.0))]);
        assert!(said[0].1.to_string().starts_with("in 100% of the groups all completions have the same reward"));
    }

    #[test]
    fn the_learning_rate_is_high_for_large_models_alone() {
        let none = RowShares::default();
        assert_eq!(Health::new().before(500_000_000, true, 1e-3, none), [Advice::LearningRateHigh(1e-3)]);
        assert_eq!(Health::new().before(500_000_000, false, 1e-3, none), []);
        assert_eq!(Health::new().before(800_000, true, 1e-3, none), []);
        let half = RowShares { truncated: 0.5, not_learned: 0.25 };
        assert_eq!(Health::new().before(0, false, 0.0, half), [Advice::Truncated(0.5), Advice::NothingLearned(0.25)]);
    }
}
