//! Dot products on 512-bit registers.
//!
//! Sums are counted through by index: where an iterator hands them out, they leave their registers.
#![expect(clippy::needless_range_loop, reason = "see above")]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::super::pack::{Element, avx512::transposed};
use super::super::{Matrix, PART_F32, blocked::INNER};
use super::{Ahead, Dots, ROWS, Strided, store_pairs, store_wide};
use crate::vector::LANES;

/// Whether this CPU runs [`Wide`].
pub(super) fn has_wide() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Factors in f32.
pub(super) struct Wide;

impl Dots for Wide {
    type Unit = f32;
    const UNIT: usize = 1;
    const PART: usize = PART_F32;

    fn store<const T: usize>(x: Matrix, first: usize, stored: &mut [[f32; T]]) {
        store_wide(x, first, stored);
    }

    unsafe fn part<E: Element, const T: usize>(
        weight: Strided<E>,
        cols: usize,
        x: &[[f32; T]],
        ahead: Ahead<E>,
    ) -> [[f32; ROWS]; T] {
        // SAFETY: the caller vouches for all of it.
        unsafe {
            match T {
                LANES => wide_broadcast(weight, cols, x, ahead),
                _ => wide(weight, cols, x, ahead),
            }
        }
    }
}

/// Factors in bf16, by `vdpbf16ps`.
pub(super) struct Pairs;

impl Dots for Pairs {
    type Unit = u32;
    const UNIT: usize = 2;
    const PART: usize = INNER;

    fn store<const T: usize>(x: Matrix, first: usize, stored: &mut [[u32; T]]) {
        store_pairs(x, first, stored);
    }

    unsafe fn part<E: Element, const T: usize>(
        weight: Strided<E>,
        cols: usize,
        x: &[[u32; T]],
        ahead: Ahead<E>,
    ) -> [[f32; ROWS]; T] {
        // SAFETY: the caller vouches for all of it.
        unsafe {
            match T {
                LANES => pairs_broadcast(weight, cols, x, ahead),
                _ => pairs(weight, cols, x, ahead),
            }
        }
    }
}

/// Weight rows in lanes, in f32.
///
/// # Safety
/// As [`Dots::part`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn wide<E: Element, const T: usize>(
    weight: Strided<E>,
    cols: usize,
    x: &[[f32; T]],
    ahead: Ahead<E>,
) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    let mut rest = Vec::new();
    for start in (0..cols).step_by(LANES) {
        // SAFETY: the caller vouches for the rows of the weight; `x` is padded to whole steps.
        unsafe {
            let rows = weight.step(start, LANES, cols, &mut rest);
            let mut square = [_mm512_setzero_si512(); ROWS];
            for (row, square) in square.iter_mut().enumerate() {
                ahead.fetch(row, start, LANES);
                *square = _mm512_castps_si512(E::load_wide(rows.data.add(row * rows.stride)));
            }
            let columns = transposed(square);
            for index in 0..LANES {
                let x = x.get_unchecked(start + index);
                for token in 0..T {
                    let x = _mm512_set1_ps(x[token]);
                    sums[token] = _mm512_fmadd_ps(x, _mm512_castsi512_ps(columns[index]), sums[token]);
                }
            }
        }
    }
    stored(sums)
}

/// Weight rows in lanes, in pairs of bf16.
///
/// # Safety
/// As [`Dots::part`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs<E: Element, const T: usize>(
    weight: Strided<E>,
    cols: usize,
    x: &[[u32; T]],
    ahead: Ahead<E>,
) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    let step = 2 * LANES * E::LANE_PAIRS;
    let mut rest = Vec::new();
    for start in (0..cols).step_by(step) {
        // SAFETY: as in `wide`.
        unsafe {
            let rows = weight.step(start, step, cols, &mut rest);
            let mut square = [_mm512_setzero_si512(); ROWS];
            for (row, square) in square.iter_mut().enumerate() {
                ahead.fetch(row, start, step);
                *square = E::load_lanes(rows.data.add(row * rows.stride));
            }
            let columns = transposed(square);
            for index in 0..LANES {
                for pair in 0..E::LANE_PAIRS {
                    let column = bf16_pairs(E::lane_pair(columns[index], pair));
                    let x = x.get_unchecked(start / 2 + index * E::LANE_PAIRS + pair);
                    for token in 0..T {
                        let x = bf16_pairs(_mm512_set1_epi32(x[token].cast_signed()));
                        sums[token] = _mm512_dpbf16_ps(sums[token], x, column);
                    }
                }
            }
        }
    }
    stored(sums)
}

/// Columns of the weight that are broadcast at a time.
const CHUNK: usize = 4 * LANES;

/// Sixteen rows of `x` in lanes, in f32.
///
/// # Safety
/// As [`Dots::part`], and `T` is [`LANES`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn wide_broadcast<E: Element, const T: usize>(
    weight: Strided<E>,
    cols: usize,
    x: &[[f32; T]],
    ahead: Ahead<E>,
) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); ROWS];
    let (mut rest, mut widened) = (Vec::new(), [[0.0_f32; CHUNK]; ROWS]);
    for start in (0..cols).step_by(CHUNK) {
        // SAFETY: as in `wide`; a row of `x` has as many numbers as a register.
        unsafe {
            let rows = weight.step(start, CHUNK, cols, &mut rest);
            for (row, widened) in widened.iter_mut().enumerate() {
                ahead.fetch(row, start, CHUNK);
                for col in (0..CHUNK).step_by(LANES) {
                    let numbers = E::load_wide(rows.data.add(row * rows.stride + col));
                    _mm512_storeu_ps(widened.as_mut_ptr().add(col), numbers);
                }
            }
            for col in 0..CHUNK.min(cols - start) {
                let x = _mm512_loadu_ps(x.get_unchecked(start + col).as_ptr());
                for row in 0..ROWS {
                    sums[row] = _mm512_fmadd_ps(_mm512_set1_ps(*widened[row].get_unchecked(col)), x, sums[row]);
                }
            }
        }
    }
    stored(turned(sums))
}

/// Sixteen rows of `x` in lanes, in pairs of bf16.
///
/// # Safety
/// As [`Dots::part`], and `T` is [`LANES`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs_broadcast<E: Element, const T: usize>(
    weight: Strided<E>,
    cols: usize,
    x: &[[u32; T]],
    ahead: Ahead<E>,
) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); ROWS];
    let (mut rest, mut rounded) = (Vec::new(), [[0_u32; CHUNK / 2]; ROWS]);
    for start in (0..cols).step_by(CHUNK) {
        // SAFETY: as in `wide_broadcast`.
        unsafe {
            let rows = weight.step(start, CHUNK, cols, &mut rest);
            for (row, rounded) in rounded.iter_mut().enumerate() {
                ahead.fetch(row, start, CHUNK);
                for pair in (0..CHUNK / 2).step_by(LANES * E::LANE_PAIRS) {
                    let lanes = E::load_lanes(rows.data.add(row * rows.stride + 2 * pair));
                    for index in 0..E::LANE_PAIRS {
                        let out = rounded.as_mut_ptr().add(pair + LANES * index);
                        _mm512_storeu_si512(out.cast(), E::lane_pair(lanes, index));
                    }
                }
            }
            for pair in 0..CHUNK.min(cols - start).div_ceil(2) {
                let x = bf16_pairs(_mm512_loadu_si512(x.get_unchecked(start / 2 + pair).as_ptr().cast()));
                // Pairs of one lane are a register apart.
                let (lane, index) = (pair / E::LANE_PAIRS, pair % E::LANE_PAIRS);
                let at = pair - pair % (LANES * E::LANE_PAIRS) + LANES * index + lane % LANES;
                for row in 0..ROWS {
                    let pair = rounded[row].get_unchecked(at).cast_signed();
                    sums[row] = _mm512_dpbf16_ps(sums[row], x, bf16_pairs(_mm512_set1_epi32(pair)));
                }
            }
        }
    }
    stored(turned(sums))
}

impl<E: Element> Strided<E> {
    /// The rows from column `start` on: those in memory, or, where fewer than `count` of the `cols` columns are left, a
    /// copy that goes on with zeros.
    ///
    /// # Safety
    /// [`ROWS`] rows of `cols` numbers are valid for reads.
    #[inline(always)]
    unsafe fn step(self, start: usize, count: usize, cols: usize, copy: &mut Vec<E>) -> Self {
        // SAFETY: the caller vouches for `cols` columns of each row.
        unsafe {
            let rows = Self { data: self.data.add(start), ..self };
            if cols - start >= count { rows } else { rows.copied(cols - start, count, copy) }
        }
    }

    /// # Safety
    /// [`ROWS`] rows of `held` numbers are valid for reads.
    #[cold]
    unsafe fn copied(self, held: usize, count: usize, copy: &mut Vec<E>) -> Self {
        copy.resize(ROWS * count, E::ZERO);
        for (row, copy) in copy.chunks_exact_mut(count).enumerate() {
            // SAFETY: the caller vouches for the row.
            copy[..held].copy_from_slice(unsafe { std::slice::from_raw_parts(self.data.add(row * self.stride), held) });
        }
        Self { data: copy.as_ptr(), stride: count }
    }
}

/// Rows of `x` in lanes to weight rows in lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn turned(sums: [__m512; ROWS]) -> [__m512; LANES] {
    transposed(sums.map(|sum| _mm512_castps_si512(sum))).map(|sum| _mm512_castsi512_ps(sum))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn stored<const N: usize, const T: usize>(sums: [__m512; N]) -> [[f32; ROWS]; T] {
    let mut out = [[0.0; ROWS]; T];
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: the array is one register long.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
    out
}

#[inline(always)]
fn bf16_pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, and every pattern of 16 bits is a bf16.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}
