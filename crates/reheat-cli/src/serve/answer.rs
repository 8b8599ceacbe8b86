//! JSON that goes out: choices, calls of tools, log-probabilities, usage counts.

use std::sync::Arc;

use reheat_chat::{AnswerPart, ToolCall, ToolCalls};
use reheat_generate::{FinishReason, Token};
use reheat_tokenizer::DecodeMode;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::worker::{Told, What};
use super::{ApiError, Server, now};

/// Which of OpenAI's two objects an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Chat,
    Text,
}

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Answer {
    server: Arc<Server>,
    form: Form,
    id: String,
    created: u64,
    prompt_tokens: usize,
    /// Tokens drawn so far, in all choices.
    completion_tokens: usize,
    choices: Vec<Choice>,
    /// Alternatives of each position, or `None` where no log-probabilities are asked for.
    top_logprobs: Option<usize>,
    eos_token_ids: Vec<u32>,
}

/// One completion.
#[derive(Debug, Default)]
struct Choice {
    text: String,
    /// Tells calls of tools from text, where tools were offered.
    tool_calls: Option<ToolCalls>,
    /// Calls so far, as JSON.
    calls: Vec<Value>,
    /// Tokens whose log-probabilities are not out yet.
    tokens: Vec<Token>,
    /// Characters of text before `tokens`, for `text_offset`.
    offset: usize,
    finish_reason: Option<FinishReason>,
}

/// News of one choice.
#[derive(Debug)]
pub(super) struct News {
    choice: usize,
    text: String,
    /// Calls of tools that are new, as JSON.
    calls: Vec<Value>,
    finish_reason: Option<FinishReason>,
}

impl Answer {
    pub(super) fn new(
        server: Arc<Server>,
        form: Form,
        prompt_tokens: usize,
        choices: usize,
        top_logprobs: Option<usize>,
        eos_token_ids: Vec<u32>,
        tools: Tools,
    ) -> Self {
        let kind = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
        let (id, created) = (server.next_id(kind), now());
        let tool_calls = (tools == Tools::Offered).then(ToolCalls::default);
        let choices = (0..choices).map(|_| Choice { tool_calls: tool_calls.clone(), ..Choice::default() }).collect();
        Self { server, form, id, created, prompt_tokens, completion_tokens: 0, choices, top_logprobs, eos_token_ids }
    }

    /// Waits for all choices, and gives the whole.
    pub(super) async fn gather(mut self, mut told: UnboundedReceiver<Told>) -> Result<Value, ApiError> {
        while let Some(told) = told.recv().await {
            let news = self.take(told)?;
            self.choices[news.choice].text.push_str(&news.text);
        }
        if !self.is_complete() {
            return Err(ApiError::internal("the engine stopped"));
        }
        let choices: Vec<Value> = (0..self.choices.len()).map(|index| self.whole(index)).collect();
        let object = if self.form == Form::Chat { "chat.completion" } else { "text_completion" };
        let mut value = self.envelope(object, choices);
        value["usage"] = self.usage();
        Ok(value)
    }

    /// Notes what was told.
    pub(super) fn take(&mut self, Told { choice, what }: Told) -> Result<News, ApiError> {
        let state = &mut self.choices[choice];
        let (text, finish_reason) = match what {
            What::Token { token, text } => {
                self.completion_tokens += 1;
                // The token that ends a completion is no part of its text.
                if self.top_logprobs.is_some() && !self.eos_token_ids.contains(&token.id) {
                    state.tokens.push(token);
                }
                (text, None)
            }
            What::Finished { text, reason } => (text, Some(reason)),
            What::Failed(error) => return Err(error),
        };
        state.finish_reason = finish_reason;
        let before = state.calls.len();
        let server = &self.server;
        let text = state.tell(text, || server.next_id("call"));
        Ok(News { choice, text, calls: state.calls[before..].to_vec(), finish_reason })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish_reason.is_some())
    }

    fn whole(&mut self, index: usize) -> Value {
        let logprobs = self.logprobs(index);
        let choice = &mut self.choices[index];
        let text = std::mem::take(&mut choice.text);
        let mut value = json!({ "index": index, "logprobs": logprobs, "finish_reason": choice.reason() });
        match self.form {
            Form::Text => value["text"] = text.into(),
            Form::Chat if choice.calls.is_empty() => {
                value["message"] = json!({ "role": "assistant", "content": text, "refusal": null });
            }
            Form::Chat => {
                let content = if text.is_empty() { Value::Null } else { text.into() };
                value["message"] =
                    json!({ "role": "assistant", "content": content, "refusal": null, "tool_calls": choice.calls });
            }
        }
        value
    }

    /// The piece that begins a choice of a chat.
    pub(super) fn beginnings(&self) -> Vec<Value> {
        if self.form == Form::Text {
            return Vec::new();
        }
        let delta = json!({ "role": "assistant", "content": "" });
        let choice = |index| json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null });
        (0..self.choices.len()).map(|index| self.piece(vec![choice(index)])).collect()
    }

    /// The piece that brings news; `None` where there is nothing to see yet.
    pub(super) fn news(&mut self, news: &News) -> Option<Value> {
        if news.text.is_empty() && news.calls.is_empty() && news.finish_reason.is_none() {
            return None;
        }
        let logprobs = self.logprobs(news.choice);
        let reason = news.finish_reason.and_then(|_| self.choices[news.choice].reason());
        let mut choice = json!({ "index": news.choice, "logprobs": logprobs, "finish_reason": reason });
        match self.form {
            Form::Text => choice["text"] = news.text.clone().into(),
            Form::Chat => {
                choice["delta"] = json!({});
                if !news.text.is_empty() {
                    choice["delta"]["content"] = news.text.clone().into();
                }
                if !news.calls.is_empty() {
                    let first = self.choices[news.choice].calls.len() - news.calls.len();
                    choice["delta"]["tool_calls"] = news.calls.iter().zip(first..).map(numbered).collect();
                }
            }
        }
        Some(self.piece(vec![choice]))
    }

    /// The piece that counts.
    pub(super) fn counts(&self) -> Value {
        let mut value = self.piece(Vec::new());
        value["usage"] = self.usage();
        value
    }

    fn piece(&self, choices: Vec<Value>) -> Value {
        let object = if self.form == Form::Chat { "chat.completion.chunk" } else { "text_completion" };
        self.envelope(object, choices)
    }

    fn envelope(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.server.name, "choices": choices,
        })
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        })
    }

    /// Log-probabilities of the tokens since the last time.
    fn logprobs(&mut self, index: usize) -> Value {
        if self.top_logprobs.is_none() {
            return Value::Null;
        }
        let tokens = std::mem::take(&mut self.choices[index].tokens);
        match self.form {
            Form::Chat => {
                let entry = |id, logprob| {
                    let text = self.spelled(id);
                    let bytes: Vec<u8> = text.bytes().collect();
                    json!({ "token": text, "logprob": logprob, "bytes": bytes })
                };
                let entry_with_top = |token: &Token| {
                    let mut value = entry(token.id, token.logprob);
                    value["top_logprobs"] = token.top.iter().map(|other| entry(other.id, other.logprob)).collect();
                    value
                };
                json!({ "content": tokens.iter().map(entry_with_top).collect::<Vec<_>>(), "refusal": null })
            }
            Form::Text => self.text_logprobs(index, &tokens),
        }
    }

    /// The older form: four lists of one length.
    fn text_logprobs(&mut self, index: usize, tokens: &[Token]) -> Value {
        let texts: Vec<String> = tokens.iter().map(|token| self.spelled(token.id)).collect();
        let top = |token: &Token| -> Value {
            let pairs = token.top.iter().map(|other| (self.spelled(other.id), other.logprob.into()));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        let tops: Vec<Value> = tokens.iter().map(top).collect();
        let offset = &mut self.choices[index].offset;
        let offsets: Vec<usize> = texts
            .iter()
            .map(|text| {
                let start = *offset;
                *offset += text.chars().count();
                start
            })
            .collect();
        let logprobs: Vec<f32> = tokens.iter().map(|token| token.logprob).collect();
        json!({ "tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets })
    }

    fn spelled(&self, id: u32) -> String {
        let tokenizer = &self.server.tokenizer;
        // Part of a character has no text of its own.
        tokenizer.decode(&[id], DecodeMode::KeepSpecialTokens).unwrap_or_default()
    }
}

/// Whether a request offers tools that the model was taught to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tools {
    None,
    Offered,
}

impl Choice {
    /// Takes more of the text: gives what is text to the reader, and keeps calls.
    fn tell(&mut self, text: String, next_id: impl Fn() -> String) -> String {
        let Some(tool_calls) = &mut self.tool_calls else { return text };
        let mut parts = tool_calls.push(&text);
        if self.finish_reason.is_some() {
            parts.extend(tool_calls.finish());
        }
        let mut told = String::new();
        for part in parts {
            match part {
                AnswerPart::Text(text) => told.push_str(&text),
                AnswerPart::Call(call) => self.calls.push(described(&call, &next_id())),
            }
        }
        told
    }

    /// Why it ended, by OpenAI's name.
    fn reason(&self) -> Option<&'static str> {
        Some(match self.finish_reason? {
            FinishReason::Stop if !self.calls.is_empty() => "tool_calls",
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        })
    }
}

/// A call as OpenAI spells it: the arguments are JSON in a string.
fn described(call: &ToolCall, id: &str) -> Value {
    let arguments = Value::Object(call.arguments.clone()).to_string();
    json!({ "id": id, "type": "function", "function": { "name": call.name, "arguments": arguments } })
}

/// A call in a piece of a stream, which says which of the calls it is.
fn numbered((call, index): (&Value, usize)) -> Value {
    let mut call = call.clone();
    call["index"] = index.into();
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_leave_the_text_and_say_why_it_ended() {
        let mut choice = Choice { tool_calls: Some(ToolCalls::default()), ..Choice::default() };
        let id = || "call-1".to_owned();
        assert_eq!(choice.tell("Let me see.\n<tool_call>\n{\"name\": \"f\", ".into(), id), "Let me see.");
        choice.finish_reason = Some(FinishReason::Stop);
        assert_eq!(choice.tell("\"arguments\": {\"x\": 1}}\n</tool_call>".into(), id), "");
        let function = json!({ "name": "f", "arguments": "{\"x\":1}" });
        assert_eq!(choice.calls, [json!({ "id": "call-1", "type": "function", "function": function })]);
        assert_eq!(choice.reason(), Some("tool_calls"));
        assert_eq!(numbered((&choice.calls[0], 2))["index"], 2);
        // What was cut off is no call that could be made, whatever came before.
        choice.finish_reason = Some(FinishReason::Length);
        assert_eq!(choice.reason(), Some("length"));
    }

    #[test]
    fn without_tools_the_tags_are_text() {
        let mut choice = Choice { finish_reason: Some(FinishReason::Stop), ..Choice::default() };
        let text = "<tool_call>{\"name\": \"f\"}</tool_call>";
        assert_eq!((choice.tell(text.into(), String::new).as_str(), choice.reason()), (text, Some("stop")));
    }
}
