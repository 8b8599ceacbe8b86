//! The type in which the matrices of a model are held.

use std::fmt;
use std::str::FromStr;

use reheat_kernels::Compute;

/// How the matrices of a model are held, and the type in which they are multiplied.
///
/// Norms, biases and activations are f32, and so are all sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32 throughout: what training needs, and the numbers of the reference implementations.
    #[default]
    Float32,
    /// Held in bf16, activations rounded to bf16 where they meet a matrix: half the memory, and twice the speed where
    /// reading the weights is what takes time.
    Bfloat16,
    /// Held in int8 with a scale for each row ([`Int8Weight`](reheat_kernels::Int8Weight)), multiplied as
    /// [`Self::Bfloat16`] is: a quarter of the memory.
    Int8,
}

impl Precision {
    /// In which the factors of products meet.
    pub fn compute(self) -> Compute {
        match self {
            Self::Float32 => Compute::F32,
            Self::Bfloat16 | Self::Int8 => Compute::Bf16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    /// By PyTorch's name, or the short one.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "float32" | "f32" => Ok(Self::Float32),
            "bfloat16" | "bf16" => Ok(Self::Bfloat16),
            "int8" => Ok(Self::Int8),
            _ => Err("expected float32, bfloat16 or int8".into()),
        }
    }
}
