//! Completions that go on after tools have answered.

use reheat_chat::ToolCall;
use reheat_model::Qwen2;
use reheat_tokenizer::{DecodeMode, Tokenizer};

use super::sample::{Request, Source};
use super::{Completion, RolloutConfig};
use crate::TrainError;
use crate::tools::{Called, Toolbox, read_turn};

/// Where conversations with tools take place.
pub(super) struct Conversations<'a> {
    pub(super) model: &'a Qwen2,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) config: &'a RolloutConfig,
    pub(super) seed: u64,
}

/// A completion whose last turn calls tools.
struct Calling {
    /// Its index.
    row: usize,
    calls: Vec<ToolCall>,
}

/// A completion and what its tools said, about to go on.
struct Next {
    row: usize,
    called: Called,
    /// The ids of what they said.
    suffix: Vec<u32>,
    /// The whole conversation.
    ids: Vec<u32>,
}

impl Conversations<'_> {
    /// Runs the calls in completions, appends what comes of them, and lets the model go on, until no turn calls a tool,
    /// there have been `max_tool_calling_iterations`, or the longest completion is reached.
    ///
    /// What tools say must fit into the completion with the rest and into the model's context; where it does not, the
    /// completion ends with the call (TRL 1.16, `GRPOTrainer._tool_call_loop`).
    pub(super) fn carry_on(
        &self,
        source: &mut Source,
        toolbox: &mut Toolbox,
        prompts: &[&[u32]],
        completions: Vec<Vec<Completion>>,
    ) -> Result<Vec<Vec<Completion>>, TrainError> {
        let group_size = completions.first().map_or(0, Vec::len);
        let mut rows: Vec<Completion> = completions.into_iter().flatten().collect();
        let mut calling = Vec::new();
        for (row, completion) in rows.iter_mut().enumerate() {
            let ids = completion.ids.clone();
            calling.extend(self.take_turn(completion, row, &ids)?);
        }
        let max_iterations = self.config.max_tool_calling_iterations.unwrap_or(usize::MAX);
        let mut iteration = 0;
        while !calling.is_empty() && iteration < max_iterations {
            iteration += 1;
            let mut next = Vec::with_capacity(calling.len());
            for Calling { row, calls } in calling {
                let called = toolbox.run(&calls);
                let suffix = toolbox.suffix_ids(&called.messages, self.tokenizer)?;
                let ids = [prompts[row / group_size], &rows[row].ids, &suffix].concat();
                let tool_use = &mut rows[row].tool_use;
                tool_use.num_calls += calls.len();
                tool_use.num_failures += called.num_failures;
                next.push(Next { row, called, suffix, ids });
            }
            let context = self.model.config().max_position_embeddings;
            let left = |next: &Next| {
                self.config.max_completion_length.checked_sub(rows[next.row].ids.len() + next.suffix.len())
            };
            next.retain(|next| left(next).is_some() && next.ids.len() < context);
            let budgets: Vec<usize> = next.iter().map(|next| left(next).unwrap_or(0)).collect();
            let answers = self.answers(source, &next, &budgets, iteration * rows.len())?;

            calling = Vec::new();
            for (Next { row, called, suffix, .. }, answer) in next.into_iter().zip(answers) {
                let completion = &mut rows[row];
                append(completion, &suffix, &answer);
                completion.tool_use.messages.extend(called.messages);
                calling.extend(self.take_turn(completion, row, &answer.ids)?);
            }
        }
        for row in rows.iter_mut().filter(|row| row.tool_use.num_calls == 0) {
            row.tool_use.messages.clear();
        }
        let mut rows = rows.into_iter();
        Ok(prompts.iter().map(|_| rows.by_ref().take(group_size).collect()).collect())
    }

    /// What follows each conversation; nothing where there is no room for a token.
    fn answers(
        &self,
        source: &mut Source,
        next: &[Next],
        budgets: &[usize],
        first_stream: usize,
    ) -> Result<Vec<Completion>, TrainError> {
        let asked = next.iter().zip(budgets).filter(|(_, budget)| **budget > 0);
        let requests: Vec<Request<'_>> = asked
            .map(|(next, budget)| Request { ids: &next.ids, budget: *budget, stream: (first_stream + next.row) as u64 })
            .collect();
        let ends = self.tokenizer.eos_ids();
        let mut answers =
            source.complete(self.model, &requests, 1, self.config, (ends, self.seed))?.into_iter().flatten();
        let answer =
            |budget: &usize| if *budget > 0 { answers.next().unwrap_or_default() } else { Completion::default() };
        Ok(budgets.iter().map(answer).collect())
    }

    /// Notes a turn of the model among the messages, and gives the calls in it.
    fn take_turn(&self, completion: &mut Completion, row: usize, ids: &[u32]) -> Result<Option<Calling>, TrainError> {
        if ids.is_empty() {
            return Ok(None);
        }
        let (message, calls) = read_turn(&self.tokenizer.decode(ids, DecodeMode::SkipSpecialTokens)?);
        completion.tool_use.messages.push(message);
        Ok((!calls.is_empty()).then_some(Calling { row, calls }))
    }
}

/// Adds what tools said, and what the model said then.
fn append(completion: &mut Completion, suffix: &[u32], answer: &Completion) {
    let start = completion.ids.len();
    completion.tool_use.spans.push(start..start + suffix.len());
    completion.ids.extend_from_slice(suffix);
    completion.ids.extend_from_slice(&answer.ids);
    if completion.logprobs.len() == start && answer.logprobs.len() == answer.ids.len() {
        completion.logprobs.resize(start + suffix.len(), 0.0);
        completion.logprobs.extend_from_slice(&answer.logprobs);
    } else {
        completion.logprobs.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use reheat_model::Qwen2Config;
    use serde_json::Value;

    use super::*;
    use crate::rollout::Sample;
    use crate::tools::golden_tools;

    fn ids(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    }

    /// Lengths of runs of equal values, of `true` first.
    fn runs(mask: &[bool]) -> Vec<u64> {
        let mut lengths = vec![0];
        let mut value = true;
        for one in mask {
            if *one != value {
                lengths.push(0);
                value = *one;
            }
            *lengths.last_mut().unwrap() += 1;
        }
        lengths
    }

    /// `tests/golden/tools.py`: the ids and loss masks that TRL's own loop makes of the same turns.
    #[test]
    fn conversations_go_on_as_in_trl() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
        let golden: Value =
            serde_json::from_str(&std::fs::read_to_string(tests.join("golden/values/tools.json")).unwrap()).unwrap();
        let tokenizer = Tokenizer::from_dir(tests.join("fixtures/tied-grouped")).unwrap();
        let config = Qwen2Config::from_dir(&tests.join("fixtures/tied-grouped")).unwrap();
        let mut raw = config.raw().clone();
        raw.insert("max_position_embeddings".into(), 4096.into());
        let config = Qwen2Config::from_json(raw, "longer".into()).unwrap();
        let model = Qwen2::random(&config, 1, &Device::flex());
        for case in golden["cases"].as_array().unwrap() {
            let rows = case["rows"].as_array().unwrap();
            let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(&row["prompt_ids"])).collect();
            let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
            let turns: Vec<Vec<Vec<u32>>> =
                rows.iter().map(|row| row["turns"].as_array().unwrap().iter().map(ids).collect()).collect();
            let first =
                turns.iter().map(|turns| vec![Completion { ids: turns[0].clone(), ..Completion::default() }]).collect();
            let owned: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
            let mut said = vec![1; rows.len()];
            let mut source = Source::Function(Box::new(move |asked, _| {
                let mut answers = Vec::new();
                for conversation in asked {
                    let row = owned.iter().position(|prompt| conversation.starts_with(prompt)).unwrap();
                    let ids = turns[row][said[row]].clone();
                    said[row] += 1;
                    answers.push(vec![Completion { ids, ..Completion::default() }]);
                }
                Ok(answers)
            }));
            let mut toolbox = Toolbox::new(golden_tools(golden["template"].as_str().unwrap()), &tokenizer).unwrap();
            let config = RolloutConfig {
                max_completion_length: golden["max_completion_length"].as_u64().unwrap() as usize,
                max_tool_calling_iterations: case["max_tool_calling_iterations"].as_u64().map(|most| most as usize),
                ..RolloutConfig::default()
            };
            let conversations = Conversations { model: &model, tokenizer: &tokenizer, config: &config, seed: 0 };
            let completions = conversations.carry_on(&mut source, &mut toolbox, &prompts, first).unwrap();
            let completions: Vec<Completion> = completions.into_iter().flatten().collect();

            let sum = |of: fn(&Completion) -> usize| completions.iter().map(of).sum::<usize>() as u64;
            assert_eq!(sum(|one| one.tool_use.num_calls), case["calls"].as_u64().unwrap());
            assert_eq!(sum(|one| one.tool_use.num_failures), case["failures"].as_u64().unwrap());
            for (row, completion) in rows.iter().zip(completions) {
                let (expected, found) = (ids(&row["ids"]), completion.ids.clone());
                // Python quotes an error with other marks.
                if completion.tool_use.num_failures == 0 {
                    assert_eq!(found, expected, "{}", tokenizer.decode(&found, DecodeMode::SkipSpecialTokens).unwrap());
                }
                let messages = completion.tool_use.messages.clone();
                let own_roles: Vec<&str> = messages.iter().filter_map(|message| message["role"].as_str()).collect();
                if completion.tool_use.num_calls > 0 {
                    assert_eq!(serde_json::json!(own_roles), row["roles"]);
                }
                let sample = Sample::new(0, completion);
                assert_eq!(serde_json::json!(runs(&sample.counting())), row["mask_runs"]);
            }
        }
    }
}
