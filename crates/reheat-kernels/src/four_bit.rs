//! Frozen weights in 4 bits (Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 3), in the numbers of bitsandbytes
//! 0.50: blocks of 64 values with a scale each, and optionally the scales in 8 bits.

mod codes; // the values that a code stands for
mod linear; // products with such a weight

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use self::codes::{dynamic_map, nearest};
#[cfg(test)]
pub(crate) use self::linear::reference;
pub use self::{codes::FourBitKind, linear::linear_four_bit};

/// Values that share a scale.
const BLOCK: usize = 64;
/// Scales that share a scale, where they are in 8 bits themselves.
const SCALE_BLOCK: usize = 256;
/// Keeps the division by the largest magnitude of a block of zeros finite.
const SMALLEST: f32 = 1e-38;

/// How a matrix becomes 4-bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FourBitConfig {
    /// The values that codes stand for.
    pub kind: FourBitKind,
    /// Whether the scales are held in 8 bits too (double quantisation): 4.13 bits a value instead of 4.5.
    pub nested_scales: bool,
}

/// A matrix in 4 bits; clones share it. It lies in the computer's memory, whatever the device that computes.
#[derive(Debug, Clone)]
pub struct FourBitWeight(Arc<Packed>);

#[derive(Debug)]
struct Packed {
    rows: usize,
    cols: usize,
    kind: FourBitKind,
    /// Two values a byte, the first in the high half, row after row.
    codes: Vec<u8>,
    scales: Scales,
}

/// The largest magnitude of each block.
#[derive(Debug)]
enum Scales {
    Plain(Vec<f32>),
    Nested { codes: Vec<u8>, scales: Vec<f32>, offset: f32 },
}

impl FourBitWeight {
    /// Rounds every value to the nearest that its block's scale and code can say.
    ///
    /// # Shapes
    /// - `weight`: `[out, in]`, any float type
    pub fn quantize(weight: Tensor<2>, config: FourBitConfig) -> Self {
        let [rows, cols] = weight.dims();
        let values = weight.cast(DType::F32).into_data().try_to_vec::<f32>().expect("cast to f32");
        let largest: Vec<f32> = values.par_chunks(BLOCK).map(largest).collect();
        let (order, bounds) = config.kind.order_and_bounds();
        let mut codes = vec![0; values.len().div_ceil(2)];
        codes.par_chunks_mut(BLOCK / 2).zip(values.par_chunks(BLOCK)).zip(&largest).for_each(
            |((codes, values), largest)| {
                let inverse = 1.0 / largest.max(SMALLEST);
                let code = |value: &f32| order[nearest(&bounds, (value * inverse).clamp(-1.0, 1.0))];
                for (byte, pair) in codes.iter_mut().zip(values.chunks(2)) {
                    *byte = code(&pair[0]) << 4 | pair.get(1).map_or(0, code);
                }
            },
        );
        let scales = if config.nested_scales { Scales::nested(&largest) } else { Scales::Plain(largest) };
        Self(Arc::new(Packed { rows, cols, kind: config.kind, codes, scales }))
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.0.rows, self.0.cols]
    }

    /// Bytes that codes and scales take.
    pub fn num_bytes(&self) -> usize {
        let scales = match &self.0.scales {
            Scales::Plain(scales) => scales.len() * 4,
            Scales::Nested { codes, scales, .. } => codes.len() + scales.len() * 4,
        };
        self.0.codes.len() + scales
    }

    /// The whole matrix in f32.
    pub fn to_f32(&self, device: &Device) -> Tensor<2> {
        let Packed { rows, cols, .. } = *self.0;
        let mut values = vec![0.0; rows * cols];
        self.widen_rows(0..rows, &mut values);
        Tensor::from_data(TensorData::new(values, [rows, cols]), device)
    }

    /// Writes some rows in f32.
    fn widen_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        let packed = &*self.0;
        let start = rows.start * packed.cols;
        // Tasks are whole blocks, but for the ends.
        let lead = (BLOCK - start % BLOCK) % BLOCK;
        let (head, body) = out.split_at_mut(lead.min(out.len()));
        packed.widen(start, head);
        body.par_chunks_mut(16 * BLOCK).enumerate().for_each(|(task, out)| {
            packed.widen(start + lead + task * 16 * BLOCK, out);
        });
    }
}

impl Packed {
    /// Writes the values from position `start` on.
    fn widen(&self, start: usize, out: &mut [f32]) {
        let pairs = self.kind.pairs();
        let mut position = start;
        let mut rest = out;
        while !rest.is_empty() {
            let len = (BLOCK - position % BLOCK).min(rest.len());
            let (block, later) = rest.split_at_mut(len);
            let scale = self.scales.at(position / BLOCK);
            if position.is_multiple_of(2) && len.is_multiple_of(2) {
                let codes = &self.codes[position / 2..][..len / 2];
                for (out, code) in block.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                    let [first, second] = pairs[usize::from(*code)];
                    *out = [first * scale, second * scale];
                }
            } else {
                for (offset, out) in block.iter_mut().enumerate() {
                    let position = position + offset;
                    *out = pairs[usize::from(self.codes[position / 2])][position % 2] * scale;
                }
            }
            position += len;
            rest = later;
        }
    }
}

impl Scales {
    fn nested(largest_values: &[f32]) -> Self {
        let sum: f64 = largest_values.iter().map(|value| f64::from(*value)).sum();
        let offset = (sum / largest_values.len().max(1) as f64) as f32;
        let centred: Vec<f32> = largest_values.iter().map(|value| value - offset).collect();
        let map = dynamic_map();
        let bounds: Vec<f32> = map.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
        let scales: Vec<f32> = centred.chunks(SCALE_BLOCK).map(largest).collect();
        let codes = centred
            .chunks(SCALE_BLOCK)
            .zip(&scales)
            .flat_map(|(values, scale)| {
                let inverse = 1.0 / scale.max(SMALLEST);
                let bounds = &bounds;
                values.iter().map(move |value| nearest(bounds, (value * inverse).clamp(-1.0, 1.0)) as u8)
            })
            .collect();
        Self::Nested { codes, scales, offset }
    }

    fn at(&self, block: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[block],
            Self::Nested { codes, scales, offset } => {
                dynamic_map()[usize::from(codes[block])] * scales[block / SCALE_BLOCK] + offset
            }
        }
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(values: &[f32], cols: usize) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len() / cols, cols]), &Device::flex())
    }

    fn back(weight: &FourBitWeight) -> Vec<f32> {
        weight.to_f32(&Device::flex()).into_data().try_to_vec().unwrap()
    }

    /// The extremes, zero and the code nearest to 0.4 (0.44070983) come out as they are defined.
    #[test]
    fn values_worked_by_hand() {
        let packed = FourBitWeight::quantize(weight(&[2.0, -2.0, 0.0, 0.8], 2), FourBitConfig::default());
        assert_eq!(back(&packed), [2.0, -2.0, 0.0, 2.0 * 0.440_709_83]);
        assert_eq!(packed.num_bytes(), 2 + 4);
        let zeros = FourBitWeight::quantize(weight(&[0.0; 70], 7), FourBitConfig::default());
        assert_eq!(back(&zeros), [0.0; 70]);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_widen_as_in_the_whole() {
        let values: Vec<f32> = (0..7 * 45).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
        for nested_scales in [false, true] {
            let config = FourBitConfig { nested_scales, ..FourBitConfig::default() };
            let packed = FourBitWeight::quantize(weight(&values, 45), config);
            let whole = back(&packed);
            for rows in [0..1, 1..3, 2..7, 6..7] {
                let mut out = vec![0.0; rows.len() * 45];
                packed.widen_rows(rows.clone(), &mut out);
                assert_eq!(out, whole[rows.start * 45..rows.end * 45]);
            }
        }
    }
}
