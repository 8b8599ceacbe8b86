//! The page about a model that lies beside it as README.md, in the form of Hugging Face model cards.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::TrainSummary;

/// Lines of a card's front matter that a model made of the other one passes on.
const PASSED_ON: [&str; 3] = ["license:", "license_name:", "license_link:"];
/// Longest card that is looked at; the front matter is its beginning.
const MAX_CARD_BYTES: u64 = 16 << 20;

/// What a model card says.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ModelCard {
    /// Name of the method as tag and as text, such as `sft` and `supervised fine-tuning`; `None` where it is not known.
    pub method: Option<(String, String)>,
    /// The model that was trained: a Hub name, or a path.
    pub base_model: Option<String>,
    /// Whether this is an adapter of that model, and no whole one.
    pub is_adapter: bool,
    /// Whether it scores texts instead of continuing them.
    pub is_classifier: bool,
    /// Lines about the licence, as in the card of the base model.
    pub license: Vec<String>,
    /// The rows: files or Hub names.
    pub datasets: Vec<String>,
    /// Such as `lora`, beside the method's.
    pub tags: Vec<String>,
    /// Settings that are not the defaults, by name.
    pub settings: Vec<(String, String)>,
    /// Numbers about the data and the result, by name.
    pub facts: Vec<(String, String)>,
    /// Pictures, as paths relative to the model's directory, with what they show.
    pub plots: Vec<(String, String)>,
}

impl ModelCard {
    /// A card of a model that a method made of another one.
    pub fn new(tag: &str, method: &str, base_model: &str) -> Self {
        Self { method: Some((tag.into(), method.into())), base_model: Some(base_model.into()), ..Self::default() }
    }

    /// A card of the model or adapter in a folder, as far as its configuration tells; `None` where there is neither.
    ///
    /// Where the base model is a folder here, its licence is passed on.
    pub fn of_folder(dir: &Path) -> Option<Self> {
        let adapter = json(dir, "adapter_config.json");
        let base_model = match &adapter {
            Some(config) => config["base_model_name_or_path"].clone(),
            None => json(dir, "config.json")?["_name_or_path"].clone(),
        };
        let base_model = base_model.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        let card = Self { base_model, ..Self::default() }.with_kind_of(dir);
        Some(match card.base_model.clone() {
            Some(base) => card.with_license_of(Path::new(&base)),
            None => card,
        })
    }

    /// Takes from the configuration in `dir` whether it holds an adapter, and whether it scores texts.
    pub fn with_kind_of(mut self, dir: &Path) -> Self {
        let adapter = json(dir, "adapter_config.json");
        self.is_adapter = adapter.is_some();
        self.is_classifier = match adapter {
            Some(config) => config["task_type"] == "SEQ_CLS",
            None => json(dir, "config.json").is_some_and(|config| {
                let architecture = config["architectures"][0].as_str();
                architecture.is_some_and(|name| name.ends_with("ForSequenceClassification"))
            }),
        };
        self
    }

    /// Passes on the licence that the card of the model in `dir` names, if there is one.
    pub fn with_license_of(mut self, dir: &Path) -> Self {
        let path = dir.join("README.md");
        let is_readable = fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= MAX_CARD_BYTES);
        let text = if is_readable { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let mut lines = text.lines().map(str::trim_end);
        if lines.next() == Some("---") {
            let front = lines.take_while(|line| *line != "---");
            let kept = front.filter(|line| {
                PASSED_ON.iter().any(|key| line.strip_prefix(key).is_some_and(|value| !value.trim().is_empty()))
            });
            self.license = kept.map(str::to_owned).collect();
        }
        self
    }

    /// Adds what training came to.
    pub fn with_summary(mut self, summary: &TrainSummary) -> Self {
        let mut fact = |name: &str, value: String| self.facts.push((name.into(), value));
        fact("optimizer steps", summary.global_step.to_string());
        fact("tokens seen", summary.num_tokens.to_string());
        fact("mean training loss", format!("{:.4}", summary.train_loss));
        if let Some(step) = summary.best_step {
            fact("weights of the best evaluation, at step", step.to_string());
        }
        self
    }

    /// The text of README.md of a model called `name`.
    ///
    /// A name that is a path is told as its last part: a card is published, and a home directory is nobody's business.
    pub fn render(&self, name: &str) -> String {
        let library = if self.is_adapter { "peft" } else { "transformers" };
        let pipeline = if self.is_classifier { "text-classification" } else { "text-generation" };
        let mut text = format!("---\nlibrary_name: {library}\npipeline_tag: {pipeline}\n");
        self.license.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        if let Some(base) = self.base_model.as_deref().filter(|base| is_hub_name(base)) {
            let _ = writeln!(text, "base_model: {}", quoted(base));
        }
        let datasets: Vec<&String> = self.datasets.iter().filter(|name| is_hub_name(name)).collect();
        if !datasets.is_empty() {
            text.push_str("datasets:\n");
            datasets.iter().for_each(|name| text.push_str(&format!("- {}\n", quoted(name))));
        }
        text.push_str("tags:\n- reheat\n");
        let method = self.method.iter().map(|(tag, _)| tag);
        method.chain(&self.tags).for_each(|tag| text.push_str(&format!("- {}\n", quoted(tag))));
        text.push_str("---\n\n");
        text.push_str(&self.introduction(name));
        text.push_str(&self.usage());
        for (heading, rows) in [("Training", &self.facts), ("Settings that differ from the defaults", &self.settings)] {
            if !rows.is_empty() {
                let _ = writeln!(text, "## {heading}\n\n| | |\n|---|---|");
                rows.iter().for_each(|(name, value)| text.push_str(&format!("| {} | {} |\n", cell(name), cell(value))));
                text.push('\n');
            }
        }
        for (path, what) in &self.plots {
            let _ = writeln!(text, "![{what}]({path})\n");
        }
        text
    }

    /// How to load it.
    fn usage(&self) -> String {
        let kind = if self.is_classifier { "SequenceClassification" } else { "CausalLM" };
        let (library, class) = match self.is_adapter {
            true => ("PEFT", format!("AutoPeftModelFor{kind}")),
            false => ("transformers", format!("AutoModelFor{kind}")),
        };
        let chat = "```console\nreheat chat --model PATH_TO_THIS_FOLDER\n```\n\n";
        let chat = if self.is_classifier { "" } else { chat };
        format!(
            "## Use\n\n{chat}The folder loads in {library}: `{class}.from_pretrained(\"PATH_TO_THIS_FOLDER\")`.\n\n"
        )
    }

    /// The heading, and what the model is made of.
    fn introduction(&self, name: &str) -> String {
        let base = self.base_model.as_deref().map(shown);
        let what = if self.is_adapter { "An adapter" } else { "A language model" };
        match (&self.method, base) {
            (Some((_, method)), base) => {
                let base = base.unwrap_or_else(|| shown(name));
                let data: Vec<String> = self.datasets.iter().map(|name| format!("`{}`", shown(name))).collect();
                format!(
                    "# {base}, after {method}\n\n`{base}` trained on {} by {method} with Reheat.\n\n",
                    data.join(", ")
                )
            }
            (None, Some(base)) => format!("# {}\n\n{what}, made of `{base}`.\n\n", shown(name)),
            (None, None) => format!("# {}\n\n{what}.\n\n", shown(name)),
        }
    }
}

/// A file of a folder as JSON; `None` where there is no such thing.
fn json(dir: &Path, name: &str) -> Option<Value> {
    serde_json::from_slice(&fs::read(dir.join(name)).ok()?).ok()
}

/// `owner/name`, and no path that exists here.
fn is_hub_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let plain = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character))
    };
    parts.len() == 2 && parts.iter().all(plain) && !std::path::Path::new(name).exists()
}

/// A Hub name as it is, of a path the last part.
fn shown(name: &str) -> String {
    if is_hub_name(name) {
        return name.into();
    }
    std::path::Path::new(name).file_name().map_or_else(|| name.into(), |last| last.to_string_lossy().into_owned())
}

/// A string that YAML reads as itself.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Text that stays inside its cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_names_hub_models_whole_and_paths_by_their_last_part() {
        let card = ModelCard {
            method: Some(("sft".into(), "supervised fine-tuning".into())),
            base_model: Some("/home/ada/models/Qwen2.5-0.5B".into()),
            datasets: vec!["trl-lib/Capybara".into(), "../private/a|b.jsonl".into()],
            settings: vec![("learning_rate".into(), "0.1".into())],
            facts: vec![("rows".into(), "7 | 8".into())],
            plots: vec![("plots/loss.svg".into(), "loss by step".into())],
            ..ModelCard::default()
        };
        let text = card.render("runs/sft");
        let front = text.split("---").nth(1).unwrap();
        assert_eq!(
            front,
            "\nlibrary_name: transformers\npipeline_tag: text-generation\ndatasets:\n- \"trl-lib/Capybara\"\ntags:\n- reheat\n- \"sft\"\n"
        );
        assert!(text.contains("# Qwen2.5-0.5B, after supervised fine-tuning"), "{text}");
        assert!(text.contains("`trl-lib/Capybara`, `a|b.jsonl`"), "{text}");
        assert!(text.contains("| rows | 7 \\| 8 |") && text.contains("![loss by step](plots/loss.svg)"), "{text}");
        assert!(!text.contains("ada") && !text.contains("private"), "{text}");
    }
    #[test]
    fn a_folder_tells_what_it_is_and_passes_on_the_licence() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        fs::create_dir_all(&base).unwrap();
        let front = "---\nlicense: other\nlicense_name: qwen\nlicense_link:\nlanguage: en\n---\nlicense: none\n";
        fs::write(base.join("README.md"), front).unwrap();
        assert!(ModelCard::of_folder(&base).is_none());
        let config = serde_json::json!({ "base_model_name_or_path": base });
        fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        let text = ModelCard::of_folder(folder.path()).unwrap().render("someone/mine");
        assert_eq!(
            text.split("---").nth(1).unwrap(),
            "\nlibrary_name: peft\npipeline_tag: text-generation\nlicense: other\nlicense_name: qwen\ntags:\n- reheat\n"
        );
        assert!(text.contains("# someone/mine\n\nAn adapter, made of `base`.\n"), "{text}");
        fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
        fs::write(
            folder.path().join("config.json"),
            r#"{"_name_or_path": "Qwen/Qwen2.5-0.5B", "architectures": ["Qwen2ForSequenceClassification"]}"#,
        )
        .unwrap();
        let text = ModelCard::of_folder(folder.path()).unwrap().render("mine");
        assert!(text.contains("library_name: transformers\npipeline_tag: text-classification\n"), "{text}");
        assert!(text.contains("base_model: \"Qwen/Qwen2.5-0.5B\"\n"));
    }
}
