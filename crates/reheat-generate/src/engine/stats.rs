use serde::Serialize;

/// What an engine has computed, and the time it took.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EngineStats {
    /// Prompt tokens that went through the model; a shared prompt counts once.
    pub prompt_tokens: usize,
    /// Time of the passes over prompts.
    pub prefill_seconds: f64,
    /// Tokens drawn after the first of each completion, which comes of the prompt's pass.
    pub decoded_tokens: usize,
    /// Passes that drew them.
    pub decode_passes: usize,
    /// Time of those passes, sampling included.
    pub decode_seconds: f64,
}

impl EngineStats {
    /// Prompt tokens per second of such passes; 0 before the first.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prompt_tokens, self.prefill_seconds)
    }

    /// Drawn tokens per second of such passes, over all completions together; 0 before the first.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.decoded_tokens, self.decode_seconds)
    }
}

fn rate(tokens: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}
