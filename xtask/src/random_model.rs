//! `cargo xtask random-model`: a Qwen2 checkpoint of any shape with random weights.
//!
//! Speed and memory of training depend on the shape, not on the values, so such a checkpoint stands in for a real one
//! wherever nothing may be downloaded.
//! Tensors are drawn one at a time while the file is written: the largest tensor is what has to fit into memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use half::{bf16, f16};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use reheat_model::{Qwen2Config, WeightDtype, save_config};
use reheat_tokenizer::Tokenizer;
use safetensors::{Dtype, View};
use serde_json::{Value, json};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct RandomModelArgs {
    /// Take the shape of a released model; the flags below change single sizes
    #[arg(long, value_enum, default_value_t = Shape::Qwen25_0_5b)]
    like: Shape,
    /// Width of the hidden states
    #[arg(long)]
    hidden_size: Option<usize>,
    /// Width inside the feed-forward layers
    #[arg(long)]
    intermediate_size: Option<usize>,
    /// Number of blocks
    #[arg(long)]
    num_hidden_layers: Option<usize>,
    /// Query heads
    #[arg(long)]
    num_attention_heads: Option<usize>,
    /// Key-value heads
    #[arg(long)]
    num_key_value_heads: Option<usize>,
    /// Rows of the embedding
    #[arg(long)]
    vocab_size: Option<usize>,
    /// Whether the head is the embedding
    #[arg(long)]
    tie_word_embeddings: Option<bool>,
    /// Directory whose tokenizer and template are put beside the weights
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Type of the numbers in the file
    #[arg(long, value_enum, default_value_t = Number::Float32)]
    dtype: Number,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Directory to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Released models by shape.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shape {
    #[value(name = "qwen2.5-0.5b")]
    Qwen25_0_5b,
    #[value(name = "qwen2.5-1.5b")]
    Qwen25_1_5b,
    #[value(name = "qwen2.5-3b")]
    Qwen25_3b,
    #[value(name = "qwen2.5-7b")]
    Qwen25_7b,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Number {
    Float32,
    Float16,
    Bfloat16,
}

impl From<Number> for WeightDtype {
    fn from(number: Number) -> Self {
        match number {
            Number::Float32 => Self::F32,
            Number::Float16 => Self::F16,
            Number::Bfloat16 => Self::Bf16,
        }
    }
}

impl Shape {
    /// Hidden, intermediate, layers, heads, key-value heads, vocabulary, tied: the `config.json` of each release.
    fn sizes(self) -> (usize, usize, usize, usize, usize, usize, bool) {
        match self {
            Self::Qwen25_0_5b => (896, 4864, 24, 14, 2, 151_936, true),
            Self::Qwen25_1_5b => (1536, 8960, 28, 12, 2, 151_936, true),
            Self::Qwen25_3b => (2048, 11_008, 36, 16, 2, 151_936, true),
            Self::Qwen25_7b => (3584, 18_944, 28, 28, 4, 152_064, false),
        }
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("no shape is hidden");
        value.get_name().to_owned()
    }
}

impl RandomModelArgs {
    /// A checkpoint of a released shape in f32, with a tokenizer.
    pub(crate) fn like(shape: Shape, tokenizer: PathBuf, out: PathBuf) -> Self {
        Self {
            like: shape,
            hidden_size: None,
            intermediate_size: None,
            num_hidden_layers: None,
            num_attention_heads: None,
            num_key_value_heads: None,
            vocab_size: None,
            tie_word_embeddings: None,
            tokenizer: Some(tokenizer),
            dtype: Number::Float32,
            seed: 0,
            out,
        }
    }

    fn config(&self) -> anyhow::Result<Qwen2Config> {
        let (hidden, intermediate, layers, heads, kv_heads, vocab, tied) = self.like.sizes();
        let object = json!({
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "hidden_size": self.hidden_size.unwrap_or(hidden),
            "intermediate_size": self.intermediate_size.unwrap_or(intermediate),
            "num_hidden_layers": self.num_hidden_layers.unwrap_or(layers),
            "num_attention_heads": self.num_attention_heads.unwrap_or(heads),
            "num_key_value_heads": self.num_key_value_heads.unwrap_or(kv_heads),
            "vocab_size": self.vocab_size.unwrap_or(vocab),
            "tie_word_embeddings": self.tie_word_embeddings.unwrap_or(tied),
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "initializer_range": 0.02,
            "use_sliding_window": false,
        });
        let Value::Object(object) = object else { unreachable!("an object literal") };
        Ok(Qwen2Config::from_json(object, PathBuf::from("the flags"))?)
    }
}

/// Writes the checkpoint.
pub(crate) fn run(args: &RandomModelArgs) -> anyhow::Result<()> {
    let mut config = args.config()?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{}`", args.out.display()))?;
    if let Some(source) = &args.tokenizer {
        let tokenizer = Tokenizer::from_dir(source)?;
        ensure!(
            tokenizer.vocab_size() <= config.vocab_size,
            "the tokenizer has {} tokens, the embedding only {} rows",
            tokenizer.vocab_size(),
            config.vocab_size
        );
        tokenizer.save(&args.out)?;
        copy_templates(source, &args.out)?;
        for (key, id) in [("eos_token_id", tokenizer.eos_ids().first()), ("pad_token_id", tokenizer.pad_id().as_ref())]
        {
            id.into_iter().for_each(|id| config.set(key, json!(id)));
        }
    }
    let dtype = args.dtype.into();
    save_config(&config, &args.out, dtype)?;
    write_weights(&config, dtype, args.seed, &args.out.join("model.safetensors"))?;
    eprintln!("{}: {} parameters", args.out.display(), config.num_parameters());
    Ok(())
}

fn copy_templates(source: &Path, out: &Path) -> anyhow::Result<()> {
    let name = "chat_template.jinja";
    if source.join(name).exists() {
        fs::copy(source.join(name), out.join(name)).with_context(|| format!("cannot copy `{name}`"))?;
    }
    Ok(())
}

/// A tensor that is drawn when its turn to be written comes.
struct Drawn {
    name: String,
    shape: Vec<usize>,
    /// Each tensor has a stream of its own, so that its values do not depend on when they are drawn.
    stream: u64,
    seed: u64,
    normal: Normal<f32>,
    dtype: WeightDtype,
}

impl Drawn {
    fn values(&self) -> Vec<f32> {
        let count = self.shape.iter().product();
        if self.name.ends_with("norm.weight") {
            return vec![1.0; count];
        }
        if self.name.ends_with(".bias") {
            return vec![0.0; count];
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.stream);
        self.normal.sample_iter(rng).take(count).collect()
    }
}

impl View for &Drawn {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            WeightDtype::F32 => Dtype::F32,
            WeightDtype::F16 => Dtype::F16,
            WeightDtype::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.values();
        Cow::Owned(match self.dtype {
            WeightDtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            WeightDtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            WeightDtype::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        let bytes = if matches!(self.dtype, WeightDtype::F32) { 4 } else { 2 };
        self.shape.iter().product::<usize>() * bytes
    }
}

fn write_weights(config: &Qwen2Config, dtype: WeightDtype, seed: u64, path: &Path) -> anyhow::Result<()> {
    let normal = Normal::new(0.0, config.initializer_range as f32).context("`initializer_range` is no deviation")?;
    let tensors: Vec<_> = config
        .tensor_shapes()
        .into_iter()
        .zip(0..)
        .map(|((name, shape), stream)| Drawn { name, shape, stream, seed, normal, dtype })
        .collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor));
    safetensors::serialize_to_file(views, Some(metadata), path)
        .with_context(|| format!("cannot write `{}`", path.display()))
}
