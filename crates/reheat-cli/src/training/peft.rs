//! Adapters, under the names of TRL's `ModelConfig`.

use reheat_kernels::{FourBitConfig, FourBitKind};
use reheat_model::{LoadOptions, LoraConfig, Precision, Quantization, Qwen2, Qwen2Config, TargetModules};
use reheat_train::TrainingDtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{commands::ModelSource, fault::Fault, settings::Table};

/// What is trained of the model.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PeftSettings {
    /// Train low-rank adapters and leave the model itself as it is.
    pub(crate) use_peft: bool,
    /// Rank of the adapters.
    lora_r: usize,
    /// Adapters are scaled by lora_alpha / lora_r.
    lora_alpha: f64,
    /// Share of an adapter's input that is left out while training.
    lora_dropout: f64,
    /// Layers that get an adapter: names, all-linear, or one regular expression of whole paths. Default q_proj, v_proj.
    lora_target_modules: Option<Vec<String>>,
    /// Modules that are trained whole and saved beside the adapters, such as lm_head, embed_tokens.
    lora_modules_to_save: Option<Vec<String>>,
    /// Token ids whose rows of the embedding, and of a tied head, are trained too; those of new_tokens are among them.
    trainable_token_indices: Option<Vec<u32>>,
    /// Scale by lora_alpha / √lora_r.
    use_rslora: bool,
    /// Train the lengths of the weights' rows apart from their directions.
    use_dora: bool,
    /// Hold the frozen dense layers in 4 bits.
    load_in_4bit: bool,
    /// Hold the frozen dense layers in 8 bits.
    load_in_8bit: bool,
    /// What 4 bits stand for.
    bnb_4bit_quant_type: QuantType,
    /// Hold the scales of 4-bit weights in 8 bits.
    use_bnb_nested_quant: bool,
}

/// The head of a reward model.
const SCORE: &str = "score";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum QuantType {
    Fp4,
    #[default]
    Nf4,
}

impl Default for PeftSettings {
    /// TRL 1.16's defaults.
    fn default() -> Self {
        Self {
            use_peft: false,
            lora_r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.05,
            lora_target_modules: None,
            lora_modules_to_save: None,
            trainable_token_indices: None,
            use_rslora: false,
            use_dora: false,
            load_in_4bit: false,
            load_in_8bit: false,
            bnb_4bit_quant_type: QuantType::Nf4,
            use_bnb_nested_quant: false,
        }
    }
}

impl PeftSettings {
    fn config(&self) -> LoraConfig {
        LoraConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            target_modules: self.lora_target_modules.as_deref().map(TargetModules::parse).unwrap_or_default(),
            modules_to_save: self.lora_modules_to_save.clone().unwrap_or_default(),
            trainable_token_indices: self.trainable_token_indices.clone().unwrap_or_default(),
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            ..LoraConfig::default()
        }
    }

    /// Everything that is wrong with the values.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = self.config().faults();
        if self.load_in_4bit && self.load_in_8bit {
            faults.push("load_in_4bit and load_in_8bit exclude each other".into());
        }
        for (setting, given) in [("load_in_4bit", self.load_in_4bit), ("load_in_8bit", self.load_in_8bit)] {
            if given && !self.use_peft {
                faults.push(format!("{setting} is for weights that stay frozen: it needs use_peft"));
            }
        }
        faults
    }

    /// How the model is loaded: with adapters, frozen weights need not be held in 32 bits.
    pub(super) fn load_options(&self, dtype: TrainingDtype) -> LoadOptions {
        let kind = match self.bnb_4bit_quant_type {
            QuantType::Fp4 => FourBitKind::Fp4,
            QuantType::Nf4 => FourBitKind::Nf4,
        };
        let four_bit = Quantization::FourBit(FourBitConfig { kind, nested_scales: self.use_bnb_nested_quant });
        LoadOptions {
            precision: match dtype {
                TrainingDtype::Bfloat16 if self.use_peft => Precision::Bfloat16,
                _ => Precision::Float32,
            },
            quantization: self.load_in_4bit.then_some(four_bit).or(self.load_in_8bit.then_some(Quantization::Int8)),
        }
    }

    /// Settings that change nothing: those of adapters without adapters.
    pub(super) fn without_effect(&self, table: &'static Table) -> Vec<(&'static str, &'static str)> {
        if self.use_peft {
            return Vec::new();
        }
        let others =
            ["trainable_token_indices", "use_rslora", "use_dora", "bnb_4bit_quant_type", "use_bnb_nested_quant"];
        let is_ours = |key: &&str| key.starts_with("lora_") || others.contains(key);
        let keys = table.fields.iter().map(|field| field.key.as_str());
        keys.filter(is_ours).map(|key| (key, "without use_peft")).collect()
    }

    /// What can be known to be wrong before the model is loaded.
    ///
    /// # Errors
    /// If the source is an adapter and adapters are not to be trained, or a name matches no module.
    pub(super) fn check(&self, source: &ModelSource) -> anyhow::Result<()> {
        match (self.use_peft, source.is_adapter()) {
            (false, false) | (true, true) => Ok(()),
            (false, true) => {
                let dir = source.dir().display();
                let remedy = format!(
                    "add --use-peft to go on training it, or make a model of it first: \
                     reheat merge --model {dir} --output-dir DIR"
                );
                Err(Fault::input(format!("`{dir}` is an adapter, not a whole model")).hint(remedy).into())
            }
            (true, false) => {
                let mut config = self.config();
                // A head that the model is yet to get.
                config.modules_to_save.retain(|name| name != SCORE);
                Ok(config.check(&Qwen2Config::from_dir(source.dir())?)?)
            }
        }
    }

    /// The model with what is trained of it: fresh adapters, those of an adapter folder, or all of it.
    ///
    /// `base_model` is what a saved adapter will call its base: the folder or name as a person gave it. `new_tokens` are
    /// trained as those of `trainable_token_indices`.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(super) fn apply(
        &self,
        model: Qwen2,
        source: &ModelSource,
        base_model: &str,
        new_tokens: Vec<u32>,
        seed: u64,
    ) -> anyhow::Result<Qwen2> {
        if let Some(config) = model.lora_config() {
            eprintln!("going on with the adapter's own settings: rank {}, alpha {}", config.r, config.lora_alpha);
            let trained = |id: &u32| config.trainable_token_indices.contains(id);
            if let Some(id) = new_tokens.iter().find(|id| !trained(id)) {
                return Err(Fault::input(format!("new_tokens: the adapter does not train the row of token {id}"))
                    .hint("an adapter keeps its settings: merge it, and add tokens to the merged model")
                    .into());
            }
        }
        if !self.use_peft || source.is_adapter() {
            return Ok(model);
        }
        let mut config = self.config();
        let fresh =
            new_tokens.into_iter().filter(|id| !config.trainable_token_indices.contains(id)).collect::<Vec<_>>();
        config.trainable_token_indices.extend(fresh);
        // As PEFT does for its task SEQ_CLS: the head is new, so that it is trained whole.
        if model.score.is_some() && !config.modules_to_save.iter().any(|name| name == SCORE) {
            config.modules_to_save.push(SCORE.into());
        }
        Ok(model.with_lora(config, base_model, seed)?)
    }
}

/// How much of the model is trained, on stderr.
pub(super) fn report(model: &Qwen2) {
    if model.lora_config().is_some() {
        let (trained, all) = (model.num_trained_parameters(), model.without_adapters().config().num_parameters());
        let share = 100.0 * trained as f64 / all as f64;
        eprintln!("adapters: {trained} parameters are trained, {share:.2}% of the model's {all}");
    }
}
