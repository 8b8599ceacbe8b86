//! A reward model as a reward.

use std::fmt;

use reheat_chat::{ChatTemplate, Conversation, Message, RenderOptions};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;
use serde_json::Value;

use super::{Reward, RewardError, RewardInput, excerpt};

/// Sequences of one forward pass.
const BATCH_SIZE: usize = 8;

/// A reward model that scores prompts with completions.
///
/// Conversations are rendered by the model's own template, with the completion as the assistant's turn. A completion of
/// a text that came to its end gets an end-of-sequence token, as the texts that the model was trained on.
pub struct ModelReward {
    name: String,
    model: Qwen2,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl ModelReward {
    /// A reward by `model` with its own tokenizer and template.
    ///
    /// # Errors
    /// If the model has no head for scores.
    pub fn new(
        name: impl Into<String>,
        model: Qwen2,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
    ) -> Result<Self, RewardError> {
        let name = name.into();
        if model.score.is_none() {
            return Err(RewardError::NoScoreHead { reward: name });
        }
        Ok(Self { name, model, tokenizer, template })
    }

    /// The ids of a prompt with its completion.
    fn ids(&self, input: &RewardInput<'_>) -> Result<Vec<i32>, String> {
        let encoding = match input.prompt {
            Value::String(prompt) => {
                let eos = self.tokenizer.special_tokens().eos().filter(|_| !input.truncated);
                let end = eos.map_or("", |eos| eos.content.as_str());
                self.tokenizer.encode_with_special_tokens(&format!("{prompt}{}{end}", input.completion))
            }
            Value::Array(messages) => {
                let template = self.template.as_ref().ok_or("the reward model has no chat template")?;
                let mut conversation: Vec<Message> = Vec::with_capacity(messages.len() + 1);
                for message in messages {
                    let message = message.as_object().ok_or("a message of the prompt is no object")?;
                    conversation.push(message.clone().into());
                }
                conversation.push(Message::new("assistant", input.completion));
                let rendered = template
                    .render(&Conversation::new(conversation), &RenderOptions::default())
                    .map_err(|error| error.to_string())?;
                self.tokenizer.encode_literal(&rendered.text, &rendered.literal_spans)
            }
            _ => return Err("the prompt is neither text nor messages".into()),
        };
        let ids: Vec<i32> = encoding.map_err(|error| error.to_string())?.ids.iter().map(|id| *id as i32).collect();
        if ids.is_empty() {
            return Err("prompt and completion are empty".into());
        }
        let vocab_size = self.model.config().vocab_size;
        match ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(id) => Err(format!("token id {id} is outside the reward model's vocabulary of {vocab_size}")),
            None => Ok(ids),
        }
    }
}

impl fmt::Debug for ModelReward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelReward").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Reward for ModelReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, completions: &[RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        let mut scores = Vec::with_capacity(completions.len());
        for chunk in completions.chunks(BATCH_SIZE) {
            let (mut input_ids, mut seq_lens) = (Vec::new(), Vec::new());
            for input in chunk {
                let ids = self.ids(input).map_err(|reason| RewardError::Row {
                    reward: self.name.clone(),
                    prompt: excerpt(input.prompt),
                    reason,
                })?;
                seq_lens.push(ids.len());
                input_ids.extend(ids);
            }
            let values = self.model.scores(&input_ids, &seq_lens).into_data();
            let values = values.try_to_vec::<f32>().expect("scores are f32");
            scores.extend(values.into_iter().map(|score| Some(f64::from(score))));
        }
        Ok(scores)
    }
}
