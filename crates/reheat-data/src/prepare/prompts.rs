//! Rows to prompts whose answers are yet to be written, with the rules of TRL's `GRPOTrainer` and `RLOOTrainer` (1.16).

use reheat_chat::ChatTemplate;
use reheat_tokenizer::Tokenizer;
use serde_json::Value;

use super::{
    Overlong, PrepareOptions, Prepared,
    pipeline::{self, Outcome, Recipe, Size},
};
use crate::{
    Conversion, ConversionOptions, DataError, Dataset, Example, Format, Row, RowId, RowProblem, Turns,
    tokenize::Encoder,
};

/// Something to answer, tokenised, with what the answer is judged by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prompt {
    /// Ids up to where the answer begins.
    pub prompt_ids: Vec<u32>,
    /// The prompt as reward functions are given it: text, or a list of messages.
    pub prompt: Value,
    /// JSON schemas of the tools at hand.
    pub tools: Option<Vec<Value>>,
    /// The row's other columns as they are, all but `prompt`, for reward functions. They stay in memory:
    /// [`DatasetSpec::columns`](crate::DatasetSpec) leaves out what none of them reads.
    pub columns: Row,
}

/// Reads a dataset of prompts, for training on answers that are yet to be written.
///
/// A prompt is text, which is tokenised as it stands, or messages, after which the template asks the assistant for one
/// of its own, whoever speaks last. Rows of formats with answers give what they answer: a question, an instruction with
/// its input, a conversation up to the assistant's last messages. Where such rows have a `prompt` beside that, it
/// is meant. A prompt with more than `max_length` tokens is cut, left out or an error, as `overlong` says; of one
/// that is cut the end stays, where the answer begins.
///
/// Departs from TRL: `tools` and `chat_template_kwargs` of the row reach the template; in TRL only those that all rows
/// share do. Reward functions may read `completion`, where a row has one.
///
/// `progress` is told the number of rows done so far, from the thread that calls.
///
/// # Errors
/// As [`prepare_sft`](crate::prepare_sft), but text needs no end-of-sequence token; and if rows hold no prompt.
///
/// ```
/// use reheat_data::{Dataset, DatasetSpec, Overlong, PrepareOptions, prepare_prompts};
/// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tied-grouped");
/// # let tokenizer = reheat_tokenizer::Tokenizer::from_dir(&folder)?;
/// # let template = reheat_chat::ChatTemplate::from_dir(&folder, &reheat_chat::TemplateTokens::default())?;
/// # let rows = tempfile::NamedTempFile::with_suffix(".jsonl")?;
/// # std::fs::write(rows.path(), r#"{"question": "2+2?", "answer": "4"}"#)?;
/// # let path = rows.path().to_string_lossy();
///
/// let dataset = Dataset::open(&DatasetSpec::new(path).into())?;
/// let options = PrepareOptions { max_length: Some(256), overlong: Overlong::Drop, ..PrepareOptions::default() };
/// let prepared = prepare_prompts(&dataset, &tokenizer, template.as_ref(), &options, &mut |_| {})?;
/// for prompt in &prepared.examples {
///     println!("{} tokens, to be answered with {}", prompt.prompt_ids.len(), prompt.columns["answer"]);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn prepare_prompts(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Prepared<Prompt>, DataError> {
    options.check()?;
    let encoder = Encoder { tokenizer, template, control_tokens: options.control_tokens };
    pipeline::run(dataset, &Prompts { encoder, options }, options, progress)
}

struct Prompts<'a> {
    encoder: Encoder<'a>,
    options: &'a PrepareOptions,
}

impl Recipe for Prompts<'_> {
    type Item = Prompt;

    const FORMATS: &'static [Format] = &[
        Format::PromptOnly,
        Format::QuestionAnswer,
        Format::Alpaca,
        Format::Messages,
        Format::ShareGpt,
        Format::PromptCompletion,
        Format::Preference,
        Format::UnpairedPreference,
        Format::Stepwise,
    ];
    const NEEDED: &'static str = "prompts, or rows that answer one";
    const LEARNS: bool = false;

    fn encoder(&self) -> &Encoder<'_> {
        &self.encoder
    }

    fn conversion(dataset: &Dataset, options: ConversionOptions) -> Conversion {
        Conversion::without_answers(dataset, options)
    }

    fn check(&self, _: &RowId, _: Format, _: &Example) -> Result<(), DataError> {
        Ok(())
    }

    fn items(&self, example: Example) -> Result<Vec<Outcome<Prompt>>, RowProblem> {
        let Example::PromptOnly { prompt, mut context, mut columns } = example else {
            return Err(RowProblem::WrongType {
                field: "row".into(),
                expected: Self::NEEDED,
                found: example.kind().into(),
            });
        };
        if let (None, Some(tools), Turns::Messages(_)) = (&context.tools, &self.options.tools, &prompt) {
            context.tools = Some(tools.clone());
            columns.insert("tools".into(), tools.clone().into());
        }
        let mut prompt_ids = self.encoder.prompt(&prompt, &context)?;
        let tokens = prompt_ids.len();
        let max_length = self.options.max_length.unwrap_or(usize::MAX);
        if tokens > max_length {
            let overlong = RowProblem::PromptOverlong { tokens, max_prompt_length: max_length };
            match self.options.overlong {
                Overlong::Truncate => drop(prompt_ids.drain(..tokens - max_length)),
                Overlong::Drop => return Ok(vec![Outcome::LeftOut { problem: overlong, size: Size::default() }]),
                Overlong::Error => return Err(overlong),
            }
        }
        prompt_ids.shrink_to_fit();
        let tokens_cut = tokens - prompt_ids.len();
        let size = Size { tokens: prompt_ids.len(), tokens_cut, ..Size::default() };
        let item = Prompt { prompt_ids, prompt: prompt.into_value(), tools: context.tools, columns };
        Ok(vec![Outcome::Item { item, size }])
    }
}
