//! What a changed setting means for a run that goes on.
//!
//! The loop compares its own settings, the method's, and the rows. The rest is the command line's.

use reheat_train::Change;
use serde_json::{Map, Value};

use crate::settings::{Resolved, Table};

/// What a setting decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decides {
    /// The loop or the method knows it, and compares it.
    Known,
    /// Rows, which are compared one by one.
    Rows,
    /// What is computed, or in which numbers.
    Weights,
    /// What is frozen.
    Base,
    /// What is shown, and where files go.
    Nothing,
}

/// What the setting `key` of a section of the table decides; `None` for one that nobody has thought about.
fn decides(section: &str, key: &str) -> Option<Decides> {
    Some(match (section, key) {
        ("Training" | "Loss" | "Completions", _) | ("Rewards", "reward_funcs") => Decides::Known,
        ("Adapters", "use_peft" | "load_in_4bit" | "load_in_8bit" | "bnb_4bit_quant_type" | "use_bnb_nested_quant") => {
            Decides::Weights
        }
        ("Adapters", key) if key.starts_with("lora_") => Decides::Known,
        ("Adapters", "trainable_token_indices" | "use_rslora" | "use_dora") => Decides::Known,
        ("Dataset" | "Data", _) | ("Run", "chat_template_path" | "eos_token" | "new_tokens") => Decides::Rows,
        ("Run", "model_name_or_path" | "base_model_name_or_path") => Decides::Base,
        // Another program may say other things; what it declares is compared too.
        ("Run", "device" | "kernels") | ("Tools", "tools") => Decides::Weights,
        // The rows of an evaluation are compared, wherever they are from.
        ("Output" | "Evaluation", _)
        | ("Tools", "tool_timeout_secs")
        | ("Rewards", "log_completions" | "num_completions_to_print" | "log_unique_prompts") => Decides::Nothing,
        _ => return None,
    })
}

/// The settings that the loop is to keep and compare beside its own.
pub(super) fn compared(resolved: &Resolved, table: &Table) -> Map<String, Value> {
    let is_compared = |key: &str| {
        let decides = table.field(key).and_then(|field| decides(field.section, key));
        matches!(decides, Some(Decides::Rows | Decides::Weights | Decides::Base))
    };
    let settings = resolved.settings.iter().filter(|setting| is_compared(&setting.key));
    settings.map(|setting| (setting.key.clone(), setting.value.clone())).collect()
}

/// What follows from a change with which the run goes on.
pub(super) fn effect(change: &Change, table: &Table) -> &'static str {
    match table.field(&change.key).and_then(|field| decides(field.section, &change.key)) {
        Some(Decides::Rows) => "the rows are the same, so no effect on the weights",
        Some(Decides::Base) => "trained weights come from the checkpoint, frozen ones from the new model",
        _ if change.has_effect => "the run ends in other weights than without the change",
        _ => "no effect on the weights",
    }
}

#[cfg(test)]
mod tests {
    use reheat_train::{GrpoConfig, RlooConfig};

    use super::*;
    use crate::{
        commands::{DpoSettings, KtoSettings, RewardSettings, SftSettings},
        settings::HasTable,
        training::rollouts::RolloutLoss,
    };

    #[test]
    fn of_every_setting_it_is_known_what_a_change_means() {
        let tables = [
            SftSettings::table(),
            DpoSettings::table(),
            KtoSettings::table(),
            RewardSettings::table(),
            GrpoConfig::table(),
            RlooConfig::table(),
        ];
        let unknown: Vec<&String> = tables
            .iter()
            .flat_map(|table| &table.fields)
            .filter(|field| decides(field.section, &field.key).is_none())
            .map(|field| &field.key)
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
