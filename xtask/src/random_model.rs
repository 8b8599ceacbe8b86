//! `cargo xtask random-model`: a Qwen2 checkpoint of any shape with random weights.
//!
//! Speed and memory of training depend on the shape, not on the values, so such a checkpoint stands in for a real one
//! wherever nothing may be downloaded.
//! Tensors are drawn one at a time while the file is written: the largest tensor is what has to fit into memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use half::{bf16, f16};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use reheat_model::{Qwen2Config, WeightDtype, save_config};
use reheat_tokenizer::Tokenizer;
use safetensors::{Dtype, View};
use serde_json::json;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct RandomModelArgs {
    /// Take the shape of a released model; the flags below change single sizes
    #[arg(long, value_name = "NAME", default_value = Shape::DEFAULT)]
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

/// Rows of the embedding of the shape `tiny`: enough that random weights rarely draw an end token.
const TINY_VOCABULARY: usize = 4096;

/// A released model by its name, such as `qwen2.5-0.5b`, for its shape; or `tiny`.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    name: String,
    config: Qwen2Config,
}

impl Shape {
    /// The shape where none is asked for.
    pub(crate) const DEFAULT: &str = "qwen2.5-0.5b";

    /// The name on the command line.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "tiny" {
            return Ok(Self { name: name.into(), config: Qwen2Config::tiny(TINY_VOCABULARY) });
        }
        let known = || Qwen2Config::released_names().map(str::to_lowercase).collect::<Vec<_>>().join(", ");
        let config = Qwen2Config::released(name).ok_or_else(|| format!("expected tiny or one of {}", known()))?;
        Ok(Self { name: name.to_lowercase(), config })
    }
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
        let mut object = self.like.config.raw().clone();
        for (key, size) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("vocab_size", self.vocab_size),
        ] {
            object.extend(size.map(|size| (key.to_owned(), size.into())));
        }
        object.extend(self.tie_word_embeddings.map(|tied| ("tie_word_embeddings".to_owned(), tied.into())));
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
