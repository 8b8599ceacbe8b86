//! Text and conversations to ids, with TRL's rules (1.16, `data_utils.py`).

use reheat_chat::{ChatTemplate, ControlTokens, Conversation, Message as ChatMessage, RenderOptions};
use reheat_tokenizer::{Encoding, Tokenizer};

use crate::{Context, IGNORE_INDEX, Message, RowProblem, Sequence, Turns};

/// One tokenizer, one template, and how they are used.
pub(crate) struct Encoder<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// `None` for rows that are not conversations.
    pub(crate) template: Option<&'a ChatTemplate>,
    /// What control tokens in messages are.
    pub(crate) control_tokens: ControlTokens,
}

/// What is learned of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Learned<'a> {
    /// All of it.
    Everything,
    /// What the assistant wrote.
    Assistant,
    /// What the assistant wrote in messages that say so.
    Messages(&'a [bool]),
}

/// A prompt with what follows it, as ids: up to `prompt_len` they are the prompt's.
#[derive(Debug)]
pub(crate) struct Continued {
    pub(crate) sequence: Sequence,
    pub(crate) prompt_len: usize,
    /// The prompt alone ends in other tokens than before what follows, so that its end is not in the sequence.
    pub(crate) prompt_diverges: bool,
}

impl Encoder<'_> {
    /// Plain text with what the tokenizer puts around it.
    pub(crate) fn text(&self, text: &str) -> Result<Vec<u32>, RowProblem> {
        Ok(self.tokenizer.encode_with_special_tokens(text).map_err(tokenize)?.ids)
    }

    /// Text ends with the end-of-sequence token; conversations leave that to their template.
    pub(crate) fn with_eos(&self, text: String) -> Result<String, RowProblem> {
        let eos = &self.tokenizer.special_tokens().eos().ok_or(RowProblem::NoEos)?.content;
        Ok(if text.ends_with(eos.as_str()) { text } else { text + eos })
    }

    /// A conversation as it is trained on.
    pub(crate) fn conversation(
        &self,
        messages: Vec<Message>,
        context: Context,
        learned: Learned,
    ) -> Result<Sequence, RowProblem> {
        let template = self.template()?;
        let conversation = conversation(messages, context);
        let options = self.render_options();
        if learned == Learned::Everything {
            let rendered = template.render(&conversation, &options).map_err(render)?;
            return Ok(Sequence::new(self.encode(&rendered.text, &rendered.literal_spans)?.ids));
        }
        let transcript = template.render_for_training(&conversation, &options).map_err(render)?;
        let encoding = self.encode(&transcript.text, &transcript.literal_spans)?;
        let mut labels = vec![IGNORE_INDEX; encoding.ids.len()];
        for span in &transcript.assistant_spans {
            // A message whose weight is 0 is read and not learned.
            let is_learned = match (learned, span.message) {
                (Learned::Messages(trained), Some(message)) => trained.get(message).copied().unwrap_or(true),
                (Learned::Messages(_), None) => return Err(RowProblem::WeightsWithoutMessages),
                _ => true,
            };
            if is_learned {
                for token in encoding.token_span(&span.bytes) {
                    labels[token] = encoding.ids[token] as i32;
                }
            }
        }
        Ok(Sequence::with_labels(encoding.ids, labels))
    }

    /// A prompt and one answer to it. What comes first ends where the ids of the prompt alone and those of both
    /// diverge; text gets an end-of-sequence token.
    pub(crate) fn continued(
        &self,
        prompt: &Turns,
        completion: Turns,
        context: &Context,
        learned: Learned,
    ) -> Result<Continued, RowProblem> {
        let prompt_ids = self.prompt(prompt, context)?;
        let sequence = match (prompt, completion) {
            (Turns::Text(prompt), Turns::Text(completion)) => {
                Sequence::new(self.text(&self.with_eos(format!("{prompt}{completion}"))?)?)
            }
            (Turns::Messages(prompt), Turns::Messages(completion)) => {
                let messages = prompt.iter().cloned().chain(completion).collect();
                self.conversation(messages, context.clone(), learned)?
            }
            _ => {
                return Err(RowProblem::WrongType {
                    field: "the answer".into(),
                    expected: "of the kind of the prompt",
                    found: "text beside messages".into(),
                });
            }
        };
        let prompt_len = common_prefix(&prompt_ids, &sequence.input_ids);
        Ok(Continued { sequence, prompt_len, prompt_diverges: prompt_len < prompt_ids.len() })
    }

    /// A prompt up to where the answer begins. Whoever speaks last, the assistant is asked for a message of its own.
    pub(crate) fn prompt(&self, prompt: &Turns, context: &Context) -> Result<Vec<u32>, RowProblem> {
        match prompt {
            Turns::Text(text) => self.text(text),
            Turns::Messages(messages) => {
                let options = RenderOptions { add_generation_prompt: true, ..self.render_options() };
                let conversation = conversation(messages.clone(), context.clone());
                let rendered = self.template()?.render(&conversation, &options).map_err(render)?;
                Ok(self.encode(&rendered.text, &rendered.literal_spans)?.ids)
            }
        }
    }

    fn render_options(&self) -> RenderOptions {
        RenderOptions { control_tokens: self.control_tokens, ..RenderOptions::default() }
    }

    fn encode(&self, text: &str, literal: &[std::ops::Range<usize>]) -> Result<Encoding, RowProblem> {
        self.tokenizer.encode_literal(text, literal).map_err(tokenize)
    }

    fn template(&self) -> Result<&ChatTemplate, RowProblem> {
        self.template.ok_or(RowProblem::NoTemplate)
    }
}

/// Ids that both begin with.
pub(crate) fn common_prefix(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
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
