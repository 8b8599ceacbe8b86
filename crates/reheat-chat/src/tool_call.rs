//! Calls of tools in what a model wrote, in the form that the templates of Qwen and Hermes teach.

use serde_json::{Map, Value};

/// What comes before a call.
const OPEN: &str = "<tool_call>";
/// What comes after it.
const CLOSE: &str = "</tool_call>";

/// A model's wish that a tool be called.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Name of the tool.
    pub name: String,
    /// Arguments by name.
    pub arguments: Map<String, Value>,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerPart {
    /// Text for the reader.
    Text(String),
    /// A call.
    Call(ToolCall),
}

/// Tells calls from text in an answer that arrives in pieces.
///
/// A call is a JSON object with `name` and `arguments` between `<tool_call>` and `</tool_call>`; the last one may lack its
/// end. Whitespace around calls is no text. What is between the tags and is no such object stays text, tags included.
///
/// ```
/// use reheat_chat::{AnswerPart, ToolCalls};
///
/// let mut calls = ToolCalls::default();
/// assert_eq!(calls.push("Let me see.\n<tool"), [AnswerPart::Text("Let me see.".into())]);
/// let parts = calls.push("_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>");
/// let [AnswerPart::Call(call)] = parts.as_slice() else { panic!("{parts:?}") };
/// assert_eq!((call.name.as_str(), call.arguments["city"].as_str()), ("weather", Some("Oslo")));
/// assert!(calls.finish().is_empty());
/// ```
#[derive(Debug, Clone, Default)]
pub struct ToolCalls {
    /// Text that may turn out to belong to a call.
    held: String,
    /// Whether `held` begins inside a call.
    is_inside: bool,
    /// Whitespace before it.
    gap: String,
    /// Whether the last part was a call.
    after_call: bool,
}

impl ToolCalls {
    /// Whether a template teaches this form.
    #[must_use]
    pub fn are_taught_by(template: &str) -> bool {
        template.contains(OPEN)
    }

    /// Takes the next piece and gives what is certain now.
    pub fn push(&mut self, piece: &str) -> Vec<AnswerPart> {
        self.held.push_str(piece);
        let mut parts = Vec::new();
        loop {
            if self.is_inside {
                let Some(end) = self.held.find(CLOSE) else { return parts };
                let body: String = self.held.drain(..end + CLOSE.len()).collect();
                self.is_inside = false;
                self.close(&body[..end], CLOSE, &mut parts);
            } else if let Some(start) = self.held.find(OPEN) {
                let text: String = self.held.drain(..start + OPEN.len()).collect();
                self.is_inside = true;
                let told = text[..start].trim_end();
                self.gap = text[told.len()..start].to_owned();
                self.tell(told, &mut parts);
            } else {
                let certain = self.held[..self.held.len() - start_of_tag(&self.held)].trim_end().len();
                let rest = self.held.split_off(certain);
                let text = std::mem::replace(&mut self.held, rest);
                self.tell(&text, &mut parts);
                return parts;
            }
        }
    }

    /// What is left when no more text comes.
    pub fn finish(&mut self) -> Vec<AnswerPart> {
        let mut parts = Vec::new();
        let rest = std::mem::take(&mut self.held);
        if std::mem::take(&mut self.is_inside) {
            self.close(&rest, "", &mut parts);
        } else {
            self.tell(&rest, &mut parts);
        }
        parts
    }

    fn close(&mut self, body: &str, end: &str, parts: &mut Vec<AnswerPart>) {
        match read(body) {
            Some(call) => {
                parts.push(AnswerPart::Call(call));
                self.after_call = true;
            }
            None => self.tell(&format!("{}{OPEN}{body}{end}", self.gap), parts),
        }
    }

    fn tell(&mut self, text: &str, parts: &mut Vec<AnswerPart>) {
        let text = if self.after_call { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        self.after_call = false;
        match parts.last_mut() {
            Some(AnswerPart::Text(last)) => last.push_str(text),
            _ => parts.push(AnswerPart::Text(text.to_owned())),
        }
    }
}

/// Bytes at the end of the text that are the start of a tag.
fn start_of_tag(text: &str) -> usize {
    (1..OPEN.len()).rev().find(|len| text.ends_with(&OPEN[..*len])).unwrap_or(0)
}

fn read(body: &str) -> Option<ToolCall> {
    let Ok(Value::Object(mut object)) = serde_json::from_str(body.trim()) else { return None };
    let Some(Value::String(name)) = object.remove("name") else { return None };
    let arguments = match object.remove("arguments") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        // Some models write the arguments as text of their own.
        Some(Value::String(text)) => serde_json::from_str(&text).ok()?,
        Some(_) => return None,
    };
    Some(ToolCall { name, arguments })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// All parts of an answer in pieces of `len` characters, adjacent texts joined.
    fn parts_of(answer: &str, len: usize) -> Vec<AnswerPart> {
        let characters: Vec<char> = answer.chars().collect();
        let mut calls = ToolCalls::default();
        let mut all = Vec::new();
        for piece in characters.chunks(len) {
            all.extend(calls.push(&piece.iter().collect::<String>()));
        }
        all.extend(calls.finish());
        all.into_iter().fold(Vec::new(), |mut joined, part| {
            match (joined.last_mut(), part) {
                (Some(AnswerPart::Text(text)), AnswerPart::Text(more)) => text.push_str(&more),
                (_, part) => joined.push(part),
            }
            joined
        })
    }

    fn check(answer: &str, expected: &[AnswerPart]) {
        for len in 1..=answer.chars().count().max(1) {
            assert_eq!(parts_of(answer, len), expected, "in pieces of {len}");
        }
    }

    fn text(text: &str) -> AnswerPart {
        AnswerPart::Text(text.into())
    }

    fn call(name: &str, arguments: Value) -> AnswerPart {
        let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
        AnswerPart::Call(ToolCall { name: name.into(), arguments })
    }

    #[test]
    fn calls_are_told_from_text_however_the_answer_is_cut() {
        let one = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, \"é\"]}}\n</tool_call>";
        let f = || call("f", json!({ "x": [1, "é"] }));
        check(one, &[f()]);
        check(&format!("First.\n{one}\n{one}"), &[text("First."), f(), f()]);
        check(&format!("{one}\n\nDone."), &[f(), text("Done.")]);
        check("<tool_call>{\"name\": \"now\"}</tool_call>", &[call("now", json!({}))]);
        check("<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}", &[call("f", json!({ "a": 1 }))]);
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for answer in [
            "1 < 2 and <tool is no tag\n",
            "Well,\n<tool_call>\nnot JSON\n</tool_call>",
            "<tool_call>{\"arguments\": {}}</tool_call>",
            "<tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call> and more ",
            "<tool_call>{\"name\": \"f\", \"argu",
        ] {
            check(answer, &[text(answer)]);
        }
        check("", &[]);
    }

    proptest! {
        #[test]
        fn text_without_a_tag_comes_out_as_it_went_in(answer in "[a-z<_ \n>]{1,40}", len in 1usize..8) {
            prop_assume!(!answer.contains(OPEN));
            prop_assert_eq!(parts_of(&answer, len), [text(&answer)]);
        }
    }
}
