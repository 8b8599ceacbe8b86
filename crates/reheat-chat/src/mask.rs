//! Which characters the assistant wrote.
//!
//! A template with `{% generation %}` markers says so itself. For any other it is found out, and proved for the
//! conversation at hand, by rendering the conversation once more with the assistant's messages replaced by marks:
//!
//! ```text
//! the conversation   <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n
//! with marks         <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n
//! ```
//!
//! What lies around the marks doesn't depend on what the assistant says. If the text of the conversation has the same
//! pieces in the same order, with something in place of each mark, then that something is what became of the
//! assistant's message. It begins where the model begins to write: after the generation prompt, if the template has
//! one there, so that what the template puts before the content (an empty `<think>` block) counts. It ends with the
//! token that ends the turn, and not with the line break after it.

use std::ops::Range;

use serde_json::{Value, json};

use crate::{ChatError, Conversation, Message, TemplateTokens, markers::absent_letters};

/// What the assistant wrote in one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssistantSpan {
    /// Bytes of the text.
    pub bytes: Range<usize>,
    /// Position of the message in the conversation, where that is known: always, unless the template marks a message
    /// in several parts.
    pub message: Option<usize>,
}

/// How a template builds an assistant's turn, found out once for each set of template variables.
#[derive(Debug, Clone, Default)]
pub(crate) struct TurnShape {
    /// What `add_generation_prompt` appends.
    generation_prompt: String,
    /// What a turn may have between the generation prompt and the content.
    preambles: Vec<String>,
    /// What ends a turn. Some templates end the last turn with another token than the ones before.
    ends: Vec<String>,
    /// Whether a conversation rendered with a generation prompt ends where the assistant begins to write, if the
    /// message goes on from there at all.
    prompt_fits: bool,
    /// Whether the template renders a plain conversation at all.
    is_known: bool,
}

/// Renders conversations, with the options of the call at hand.
pub(crate) trait Render {
    fn render(&self, conversation: &Conversation, prompt: Prompt) -> Result<String, ChatError>;
    fn source(&self) -> &str;
    fn tokens(&self) -> &TemplateTokens;
}

/// Whether a rendering ends with what makes the model begin an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Prompt {
    With,
    Without,
}

impl TurnShape {
    /// Looks at a plain conversation of two turns. Where the template refuses it, nothing is known.
    pub(crate) fn probe(template: &dyn Render, like: &Conversation) -> Self {
        let with = |messages: Vec<Message>| Conversation {
            messages,
            tools: None,
            documents: None,
            template_kwargs: like.template_kwargs.clone(),
        };
        let Some([a, b]) = absent_letters(template.source(), like) else { return Self::default() };
        let (first, second) = (a.to_string(), b.to_string());
        let as_list = speaks_in_parts(like);
        let message = |role: &str, text: &str| said(role, text, as_list);
        let question = with(vec![message("user", "Q")]);
        let prompted = template.render(&question, Prompt::With).unwrap_or_default();
        let generation_prompt = match template.render(&question, Prompt::Without) {
            Ok(without) => prompted.strip_prefix(&without).unwrap_or_default().to_owned(),
            Err(_) => String::new(),
        };
        let turns = with(vec![
            message("user", "Q"),
            message("assistant", &first),
            message("user", "Q"),
            message("assistant", &second),
        ]);
        let text = template.render(&turns, Prompt::Without).unwrap_or_default();
        let Some((before, rest)) = text.split_once(&first) else {
            return Self { generation_prompt, ..Self::default() };
        };
        let Some((between, after)) = rest.split_once(&second) else {
            return Self { generation_prompt, ..Self::default() };
        };
        let mut preambles: Vec<String> = Vec::new();
        if !generation_prompt.trim().is_empty() {
            for header in [before, between] {
                if let Some(at) = header.rfind(&generation_prompt) {
                    preambles.push(header[at + generation_prompt.len()..].to_owned());
                }
            }
        }
        let prompt_fits = !prompted.is_empty()
            && match before.strip_prefix(&prompted) {
                Some(rest) => rest.trim().is_empty() || preambles.iter().any(|preamble| preamble == rest),
                // A prompt for thinking fits no answer without a thought; whether it fits one is seen at the message.
                None => !generation_prompt.trim().is_empty(),
            };
        // Space alone is the template's; a token that it shares with the content is trained all the same.
        preambles.retain(|preamble| !preamble.trim().is_empty());
        preambles.sort_unstable();
        preambles.dedup();
        let ends = turn_ends(between, after, template.tokens());
        Self { generation_prompt, preambles, ends, prompt_fits, is_known: true }
    }

    /// Where the assistant begins to write in the text before its content.
    fn start(&self, header: &str) -> usize {
        let preambles = self.preambles.iter().filter(|preamble| {
            header.strip_suffix(preamble.as_str()).is_some_and(|rest| rest.ends_with(&self.generation_prompt))
        });
        header.len() - preambles.map(String::len).max().unwrap_or(0)
    }

    /// Length of what ends the turn at the start of the text after the content.
    fn end(&self, rest: &str, tokens: &TemplateTokens) -> Option<usize> {
        if self.is_known {
            return self.ends.iter().filter(|end| rest.starts_with(end.as_str())).map(String::len).max();
        }
        let trimmed = rest.trim_start();
        token_at_start(trimmed, tokens).map(|length| rest.len() - trimmed.len() + length)
    }

    /// Length of `text` without what follows the token that ends its last turn.
    fn trim_after_end(&self, text: &str, template: &dyn Render) -> Option<usize> {
        let trimmed = text.trim_end();
        // A template that ends its turns with tokens may have another one for a tool call.
        let last = trimmed.rfind(['<', '[']).map_or("", |at| &trimmed[at..]);
        if !self.ends.is_empty() && bracketed(last) == Some(last.len()) && template.source().contains(last) {
            return Some(trimmed.len());
        }
        let tokens = template.tokens();
        let known = tokens.special.iter().chain(&tokens.added).chain(&self.ends);
        known
            .filter(|token| !token.trim().is_empty())
            .any(|token| trimmed.ends_with(token.as_str()))
            .then_some(trimmed.len())
    }
}

/// What ends a turn, by the text after the content in the middle of a conversation and at its end: the tokens that are
/// in both, with the space before them; else the first of each, where both begin with one.
fn turn_ends(between: &str, after: &str, tokens: &TemplateTokens) -> Vec<String> {
    let first = |text: &str| {
        let space = text.len() - text.trim_start().len();
        let known = token_at_start(&text[space..], tokens).or_else(|| bracketed(&text[space..]))?;
        Some(space + known)
    };
    let (Some(middle), Some(last)) = (first(between), first(after)) else { return Vec::new() };
    if between[..middle] != after[..last] {
        return vec![between[..middle].to_owned(), after[..last].to_owned()];
    }
    let mut length = middle;
    while let Some(token) = token_at_start(&between[length..], tokens).or_else(|| bracketed(&between[length..])) {
        if after.get(length..length + token) != between.get(length..length + token) {
            break;
        }
        length += token;
    }
    vec![between[..length].to_owned()]
}

/// Length of what looks like a token, such as `<|im_end|>` or `[/INST]`, at the start of `text`.
fn bracketed(text: &str) -> Option<usize> {
    let close = match text.chars().next()? {
        '<' => '>',
        '[' => ']',
        _ => return None,
    };
    let end = text.find(|character: char| character == close || character.is_whitespace())?;
    text[end..].starts_with(close).then_some(end + 1)
}

/// Length of the longest known token at the start of `text`.
fn token_at_start(text: &str, tokens: &TemplateTokens) -> Option<usize> {
    let known = tokens.special.iter().chain(&tokens.added).filter(|token| !token.trim().is_empty());
    known.filter(|token| text.starts_with(token.as_str())).map(String::len).max()
}

/// Whether the assistant's content is lists of typed parts, which some templates insist on.
pub(crate) fn speaks_in_parts(conversation: &Conversation) -> bool {
    conversation.messages.iter().any(|message| message.is_assistant() && has_parts(message))
}

fn has_parts(message: &Message) -> bool {
    message.fields.get("content").is_some_and(Value::is_array)
}

fn said(role: &str, text: &str, as_list: bool) -> Message {
    let mut message = Message::new(role, text);
    if as_list {
        message.fields.insert("content".to_owned(), json!([{"type": "text", "text": text}]));
    }
    message
}

/// The assistant's spans in `text`, which is the rendering of `conversation`.
pub(crate) fn derive(
    template: &dyn Render,
    shape: &TurnShape,
    conversation: &Conversation,
    text: &str,
) -> Result<Vec<AssistantSpan>, ChatError> {
    let turns: Vec<usize> = conversation
        .messages
        .iter()
        .enumerate()
        .filter(|(_, message)| message.is_assistant())
        .map(|(index, _)| index)
        .collect();
    if turns.is_empty() {
        return Ok(Vec::new());
    }
    let deriver = Deriver { template, shape, conversation, text };
    if let Some(spans) = deriver.by_marks(&turns) {
        return Ok(spans);
    }
    // One message at a time asks for less: the others, of which this one's surroundings may depend, stay.
    let mut spans = Vec::with_capacity(turns.len());
    let mut end = 0;
    for &turn in &turns {
        let unproved = |reason: &str| ChatError::Unproved { message: turn, reason: reason.to_owned() };
        let span = deriver.by_mark(turn).or_else(|| deriver.by_prefix(turn));
        let span = span.ok_or_else(|| unproved(deriver.reason(turn)))?;
        if span.bytes.start < end {
            return Err(unproved("its text overlaps that of the message before"));
        }
        end = span.bytes.end;
        spans.push(span);
    }
    Ok(spans)
}

struct Deriver<'a> {
    template: &'a dyn Render,
    shape: &'a TurnShape,
    conversation: &'a Conversation,
    text: &'a str,
}

impl Deriver<'_> {
    /// The text with marks in place of the messages `turns`, cut at the marks.
    fn surroundings(&self, turns: &[usize]) -> Option<Vec<String>> {
        let [open, close] = absent_letters(self.template.source(), self.conversation)?;
        let mut marked = self.conversation.clone();
        let marks: Vec<String> = (0..turns.len()).map(|index| format!("{open}{index}{close}")).collect();
        for (&turn, mark) in turns.iter().zip(&marks) {
            let message = &mut marked.messages[turn];
            *message = said("assistant", mark, has_parts(message));
        }
        let text = self.template.render(&marked, Prompt::Without).ok()?;
        let mut pieces = Vec::with_capacity(turns.len() + 1);
        let mut rest = text.as_str();
        for mark in &marks {
            let (before, after) = rest.split_once(mark.as_str())?;
            pieces.push(before.to_owned());
            rest = after;
        }
        pieces.push(rest.to_owned());
        // A mark that shows twice is no place.
        pieces.iter().all(|piece| !piece.contains([open, close])).then_some(pieces)
    }

    fn by_marks(&self, turns: &[usize]) -> Option<Vec<AssistantSpan>> {
        let pieces = self.surroundings(turns)?;
        let starts: Vec<usize> = pieces.iter().map(|piece| self.shape.start(piece)).collect();
        if !self.text.starts_with(&pieces[0][..starts[0]]) || !self.text.ends_with(pieces.last()?.as_str()) {
            return None;
        }
        let last_end = self.text.len() - pieces.last()?.len();
        let mut start = starts[0];
        let mut spans = Vec::with_capacity(turns.len());
        for (index, &turn) in turns.iter().enumerate() {
            let is_last = index + 1 == turns.len();
            // The last piece is the end of the text; each other one must occur once, or its place is open to doubt.
            let piece = if is_last { pieces[index + 1].as_str() } else { &pieces[index + 1][..starts[index + 1]] };
            let end = if is_last {
                last_end
            } else {
                let rest = self.text.get(start..last_end)?;
                let at = rest.find(piece)?;
                let again = at + rest[at..].chars().next().map_or(1, char::len_utf8);
                if rest[again..].contains(piece) && !self.is_content(turn, &rest[..at], rest, piece) {
                    return None;
                }
                start + at
            };
            if end < start {
                return None;
            }
            let length = self.shape.end(&pieces[index + 1], self.template.tokens())?;
            spans.push(AssistantSpan { bytes: start..end + length, message: Some(turn) });
            start = end + piece.len();
        }
        Some(spans)
    }

    /// Whether `written`, up to the first place where `piece` could be, is all that the message says, so that later
    /// places are out of the question: the message's text isn't longer.
    fn is_content(&self, turn: usize, written: &str, rest: &str, piece: &str) -> bool {
        let message = &self.conversation.messages[turn];
        let plain = message.fields.keys().all(|key| key == "role" || key == "content");
        match message.text() {
            Some(content) if plain && !content.trim().is_empty() => {
                written.ends_with(content.trim())
                    && !content.contains(piece)
                    && rest.find(content.trim()).is_some_and(|at| at < written.len())
            }
            _ => false,
        }
    }

    /// Only the message `turn` is replaced: what comes before the mark and what comes after it must be the beginning
    /// and the end of the text, and between them nothing is left to doubt.
    fn by_mark(&self, turn: usize) -> Option<AssistantSpan> {
        let pieces = self.surroundings(&[turn])?;
        let [before, after] = pieces.as_slice() else { return None };
        let start = self.shape.start(before);
        let end = self.text.len().checked_sub(after.len())?;
        let proved = start <= end && self.text.starts_with(&before[..start]) && self.text.ends_with(after.as_str());
        let length = self.shape.end(after, self.template.tokens())?;
        proved.then(|| AssistantSpan { bytes: start..end + length, message: Some(turn) })
    }

    /// The conversation up to the message, with a generation prompt and with the message: if the text begins with
    /// both, the message is what the second has and the first lacks.
    fn by_prefix(&self, turn: usize) -> Option<AssistantSpan> {
        if !self.shape.prompt_fits {
            return None;
        }
        let up_to = |count: usize, prompt: Prompt| {
            let messages = self.conversation.messages[..count].to_vec();
            self.template.render(&Conversation { messages, ..self.conversation.clone() }, prompt).ok()
        };
        let before = up_to(turn, Prompt::With)?;
        let after = up_to(turn + 1, Prompt::Without)?;
        let end = self.shape.trim_after_end(&after, self.template)?;
        let proved = self.text.starts_with(&before) && self.text.starts_with(&after) && before.len() < end;
        proved.then_some(AssistantSpan { bytes: before.len()..end, message: Some(turn) })
    }

    fn reason(&self, turn: usize) -> &'static str {
        match self.surroundings(&[turn]) {
            None => "the template refuses another text in its place, or leaves it out",
            Some(_) if self.shape.is_known && self.shape.ends.is_empty() => {
                "the template ends the assistant's turn with no token of its own, so a model would never learn to stop"
            }
            Some(pieces) if self.shape.end(&pieces[1], self.template.tokens()).is_none() => {
                "the template puts other text between the content and the end of the turn"
            }
            Some(_) => "the text around it depends on what it says",
        }
    }
}
