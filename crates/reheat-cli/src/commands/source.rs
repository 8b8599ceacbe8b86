//! `--model`: a folder in Hugging Face format, the name of one on the Hub, or the bundled model.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use burn::tensor::Device;
use reheat_chat::{ChatTemplate, TemplateTokens};
use reheat_model::{LoadOptions, ModelError, Precision, Qwen2, Qwen2Config};
use reheat_tokenizer::Tokenizer;

use crate::{demo, device::ChosenDevice, fault::Fault, hub};

/// The model that a command looks at or talks with.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ModelArg {
    /// Model folder in Hugging Face format, an adapter's folder, or a name on the Hub such as Qwen/Qwen2.5-0.5B; without
    /// it, the bundled tiny model.
    #[arg(short, long, value_name = "DIR|NAME")]
    pub(crate) model: Option<PathBuf>,

    /// Model that an adapter belongs to, where it is not the one that the adapter names.
    #[arg(long, value_name = "DIR|NAME", requires = "model")]
    pub(crate) base_model: Option<PathBuf>,
}

impl ModelArg {
    /// A model by its folder.
    pub(crate) fn of(dir: &Path) -> Self {
        Self { model: Some(dir.to_owned()), base_model: None }
    }
}

/// `--dtype`
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct PrecisionArg {
    /// Hold and multiply the matrices in float32, bfloat16 or int8; auto takes bfloat16 where the checkpoint is stored so.
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    dtype: DtypeChoice,
}

/// What `--dtype` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DtypeChoice {
    Auto,
    Given(Precision),
}

impl FromStr for DtypeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Given).map_err(|_| "expected auto, float32, bfloat16 or int8".into()),
        }
    }
}

impl PrecisionArg {
    /// Decides, and says on stderr what and why.
    pub(crate) fn resolve(self, source: &ModelSource, device: &ChosenDevice) -> anyhow::Result<Precision> {
        let (precision, reason) = match self.dtype {
            DtypeChoice::Given(precision) => (precision, "asked for".to_owned()),
            DtypeChoice::Auto => match source.stored_dtype()?.as_deref() {
                Some("bfloat16") => (Precision::Bfloat16, "the checkpoint is stored so".to_owned()),
                Some(other) => (Precision::Float32, format!("the checkpoint is stored in {other}")),
                None => (Precision::Float32, "the checkpoint does not say how it is stored".to_owned()),
            },
        };
        let line = format!("{}: {precision} ({reason}) on {} ({})", source.name(), device.name, device.reason);
        eprintln!("{}", console::style(line).dim().for_stderr());
        Ok(precision)
    }
}

/// A model folder.
#[derive(Debug)]
pub(crate) struct ModelSource {
    dir: PathBuf,
    /// As it was given.
    given: PathBuf,
    /// What the model is called beside others.
    name: String,
    /// Where `dir` is an adapter's, the model it belongs to.
    base: Option<PathBuf>,
    /// Keeps the unpacked bundled model while it is in use.
    unpacked: Option<tempfile::TempDir>,
}

impl ModelArg {
    /// Finds the folder.
    pub(crate) fn open(&self) -> anyhow::Result<ModelSource> {
        match &self.model {
            Some(path) => {
                let dir = folder(path)?;
                let base = self.base(&dir)?;
                Ok(ModelSource { dir, given: path.clone(), name: name_of(path), base, unpacked: None })
            }
            None => {
                tracing::info!("no --model given: the bundled tiny model");
                let folder = demo::unpack_base()?;
                let dir = folder.path().to_owned();
                let given = "bundled".into();
                Ok(ModelSource { dir, given, name: "bundled".into(), base: None, unpacked: Some(folder) })
            }
        }
    }

    /// The model that the adapter in `dir` belongs to; `None` where `dir` is a whole model's.
    fn base(&self, dir: &Path) -> anyhow::Result<Option<PathBuf>> {
        if !Qwen2::is_adapter(dir) {
            return match &self.base_model {
                Some(_) => Err(Fault::input(format!("`{}` is not an adapter", dir.display()))
                    .hint("--base-model goes with a --model folder that holds adapter_config.json")
                    .into()),
                None => Ok(None),
            };
        }
        match &self.base_model {
            Some(base) => folder(base).map(Some),
            None => match Qwen2::adapter_base(dir) {
                Err(ModelError::NoAdapterBase { base, .. }) if base.to_str().is_some_and(hub::is_name) => {
                    folder(&base).map(Some)
                }
                found => Ok(Some(found?)),
            },
        }
    }
}

/// The last part of a path or name; that of the current folder for `.`.
fn name_of(path: &Path) -> String {
    let canonical = path.canonicalize().ok();
    let name = path.file_name().or_else(|| canonical.as_deref()?.file_name()).unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The folder of a model: the one that is there, or that of a repository of the Hub.
fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() {
        return Err(Fault::input(format!("model `{}` is a file, expected a folder", path.display()))
            .hint("give the folder that holds config.json")
            .into());
    }
    match path.to_str() {
        Some(name) if hub::is_name(name) => hub::fetch_model(name),
        _ => Err(Fault::input(format!("there is no model folder `{}`", path.display()))
            .hint("check the path, which is taken from the current folder; a name on the Hub is owner/name")
            .into()),
    }
}

impl ModelSource {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path or name that a person gave, for messages; `bundled` for the model that is part of the binary.
    pub(crate) fn given(&self) -> std::path::Display<'_> {
        self.given.display()
    }

    /// What the model is called beside others: the last part of its path or name.
    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    /// Whether it is the model that is part of the binary.
    pub(crate) fn is_bundled(&self) -> bool {
        self.unpacked.is_some()
    }

    /// Whether the folder is an adapter's.
    pub(crate) fn is_adapter(&self) -> bool {
        self.base.is_some()
    }

    /// The folder of the whole model: the adapter's base, or the folder itself.
    pub(crate) fn base_dir(&self) -> &Path {
        self.base.as_deref().unwrap_or(&self.dir)
    }

    /// Where tokenizer and template are: an adapter's folder may leave them to its base.
    fn text_dir(&self) -> &Path {
        if self.dir.join("tokenizer.json").is_file() { &self.dir } else { self.base_dir() }
    }

    pub(crate) fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        Ok(Tokenizer::from_dir(self.text_dir())?)
    }

    /// The model in f32.
    pub(crate) fn model(&self, device: &Device) -> anyhow::Result<Qwen2> {
        let model = self.model_with(&LoadOptions::default(), device)?;
        self.check_speaks(&model)?;
        Ok(model)
    }

    /// The model with its matrices held and multiplied as `precision` says.
    pub(crate) fn model_in(&self, device: &Device, precision: Precision) -> anyhow::Result<Qwen2> {
        let mut model = self.model_with(&LoadOptions { precision, quantization: None }, device)?;
        self.check_speaks(&model)?;
        model.set_compute(precision.compute());
        Ok(model)
    }

    /// The model, with weights that are to stay frozen held in fewer bits. It may be a reward model.
    pub(crate) fn model_with(&self, options: &LoadOptions, device: &Device) -> anyhow::Result<Qwen2> {
        let model = Qwen2::load_with(self.base_dir(), options, device)?;
        Ok(if self.is_adapter() { model.with_adapter(&self.dir)? } else { model })
    }

    /// Refuses a reward model, which has no words.
    pub(crate) fn check_speaks(&self, model: &Qwen2) -> Result<(), Fault> {
        if model.score.is_none() {
            return Ok(());
        }
        Err(Fault::input(format!("`{}` is a reward model, which gives a number and no text", self.given()))
            .hint("a reward model judges what others say: `reheat grpo --reward model:DIR`"))
    }

    /// The type in which the checkpoint is stored, as its configuration names it.
    fn stored_dtype(&self) -> anyhow::Result<Option<String>> {
        let config = Qwen2Config::from_dir(self.base_dir())?;
        let dtype = config.get("dtype").or_else(|| config.get("torch_dtype"));
        Ok(dtype.and_then(|dtype| dtype.as_str()).map(str::to_owned))
    }

    /// The template of the folder, or `None`.
    pub(crate) fn template(&self, tokenizer: &Tokenizer) -> anyhow::Result<Option<ChatTemplate>> {
        Ok(ChatTemplate::from_dir(self.text_dir(), &template_tokens(tokenizer))?)
    }

    /// The template to train with: that of the file, else the folder's, else ChatML where the tokenizer has its tokens.
    pub(crate) fn training_template(
        &self,
        file: Option<&Path>,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Option<ChatTemplate>> {
        let tokens = template_tokens(tokenizer);
        if let Some(file) = file {
            return Ok(Some(ChatTemplate::from_file(file, &tokens)?));
        }
        if let Some(own) = self.template(tokenizer)? {
            return Ok(Some(own));
        }
        let has_chatml = ["<|im_start|>", "<|im_end|>"].iter().all(|token| tokenizer.token_to_id(token).is_some());
        Ok(has_chatml.then(|| ChatTemplate::chatml(&tokens)))
    }
}

/// Makes the token that ends a turn the end of text, or the tuned model would never stop. Says so when it changed.
pub(crate) fn choose_eos(
    eos_token: Option<&str>,
    template: Option<&ChatTemplate>,
    tokenizer: &mut Tokenizer,
) -> anyhow::Result<Option<String>> {
    const CHATML_END: &str = "<|im_end|>";
    let told = template
        .is_some_and(|template| template.source().contains(CHATML_END) && tokenizer.token_to_id(CHATML_END).is_some());
    let wanted = eos_token.or(told.then_some(CHATML_END));
    let current = tokenizer.special_tokens().eos().map(|eos| eos.content.clone());
    match wanted {
        Some(wanted) if current.as_deref() != Some(wanted) => {
            tokenizer.set_eos_token(wanted)?;
            let before = current.unwrap_or_else(|| "none".into());
            Ok(Some(format!("ends the template's turns; before: {before}")))
        }
        _ => Ok(None),
    }
}

/// What a template has to know of the tokenizer.
pub(crate) fn template_tokens(tokenizer: &Tokenizer) -> TemplateTokens {
    let named = tokenizer.special_tokens().named().map(|(name, token)| (name.to_owned(), token.content.clone()));
    let (special, added): (Vec<_>, Vec<_>) =
        tokenizer.added_tokens().iter().partition(|token| tokenizer.is_special(token.id));
    let contents =
        |tokens: Vec<&reheat_tokenizer::SpecialToken>| tokens.iter().map(|token| token.content.clone()).collect();
    TemplateTokens { named: named.collect(), special: contents(special), added: contents(added) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_name_is_a_path() {
        for path in ["./no/such", "/no/such", "../x", "no/such/folder", "~/x"] {
            let error = folder(Path::new(path)).unwrap_err();
            assert_eq!(error.to_string(), format!("there is no model folder `{path}`"));
        }
        let file = folder(Path::new("Cargo.toml")).unwrap_err();
        assert_eq!(file.to_string(), "model `Cargo.toml` is a file, expected a folder");
    }
}
