//! Rewards of form and length.

use std::collections::HashSet;

use super::answer::is_correct;

/// The end of a model's thoughts.
const END_OF_THOUGHT: &str = "</think>";
const START_OF_THOUGHT: &str = "<think>";

/// Whether a text starts with thoughts in one pair of `<think>` tags (TRL 1.16, `think_format_reward`).
pub(super) fn has_think_format(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(START_OF_THOUGHT) else { return false };
    !rest.contains(START_OF_THOUGHT) && rest.contains(END_OF_THOUGHT)
}

/// What follows the thoughts; `None` where they never end.
pub(super) fn after_thoughts(text: &str) -> Option<&str> {
    text.rsplit_once(END_OF_THOUGHT).map(|(_thoughts, rest)| rest)
}

/// Penalty in proportion to the repeated n-grams (Yeo et al. 2025, arXiv:2502.03373, appendix C.2; TRL 1.16,
/// `get_repetition_penalty_reward`).
pub(super) fn repetition(ids: &[u32], ngram_size: usize, max_penalty: f64) -> f64 {
    if ids.len() < ngram_size {
        return 0.0;
    }
    let ngrams = ids.windows(ngram_size);
    let total = ngrams.len();
    let unique = ngrams.collect::<HashSet<_>>().len();
    let repeated = 1.0 - unique as f64 / total as f64;
    if repeated == 0.0 { 0.0 } else { repeated * max_penalty }
}

/// Penalty that grows over the last `soft_punish_cache` tokens before `max_completion_len`, and stays (Yu et al. 2025,
/// arXiv:2503.14476, equation 13; TRL 1.16, `get_soft_overlong_punishment`).
pub(super) fn soft_overlong(len: usize, max_completion_len: usize, soft_punish_cache: usize) -> f64 {
    let free = max_completion_len - soft_punish_cache;
    if len <= free {
        0.0
    } else if len <= max_completion_len {
        (free as f64 - len as f64) / soft_punish_cache as f64
    } else {
        -1.0
    }
}

/// Rewards between which a cosine of the length goes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CosineLength {
    pub(super) max_len: usize,
    pub(super) min_value_wrong: f64,
    pub(super) max_value_wrong: f64,
    pub(super) min_value_correct: f64,
    pub(super) max_value_correct: f64,
}

impl CosineLength {
    /// Correct answers are better short, wrong ones better long (Yeo et al. 2025, arXiv:2502.03373, appendix C.1; TRL
    /// 1.16, `get_cosine_scaled_reward`). `None` where the solution is empty.
    pub(super) fn reward(&self, completion: &str, len: usize, solution: &str) -> Option<f64> {
        let (low, high) = if is_correct(completion, solution)? {
            (self.min_value_correct, self.max_value_correct)
        } else {
            (self.max_value_wrong, self.min_value_wrong)
        };
        let progress = (len as f64 / self.max_len as f64).min(1.0);
        Some(low + 0.5 * (high - low) * (1.0 + (progress * std::f64::consts::PI).cos()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_stand_in_one_pair_of_tags() {
        for (text, expected) in [
            ("<think>\nwhy\n</think>\nso", true),
            ("<think></think>", true),
            ("<think>why", false),
            ("so <think>why</think>", false),
            ("<think>a<think>b</think>c", false),
            ("<think>a</think>b<think>c</think>", false),
            ("<think>a</think>b</think>", true),
        ] {
            assert_eq!(has_think_format(text), expected, "{text}");
        }
        assert_eq!(after_thoughts("<think>1</think>2"), Some("2"));
        assert_eq!(after_thoughts("<think>1"), None);
    }

    /// `5 5 5 5 5` has one bigram of four.
    #[test]
    fn repeated_ngrams_cost() {
        assert_eq!(repetition(&[1, 2, 3, 4], 2, -1.0), 0.0);
        assert_eq!(repetition(&[5; 5], 2, -1.0), -0.75);
        assert_eq!(repetition(&[5; 5], 2, -2.0), -1.5);
        assert_eq!(repetition(&[5], 2, -1.0), 0.0);
    }

    #[test]
    fn the_last_tokens_before_the_limit_cost_more_and_more() {
        let of = |len| soft_overlong(len, 100, 20);
        assert_eq!([of(80), of(90), of(100), of(101)], [0.0, -0.5, -1.0, -1.0]);
        assert_eq!([soft_overlong(100, 100, 0), soft_overlong(101, 100, 0)], [0.0, -1.0]);
    }
}
