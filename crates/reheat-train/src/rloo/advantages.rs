//! Rewards to advantages: how much better a completion is than the mean of the others of its prompt.
//!
//! Formulas are those of TRL 1.16 (`rloo_trainer.py`, `_generate_and_score_completions`), in f64.

use super::RlooConfig;
use crate::rollout::{Advantages, is_zero, mean, standard_deviation};

/// Added to a standard deviation before it divides (TRL 1.16).
const EPSILON: f64 = 1e-4;

/// Advantages of completions, of which `num_generations` in a row have one prompt: `r_i - Σ_{j≠i} r_j/(n-1)`, with `r`
/// the clipped reward less `beta·kl` (Ahmadian et al. 2024, Back to Basics, arXiv:2402.14740, section 3.2).
///
/// A completion that no reward judged (`None`) has an advantage of 0 and is no part of any mean. `kls` are summed
/// log-ratios of each completion to the reference, in nats; 0 without one.
///
/// ```
/// use reheat_train::{RlooConfig, leave_one_out_advantages};
///
/// let rewards = [Some(1.0), Some(0.0), Some(0.5), Some(0.0)];
/// let advantages = leave_one_out_advantages(&rewards, &[0.0; 4], 4, &RlooConfig::default());
/// assert!((advantages.values[0] - 5.0 / 6.0).abs() < 1e-9);
/// ```
pub fn leave_one_out_advantages(
    rewards: &[Option<f64>],
    kls: &[f64],
    num_generations: usize,
    config: &RlooConfig,
) -> Advantages {
    let rewards: Vec<Option<f64>> =
        rewards.iter().zip(kls).map(|(reward, kl)| Some(config.clipped((*reward)?) - config.beta * kl)).collect();
    let (mut values, mut num_zero) = (Vec::with_capacity(rewards.len()), 0);
    for group in rewards.chunks(num_generations) {
        let (sum, count) = (group.iter().flatten().sum::<f64>(), group.iter().flatten().count());
        num_zero += if is_zero(standard_deviation(group)) { group.len() } else { 0 };
        values.extend(group.iter().map(|reward| {
            let reward = (*reward)?;
            // Alone in its group, it has nothing to be compared with.
            (count > 1).then(|| reward - (sum - reward) / (count - 1) as f64)
        }));
    }
    if config.normalize_advantages {
        let (mean, std) = (mean(&values), standard_deviation(&values));
        for value in &mut values {
            *value = (|| Some(((*value)? - mean?) / (std? + EPSILON)))();
        }
    }
    Advantages::new(values, num_zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked by hand: of [4, 1, -] each is compared with the other; of [-, 2, -] there is no other.
    #[test]
    fn a_completion_is_compared_with_those_that_were_judged() {
        let rewards = [Some(4.0), Some(1.0), None, None, Some(2.0), None];
        let config = RlooConfig { beta: 0.5, ..RlooConfig::default() };
        let advantages = leave_one_out_advantages(&rewards, &[2.0, 0.0, 9.0, 9.0, 9.0, 9.0], 3, &config);
        assert_eq!(advantages.values, [2.0, -2.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn rewards_are_clipped_and_advantages_normalised() {
        let rewards = [Some(10.0), Some(0.0), Some(0.5), Some(0.5)];
        let config = RlooConfig { reward_clip_range: Some(vec![0.0, 1.0]), ..RlooConfig::default() };
        let advantages = leave_one_out_advantages(&rewards, &[0.0; 4], 2, &config);
        assert_eq!((advantages.values, advantages.frac_reward_zero_std), (vec![1.0, -1.0, 0.0, 0.0], 0.5));
        let config = RlooConfig { normalize_advantages: true, ..config };
        let advantages = leave_one_out_advantages(&rewards, &[0.0; 4], 2, &config);
        // The deviation of [1, -1, 0, 0] by n - 1.
        let expected = 1.0 / ((2.0f64 / 3.0).sqrt() + EPSILON);
        assert_eq!(advantages.values, [expected, -expected, 0.0, 0.0]);
    }
}
