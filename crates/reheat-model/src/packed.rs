//! Frozen weights in fewer bits than the rest.

use reheat_kernels::FourBitConfig;

use crate::Precision;

/// How the matrices of a model are held. What is trained is f32, whatever is asked for here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Type of the matrices.
    pub precision: Precision,
    /// Fewer bits for the dense layers of the blocks; the embedding and the head keep `precision`.
    pub quantization: Option<Quantization>,
}

/// Fewer bits for dense layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// 8-bit integers with a scale for each row.
    Int8,
    /// 4-bit codes with a scale for each block of 64.
    FourBit(FourBitConfig),
}

impl LoadOptions {
    /// Fewer bits for the matrix of this name, if it is one of a dense layer of the blocks.
    fn quantization_of(&self, name: &str) -> Option<Quantization> {
        self.quantization.filter(|_| name.ends_with("_proj.weight"))
    }

    /// Type of the matrix of this name.
    pub(crate) fn precision_of(&self, name: &str) -> Precision {
        match self.quantization_of(name) {
            Some(Quantization::Int8) => Precision::Int8,
            _ => self.precision,
        }
    }

    /// Codes of the matrix of this name, where it is held in 4 bits.
    pub(crate) fn four_bit(&self, name: &str) -> Option<FourBitConfig> {
        match self.quantization_of(name) {
            Some(Quantization::FourBit(config)) => Some(config),
            _ => None,
        }
    }
}
