//! Rows to answers that are preferred or not, with the rules of TRL's `DPOTrainer` and `KTOTrainer` (1.16).

use reheat_chat::ChatTemplate;
use reheat_tokenizer::Tokenizer;

use super::{
    Overlong, PrepareOptions, Prepared, TruncationMode,
    pipeline::{self, Outcome, Recipe, Size},
};
use crate::{
    Context, DataError, Dataset, Example, Format, RowId, RowProblem, Sequence, Turns,
    format::extract_prompt,
    tokenize::{Encoder, Learned},
};

/// Two answers to one prompt, tokenised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PreferencePair {
    /// What is answered.
    pub prompt_ids: Vec<u32>,
    /// The better answer.
    pub chosen_ids: Vec<u32>,
    /// The worse answer.
    pub rejected_ids: Vec<u32>,
}

impl PreferencePair {
    /// The prompt with the better answer, of which the answer is learned.
    #[must_use]
    pub fn chosen(&self) -> Sequence {
        answered(&self.prompt_ids, &self.chosen_ids)
    }

    /// The prompt with the worse answer, of which the answer is learned.
    #[must_use]
    pub fn rejected(&self) -> Sequence {
        answered(&self.prompt_ids, &self.rejected_ids)
    }
}

/// Two whole sequences, prompt and answer, of which the first is better, tokenised.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RewardPair {
    /// The prompt with the better answer.
    pub chosen_ids: Vec<u32>,
    /// The prompt with the worse answer.
    pub rejected_ids: Vec<u32>,
    /// By how much the better answer is better, where the row says so.
    pub margin: Option<f32>,
}

/// One answer to a prompt, good or bad, tokenised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnpairedCompletion {
    /// What is answered.
    pub prompt_ids: Vec<u32>,
    /// The answer, as far as `max_length` leaves room for it behind the prompt.
    pub completion_ids: Vec<u32>,
    /// The rest of the answer. It is not learned; behind another prompt there may be room for it.
    pub cut_ids: Vec<u32>,
    /// Whether it is good.
    pub label: bool,
}

impl UnpairedCompletion {
    /// The prompt with the answer, of which the answer is learned.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        answered(&self.prompt_ids, &self.completion_ids)
    }
}

fn answered(prompt_ids: &[u32], answer_ids: &[u32]) -> Sequence {
    Sequence::new([prompt_ids, answer_ids].concat()).learned_from(prompt_ids.len())
}

/// Reads a dataset of preferences and makes pairs of answers.
///
/// The prompt is what the ids of the prompt alone share with those of both answers after it; where a row has none of
/// its own, it is what the answers begin with. Text ends with an end-of-sequence token. A row whose prompt alone fills
/// `max_length` is left out, and answers are cut at the end: here, so that the report counts them, and in TRL when a
/// batch is made. A model sees the same tokens.
///
/// `progress` is told the number of rows done so far, from the thread that calls.
///
/// # Errors
/// As [`prepare_sft`](crate::prepare_sft), and if `truncation_mode` isn't the beginning.
pub fn prepare_preference(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Prepared<PreferencePair>, DataError> {
    pipeline::run(dataset, &Pairs(Answers::new(tokenizer, template, options)?), options, progress)
}

/// Reads a dataset of single answers that are good or bad. Preferences give two of them each, the better one first.
///
/// The rules are those of [`prepare_preference`]. In TRL all good answers of 1000 rows come before the bad ones.
///
/// # Errors
/// As [`prepare_preference`].
pub fn prepare_unpaired(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Prepared<UnpairedCompletion>, DataError> {
    pipeline::run(dataset, &Unpaired(Answers::new(tokenizer, template, options)?), options, progress)
}

/// Reads a dataset of preferences and makes pairs of whole sequences, with the margin that a row has in its column
/// `margin`.
///
/// The rules are those of [`prepare_preference`]. TRL leaves pairs longer than `max_length` out, as
/// [`Overlong::Drop`] does.
///
/// # Errors
/// As [`prepare_preference`].
pub fn prepare_reward(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Prepared<RewardPair>, DataError> {
    pipeline::run(dataset, &Ranked(Answers::new(tokenizer, template, options)?), options, progress)
}

/// Answers to prompts, encoded and cut.
pub(super) struct Answers<'a> {
    encoder: Encoder<'a>,
    max_length: usize,
    overlong: Overlong,
}

impl<'a> Answers<'a> {
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        template: Option<&'a ChatTemplate>,
        options: &PrepareOptions,
    ) -> Result<Self, DataError> {
        options.check()?;
        if options.truncation_mode == TruncationMode::KeepEnd {
            return Err(DataError::Setting {
                setting: "truncation_mode",
                value: "keep_end".into(),
                reason: "preferences keep the beginning, since both answers share it".into(),
            });
        }
        let encoder = Encoder { tokenizer, template, control_tokens: options.control_tokens };
        Ok(Self { encoder, max_length: options.max_length.unwrap_or(usize::MAX), overlong: options.overlong })
    }

    /// The prompt's ids and those of each answer after it, cut at their end, as an item. The prompt ends where it
    /// diverges from the first answer to do so. `item` is given what was cut off, too.
    fn outcome<const N: usize, T>(
        &self,
        prompt: &Turns,
        answers: [Turns; N],
        context: &Context,
        item: impl FnOnce(Vec<u32>, [Vec<u32>; N], [Vec<u32>; N]) -> T,
    ) -> Result<Outcome<T>, RowProblem> {
        let mut encoded = Vec::with_capacity(N);
        for answer in answers {
            encoded.push(self.encoder.continued(prompt, answer, context, Learned::Everything)?);
        }
        let prompt_len = encoded.iter().map(|answer| answer.prompt_len).min().unwrap_or(0);
        let prompt_diverges = encoded.iter().any(|answer| answer.prompt_diverges);
        let mut size = Size { prompt_diverges, ..Size::default() };
        let left_out = |problem| Ok(Outcome::LeftOut { problem, size: Size { prompt_diverges, ..Size::default() } });

        let max_length = self.max_length;
        let tokens = encoded.iter().map(|answer| answer.sequence.input_ids.len()).max().unwrap_or(0);
        if tokens > max_length {
            match self.overlong {
                Overlong::Truncate => {}
                Overlong::Drop => return left_out(RowProblem::Overlong { tokens, max_length }),
                Overlong::Error => return Err(RowProblem::Overlong { tokens, max_length }),
            }
        }
        if prompt_len >= max_length {
            return left_out(RowProblem::PromptTooLong { tokens: prompt_len, max_length });
        }
        let mut prompt_ids = Vec::new();
        let (mut answers, mut rests) = ([const { Vec::new() }; N], [const { Vec::new() }; N]);
        for ((answer, rest), encoded) in answers.iter_mut().zip(&mut rests).zip(encoded) {
            let mut ids = encoded.sequence.input_ids;
            *rest = ids.split_off(ids.len().min(max_length));
            size.tokens_cut += rest.len();
            size.tokens += ids.len();
            // The first token of a sequence is never predicted.
            size.trained_tokens += ids.len() - prompt_len.max(1).min(ids.len());
            *answer = ids.split_off(prompt_len);
            ids.shrink_to_fit();
            prompt_ids = ids;
        }
        if size.trained_tokens == 0 {
            return left_out(RowProblem::NothingLearned);
        }
        Ok(Outcome::Item { item: item(prompt_ids, answers, rests), size })
    }

    pub(super) fn pair(
        &self,
        prompt: &Turns,
        answers: [Turns; 2],
        context: &Context,
    ) -> Result<Outcome<PreferencePair>, RowProblem> {
        self.outcome(prompt, answers, context, |prompt_ids, [chosen_ids, rejected_ids], _| PreferencePair {
            prompt_ids,
            chosen_ids,
            rejected_ids,
        })
    }

    pub(super) fn single(
        &self,
        prompt: &Turns,
        completion: Turns,
        context: &Context,
        label: bool,
    ) -> Result<Outcome<UnpairedCompletion>, RowProblem> {
        self.outcome(prompt, [completion], context, |prompt_ids, [completion_ids], [cut_ids]| UnpairedCompletion {
            prompt_ids,
            completion_ids,
            cut_ids,
            label,
        })
    }
}

/// The prompt and the two answers of a preference.
pub(super) fn explicit(
    prompt: Option<Turns>,
    chosen: Turns,
    rejected: Turns,
) -> Result<(Turns, [Turns; 2]), RowProblem> {
    match prompt {
        Some(prompt) => Ok((prompt, [chosen, rejected])),
        None => extract_prompt(chosen, rejected).map(|(prompt, chosen, rejected)| (prompt, [chosen, rejected])),
    }
}

fn unfit<T>(example: &Example, expected: &'static str) -> Result<T, RowProblem> {
    Err(RowProblem::WrongType { field: "row".into(), expected, found: example.kind().into() })
}

struct Pairs<'a>(Answers<'a>);

impl Recipe for Pairs<'_> {
    type Item = PreferencePair;

    const FORMATS: &'static [Format] = &[Format::Preference];
    const NEEDED: &'static str = "preferences: a chosen and a rejected answer";

    fn encoder(&self) -> &Encoder<'_> {
        &self.0.encoder
    }

    fn check(&self, _: &RowId, _: Format, _: &Example) -> Result<(), DataError> {
        Ok(())
    }

    fn items(&self, example: Example) -> Result<Vec<Outcome<PreferencePair>>, RowProblem> {
        match example {
            Example::Preference { prompt, chosen, rejected, context, .. } => {
                let (prompt, answers) = explicit(prompt, chosen, rejected)?;
                Ok(vec![self.0.pair(&prompt, answers, &context)?])
            }
            other => unfit(&other, Self::NEEDED),
        }
    }
}

struct Ranked<'a>(Answers<'a>);

impl Recipe for Ranked<'_> {
    type Item = RewardPair;

    const FORMATS: &'static [Format] = &[Format::Preference];
    const NEEDED: &'static str = "pairs to rank: a chosen and a rejected answer";

    fn encoder(&self) -> &Encoder<'_> {
        &self.0.encoder
    }

    fn check(&self, _: &RowId, _: Format, _: &Example) -> Result<(), DataError> {
        Ok(())
    }

    fn items(&self, example: Example) -> Result<Vec<Outcome<RewardPair>>, RowProblem> {
        match example {
            Example::Preference { prompt, chosen, rejected, margin, context } => {
                let (prompt, answers) = explicit(prompt, chosen, rejected)?;
                let outcome = self.0.pair(&prompt, answers, &context)?;
                Ok(vec![outcome.map(|PreferencePair { prompt_ids, chosen_ids, rejected_ids }| RewardPair {
                    chosen_ids: [&*prompt_ids, &*chosen_ids].concat(),
                    rejected_ids: [&*prompt_ids, &*rejected_ids].concat(),
                    margin,
                })])
            }
            other => unfit(&other, Self::NEEDED),
        }
    }
}

struct Unpaired<'a>(Answers<'a>);

impl Recipe for Unpaired<'_> {
    type Item = UnpairedCompletion;

    const FORMATS: &'static [Format] = &[Format::UnpairedPreference, Format::Preference];
    const NEEDED: &'static str = "answers with a label, or preferences";

    fn encoder(&self) -> &Encoder<'_> {
        &self.0.encoder
    }

    fn check(&self, _: &RowId, _: Format, _: &Example) -> Result<(), DataError> {
        Ok(())
    }

    fn items(&self, example: Example) -> Result<Vec<Outcome<UnpairedCompletion>>, RowProblem> {
        match example {
            Example::UnpairedPreference { prompt, completion, label, context } => {
                Ok(vec![self.0.single(&prompt, completion, &context, label)?])
            }
            Example::Preference { prompt, chosen, rejected, context, .. } => {
                let (prompt, [chosen, rejected]) = explicit(prompt, chosen, rejected)?;
                let good = self.0.single(&prompt, chosen, &context, true)?;
                Ok(vec![good, self.0.single(&prompt, rejected, &context, false)?])
            }
            other => unfit(&other, Self::NEEDED),
        }
    }
}
