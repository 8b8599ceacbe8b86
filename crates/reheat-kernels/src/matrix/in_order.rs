//! Products that `gemm` would sum in another order than its larger ones: those of a single row or column, of very few
//! terms, or of a small result whose factors lie along the inner dimension.

use multiversion::multiversion;

use super::{Matrix, Write};
use crate::vector::LANES;

/// Elements of a result up to which `gemm` sums by lanes where both factors lie along the inner dimension.
const SMALL: usize = 256;

/// Whether `lhs · rhs` is computed here.
pub(super) fn takes(lhs: Matrix, rhs: Matrix) -> bool {
    let along_inner = lhs.col_stride == 1 && rhs.row_stride == 1;
    lhs.rows == 1 || rhs.cols == 1 || lhs.cols <= 2 || along_inner && lhs.rows * rhs.cols <= SMALL
}

/// `out = lhs · rhs` or `out += lhs · rhs`: terms one after another, as in the larger products.
///
/// # Safety
/// `out` is valid for writes (and for reads where `write` adds) of `lhs.rows` rows of `rhs.cols` numbers, rows
/// `out_stride` apart, and nothing else refers to it.
pub(super) unsafe fn product(
    out: *mut f32,
    out_stride: usize,
    write: Write,
    (lhs, left): (Matrix, &[f32]),
    (rhs, right): (Matrix, &[f32]),
) {
    for row in 0..lhs.rows {
        // SAFETY: the caller vouches for the row.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * out_stride), rhs.cols) };
        for (block, out) in out.chunks_mut(LANES).enumerate() {
            let mut sums = [0.0; LANES];
            let left = &left[row * lhs.row_stride..];
            let right = &right[block * LANES * rhs.col_stride..];
            if out.len() == LANES && rhs.col_stride == 1 {
                adjacent(&mut sums, left, lhs.col_stride, right, rhs.row_stride, lhs.cols);
            } else {
                apart(&mut sums[..out.len()], left, lhs.col_stride, right, rhs, lhs.cols);
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if write == Write::Add { *out + sum } else { sum };
            }
        }
    }
}

/// Sums of columns that are adjacent.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn adjacent(
    sums: &mut [f32; LANES],
    left: &[f32],
    left_stride: usize,
    right: &[f32],
    right_stride: usize,
    terms: usize,
) {
    for term in 0..terms {
        let x = left[term * left_stride];
        let right = &right[term * right_stride..][..LANES];
        for lane in 0..LANES {
            sums[lane] = x.mul_add(right[lane], sums[lane]);
        }
    }
}

/// Sums of columns wherever they are.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn apart(sums: &mut [f32], left: &[f32], left_stride: usize, right: &[f32], rhs: Matrix, terms: usize) {
    for term in 0..terms {
        let x = left[term * left_stride];
        for (col, sum) in sums.iter_mut().enumerate() {
            *sum = x.mul_add(right[term * rhs.row_stride + col * rhs.col_stride], *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Compute, Elements, product_of};
    use super::*;

    /// Values at which any other order shows.
    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919) % 1009) as f32 * 0.37 - 180.0).collect()
    }

    #[test]
    fn small_products_have_the_bits_of_large_ones() {
        // Of a 40×40 product, taken whole by `gemm`, corners that are taken here.
        for (terms, inner) in [(2, true), (64, true), (64, false), (700, true), (700, false)] {
            let (left, right) = (numbers(40 * terms), numbers(40 * terms));
            let lhs = Matrix::dense(&left, 40, terms);
            let rhs = match inner {
                true => Matrix::dense(&right, 40, terms).transposed(),
                false => Matrix::dense(&right, terms, 40),
            };
            let whole = product_of(lhs, rhs, Compute::F32);
            for (rows, cols) in [(1, 40), (40, 1), (9, 20), (16, 16), (12, 3)] {
                let part = product_of(lhs.rows(0..rows), rhs.cols(0..cols), Compute::F32);
                for (row, part) in part.chunks_exact(cols).enumerate() {
                    let expected = &whole[row * 40..][..cols];
                    assert_eq!(part, expected, "{rows}×{cols} of {terms} terms");
                }
            }
        }
    }

    #[test]
    fn strides_and_sums_worked_by_hand() {
        let left = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let lhs = Matrix::dense(Elements::F32(&left), 3, 2).transposed(); // [2, 3]
        let right = [1.0, 10.0, 100.0];
        let rhs = Matrix::dense(Elements::F32(&right), 3, 1);
        let mut out = [0.5, 0.0, 0.25];
        // SAFETY: two rows of one number, two apart.
        unsafe { product(out.as_mut_ptr(), 2, Write::Add, (lhs, &left), (rhs, &right)) };
        assert_eq!(out, [531.5, 0.0, 642.25]);
    }
}
