//! The Qwen2 decoder (transformers 5.23, `modeling_qwen2.py`).
//!
//! Hidden states are `[tokens, hidden_size]`: sequences lie end to end, and attention alone knows where one ends.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor};
use reheat_kernels::{
    Compute, FourBitWeight, Int8Weight, RotaryTable, Weight, embedding, linear, linear_four_bit, rms_norm, rotary,
    swiglu,
};

use crate::lora::Adapter;
use crate::source::{RandomSource, TensorSource};
use crate::{HeadKind, LoadOptions, Lora, ModelError, Precision, Qwen2Config, SequenceLayout, TokenRows, load};

/// A dense layer with the weight as checkpoints store it.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`; empty where it is held in fewer bits.
    pub weight: Param<Tensor<2>>,
    /// The weight in 4 bits: frozen, and no parameter.
    #[module(skip)]
    four_bit: Option<FourBitWeight>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Type in which the product is taken.
    #[module(skip)]
    pub compute: Compute,
    /// Its low-rank update.
    pub adapter: Option<Lora>,
    /// The weight in int8, which is frozen.
    #[module(skip)]
    pub(crate) int8: Option<Int8Weight>,
}

impl Linear {
    fn build(source: &mut impl TensorSource, name: &str, input: usize, output: usize, bias: Bias) -> Self {
        let name_of_weight = format!("{name}.weight");
        let four_bit = source.four_bit(&name_of_weight, [output, input]);
        let held = match &four_bit {
            Some(_) => Tensor::empty([0, 0], &source.device()).into(),
            None => source.weight(&name_of_weight, [output, input]),
        };
        let (weight, int8) = match held {
            Weight::Float(weight) => (weight, None),
            Weight::Int8(weight) => (Tensor::empty([0, 0], &weight.scales().device()), Some(weight)),
        };
        let weight = Param::from_tensor(weight);
        let bias = match bias {
            Bias::Yes => Some(Param::from_tensor(source.tensor(&format!("{name}.bias"), [output]))),
            Bias::No => None,
        };
        Self { weight, bias, compute: Compute::F32, adapter: None, int8, four_bit }
    }

    /// `x · weightᵀ + bias` and the adapter's update: `[tokens, in]` to `[tokens, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.adapter {
            None => self.base(x),
            Some(adapter) => adapter.forward(self, x),
        }
    }

    /// `x · weightᵀ + bias`.
    pub(crate) fn base(&self, x: Tensor<2>) -> Tensor<2> {
        self.times(x, self.bias.as_ref().map(Param::val))
    }

    /// The weight as it is held, `[out, in]`.
    pub fn stored(&self) -> Weight {
        match &self.int8 {
            Some(weight) => weight.clone().into(),
            None => self.weight.val().into(),
        }
    }

    /// `x · weightᵀ`.
    pub(crate) fn product(&self, x: Tensor<2>) -> Tensor<2> {
        self.times(x, None)
    }

    fn times(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        match &self.four_bit {
            Some(weight) => linear_four_bit(x, weight, bias, self.compute),
            None => linear(x, self.stored(), bias, self.compute),
        }
    }

    pub(crate) fn add_bias(&self, y: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze::<2>(),
            None => y,
        }
    }

    /// The weight in f32, `[out, in]`.
    pub(crate) fn dense_weight(&self) -> Tensor<2> {
        match &self.four_bit {
            Some(weight) => weight.to_f32(&self.weight.val().device()),
            None => self.stored().to_f32(),
        }
    }

    /// Puts another weight in the place of this one.
    pub(crate) fn set_weight(&mut self, weight: Tensor<2>) {
        self.weight = Param::from_tensor(weight);
        self.int8 = None;
        self.four_bit = None;
    }

    /// `[out, in]`
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.four_bit.as_ref().map_or_else(|| self.stored().dims(), FourBitWeight::dims)
    }
}

#[derive(Clone, Copy)]
enum Bias {
    Yes,
    No,
}

/// Root-mean-square norm with a learned scale.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[hidden_size]`.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
}

impl RmsNorm {
    fn build(source: &mut impl TensorSource, name: &str, config: &Qwen2Config) -> Self {
        let weight = Param::from_tensor(source.tensor(&format!("{name}.weight"), [config.hidden_size]));
        Self { weight, epsilon: config.rms_norm_eps }
    }

    /// Normalises each row of `[tokens, hidden_size]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        rms_norm(x, self.weight.val(), self.epsilon)
    }
}

/// The four projections of attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, with bias.
    pub q_proj: Linear,
    /// Keys, with bias.
    pub k_proj: Linear,
    /// Values, with bias.
    pub v_proj: Linear,
    /// Output, without bias.
    pub o_proj: Linear,
}

/// The gated feed-forward layer.
#[derive(Module, Debug)]
pub struct Mlp {
    /// The half that goes through the activation.
    pub gate_proj: Linear,
    /// The half that is gated.
    pub up_proj: Linear,
    /// Back to the hidden size.
    pub down_proj: Linear,
}

/// Queries, keys and values of one block, rotated.
#[derive(Debug, Clone)]
pub struct Qkv {
    /// `[tokens, num_attention_heads * head_dim]`.
    pub q: Tensor<2>,
    /// `[tokens, num_key_value_heads * head_dim]`.
    pub k: Tensor<2>,
    /// `[tokens, num_key_value_heads * head_dim]`.
    pub v: Tensor<2>,
}

/// One decoder block: attention and feed-forward, each after a norm and with a residual.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub input_layernorm: RmsNorm,
    /// Attention.
    pub self_attn: Attention,
    /// Before the feed-forward layer.
    pub post_attention_layernorm: RmsNorm,
    /// The feed-forward layer.
    pub mlp: Mlp,
}

impl Block {
    fn build(source: &mut impl TensorSource, name: &str, config: &Qwen2Config) -> Self {
        let hidden = config.hidden_size;
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let intermediate = config.intermediate_size;
        let mut dense =
            |layer: &str, input, output, bias| Linear::build(source, &format!("{name}.{layer}"), input, output, bias);
        let self_attn = Attention {
            q_proj: dense("self_attn.q_proj", hidden, queries, Bias::Yes),
            k_proj: dense("self_attn.k_proj", hidden, keys, Bias::Yes),
            v_proj: dense("self_attn.v_proj", hidden, keys, Bias::Yes),
            o_proj: dense("self_attn.o_proj", queries, hidden, Bias::No),
        };
        let mlp = Mlp {
            gate_proj: dense("mlp.gate_proj", hidden, intermediate, Bias::No),
            up_proj: dense("mlp.up_proj", hidden, intermediate, Bias::No),
            down_proj: dense("mlp.down_proj", intermediate, hidden, Bias::No),
        };
        Self {
            input_layernorm: RmsNorm::build(source, &format!("{name}.input_layernorm"), config),
            self_attn,
            post_attention_layernorm: RmsNorm::build(source, &format!("{name}.post_attention_layernorm"), config),
            mlp,
        }
    }

    /// The whole block on sequences without a cache.
    ///
    /// # Shapes
    /// - `x`: `[tokens, hidden_size]`, laid out as `layout` and `rotary` say
    /// - returns: as `x`
    pub fn forward(&self, x: Tensor<2>, rotary: &RotaryTable, layout: &SequenceLayout) -> Tensor<2> {
        let inputs = self.attention_inputs(x.clone(), rotary);
        self.attention_outputs(x, layout.attend(inputs))
    }

    /// The first half: norm, projections, rotation.
    pub fn attention_inputs(&self, x: Tensor<2>, table: &RotaryTable) -> Qkv {
        let x = self.input_layernorm.forward(x);
        Qkv {
            q: rotary(self.self_attn.q_proj.forward(x.clone()), table),
            k: rotary(self.self_attn.k_proj.forward(x.clone()), table),
            v: self.self_attn.v_proj.forward(x),
        }
    }

    /// The second half: output projection, residual, feed-forward layer, residual.
    pub fn attention_outputs(&self, x: Tensor<2>, attended: Tensor<2>) -> Tensor<2> {
        let x = x + self.self_attn.o_proj.forward(attended);
        let normed = self.post_attention_layernorm.forward(x.clone());
        let gate = self.mlp.gate_proj.forward(normed.clone());
        x + self.mlp.down_proj.forward(swiglu(gate, self.mlp.up_proj.forward(normed)))
    }
}

/// A Qwen2 language model.
///
/// Its fields are the stages of the forward pass; a parameter's path in the module, after `model.` (but for the head),
/// is its name in checkpoints.
#[derive(Module, Debug)]
pub struct Qwen2 {
    /// Token embedding, `[vocab_size, hidden_size]`.
    pub embed_tokens: Linear,
    /// The blocks.
    pub layers: Vec<Block>,
    /// Before the head.
    pub norm: RmsNorm,
    /// The head, or `None` where it is the embedding, or where there is a score.
    pub lm_head: Option<Linear>,
    /// The head of a reward model, `[1, hidden_size]`, in place of the other.
    pub score: Option<Linear>,
    /// Rows of the embedding that are trained beside adapters; the embedding holds them too.
    pub token_adapter: Option<TokenRows>,
    #[module(skip)]
    config: Qwen2Config,
    /// What low-rank adapters are on the blocks.
    #[module(skip)]
    pub(crate) adapter: Option<Adapter>,
}

impl Qwen2 {
    pub(crate) fn build(config: &Qwen2Config, source: &mut impl TensorSource) -> Self {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embed_tokens = Linear::build(source, "model.embed_tokens", hidden, vocab, Bias::No);
        let layers = (0..config.num_hidden_layers)
            .map(|index| Block::build(source, &format!("model.layers.{index}"), config))
            .collect();
        let norm = RmsNorm::build(source, "model.norm", config);
        let is_score = config.head == HeadKind::Score;
        let lm_head = (!config.tie_word_embeddings && !is_score)
            .then(|| Linear::build(source, "lm_head", hidden, vocab, Bias::No));
        let score = is_score.then(|| Linear::build(source, "score", hidden, 1, Bias::No));
        Self { embed_tokens, layers, norm, lm_head, score, token_adapter: None, config: config.clone(), adapter: None }
    }

    /// A model with freshly drawn weights; the same seed gives the same bits.
    pub fn random(config: &Qwen2Config, seed: u64, device: &Device) -> Self {
        Self::build(config, &mut RandomSource::new(config, seed, device))
    }

    /// Loads a checkpoint directory in Hugging Face format, converted to f32.
    ///
    /// A directory with an adapter gives the base model that it names, with the adapter.
    ///
    /// # Errors
    /// If the configuration is not a Qwen2's, files are missing or damaged, tensors do not match the configuration
    /// (every fault in one error), or weights are not finite.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, ModelError> {
        load::load(dir, &LoadOptions::default(), device)
    }

    /// As [`Self::load`], with the matrices held and multiplied as `precision` says; each tensor is converted as it is
    /// read, so that no more than one is in memory in another type.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_in(dir: &Path, device: &Device, precision: Precision) -> Result<Self, ModelError> {
        let mut model = load::load(dir, &LoadOptions { precision, quantization: None }, device)?;
        model.set_compute(precision.compute());
        Ok(model)
    }

    /// As [`Self::load`], with weights that are to stay frozen held in fewer bits.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(dir: &Path, options: &LoadOptions, device: &Device) -> Result<Self, ModelError> {
        load::load(dir, options, device)
    }

    /// The model with a head that gives one number in place of its own: the start of a reward model. The head is drawn
    /// as transformers draws it; the same seed gives the same bits. A model that has such a head keeps it.
    pub fn with_score_head(mut self, seed: u64) -> Self {
        if self.score.is_none() {
            self.config.set_score_head();
            let mut source = RandomSource::new(&self.config, seed, &self.device());
            let mut score = Linear::build(&mut source, "score", self.config.hidden_size, 1, Bias::No);
            score.compute = self.compute();
            (self.lm_head, self.score) = (None, Some(score));
        }
        self
    }

    /// The configuration.
    pub fn config(&self) -> &Qwen2Config {
        &self.config
    }

    /// The configuration, for keys that do not change the computation ([`Qwen2Config::set`]).
    pub fn config_mut(&mut self) -> &mut Qwen2Config {
        &mut self.config
    }

    /// The device that holds the weights.
    pub fn device(&self) -> Device {
        self.embed_tokens.weight.val().device()
    }

    /// Embeddings of the tokens, `[tokens, hidden_size]`.
    ///
    /// # Panics
    /// If an id is outside the vocabulary.
    pub fn embed(&self, input_ids: &[i32]) -> Tensor<2> {
        embedding(self.embed_tokens.stored(), input_ids)
    }

    /// The matrix that turns normalised hidden states into logits, `[vocab_size, hidden_size]`, or into a score,
    /// `[1, hidden_size]`; empty where it is held in int8.
    pub fn head(&self) -> Tensor<2> {
        self.head_layer().weight.val()
    }

    /// [`Self::head`] as it is held.
    pub fn head_weight(&self) -> Weight {
        self.head_layer().stored()
    }

    fn head_layer(&self) -> &Linear {
        self.score.as_ref().or(self.lm_head.as_ref()).unwrap_or(&self.embed_tokens)
    }

    /// Whether matrices are held in another type than f32.
    pub(crate) fn is_rounded(&self) -> bool {
        match self.embed_tokens.stored() {
            Weight::Float(weight) => weight.dtype() != DType::F32,
            Weight::Int8(_) => true,
        }
    }

    /// Type in which products are taken: of all dense layers, the head among them, and in attention without a cache.
    pub fn compute(&self) -> Compute {
        self.embed_tokens.compute
    }

    /// Sets the type in which products are taken; weights stay as they are.
    pub fn set_compute(&mut self, compute: Compute) {
        self.embed_tokens.compute = compute;
        self.lm_head.iter_mut().chain(&mut self.score).for_each(|head| head.compute = compute);
        for Block { self_attn, mlp, .. } in &mut self.layers {
            let Attention { q_proj, k_proj, v_proj, o_proj } = self_attn;
            let Mlp { gate_proj, up_proj, down_proj } = mlp;
            for dense in [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj] {
                dense.compute = compute;
            }
        }
    }

    /// Rotary angles for tokens at `positions`.
    pub fn rotary_table(&self, positions: &[usize]) -> RotaryTable {
        RotaryTable::new(positions, self.config.head_dim, self.config.rope_theta, &self.device())
    }

    /// Normalised hidden states, ready for the head, of sequences laid end to end; each starts at position 0.
    ///
    /// # Shapes
    /// - `input_ids`: `Σ seq_lens` ids
    /// - returns: `[tokens, hidden_size]`
    ///
    /// # Panics
    /// If the lengths do not add up or an id is outside the vocabulary.
    pub fn hidden_states(&self, input_ids: &[i32], seq_lens: &[usize]) -> Tensor<2> {
        assert_eq!(seq_lens.iter().sum::<usize>(), input_ids.len(), "lengths of the sequences and number of ids");
        self.hidden_states_in(input_ids, &self.sequence_layout(seq_lens, &[]))
    }

    /// As [`Self::hidden_states`], of sequences that lie as `layout` says.
    ///
    /// # Panics
    /// As [`Self::hidden_states`].
    pub fn hidden_states_in(&self, input_ids: &[i32], layout: &SequenceLayout) -> Tensor<2> {
        let table = self.rotary_table(layout.positions());
        let x = self.layers.iter().fold(self.embed(input_ids), |x, block| block.forward(x, &table, layout));
        self.norm.forward(x)
    }

    /// What a reward model says of each sequence, `[sequences]`: its head's number at the last token, in f32.
    ///
    /// # Panics
    /// If the model has no such head, a sequence is empty, or as [`Self::hidden_states`].
    pub fn scores(&self, input_ids: &[i32], seq_lens: &[usize]) -> Tensor<1> {
        let score = self.score.as_ref().expect("a reward model has a head for scores");
        assert!(!seq_lens.contains(&0), "a sequence without a token has no score");
        let mut end = 0;
        let last: Vec<i32> = seq_lens
            .iter()
            .map(|len| {
                end += len;
                end as i32 - 1
            })
            .collect();
        let hidden = self.hidden_states(input_ids, seq_lens);
        let rows = hidden.clone().select(0, Tensor::<1, Int>::from_data(last.as_slice(), &hidden.device()));
        rows.matmul(score.weight.val().transpose()).squeeze_dim::<1>(1)
    }

    /// Logits of one sequence, `[tokens, vocab_size]`: for looking at, as training never holds them.
    ///
    /// # Panics
    /// If an id is outside the vocabulary.
    pub fn logits(&self, input_ids: &[i32]) -> Tensor<2> {
        linear(self.hidden_states(input_ids, &[input_ids.len()]), self.head_weight(), None, self.compute())
    }
}
