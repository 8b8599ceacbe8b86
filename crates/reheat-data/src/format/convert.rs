//! A row of a known format to examples.

use serde_json::Value;

use super::{
    Context, Detection, Example, Layout, Message, Turns,
    detect::{AlpacaOutput, Asked},
    messages::{self, Spelling},
    value,
};
use crate::{Row, RowProblem, row::present};

/// What converting depends on beside the row.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConvertOptions {
    /// Roles that are let through beside the known ones.
    pub(crate) extra_roles: Vec<String>,
}

/// Turns the rows of a dataset into examples.
#[derive(Debug, Clone)]
pub(crate) struct Converter {
    layout: Layout,
    options: ConvertOptions,
}

const SYSTEM_COLUMNS: [&str; 2] = ["system", "system_prompt"];

impl Converter {
    pub(crate) fn new(detection: &Detection, options: ConvertOptions) -> Self {
        Self { layout: detection.layout.clone(), options }
    }

    /// The examples of a row: one, or several where a row lists them.
    ///
    /// # Errors
    /// If the row isn't what its format says.
    pub(crate) fn convert(&self, mut row: Row) -> Result<Vec<Example>, RowProblem> {
        if let Layout::PromptOnly { asked } = &self.layout {
            return self.prompts(row, asked);
        }
        let context = context(&mut row)?;
        let example = match &self.layout {
            Layout::Messages { column } => self.messages(&mut row, column, Spelling::OpenAi, context)?,
            Layout::ShareGpt { column } => self.messages(&mut row, column, Spelling::Any, context)?,
            Layout::PromptCompletion { prompt, completion } => {
                let prompt = self.turns(&mut row, prompt)?;
                let completion = self.turns(&mut row, completion)?;
                let (prompt, completion) = alike(prompt, completion);
                let prompt = with_system(&mut row, prompt)?;
                Example::PromptCompletion { prompt, completion: not_empty(completion, "completion")?, context }
            }
            Layout::QuestionAnswer { question, answer, input } => {
                let question = instruction(&mut row, question, input.as_deref())?;
                let answer = value::take_text(&mut row, answer)?;
                dialogue(&mut row, Vec::new(), question, answer, context)?
            }
            Layout::Alpaca { instruction: column, input, output: AlpacaOutput::Column(output) } => {
                let history = history(&mut row)?;
                let instruction = instruction(&mut row, column, input.as_deref())?;
                let output = value::take_text(&mut row, output)?;
                dialogue(&mut row, history, instruction, output, context)?
            }
            Layout::Alpaca { instruction, output: AlpacaOutput::Instances, .. } => {
                return instances(&mut row, instruction, &context);
            }
            Layout::Preference { prompt, chosen, rejected } => {
                self.preference(&mut row, prompt.as_deref(), chosen, rejected, context)?
            }
            Layout::UnpairedPreference { conversation: Some(column), .. } => {
                let label = label(&mut row)?;
                let Turns::Messages(mut prompt) = self.conversation(&mut row, column)? else { unreachable!() };
                let answers = prompt.iter().rev().take_while(|message| message["role"] == "assistant").count();
                let completion = Turns::Messages(prompt.split_off(prompt.len() - answers));
                let completion = not_empty(completion, column)?;
                Example::UnpairedPreference { prompt: Turns::Messages(prompt), completion, label, context }
            }
            Layout::UnpairedPreference { prompt, completion, .. } => {
                let label = label(&mut row)?;
                let prompt = self.turns(&mut row, prompt)?;
                let (prompt, completion) = alike(prompt, self.turns(&mut row, completion)?);
                let prompt = with_system(&mut row, prompt)?;
                Example::UnpairedPreference { prompt, completion: not_empty(completion, "completion")?, label, context }
            }
            Layout::PromptOnly { .. } => unreachable!("prompts are converted apart"),
            Layout::Stepwise => stepwise(&mut row)?,
            Layout::Text { column } => {
                let text = value::take_text(&mut row, column)?;
                if text.is_empty() {
                    return Err(RowProblem::Empty { field: column.clone() });
                }
                Example::Text { text }
            }
            Layout::Tokens => tokens(&mut row)?,
        };
        Ok(vec![example])
    }

    /// What a row asks, with its other columns as they are.
    fn prompts(&self, mut row: Row, asked: &Asked) -> Result<Vec<Example>, RowProblem> {
        let is_other = |(column, _): &(&String, &Value)| *column != "prompt";
        let columns: Row = row.iter().filter(is_other).map(|(column, value)| (column.clone(), value.clone())).collect();
        let found = match asked {
            Asked::Of(layout) => {
                let whole = Self { layout: Layout::clone(layout), options: self.options.clone() };
                whole.convert(row)?.into_iter().map(without_answer).collect::<Result<_, _>>()?
            }
            Asked::Prompt(column) => {
                let context = context(&mut row)?;
                let prompt = not_empty(self.turns(&mut row, column)?, column)?;
                vec![(with_system(&mut row, prompt)?, context)]
            }
            Asked::Question { column, input } => {
                let context = context(&mut row)?;
                let question = question(instruction(&mut row, column, input.as_deref())?)?;
                vec![(with_system(&mut row, Turns::Messages(vec![question]))?, context)]
            }
        };
        let example = |(prompt, context)| Example::PromptOnly { prompt, context, columns: columns.clone() };
        Ok(found.into_iter().map(example).collect())
    }

    fn messages(
        &self,
        row: &mut Row,
        column: &str,
        spelling: Spelling,
        context: Context,
    ) -> Result<Example, RowProblem> {
        let value = value::take(row, column)?;
        let mut found = messages::messages(value, column, spelling, &self.options.extra_roles)?;
        if let Some(system) = system(row)?
            && found.messages[0]["role"] != "system"
        {
            found.messages.insert(0, message("system", system));
            if let Some(trained) = &mut found.trained {
                trained.insert(0, false);
            }
        }
        Ok(Example::Messages { messages: found.messages, trained: found.trained, context })
    }

    fn conversation(&self, row: &mut Row, column: &str) -> Result<Turns, RowProblem> {
        let value = value::take(row, column)?;
        let found = messages::messages(value, column, Spelling::Any, &self.options.extra_roles)?;
        Ok(Turns::Messages(found.messages))
    }

    /// Text or messages.
    fn turns(&self, row: &mut Row, column: &str) -> Result<Turns, RowProblem> {
        let value = value::take(row, column)?;
        self.turns_of(value, column)
    }

    fn turns_of(&self, value: Value, column: &str) -> Result<Turns, RowProblem> {
        // Text that merely begins with a bracket stays text.
        let seen = match value::seen_through_json_text(&value).as_ref() {
            Value::Array(items) if items.is_empty() => {
                return Err(RowProblem::Empty { field: column.to_owned() });
            }
            Value::Array(items) => items[0].get("role").or(items[0].get("from")).is_some() || !value.is_string(),
            Value::Object(item) => item.contains_key("role") || item.contains_key("from") || !value.is_string(),
            _ => false,
        };
        if seen {
            let found = messages::messages(value, column, Spelling::Any, &self.options.extra_roles)?;
            return Ok(Turns::Messages(found.messages));
        }
        value::text(value, column).map(Turns::Text)
    }

    fn preference(
        &self,
        row: &mut Row,
        prompt: Option<&str>,
        chosen: &str,
        rejected: &str,
        context: Context,
    ) -> Result<Example, RowProblem> {
        let margin = value::take_optional(row, "margin").map(margin).transpose()?;
        let prompt = prompt.map(|prompt| self.turns(row, prompt)).transpose()?;
        let chosen_turns = self.turns(row, chosen)?;
        let rejected_turns = self.turns(row, rejected)?;
        let (chosen_turns, rejected_turns) = match (chosen_turns, rejected_turns) {
            (left @ Turns::Messages(_), Turns::Text(right)) => (left, answer(right)),
            (Turns::Text(left), right @ Turns::Messages(_)) => (answer(left), right),
            alike => alike,
        };
        let Some(prompt) = prompt else {
            let (mut prompt, chosen, rejected) = super::extract_prompt(chosen_turns, rejected_turns)?;
            if !prompt.is_empty() {
                prompt = with_system(row, prompt)?;
            }
            return Ok(Example::Preference { prompt: Some(prompt), chosen, rejected, margin, context });
        };
        let (prompt, chosen_turns, rejected_turns) = match (prompt, chosen_turns, rejected_turns) {
            (Turns::Text(prompt), chosen @ Turns::Messages(_), rejected) => {
                (Turns::Messages(vec![message("user", prompt)]), chosen, rejected)
            }
            (prompt @ Turns::Messages(_), Turns::Text(chosen), Turns::Text(rejected)) => {
                (prompt, answer(chosen), answer(rejected))
            }
            alike => alike,
        };
        if chosen_turns == rejected_turns {
            return Err(RowProblem::SameAnswers);
        }
        Ok(Example::Preference {
            prompt: Some(with_system(row, prompt)?),
            chosen: not_empty(chosen_turns, chosen)?,
            rejected: not_empty(rejected_turns, rejected)?,
            margin,
            context,
        })
    }
}

fn context(row: &mut Row) -> Result<Context, RowProblem> {
    let list = |row: &mut Row, column: &str| -> Result<Option<Vec<Value>>, RowProblem> {
        let value = value::take_optional(row, column).filter(|value| value != "");
        let items = value.map(|value| value::list(value, column)).transpose()?;
        Ok(items.filter(|items| !items.is_empty()))
    };
    let mut tools = list(row, "tools")?;
    for tool in tools.iter_mut().flatten() {
        *tool = value::from_json_text(tool.take())?;
        // A bare function, as ShareGPT and older OpenAI files have it.
        if let Value::Object(function) = tool
            && function.contains_key("name")
            && !function.contains_key("function")
        {
            *tool = serde_json::json!({"type": "function", "function": function});
        }
    }
    let template_kwargs =
        match value::take_optional(row, "chat_template_kwargs").map(value::from_json_text).transpose()? {
            None => Row::new(),
            Some(Value::Object(kwargs)) => kwargs,
            Some(other) => return Err(value::wrong("chat_template_kwargs", "an object", &other)),
        };
    // `documents` is also what other datasets call the source of a question; only lists of objects are meant here.
    let documents = match row.get("documents") {
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => list(row, "documents")?,
        _ => None,
    };
    Ok(Context { tools, documents, template_kwargs })
}

fn message(role: &str, content: String) -> Message {
    Message::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())])
}

fn answer(text: String) -> Turns {
    Turns::Messages(vec![message("assistant", text)])
}

fn question(text: String) -> Result<Message, RowProblem> {
    if text.is_empty() {
        Err(RowProblem::Empty { field: "the question".to_owned() })
    } else {
        Ok(message("user", text))
    }
}

fn system(row: &mut Row) -> Result<Option<String>, RowProblem> {
    let Some(column) = SYSTEM_COLUMNS.into_iter().find(|column| present(row, column).is_some()) else {
        return Ok(None);
    };
    let text = value::take_text(row, column)?;
    Ok((!text.trim().is_empty()).then_some(text))
}

/// Puts the row's system prompt before messages that have none. Text is left alone: it is what the user wants it to
/// be.
fn with_system(row: &mut Row, prompt: Turns) -> Result<Turns, RowProblem> {
    Ok(match prompt {
        Turns::Messages(mut messages) => {
            if let Some(system) = system(row)?
                && messages.first().is_none_or(|first| first["role"] != "system")
            {
                messages.insert(0, message("system", system));
            }
            Turns::Messages(messages)
        }
        text @ Turns::Text(_) => text,
    })
}

/// Text beside messages becomes a message.
fn alike(prompt: Turns, completion: Turns) -> (Turns, Turns) {
    match (prompt, completion) {
        (Turns::Text(prompt), completion @ Turns::Messages(_)) => {
            (Turns::Messages(vec![message("user", prompt)]), completion)
        }
        (prompt @ Turns::Messages(_), Turns::Text(completion)) => (prompt, answer(completion)),
        alike => alike,
    }
}

fn not_empty(turns: Turns, field: &str) -> Result<Turns, RowProblem> {
    if turns.is_empty() { Err(RowProblem::Empty { field: field.to_owned() }) } else { Ok(turns) }
}

/// What an example answers.
fn without_answer(example: Example) -> Result<(Turns, Context), RowProblem> {
    let (prompt, context) = match example {
        Example::Messages { mut messages, context, .. } => {
            let answers = messages.iter().rev().take_while(|message| message["role"] == "assistant").count();
            messages.truncate(messages.len() - answers);
            (Turns::Messages(messages), context)
        }
        Example::PromptCompletion { prompt, context, .. }
        | Example::Preference { prompt: Some(prompt), context, .. }
        | Example::UnpairedPreference { prompt, context, .. }
        | Example::PromptOnly { prompt, context, .. } => (prompt, context),
        Example::Stepwise { prompt, .. } => (Turns::Text(prompt), Context::default()),
        Example::Preference { prompt: None, .. } | Example::Text { .. } | Example::Tokens { .. } => {
            return Err(RowProblem::Empty { field: "the prompt".to_owned() });
        }
    };
    Ok((not_empty(prompt, "the prompt")?, context))
}

/// An instruction with its input after a blank line.
fn instruction(row: &mut Row, column: &str, input: Option<&str>) -> Result<String, RowProblem> {
    let instruction = value::take_text(row, column)?;
    let input = match input {
        Some(input) if present(row, input).is_some() => value::take_text(row, input)?,
        _ => String::new(),
    };
    Ok(joined(&instruction, &input))
}

fn joined(instruction: &str, input: &str) -> String {
    match (instruction.is_empty(), input.is_empty()) {
        (_, true) => instruction.to_owned(),
        (true, _) => input.to_owned(),
        _ => format!("{instruction}\n\n{input}"),
    }
}

/// A question and its answer as a conversation, of which the answer is learned.
fn dialogue(
    row: &mut Row,
    mut prompt: Vec<Message>,
    asked: String,
    answered: String,
    context: Context,
) -> Result<Example, RowProblem> {
    prompt.push(question(asked)?);
    if answered.is_empty() {
        return Err(RowProblem::Empty { field: "the answer".to_owned() });
    }
    let prompt = with_system(row, Turns::Messages(prompt))?;
    Ok(Example::PromptCompletion { prompt, completion: answer(answered), context })
}

/// Earlier questions and answers, as LLaMA-Factory has them.
fn history(row: &mut Row) -> Result<Vec<Message>, RowProblem> {
    let Some(turns) = value::take_optional(row, "history") else { return Ok(Vec::new()) };
    let mut history = Vec::new();
    for (index, turn) in value::list(turns, "history")?.into_iter().enumerate() {
        let field = format!("history[{index}]");
        let found = value::list_of_texts(turn, &field)?;
        let [question, answer]: [String; 2] = found.try_into().map_err(|found: Vec<String>| RowProblem::WrongType {
            field,
            expected: "a question and its answer",
            found: format!("a list of {}", found.len()),
        })?;
        history.extend([message("user", question), message("assistant", answer)]);
    }
    Ok(history)
}

fn instances(row: &mut Row, column: &str, context: &Context) -> Result<Vec<Example>, RowProblem> {
    let instruction = value::take_text(row, column)?;
    let instances = value::list(value::take(row, "instances")?, "instances")?;
    let mut examples = Vec::with_capacity(instances.len());
    for (index, instance) in instances.into_iter().enumerate() {
        let Value::Object(mut instance) = instance else {
            return Err(value::wrong(format!("instances[{index}]"), "an object", &instance));
        };
        let input = value::take_optional(&mut instance, "input").unwrap_or_else(|| "".into());
        let input = value::text(input, &format!("instances[{index}].input"))?;
        let output = value::take_text(&mut instance, "output")?;
        examples.push(dialogue(row, Vec::new(), joined(&instruction, &input), output, context.clone())?);
    }
    if examples.is_empty() {
        return Err(RowProblem::Empty { field: "instances".to_owned() });
    }
    Ok(examples)
}

fn margin(value: Value) -> Result<f32, RowProblem> {
    let number = value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
    number.ok_or_else(|| value::wrong("margin", "a number", &value))
}

fn label(row: &mut Row) -> Result<bool, RowProblem> {
    let label = value::take(row, "label")?;
    value::boolean(&label, "label")
}

fn stepwise(row: &mut Row) -> Result<Example, RowProblem> {
    let prompt = value::take_text(row, "prompt")?;
    let completions = value::list_of_texts(value::take(row, "completions")?, "completions")?;
    let labels = value::list(value::take(row, "labels")?, "labels")?;
    let labels: Vec<bool> = labels
        .iter()
        .enumerate()
        .map(|(index, label)| value::boolean(label, &format!("labels[{index}]")))
        .collect::<Result<_, _>>()?;
    if completions.len() != labels.len() {
        return Err(RowProblem::LengthMismatch {
            left: "completions",
            left_length: completions.len(),
            right: "labels",
            right_length: labels.len(),
        });
    }
    Ok(Example::Stepwise { prompt, completions, labels })
}

fn tokens(row: &mut Row) -> Result<Example, RowProblem> {
    let ids = value::list(value::take(row, "input_ids")?, "input_ids")?;
    let input_ids: Vec<u32> =
        integers(&ids, "input_ids", 0)?.into_iter().map(|id| u32::try_from(id).unwrap_or_default()).collect();
    if input_ids.is_empty() {
        return Err(RowProblem::Empty { field: "input_ids".to_owned() });
    }
    let labels = match value::take_optional(row, "labels") {
        None => masked(row, &input_ids)?,
        Some(labels) => Some(integers(&value::list(labels, "labels")?, "labels", crate::IGNORE_INDEX)?),
    };
    match labels {
        Some(labels) if labels.len() != input_ids.len() => Err(RowProblem::LengthMismatch {
            left: "input_ids",
            left_length: input_ids.len(),
            right: "labels",
            right_length: labels.len(),
        }),
        labels => Ok(Example::Tokens { input_ids, labels }),
    }
}

/// Labels from the masks that TRL writes: a token is learned where all of them are 1.
fn masked(row: &mut Row, input_ids: &[u32]) -> Result<Option<Vec<i32>>, RowProblem> {
    let mut labels = None;
    for column in ["completion_mask", "assistant_masks"] {
        let Some(mask) = value::take_optional(row, column) else { continue };
        let mask = integers(&value::list(mask, column)?, column, 0)?;
        if mask.len() != input_ids.len() {
            return Err(RowProblem::LengthMismatch {
                left: "input_ids",
                left_length: input_ids.len(),
                right: column,
                right_length: mask.len(),
            });
        }
        // Ids are below 2^31, `integers` has seen to it.
        let labels = labels.get_or_insert_with(|| input_ids.iter().map(|&id| id as i32).collect::<Vec<_>>());
        for (label, _) in labels.iter_mut().zip(mask).filter(|(_, mask)| *mask == 0) {
            *label = crate::IGNORE_INDEX;
        }
    }
    Ok(labels)
}

/// Whole numbers from `least` up.
fn integers(items: &[Value], field: &str, least: i32) -> Result<Vec<i32>, RowProblem> {
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let field = || format!("{field}[{index}]");
            let number = item.as_i64().ok_or_else(|| value::wrong(field(), "a whole number", item))?;
            match i32::try_from(number) {
                Ok(number) if number >= 0 || number == least => Ok(number),
                _ => Err(RowProblem::OutOfRange { field: field(), value: number, limit: i64::from(i32::MAX) }),
            }
        })
        .collect()
}
