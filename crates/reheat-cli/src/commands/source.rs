//! `--model`: a folder in Hugging Face format, or the bundled model.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use reheat_chat::{ChatTemplate, TemplateTokens};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;

use crate::{demo, fault::Fault};

/// The model that a command looks at or talks with.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ModelArg {
    /// Model folder in Hugging Face format; without it, the bundled tiny model.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
}

/// A model folder.
#[derive(Debug)]
pub(crate) struct ModelSource {
    dir: PathBuf,
    /// Keeps the unpacked bundled model while it is in use.
    unpacked: Option<tempfile::TempDir>,
}

impl ModelArg {
    /// Finds the folder.
    pub(crate) fn open(&self) -> anyhow::Result<ModelSource> {
        match &self.model {
            Some(path) => Ok(ModelSource { dir: existing(path)?, unpacked: None }),
            None => {
                tracing::info!("no --model given: the bundled tiny model");
                let folder = demo::unpack_base()?;
                Ok(ModelSource { dir: folder.path().to_owned(), unpacked: Some(folder) })
            }
        }
    }
}

/// The folder of a model, which must be there.
pub(crate) fn existing(path: &Path) -> Result<PathBuf, Fault> {
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() {
        return Err(Fault::input(format!("model `{}` is a file, expected a folder", path.display()))
            .hint("give the folder that holds config.json"));
    }
    let fault = Fault::input(format!("there is no model folder `{}`", path.display()));
    Err(if looks_like_a_repository(path) {
        fault.hint(format!(
            "a repository of the Hub has to be here first: `hf download {0} --local-dir {1}`, then --model {1}",
            path.display(),
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        ))
    } else {
        fault.hint("check the path; it is taken from the current folder")
    })
}

/// `Qwen/Qwen2.5-0.5B`
fn looks_like_a_repository(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let mut parts = text.split('/');
    matches!((parts.next(), parts.next(), parts.next()), (Some(owner), Some(name), None)
        if !owner.is_empty() && !name.is_empty() && !owner.starts_with('.'))
}

impl ModelSource {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the model is called beside others: the last part of its path.
    pub(crate) fn name(&self) -> String {
        if self.unpacked.is_some() {
            return "bundled".into();
        }
        self.dir.file_name().map_or_else(|| self.dir.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    pub(crate) fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        Ok(Tokenizer::from_dir(&self.dir)?)
    }

    pub(crate) fn model(&self, device: &Device) -> anyhow::Result<Qwen2> {
        Ok(Qwen2::load(&self.dir, device)?)
    }

    /// The template of the folder, or `None`.
    pub(crate) fn template(&self, tokenizer: &Tokenizer) -> anyhow::Result<Option<ChatTemplate>> {
        Ok(ChatTemplate::from_dir(&self.dir, &template_tokens(tokenizer))?)
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
    fn a_repository_name_is_answered_with_how_to_get_it() {
        let fault = existing(Path::new("Qwen/Qwen2.5-0.5B")).unwrap_err();
        assert_eq!(fault.to_string(), "there is no model folder `Qwen/Qwen2.5-0.5B`");
        assert!(fault.hints()[0].contains("hf download Qwen/Qwen2.5-0.5B --local-dir Qwen2.5-0.5B"));
        assert!(existing(Path::new("./no/such")).unwrap_err().hints()[0].contains("check the path"));
    }
}
