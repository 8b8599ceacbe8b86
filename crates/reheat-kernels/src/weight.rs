//! Weights of dense layers as they are stored: f32, bf16, or int8 with a scale per row.

use burn::backend::Flex;
use burn::tensor::{Bytes, DType, Device, Int, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::choice::on_cpu;
use crate::matrix::{Elements, dense, elements, numbers, tensor_of};

/// The matrix of a dense layer, an embedding or a head.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "handles that are passed along, not kept in numbers")]
pub enum Weight {
    /// `[out, in]`, f32 or bf16.
    Float(Tensor<2>),
    /// As integers.
    Int8(Int8Weight),
}

impl From<Tensor<2>> for Weight {
    fn from(weight: Tensor<2>) -> Self {
        Self::Float(weight)
    }
}

impl From<Int8Weight> for Weight {
    fn from(weight: Int8Weight) -> Self {
        Self::Int8(weight)
    }
}

impl Weight {
    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Float(weight) => weight.dims(),
            Self::Int8(weight) => weight.values.dims(),
        }
    }

    /// The device that holds it.
    pub fn device(&self) -> Device {
        match self {
            Self::Float(weight) => weight.device(),
            Self::Int8(weight) => weight.scales.device(),
        }
    }

    /// The whole matrix in f32.
    pub fn to_f32(&self) -> Tensor<2> {
        match self {
            Self::Float(weight) => weight.clone().cast(DType::F32),
            Self::Int8(weight) => {
                weight.values.clone().float().cast(DType::F32) * weight.scales.clone().unsqueeze_dim::<2>(1)
            }
        }
    }
}

/// A matrix as integers from -127 to 127 and a scale per row, so that `value ≈ integer · scale`.
///
/// The scale is the row's largest magnitude over 127 (symmetric, per output channel, as in Dettmers et al. 2022,
/// LLM.int8(), arXiv:2208.07339, section 2.1, without its outliers).
#[derive(Debug, Clone)]
pub struct Int8Weight {
    /// `[out, in]`, int8.
    values: Tensor<2, Int>,
    /// `[out]`, f32.
    scales: Tensor<1>,
}

/// Largest integer: the range is symmetric, -128 is not used.
const LARGEST: f32 = 127.0;

impl Int8Weight {
    /// Rounds each row of a plain matrix, f32 or bf16, to integers; a row of zeros has scale 0.
    ///
    /// # Shapes
    /// - `weight`: `[out, in]`
    pub fn quantize(weight: Tensor<2>) -> Self {
        let [rows, cols] = weight.dims();
        if !on_cpu(&weight) {
            let weight = weight.cast(DType::F32);
            let scales = weight.clone().abs().max_dim(1) / LARGEST; // [out, 1]
            let divisors = scales.clone().mask_fill(scales.clone().equal_elem(0.0), 1.0);
            let values = (weight / divisors).round().int().cast(DType::I8);
            return Self { values, scales: scales.squeeze_dim::<1>(1) };
        }
        let weight = dense(weight);
        let weight = elements(&weight);
        let mut values = vec![0_i8; rows * cols];
        let scales: Vec<f32> = values
            .par_chunks_exact_mut(cols.max(1))
            .enumerate()
            .map_init(
                || vec![0.0; cols],
                |wide, (row, values)| {
                    weight.row(row, cols).widen(wide);
                    quantize_row(wide, values)
                },
            )
            .collect();
        let values =
            FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new([rows, cols])), DType::I8);
        Self {
            values: Tensor::from_primitive::<Flex>(values),
            scales: Tensor::from_primitive::<Flex>(tensor_of(scales, [rows])),
        }
    }

    /// `[out, in]`, int8.
    pub fn values(&self) -> Tensor<2, Int> {
        self.values.clone()
    }

    /// `[out]`, f32.
    pub fn scales(&self) -> Tensor<1> {
        self.scales.clone()
    }
}

/// Gives the scale.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn quantize_row(row: &[f32], values: &mut [i8]) -> f32 {
    // Adding 1.5 · 2^23 rounds to the nearest integer, the even one of two, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let inverse = if largest > 0.0 { LARGEST / largest } else { 0.0 };
    for (value, x) in values.iter_mut().zip(row) {
        // At most 127 by construction, and still so where `inverse` was rounded up.
        *value = (x * inverse + ROUND).to_bits() as i8;
    }
    largest / LARGEST
}

/// Rows of an embedding, in f32.
///
/// # Shapes
/// - `weight`: `[vocabulary, hidden]`
/// - `ids`: one per token
/// - returns: `[tokens, hidden]`
///
/// # Panics
/// If an id is outside the vocabulary.
pub fn embedding(weight: impl Into<Weight>, ids: &[i32]) -> Tensor<2> {
    let weight = weight.into();
    let [vocab_size, width] = weight.dims();
    let rows: Vec<usize> = ids
        .iter()
        .map(|id| match usize::try_from(*id) {
            Ok(row) if row < vocab_size => row,
            _ => panic!("token id {id} is outside the vocabulary of {vocab_size}"),
        })
        .collect();
    let device = weight.device();
    let index = || {
        let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        Tensor::<1, Int>::from_data(rows.as_slice(), &device)
    };
    match weight {
        Weight::Float(weight) if !on_cpu(&weight) || weight.dtype() == DType::F32 => {
            weight.select(0, index()).cast(DType::F32)
        }
        Weight::Float(weight) => gather(elements(&dense(weight)), &rows, width, None),
        Weight::Int8(Int8Weight { values, scales }) if on_cpu(&scales) => {
            let values = int_tensor(values);
            gather(elements(&values), &rows, width, Some(numbers(&dense(scales))))
        }
        Weight::Int8(Int8Weight { values, scales }) => {
            let scales = scales.select(0, index()).unsqueeze_dim::<2>(1);
            values.select(0, index()).float().cast(DType::F32) * scales
        }
    }
}

fn gather(weight: Elements, rows: &[usize], width: usize, scales: Option<&[f32]>) -> Tensor<2> {
    let mut out = vec![0.0; rows.len() * width];
    for (out, row) in out.chunks_exact_mut(width.max(1)).zip(rows) {
        weight.row(*row, width).widen(out);
        if let Some(scales) = scales {
            out.iter_mut().for_each(|x| *x *= scales[*row]);
        }
    }
    Tensor::from_primitive::<Flex>(tensor_of(out, [rows.len(), width]))
}

/// The CPU tensor behind a plain one of integers.
pub(crate) fn int_tensor(tensor: Tensor<2, Int>) -> FlexTensor {
    tensor.try_into_primitive::<Flex>().expect("the weight is on the CPU").to_contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows with a largest magnitude of 127 and 254: scales 1 and 2, and every integer is exact; zeros stay zeros.
    #[test]
    fn rows_worked_by_hand() {
        let weight = Tensor::<2>::from_data([[127.0, -3.0], [-254.0, 4.0], [0.0, 0.0f32]], &Device::flex());
        for weight in [weight.clone(), weight.cast(DType::BF16)] {
            let quantized = Int8Weight::quantize(weight);
            assert_eq!(quantized.scales().into_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0, 0.0]);
            let values = quantized.values().into_data().try_to_vec::<i8>().unwrap();
            assert_eq!(values, [127, -3, -127, 2, 0, 0]);
            let rows = embedding(quantized, &[1, 0, 1]).into_data().try_to_vec::<f32>().unwrap();
            assert_eq!(rows, [-254.0, 4.0, 127.0, -3.0, -254.0, 4.0]);
        }
    }
}
