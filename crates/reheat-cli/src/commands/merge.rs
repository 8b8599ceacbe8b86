//! `reheat merge`: a base model and an adapter become one model.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::ValueEnum;
use reheat_model::{LoadOptions, SaveOptions, WeightDtype};
use serde_json::{Value, json};

use super::source::ModelArg;
use crate::{
    fault::Fault,
    output::{self, Format},
    training::Companions,
};

/// Make one model of a base model and the adapter that was trained on it.
///
/// The weights are added in 32 bits and rounded once, when they are written.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat merge --model runs/lora --output-dir merged
  reheat merge --model runs/lora --base-model ./Qwen2.5-0.5B --output-dir merged --dtype bfloat16")]
pub(crate) struct MergeArgs {
    #[command(flatten)]
    model: ModelArg,

    /// Folder for the whole model.
    #[arg(long, value_name = "DIR", alias = "output_dir")]
    output_dir: PathBuf,

    /// Type of the saved numbers; that of the base model when absent.
    #[arg(long, value_enum)]
    dtype: Option<SavedDtype>,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SavedDtype {
    Float32,
    Float16,
    Bfloat16,
}

impl From<SavedDtype> for WeightDtype {
    fn from(dtype: SavedDtype) -> Self {
        match dtype {
            SavedDtype::Float32 => Self::F32,
            SavedDtype::Float16 => Self::F16,
            SavedDtype::Bfloat16 => Self::Bf16,
        }
    }
}

pub(super) fn run(args: &MergeArgs) -> anyhow::Result<()> {
    let source = args.model.open()?;
    if !source.is_adapter() {
        return Err(Fault::input(format!("`{}` is a whole model: there is nothing to merge", source.dir().display()))
            .hint("give the folder that holds adapter_config.json")
            .into());
    }
    let out = &args.output_dir;
    if same_folder(out, source.dir()) || same_folder(out, source.base_dir()) {
        return Err(Fault::input(format!("`{}` holds what is to be merged", out.display()))
            .hint("give another --output-dir: the adapter and the base model stay as they are")
            .into());
    }
    let tokenizer = source.tokenizer()?;
    let template = source.template(&tokenizer)?;
    let mut model = source.model_with(&LoadOptions::default(), &Device::flex())?.merged();
    let is_judge = model.score.is_some();
    let dtype = args
        .dtype
        .map_or_else(|| base_dtype(model.config().get("dtype").or(model.config().get("torch_dtype"))), Into::into);
    if let Some(eos) = tokenizer.special_tokens().eos() {
        model.config_mut().set("eos_token_id", eos.id.into());
    }
    if let Some(pad) = tokenizer.pad_id().filter(|_| is_judge) {
        model.config_mut().set("pad_token_id", pad.into());
    }
    model.save(out, &SaveOptions { dtype, ..SaveOptions::default() })?;
    Companions { tokenizer, template }.save(out)?;
    if args.format.json {
        return output::print_json(&json!({ "output_dir": out, "dtype": dtype }));
    }
    println!("{}", out.display());
    let next =
        if is_judge { "let it judge: reheat grpo --reward model:" } else { "talk with it: reheat chat --model " };
    eprintln!("{next}{}", out.display());
    Ok(())
}

/// Whether both exist and are the same folder.
fn same_folder(a: &Path, b: &Path) -> bool {
    fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// The type that the base model's `config.json` names; f32 where it names none.
fn base_dtype(value: Option<&Value>) -> WeightDtype {
    value.and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
}
