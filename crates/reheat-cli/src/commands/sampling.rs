//! How tokens are drawn, for every command that draws some.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::builder::RangedU64ValueParser;
use reheat_generate::GenerateConfig;

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Longest answer in tokens.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    max_new_tokens: usize,

    /// No end token before this many tokens.
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_new_tokens: usize,

    /// Divides the logits; 0 always takes the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,

    /// Draw among this many most likely tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,

    /// Draw among the most likely tokens that together hold this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,

    /// Draw among tokens with at least this share of the most likely one's probability.
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,

    /// Makes tokens of the prompt and the answer less likely, above 1.
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,

    /// Taken from the logits of tokens that the answer has.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,

    /// Taken from the logits of a token for each time the answer has it.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,

    /// Added to the logit of one token; may be given several times.
    #[arg(long, value_name = "ID=BIAS", allow_hyphen_values = true)]
    logit_bias: Vec<LogitBias>,

    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,

    /// Seed of the draws.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
}

/// `ID=BIAS`
#[derive(Debug, Clone, Copy, PartialEq)]
struct LogitBias {
    id: u32,
    bias: f32,
}

impl FromStr for LogitBias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, bias) = text.split_once(['=', ':']).ok_or("expected ID=BIAS, such as 1234=-5")?;
        let id = id.trim().parse().map_err(|_| format!("`{id}` is not a token id"))?;
        let bias = bias.trim().parse().map_err(|_| format!("`{bias}` is not a number"))?;
        Ok(Self { id, bias })
    }
}

impl SamplingArgs {
    /// The settings of the library.
    pub(crate) fn config(&self, eos_token_ids: &[u32]) -> GenerateConfig {
        let logit_bias: BTreeMap<u32, f32> = self.logit_bias.iter().map(|bias| (bias.id, bias.bias)).collect();
        GenerateConfig {
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias,
            seed: self.seed,
            eos_token_ids: eos_token_ids.to_vec(),
            ..GenerateConfig::default()
        }
    }

    /// Texts that end an answer.
    pub(crate) fn stop(&self) -> &[String] {
        &self.stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_is_an_id_and_a_number() {
        assert_eq!("1234=-5".parse(), Ok(LogitBias { id: 1234, bias: -5.0 }));
        assert_eq!("7".parse::<LogitBias>().unwrap_err(), "expected ID=BIAS, such as 1234=-5");
        assert_eq!("x=1".parse::<LogitBias>().unwrap_err(), "`x` is not a token id");
        assert_eq!("1=x".parse::<LogitBias>().unwrap_err(), "`x` is not a number");
    }
}
