//! Settings that every training command has.

use std::path::{Path, PathBuf};

use reheat_model::{Qwen2, Qwen2Config};
use reheat_tokenizer::Tokenizer;
use reheat_train::{IntervalStrategy, TrainingConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    companions::Companions,
    output::OutputSettings,
    peft::{self, PeftSettings},
};
use crate::{
    commands::{ModelArg, ModelSource, choose_eos},
    device::{ChosenDevice, DeviceChoice},
    fault::Fault,
    kernels::KernelChoice,
    settings::{DatasetSettings, Resolved, Table},
};

/// The table of a training command; `own` adds what others do not have.
pub(crate) fn table(own: impl FnOnce(Table) -> Table) -> Table {
    own(Table::default().with::<RunSettings>("Run").with::<DatasetSettings>("Dataset"))
        .with::<PeftSettings>("Adapters")
        .with::<TrainingConfig>("Training")
        .with::<OutputSettings>("Output")
        .with_auto("dtype")
}

/// The settings of [`table`] but the command's own.
#[derive(Debug, Clone)]
pub(crate) struct SharedSettings {
    pub(crate) run: RunSettings,
    pub(crate) dataset: DatasetSettings,
    pub(crate) peft: PeftSettings,
    pub(crate) training: TrainingConfig,
    pub(crate) output: OutputSettings,
}

/// What goes in.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RunSettings {
    /// Model folder in Hugging Face format, or a name on the Hub.
    #[schemars(extend("x-flag" = "model"))]
    model_name_or_path: Option<String>,
    /// Folder of the model that an adapter given as --model belongs to, where it is not the one that the adapter names.
    #[schemars(extend("x-flag" = "base-model"))]
    base_model_name_or_path: Option<String>,
    /// File with a chat template to use instead of the model's.
    #[schemars(extend("x-flag" = "chat-template"))]
    chat_template_path: Option<String>,
    /// Token that ends a turn; told from the template when absent.
    eos_token: Option<String>,
    /// Special tokens to add to the tokenizer; with adapters, their rows of the embedding are trained.
    #[schemars(extend("x-commas" = false))]
    new_tokens: Vec<String>,
    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    pub(crate) device: DeviceChoice,
    /// Fused kernels, or the plain definitions that they are compared with.
    pub(crate) kernels: KernelChoice,
}

impl SharedSettings {
    pub(super) fn extract(resolved: &Resolved) -> Result<Self, Fault> {
        Ok(Self {
            run: resolved.extract()?,
            dataset: resolved.extract()?,
            peft: resolved.extract()?,
            training: resolved.extract()?,
            output: resolved.extract()?,
        })
    }

    /// The folder of the model, if nothing is wrong that can be known before files are read.
    pub(super) fn model_dir(&self, mut faults: Vec<String>) -> Result<PathBuf, Fault> {
        if self.run.model_name_or_path.is_none() {
            faults.push("--model is missing".into());
        }
        match (&self.run.model_name_or_path, faults.as_slice()) {
            (Some(model), []) => Ok(model.into()),
            (_, [fault]) => Err(Fault::input(fault.clone())),
            (_, faults) => {
                Err(Fault::input(format!("{} settings are wrong:\n  {}", faults.len(), faults.join("\n  "))))
            }
        }
    }

    /// The model to train, fit for the adapters that are asked for.
    pub(super) fn open(&self, model_dir: PathBuf) -> anyhow::Result<ModelSource> {
        let base_model = self.run.base_model_name_or_path.as_ref().map(PathBuf::from);
        let source = ModelArg { model: Some(model_dir), base_model }.open()?;
        self.peft.check(&source)?;
        Ok(source)
    }

    /// Tokenizer and template as they are trained with, and what was changed of them.
    pub(super) fn companions(&self, source: &ModelSource) -> anyhow::Result<(Companions, Option<String>)> {
        let mut tokenizer = source.tokenizer()?;
        self.add_new_tokens(source, &mut tokenizer)?;
        let template = source.training_template(self.run.chat_template_path.as_deref().map(Path::new), &tokenizer)?;
        let note = choose_eos(self.run.eos_token.as_deref(), template.as_ref(), &mut tokenizer)?;
        Ok((Companions { tokenizer, template }, note))
    }

    /// Adds `new_tokens`, for which the model must have rows to spare.
    fn add_new_tokens(&self, source: &ModelSource, tokenizer: &mut Tokenizer) -> anyhow::Result<()> {
        if self.run.new_tokens.is_empty() {
            return Ok(());
        }
        let known = tokenizer.vocab_size();
        let ids = tokenizer.add_special_tokens(&self.run.new_tokens)?;
        let rows = Qwen2Config::from_dir(source.base_dir())?.vocab_size;
        if let Some((token, id)) = self.run.new_tokens.iter().zip(&ids).find(|(_, id)| **id as usize >= rows) {
            let fault = format!("new_tokens: `{token}` would be token {id}, and the model has rows for {rows} tokens");
            let hint = format!(
                "the tokenizer uses {known} of them; an embedding is not made larger here: take a model with rows to spare, \
                 as Qwen2.5's have, or tokens that it has and that mean nothing to it yet"
            );
            return Err(Fault::input(fault).hint(hint).into());
        }
        Ok(())
    }

    /// The model as training begins with it; `with_head` gives it the head that the command trains.
    pub(super) fn load(
        &self,
        source: &ModelSource,
        base_model: &str,
        device: &ChosenDevice,
        tokenizer: &Tokenizer,
        with_head: impl FnOnce(Qwen2) -> anyhow::Result<Qwen2>,
    ) -> anyhow::Result<Qwen2> {
        let model = source.model_with(&self.peft.load_options(self.training.dtype), &device.device)?;
        // Adapters know of the head whether it is trained.
        let model = with_head(model)?;
        let new_tokens = self.run.new_tokens.iter().filter_map(|token| tokenizer.token_to_id(token));
        let mut model = self.peft.apply(model, source, base_model, new_tokens.collect(), self.training.seed)?;
        peft::report(&model);
        // What is computed before the first step, such as log-probabilities of a reference, is computed as in a step.
        model.set_compute(self.training.dtype.compute());
        if let Some(eos) = tokenizer.special_tokens().eos() {
            model.config_mut().set("eos_token_id", eos.id.into());
        }
        Ok(model)
    }
}

/// Rows that are measured and not trained on.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EvaluationSettings {
    /// Files, patterns and folders of rows to evaluate with.
    #[schemars(extend("x-flag" = "eval-dataset", "x-commas" = false))]
    eval_dataset_name: Vec<String>,
    /// Split to evaluate with: of --eval-dataset, or else of --dataset.
    #[schemars(extend("x-flag" = "eval-split"))]
    dataset_test_split: Option<String>,
}

impl EvaluationSettings {
    /// Whether there are such rows.
    pub(super) fn is_asked_for(&self) -> bool {
        !self.eval_dataset_name.is_empty() || self.dataset_test_split.is_some()
    }

    /// The rows, read as the others are; `None` where there are none.
    pub(super) fn dataset(&self, training: &DatasetSettings) -> Option<DatasetSettings> {
        if !self.is_asked_for() {
            return None;
        }
        let mut rows = DatasetSettings { sample: None, shuffle_dataset: false, ..training.clone() };
        if !self.eval_dataset_name.is_empty() {
            rows.dataset_name.clone_from(&self.eval_dataset_name);
            rows.datasets = None;
            rows.dataset_train_split = DatasetSettings::default().dataset_train_split;
        }
        if let Some(split) = &self.dataset_test_split {
            rows.dataset_train_split.clone_from(split);
        }
        Some(rows)
    }
}

/// Faults of settings that concern evaluation, which the loop alone cannot see.
pub(super) fn evaluation_faults(config: &TrainingConfig, has_rows: bool) -> Vec<String> {
    match (evaluates(config), has_rows) {
        (true, false) => vec!["--eval-strategy needs --eval-dataset: rows that are not trained on".into()],
        (false, true) => vec!["--eval-dataset needs --eval-strategy steps or epoch, or its rows are never used".into()],
        _ => Vec::new(),
    }
}

/// Faults of settings that concern evaluation, for a command that takes no rows for it.
pub(super) fn no_evaluation_faults(config: &TrainingConfig) -> Vec<String> {
    if evaluates(config) { vec!["eval_strategy: this command has no rows to evaluate with".into()] } else { Vec::new() }
}

fn evaluates(config: &TrainingConfig) -> bool {
    config.eval_strategy != IntervalStrategy::No || config.eval_on_start
}
