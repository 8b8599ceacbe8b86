//! Dot products in the vectors that the compiler finds.

use multiversion::multiversion;

use super::super::pack::Element;
use super::super::{Matrix, PART_F32, blocked::INNER};
use super::{Ahead, Dots, ROWS, Strided, store_pairs, store_wide};
use crate::vector;

/// Columns of the weight that are transposed at a time.
const COLS: usize = 16;

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
        _: Ahead<E>,
    ) -> [[f32; ROWS]; T] {
        // SAFETY: the caller vouches for the rows.
        wide(unsafe { slices(weight, cols) }, x)
    }
}

/// Factors in bf16, multiplied in f32, in the order of `vdpbf16ps`: of each pair the odd term first.
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
        _: Ahead<E>,
    ) -> [[f32; ROWS]; T] {
        // SAFETY: the caller vouches for the rows.
        pairs(unsafe { slices(weight, cols) }, x)
    }
}

/// # Safety
/// [`ROWS`] rows of `len` numbers are valid for reads as long as the slices are used.
unsafe fn slices<'a, E>(rows: Strided<E>, len: usize) -> [&'a [E]; ROWS] {
    // SAFETY: the caller vouches for them.
    std::array::from_fn(|row| unsafe { std::slice::from_raw_parts(rows.data.add(row * rows.stride), len) })
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"), dispatcher = "direct")]
fn wide<E: Element, const T: usize>(rows: [&[E]; ROWS], x: &[[f32; T]]) -> [[f32; ROWS]; T] {
    let mut sums = [[0.0; ROWS]; T];
    for start in (0..rows[0].len()).step_by(COLS) {
        let count = COLS.min(rows[0].len() - start);
        let mut columns = [[0.0_f32; ROWS]; COLS];
        for (row, numbers) in rows.iter().enumerate() {
            for (column, number) in columns.iter_mut().zip(&numbers[start..start + count]) {
                column[row] = number.to_f32();
            }
        }
        for (column, x) in columns.iter().zip(&x[start..]).take(count) {
            for (sums, x) in sums.iter_mut().zip(x) {
                for lane in 0..ROWS {
                    sums[lane] = x.mul_add(column[lane], sums[lane]);
                }
            }
        }
    }
    sums
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"), dispatcher = "direct")]
fn pairs<E: Element, const T: usize>(rows: [&[E]; ROWS], x: &[[u32; T]]) -> [[f32; ROWS]; T] {
    let mut sums = [[0.0; ROWS]; T];
    for start in (0..rows[0].len()).step_by(COLS) {
        let count = COLS.min(rows[0].len() - start);
        let mut columns = [[0.0_f32; ROWS]; COLS];
        for (row, numbers) in rows.iter().enumerate() {
            for (column, number) in columns.iter_mut().zip(&numbers[start..start + count]) {
                column[row] = vector::to_f32(number.to_bf16());
            }
        }
        for (pair, x) in columns.as_chunks::<2>().0.iter().zip(&x[start / 2..]).take(count.div_ceil(2)) {
            for (sums, x) in sums.iter_mut().zip(x) {
                let (even, odd) = (f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000));
                for lane in 0..ROWS {
                    let sum = odd.mul_add(pair[1][lane], sums[lane]);
                    sums[lane] = even.mul_add(pair[0][lane], sum);
                }
            }
        }
    }
    sums
}
