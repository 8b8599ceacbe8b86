//! Shapes of released models, for those who have not downloaded them.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::Qwen2Config;

/// Hidden, intermediate, layers, heads, key-value heads, vocabulary, tied: the `config.json` of each release.
type Sizes = (usize, usize, usize, usize, usize, usize, bool);

const RELEASED: [(&str, Sizes); 7] = [
    ("Qwen2.5-0.5B", (896, 4864, 24, 14, 2, 151_936, true)),
    ("Qwen2.5-1.5B", (1536, 8960, 28, 12, 2, 151_936, true)),
    ("Qwen2.5-3B", (2048, 11_008, 36, 16, 2, 151_936, true)),
    ("Qwen2.5-7B", (3584, 18_944, 28, 28, 4, 152_064, false)),
    ("Qwen2.5-14B", (5120, 13_824, 48, 40, 8, 152_064, false)),
    ("Qwen2.5-32B", (5120, 27_648, 64, 40, 8, 152_064, false)),
    ("Qwen2.5-72B", (8192, 29_568, 80, 64, 8, 152_064, false)),
];

impl Qwen2Config {
    /// Names of the models whose shape [`Self::released`] knows.
    pub fn released_names() -> impl Iterator<Item = &'static str> {
        RELEASED.iter().map(|(name, _)| *name)
    }

    /// The shape of a released model, by its name with or without the owner and `-Instruct`.
    pub fn released(name: &str) -> Option<Self> {
        let name = name.rsplit('/').next().unwrap_or(name);
        let name = name.strip_suffix("-Instruct").unwrap_or(name);
        let (_, sizes) = RELEASED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        let (hidden, intermediate, layers, heads, kv_heads, vocab, tied) = *sizes;
        let object = json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
            "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
            "tie_word_embeddings": tied, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        });
        let Value::Object(raw) = object else { unreachable!("an object literal") };
        Some(Self::from_json(raw, PathBuf::from(name)).expect("the sizes above are those of models"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the model cards count them: 0.49, 1.54, 3.09, 7.61, 14.7, 32.5 and 72.7 billion.
    #[test]
    fn parameters_are_those_of_the_model_cards() {
        let billions: Vec<f64> = Qwen2Config::released_names()
            .map(|name| Qwen2Config::released(name).unwrap().num_parameters() as f64 / 1e9)
            .collect();
        for (ours, card) in billions.iter().zip([0.49, 1.54, 3.09, 7.61, 14.7, 32.5, 72.7]) {
            assert!((ours / card - 1.0).abs() < 0.02, "{billions:?}");
        }
        assert!(Qwen2Config::released("Qwen/qwen2.5-1.5b-Instruct").is_some());
        assert!(Qwen2Config::released("Llama-3-8B").is_none());
    }
}
