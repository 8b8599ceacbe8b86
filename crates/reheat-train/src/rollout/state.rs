//! The generation batch under way, and a reference that follows, in a checkpoint.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::rollouts::Generation;
use super::{Completion, Rollouts, Sample, ToolUse, numbers};
use crate::MethodState;
use crate::dpo::{followed_weights, with_followed_weights};

/// Name of the generation batch among the values.
const GENERATION: &str = "generation";
/// Name of the step after which the reference last followed.
const SYNCED_AT: &str = "synced_at";
/// Before the names of the reference's parameters.
const REFERENCE: &str = "reference.";

/// Everything of a generation batch but log-probabilities, which are tensors.
#[derive(Serialize, Deserialize)]
struct SavedGeneration {
    index: u64,
    samples: Vec<SavedSample>,
}

#[derive(Serialize, Deserialize)]
struct SavedSample {
    prompt: usize,
    ids: Vec<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tool_spans: Vec<Range<usize>>,
    truncated: bool,
    counts: bool,
    advantage: f64,
}

/// The kinds of log-probabilities: name, and where they are in a sample.
type Kind = (&'static str, fn(&Sample) -> &Vec<f32>, fn(&mut Sample) -> &mut Vec<f32>);

const KINDS: [Kind; 3] = [
    ("sampler_logprobs", |sample| &sample.sampler_logprobs, |sample| &mut sample.sampler_logprobs),
    ("old_logprobs", |sample| &sample.old_logprobs, |sample| &mut sample.old_logprobs),
    ("ref_logprobs", |sample| &sample.ref_logprobs, |sample| &mut sample.ref_logprobs),
];

impl Rollouts {
    /// What a resumed run needs beside its settings: completions that are drawn and not used up, and a reference that
    /// is no longer what it was.
    pub(crate) fn state(&self) -> MethodState {
        let mut state = MethodState::default();
        if let Some(generation) = &self.buffer {
            let samples = generation.samples.iter().map(|sample| SavedSample {
                prompt: sample.prompt,
                ids: sample.ids.clone(),
                tool_spans: sample.tool_spans.clone(),
                truncated: sample.truncated,
                counts: sample.counts,
                advantage: sample.advantage,
            });
            let saved = SavedGeneration { index: generation.index, samples: samples.collect() };
            state.values.insert(GENERATION.into(), json!(saved));
            for (name, pick, _) in KINDS {
                let values: Vec<f32> = generation.samples.iter().flat_map(pick).copied().collect();
                if !values.is_empty() {
                    state.tensors.insert(name.into(), Tensor::from_data(values.as_slice(), &Device::flex()));
                }
            }
        }
        if let Some(reference) = self.reference.as_ref().filter(|_| self.synced_at > 0) {
            state.values.insert(SYNCED_AT.into(), self.synced_at.into());
            let weights = followed_weights(reference).into_iter();
            state.tensors.extend(weights.map(|(name, values)| (format!("{REFERENCE}{name}"), values)));
        }
        state
    }

    /// Takes up what [`Self::state`] gave.
    pub(crate) fn restore(&mut self, mut state: MethodState) -> Result<(), String> {
        self.restore_reference(&mut state)?;
        let Some(saved) = state.values.remove(GENERATION) else {
            self.buffer = None;
            return Ok(());
        };
        let saved: SavedGeneration =
            serde_json::from_value(saved).map_err(|error| format!("the completions under way: {error}"))?;
        let mut samples: Vec<Sample> = saved
            .samples
            .into_iter()
            .map(|SavedSample { prompt, ids, tool_spans, truncated, counts, advantage }| {
                let tool_use = ToolUse { spans: tool_spans, ..ToolUse::default() };
                let completion = Completion { ids, tool_use, ..Completion::default() };
                Sample { truncated, counts, advantage, ..Sample::new(prompt, completion) }
            })
            .collect();
        if samples.iter().any(|sample| sample.prompt >= self.num_prompts()) {
            return Err("a completion is one of a prompt that is not there".into());
        }
        // Where a span leaves its ids, the file was changed by hand.
        if samples
            .iter()
            .flat_map(|sample| sample.tool_spans.iter().zip(std::iter::repeat(sample.ids.len())))
            .any(|(span, len)| span.start > span.end || span.end > len)
        {
            return Err("what tools said is outside of its completion".into());
        }
        if samples.len() != self.schedule.generation_batch_size() {
            let expected = self.schedule.generation_batch_size();
            return Err(format!("{} completions are under way, expected {expected}", samples.len()));
        }
        for (name, _, place) in KINDS {
            let Some(values) = state.tensors.remove(name) else { continue };
            let values = numbers(values);
            let (mut rest, mut missing) = (values.as_slice(), false);
            for sample in &mut samples {
                let Some((own, after)) = rest.split_at_checked(sample.ids.len()) else {
                    missing = true;
                    break;
                };
                *place(sample) = own.to_vec();
                rest = after;
            }
            if missing || !rest.is_empty() {
                return Err(format!("`{name}` has {} numbers, another count than tokens", values.len()));
            }
        }
        self.buffer = Some(Generation { index: saved.index, samples });
        Ok(())
    }

    fn restore_reference(&mut self, state: &mut MethodState) -> Result<(), String> {
        let Some(synced_at) = state.values.remove(SYNCED_AT).and_then(|step| step.as_u64()) else { return Ok(()) };
        let Some(reference) = self.reference.take() else {
            return Err("it holds a reference, and there is none".into());
        };
        let mut weights = BTreeMap::new();
        for (name, values) in std::mem::take(&mut state.tensors) {
            match name.strip_prefix(REFERENCE) {
                Some(parameter) => drop(weights.insert(parameter.to_owned(), values)),
                None => drop(state.tensors.insert(name, values)),
            }
        }
        let (reference, taken) = with_followed_weights(*reference, weights);
        self.reference = Some(Box::new(reference));
        self.synced_at = synced_at;
        taken
    }
}
