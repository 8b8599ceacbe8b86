//! Rewards to advantages: how much better a completion is than the others of its prompt.
//!
//! Formulas are those of TRL 1.16 (`grpo_trainer.py`, `_generate_and_score_completions`), in f64. A completion that no
//! reward judged has an advantage of 0 and is no part of any mean.

use super::{GrpoConfig, MultiObjectiveAggregation, ScaleRewards};
use crate::rollout::{Advantages, is_zero, mean, standard_deviation, weighted_sum};

/// Added to a standard deviation before it divides (TRL 1.16).
const EPSILON: f64 = 1e-4;

/// Advantages of completions, of which `num_generations` in a row have one prompt.
///
/// `rewards[completion][reward]` is `None` where a reward had nothing to say, and `weights` has one for each reward.
///
/// ```
/// use reheat_train::{GrpoConfig, group_advantages};
///
/// let rewards = [1.0, 0.0, 0.5, 0.0].map(|reward| vec![Some(reward)]);
/// let advantages = group_advantages(&rewards, &[1.0], 4, &GrpoConfig::default());
/// assert!((advantages.values[0] - 1.30531).abs() < 1e-5);
/// ```
pub fn group_advantages(
    rewards: &[Vec<Option<f64>>],
    weights: &[f64],
    num_generations: usize,
    config: &GrpoConfig,
) -> Advantages {
    match config.multi_objective_aggregation {
        MultiObjectiveAggregation::SumThenNormalize => {
            let sums: Vec<_> = rewards.iter().map(|rewards| weighted_sum(rewards, weights)).collect();
            sum_then_normalize(&sums, num_generations, config.scale_rewards)
        }
        MultiObjectiveAggregation::NormalizeThenSum => normalize_then_sum(rewards, weights, num_generations),
    }
}

/// Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, section 4.1.2; without a scale as in Liu et al. 2025, Dr. GRPO,
/// arXiv:2503.20783; by batch as in Liu et al. 2025, Tricks or Traps?,
/// arXiv:2508.08221.
fn sum_then_normalize(rewards: &[Option<f64>], num_generations: usize, scale: ScaleRewards) -> Advantages {
    let of_batch = standard_deviation(rewards);
    let (mut values, mut num_zero) = (Vec::with_capacity(rewards.len()), 0);
    for group in rewards.chunks(num_generations) {
        let baseline = mean(group);
        let std = match scale {
            ScaleRewards::Group | ScaleRewards::None => standard_deviation(group),
            ScaleRewards::Batch => of_batch,
        };
        num_zero += if is_zero(std) { group.len() } else { 0 };
        values.extend(group.iter().map(|reward| {
            let advantage = (*reward)? - baseline?;
            match scale {
                ScaleRewards::None => Some(advantage),
                // One completion has no deviation.
                ScaleRewards::Group | ScaleRewards::Batch => Some(advantage / (std? + EPSILON)),
            }
        }));
    }
    Advantages::new(values, num_zero)
}

/// Liu et al. 2026, GDPO, arXiv:2601.05242.
fn normalize_then_sum(rewards: &[Vec<Option<f64>>], weights: &[f64], num_generations: usize) -> Advantages {
    let mut sums = Vec::with_capacity(rewards.len());
    for group in rewards.chunks(num_generations) {
        let normalized: Vec<Vec<Option<f64>>> = (0..weights.len())
            .map(|reward| {
                let column: Vec<Option<f64>> = group.iter().map(|rewards| rewards[reward]).collect();
                let (mean, std) = (mean(&column), standard_deviation(&column));
                column.iter().map(|reward| Some(((*reward)? - mean?) / (std? + EPSILON))).collect()
            })
            .collect();
        sums.extend(group.iter().enumerate().map(|(row, rewards)| {
            // What one reward could not compare counts as 0, as long as any reward judged the completion.
            rewards.iter().flatten().next()?;
            let terms = normalized.iter().zip(weights).filter_map(|(column, weight)| Some(column[row]? * weight));
            Some(terms.sum())
        }));
    }
    let (mean, std) = (mean(&sums), standard_deviation(&sums));
    let num_zero = if is_zero(std) { sums.len() } else { 0 };
    let values = sums.iter().map(|sum| Some(((*sum)? - mean?) / (std? + EPSILON))).collect();
    Advantages::new(values, num_zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(rewards: &[f64]) -> Vec<Vec<Option<f64>>> {
        rewards.iter().map(|reward| vec![Some(*reward)]).collect()
    }

    fn config(scale_rewards: ScaleRewards) -> GrpoConfig {
        GrpoConfig { scale_rewards, ..GrpoConfig::default() }
    }

    fn assert_advantages(advantages: &Advantages, expected: &[f64], share: f64) {
        for (ours, expected) in advantages.values.iter().zip(expected) {
            // The expected values were printed with six digits.
            assert!((ours - expected).abs() < 1e-6, "{advantages:?}");
        }
        assert_eq!((advantages.values.len(), advantages.frac_reward_zero_std), (expected.len(), share));
    }

    /// Values of TRL 1.16's trainer: two groups of four.
    #[test]
    fn rewards_are_scaled_by_group_by_batch_or_not_at_all() {
        let rewards = columns(&[1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 1.0, 0.0]);
        let group = group_advantages(&rewards, &[1.0], 4, &config(ScaleRewards::Group));
        let expected = [1.30531, -0.783186, 0.261062, -0.783186, -0.865875, 0.865875, 0.865875, -0.865875];
        assert_advantages(&group, &expected, 0.0);
        let batch = group_advantages(&rewards, &[1.0], 4, &config(ScaleRewards::Batch));
        let expected = [1.261058, -0.756635, 0.252212, -0.756635, -1.008846, 1.008846, 1.008846, -1.008846];
        assert_advantages(&batch, &expected, 0.0);
        let plain = group_advantages(&rewards, &[1.0], 4, &config(ScaleRewards::None));
        assert_advantages(&plain, &[0.625, -0.375, 0.125, -0.375, -0.5, 0.5, 0.5, -0.5], 0.0);
    }

    #[test]
    fn a_group_of_equal_rewards_teaches_nothing() {
        let rewards = columns(&[1.0, 1.0, 1.0, 1.0, 0.2, 0.0, 0.0, 1.0]);
        let advantages = group_advantages(&rewards, &[1.0], 4, &GrpoConfig::default());
        assert_advantages(&advantages, &[0.0, 0.0, 0.0, 0.0, -0.209998, -0.629994, -0.629994, 1.469985], 0.5);
    }

    /// Worked by hand: of [1, -, 3, 2] the mean is 2 and the deviation 1; the one judged completion of the second group
    /// has nobody to be compared with.
    #[test]
    fn a_completion_that_nobody_judged_is_no_part_of_the_mean() {
        let rewards: Vec<Vec<Option<f64>>> =
            [Some(1.0), None, Some(3.0), Some(2.0), None, Some(5.0), None, None].map(|reward| vec![reward]).into();
        let one = 1.0 / (1.0 + EPSILON);
        let advantages = group_advantages(&rewards, &[1.0], 4, &GrpoConfig::default());
        assert_advantages(&advantages, &[-one, 0.0, one, 0.0, 0.0, 0.0, 0.0, 0.0], 0.0);
        let none = group_advantages(&vec![vec![None, None]; 4], &[1.0, 1.0], 4, &GrpoConfig::default());
        assert_advantages(&none, &[0.0; 4], 0.0);
    }

    #[test]
    fn normalised_rewards_do_not_depend_on_their_units() {
        let rewards: Vec<Vec<Option<f64>>> =
            (0..8).map(|row| vec![Some(f64::from(row * row % 5)), Some(f64::from(row * 3 % 4))]).collect();
        let mut larger = rewards.clone();
        for row in &mut larger {
            row[0] = row[0].map(|reward| 1e6 * reward - 5.0);
        }
        let config = GrpoConfig {
            multi_objective_aggregation: MultiObjectiveAggregation::NormalizeThenSum,
            ..GrpoConfig::default()
        };
        let of = |rewards: &[Vec<Option<f64>>]| group_advantages(rewards, &[1.0, 0.5], 4, &config);
        let (one, other) = (of(&rewards), of(&larger));
        for (one, other) in one.values.iter().zip(&other.values) {
            // As far as EPSILON beside a deviation of about 1.
            assert!((one - other).abs() < 1e-3, "{one} {other}");
        }
        assert!(one.values.iter().sum::<f64>().abs() < 1e-9);
    }
}
