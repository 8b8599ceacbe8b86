//! Rows to sequences for supervised fine-tuning, with the rules of TRL's `SFTTrainer` (1.16).

use reheat_chat::ChatTemplate;
use reheat_tokenizer::Tokenizer;

use super::{
    Overlong, PrepareOptions, Prepared, TruncationMode,
    pipeline::{self, Outcome, Recipe, Size},
};
use crate::{
    DataError, Dataset, Example, Format, RowId, RowProblem, Sequence, pack,
    tokenize::{Continued, Encoder, Learned},
};

/// Reads a dataset and makes sequences for supervised fine-tuning.
///
/// Labels are those of TRL's `SFTTrainer`: with a prompt and a completion those of the completion alone
/// (`completion_only_loss`), with `assistant_only_loss` what the assistant wrote, with both where both hold, and all
/// tokens otherwise. Messages with weights are learned where the weight is 1. Text ends with an end-of-sequence token.
///
/// Departs from TRL: sequences without a token to learn are also left out where nothing is cut, and a row whose
/// assistant says nothing is one of them instead of an error.
///
/// `progress` is told the number of rows done so far, from the thread that calls.
///
/// # Errors
/// If a file can't be read; a row has no known format or can't be used (unless such rows are skipped); rows are
/// conversations and there is no template; or no sequence is left with a token to learn.
pub fn prepare_sft(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Prepared, DataError> {
    options.check()?;
    let encoder = Encoder { tokenizer, template, control_tokens: options.control_tokens };
    let mut prepared = pipeline::run(dataset, &Sft { encoder, options }, options, progress)?;
    if let Some(pack_options) = options.pack_options() {
        let (examples, report) = pack(&prepared.examples, &pack_options)?;
        prepared.examples = examples;
        prepared.report.packing = Some(report);
    }
    Ok(prepared)
}

pub(super) struct Sft<'a> {
    pub(super) encoder: Encoder<'a>,
    pub(super) options: &'a PrepareOptions,
}

impl Recipe for Sft<'_> {
    type Item = Sequence;

    const FORMATS: &'static [Format] = &[
        Format::Messages,
        Format::ShareGpt,
        Format::PromptCompletion,
        Format::QuestionAnswer,
        Format::Alpaca,
        Format::Text,
        Format::Tokens,
    ];
    const NEEDED: &'static str = "text, conversations, prompts with completions, or tokens";

    fn encoder(&self) -> &Encoder<'_> {
        &self.encoder
    }

    fn check(&self, row: &RowId, format: Format, example: &Example) -> Result<(), DataError> {
        if self.options.assistant_only_loss && example.is_text() {
            return Err(DataError::NotConversational { row: row.clone(), format });
        }
        Ok(())
    }

    fn items(&self, example: Example) -> Result<Vec<Outcome<Sequence>>, RowProblem> {
        let (sequence, prompt_diverges) = self.sequence(example)?;
        Ok(vec![self.cut(sequence, prompt_diverges)?])
    }
}

impl Sft<'_> {
    /// Ids and labels of an example, and whether its prompt diverges.
    fn sequence(&self, example: Example) -> Result<(Sequence, bool), RowProblem> {
        let learned = if self.options.assistant_only_loss { Learned::Assistant } else { Learned::Everything };
        if self.options.assistant_only_loss && example.is_text() {
            return Err(RowProblem::NotConversational);
        }
        Ok(match example {
            Example::Text { text } => {
                let text = self.encoder.with_eos(text)?;
                (Sequence::new(self.encoder.text(&text)?), false)
            }
            Example::Messages { messages, trained, context } => {
                let learned = trained.as_deref().map_or(learned, Learned::Messages);
                (self.encoder.conversation(messages, context, learned)?, false)
            }
            Example::PromptCompletion { prompt, completion, context } => {
                let Continued { sequence, prompt_len, prompt_diverges } =
                    self.encoder.continued(&prompt, completion, &context, learned)?;
                let unlearned = if self.options.completion_only_loss { prompt_len } else { 0 };
                (sequence.learned_from(unlearned), prompt_diverges)
            }
            Example::Tokens { input_ids, labels: Some(labels) } => (Sequence::with_labels(input_ids, labels), false),
            Example::Tokens { input_ids, labels: None } => (Sequence::new(input_ids), false),
            other => {
                return Err(RowProblem::WrongType {
                    field: "row".into(),
                    expected: Self::NEEDED,
                    found: other.kind().into(),
                });
            }
        })
    }

    fn cut(&self, mut sequence: Sequence, prompt_diverges: bool) -> Result<Outcome<Sequence>, RowProblem> {
        let tokens = sequence.input_ids.len();
        let max_length = self.options.cut_at().unwrap_or(usize::MAX);
        if tokens > max_length {
            let overlong = RowProblem::Overlong { tokens, max_length };
            match self.options.overlong {
                Overlong::Truncate => {}
                Overlong::Drop => return Ok(Outcome::LeftOut { problem: overlong, size: Size::default() }),
                Overlong::Error => return Err(overlong),
            }
        }
        sequence.keep(match self.options.truncation_mode {
            TruncationMode::KeepStart => 0..tokens.min(max_length),
            TruncationMode::KeepEnd => tokens.saturating_sub(max_length)..tokens,
        });
        let size = Size {
            tokens: sequence.input_ids.len(),
            trained_tokens: sequence.num_items(),
            tokens_cut: tokens.saturating_sub(max_length),
            prompt_diverges,
            ..Size::default()
        };
        if size.trained_tokens == 0 && self.options.packing.is_none() {
            return Ok(Outcome::LeftOut { problem: RowProblem::NothingLearned, size });
        }
        Ok(Outcome::Item { item: sequence, size })
    }
}
