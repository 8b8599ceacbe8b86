//! Dot products on 512-bit registers.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use half::bf16;

use super::super::pack::{Element, avx512::transposed};
use super::super::{PART_F32, blocked::INNER};
use super::{Ahead, Dots, ROWS, Strided, store_rounded};

/// Whether this CPU runs [`Wide`].
pub(super) fn has_wide() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Factors in f32.
pub(super) struct Wide;

impl Dots for Wide {
    type X = f32;
    const STEP: usize = ROWS;
    const PART: usize = PART_F32;

    fn store(x: &[f32], stored: &mut [f32]) {
        stored.copy_from_slice(x);
    }

    unsafe fn part<E: Element, const T: usize>(
        weight: Strided<E>,
        cols: usize,
        x: Strided<f32>,
        ahead: Ahead,
    ) -> [[f32; ROWS]; T] {
        // SAFETY: the caller vouches for all of it.
        unsafe { wide(weight, cols, x, ahead) }
    }
}

/// Factors in bf16, by `vdpbf16ps`.
pub(super) struct Pairs;

impl Dots for Pairs {
    type X = bf16;
    const STEP: usize = 2 * ROWS;
    const PART: usize = INNER;

    fn store(x: &[f32], stored: &mut [bf16]) {
        store_rounded(x, stored);
    }

    unsafe fn part<E: Element, const T: usize>(
        weight: Strided<E>,
        cols: usize,
        x: Strided<bf16>,
        ahead: Ahead,
    ) -> [[f32; ROWS]; T] {
        // SAFETY: the caller vouches for all of it.
        unsafe { pairs(weight, cols, x, ahead) }
    }
}

/// # Safety
/// As [`Dots::part`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn wide<E: Element, const T: usize>(
    weight: Strided<E>,
    cols: usize,
    x: Strided<f32>,
    ahead: Ahead,
) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    // SAFETY: rows of the weight have the columns of each step, or were copied; rows of `x` are padded.
    unsafe {
        by_steps::<Wide, E>(weight, cols, ahead, |step, rows| {
            let mut squares = [_mm512_castps_si512(_mm512_setzero_ps()); ROWS];
            for (row, square) in squares.iter_mut().enumerate() {
                *square = _mm512_castps_si512(E::load_wide(rows.data.add(row * rows.stride)));
            }
            for (index, column) in transposed(squares).into_iter().enumerate() {
                for (token, sum) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*x.data.add(token * x.stride + step * Wide::STEP + index));
                    *sum = _mm512_fmadd_ps(x, _mm512_castsi512_ps(column), *sum);
                }
            }
        });
    }
    let mut out = [[0.0; ROWS]; T];
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: the array is one register long.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
    out
}

/// # Safety
/// As [`Dots::part`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs<E: Element, const T: usize>(
    weight: Strided<E>,
    cols: usize,
    x: Strided<bf16>,
    ahead: Ahead,
) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    // SAFETY: as in `wide`.
    unsafe {
        by_steps::<Pairs, E>(weight, cols, ahead, |step, rows| {
            let mut squares = [_mm512_castps_si512(_mm512_setzero_ps()); ROWS];
            for (row, square) in squares.iter_mut().enumerate() {
                let at = rows.data.add(row * rows.stride);
                *square = E::load(at, at.add(ROWS));
            }
            for (index, column) in transposed(squares).into_iter().enumerate() {
                for (token, sum) in sums.iter_mut().enumerate() {
                    let pair = x.data.add(token * x.stride + step * Pairs::STEP + 2 * index);
                    let pair = _mm512_set1_epi32(pair.cast::<i32>().read_unaligned());
                    *sum = _mm512_dpbf16_ps(*sum, bf16_pairs(pair), bf16_pairs(column));
                }
            }
        });
    }
    let mut out = [[0.0; ROWS]; T];
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: the array is one register long.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
    out
}

/// Calls `f` with each step and its rows of the weight; of the last step, with a copy padded by zeros.
///
/// # Safety
/// `weight` is valid for reads of [`ROWS`] rows of `cols` numbers.
#[inline(always)]
unsafe fn by_steps<D: Dots, E: Element>(
    weight: Strided<E>,
    cols: usize,
    ahead: Ahead,
    mut f: impl FnMut(usize, Strided<E>),
) {
    let steps = cols / D::STEP;
    for step in 0..steps {
        ahead.fetch(step, ROWS * D::STEP * size_of::<E>());
        // SAFETY: the step's columns are below `cols`.
        f(step, Strided { data: unsafe { weight.data.add(step * D::STEP) }, ..weight });
    }
    let (done, rest) = (steps * D::STEP, cols % D::STEP);
    if rest > 0 {
        // As long as the longest step.
        let mut copy = [[E::ZERO; 2 * ROWS]; ROWS];
        for (row, copy) in copy.iter_mut().enumerate() {
            // SAFETY: `rest` numbers of the row follow those that are done.
            let row = unsafe { std::slice::from_raw_parts(weight.data.add(row * weight.stride + done), rest) };
            copy[..rest].copy_from_slice(row);
        }
        f(steps, Strided { data: copy.as_flattened().as_ptr(), stride: 2 * ROWS });
    }
}

#[inline(always)]
fn bf16_pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, and every pattern of 16 bits is a bf16.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}
