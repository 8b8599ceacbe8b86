//! Dropout that needs no state: which elements are left out follows from a seed, the row and the column.

#[cfg(feature = "cube")]
mod cube;

use burn::tensor::{Tensor, TensorData};
use multiversion::multiversion;
use rayon::prelude::*;

/// Rows that one task handles.
const ROWS: usize = 16;

/// Leaves out a share of the elements of a matrix and scales up the rest (Srivastava et al. 2014).
///
/// The same seed leaves out the same elements, on every device and however often it is computed, so that a backward
/// pass can draw them again instead of storing them. The numbers are not PyTorch's: there a global stream decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Share that is left out: 0 or more and below 1, in steps of 2⁻³².
    pub rate: f64,
    /// Decides which.
    pub seed: u64,
}

impl Dropout {
    /// Hashes below it are left out.
    fn threshold(self) -> u32 {
        (self.rate * 2f64.powi(32)) as u32 // saturates
    }

    /// What the rest is multiplied by.
    fn factor(self) -> f32 {
        (1.0 / (1.0 - self.rate)) as f32
    }

    /// The two keys of a row.
    fn keys(self, row: usize) -> (u32, u32) {
        let key = splitmix64(self.seed.wrapping_add(splitmix64(row as u64)));
        (key as u32, (key >> 32) as u32)
    }

    /// `x` with elements left out, for rows of `width`.
    pub(crate) fn apply(self, x: &[f32], width: usize) -> Vec<f32> {
        let mut out = x.to_vec();
        self.apply_in_place(&mut out, width);
        out
    }

    pub(crate) fn apply_in_place(self, x: &mut [f32], width: usize) {
        if width == 0 {
            return;
        }
        let (threshold, factor) = (self.threshold(), self.factor());
        x.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, rows)| {
            for (row, values) in rows.chunks_exact_mut(width).enumerate() {
                mask_row(values, self.keys(task * ROWS + row), threshold, factor);
            }
        });
    }

    /// `x`, `[rows, width]`, with elements left out.
    pub fn forward(self, x: Tensor<2>) -> Tensor<2> {
        #[cfg(feature = "cube")]
        if crate::choice::runs_on_cube(&x) {
            return cube::forward(self, x);
        }
        self.reference(x)
    }

    /// The definition in Burn operations, for every device and as the oracle of the fused one.
    pub(crate) fn reference(self, x: Tensor<2>) -> Tensor<2> {
        let [rows, width] = x.dims();
        let mut mask = vec![1.0; rows * width];
        self.apply_in_place(&mut mask, width);
        let mask = Tensor::from_data(TensorData::new(mask, [rows, width]), &x.device().inner());
        x * mask
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn mask_row(row: &mut [f32], keys: (u32, u32), threshold: u32, factor: f32) {
    for (column, value) in row.iter_mut().enumerate() {
        let keep = hash(column as u32, keys) >= threshold;
        *value = if keep { *value * factor } else { 0.0 };
    }
}

/// `lowbias32` of C. Wellons' hash prospector, with a second key between its rounds.
#[inline(always)]
fn hash(column: u32, (first, second): (u32, u32)) -> u32 {
    let mut x = column ^ first;
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d) ^ second;
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The output function of SplitMix64 (Steele et al. 2014).
fn splitmix64(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 1000;

    fn kept(rate: f64, seed: u64) -> Vec<bool> {
        Dropout { rate, seed }.apply(&vec![1.0; 200 * WIDTH], WIDTH).iter().map(|value| *value != 0.0).collect()
    }

    fn share(flags: impl Iterator<Item = bool>) -> f64 {
        let (mut hits, mut count) = (0.0, 0.0);
        for flag in flags {
            count += 1.0;
            hits += f64::from(u8::from(flag));
        }
        hits / count
    }

    /// Six standard deviations of a share in 200,000 draws; the seeds are fixed.
    const TOLERANCE: f64 = 6.0 * 0.5 / 447.0;

    #[test]
    fn the_rate_is_kept_in_the_whole_and_in_every_column_and_row() {
        for rate in [0.05, 0.5, 0.9] {
            let kept = kept(rate, 3);
            let overall = share(kept.iter().copied());
            assert!((overall - (1.0 - rate)).abs() < TOLERANCE, "{rate}: {overall}");
            for column in 0..WIDTH {
                let share = share(kept.iter().skip(column).step_by(WIDTH).copied());
                assert!((share - (1.0 - rate)).abs() < 6.0 * 0.5 / 200f64.sqrt(), "column {column}: {share}");
            }
        }
    }

    #[test]
    fn neighbours_rows_and_seeds_are_independent() {
        let first = kept(0.5, 1);
        for (what, other) in [
            ("the next column", first[1..].to_vec()),
            ("the next row", first[WIDTH..].to_vec()),
            ("the next seed", kept(0.5, 2)),
        ] {
            let both = share(first.iter().zip(&other).map(|(a, b)| *a && *b));
            assert!((both - 0.25).abs() < TOLERANCE, "{what}: {both}");
        }
    }

    #[test]
    fn a_rate_of_zero_changes_no_bit() {
        let x = [1.5, -2.25, 1e-30, 7.0];
        assert_eq!(Dropout { rate: 0.0, seed: 5 }.apply(&x, 2), x);
    }
}
