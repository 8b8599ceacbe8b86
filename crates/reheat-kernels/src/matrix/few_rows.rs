//! Products of a few rows with a weight: bound by reading the weight, which is read once, by all threads.
//!
//! An element's sum depends on its two rows alone, never on how many rows or threads take part.

use half::bf16;
use multiversion::multiversion;
use rayon::prelude::*;

use super::blocked::Output;
use super::pack::Element;
use super::tile::TileKernel;
use super::{Compute, Elements};
use crate::vector::{self, LANES, sum_lanes};

/// Weight rows that one step reads side by side: that many independent sums hide the latency of an addition.
const ROWS: usize = 4;
/// Rows of `x` that share a reading of the weight rows.
const TOKENS: usize = 4;
/// Weight rows per task.
const ROWS_PER_TASK: usize = 64;

/// `x · weightᵀ` for dense `x` `[tokens, input]` and `weight` `[output, input]`.
pub(super) fn product(x: &[f32], weight: Elements, [tokens, input, output]: [usize; 3], compute: Compute) -> Vec<f32> {
    assert!(x.len() == tokens * input && weight.len() == output * input, "few rows: sizes do not fit");
    let mut y = vec![0.0; tokens * output];
    if input == 0 || tokens == 0 {
        return y;
    }
    let out = Output::new(&mut y, tokens, output);
    match weight {
        Elements::F32(weight) => products(out, x, weight, input, compute),
        Elements::Bf16(weight) => products(out, x, weight, input, compute),
        Elements::Int8(weight) => products(out, x, weight, input, compute),
    }
    y
}

fn products<E: Element>(out: Output, x: &[f32], weight: &[E], input: usize, compute: Compute) {
    if compute == Compute::F32 {
        return Widened { input }.for_each_dot(out, x, weight);
    }
    // Rows of `x` are padded with zeros to whole registers of bf16.
    let padded = input.next_multiple_of(2 * LANES);
    let mut rounded = vec![bf16::ZERO; x.len() / input * padded];
    for (rounded, x) in rounded.chunks_exact_mut(padded).zip(x.chunks_exact(input)) {
        vector::round(rounded, x);
    }
    match TileKernel::detect() {
        #[cfg(target_arch = "x86_64")]
        TileKernel::Avx512Bf16 => avx512::Pairs { input, padded }.for_each_dot(out, &rounded, weight),
        TileKernel::Portable => {
            let rounded: Vec<f32> =
                rounded.chunks_exact(padded).flat_map(|row| &row[..input]).map(|x| x.to_f32()).collect();
            Rounded(Widened { input }).for_each_dot(out, &rounded, weight);
        }
    }
}

/// A way to take dot products of `W` weight rows with `T` rows of `x`.
trait Dots: Sync {
    /// What `x` is stored in.
    type X: Sync;

    /// Numbers in a weight row, and in a row of `x`.
    fn widths(&self) -> (usize, usize);

    fn dots<E: Element, const W: usize, const T: usize>(&self, weight: &[E], x: &[Self::X]) -> [[f32; T]; W];

    fn for_each_dot<E: Element>(&self, out: Output, x: &[Self::X], weight: &[E]) {
        let (input, width) = self.widths();
        weight.par_chunks(ROWS_PER_TASK * input).enumerate().for_each(|(task, weight)| {
            let mut row = task * ROWS_PER_TASK;
            for weight in weight.chunks(ROWS * input) {
                for (group, x) in x.chunks(TOKENS * width).enumerate() {
                    let token = group * TOKENS;
                    match (weight.len() == ROWS * input, x.len() == TOKENS * width) {
                        (true, true) => out.put(row, token, self.dots::<E, ROWS, TOKENS>(weight, x)),
                        (true, false) => x.chunks_exact(width).enumerate().for_each(|(index, x)| {
                            out.put(row, token + index, self.dots::<E, ROWS, 1>(weight, x));
                        }),
                        (false, _) => {
                            for (w, weight) in weight.chunks_exact(input).enumerate() {
                                for (t, x) in x.chunks_exact(width).enumerate() {
                                    out.put(row + w, token + t, self.dots::<E, 1, 1>(weight, x));
                                }
                            }
                        }
                    }
                }
                row += ROWS;
            }
        });
    }
}

impl Output {
    /// Writes dot products of weight rows (columns of the result) from `first_row` on with tokens from `first_token` on.
    fn put<const W: usize, const T: usize>(self, first_row: usize, first_token: usize, dots: [[f32; T]; W]) {
        for (row, dots) in dots.into_iter().enumerate() {
            for (token, dot) in dots.into_iter().enumerate() {
                // SAFETY: a task writes the columns of its own weight rows alone.
                unsafe { self.set(first_token + token, first_row + row, dot) };
            }
        }
    }
}

/// Weights are widened to f32 and meet `x` as it is.
struct Widened {
    input: usize,
}

impl Dots for Widened {
    type X = f32;

    fn widths(&self) -> (usize, usize) {
        (self.input, self.input)
    }

    fn dots<E: Element, const W: usize, const T: usize>(&self, weight: &[E], x: &[f32]) -> [[f32; T]; W] {
        widened::<E, W, T>(weight, x, self.input)
    }
}

/// As [`Widened`], for weights that are rounded to bf16 first.
struct Rounded(Widened);

impl Dots for Rounded {
    type X = f32;

    fn widths(&self) -> (usize, usize) {
        self.0.widths()
    }

    fn dots<E: Element, const W: usize, const T: usize>(&self, weight: &[E], x: &[f32]) -> [[f32; T]; W] {
        let weight: Vec<bf16> = weight.iter().map(|w| w.to_bf16()).collect();
        self.0.dots::<bf16, W, T>(&weight, x)
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"), dispatcher = "direct")]
fn widened<E: Element, const W: usize, const T: usize>(weight: &[E], x: &[f32], input: usize) -> [[f32; T]; W] {
    let blocks = input / LANES;
    let mut lanes = [[[0.0_f32; LANES]; T]; W];
    for block in 0..blocks {
        for row in 0..W {
            let weight = &weight[row * input + block * LANES..][..LANES];
            let mut wide = [0.0; LANES];
            for i in 0..LANES {
                wide[i] = weight[i].to_f32();
            }
            for token in 0..T {
                let x = &x[token * input + block * LANES..][..LANES];
                for i in 0..LANES {
                    lanes[row][token][i] = wide[i].mul_add(x[i], lanes[row][token][i]);
                }
            }
        }
    }
    let mut sums = [[0.0; T]; W];
    for row in 0..W {
        for token in 0..T {
            let mut sum = 0.0;
            for i in blocks * LANES..input {
                sum += weight[row * input + i].to_f32() * x[token * input + i];
            }
            sums[row][token] = sum_lanes(lanes[row][token]) + sum;
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_reduce_add_ps, _mm512_setzero_ps,
        _mm512_setzero_si512,
    };

    use half::bf16;

    use super::super::pack::Element;
    use super::{Dots, LANES};

    /// Numbers that a register of bf16 holds.
    const PAIRED: usize = 2 * LANES;

    /// `vdpbf16ps` over rows of `input` numbers; those of `x` are padded with zeros.
    pub(super) struct Pairs {
        pub(super) input: usize,
        pub(super) padded: usize,
    }

    impl Dots for Pairs {
        type X = bf16;

        fn widths(&self) -> (usize, usize) {
            (self.input, self.padded)
        }

        fn dots<E: Element, const W: usize, const T: usize>(&self, weight: &[E], x: &[bf16]) -> [[f32; T]; W] {
            assert!(weight.len() == W * self.input && x.len() == T * self.padded, "rows of other widths");
            // SAFETY: this type is used where `detect` found the instructions; the slices hold what was checked above.
            unsafe { pairs(weight, x, self.input, self.padded) }
        }
    }

    /// # Safety
    /// `weight` holds `W` rows of `input` numbers, `x` holds `T` rows of `padded`, a multiple of 32 not below `input`;
    /// the CPU has AVX512-BF16 and AVX512-BW.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pairs<E: Element, const W: usize, const T: usize>(
        weight: &[E],
        x: &[bf16],
        input: usize,
        padded: usize,
    ) -> [[f32; T]; W] {
        let mut sums = [[_mm512_setzero_ps(); T]; W];
        let blocks = input / PAIRED;
        for block in 0..blocks {
            // SAFETY: all rows have this block.
            unsafe {
                step(&mut sums, weight.as_ptr().add(block * PAIRED), input, x.as_ptr().add(block * PAIRED), padded)
            };
        }
        if blocks * PAIRED < padded {
            let mut rest = [[E::ZERO; PAIRED]; W];
            for (row, rest) in rest.iter_mut().enumerate() {
                let row = &weight[row * input..][blocks * PAIRED..input];
                rest[..row.len()].copy_from_slice(row);
            }
            // SAFETY: what is left of the weight rows was copied and padded, and rows of `x` are whole blocks.
            unsafe { step(&mut sums, rest.as_flattened().as_ptr(), PAIRED, x.as_ptr().add(blocks * PAIRED), padded) };
        }
        let mut dots = [[0.0; T]; W];
        for row in 0..W {
            for token in 0..T {
                dots[row][token] = _mm512_reduce_add_ps(sums[row][token]);
            }
        }
        dots
    }

    /// Adds the products of one block of every row.
    ///
    /// # Safety
    /// 32 numbers of each of `W` rows at `weight`, `weight_stride` apart, and of `T` rows at `x`, `x_stride` apart, are
    /// valid for reads; the CPU has AVX512-BF16 and AVX512-BW.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn step<E: Element, const W: usize, const T: usize>(
        sums: &mut [[__m512; T]; W],
        weight: *const E,
        weight_stride: usize,
        x: *const bf16,
        x_stride: usize,
    ) {
        let mut tokens = [_mm512_setzero_si512(); T];
        for (token, tokens) in tokens.iter_mut().enumerate() {
            // SAFETY: the caller vouches for 32 numbers.
            *tokens = unsafe { _mm512_loadu_si512(x.add(token * x_stride).cast()) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller vouches for 32 numbers.
            let weight = unsafe { E::load(weight.add(row * weight_stride), weight.add(row * weight_stride + LANES)) };
            for (sum, x) in sums.iter_mut().zip(tokens) {
                *sum = _mm512_dpbf16_ps(*sum, bf16_pairs(weight), bf16_pairs(x));
            }
        }
    }

    #[inline(always)]
    fn bf16_pairs(bits: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits, and every pattern of 16 bits is a bf16.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
    }
}
