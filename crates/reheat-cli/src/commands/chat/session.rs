//! A model that answers, and what was said so far.

use std::path::Path;
use std::{fs, io};

use reheat_chat::{ChatTemplate, Conversation, Message, RenderOptions};
use reheat_generate::{FinishReason, Flow, GenerateConfig};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;

use crate::commands::generate::stream_text;

/// A model that answers, and what was said so far.
pub(crate) struct Chat {
    model: Qwen2,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    config: GenerateConfig,
    stop: Vec<String>,
    messages: Vec<Message>,
    /// Why the last answer ended.
    finish_reason: Option<FinishReason>,
}

impl Chat {
    pub(crate) fn new(model: Qwen2, tokenizer: Tokenizer, template: ChatTemplate, config: GenerateConfig) -> Self {
        Self { model, tokenizer, template, config, stop: Vec::new(), messages: Vec::new(), finish_reason: None }
    }

    /// Ends answers before the first of `stop`.
    pub(crate) fn with_stop(self, stop: &[String]) -> Self {
        Self { stop: stop.to_vec(), ..self }
    }

    /// Forgets the conversation.
    pub(crate) fn reset(&mut self, system: Option<&str>) {
        self.messages = system.map(|system| Message::new("system", system)).into_iter().collect();
    }

    /// Says something and hands the answer to `on_piece` as it comes; both become part of the conversation.
    pub(crate) fn say(&mut self, text: &str, on_piece: &mut dyn FnMut(&str) -> Flow) -> anyhow::Result<String> {
        self.messages.push(Message::new("user", text));
        let answer = self.answer(on_piece);
        if answer.is_err() {
            // What was not answered is not part of the conversation.
            self.messages.pop();
        }
        answer
    }

    /// Replaces the last answer by another draw; `None` where there is no answer yet.
    pub(crate) fn regenerate(&mut self, on_piece: &mut dyn FnMut(&str) -> Flow) -> Option<anyhow::Result<String>> {
        let answered = self.messages.last().is_some_and(|message| message.role() == Some("assistant"));
        let former = answered.then(|| self.messages.pop()).flatten()?;
        self.config.seed = self.config.seed.wrapping_add(1);
        let answer = self.answer(on_piece);
        if answer.is_err() {
            self.messages.push(former);
        }
        Some(answer)
    }

    /// Whether the last answer ended because it was as long as it may be.
    pub(crate) fn is_cut(&self) -> bool {
        self.finish_reason == Some(FinishReason::Length)
    }

    /// Whether the same question always gets the same answer.
    pub(crate) fn is_greedy(&self) -> bool {
        self.config.temperature == 0.0
    }

    /// Adds the conversation to a file, as a line of a dataset.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        use io::Write as _;
        let mut line = serde_json::json!({ "messages": self.messages }).to_string();
        line.push('\n');
        fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
    }

    fn answer(&mut self, on_piece: &mut dyn FnMut(&str) -> Flow) -> anyhow::Result<String> {
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let prompt = self.template.render(&Conversation::new(self.messages.clone()), &options)?;
        let ids = self.tokenizer.encode_literal(&prompt.text, &prompt.literal_spans)?.ids;
        let (answer, generation, _) =
            stream_text(&self.model, &self.tokenizer, &ids, &self.config, &self.stop, on_piece)?;
        self.finish_reason = Some(generation.finish_reason);
        self.messages.push(Message::new("assistant", answer.as_str()));
        Ok(answer)
    }
}
