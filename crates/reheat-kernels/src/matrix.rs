//! Matrix products on slices, through the `gemm` crate.

use burn::backend::Flex;
use burn::tensor::{Bytes, DType, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};

/// From this many multiply-adds on, a product is worth the threads' start (a cube of side 192).
const PARALLEL_FROM: usize = 192 * 192 * 192;

/// A strided matrix that borrows its numbers.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major `[rows, cols]` whose rows start `row_stride` apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "matrix leaves its slice");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Row-major and dense.
    pub(crate) fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// The same numbers with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
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

/// `out = lhs · rhs` or `out += lhs · rhs`; `out` is row-major with rows `out_stride` apart.
pub(crate) fn product(out: &mut [f32], out_stride: usize, write: Write, lhs: Matrix, rhs: Matrix, threads: Threads) {
    assert_eq!(lhs.cols, rhs.rows, "inner sizes of a matrix product differ");
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len() && n <= out_stride, "product leaves its destination");
    // SAFETY: `out` is exclusively borrowed and covers rows of `n` at `out_stride`, checked above.
    unsafe { raw_product(out.as_mut_ptr(), out_stride, write, lhs, rhs, m, n, k, threads) }
}

/// `lhs · rhs` in a new dense buffer.
pub(crate) fn product_of(lhs: Matrix, rhs: Matrix) -> Vec<f32> {
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
            raw_product(out.as_mut_ptr(), n, Write::Replace, lhs, rhs, m, n, k, Threads::All);
            out.set_len(m * n);
        }
    }
    out
}

/// # Safety
/// `out` is valid for writes (and for reads where `write` adds) of `m` rows of `n` numbers, rows `out_stride` apart,
/// and nothing else refers to it.
#[expect(clippy::too_many_arguments, reason = "the sizes are checked by the two callers")]
unsafe fn raw_product(
    out: *mut f32,
    out_stride: usize,
    write: Write,
    lhs: Matrix,
    rhs: Matrix,
    m: usize,
    n: usize,
    k: usize,
    threads: Threads,
) {
    let parallelism = match threads {
        Threads::All if m * n * k >= PARALLEL_FROM => gemm::Parallelism::Rayon(0),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: `Matrix` checks at construction that all its elements lie in its slice; the caller vouches for `out`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            out_stride as isize,
            write == Write::Add,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
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

/// A dense tensor that takes over the numbers.
pub(crate) fn tensor_of(data: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(shape.into()), DType::F32)
}

/// The numbers of a dense f32 tensor.
///
/// # Panics
/// If the tensor is not dense; `to_contiguous` makes it so.
pub(crate) fn numbers(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().expect("kernels get dense f32 tensors")
}

/// The CPU tensor behind a plain one, dense and with nothing else in its storage; a copy only where it was not so.
///
/// # Panics
/// If the tensor is not a plain one on the CPU, which [`runs_fused`](crate::runs_fused) tells.
pub(crate) fn dense<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let tensor = tensor.try_into_primitive::<Flex>().expect("`runs_fused` checked that the tensor is on the CPU");
    let fills_storage = tensor.bytes().len() == tensor.layout().num_elements() * size_of::<f32>();
    if tensor.is_contiguous() && fills_storage { tensor } else { tensor.to_contiguous() }
}
