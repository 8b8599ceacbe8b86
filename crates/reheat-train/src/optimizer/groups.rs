//! Parameters with a learning rate or weight decay of their own.

use glob::Pattern;
use serde::{Deserialize, Serialize};

/// Settings of the parameters whose names match; the first group that matches counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// Names, with `*` for any characters: `model.embed_tokens.*`, `*.mlp.*`.
    pub parameters: String,
    /// Peak learning rate; the schedule is the same for all.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// Decay of weights; norms and biases never decay.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

impl ParameterGroup {
    pub(crate) fn matches(&self, name: &str) -> bool {
        Pattern::new(&self.parameters).is_ok_and(|pattern| pattern.matches(name))
    }

    /// What is wrong with it, without knowing the model.
    pub(crate) fn fault(&self) -> Option<String> {
        let Self { parameters, .. } = self;
        if let Err(error) = Pattern::new(parameters) {
            return Some(format!("parameter_groups: `{parameters}` is no pattern: {error}"));
        }
        let number = |value: Option<f64>| value.is_none_or(|value| value.is_finite() && value >= 0.0);
        if !number(self.learning_rate) || !number(self.weight_decay) {
            return Some(format!("parameter_groups: `{parameters}` has a negative number"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let group =
            |pattern: &str| ParameterGroup { parameters: pattern.into(), learning_rate: None, weight_decay: None };
        assert!(group("*.mlp.*").matches("model.layers.3.mlp.up_proj.weight"));
        assert!(group("model.embed_tokens.weight").matches("model.embed_tokens.weight"));
        assert!(!group("*.mlp.*").matches("model.norm.weight"));
        assert!(group("a***").fault().is_some() || group("[").fault().is_some());
    }
}
