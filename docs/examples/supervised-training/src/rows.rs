//! Conversations to sequences.

use std::error::Error;
use std::path::Path;

use reheat_chat::{ChatTemplate, TemplateTokens};
use reheat_data::{Dataset, DatasetSpec, PrepareOptions, Sequence, prepare_sft};
use reheat_tokenizer::Tokenizer;

/// The sequences of a file of conversations, in ChatML, of which what the assistant said is learned.
///
/// # Errors
/// If the tokenizer of the model or the file cannot be read.
pub fn read(model_dir: &Path, file: &Path) -> Result<Vec<Sequence>, Box<dyn Error>> {
    let tokenizer = Tokenizer::from_dir(model_dir)?;
    let template = ChatTemplate::chatml(&TemplateTokens::new([("eos_token", "<|im_end|>")]));
    let dataset = Dataset::open(&DatasetSpec::new(file.to_string_lossy()).into())?;
    let options = PrepareOptions { assistant_only_loss: true, ..PrepareOptions::default() };
    Ok(prepare_sft(&dataset, &tokenizer, Some(&template), &options, &mut |_| {})?.examples)
}
