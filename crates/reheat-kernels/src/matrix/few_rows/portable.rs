//! Dot products in the vectors that the compiler finds.

use half::bf16;
use multiversion::multiversion;

use super::super::pack::Element;
use super::super::{PART_F32, blocked::INNER};
use super::{Ahead, Dots, ROWS, Strided, store_rounded};
use crate::vector;

/// Columns of the weight that are transposed at a time.
const COLS: usize = 16;

/// Factors in f32.
pub(super) struct Wide;

impl Dots for Wide {
    type X = f32;
    const STEP: usize = 1;
    const PART: usize = PART_F32;

    fn store(x: &[f32], stored: &mut [f32]) {
        stored.copy_from_slice(x);
    }

    unsafe fn part<E: Element, const T: usize>(
        weight: Strided<E>,
        cols: usize,
        x: Strided<f32>,
        _: Ahead,
    ) -> [[f32; ROWS]; T] {
        // SAFETY: the caller vouches for the rows.
        let (rows, x) = unsafe { (slices(weight, cols), slices(x, cols)) };
        wide(rows, x)
    }
}

/// Factors in bf16, multiplied in f32, in the order of `vdpbf16ps`: of each pair the odd term first.
pub(super) struct Pairs;

impl Dots for Pairs {
    type X = bf16;
    const STEP: usize = 2;
    const PART: usize = INNER;

    fn store(x: &[f32], stored: &mut [bf16]) {
        store_rounded(x, stored);
    }

    unsafe fn part<E: Element, const T: usize>(
        weight: Strided<E>,
        cols: usize,
        x: Strided<bf16>,
        _: Ahead,
    ) -> [[f32; ROWS]; T] {
        // SAFETY: the caller vouches for the rows; those of `x` are whole pairs.
        let (rows, x) = unsafe { (slices(weight, cols), slices(x, cols.next_multiple_of(2))) };
        pairs(rows, x)
    }
}

/// # Safety
/// `N` rows of `len` numbers are valid for reads as long as the slices are used.
unsafe fn slices<'a, T, const N: usize>(rows: Strided<T>, len: usize) -> [&'a [T]; N] {
    // SAFETY: the caller vouches for them.
    std::array::from_fn(|row| unsafe { std::slice::from_raw_parts(rows.data.add(row * rows.stride), len) })
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"), dispatcher = "direct")]
fn wide<E: Element, const T: usize>(rows: [&[E]; ROWS], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
    let mut sums = [[0.0; ROWS]; T];
    for start in (0..rows[0].len()).step_by(COLS) {
        let count = COLS.min(rows[0].len() - start);
        let mut columns = [[0.0_f32; ROWS]; COLS];
        for (row, numbers) in rows.iter().enumerate() {
            for (column, number) in columns.iter_mut().zip(&numbers[start..start + count]) {
                column[row] = number.to_f32();
            }
        }
        for (index, column) in columns.iter().enumerate().take(count) {
            for (sums, x) in sums.iter_mut().zip(&x) {
                let x = x[start + index];
                for lane in 0..ROWS {
                    sums[lane] = x.mul_add(column[lane], sums[lane]);
                }
            }
        }
    }
    sums
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"), dispatcher = "direct")]
fn pairs<E: Element, const T: usize>(rows: [&[E]; ROWS], x: [&[bf16]; T]) -> [[f32; ROWS]; T] {
    let mut sums = [[0.0; ROWS]; T];
    for start in (0..rows[0].len()).step_by(COLS) {
        let count = COLS.min(rows[0].len() - start);
        let mut columns = [[0.0_f32; ROWS]; COLS];
        for (row, numbers) in rows.iter().enumerate() {
            for (column, number) in columns.iter_mut().zip(&numbers[start..start + count]) {
                column[row] = vector::to_f32(number.to_bf16());
            }
        }
        for (index, pair) in columns.as_chunks::<2>().0.iter().enumerate().take(count.div_ceil(2)) {
            for (sums, x) in sums.iter_mut().zip(&x) {
                let (even, odd) = (vector::to_f32(x[start + 2 * index]), vector::to_f32(x[start + 2 * index + 1]));
                for lane in 0..ROWS {
                    let sum = odd.mul_add(pair[1][lane], sums[lane]);
                    sums[lane] = even.mul_add(pair[0][lane], sum);
                }
            }
        }
    }
    sums
}
