//! Which format rows have, told from their columns and the kinds of their values.

use serde::Serialize;
use serde_json::Value;

use super::{
    Format,
    value::{columns_of, seen_through_json_text},
};
use crate::{DataError, Row, RowId, RowProblem, row::present};

/// The format of a dataset's rows, and how it was told.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Detection {
    /// The format.
    pub format: Format,
    /// Why, in a sentence.
    pub reason: String,
    #[serde(skip)]
    pub(crate) layout: Layout,
}

/// A format with the columns of the rows at hand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Layout {
    Messages { column: String },
    ShareGpt { column: String },
    PromptCompletion { prompt: String, completion: String },
    QuestionAnswer { question: String, answer: String, input: Option<String> },
    Alpaca { instruction: String, input: Option<String>, output: AlpacaOutput },
    Preference { prompt: Option<String>, chosen: String, rejected: String },
    UnpairedPreference { conversation: Option<String>, prompt: String, completion: String },
    PromptOnly { asked: Asked },
    Stepwise,
    Text { column: String },
    Tokens,
}

/// What asks, in rows whose answer is yet to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    /// A column of text or messages.
    Prompt(String),
    /// A column of text that the user says, with its input.
    Question { column: String, input: Option<String> },
    /// What rows of another format ask, whose answers don't count.
    Of(Box<Layout>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AlpacaOutput {
    Column(String),
    /// A list of inputs with outputs, each an example of its own (self-instruct).
    Instances,
}

const CONVERSATION_COLUMNS: [&str; 7] =
    ["messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns"];
const COMPLETION_COLUMNS: [&str; 3] = ["completion", "response", "output"];
const QUESTION_ANSWER_COLUMNS: [(&str, &str); 8] = [
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("problem", "solution"),
    ("input", "output"),
    ("user", "assistant"),
    ("instruction", "response"),
];
/// Questions where no column holds a text that answers them, but perhaps what an answer is judged by.
const QUESTION_COLUMNS: [&str; 4] = ["question", "query", "problem", "instruction"];

struct Candidate {
    layout: Layout,
    reason: String,
    /// Named as in the format's definition; other candidates only count if there is none of these.
    by_definition: bool,
}

/// Tells the format of rows from one of them.
///
/// `wanted` says which formats the caller can use, and decides where a row fits several. `text_column` is the column
/// that holds plain text, by convention `text`.
///
/// # Errors
/// If no format fits, or several do.
pub fn detect(id: &RowId, row: &Row, wanted: &[Format], text_column: &str) -> Result<Detection, DataError> {
    let mut found = candidates(row, text_column);
    // Only who needs no answer may take a question for all of the row: its answer may be null in this row alone.
    if found.is_empty() && wanted == [Format::PromptOnly] {
        found.extend(question(row));
    }
    if found.is_empty() {
        let known = Format::ALL.map(Format::columns).join("; ");
        let problem = RowProblem::UnknownFormat { columns: columns_of(row), known };
        return Err(DataError::Row { row: id.clone(), problem });
    }
    // What TRL prepared before keeps its other columns; the tokens are what counts.
    if let Some(tokens) = found.iter().position(|candidate| candidate.layout == Layout::Tokens) {
        found = vec![found.swap_remove(tokens)];
    }
    if found.iter().any(|candidate| wanted.contains(&candidate.layout.format())) {
        found.retain(|candidate| wanted.contains(&candidate.layout.format()));
    }
    if found.iter().any(|candidate| candidate.by_definition) {
        found.retain(|candidate| candidate.by_definition);
    }
    if found.len() > 1 {
        let candidates = found.iter().map(|candidate| candidate.layout.format().name()).collect::<Vec<_>>().join(", ");
        return Err(DataError::AmbiguousFormat { row: id.clone(), columns: columns_of(row), candidates });
    }
    let Candidate { layout, reason, .. } = found.swap_remove(0);
    Ok(Detection { format: layout.format(), reason, layout })
}

impl Detection {
    /// What was found out before about rows that are no longer at hand.
    pub(crate) fn kept(format: Format, reason: String) -> Self {
        Self { format, reason, layout: Layout::default_of(format, &Row::new(), "text") }
    }

    /// The layout of rows whose format the user names.
    pub(crate) fn given(format: Format, row: &Row, text_column: &str) -> Self {
        let layouts = || candidates(row, text_column).into_iter().map(|candidate| candidate.layout);
        let of_format = layouts().find(|layout| layout.format() == format);
        let layout = of_format.unwrap_or_else(|| match format {
            Format::PromptOnly => {
                let asks = layouts().find(Layout::asks).map(Layout::without_answer);
                asks.or_else(|| question(row).map(|found| found.layout)).unwrap_or_else(Layout::prompt)
            }
            _ => Layout::default_of(format, row, text_column),
        });
        Self { format, reason: "it was asked for".to_owned(), layout }
    }

    /// Of rows with answers, what they answer.
    pub(crate) fn without_answers(self) -> Self {
        Self { layout: self.layout.without_answer(), ..self }
    }
}

impl Layout {
    /// The definition of rows whose answer is yet to be written.
    fn prompt() -> Self {
        Self::PromptOnly { asked: Asked::Prompt("prompt".to_owned()) }
    }

    /// Whether there is something to answer in such rows.
    fn asks(&self) -> bool {
        !matches!(self, Self::Text { .. } | Self::Tokens)
    }

    fn without_answer(self) -> Self {
        let asks = self.asks() && !matches!(self, Self::PromptOnly { .. });
        if asks { Self::PromptOnly { asked: Asked::Of(Box::new(self)) } } else { self }
    }

    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Messages { .. } => Format::Messages,
            Self::ShareGpt { .. } => Format::ShareGpt,
            Self::PromptCompletion { .. } => Format::PromptCompletion,
            Self::QuestionAnswer { .. } => Format::QuestionAnswer,
            Self::Alpaca { .. } => Format::Alpaca,
            Self::Preference { .. } => Format::Preference,
            Self::UnpairedPreference { .. } => Format::UnpairedPreference,
            Self::PromptOnly { .. } => Format::PromptOnly,
            Self::Stepwise => Format::Stepwise,
            Self::Text { .. } => Format::Text,
            Self::Tokens => Format::Tokens,
        }
    }

    /// The columns of the format's definition, and of a conversation whichever column is there.
    fn default_of(format: Format, row: &Row, text_column: &str) -> Self {
        let conversation = |default: &str| {
            let column = CONVERSATION_COLUMNS.into_iter().find(|&column| present(row, column).is_some());
            column.unwrap_or(default).to_owned()
        };
        let prompt = "prompt".to_owned();
        match format {
            Format::Messages => Self::Messages { column: conversation("messages") },
            Format::ShareGpt => Self::ShareGpt { column: conversation("conversations") },
            Format::PromptCompletion => Self::PromptCompletion { prompt, completion: "completion".to_owned() },
            Format::QuestionAnswer => {
                Self::QuestionAnswer { question: "question".to_owned(), answer: "answer".to_owned(), input: None }
            }
            Format::Alpaca => Self::Alpaca {
                instruction: "instruction".to_owned(),
                input: Some("input".to_owned()),
                output: AlpacaOutput::Column("output".to_owned()),
            },
            Format::Preference => {
                Self::Preference { prompt: None, chosen: "chosen".to_owned(), rejected: "rejected".to_owned() }
            }
            Format::UnpairedPreference => {
                Self::UnpairedPreference { conversation: None, prompt, completion: "completion".to_owned() }
            }
            Format::PromptOnly => Self::prompt(),
            Format::Stepwise => Self::Stepwise,
            Format::Text => Self::Text { column: text_column.to_owned() },
            Format::Tokens => Self::Tokens,
        }
    }
}

fn candidates(row: &Row, text_column: &str) -> Vec<Candidate> {
    let has = |column: &str| present(row, column).is_some();
    let mut found = Vec::new();
    let mut add = |layout, reason: String, by_definition| found.push(Candidate { layout, reason, by_definition });

    if let Some(Value::Array(ids)) = row.get("input_ids")
        && ids.iter().all(Value::is_number)
    {
        add(Layout::Tokens, "`input_ids` is a list of numbers".to_owned(), true);
    }
    let preference = preference(row);
    let unpaired = unpaired(row);
    let conversation = CONVERSATION_COLUMNS.into_iter().find_map(|column| Some((column, spelling(row.get(column)?)?)));

    if has("prompt") && has("completions") && has("labels") {
        add(Layout::Stepwise, "there are `prompt`, `completions` and `labels`".to_owned(), true);
    }
    let preferred = preference.is_some();
    if let Some((layout, reason)) = preference {
        add(layout, reason, true);
    }
    let is_unpaired = unpaired.is_some();
    if let Some((layout, reason)) = unpaired {
        add(layout, reason, true);
    }
    // The prompt of a preference may be a conversation; it's no second format.
    if let Some((column, spelling)) = conversation
        && !(preferred && column != "messages")
        && !is_unpaired
    {
        let column = column.to_owned();
        match spelling {
            Spelled::RoleContent => {
                let reason = format!("`{column}` is a list of objects with `role` and `content`");
                add(Layout::Messages { column }, reason, true);
            }
            Spelled::FromValue => {
                let reason = format!("`{column}` is a list of objects with `from` and `value`");
                add(Layout::ShareGpt { column }, reason, true);
            }
        }
    }
    add_instructions(row, &mut add);
    if has("prompt") && !preferred && !is_unpaired && !has("completions") {
        let prompt = "prompt".to_owned();
        match COMPLETION_COLUMNS.into_iter().find(|&column| has(column)) {
            Some(completion) => {
                let reason = format!("there are `prompt` and `{completion}`");
                let by_definition = completion == "completion";
                add(Layout::PromptCompletion { prompt, completion: completion.to_owned() }, reason, by_definition);
            }
            None => add(Layout::prompt(), "there is `prompt` and no answer".to_owned(), false),
        }
    }
    if matches!(row.get(text_column), Some(Value::String(_))) {
        let column = text_column.to_owned();
        add(Layout::Text { column }, format!("`{text_column}` is text"), true);
    }
    found
}

/// A question whose answer is in no column that holds one.
fn question(row: &Row) -> Option<Candidate> {
    let column = QUESTION_COLUMNS.into_iter().find(|&column| present(row, column).is_some())?;
    let input = ["input", "context"].into_iter().find(|&input| row.contains_key(input)).map(str::to_owned);
    let reason = format!("there is `{column}`, and an answer is not needed");
    let asked = Asked::Question { column: column.to_owned(), input };
    Some(Candidate { layout: Layout::PromptOnly { asked }, reason, by_definition: false })
}

fn add_instructions(row: &Row, add: &mut impl FnMut(Layout, String, bool)) {
    let has = |column: &str| present(row, column).is_some();
    if has("instruction") {
        let instruction = "instruction".to_owned();
        // The input may be null in this row and not in others.
        let input = ["input", "context"].into_iter().find(|&column| row.contains_key(column)).map(str::to_owned);
        if has("output") {
            let output = AlpacaOutput::Column("output".to_owned());
            add(Layout::Alpaca { instruction, input, output }, "there are `instruction` and `output`".to_owned(), true);
            return;
        }
        if row.get("instances").is_some_and(|instances| seen_through_json_text(instances).is_array()) {
            let reason = "there are `instruction` and a list of `instances`".to_owned();
            add(Layout::Alpaca { instruction, input: None, output: AlpacaOutput::Instances }, reason, true);
            return;
        }
        if has("response") {
            let output = AlpacaOutput::Column("response".to_owned());
            let reason = "there are `instruction` and `response`".to_owned();
            add(Layout::Alpaca { instruction, input, output }, reason, true);
            return;
        }
    }
    if let Some((question, answer)) =
        QUESTION_ANSWER_COLUMNS.into_iter().find(|&(question, answer)| has(question) && has(answer))
    {
        let reason = format!("there are `{question}` and `{answer}`");
        let by_definition = question == "question";
        let input = row.contains_key("context").then(|| "context".to_owned()).filter(|_| question == "question");
        add(
            Layout::QuestionAnswer { question: question.to_owned(), answer: answer.to_owned(), input },
            reason,
            by_definition,
        );
    }
}

fn preference(row: &Row) -> Option<(Layout, String)> {
    let has = |column: &str| present(row, column).is_some();
    let pairs =
        [("chosen", "rejected"), ("chosen_messages", "rejected_messages"), ("chosen_response", "rejected_response")];
    let (chosen, rejected) = pairs.into_iter().find(|&(chosen, rejected)| has(chosen) && has(rejected))?;
    // Answers that are whole conversations hold their prompt; the column beside them repeats it.
    let prompts = ["prompt", "conversations", "conversation", "messages", "question", "instruction", "input", "query"];
    let prompt = if is_whole_conversation(&row[chosen]) {
        None
    } else {
        prompts.into_iter().find(|&column| has(column)).map(str::to_owned)
    };
    let reason = match &prompt {
        Some(prompt) => format!("there are `{prompt}`, `{chosen}` and `{rejected}`"),
        None => format!("there are `{chosen}` and `{rejected}`, which hold their prompt"),
    };
    Some((Layout::Preference { prompt, chosen: chosen.to_owned(), rejected: rejected.to_owned() }, reason))
}

fn is_whole_conversation(answer: &Value) -> bool {
    let first = seen_through_json_text(answer);
    let first = first.get(0);
    let role = first.and_then(|message| message.get("role").or_else(|| message.get("from"))).and_then(Value::as_str);
    matches!(role, Some("system" | "user" | "human" | "prompter"))
}

fn unpaired(row: &Row) -> Option<(Layout, String)> {
    let label = present(row, "label")?;
    super::value::boolean(label, "label").ok()?;
    let completion = COMPLETION_COLUMNS.into_iter().find(|&column| present(row, column).is_some());
    if let (Some(completion), Some(_)) = (completion, present(row, "prompt")) {
        let layout = Layout::UnpairedPreference {
            conversation: None,
            prompt: "prompt".to_owned(),
            completion: completion.to_owned(),
        };
        return Some((layout, format!("there are `prompt`, `{completion}` and a `label` that is true or false")));
    }
    let column = CONVERSATION_COLUMNS.into_iter().find(|column| row.get(*column).and_then(spelling).is_some())?;
    let layout = Layout::UnpairedPreference {
        conversation: Some(column.to_owned()),
        prompt: String::new(),
        completion: String::new(),
    };
    Some((layout, format!("there are `{column}` and a `label` that is true or false")))
}

enum Spelled {
    RoleContent,
    FromValue,
}

fn spelling(value: &Value) -> Option<Spelled> {
    let items = seen_through_json_text(value);
    let items = items.as_array()?;
    let first = seen_through_json_text(items.first()?);
    if first.get("role").is_some() {
        Some(Spelled::RoleContent)
    } else if first.get("from").is_some() && first.get("value").is_some() {
        Some(Spelled::FromValue)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(row: Value, wanted: &[Format]) -> Result<(Format, String), String> {
        let Value::Object(row) = row else { panic!("a row is an object") };
        detect(&RowId::line(&"f.jsonl".into(), 1), &row, wanted, "text")
            .map(|detection| (detection.format, detection.reason))
            .map_err(|error| error.to_string())
    }

    fn format(row: Value) -> Format {
        found(row, &[]).unwrap().0
    }

    #[test]
    fn formats_are_told_from_columns() {
        let turn = json!([{"role": "user", "content": "a"}]);
        let answer = json!([{"role": "assistant", "content": "a"}]);
        assert_eq!(format(json!({"messages": turn})), Format::Messages);
        assert_eq!(format(json!({"messages": turn.to_string()})), Format::Messages);
        assert_eq!(format(json!({"conversations": [{"from": "human", "value": "a"}], "system": ""})), Format::ShareGpt);
        assert_eq!(format(json!({"prompt": "a", "completion": "b"})), Format::PromptCompletion);
        assert_eq!(format(json!({"question": "a", "answer": "b"})), Format::QuestionAnswer);
        assert_eq!(format(json!({"instruction": "a", "input": "", "output": "b"})), Format::Alpaca);
        assert_eq!(format(json!({"chosen": "a", "rejected": "b"})), Format::Preference);
        assert_eq!(format(json!({"prompt": "a", "chosen": "a", "rejected": "b"})), Format::Preference);
        assert_eq!(format(json!({"conversations": turn, "chosen": answer, "rejected": answer})), Format::Preference);
        assert_eq!(format(json!({"prompt": "a", "completion": "b", "label": false})), Format::UnpairedPreference);
        assert_eq!(format(json!({"messages": turn, "label": true})), Format::UnpairedPreference);
        assert_eq!(format(json!({"prompt": "a", "answer": "4"})), Format::PromptOnly);
        assert_eq!(format(json!({"prompt": "a", "completions": ["b"], "labels": [true]})), Format::Stepwise);
        assert_eq!(format(json!({"text": "a", "id": 1})), Format::Text);
        assert_eq!(format(json!({"input_ids": [1], "messages": turn})), Format::Tokens);
    }

    #[test]
    fn what_fits_several_formats_is_not_guessed() {
        let row = json!({"instruction": "a", "output": "b", "text": "c"});
        assert_eq!(
            found(row.clone(), &[]).unwrap_err(),
            "f.jsonl:1: the columns `instruction`, `output`, `text` fit several formats: alpaca, text"
        );
        assert_eq!(found(row, &[Format::Text]).unwrap().0, Format::Text);
        // UltraFeedback has both; who trains on preferences means those.
        let turn = json!([{"role": "user", "content": "a"}]);
        let row = json!({"prompt": "a", "messages": turn, "chosen": turn, "rejected": turn});
        assert!(found(row.clone(), &[]).is_err());
        assert_eq!(found(row, &[Format::Preference]).unwrap().0, Format::Preference);
    }

    #[test]
    fn who_needs_no_answer_takes_a_question() {
        let row = json!({"question": "a", "solutions": ["b", "c"]});
        assert!(found(row.clone(), &[]).is_err());
        assert_eq!(found(row, &[Format::PromptOnly]).unwrap().0, Format::PromptOnly);
        let row = json!({"question": "a", "answer": "b", "prompt": "c"});
        assert_eq!(found(row.clone(), &[]).unwrap().0, Format::QuestionAnswer);
        assert_eq!(found(row, &[Format::PromptOnly]).unwrap().0, Format::PromptOnly);
    }

    #[test]
    fn the_error_says_what_is_known() {
        let error = found(json!({"a": 1}), &[]).unwrap_err();
        assert!(
            error.starts_with("f.jsonl:1: no format has the columns `a`; known are messages; conversations;"),
            "{error}"
        );
    }
}
