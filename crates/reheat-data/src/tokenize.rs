//! Examples to ids and labels, with TRL's rules (1.16, `sft_trainer.py`).

use reheat_chat::{ChatTemplate, Conversation, Message as ChatMessage, RenderOptions};
use reheat_tokenizer::{Encoding, Tokenizer};

use crate::{Context, Example, IGNORE_INDEX, Message, RowProblem, Sequence, Turns};

/// Which tokens carry loss.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LossRules {
    /// Completions alone, where a row has a prompt and a completion.
    pub(crate) completion_only: bool,
    /// What the assistant wrote alone.
    pub(crate) assistant_only: bool,
}

/// Turns examples into sequences.
pub(crate) struct SftTokenizer<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// `None` for rows that are not conversations.
    pub(crate) template: Option<&'a ChatTemplate>,
    pub(crate) loss: LossRules,
}

impl SftTokenizer<'_> {
    /// Ids and labels of an example that SFT can use; other kinds are told apart before.
    pub(crate) fn sequence(&self, example: Example) -> Result<Sequence, RowProblem> {
        match example {
            Example::Text { text } => {
                let text = self.with_eos(text);
                let encoding = self.tokenizer.encode_with_special_tokens(&text).map_err(tokenize)?;
                Ok(Sequence::new(encoding.ids))
            }
            Example::Messages { messages, trained, context } => self.conversation(messages, trained, context),
            Example::PromptCompletion { prompt, completion, context } => self.completion(prompt, completion, context),
            Example::Tokens { input_ids, labels: Some(labels) } => Ok(Sequence::with_labels(input_ids, labels)),
            Example::Tokens { input_ids, labels: None } => Ok(Sequence::new(input_ids)),
            other => Err(RowProblem::WrongType {
                field: "row".into(),
                expected: "text, a conversation, a prompt with a completion, or tokens",
                found: other.kind().into(),
            }),
        }
    }

    /// Text ends with the end-of-sequence token; conversations leave that to their template.
    fn with_eos(&self, text: String) -> String {
        match self.tokenizer.special_tokens().eos() {
            Some(eos) if !text.ends_with(&eos.content) => text + &eos.content,
            _ => text,
        }
    }

    fn conversation(
        &self,
        messages: Vec<Message>,
        trained: Option<Vec<bool>>,
        context: Context,
    ) -> Result<Sequence, RowProblem> {
        let template = self.template();
        let conversation = conversation(messages, context);
        let options = RenderOptions::default();
        if !self.loss.assistant_only && trained.is_none() {
            let rendered = template.render(&conversation, &options).map_err(render)?;
            let encoding = self.encode(&rendered.text, &rendered.literal_spans)?;
            return Ok(Sequence::new(encoding.ids));
        }
        let transcript = template.render_for_training(&conversation, &options).map_err(render)?;
        let encoding = self.encode(&transcript.text, &transcript.literal_spans)?;
        let mut labels = vec![IGNORE_INDEX; encoding.ids.len()];
        for span in &transcript.assistant_spans {
            // A message whose weight is 0 is read and not learned.
            let is_trained = match (&trained, span.message) {
                (Some(trained), Some(message)) => trained.get(message).copied().unwrap_or(true),
                _ => true,
            };
            if is_trained {
                for token in encoding.token_span(&span.bytes) {
                    labels[token] = encoding.ids[token] as i32;
                }
            }
        }
        Ok(Sequence::with_labels(encoding.ids, labels))
    }

    fn completion(&self, prompt: Turns, completion: Turns, context: Context) -> Result<Sequence, RowProblem> {
        let (prompt_ids, sequence) = match (prompt, completion) {
            (Turns::Text(prompt), Turns::Text(completion)) => {
                let whole = self.with_eos(format!("{prompt}{completion}"));
                let prompt = self.tokenizer.encode_with_special_tokens(&prompt).map_err(tokenize)?.ids;
                let whole = self.tokenizer.encode_with_special_tokens(&whole).map_err(tokenize)?.ids;
                (prompt, Sequence::new(whole))
            }
            (Turns::Messages(prompt), Turns::Messages(completion)) => {
                let opened = self.prompt_ids(&prompt, &context)?;
                let messages = prompt.into_iter().chain(completion).collect();
                (opened, self.conversation(messages, None, context)?)
            }
            _ => {
                return Err(RowProblem::WrongType {
                    field: "completion".into(),
                    expected: "of the kind of `prompt`",
                    found: "another kind".into(),
                });
            }
        };
        Ok(if self.loss.completion_only { mask_prompt(sequence, &prompt_ids) } else { sequence })
    }

    /// The prompt up to where the completion begins: an assistant's last message is left open.
    fn prompt_ids(&self, prompt: &[Message], context: &Context) -> Result<Vec<u32>, RowProblem> {
        let open_turn =
            prompt.last().is_some_and(|message| message.get("role").is_some_and(|role| role == "assistant"));
        let options = RenderOptions {
            add_generation_prompt: !open_turn,
            continue_final_message: open_turn,
            ..RenderOptions::default()
        };
        let conversation = conversation(prompt.to_vec(), context.clone());
        let rendered = self.template().render(&conversation, &options).map_err(render)?;
        Ok(self.encode(&rendered.text, &rendered.literal_spans)?.ids)
    }

    fn encode(&self, text: &str, literal: &[std::ops::Range<usize>]) -> Result<Encoding, RowProblem> {
        self.tokenizer.encode_literal(text, literal).map_err(tokenize)
    }

    fn template(&self) -> &ChatTemplate {
        self.template.expect("conversations without a template are refused when the format is told")
    }
}

/// No loss on the tokens that a sequence shares with its prompt, from the start on.
fn mask_prompt(mut sequence: Sequence, prompt_ids: &[u32]) -> Sequence {
    let shared = sequence.input_ids.iter().zip(prompt_ids).take_while(|(a, b)| a == b).count();
    sequence.labels[..shared].fill(IGNORE_INDEX);
    sequence
}

fn conversation(messages: Vec<Message>, context: Context) -> Conversation {
    let mut conversation = Conversation::new(messages.into_iter().map(ChatMessage::from).collect());
    conversation.tools = context.tools;
    conversation.documents = context.documents;
    conversation.template_kwargs = context.template_kwargs;
    conversation
}

fn render(error: reheat_chat::ChatError) -> RowProblem {
    RowProblem::Render(Box::new(error))
}

fn tokenize(error: reheat_tokenizer::TokenizerError) -> RowProblem {
    RowProblem::Tokenize(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_beginning_carries_no_loss() {
        let masked = mask_prompt(Sequence::new(vec![1, 2, 3, 4]), &[1, 2, 9]);
        assert_eq!(masked.labels, [IGNORE_INDEX, IGNORE_INDEX, 3, 4]);
        // A prompt that is no prefix masks what is shared and nothing else.
        assert_eq!(mask_prompt(Sequence::new(vec![5, 6]), &[1]).labels, [5, 6]);
    }
}
