//! What a run will do: every setting with its origin, and what follows from them.

use std::{io::Write, path::Path};

use console::{pad_str, style};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::resolve::{Origin, Resolved};

/// The plan that `--dry-run` prints.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Such as `sft`.
    pub(crate) command: &'static str,
    pub(crate) resolved: &'a Resolved,
    /// What was worked out from the settings, the model and the data: name, value, reason.
    pub(crate) facts: Vec<Fact>,
}

/// One thing that will be so.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) value: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl Plan<'_> {
    /// `{"command", "plan": {…}, "settings": {key: {"value", "origin"}}, "notes"}`
    pub(crate) fn to_json(&self) -> Value {
        let settings: Map<String, Value> = self
            .resolved
            .settings
            .iter()
            .map(|setting| (setting.key.clone(), json!({ "value": setting.value, "origin": setting.origin })))
            .collect();
        let facts: Map<String, Value> = self
            .facts
            .iter()
            .map(|fact| (fact.name.to_owned(), json!({ "value": fact.value, "reason": fact.reason })))
            .collect();
        json!({ "command": self.command, "plan": facts, "settings": settings, "notes": self.resolved.notes })
    }

    /// The plan as a table; values that a person chose stand out.
    pub(crate) fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "{}", style(format!("Plan of reheat {}", self.command)).bold())?;
        let name_width = self.facts.iter().map(|fact| fact.name.len()).max().unwrap_or(0);
        for fact in &self.facts {
            let reason = fact.reason.as_ref().map(|reason| style(format!("  ({reason})")).dim().to_string());
            let name = pad_str(fact.name, name_width, console::Alignment::Left, None);
            writeln!(out, "  {name}  {}{}", shown(&fact.value), reason.unwrap_or_default())?;
        }
        writeln!(out, "\n{}", style("Settings").bold())?;
        let settings = &self.resolved.settings;
        let key_width = settings.iter().map(|setting| setting.key.len()).max().unwrap_or(0);
        let values: Vec<String> = settings.iter().map(|setting| shown(&setting.value)).collect();
        let value_width = values.iter().map(|value| console::measure_text_width(value)).max().unwrap_or(0).min(32);
        for (setting, value) in settings.iter().zip(values) {
            let key = pad_str(&setting.key, key_width, console::Alignment::Left, None);
            let value = pad_str(&value, value_width, console::Alignment::Left, None);
            if setting.origin == Origin::Default {
                writeln!(out, "  {key}  {value}  {}", style("default").dim())?;
            } else {
                writeln!(out, "  {key}  {}  {}", style(value).bold(), setting.origin)?;
            }
        }
        Ok(())
    }
}

/// The settings as the YAML file that repeats the run: only what differs from the defaults is a choice, but everything
/// is written, so that the run stays the same when a default changes.
pub(crate) fn write_yaml(resolved: &Resolved, path: &Path) -> anyhow::Result<()> {
    let all: Map<String, Value> =
        resolved.settings.iter().map(|setting| (setting.key.clone(), setting.value.clone())).collect();
    Ok(std::fs::write(path, serde_saphyr::to_string(&Value::Object(all))?)?)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
