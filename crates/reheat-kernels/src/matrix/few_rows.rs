//! Products of a few rows with a weight: bound by reading the weight, which is read once, by all threads.
//!
//! Up to four rows of `x` are met by sixteen weight rows side by side, one in each lane: squares of their numbers are
//! transposed in registers, so that terms are added one after another. From five rows on it is the rows of `x` that lie
//! side by side, sixteen at a time, and the weight's numbers that are broadcast. Sums have the order of the products with
//! many rows in both, and the same bits: what is sampled token by token and what a pass over the whole text says are the
//! same numbers.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use rayon::prelude::*;

use super::blocked::Output;
use super::pack::{self, Element};
use super::tile::TileKernel;
use super::{Compute, Elements, Matrix, Plan, Threads, Write};
use crate::vector::LANES;

/// Weight rows in a block.
const ROWS: usize = LANES;
/// Units of `x` that the longest step takes; stored rows are padded to whole steps by zeros.
const STEP_UNITS: usize = 2 * LANES;
/// Tasks for each thread, so that threads end together.
const TASKS: usize = 4;
/// From this many bytes of weight on, the threads' start is worth it.
const PARALLEL_BYTES: usize = 1 << 18;
/// Up to this many rows a product is bound by reading a weight in f32.
const FEW_WIDE: usize = 8;
/// As [`FEW_WIDE`], for a narrower one.
const FEW_NARROW: usize = 16;
/// Up to this many rows, packing a weight for tiles takes longer than broadcasting its numbers.
const FEW_PAIRS: usize = 64;

/// Whether `lhs · rhs` is computed here.
pub(super) fn takes(lhs: Matrix, rhs: Matrix, compute: Compute) -> bool {
    let few = match (compute, TileKernel::detect(), rhs.data) {
        #[cfg(target_arch = "x86_64")]
        (Compute::Bf16, TileKernel::Avx512Bf16, _) => FEW_PAIRS,
        (_, _, Elements::F32(_)) => FEW_WIDE,
        (_, _, Elements::Bf16(_) | Elements::Int8(_)) => FEW_NARROW,
    };
    lhs.rows <= few && matches!(lhs.data, Elements::F32(_)) && lhs.col_stride == 1 && rhs.row_stride == 1
}

/// `out = x · weightᵀ` or `out += x · weightᵀ`, for factors that [`takes`] accepts.
///
/// # Safety
/// `out` is valid for reads and writes, and nothing else refers to it.
pub(super) unsafe fn product(out: Output, write: Write, x: Matrix, weight: Matrix, plan: Plan) {
    // SAFETY: the caller vouches for `out`.
    unsafe {
        match weight.data {
            Elements::F32(data) => products(out, write, x, Weight::new(data, weight), plan),
            Elements::Bf16(data) => products(out, write, x, Weight::new(data, weight), plan),
            Elements::Int8(data) => products(out, write, x, Weight::new(data, weight), plan),
        }
    }
}

/// The weight's rows, `stride` apart.
#[derive(Clone, Copy)]
struct Weight<'a, E> {
    data: &'a [E],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, E: Element> Weight<'a, E> {
    fn new(data: &'a [E], matrix: Matrix) -> Self {
        let Matrix { rows, cols, row_stride: stride, .. } = matrix;
        assert!(rows == 0 || (rows - 1) * stride + cols <= data.len(), "a weight leaves its slice");
        Self { data, rows, cols, stride }
    }
}

/// # Safety
/// As [`product`].
unsafe fn products<E: Element>(out: Output, write: Write, x: Matrix, weight: Weight<E>, plan: Plan) {
    // SAFETY: the caller vouches for `out`; kernels are taken where the CPU has their instructions.
    unsafe {
        match (plan.compute, TileKernel::detect()) {
            #[cfg(target_arch = "x86_64")]
            (Compute::Bf16, TileKernel::Avx512Bf16) => run::<avx512::Pairs, E>(out, write, x, weight, plan.threads),
            (Compute::Bf16, _) => run::<portable::Pairs, E>(out, write, x, weight, plan.threads),
            #[cfg(target_arch = "x86_64")]
            (Compute::F32, _) if avx512::has_wide() => run::<avx512::Wide, E>(out, write, x, weight, plan.threads),
            (Compute::F32, _) => run::<portable::Wide, E>(out, write, x, weight, plan.threads),
        }
    }
}

/// A way to take dot products of [`ROWS`] weight rows with rows of `x`.
trait Dots {
    /// What one lane meets at a time: a number of `x`, or a pair.
    type Unit: Copy + Default + Sync;
    /// Numbers in a unit.
    const UNIT: usize;
    /// Numbers of a row whose sum is complete before it is added to that of the numbers before them.
    const PART: usize;

    /// Stores rows of `x` from `first` on, unit by unit; rows past the last are zeros.
    fn store<const T: usize>(x: Matrix, first: usize, stored: &mut [[Self::Unit; T]]);

    /// Dot products over `cols` columns, which are at most [`Self::PART`].
    ///
    /// # Safety
    /// The CPU has the instructions; `weight` is valid for reads of [`ROWS`] rows of `cols` numbers, `stride` apart, and
    /// `x` holds their units, rounded up to whole [`STEP_UNITS`].
    unsafe fn part<E: Element, const T: usize>(
        weight: Strided<E>,
        cols: usize,
        x: &[[Self::Unit; T]],
        ahead: Ahead<E>,
    ) -> [[f32; ROWS]; T];
}

/// Rows in memory.
#[derive(Clone, Copy)]
struct Strided<T> {
    data: *const T,
    stride: usize,
}

/// Rows that will be read next, fetched while others are computed: rows that are read side by side are no stream that a
/// CPU would see coming.
#[derive(Clone, Copy)]
struct Ahead<E>(Option<Strided<E>>);

impl<E> Ahead<E> {
    /// Bytes that are fetched at a time on every current CPU.
    const LINE: usize = 64;

    /// Fetches `count` numbers of a row, from column `col` on.
    #[inline(always)]
    fn fetch(self, row: usize, col: usize, count: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(Strided { data, stride }) = self.0 {
            for col in (col..col + count).step_by(Self::LINE / size_of::<E>()) {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                // SAFETY: a prefetch of any address is allowed, and changes nothing but the caches.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(data.wrapping_add(row * stride + col).cast()) };
            }
        }
    }
}

/// # Safety
/// As [`product`], and the CPU has the instructions of `D`.
unsafe fn run<D: Dots, E: Element>(out: Output, write: Write, x: Matrix, weight: Weight<E>, threads: Threads) {
    // SAFETY: the caller vouches for all of it.
    unsafe {
        // Few shapes are compiled: rows of zeros are computed and dropped.
        match x.rows {
            1 => run_grouped::<D, E, 1>(out, write, x, weight, threads),
            2 => run_grouped::<D, E, 2>(out, write, x, weight, threads),
            3 | 4 => run_grouped::<D, E, 4>(out, write, x, weight, threads),
            _ => run_grouped::<D, E, LANES>(out, write, x, weight, threads),
        }
    }
}

/// # Safety
/// As [`run`].
unsafe fn run_grouped<D: Dots, E: Element, const T: usize>(
    out: Output,
    write: Write,
    x: Matrix,
    weight: Weight<E>,
    threads: Threads,
) {
    let units = x.cols.div_ceil(D::UNIT);
    let padded = units.next_multiple_of(STEP_UNITS);
    let mut stored = vec![[D::Unit::default(); T]; x.rows.div_ceil(T) * padded];
    for (group, stored) in stored.chunks_exact_mut(padded).enumerate() {
        D::store(x, group * T, &mut stored[..units]);
    }
    let job = Job::<_, E, T> { out, write, x: &stored, padded, tokens: x.rows, weight };
    let blocks = weight.rows.div_ceil(ROWS);
    // SAFETY: each block writes columns of the result of its own; the caller vouches for the rest.
    let one = |block| unsafe { job.block::<D>(block) };
    if threads == Threads::One || weight.rows * weight.cols * size_of::<E>() < PARALLEL_BYTES {
        return (0..blocks).for_each(one);
    }
    // Runs of blocks, so that what is fetched ahead is the task's own.
    let per_task = blocks.div_ceil(TASKS * rayon::current_num_threads());
    (0..blocks.div_ceil(per_task)).into_par_iter().with_max_len(1).for_each(|task| {
        (task * per_task..blocks.min((task + 1) * per_task)).for_each(one);
    });
}

/// A product under way, with groups of `T` rows of `x`.
struct Job<'a, U, E, const T: usize> {
    out: Output,
    write: Write,
    /// Groups of rows, `padded` units apart.
    x: &'a [[U; T]],
    padded: usize,
    tokens: usize,
    weight: Weight<'a, E>,
}

impl<U: Sync, E: Element, const T: usize> Job<'_, U, E, T> {
    /// The columns of the result that belong to one block of weight rows.
    ///
    /// # Safety
    /// As [`run`]; no other task has this block.
    unsafe fn block<D: Dots<Unit = U>>(&self, block: usize) {
        let Weight { data, rows, cols, stride } = self.weight;
        let first = block * ROWS;
        let count = ROWS.min(rows - first);
        let held = &data[first * stride..];
        // The last block may lack rows: they are zeros, and their sums are dropped.
        let mut copy = Vec::new();
        if count < ROWS {
            copy.resize(ROWS * cols, E::ZERO);
            for (row, copy) in copy.chunks_exact_mut(cols).take(count).enumerate() {
                copy.copy_from_slice(&held[row * stride..][..cols]);
            }
        }
        let weight = match count < ROWS {
            true => Strided { data: copy.as_ptr(), stride: cols },
            false => Strided { data: held.as_ptr(), stride },
        };
        let next = (first + ROWS < rows).then(|| data[(first + ROWS) * stride..].as_ptr());
        for (group, x) in self.x.chunks_exact(self.padded).enumerate() {
            let token = group * T;
            let tokens = T.min(self.tokens - token);
            // SAFETY: the rows exist or were copied, `x` holds whole groups, and the columns are this block's.
            unsafe {
                let mut sums = match self.write {
                    Write::Add => self.out.read_block::<T>(token, tokens, first, count),
                    Write::Replace => [[0.0; ROWS]; T],
                };
                for start in (0..cols).step_by(D::PART) {
                    let weight = Strided { data: weight.data.add(start), ..weight };
                    // A later group finds the block in the caches.
                    let next = next.filter(|_| group == 0).map(|next| next.wrapping_add(start));
                    let ahead = Ahead(next.map(|data| Strided { data, stride }));
                    let part = D::part::<E, T>(weight, D::PART.min(cols - start), &x[start / D::UNIT..], ahead);
                    if start == 0 && self.write == Write::Replace {
                        sums = part;
                    } else {
                        for (sum, part) in sums.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
                            *sum += part;
                        }
                    }
                }
                self.out.write_block(token, tokens, first, count, &sums);
            }
        }
    }
}

impl Output {
    /// Elements of rows from `row` on and columns from `col` on; 0 past the last.
    ///
    /// # Safety
    /// They lie inside the result, which is still borrowed, and no other task touches them.
    unsafe fn read_block<const T: usize>(self, row: usize, rows: usize, col: usize, cols: usize) -> [[f32; ROWS]; T] {
        let mut values = [[0.0; ROWS]; T];
        for (index, values) in values.iter_mut().enumerate().take(rows) {
            // SAFETY: the caller vouches for the elements.
            values[..cols].copy_from_slice(unsafe { std::slice::from_raw_parts(self.at(row + index, col), cols) });
        }
        values
    }

    /// Sets elements of rows from `row` on and columns from `col` on.
    ///
    /// # Safety
    /// As [`Self::read_block`].
    unsafe fn write_block<const T: usize>(
        self,
        row: usize,
        rows: usize,
        col: usize,
        cols: usize,
        values: &[[f32; ROWS]; T],
    ) {
        for (index, values) in values.iter().enumerate().take(rows) {
            // SAFETY: the caller vouches for the elements.
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.at(row + index, col), cols) };
        }
    }
}

/// Stores rows as they are.
fn store_wide<const T: usize>(x: Matrix, first: usize, stored: &mut [[f32; T]]) {
    let Elements::F32(numbers) = x.data else { unreachable!("`takes` asks for f32") };
    for token in 0..T.min(x.rows - first) {
        for (stored, number) in stored.iter_mut().zip(&numbers[(first + token) * x.row_stride..][..x.cols]) {
            stored[token] = *number;
        }
    }
}

/// Stores rows as pairs of bf16.
fn store_pairs<const T: usize>(x: Matrix, first: usize, stored: &mut [[u32; T]]) {
    pack::panel(stored, x, first, (0, x.cols), TileKernel::detect());
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::{product_of, rows_by_weight};
    use super::*;
    use crate::vector;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .take(count)
        .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// Calls `f` with a weight in each of its types.
    fn in_each_type(weight: &[f32], f: impl Fn(Elements)) {
        f(Elements::F32(weight));
        f(Elements::Bf16(&weight.iter().map(|x| vector::to_bf16(*x)).collect::<Vec<_>>()));
        f(Elements::Int8(&weight.iter().map(|x| (x * 127.0) as i8).collect::<Vec<_>>()));
    }

    const SHAPES: [(usize, usize); 8] =
        [(1, 1), (5, 3), (33, 17), (64, 16), (130, 70), (512, 40), (1100, 33), (2049, 130)];

    #[test]
    fn a_row_has_the_same_bits_among_many_and_alone() {
        for (input, output) in SHAPES {
            let (x, weight) = (numbers(80 * input, 1), numbers(output * input, 2));
            in_each_type(&weight, |weight| {
                for compute in [Compute::F32, Compute::Bf16] {
                    let many = rows_by_weight(&x, weight, [80, input, output], compute);
                    for tokens in [1, 2, 3, 5, 9, 16, 17] {
                        let few = rows_by_weight(&x[..tokens * input], weight, [tokens, input, output], compute);
                        let many = bits(&many[..tokens * output]);
                        assert_eq!(bits(&few), many, "{tokens} rows of {input}, {output} columns, {compute:?}");
                    }
                }
            });
        }
    }

    #[test]
    fn every_kernel_gives_the_same_bits() {
        /// The last rows of a result that is added to.
        fn run_on<D: Dots, E: Element>(x: Matrix, weight: Weight<E>) -> Vec<u32> {
            let mut out = numbers(x.rows * weight.rows, 3);
            let target = Output::strided(out.as_mut_ptr(), weight.rows, x.rows, weight.rows);
            // SAFETY: `out` has this many numbers; the caller asked whether the CPU has the instructions.
            unsafe { run::<D, E>(target, Write::Add, x, weight, Threads::One) };
            bits(&out)
        }
        for (input, output) in SHAPES {
            let (x, weight) = (numbers(6 * input, 1), numbers(output * input, 2));
            let rounded: Vec<bf16> = weight.iter().map(|x| vector::to_bf16(*x)).collect();
            let x = Matrix::dense(&x, 6, input);
            let wide = Weight::new(&weight, Matrix::dense(&weight, output, input));
            let narrow = Weight::new(&rounded, Matrix::dense(Elements::Bf16(&rounded), output, input));
            let expected = (run_on::<portable::Wide, _>(x, wide), run_on::<portable::Pairs, _>(x, narrow));
            #[cfg(target_arch = "x86_64")]
            if avx512::has_wide() && TileKernel::detect() == TileKernel::Avx512Bf16 {
                let ours = (run_on::<avx512::Wide, _>(x, wide), run_on::<avx512::Pairs, _>(x, narrow));
                assert_eq!(ours, expected, "rows of {input}, {output} columns");
            }
            let many = product_of(x, Matrix::dense(&weight, output, input).transposed(), Compute::F32);
            let sums = numbers(6 * output, 3).into_iter().zip(many).map(|(old, sum)| (old + sum).to_bits());
            // One part more is one rounding more.
            if input <= crate::matrix::PART_F32 {
                assert_eq!(expected.0, sums.collect::<Vec<_>>());
            }
        }
    }
}
