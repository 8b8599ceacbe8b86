//! What a model expects next, for looking at.

use burn::tensor::Tensor;
use reheat_kernels::{LogitStats, linear, token_logprobs};
use reheat_model::Qwen2;

use crate::sample::most_likely;
use crate::{Candidate, GenerateError};

/// Positions whose logits are held at a time.
const CHUNK: usize = 64;

/// Which positions of a text are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// After the whole text.
    Last,
    /// After every token.
    All,
}

/// What a model expects after one token of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct NextToken {
    /// Tokens of the text before the expected one.
    pub prefix_len: usize,
    /// The most likely tokens, likeliest first.
    pub top: Vec<Candidate>,
    /// Entropy of the whole distribution in nats.
    pub entropy: f32,
}

/// What two models expect at one position.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// What the first expects.
    pub first: NextToken,
    /// What the second expects.
    pub second: NextToken,
    /// Log-probability that the second gives to each of the first's `top`.
    pub second_logprobs: Vec<f32>,
    /// Kullback-Leibler divergence of the first from the second, `Σ p·ln(p/q)`, in nats.
    pub kl: f64,
}

/// One token of a text, as the model saw it coming.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// The id.
    pub id: u32,
    /// Its log-probability in nats after the tokens before it.
    pub logprob: f32,
    /// Entropy in nats of what was expected in its place.
    pub entropy: f32,
}

/// The `top_k` most likely tokens and the entropy at each position of a text.
///
/// # Errors
/// If there is no token, there are more than the context holds, or one is unknown.
pub fn next_tokens(
    model: &Qwen2,
    ids: &[u32],
    positions: Positions,
    top_k: usize,
) -> Result<Vec<NextToken>, GenerateError> {
    let rows = Rows::new(model, ids, positions)?;
    let mut found = Vec::new();
    rows.for_each_chunk(|prefix_len, logits| {
        for (offset, row) in logits.chunks_exact(rows.vocab_size).enumerate() {
            found.push(next_token(prefix_len + offset, row, top_k).0);
        }
    });
    Ok(found)
}

/// [`next_tokens`] of two models, with how far apart they are.
///
/// # Errors
/// As [`next_tokens`], or if the models have vocabularies of different sizes.
pub fn compare_next_tokens(
    first: &Qwen2,
    second: &Qwen2,
    ids: &[u32],
    positions: Positions,
    top_k: usize,
) -> Result<Vec<Compared>, GenerateError> {
    let (p, q) = (Rows::new(first, ids, positions)?, Rows::new(second, ids, positions)?);
    if p.vocab_size != q.vocab_size {
        return Err(GenerateError::Vocabularies { first: p.vocab_size, second: q.vocab_size });
    }
    let mut found = Vec::new();
    p.for_each_chunk(|prefix_len, logits| {
        let others = q.chunk(prefix_len - q.first_prefix_len, logits.len() / q.vocab_size);
        let rows = logits.chunks_exact(p.vocab_size).zip(others.chunks_exact(q.vocab_size));
        for (offset, (row, other)) in rows.enumerate() {
            let (first, first_stats) = next_token(prefix_len + offset, row, top_k);
            let (second, second_stats) = next_token(prefix_len + offset, other, top_k);
            let logprob = |candidate: &Candidate| other[candidate.id as usize] - second_stats.logsumexp;
            let second_logprobs = first.top.iter().map(logprob).collect();
            let kl = kl(row, first_stats.logsumexp, other, second_stats.logsumexp);
            found.push(Compared { first, second, second_logprobs, kl });
        }
    });
    Ok(found)
}

/// How likely every token of a text was, from the second on: the first has nothing before it.
///
/// # Errors
/// As [`next_tokens`].
pub fn score_tokens(model: &Qwen2, ids: &[u32]) -> Result<Vec<TokenScore>, GenerateError> {
    let Rows { hidden, .. } = Rows::new(model, ids, Positions::All)?;
    let count = ids.len() - 1;
    if count == 0 {
        return Ok(Vec::new());
    }
    let labels: Vec<i32> = ids[1..].iter().map(|id| *id as i32).collect();
    let scores = token_logprobs(hidden.narrow(0, 0, count), model.head_weight(), &labels, model.compute());
    let (logprobs, entropy) = (host(scores.logprobs), host(scores.entropy));
    let score = |((id, logprob), entropy): ((&u32, f32), f32)| TokenScore { id: *id, logprob, entropy };
    Ok(ids[1..].iter().zip(logprobs).zip(entropy).map(score).collect())
}

/// `e` to the mean surprise: as hard as a free choice among this many tokens. NaN without tokens.
pub fn perplexity(scores: &[TokenScore]) -> f64 {
    let sum: f64 = scores.iter().map(|score| f64::from(score.logprob)).sum();
    (-sum / scores.len() as f64).exp()
}

/// Normalised hidden states of the positions looked at.
struct Rows<'a> {
    model: &'a Qwen2,
    hidden: Tensor<2>, // [positions, hidden]
    first_prefix_len: usize,
    vocab_size: usize,
}

impl<'a> Rows<'a> {
    fn new(model: &'a Qwen2, ids: &[u32], positions: Positions) -> Result<Self, GenerateError> {
        let (context, vocab_size) = (model.config().max_position_embeddings, model.config().vocab_size);
        if ids.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        if ids.len() > context {
            return Err(GenerateError::PromptTooLong { tokens: ids.len(), context });
        }
        if let Some(&id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(GenerateError::TokenOutsideVocabulary { id, vocab_size });
        }
        let input_ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let hidden = model.hidden_states(&input_ids, &[ids.len()]); // [tokens, hidden]
        let (hidden, first_prefix_len) = match positions {
            Positions::All => (hidden, 1),
            Positions::Last => (hidden.narrow(0, ids.len() - 1, 1), ids.len()),
        };
        Ok(Self { model, hidden, first_prefix_len, vocab_size })
    }

    /// Logits of `len` positions, row by row.
    fn chunk(&self, start: usize, len: usize) -> Vec<f32> {
        let logits =
            linear(self.hidden.clone().narrow(0, start, len), self.model.head_weight(), None, self.model.compute());
        logits.into_data().try_to_vec().expect("logits are f32")
    }

    /// Hands out the logits of a few positions at a time, with the prefix length of the first.
    fn for_each_chunk(&self, mut f: impl FnMut(usize, &[f32])) {
        let [count, _hidden] = self.hidden.dims();
        for start in (0..count).step_by(CHUNK) {
            f(self.first_prefix_len + start, &self.chunk(start, CHUNK.min(count - start)));
        }
    }
}

fn next_token(prefix_len: usize, logits: &[f32], top_k: usize) -> (NextToken, LogitStats) {
    let stats = LogitStats::of(logits);
    (NextToken { prefix_len, top: most_likely(logits, &stats, top_k), entropy: stats.entropy }, stats)
}

/// `Σ p·ln(p/q)`; what the first never says adds nothing.
fn kl(p: &[f32], p_logsumexp: f32, q: &[f32], q_logsumexp: f32) -> f64 {
    let terms = p.iter().zip(q).map(|(p, q)| {
        let (p, q) = (f64::from(p - p_logsumexp), f64::from(q - q_logsumexp));
        if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
    });
    // Rounding can leave a sum of nearly equal distributions just below 0.
    terms.sum::<f64>().max(0.0)
}

fn host(values: Tensor<1>) -> Vec<f32> {
    values.into_data().try_to_vec().expect("scores are f32")
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use reheat_model::Qwen2Config;

    use super::*;

    fn model(seed: u64) -> Qwen2 {
        Qwen2::random(&Qwen2Config::tiny(64), seed, &Device::flex())
    }

    #[test]
    fn every_position_expects_what_its_prefix_expects_alone() {
        let (model, ids) = (model(1), [3, 1, 4, 1, 5]);
        let all = next_tokens(&model, &ids, Positions::All, 5).unwrap();
        assert_eq!(all.len(), 5);
        for (index, expected) in all.iter().enumerate() {
            let alone = next_tokens(&model, &ids[..=index], Positions::Last, 5).unwrap();
            assert_eq!((alone.len(), alone[0].prefix_len, expected.prefix_len), (1, index + 1, index + 1));
            assert_eq!(alone[0].top[0].id, expected.top[0].id);
            // The two run other matrix shapes; both are f32.
            assert!((alone[0].entropy - expected.entropy).abs() < 1e-5);
        }
        let mass: f32 =
            next_tokens(&model, &ids, Positions::Last, 64).unwrap()[0].top.iter().map(|c| c.logprob.exp()).sum();
        assert!((mass - 1.0).abs() < 1e-5);
    }

    #[test]
    fn a_model_is_no_distance_from_itself_and_some_from_another() {
        let (one, two) = (model(1), model(2));
        let same = compare_next_tokens(&one, &one, &[7, 8], Positions::All, 3).unwrap();
        assert!(same.iter().all(|compared| compared.kl < 1e-9 && compared.first == compared.second));
        let other = compare_next_tokens(&one, &two, &[7, 8], Positions::Last, 3).unwrap();
        assert_eq!(other.len(), 1);
        assert!(other[0].kl > 1e-3);
        // By the definition, over the whole vocabulary.
        let p = next_tokens(&one, &[7, 8], Positions::Last, 64).unwrap().remove(0).top;
        let q = next_tokens(&two, &[7, 8], Positions::Last, 64).unwrap().remove(0).top;
        let q = |id| q.iter().find(|candidate| candidate.id == id).unwrap().logprob;
        let expected: f32 = p.iter().map(|c| c.logprob.exp() * (c.logprob - q(c.id))).sum();
        assert!((other[0].kl - f64::from(expected)).abs() < 1e-5, "{} instead of {expected}", other[0].kl);
    }

    #[test]
    fn a_text_is_scored_by_what_was_expected_before_each_token() {
        let (model, ids) = (model(1), [3, 1, 4, 1, 5]);
        let scores = score_tokens(&model, &ids).unwrap();
        let expected = next_tokens(&model, &ids, Positions::All, 64).unwrap();
        assert_eq!(scores.len(), 4);
        for (score, next) in scores.iter().zip(&expected) {
            let logprob = next.top.iter().find(|candidate| candidate.id == score.id).unwrap().logprob;
            assert!((score.logprob - logprob).abs() < 1e-5);
        }
        let mean: f64 = scores.iter().map(|score| f64::from(score.logprob)).sum::<f64>() / 4.0;
        assert!((perplexity(&scores) - (-mean).exp()).abs() < 1e-9);
        assert_eq!(score_tokens(&model, &[3]), Ok(Vec::new()));
    }

    #[test]
    fn what_cannot_be_looked_at_is_refused() {
        let model = model(1);
        assert_eq!(next_tokens(&model, &[], Positions::Last, 1), Err(GenerateError::EmptyPrompt));
        assert!(next_tokens(&model, &[64], Positions::Last, 1).is_err());
        assert!(next_tokens(&model, &[1; 257], Positions::Last, 1).is_err());
        let other = Qwen2::random(&Qwen2Config::tiny(65), 1, &Device::flex());
        let error = compare_next_tokens(&model, &other, &[1], Positions::Last, 1).unwrap_err();
        assert_eq!(error.to_string(), "the models have different vocabularies, of 64 and 65 tokens");
    }
}
