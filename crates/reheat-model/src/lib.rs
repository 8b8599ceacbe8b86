//! Qwen2 and Qwen2.5 as Burn modules: `config.json` and safetensors in, the same out.
//!
//! A model is `embed -> blocks -> norm -> head`, and its parts are public, so that a trainer can drive it block by
//! block and a generator can put a cache between the halves of a block.
//! Parameters keep the names and the layout of Hugging Face checkpoints.
//!
//! With the feature `burn-train`, the model implements `burn-train`'s `TrainStep` and `InferenceStep`;
//! `docs/examples/supervised-training` trains it with `SupervisedTraining`.
//!
//! ```
//! use reheat_model::{Device, Qwen2, Qwen2Config};
//!
//! let config = Qwen2Config::tiny(64); // two layers, a vocabulary of 64
//! let model = Qwen2::random(&config, 7, &Device::flex());
//! let logits = model.logits(&[1, 2, 3]);
//! assert_eq!(logits.dims(), [3, 64]);
//! ```
//!
//! A checkpoint comes from its folder, `Qwen2::load("Qwen2.5-0.5B".as_ref(), &Device::flex())`; `reheat-hub` fetches one
//! by its name, `reheat-tokenizer` makes ids of text, and `reheat-generate` continues them.

/// Where a model computes, by the name that Burn has for it: `Device::flex()` is the CPU.
pub use burn::tensor::Device;

mod config; // config.json
mod released; // shapes of released models
mod packed; // frozen weights in fewer bits
mod sequences; // which rows of a pass belong together
mod qwen2; // the modules and the forward pass
mod decoding; // the model as a sampler reads it
mod lora; // low-rank adapters
mod precision; // the type in which matrices are held
mod parameters; // visiting parameters by checkpoint name
mod source; // where a new model's tensors come from
mod load; // safetensors -> model
mod file_writer; // large files at the speed of the disk
mod tensor_file; // safetensors files of any tensors
mod save; // model -> safetensors
mod error;
#[cfg(feature = "burn-train")]
mod supervised; // steps for burn-train

#[cfg(feature = "burn-train")]
pub use self::supervised::{TokenBatch, TokenOutput};
pub use self::{
    config::{HeadKind, Qwen2Config},
    error::{Misshapen, ModelError},
    file_writer::WrittenFile,
    lora::{Factor, Lora, LoraConfig, TargetModules, TokenRows},
    packed::{LoadOptions, Quantization},
    parameters::{ParameterPath, for_each_parameter, map_parameters, parameter_name},
    precision::Precision,
    qwen2::{Attention, Block, Linear, Mlp, Qkv, Qwen2, RmsNorm},
    save::{SaveOptions, WeightDtype, save_config},
    sequences::SequenceLayout,
    tensor_file::{NamedTensor, Numbers, TensorFile, write_tensors},
};
