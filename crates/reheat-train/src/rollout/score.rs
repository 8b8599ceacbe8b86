//! Completions to rewards, and what is told of them.

use reheat_data::Prompt;
use reheat_tokenizer::{DecodeMode, Tokenizer};

use super::statistics::{mean, standard_deviation, weighted_sum};
use super::{Completion, Sample, ToolUse};
use crate::{Measures, Reward, RewardInput, TrainError, score_completions};

/// How much better completions are than others of their prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Advantages {
    /// Of each completion.
    pub values: Vec<f64>,
    /// Share of the completions whose rewards do not differ from those they are compared with: nothing is learned from
    /// them.
    pub frac_reward_zero_std: f64,
}

impl Advantages {
    /// Of each completion what there is, or 0.
    pub(crate) fn new(values: Vec<Option<f64>>, num_zero_std: usize) -> Self {
        let frac_reward_zero_std = num_zero_std as f64 / values.len().max(1) as f64;
        Self { values: values.into_iter().map(Option::unwrap_or_default).collect(), frac_reward_zero_std }
    }
}

/// The texts of completions, without special tokens, for a person: all that stands there.
pub(super) fn texts(tokenizer: &Tokenizer, samples: &[Sample]) -> Result<Vec<String>, TrainError> {
    let text = |sample: &Sample| tokenizer.decode(&sample.ids, DecodeMode::SkipSpecialTokens);
    Ok(samples.iter().map(text).collect::<Result<_, _>>()?)
}

/// The texts that rewards judge: what the model wrote, a line for each turn.
fn own_texts(tokenizer: &Tokenizer, samples: &[Sample], texts: &[String]) -> Result<Vec<String>, TrainError> {
    let own = |(sample, text): (&Sample, &String)| {
        if sample.tool_spans.is_empty() {
            return Ok(text.clone());
        }
        let starts = [0].into_iter().chain(sample.tool_spans.iter().map(|span| span.end));
        let ends = sample.tool_spans.iter().map(|span| span.start).chain([sample.ids.len()]);
        let turns = starts.zip(ends).map(|(start, end)| &sample.ids[start..end]);
        let turns = turns.map(|ids| tokenizer.decode(ids, DecodeMode::SkipSpecialTokens));
        Ok(turns.collect::<Result<Vec<_>, _>>()?.join("\n"))
    };
    samples.iter().zip(texts).map(own).collect()
}

/// `rewards[completion][reward]`.
pub(super) fn score(
    rewards: &mut [Box<dyn Reward>],
    prompts: &[Prompt],
    samples: &[Sample],
    (texts, tool_uses): (&[String], &[ToolUse]),
    tokenizer: &Tokenizer,
) -> Result<Vec<Vec<Option<f64>>>, TrainError> {
    let texts = own_texts(tokenizer, samples, texts)?;
    let inputs: Vec<RewardInput<'_>> = samples
        .iter()
        .zip(&texts)
        .zip(tool_uses)
        .map(|((sample, text), tool_use)| {
            let Prompt { prompt, columns, .. } = &prompts[sample.prompt];
            let input = RewardInput::new(prompt, text, &sample.ids, columns).with_truncated(sample.truncated);
            if tool_use.messages.is_empty() { input } else { input.with_messages(&tool_use.messages) }
        })
        .collect();
    let mut scores = vec![Vec::with_capacity(rewards.len()); samples.len()];
    for reward in rewards {
        for (scores, score) in scores.iter_mut().zip(score_completions(reward.as_mut(), &inputs)?) {
            scores.push(score);
        }
    }
    Ok(scores)
}

/// Completions in the order in which they are compared, `num_generations` of each prompt in a row.
pub(super) fn samples(
    prompts: &[usize],
    completions: Vec<Vec<Completion>>,
    ends: &[u32],
    masks_truncated: bool,
) -> Vec<Sample> {
    let groups = prompts.iter().zip(completions);
    groups
        .flat_map(|(prompt, group)| group.into_iter().map(move |completion| (*prompt, completion)))
        .map(|(prompt, completion)| {
            let truncated = !completion.ids.last().is_some_and(|last| ends.contains(last));
            let counts = !(truncated && masks_truncated);
            Sample { truncated, counts, ..Sample::new(prompt, completion) }
        })
        .collect()
}

/// What is told of a generation batch: lengths, rewards, groups without a signal.
pub(super) fn measure(
    samples: &[Sample],
    names: &[String],
    rewards: &[Vec<Option<f64>>],
    weights: &[f64],
    frac_reward_zero_std: f64,
) -> Measures {
    let lens = |keep: fn(&&Sample) -> bool| -> Vec<f64> {
        samples.iter().filter(keep).map(|sample| sample.num_own() as f64).collect()
    };
    let truncated = samples.iter().filter(|sample| sample.truncated).count() as f64 / samples.len().max(1) as f64;
    let mut measures = Measures::default().with("completions/clipped_ratio", truncated, 1.0);
    for (kind, lens) in [("", lens(|_| true)), ("terminated_", lens(|sample| !sample.truncated))] {
        let mean = lens.iter().sum::<f64>() / lens.len().max(1) as f64;
        let smallest = lens.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let largest = lens.iter().copied().fold(0.0, f64::max);
        for (what, value) in [("mean", mean), ("min", smallest), ("max", largest)] {
            measures = measures.with(format!("completions/{what}_{kind}length"), value, 1.0);
        }
    }
    let mut tell = |name: String, value: Option<f64>| {
        // A mean of nothing is no number, and is left out.
        if let Some(value) = value {
            measures = std::mem::take(&mut measures).with(name, value, 1.0);
        }
    };
    for (index, name) in names.iter().enumerate() {
        let column: Vec<Option<f64>> = rewards.iter().map(|rewards| rewards[index]).collect();
        tell(format!("rewards/{name}/mean"), mean(&column));
        tell(format!("rewards/{name}/std"), standard_deviation(&column));
    }
    let sums: Vec<Option<f64>> = rewards.iter().map(|rewards| weighted_sum(rewards, weights)).collect();
    tell("reward".into(), mean(&sums));
    tell("reward_std".into(), standard_deviation(&sums));
    measures.with("frac_reward_zero_std", frac_reward_zero_std, 1.0)
}

/// How often tools were called for a completion, and how often in vain (TRL's names).
pub(super) fn measure_tools(measures: Measures, tool_uses: &[ToolUse]) -> Measures {
    let sum = |of: fn(&ToolUse) -> usize| tool_uses.iter().map(of).sum::<usize>() as f64;
    let (calls, failures) = (sum(|used| used.num_calls), sum(|used| used.num_failures));
    measures.with("tools/call_frequency", calls, tool_uses.len() as f64).with(
        "tools/failure_frequency",
        failures,
        calls,
    )
}
