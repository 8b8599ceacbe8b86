//! What training will take of memory, by component, before anything is loaded.
//!
//! The parts follow from the shape of the model and the way the loop works: weights, gradients and moments of what is
//! trained, the input of every block, the graph of one block (or of all), and one chunk of logits. They are not all there
//! at once: gradients come while graphs go, so the plan is that of the moment at which most is held.
//! On an accelerator the operations of a block are not fused, and scores of attention count with the square of the length.

use reheat_kernels::LOGITS_BYTES;
use reheat_model::{LoadOptions, LoraConfig, Precision, Quantization, Qwen2Config};
use serde::Serialize;

use crate::optimizer::moment_bytes;
use crate::pass::EMBEDDING;
use crate::{Checkpointing, OptimizerNames, TrainingDtype};

/// Bytes of an f32.
const F32: u64 = 4;

/// Bytes of a number that is held in bf16.
const BF16: u64 = 2;

/// What a process takes beside its tensors, in bytes: the program, its threads, the tokenizer, packed factors of products.
const PROCESS: u64 = 60_000_000;

/// What an accelerator's driver and compiled kernels take of its memory, in bytes.
const ACCELERATOR: u64 = 700_000_000;

/// Share of the transient buffers that an accelerator's memory pool holds besides, in pages that other sizes left behind:
/// an estimate. On the CPU the allocator leaves no such pages.
const POOLED_PAGES: f64 = 0.5;

/// What is trained, and how the rest is held.
#[derive(Debug, Clone, PartialEq)]
pub enum Trained {
    /// Every weight, in f32.
    Full,
    /// Low-rank adapters on frozen weights.
    Adapters {
        /// Which and how large.
        config: LoraConfig,
        /// How the frozen weights are held.
        base: LoadOptions,
    },
}

/// Where training runs, as far as memory is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryOf {
    /// The computer's, with fused operations.
    Cpu,
    /// An accelerator's.
    Accelerator,
}

/// A run whose memory is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRun {
    /// What is trained.
    pub trained: Trained,
    /// The optimizer.
    pub optim: OptimizerNames,
    /// Type of the moments of AdamW.
    pub optim_dtype: TrainingDtype,
    /// Whether each block is updated as soon as its gradient is there.
    pub optimizer_in_backward: bool,
    /// What is kept of blocks.
    pub checkpointing: Checkpointing,
    /// Whose memory.
    pub memory_of: MemoryOf,
    /// Rows per forward pass.
    pub batch_size: usize,
    /// Tokens of a row.
    pub seq_len: usize,
}

/// Memory of a run by component, in bytes, at the moment of a step when most is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Weights, frozen and trained.
    pub weights: u64,
    /// Gradients, f32.
    pub gradients: u64,
    /// The optimizer's moments of what is trained.
    pub moments: u64,
    /// Inputs of the blocks, and the graph of one of them or of all.
    pub activations: u64,
    /// One chunk of logits, which become their gradient; none where most is held once they are gone.
    pub logits: u64,
    /// The process, and on an accelerator its driver and pages that its memory pool keeps.
    pub overhead: u64,
}

impl MemoryPlan {
    /// What `run` takes for a model of this shape.
    pub fn new(model: &Qwen2Config, run: &PlannedRun) -> Self {
        let (weights, trained) = weights(model, &run.trained);
        let moments = moments(model, run, trained);
        let held = |(gradients, activations, logits)| {
            let overhead = PROCESS
                + match run.memory_of {
                    MemoryOf::Cpu => 0,
                    MemoryOf::Accelerator => ACCELERATOR + (POOLED_PAGES * (activations + logits) as f64) as u64,
                };
            Self { weights, gradients, moments, activations, logits, overhead }
        };
        let gradients = Gradients::new(model, run, trained);
        let activations = Activations::new(model, run);
        [
            // The head, with the inputs of all blocks below it.
            (gradients.of_head, activations.kept, logits(model, run)),
            // The last block, with the gradients of the head.
            (gradients.of_head + gradients.of_block, activations.kept + activations.of_block, 0),
            // The first block, with the gradients of all others.
            (gradients.at_last, activations.at_last, 0),
        ]
        .map(held)
        .into_iter()
        .max_by_key(Self::total)
        .expect("a step has moments")
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.activations + self.logits + self.overhead
    }
}

impl PlannedRun {
    /// The most rows per forward pass that `bytes` allow; 0 where one is too many.
    pub fn largest_batch(&self, model: &Qwen2Config, bytes: u64) -> usize {
        let fits = |batch_size| MemoryPlan::new(model, &Self { batch_size, ..self.clone() }).total() <= bytes;
        if !fits(1) {
            return 0;
        }
        // Memory grows with the batch, so the border can be searched for.
        let mut too_many = 2;
        while fits(too_many) && too_many < 1 << 20 {
            too_many *= 2;
        }
        let (mut most, mut too_many) = (too_many / 2, too_many);
        while too_many - most > 1 {
            let middle = most.midpoint(too_many);
            if fits(middle) { most = middle } else { too_many = middle }
        }
        most
    }
}

/// Bytes of all weights, and numbers that are trained.
fn weights(model: &Qwen2Config, trained: &Trained) -> (u64, u64) {
    let all = model.num_parameters() as u64;
    let Trained::Adapters { config, base } = trained else { return (all * F32, all) };
    let mut bytes = 0;
    for (name, shape) in model.tensor_shapes() {
        let count = shape.iter().product::<usize>() as u64;
        bytes += match base.quantization {
            _ if shape.len() == 1 => count * F32,
            Some(quantization) if name.ends_with("_proj.weight") => packed_bytes(quantization, count, shape[0] as u64),
            _ => match base.precision {
                Precision::Float32 => count * F32,
                Precision::Bfloat16 => count * BF16,
                Precision::Int8 => packed_bytes(Quantization::Int8, count, shape[0] as u64),
            },
        };
    }
    let trained = config.num_parameters(model) as u64;
    (bytes + trained * F32, trained)
}

/// Bytes of the gradients that are held in the course of a step.
struct Gradients {
    /// When the head is done. Of a tied embedding they begin there.
    of_head: u64,
    /// Of a block.
    of_block: u64,
    /// When the lowest block is done.
    at_last: u64,
}

impl Gradients {
    fn new(model: &Qwen2Config, run: &PlannedRun, trained: u64) -> Self {
        if run.trained != Trained::Full {
            let of_block = trained * F32 / model.num_hidden_layers as u64;
            return Self { of_head: 0, of_block, at_last: trained * F32 };
        }
        let (mut embedding, mut head, mut blocks) = (0, 0, 0);
        for (name, shape) in model.tensor_shapes() {
            let bytes = shape.iter().product::<usize>() as u64 * F32;
            match name {
                _ if name == EMBEDDING => embedding = bytes,
                _ if name.contains(".layers.") => blocks += bytes,
                // The head, and the norm before it.
                _ => head += bytes,
            }
        }
        let of_block = blocks / model.num_hidden_layers as u64;
        let tied = if model.tie_word_embeddings { embedding } else { 0 };
        let at_last = match run.optimizer_in_backward {
            false => trained * F32,
            // A stage at a time, and what a tied head has begun of the embedding's.
            true if model.tie_word_embeddings => embedding + of_block,
            true => embedding.max(of_block),
        };
        let of_head = if run.optimizer_in_backward { head.max(tied) } else { head + tied };
        Self { of_head, of_block, at_last }
    }
}

/// Bytes of the moments; all numbers of adapters count as one vector.
fn moments(model: &Qwen2Config, run: &PlannedRun, trained: u64) -> u64 {
    let of = |name: &str, shape: &[usize]| moment_bytes(run.optim, run.optim_dtype, name, shape);
    match run.trained {
        Trained::Full => model.tensor_shapes().iter().map(|(name, shape)| of(name, shape)).sum(),
        Trained::Adapters { .. } => of("", &[trained as usize]),
    }
}

/// Bytes of a matrix of `count` numbers in `rows` rows.
fn packed_bytes(quantization: Quantization, count: u64, rows: u64) -> u64 {
    match quantization {
        Quantization::Int8 => count + rows * F32,
        Quantization::FourBit(config) => {
            let blocks = count.div_ceil(64);
            let scales = if config.nested_scales { blocks + blocks.div_ceil(256) * F32 } else { blocks * F32 };
            count.div_ceil(2) + scales
        }
    }
}

/// Bytes of the activations that are held in the course of a step.
struct Activations {
    /// When the forward pass is done.
    kept: u64,
    /// What the backward pass of a block takes beside them.
    of_block: u64,
    /// In the backward pass of the lowest block.
    at_last: u64,
}

impl Activations {
    fn new(model: &Qwen2Config, run: &PlannedRun) -> Self {
        let tokens = (run.batch_size * run.seq_len) as u64;
        let hidden = model.hidden_size as u64;
        let queries = (model.num_attention_heads * model.head_dim) as u64;
        let keys = (model.num_key_value_heads * model.head_dim) as u64;
        let intermediate = model.intermediate_size as u64;
        let layers = model.num_hidden_layers as u64;
        let scores = match run.memory_of {
            MemoryOf::Cpu => 0,
            // Scores, their exponentials, the softmax and the gradient of one of them.
            MemoryOf::Accelerator => 4 * (model.num_attention_heads * run.seq_len) as u64,
        };
        // Saved for the backward pass of a block beside its input: two norms and the residual between; queries, keys and
        // values before and after rotation, what attention gives; gate, up and their product.
        let graph = tokens * F32 * (3 * hidden + 3 * queries + 4 * keys + 3 * intermediate + scores);
        let input = tokens * F32 * hidden;
        // Gradients on their way back, and a packed factor: of the product, of the output, and of the residual. Those of
        // gate and up take their place.
        let passing = tokens * F32 * (2 * intermediate + 2 * hidden);
        // The largest part of a frozen layer that exists in f32 at a time.
        let widened = match &run.trained {
            Trained::Adapters { base, .. } if base.quantization.is_some() => (4 << 20) + hidden * intermediate * F32,
            _ => 0,
        };
        let (kept, again) = match run.checkpointing {
            Checkpointing::Recompute => (layers * input, graph),
            Checkpointing::Keep => (layers * (input + graph), 0),
        };
        Self { kept: kept + widened, of_block: again + passing, at_last: input + graph + passing + widened }
    }
}

fn logits(model: &Qwen2Config, run: &PlannedRun) -> u64 {
    let all = (run.batch_size * run.seq_len * model.vocab_size) as u64 * F32;
    let chunk = all.min(LOGITS_BYTES as u64);
    match run.memory_of {
        MemoryOf::Cpu => chunk,
        // Logits, their log-softmax, its exponential, the one-hot labels and the gradient.
        MemoryOf::Accelerator => 5 * chunk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(trained: Trained) -> PlannedRun {
        PlannedRun {
            trained,
            optim: OptimizerNames::default(),
            optim_dtype: TrainingDtype::Float32,
            optimizer_in_backward: false,
            checkpointing: Checkpointing::Recompute,
            memory_of: MemoryOf::Cpu,
            batch_size: 1,
            seq_len: 64,
        }
    }

    fn adapters(base: LoadOptions) -> Trained {
        Trained::Adapters { config: LoraConfig { r: 2, ..LoraConfig::default() }, base }
    }

    /// Two layers of 32: q_proj is 32 to 32 and v_proj 32 to 16, so 2 · 2 · ((32 + 32) + (32 + 16)) numbers are trained.
    /// Most is held in the upper layer's backward pass, when the lower one has no gradients yet.
    #[test]
    fn adapters_worked_by_hand() {
        let model = Qwen2Config::tiny(64);
        let plan = MemoryPlan::new(&model, &run(adapters(LoadOptions::default())));
        assert_eq!((plan.gradients, plan.moments), (224 * 4, 448 * 8));
        assert_eq!(plan.weights, (model.num_parameters() as u64 + 448) * 4);
    }

    #[test]
    fn full_fine_tuning_holds_four_numbers_a_parameter() {
        let model = Qwen2Config::tiny(64);
        let plan = MemoryPlan::new(&model, &run(Trained::Full));
        assert_eq!(plan.weights + plan.gradients + plan.moments, model.num_parameters() as u64 * 16);
    }

    /// Two layers of 32: the tied embedding has 64 · 32 numbers, whose gradient grows from the first stage to the last;
    /// beside it are those of one block.
    #[test]
    fn in_the_backward_pass_a_block_is_held_at_a_time() {
        let model = Qwen2Config::tiny(64);
        let fused = PlannedRun { optimizer_in_backward: true, ..run(Trained::Full) };
        let (all, embedding, norm) = (model.num_parameters() as u64, 64 * 32, 32);
        let block = (all - embedding - norm) / 2;
        assert_eq!(MemoryPlan::new(&model, &fused).gradients, (embedding + block) * 4);
    }

    /// A byte a number and a scale of four bytes for each 256, twice; eight bytes for the embedding.
    #[test]
    fn moments_in_8_bits_are_a_quarter() {
        let model = Qwen2Config::released("Qwen2.5-0.5B").unwrap();
        let eight_bit = PlannedRun { optim: OptimizerNames::Adamw8bit, ..run(Trained::Full) };
        let (all, embedding) = (model.num_parameters() as f64, 151_936.0 * 896.0);
        let expected = embedding * 8.0 + (all - embedding) * 2.0 * (1.0 + 4.0 / 256.0);
        let planned = MemoryPlan::new(&model, &eight_bit).moments as f64;
        // Biases and norms are in f32.
        assert!((planned / expected - 1.0).abs() < 1e-3, "{planned} instead of {expected}");
    }

    #[test]
    fn the_largest_batch_fits_and_one_more_does_not() {
        let model = Qwen2Config::tiny(64);
        let run = run(adapters(LoadOptions::default()));
        for bytes in [PROCESS, 70_000_000, 100_000_000, 1_000_000_000] {
            let total = |batch_size| MemoryPlan::new(&model, &PlannedRun { batch_size, ..run.clone() }).total();
            let batch = run.largest_batch(&model, bytes);
            assert!(batch == 0 || total(batch) <= bytes, "{batch} rows");
            assert!(total(batch + 1) > bytes, "{batch} rows");
        }
    }

    #[test]
    fn fewer_bits_take_less() {
        let model = Qwen2Config::tiny(64);
        let of = |quantization| {
            let base = LoadOptions { precision: Precision::Bfloat16, quantization };
            MemoryPlan::new(&model, &run(adapters(base))).weights
        };
        let four_bit = Quantization::FourBit(reheat_kernels::FourBitConfig::default());
        assert!(of(Some(four_bit)) < of(Some(Quantization::Int8)) && of(Some(Quantization::Int8)) < of(None));
    }
}
