//! What a dataset holds, and what is odd about it.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use rayon::prelude::*;
use reheat_chat::ChatTemplate;
use reheat_tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    Conversion, ConversionOptions, ConvertedRow, DataError, Dataset, Example, Message, OnBadRow, PrepareOptions, Row,
    RowId, Spread, Turns, prepare::AnyKind,
};

/// Places that are named of each finding.
const NAMED: usize = 5;
/// Rows that are shown.
const SHOWN_ROWS: usize = 3;
/// Characters of a text that is shown.
const SHOWN_CHARACTERS: usize = 200;
/// Shapes of a column that are told apart.
const SHAPES: usize = 12;
/// Columns that are told apart.
const COLUMNS: usize = 200;

/// What a dataset holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Rows read.
    pub rows: u64,
    /// Rows that the dataset's filter left out.
    pub filtered: u64,
    /// Rows that were not drawn for the dataset's samples.
    pub not_sampled: u64,
    /// Each file with the format of its rows and why.
    pub files: Vec<InspectedFile>,
    /// Why the format can't be told, where that is so. The findings on examples are empty then.
    pub problem: Option<String>,
    /// The columns of the rows.
    pub columns: Vec<Column>,
    /// Examples by kind, in the words of TRL's documentation.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Messages by role.
    pub roles: BTreeMap<String, u64>,
    /// Messages of each conversation.
    pub turns: Option<Spread>,
    /// Characters of each example.
    pub characters: Option<Spread>,
    /// Tokens of each sequence, where there is a tokenizer. A preference has two sequences.
    pub tokens: Option<Spread>,
    /// Rows that can't be used, by reason.
    pub bad_rows: BTreeMap<&'static str, Finding>,
    /// Examples that another one repeats.
    pub duplicates: Finding,
    /// Messages that say nothing.
    pub empty_turns: Finding,
    /// Conversations in which the roles don't take turns as templates expect.
    pub roles_out_of_order: Finding,
    /// Conversations that don't end with the assistant.
    pub without_answer: Finding,
    /// The first rows as examples, long text shortened.
    pub examples: Vec<Row>,
}

/// A file and what its rows are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InspectedFile {
    /// The file.
    pub file: String,
    /// The format of its rows.
    pub format: crate::Format,
    /// How it was told.
    pub reason: String,
}

/// A column of the rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What its values are, and how many of each.
    pub shapes: BTreeMap<String, u64>,
    /// Rows without it.
    pub missing: u64,
}

/// Something odd.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Finding {
    /// How often it was found.
    pub count: u64,
    /// The first places.
    pub first: Vec<String>,
}

impl Finding {
    fn add(&mut self, place: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(place());
        }
    }
}

/// Reads a dataset and says what it holds.
///
/// With a tokenizer and a template, tokens are counted too. `progress` is told the number of rows done so far.
///
/// # Errors
/// If a file can't be read, or there is no row. Bad rows, and rows that fit several formats, are findings.
pub fn inspect(
    dataset: &Dataset,
    encoding: Option<(&Tokenizer, Option<&ChatTemplate>)>,
    options: &ConversionOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Inspection, DataError> {
    let prepare = PrepareOptions { max_length: None, ..PrepareOptions::default() };
    let any_kind = encoding.map(|(tokenizer, template)| AnyKind::new(tokenizer, template, &prepare)).transpose()?;
    let mut inspector = Inspector::default();
    let options = ConversionOptions { on_bad_row: OnBadRow::Skip, ..options.clone() };
    let mut conversion = Conversion::new(dataset, options);
    loop {
        let mut look = |row: &Row| inspector.columns.look(row);
        let rows = match conversion.next_chunk_looked_at(&mut look) {
            Ok(rows) => rows,
            Err(error @ DataError::AmbiguousFormat { .. }) => {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                let mut inspection = columns_only(dataset, progress)?;
                inspection.problem = Some(format!("{error}{hint}"));
                return Ok(inspection);
            }
            Err(error) => return Err(error),
        };
        if rows.is_empty() {
            break;
        }
        inspector.take(rows, any_kind.as_ref());
        progress(inspector.found.rows);
    }
    let mut found = inspector.finish();
    found.filtered = conversion.num_filtered();
    found.not_sampled = conversion.num_not_sampled();
    if found.rows == 0 && found.filtered == 0 {
        return Err(DataError::Empty { files: dataset.name().to_owned() });
    }
    let files = conversion.files().iter();
    let file = |(file, detection): &(String, crate::Detection)| InspectedFile {
        file: file.clone(),
        format: detection.format,
        reason: detection.reason.clone(),
    };
    found.files = files.map(file).collect();
    Ok(found)
}

/// What can be said of rows whose format isn't known.
fn columns_only(dataset: &Dataset, progress: &mut dyn FnMut(u64)) -> Result<Inspection, DataError> {
    let mut inspector = Inspector::default();
    let mut rows = dataset.rows();
    loop {
        let chunk = rows.next_chunk()?;
        if chunk.is_empty() {
            break;
        }
        for (id, row) in chunk.into_par_iter().map(crate::RawRow::parse).collect::<Vec<_>>() {
            inspector.found.rows += 1;
            match row {
                Ok(row) => inspector.columns.look(&row),
                Err(problem) => inspector.bad_row(&id, &problem),
            }
        }
        progress(inspector.found.rows);
    }
    Ok(inspector.finish())
}

#[derive(Default)]
struct Inspector {
    found: Inspection,
    columns: Columns,
    turns: Vec<u32>,
    characters: Vec<u32>,
    tokens: Vec<u32>,
    /// The first row of each example, by a digest of what it says.
    seen: HashMap<[u8; 16], RowId>,
}

/// What is found out about an example apart from the others.
struct Looked {
    digest: [u8; 16],
    characters: u32,
    tokens: Result<Vec<u32>, crate::RowProblem>,
    example: Example,
}

impl Looked {
    fn at(example: Example, any_kind: Option<&AnyKind>) -> Self {
        let tokens = any_kind.map_or(Ok(Vec::new()), |any_kind| any_kind.token_counts(example.clone()));
        let row = example.clone().into_row();
        let text = serde_json::to_string(&row).unwrap_or_default();
        let digest = Sha256::digest(text.as_bytes());
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        let characters = row.values().map(text_length).sum::<usize>();
        Self { digest: first, characters: u32::try_from(characters).unwrap_or(u32::MAX), tokens, example }
    }
}

impl Inspector {
    fn take(&mut self, rows: Vec<ConvertedRow>, any_kind: Option<&AnyKind>) {
        let looked: Vec<(RowId, Result<Vec<Looked>, crate::RowProblem>)> = rows
            .into_par_iter()
            .map(|(id, examples)| {
                let looked = examples
                    .map(|examples| examples.into_iter().map(|example| Looked::at(example, any_kind)).collect());
                (id, looked)
            })
            .collect();
        for (id, looked) in looked {
            self.found.rows += 1;
            match looked {
                Ok(examples) => examples.into_iter().for_each(|looked| self.example(&id, looked)),
                Err(problem) => self.bad_row(&id, &problem),
            }
        }
    }

    fn bad_row(&mut self, id: &RowId, problem: &crate::RowProblem) {
        self.found.bad_rows.entry(problem.reason()).or_default().add(|| format!("{id}: {problem}"));
    }

    fn example(&mut self, id: &RowId, looked: Looked) {
        let Looked { digest, characters, tokens, example } = looked;
        let found = &mut self.found;
        *found.kinds.entry(example.kind()).or_default() += 1;
        self.characters.push(characters);
        match tokens {
            Ok(tokens) => self.tokens.extend(tokens),
            Err(problem) => found.bad_rows.entry(problem.reason()).or_default().add(|| format!("{id}: {problem}")),
        }
        match self.seen.entry(digest) {
            Entry::Occupied(first) => found.duplicates.add(|| format!("{id} repeats {}", first.get())),
            Entry::Vacant(place) => drop(place.insert(id.clone())),
        }
        if let Some((messages, has_answer)) = conversation_of(&example) {
            self.turns.push(u32::try_from(messages.len()).unwrap_or(u32::MAX));
            for message in &messages {
                let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
                *found.roles.entry(role.to_owned()).or_default() += 1;
            }
            if let Some(index) = messages.iter().position(|message| says_nothing(message)) {
                found.empty_turns.add(|| format!("{id}: message {index}"));
            }
            if let Some(problem) = out_of_order(&messages) {
                found.roles_out_of_order.add(|| format!("{id}: {problem}"));
            }
            let ends = messages.last().and_then(|message| message.get("role"));
            if has_answer && ends.is_some_and(|role| role != "assistant") {
                found.without_answer.add(|| id.to_string());
            }
        }
        if found.examples.len() < SHOWN_ROWS {
            let mut row = example.into_row();
            row.values_mut().for_each(shorten);
            found.examples.push(row);
        }
    }

    fn finish(self) -> Inspection {
        let Self { mut found, columns, turns, characters, tokens, .. } = self;
        found.columns = columns.finish();
        found.turns = Spread::of(&turns);
        found.characters = Spread::of(&characters);
        found.tokens = Spread::of(&tokens);
        found
    }
}

/// The messages of an example in their order, and whether they should end with an answer.
fn conversation_of(example: &Example) -> Option<(Vec<&Message>, bool)> {
    let joined = |parts: &[&'_ Turns]| -> Option<()> {
        parts.iter().all(|part| matches!(part, Turns::Messages(_))).then_some(())
    };
    fn messages(turns: &Turns) -> &[Message] {
        match turns {
            Turns::Messages(messages) => messages,
            Turns::Text(_) => &[],
        }
    }
    match example {
        Example::Messages { messages, .. } => Some((messages.iter().collect(), true)),
        Example::PromptCompletion { prompt, completion, .. }
        | Example::UnpairedPreference { prompt, completion, .. } => {
            joined(&[prompt, completion])?;
            Some((messages(prompt).iter().chain(messages(completion)).collect(), true))
        }
        Example::Preference { prompt, chosen, .. } => {
            joined(&[chosen])?;
            let prompt = prompt.as_ref().map(messages).unwrap_or_default();
            Some((prompt.iter().chain(messages(chosen)).collect(), true))
        }
        Example::PromptOnly { prompt, .. } => {
            joined(&[prompt])?;
            Some((messages(prompt).iter().collect(), false))
        }
        Example::Text { .. } | Example::Stepwise { .. } | Example::Tokens { .. } => None,
    }
}

fn says_nothing(message: &Message) -> bool {
    let is_blank = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    message.iter().filter(|(key, _)| *key != "role" && *key != "name").all(|(_, value)| is_blank(value))
}

/// How roles take turns otherwise than in most templates: a system message first and alone, then user and assistant in
/// turns, with tools between an assistant's call and its answer.
fn out_of_order(messages: &[&Message]) -> Option<String> {
    let role = |message: &Message| message.get("role").and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_tool = |role: &str| matches!(role, "tool" | "function" | "ipython" | "tool_response");
    let mut before: Option<(String, bool)> = None; // the role, and whether it called a tool
    for (index, message) in messages.iter().enumerate() {
        let now = role(message);
        let calls = message.contains_key("tool_calls");
        let fits = match (&before, now.as_str()) {
            (_, "system" | "developer") => index == 0,
            (_, "documents") => true,
            (None, "user") => true,
            (None, _) => false,
            (Some((before, _)), "user") => before != "user",
            (Some((before, called)), "assistant") => before != "assistant" && before != "system" || *called,
            (Some((before, called)), tool) if is_tool(tool) => is_tool(before) || *called || before == "assistant",
            _ => true,
        };
        if !fits {
            let after = before.map_or("at the beginning".to_owned(), |(before, _)| format!("after `{before}`"));
            return Some(format!("message {index} is `{now}` {after}"));
        }
        before = Some((now, calls));
    }
    None
}

/// The columns of rows, in the order in which they were met.
#[derive(Default)]
struct Columns {
    rows: u64,
    columns: Vec<(Column, u64)>,
    index: HashMap<String, usize>,
}

impl Columns {
    fn look(&mut self, row: &Row) {
        self.rows += 1;
        for (name, value) in row {
            let index = match self.index.get(name) {
                Some(&index) => index,
                None if self.columns.len() < COLUMNS => {
                    self.index.insert(name.clone(), self.columns.len());
                    self.columns.push((Column { name: name.clone(), ..Column::default() }, 0));
                    self.columns.len() - 1
                }
                None => continue,
            };
            let (column, present) = &mut self.columns[index];
            *present += 1;
            let shape = shape_of(value);
            let shape = if column.shapes.len() < SHAPES || column.shapes.contains_key(&shape) {
                shape
            } else {
                "something else".to_owned()
            };
            *column.shapes.entry(shape).or_default() += 1;
        }
    }

    fn finish(self) -> Vec<Column> {
        let rows = self.rows;
        self.columns.into_iter().map(|(column, present)| Column { missing: rows - present, ..column }).collect()
    }
}

/// What a value is, in words.
fn shape_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "boolean".to_owned(),
        Value::Number(number) if number.is_f64() => "number".to_owned(),
        Value::Number(_) => "whole number".to_owned(),
        Value::String(_) => "text".to_owned(),
        Value::Array(items) => match items.first() {
            None => "empty list".to_owned(),
            Some(first) => format!("list of {}", shape_of(first)),
        },
        Value::Object(fields) => {
            let mut names: Vec<&str> = fields.keys().map(String::as_str).take(8).collect();
            if fields.len() > names.len() {
                names.push("…");
            }
            format!("{{{}}}", names.join(", "))
        }
    }
}

/// Characters of the text in a value.
fn text_length(value: &Value) -> usize {
    match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.iter().map(text_length).sum(),
        Value::Object(fields) => fields.values().map(text_length).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(SHOWN_CHARACTERS) {
                text.truncate(end);
                text.push('…');
            }
        }
        Value::Array(items) => {
            items.truncate(32);
            items.iter_mut().for_each(shorten);
        }
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn order(roles: &[&str]) -> Option<String> {
        let messages: Vec<Message> = roles
            .iter()
            .map(|role| {
                let (role, calls) = role.strip_suffix('!').map_or((*role, false), |role| (role, true));
                let mut message = Message::from_iter([("role".to_owned(), json!(role))]);
                if calls {
                    message.insert("tool_calls".to_owned(), json!([{}]));
                }
                message
            })
            .collect();
        out_of_order(&messages.iter().collect::<Vec<_>>())
    }

    #[test]
    fn roles_take_turns() {
        assert_eq!(order(&["system", "user", "assistant", "user", "assistant"]), None);
        assert_eq!(order(&["user", "assistant!", "tool", "tool", "assistant"]), None);
        assert_eq!(order(&["user", "user"]).unwrap(), "message 1 is `user` after `user`");
        assert_eq!(order(&["assistant"]).unwrap(), "message 0 is `assistant` at the beginning");
        assert_eq!(order(&["user", "system"]).unwrap(), "message 1 is `system` after `user`");
        assert_eq!(order(&["user", "tool"]).unwrap(), "message 1 is `tool` after `user`");
        assert_eq!(order(&["system", "assistant"]).unwrap(), "message 1 is `assistant` after `system`");
    }

    #[test]
    fn shapes_are_said_in_words() {
        let shape = |value: Value| shape_of(&value);
        assert_eq!(shape(json!([{"from": "human", "value": "x"}])), "list of {from, value}");
        assert_eq!(
            (shape(json!([])), shape(json!(1)), shape(json!(1.5))),
            ("empty list".into(), "whole number".into(), "number".into())
        );
    }
}
