//! What is continued, and where it comes from.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use reheat_chat::{Conversation, Message, RenderOptions};
use serde_json::{Map, Value};

use super::{GenerateArgs, Speaker};
use crate::fault::Fault;

/// Something to continue.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prompt {
    kind: Kind,
    /// File and line, for error messages.
    place: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Text(String),
    Conversation(Box<Conversation>),
    Ids(Vec<u32>),
}

/// The prompts that the command line asks for.
pub(super) fn read_prompts(args: &GenerateArgs) -> anyhow::Result<Vec<Prompt>> {
    let of_text = |text: String| match args.chat {
        true => Kind::Conversation(Box::new(Conversation::new(vec![Message::new("user", text)]))),
        false => Kind::Text(text),
    };
    if let Some(path) = &args.prompts {
        return read_file(path, &of_text);
    }
    let text = match args.prompt.as_deref() {
        Some("-") | None => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Fault::input("cannot read stdin as text").because(error))?;
            text.trim_end_matches('\n').to_owned()
        }
        Some(text) => text.to_owned(),
    };
    Ok(vec![Prompt { kind: of_text(text), place: "the prompt".into() }])
}

/// A line for each prompt; empty ones are none.
fn read_file(path: &Path, of_text: &dyn Fn(String) -> Kind) -> anyhow::Result<Vec<Prompt>> {
    let text = fs::read_to_string(path)
        .map_err(|error| Fault::input(format!("cannot read `{}`", path.display())).because(error))?;
    let is_json = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "json");
    let mut prompts = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{}:{}", path.display(), number + 1);
        let kind = if is_json { from_json(line, &place, of_text)? } else { of_text(line.to_owned()) };
        prompts.push(Prompt { kind, place });
    }
    if prompts.is_empty() {
        return Err(Fault::input(format!("`{}` holds no prompts", path.display())).into());
    }
    Ok(prompts)
}

/// One line of a .jsonl file.
fn from_json(line: &str, place: &str, of_text: &dyn Fn(String) -> Kind) -> anyhow::Result<Kind> {
    let row: Map<String, Value> = serde_json::from_str(line)
        .map_err(|error| Fault::input(format!("{place}: expected a JSON object on each line")).because(error))?;
    let conversation = |value: Value| {
        Conversation::from_json(value).map(|conversation| Kind::Conversation(Box::new(conversation))).map_err(|error| {
            anyhow::Error::from(Fault::input(format!("{place}: the messages cannot be read")).because(error))
        })
    };
    if let Some(ids) = row.get("input_ids") {
        let ids = serde_json::from_value(ids.clone())
            .map_err(|error| Fault::input(format!("{place}: `input_ids` are no token ids")).because(error))?;
        return Ok(Kind::Ids(ids));
    }
    if row.contains_key("messages") {
        return conversation(Value::Object(row));
    }
    match row.get("prompt").or_else(|| row.get("text")) {
        Some(Value::String(text)) => Ok(of_text(text.clone())),
        Some(messages @ Value::Array(_)) => conversation(messages.clone()),
        _ => {
            let keys: Vec<&str> = row.keys().map(String::as_str).collect();
            let message = format!("{place}: there is no prompt; the keys are {}", keys.join(", "));
            Err(Fault::input(message).hint("a row has `prompt`, `messages`, `text` or `input_ids`").into())
        }
    }
}

impl Prompt {
    /// Its tokens for one model.
    pub(super) fn ids(&self, speaker: &Speaker) -> anyhow::Result<Vec<u32>> {
        let ids = match &self.kind {
            Kind::Text(text) => speaker.tokenizer.encode_with_special_tokens(text)?.ids,
            Kind::Ids(ids) => ids.clone(),
            Kind::Conversation(conversation) => {
                let Some(template) = speaker.source.template(&speaker.tokenizer)? else {
                    let model = speaker.source.given();
                    return Err(Fault::input(format!(
                        "`{model}` has no chat template, and {} is a conversation",
                        self.place
                    ))
                    .hint("a base model continues plain text; `reheat sft` teaches it to answer")
                    .into());
                };
                let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
                let rendered = template
                    .render(conversation, &options)
                    .map_err(|error| Fault::input(format!("{}: the template fails", self.place)).because(error))?;
                speaker.tokenizer.encode_literal(&rendered.text, &rendered.literal_spans)?.ids
            }
        };
        if ids.is_empty() {
            return Err(Fault::input(format!("{} has no tokens", self.place))
                .hint("a model needs at least one token to go on from")
                .into());
        }
        Ok(ids)
    }

    /// What stands before the completion: a text is continued, and a question is answered on its own line.
    pub(super) fn shown(&self, ids: &[u32], speaker: &Speaker) -> anyhow::Result<String> {
        Ok(match &self.kind {
            Kind::Text(text) => text.clone(),
            Kind::Conversation(_) => String::new(),
            Kind::Ids(_) => speaker.tokenizer.decode(ids, reheat_tokenizer::DecodeMode::KeepSpecialTokens)?,
        })
    }

    /// How it is named among others.
    pub(super) fn title(&self) -> String {
        match &self.kind {
            Kind::Text(text) => text.clone(),
            Kind::Conversation(conversation) => {
                conversation.messages.last().and_then(|message| message.text()).unwrap_or_default().to_owned()
            }
            Kind::Ids(ids) => format!("{} ids", ids.len()),
        }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_line(line: &str) -> Result<Kind, String> {
        from_json(line, "a.jsonl:3", &Kind::Text).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_say_what_they_are_by_their_keys() {
        assert_eq!(of_line(r#"{"prompt": "Hi"}"#), Ok(Kind::Text("Hi".into())));
        assert_eq!(of_line(r#"{"text": "Hi", "n": 1}"#), Ok(Kind::Text("Hi".into())));
        assert_eq!(of_line(r#"{"input_ids": [3, 1]}"#), Ok(Kind::Ids(vec![3, 1])));
        for row in [
            r#"{"messages": [{"role": "user", "content": "Hi"}]}"#,
            r#"{"prompt": [{"role": "user", "content": "Hi"}]}"#,
        ] {
            assert!(matches!(of_line(row), Ok(Kind::Conversation(_))), "{row}");
        }
    }

    #[test]
    fn bad_rows_are_named_by_file_and_line() {
        assert_eq!(of_line("[1]"), Err("a.jsonl:3: expected a JSON object on each line".into()));
        assert_eq!(of_line(r#"{"a": 1, "b": 2}"#), Err("a.jsonl:3: there is no prompt; the keys are a, b".into()));
        assert_eq!(of_line(r#"{"input_ids": ["x"]}"#), Err("a.jsonl:3: `input_ids` are no token ids".into()));
        assert_eq!(of_line(r#"{"messages": 1}"#), Err("a.jsonl:3: the messages cannot be read".into()));
    }
}
