//! The page about a model that lies beside it as README.md, in the form of Hugging Face model cards.

use std::fmt::Write as _;

use crate::TrainSummary;

/// What a model card says.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ModelCard {
    /// Name of the method as tag and as text, such as `sft` and `supervised fine-tuning`.
    pub method: (String, String),
    /// The model that was trained: a Hub name, or a path.
    pub base_model: String,
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
        Self { method: (tag.into(), method.into()), base_model: base_model.into(), ..Self::default() }
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

    /// The text of README.md.
    ///
    /// A name that is a path is told as its last part: a card is published, and a home directory is nobody's business.
    pub fn render(&self) -> String {
        let (tag, method) = &self.method;
        let mut text = String::from("---\nlibrary_name: transformers\n");
        if is_hub_name(&self.base_model) {
            let _ = writeln!(text, "base_model: {}", quoted(&self.base_model));
        }
        let datasets: Vec<&String> = self.datasets.iter().filter(|name| is_hub_name(name)).collect();
        if !datasets.is_empty() {
            text.push_str("datasets:\n");
            datasets.iter().for_each(|name| text.push_str(&format!("- {}\n", quoted(name))));
        }
        text.push_str("tags:\n- reheat\n");
        [tag].into_iter().chain(&self.tags).for_each(|tag| text.push_str(&format!("- {}\n", quoted(tag))));
        text.push_str("---\n\n");

        let base = shown(&self.base_model);
        let data: Vec<String> = self.datasets.iter().map(|name| format!("`{}`", shown(name))).collect();
        let _ = writeln!(text, "# {base}, after {method}\n");
        let _ = writeln!(text, "`{base}` trained on {} by {method} with Reheat.\n", data.join(", "));
        text.push_str("## Use\n\n```console\nreheat chat --model PATH_TO_THIS_FOLDER\n```\n\n");
        text.push_str("The folder also loads in transformers: `AutoModelForCausalLM.from_pretrained(\"PATH_TO_THIS_FOLDER\")`.\n\n");
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
            method: ("sft".into(), "supervised fine-tuning".into()),
            base_model: "/home/ada/models/Qwen2.5-0.5B".into(),
            datasets: vec!["trl-lib/Capybara".into(), "../private/a|b.jsonl".into()],
            settings: vec![("learning_rate".into(), "0.1".into())],
            facts: vec![("rows".into(), "7 | 8".into())],
            plots: vec![("plots/loss.svg".into(), "loss by step".into())],
            ..ModelCard::default()
        };
        let text = card.render();
        let front = text.split("---").nth(1).unwrap();
        assert_eq!(
            front,
            "\nlibrary_name: transformers\ndatasets:\n- \"trl-lib/Capybara\"\ntags:\n- reheat\n- \"sft\"\n"
        );
        assert!(text.contains("# Qwen2.5-0.5B, after supervised fine-tuning"), "{text}");
        assert!(text.contains("`trl-lib/Capybara`, `a|b.jsonl`"), "{text}");
        assert!(text.contains("| rows | 7 \\| 8 |") && text.contains("![loss by step](plots/loss.svg)"), "{text}");
        assert!(!text.contains("ada") && !text.contains("private"), "{text}");
    }
}
