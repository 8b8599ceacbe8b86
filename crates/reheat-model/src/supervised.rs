//! Burn's own trainer: a model as `burn-train`'s `SupervisedTraining` drives it, under the feature `burn-train`.
//!
//! The loss is that of transformers' causal models: the mean negative log-likelihood of the labels. Nothing of shape
//! `[tokens, vocabulary]` is held for the metrics either.
//!
//! Departs from `reheat-train`: activations of all blocks are kept for the backward pass, a mean is taken over each batch
//! (accumulated gradients are the sum of such means), and `lora_dropout` leaves nothing out.

use ::burn_train::{
    InferenceStep, ItemLazy, TrainOutput, TrainStep,
    metric::{Adaptor, LossInput, PerplexityInput},
};
use burn::module::Module;
use burn::tensor::{Device, ExecutionError, Int, Tensor, TensorData};
use reheat_kernels::{IGNORE_INDEX, Weight, token_logprobs, token_logprobs_vjp};

use crate::Qwen2;

/// Token ids and what is to be learned of them, as transformers' models take them.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// `[batch, seq]`; any id where a row is shorter than the batch.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`: the id itself where it is learned, and -100 where it is not or a row has ended. Not shifted.
    pub labels: Tensor<2, Int>,
}

impl TokenBatch {
    /// A batch of rows of ids and as many labels; shorter rows are filled up.
    ///
    /// # Panics
    /// If there is no row, or a row has another number of labels than of ids.
    pub fn new<'a>(rows: impl IntoIterator<Item = (&'a [u32], &'a [i32])>, device: &Device) -> Self {
        let rows: Vec<_> = rows.into_iter().collect();
        let seq = rows.iter().map(|(ids, _)| ids.len()).max().expect("a batch has a row");
        let (mut input_ids, mut all_labels) = (Vec::new(), Vec::new());
        for (ids, labels) in &rows {
            assert_eq!(ids.len(), labels.len(), "ids and labels of a row");
            let missing = seq - ids.len();
            input_ids.extend(ids.iter().map(|id| *id as i32).chain(std::iter::repeat_n(0, missing)));
            all_labels.extend(labels.iter().copied().chain(std::iter::repeat_n(IGNORE_INDEX, missing)));
        }
        let tensor = |values| Tensor::from_data(TensorData::new(values, [rows.len(), seq]), device);
        Self { input_ids: tensor(input_ids), labels: tensor(all_labels) }
    }

    /// The rows laid end to end, each up to its last label: what comes after says nothing about those before.
    fn laid_out(self) -> LaidOut {
        let [_batch, seq] = self.input_ids.dims();
        let numbers = |tensor: Tensor<2, Int>| tensor.into_data().iter::<i32>().collect::<Vec<_>>();
        let (ids, labels) = (numbers(self.input_ids), numbers(self.labels));
        let mut out = LaidOut::default();
        for (ids, labels) in ids.chunks_exact(seq.max(1)).zip(labels.chunks_exact(seq.max(1))) {
            let Some(last) = labels.iter().skip(1).rposition(|label| *label != IGNORE_INDEX) else { continue };
            let len = last + 1;
            out.input_ids.extend(&ids[..len]);
            out.labels.extend(&labels[1..=len]);
            out.seq_lens.push(len);
        }
        out
    }
}

/// Sequences end to end; labels are shifted.
#[derive(Default)]
struct LaidOut {
    input_ids: Vec<i32>,
    labels: Vec<i32>,
    seq_lens: Vec<usize>,
}

impl LaidOut {
    fn num_labels(&self) -> usize {
        self.labels.iter().filter(|label| **label != IGNORE_INDEX).count()
    }

    /// What is left of a value for each token where there is a label; one zero where there is none at all.
    fn labelled(&self, values: Tensor<1>) -> Tensor<1> {
        let index: Vec<i32> = (0..).zip(&self.labels).filter(|(_, l)| **l != IGNORE_INDEX).map(|(i, _)| i).collect();
        if index.is_empty() {
            return Tensor::zeros([1], &values.device());
        }
        let index = Tensor::<1, Int>::from_data(index.as_slice(), &values.device());
        values.select(0, index)
    }
}

/// What a batch came to, for the metrics `LossMetric` and `PerplexityMetric`.
#[derive(Debug, Clone)]
pub struct TokenOutput {
    /// Log-probability of each label in nats, `[labels]`; one zero where a batch has no label.
    pub logprobs: Tensor<1>,
}

impl TokenOutput {
    /// The batch's loss, `[1]`: the mean negative log-likelihood in nats.
    pub fn loss(&self) -> Tensor<1> {
        -self.logprobs.clone().mean()
    }
}

impl ItemLazy for TokenOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        self.logprobs.device().flush()?;
        Ok(Self { logprobs: self.logprobs.without_autodiff() })
    }
}

impl Adaptor<LossInput> for TokenOutput {
    /// The loss of each token, so that the mean of an epoch is one over tokens.
    fn adapt(&self) -> LossInput {
        LossInput::new(-self.logprobs.clone())
    }
}

impl Adaptor<PerplexityInput> for TokenOutput {
    /// Two classes for each label: it, and everything else. Their log-softmax is the log-probability that is known.
    fn adapt(&self) -> PerplexityInput {
        let label = self.logprobs.clone().clamp_max(0.0);
        let others = (-label.clone().exp()).log1p();
        let targets = Tensor::<1, Int>::zeros(label.dims(), &label.device());
        PerplexityInput::new(Tensor::stack(vec![label, others], 1), targets)
    }
}

impl TrainStep for Qwen2 {
    type Input = TokenBatch;
    type Output = TokenOutput;

    /// # Panics
    /// If the model is not in training mode (`Module::train`), single rows of its embedding are to be trained
    /// (`trainable_token_indices`), or an id or label is outside the vocabulary.
    fn step(&self, batch: TokenBatch) -> TrainOutput<TokenOutput> {
        assert!(self.token_adapter.is_none(), "single rows of the embedding are trained by `reheat-train` alone");
        let rows = batch.laid_out();
        let plain = self.valid();
        let layout = plain.sequence_layout(&rows.seq_lens, &[]);
        let table = plain.rotary_table(layout.positions());

        let embedding = self.embed_tokens.weight.val();
        let ids = Tensor::<1, Int>::from_data(rows.input_ids.as_slice(), &embedding.device());
        let embedded = embedding.clone().select(0, ids);
        let x = self.layers.iter().fold(embedded, |x, block| block.forward(x, &table, &layout));
        let hidden = self.norm.forward(x);

        // The head by chunks of tokens: its gradients are known before Burn's backward pass begins, and enter it as
        // those of `Σ hidden · ∂/∂hidden + Σ head · ∂/∂head`.
        let head = self.lm_head.as_ref().map_or(embedding, |head| head.weight.val());
        let scale = -1.0 / rows.num_labels().max(1) as f64;
        let objective = |_: &[usize], logprobs: Tensor<1>| (logprobs.ones_like() * scale).into();
        let is_trained = head.is_require_grad();
        let head_gradient = is_trained.then(|| plain.head().zeros_like());
        let (tokens, gradients) = token_logprobs_vjp(
            hidden.clone().inner(),
            plain.head_weight(),
            &rows.labels,
            head_gradient,
            &objective,
            0.0,
            self.compute(),
        );
        let mut objective = (hidden * Tensor::from_inner(gradients.hidden)).sum();
        if let Some(gradient) = gradients.head {
            objective = objective + (head * Tensor::from_inner(gradient)).sum();
        }
        TrainOutput::new(self, objective.backward(), TokenOutput { logprobs: rows.labelled(tokens.logprobs) })
    }
}

impl InferenceStep for Qwen2 {
    type Input = TokenBatch;
    type Output = TokenOutput;

    /// # Panics
    /// If an id or label is outside the vocabulary.
    fn step(&self, batch: TokenBatch) -> TokenOutput {
        let rows = batch.laid_out();
        let hidden = self.hidden_states(&rows.input_ids, &rows.seq_lens);
        let head: Weight = self.head_weight();
        let tokens = token_logprobs(hidden, head, &rows.labels, self.compute());
        TokenOutput { logprobs: rows.labelled(tokens.logprobs) }
    }
}
