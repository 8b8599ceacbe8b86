//! Control tokens that a message spells, and where they end up in the text.
//!
//! Each is enclosed in a pair of marks, the template is rendered once more, and the marks are taken out again. If what
//! remains is the text of the plain rendering, then every mark stands where its token went, and the tokens between
//! marks, and only they, came from a message.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::{ChatError, Conversation, Message, TemplateTokens, markers::absent_letters};

/// Finds control tokens in messages.
#[derive(Debug)]
pub(crate) struct ControlTokenFinder {
    /// In messages of the assistant: special tokens. A model's own `<think>` is meant.
    assistant: AhoCorasick,
    /// Elsewhere: special tokens, and added tokens of which the template builds its turns.
    others: AhoCorasick,
}

impl ControlTokenFinder {
    /// `plain_text` is a rendering of a plain conversation, which shows the tokens that make up turns.
    pub(crate) fn new(tokens: &TemplateTokens, plain_text: &str) -> Self {
        let special: Vec<&str> = tokens.special.iter().map(String::as_str).filter(|token| !token.is_empty()).collect();
        // Some tokenizers have added tokens that are ordinary whitespace.
        let turns = tokens.added.iter().map(String::as_str);
        let turns = turns.filter(|token| !token.trim().is_empty() && plain_text.contains(token));
        let others: Vec<&str> = special.iter().copied().chain(turns).collect();
        Self { assistant: automaton(&special), others: automaton(&others) }
    }

    fn of(&self, message: &Message) -> &AhoCorasick {
        if message.is_assistant() { &self.assistant } else { &self.others }
    }

    /// The first control token that the conversation spells.
    pub(crate) fn find(&self, conversation: &Conversation) -> Option<String> {
        let mut found = None;
        let mut look = |automaton: &AhoCorasick, value: &Value| {
            visit(value, &mut |text| {
                if found.is_none() {
                    found = automaton.find(text).map(|found| text[found.range()].to_owned());
                }
            });
        };
        for message in &conversation.messages {
            message.fields.values().for_each(|value| look(self.of(message), value));
        }
        let rest = conversation.tools.iter().flatten().chain(conversation.documents.iter().flatten());
        rest.chain(conversation.template_kwargs.values()).for_each(|value| look(&self.others, value));
        found
    }

    /// Where the control tokens of the conversation's strings are in its `text`. `render` renders a conversation.
    pub(crate) fn spans(
        &self,
        conversation: &Conversation,
        source: &str,
        text: &str,
        render: impl Fn(&Conversation) -> Result<String, ChatError>,
    ) -> Result<Vec<Range<usize>>, ChatError> {
        let Some(token) = self.find(conversation) else { return Ok(Vec::new()) };
        let marked = absent_letters(source, conversation)
            .and_then(|marks| Some((marks, render(&self.mark(conversation, marks)).ok()?)));
        match marked.and_then(|(marks, marked)| unmark(&marked, marks)) {
            Some((unmarked, spans)) if unmarked == text => Ok(spans),
            _ => Err(ChatError::ControlToken { token }),
        }
    }

    fn mark(&self, conversation: &Conversation, marks: [char; 2]) -> Conversation {
        let mut marked = conversation.clone();
        for message in &mut marked.messages {
            let automaton = self.of(message).clone();
            message.fields.values_mut().for_each(|value| mark(value, &automaton, marks));
        }
        let rest = marked.tools.iter_mut().flatten().chain(marked.documents.iter_mut().flatten());
        for value in rest.chain(marked.template_kwargs.values_mut()) {
            mark(value, &self.others, marks);
        }
        marked
    }
}

fn automaton(tokens: &[&str]) -> AhoCorasick {
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(tokens)
        .expect("the tokens of one tokenizer make a small automaton")
}

fn visit(value: &Value, look: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => look(text),
        Value::Array(items) => items.iter().for_each(|item| visit(item, look)),
        Value::Object(fields) => fields.values().for_each(|field| visit(field, look)),
        _ => {}
    }
}

fn mark(value: &mut Value, automaton: &AhoCorasick, [open, close]: [char; 2]) {
    match value {
        Value::String(text) if automaton.is_match(&*text) => {
            let mut marked = String::with_capacity(text.len() + 16);
            let mut done = 0;
            for found in automaton.find_iter(&*text) {
                marked.push_str(&text[done..found.start()]);
                marked.push(open);
                marked.push_str(&text[found.range()]);
                marked.push(close);
                done = found.end();
            }
            marked.push_str(&text[done..]);
            *text = marked;
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mark(item, automaton, [open, close])),
        Value::Object(fields) => fields.values_mut().for_each(|field| mark(field, automaton, [open, close])),
        _ => {}
    }
}

/// The text without marks, and what stood between them. `None` where a mark lost its fellow.
fn unmark(marked: &str, [open, close]: [char; 2]) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let mut spans = Vec::new();
    let mut start = None;
    for character in marked.chars() {
        if character == open {
            if start.replace(text.len()).is_some() {
                return None;
            }
        } else if character == close {
            spans.push(start.take()?..text.len());
        } else {
            text.push(character);
        }
    }
    start.is_none().then_some((text, spans))
}
