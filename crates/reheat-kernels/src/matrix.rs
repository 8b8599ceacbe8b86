//! Matrix products on slices: f32 through the `gemm` crate, bf16 by the kernels here.

mod tile; // the innermost product
mod pack; // factors into the form that it reads
mod blocked; // whole products in bf16
mod few_rows; // products that are bound by reading a weight
mod in_order; // small products in f32

use std::ops::Range;

use burn::backend::Flex;
use burn::tensor::{Bytes, DType, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};
use half::bf16;
use rayon::prelude::*;

pub(crate) use self::pack::Element;

/// From this many multiply-adds on, a product is worth the threads' start (a cube of side 192).
const PARALLEL_FROM: usize = 192 * 192 * 192;
/// Numbers that are widened to f32 at a time where a narrow factor meets an f32 one.
const WIDENED: usize = 1 << 20;
/// Terms of an f32 sum that are added one after another before they are added to those before them: no more than `gemm`
/// takes at a time on any CPU, so that sums have one order in products of all sizes.
const PART_F32: usize = 512;

/// The type in which the factors of matrix products meet. Sums are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compute {
    /// Factors as they are; narrower ones are widened.
    #[default]
    F32,
    /// Factors rounded to bf16, to nearest and ties to even. Twice as fast and more on CPUs with AVX512-BF16.
    Bf16,
}

/// Whether this CPU multiplies bf16 by instructions of its own, or widens it to f32.
pub fn bf16_instructions() -> bool {
    tile::TileKernel::detect() != tile::TileKernel::Portable
}

/// The numbers of a matrix.
#[derive(Clone, Copy)]
pub(crate) enum Elements<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    Int8(&'a [i8]),
}

impl<'a> From<&'a [f32]> for Elements<'a> {
    fn from(data: &'a [f32]) -> Self {
        Self::F32(data)
    }
}

impl<'a> From<&'a Vec<f32>> for Elements<'a> {
    fn from(data: &'a Vec<f32>) -> Self {
        Self::F32(data)
    }
}

impl<'a> Elements<'a> {
    fn len(self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::Int8(data) => data.len(),
        }
    }

    fn from(self, start: usize) -> Self {
        match self {
            Self::F32(data) => Self::F32(&data[start..]),
            Self::Bf16(data) => Self::Bf16(&data[start..]),
            Self::Int8(data) => Self::Int8(&data[start..]),
        }
    }

    /// Writes the first numbers as f32.
    pub(crate) fn widen(self, out: &mut [f32]) {
        fn each<E: pack::Element>(data: &[E], out: &mut [f32]) {
            for (out, value) in out.iter_mut().zip(data) {
                *out = value.to_f32();
            }
        }
        match self {
            Self::F32(data) => each(data, out),
            Self::Bf16(data) => each(data, out),
            Self::Int8(data) => each(data, out),
        }
    }

    /// Numbers of row `row` of dense rows of `width`.
    pub(crate) fn row(self, row: usize, width: usize) -> Self {
        self.from(row * width)
    }
}

/// A strided matrix that borrows its numbers.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: Elements<'a>,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major `[rows, cols]` whose rows start `row_stride` apart.
    pub(crate) fn strided(data: impl Into<Elements<'a>>, rows: usize, cols: usize, row_stride: usize) -> Self {
        let data = data.into();
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "matrix leaves its slice");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Row-major and dense.
    pub(crate) fn dense(data: impl Into<Elements<'a>>, rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// The same numbers with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn rows(self, rows: Range<usize>) -> Self {
        Self { data: self.data.from(rows.start * self.row_stride), rows: rows.len(), ..self }
    }

    fn cols(self, cols: Range<usize>) -> Self {
        self.transposed().rows(cols).transposed()
    }
}

/// Whether a product may use all threads; inside a parallel region it must not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    All,
}

/// What a product does with the destination's old values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Replace,
    Add,
}

/// How a product is computed.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) threads: Threads,
    pub(crate) compute: Compute,
}

/// `out = lhs · rhs` or `out += lhs · rhs`; `out` is row-major with rows `out_stride` apart.
pub(crate) fn product(out: &mut [f32], out_stride: usize, write: Write, lhs: Matrix, rhs: Matrix, plan: Plan) {
    assert_eq!(lhs.cols, rhs.rows, "inner sizes of a matrix product differ");
    let (m, n) = (lhs.rows, rhs.cols);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len() && n <= out_stride, "product leaves its destination");
    if lhs.cols == 0 {
        if write == Write::Replace {
            out.chunks_mut(out_stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    // SAFETY: `out` is exclusively borrowed and covers rows of `n` at `out_stride`, checked above.
    unsafe { raw_product(out.as_mut_ptr(), out_stride, write, lhs, rhs, plan) }
}

/// `lhs · rhs` in a new dense buffer, by all threads.
pub(crate) fn product_of(lhs: Matrix, rhs: Matrix, compute: Compute) -> Vec<f32> {
    assert_eq!(lhs.cols, rhs.rows, "inner sizes of a matrix product differ");
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    if k == 0 {
        return vec![0.0; m * n];
    }
    let mut out = Vec::with_capacity(m * n);
    if m * n > 0 {
        // SAFETY: the buffer holds `m * n` numbers, and a product that replaces writes each of them
        // without reading it. Zeroing the 0.5 GB of a head's gradient first would cost a tenth of a second.
        unsafe {
            let plan = Plan { threads: Threads::All, compute };
            raw_product(out.as_mut_ptr(), n, Write::Replace, lhs, rhs, plan);
            out.set_len(m * n);
        }
    }
    out
}

/// `out = lhs · rhs` or `out += lhs · rhs` in bf16 with the result rounded to bf16, by all threads.
pub(crate) fn rounded_product(out: &mut [bf16], out_stride: usize, write: Write, lhs: Matrix, rhs: Matrix) {
    assert_eq!(lhs.cols, rhs.rows, "inner sizes of a matrix product differ");
    let (m, n) = (lhs.rows, rhs.cols);
    if m == 0 || n == 0 || lhs.cols == 0 {
        assert!(out.is_empty() || lhs.cols > 0, "a product without terms is not rounded");
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len() && n <= out_stride, "product leaves its destination");
    // SAFETY: `out` is exclusively borrowed and covers rows of `n` at `out_stride`, checked above.
    unsafe { blocked::rounded_product(out.as_mut_ptr(), out_stride, write, lhs, rhs, Threads::All) }
}

/// `x · weightᵀ` for dense `x` `[tokens, input]` and `weight` `[output, input]`, by all threads.
pub(crate) fn rows_by_weight(
    x: &[f32],
    weight: Elements,
    [tokens, input, output]: [usize; 3],
    compute: Compute,
) -> Vec<f32> {
    product_of(Matrix::dense(x, tokens, input), Matrix::dense(weight, output, input).transposed(), compute)
}

/// # Safety
/// `out` is valid for writes (and for reads where `write` adds) of `lhs.rows` rows of `rhs.cols` numbers, rows
/// `out_stride` apart, and nothing else refers to it; no size is 0.
unsafe fn raw_product(out: *mut f32, out_stride: usize, write: Write, lhs: Matrix, rhs: Matrix, plan: Plan) {
    let threads = match plan.threads {
        Threads::All if lhs.rows * rhs.cols * lhs.cols >= PARALLEL_FROM => Threads::All,
        _ => Threads::One,
    };
    // SAFETY: the caller vouches for `out`; blocks below are parts of it.
    unsafe {
        if few_rows::takes(lhs, rhs, plan.compute) {
            let out = blocked::Output::strided(out, out_stride, lhs.rows, rhs.cols);
            return few_rows::product(out, write, lhs, rhs.transposed(), plan);
        }
        match (plan.compute, lhs.data, rhs.data) {
            (Compute::Bf16, ..) => blocked::product(out, out_stride, write, lhs, rhs, threads),
            (Compute::F32, Elements::F32(left), Elements::F32(right)) => {
                gemm_product(out, out_stride, write, (lhs, left), (rhs, right), threads);
            }
            (Compute::F32, Elements::F32(_), _) => {
                // The narrow factor is widened by blocks of its adjacent rows.
                let adjacent_along_inner = rhs.col_stride == 1;
                let stored = if adjacent_along_inner { rhs } else { rhs.transposed() };
                let block = (WIDENED / stored.cols).max(1);
                let mut wide = vec![0.0; block.min(stored.rows) * stored.cols];
                for first in (0..stored.rows).step_by(block) {
                    let rows = first..stored.rows.min(first + block);
                    widen_into(&mut wide, stored.rows(rows.clone()), threads);
                    let part = Matrix::dense(&wide, rows.len(), stored.cols);
                    if adjacent_along_inner {
                        let write = if first > 0 { Write::Add } else { write };
                        raw_product(out, out_stride, write, lhs.cols(rows), part, Plan { threads, ..plan });
                    } else {
                        raw_product(
                            out.add(first),
                            out_stride,
                            write,
                            lhs,
                            part.transposed(),
                            Plan { threads, ..plan },
                        );
                    }
                }
            }
            (Compute::F32, ..) => {
                let mut wide = vec![0.0; lhs.rows * lhs.cols];
                let stored = if lhs.col_stride == 1 { lhs } else { lhs.transposed() };
                widen_into(&mut wide, stored, threads);
                let wide = Matrix::dense(&wide, stored.rows, stored.cols);
                let lhs = if lhs.col_stride == 1 { wide } else { wide.transposed() };
                raw_product(out, out_stride, write, lhs, rhs, Plan { threads, ..plan });
            }
        }
    }
}

/// Writes a matrix with adjacent columns as dense f32.
fn widen_into(wide: &mut [f32], matrix: Matrix, threads: Threads) {
    let row = |(index, row): (usize, &mut [f32])| matrix.data.from(index * matrix.row_stride).widen(row);
    match threads {
        Threads::One => wide.chunks_exact_mut(matrix.cols).take(matrix.rows).enumerate().for_each(row),
        Threads::All => wide.par_chunks_exact_mut(matrix.cols).take(matrix.rows).enumerate().for_each(row),
    }
}

/// # Safety
/// As [`raw_product`].
unsafe fn gemm_product(
    out: *mut f32,
    out_stride: usize,
    write: Write,
    (lhs, left): (Matrix, &[f32]),
    (rhs, right): (Matrix, &[f32]),
    threads: Threads,
) {
    let parallelism = match threads {
        Threads::All => gemm::Parallelism::Rayon(0),
        Threads::One => gemm::Parallelism::None,
    };
    for start in (0..lhs.cols).step_by(PART_F32) {
        let terms = start..lhs.cols.min(start + PART_F32);
        let (left, right) = (&left[start * lhs.col_stride..], &right[start * rhs.row_stride..]);
        let (lhs, rhs) = (lhs.cols(terms.clone()), rhs.rows(terms));
        let write = if start > 0 { Write::Add } else { write };
        // SAFETY: `Matrix` checks at construction that all its elements lie in its slice; the caller vouches for `out`.
        unsafe {
            if in_order::takes(lhs, rhs) {
                in_order::product(out, out_stride, write, (lhs, left), (rhs, right));
                continue;
            }
            gemm::gemm(
                lhs.rows,
                rhs.cols,
                lhs.cols,
                out,
                1,
                out_stride as isize,
                write == Write::Add,
                left.as_ptr(),
                lhs.col_stride as isize,
                lhs.row_stride as isize,
                right.as_ptr(),
                rhs.col_stride as isize,
                rhs.row_stride as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// A dense tensor that takes over the numbers.
pub(crate) fn tensor_of(data: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(shape.into()), DType::F32)
}

/// As [`tensor_of`], for numbers that were rounded.
pub(crate) fn rounded_tensor_of(data: Vec<bf16>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(shape.into()), DType::BF16)
}

/// The numbers of a dense f32 tensor.
///
/// # Panics
/// If the tensor is not dense; `to_contiguous` makes it so.
pub(crate) fn numbers(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().expect("kernels get dense f32 tensors")
}

/// The numbers of a dense tensor in any type that a weight is stored in.
///
/// # Panics
/// If the tensor is not dense, or of another type.
pub(crate) fn elements(tensor: &FlexTensor) -> Elements<'_> {
    const DENSE: &str = "kernels get dense tensors";
    match tensor.dtype() {
        DType::F32 => Elements::F32(tensor.as_slice().expect(DENSE)),
        DType::BF16 => Elements::Bf16(tensor.as_slice().expect(DENSE)),
        DType::I8 => Elements::Int8(tensor.as_slice().expect(DENSE)),
        other => panic!("weights are f32, bf16 or int8, not {other:?}"),
    }
}

/// The CPU tensor behind a plain one, dense and with nothing else in its storage; a copy only where it was not so.
///
/// # Panics
/// If the tensor is not a plain one on the CPU, which [`runs_on_cpu`](crate::choice::runs_on_cpu) tells.
pub(crate) fn dense<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    into_dense(tensor.try_into_primitive::<Flex>().expect("`runs_on_cpu` checked that the tensor is on the CPU"))
}

/// The tensor, dense and with nothing else in its storage; a copy only where it was not so.
///
/// `to_contiguous` on a borrowed tensor leaves a second owner, and the first write to it would copy.
pub(crate) fn into_dense(tensor: FlexTensor) -> FlexTensor {
    let fills_storage = tensor.bytes().len() == tensor.layout().num_elements() * tensor.dtype().size();
    if tensor.is_contiguous() && fills_storage { tensor } else { tensor.to_contiguous() }
}
