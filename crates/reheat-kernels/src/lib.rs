//! Fused differentiable operations for language models on Burn.
//!
//! Each operation has a plain definition in Burn operations, which runs on every device and is what the tests compare
//! with, and kernels with hand-written backward passes that compute again instead of storing: one for the CPU, and for
//! most one in CubeCL, for GPUs.
//! The choice is made per call, from the device and the type of the tensors: f32 is fused. [`use_kernels`] turns it off.
//! Activations, norms and losses are f32; weights are stored in f32, bf16 or int8 ([`Weight`]), and [`Compute`] says in
//! which type the factors of matrix products meet.
//!
//! Tensors are `[tokens, width]`: sequences lie end to end and are never padded.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//!
//! let device = Device::flex();
//! let x = Tensor::<2>::from_data([[3.0, 4.0]], &device);
//! let weight = Tensor::<1>::from_data([1.0, 2.0], &device);
//! let y = reheat_kernels::rms_norm(x, weight, 0.0);
//! let y = y.into_data().try_to_vec::<f32>().unwrap();
//! assert!((y[0] - 0.848_528).abs() < 1e-6 && (y[1] - 2.262_742).abs() < 1e-6);
//! ```

#![expect(unsafe_code, reason = "raw products, mapped files and the allocator live here, each with its reason")]

mod choice; // kernels or plain definitions
mod kernel; // what a kernel gives, and its place in the graph
mod weight; // how the weights of dense layers are stored
mod linear;
mod four_bit; // frozen weights in 4 bits
mod dropout;
mod lora;
mod rms_norm;
mod rotary;
mod attention;
mod swiglu;
mod logprobs;
mod logits;
mod row_store;
mod embedding;
mod optimizer;
mod memory;
mod large_buffers; // an allocator that keeps them close together
mod doctor; // kernels against their definitions, on any device
mod matrix; // products on slices
mod vector; // row primitives, SIMD by run-time dispatch
#[cfg(feature = "cube")]
mod cube; // what kernels in CubeCL share
#[cfg(test)]
mod parity;

pub use self::{
    attention::{AttentionLayout, Span, causal_attention},
    choice::{Kernels, chosen_kernels, use_kernels},
    doctor::{KernelCheck, check_kernels},
    dropout::Dropout,
    embedding::embedding_backward,
    four_bit::{FourBitConfig, FourBitKind, FourBitWeight, linear_four_bit},
    large_buffers::LargeBuffers,
    linear::linear,
    logits::{LogitStats, kth_largest_bound, softmax_weights},
    logprobs::{
        IGNORE_INDEX, LOGITS_BYTES, LogprobGradients, ObjectiveGradient, TokenDerivatives, TokenLogprobs,
        token_logprobs, token_logprobs_vjp,
    },
    lora::{LoraUpdate, lora},
    matrix::{Compute, bf16_instructions},
    memory::{MappedFile, TensorBytes, keep_pages, peak_memory_bytes, total_memory_bytes, zeros},
    optimizer::{
        AdamWParameter, AdamWStep, adamw, add_gradients,
        eight_bit::{BLOCK as EIGHT_BIT_BLOCK, EightBitMap, EightBitMoment, EightBitParameter, adamw_8bit, codes_from},
        squared_norm,
    },
    rms_norm::rms_norm,
    rotary::{RotaryTable, rotary},
    row_store::{copy_rows, write_rows},
    swiglu::swiglu,
    weight::{Int8Weight, Weight, embedding},
};
