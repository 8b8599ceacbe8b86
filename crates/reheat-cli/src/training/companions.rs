//! What is saved beside the weights.

use std::path::{Path, PathBuf};

use reheat_chat::ChatTemplate;
use reheat_tokenizer::Tokenizer;

/// What turns text into tokens, as training uses it and as it is saved.
#[derive(Debug, Clone)]
pub(crate) struct Companions {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
}

impl Companions {
    /// Writes the files into `dir` and gives their paths.
    pub(crate) fn save(&self, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
        self.tokenizer.save(dir)?;
        if let Some(template) = &self.template {
            template.save(dir)?;
        }
        let names = [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json",
            "chat_template.jinja",
        ];
        Ok(names.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect())
    }
}
