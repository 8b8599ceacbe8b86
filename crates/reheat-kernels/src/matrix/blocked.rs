//! The product in bf16 by blocks that fit the caches (Goto and van de Geijn 2008, Anatomy of High-Performance Matrix
//! Multiplication).
//!
//! The smaller factor is packed once and shared; tasks own blocks of rows or columns of the result, pack their part of
//! the larger factor, and meet the shared one. An element's sum runs along the inner dimension in one fixed order,
//! whatever the number of threads.

use std::cell::RefCell;

use half::bf16;
use rayon::prelude::*;

use super::tile::{TILE_COLS, TILE_ROWS, Tile, TileKernel};
use super::{Matrix, Threads, Write, pack};
use crate::vector;

/// Inner size of a block: a panel of it and the tile's other factor stream from the level-2 cache.
pub(super) const INNER: usize = 1024;
/// Rows or columns of the result that a task owns, at most: its packed factor takes half of a level-2 cache.
const OUTER: usize = 256;
/// Tasks that a product should at least fall into, so that threads end together.
const TASKS: usize = 24;
/// Numbers of the shared factor that are packed at a time.
const SHARED: usize = 8 << 20;

thread_local! {
    /// A task's packed part of the larger factor, kept between tasks.
    static OWN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    /// A task's sums where the result is rounded.
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Buffers of packed shared factors, kept between products: fresh ones would be zeroed first.
    static SPARE: RefCell<Vec<Vec<u32>>> = const { RefCell::new(Vec::new()) };
}

/// `out = lhs · rhs` or `out += lhs · rhs` with both factors rounded to bf16 and sums in f32.
///
/// # Safety
/// `out` is valid for reads and writes of `lhs.rows` rows of `rhs.cols` numbers, rows `out_stride` apart, and nothing
/// else refers to them.
pub(super) unsafe fn product(
    out: *mut f32,
    out_stride: usize,
    write: Write,
    lhs: Matrix,
    rhs: Matrix,
    threads: Threads,
) {
    let kernel = TileKernel::detect();
    let rhs = rhs.transposed();
    let out = Output::strided(out, out_stride, lhs.rows, rhs.rows);
    let blocks = Blocks { shared: SHARED, threads, kernel };
    // SAFETY: the caller vouches for `out`, and each task gets rows or columns of its own.
    unsafe {
        if lhs.rows <= rhs.rows {
            blocks.run::<TILE_ROWS, TILE_COLS>(lhs, rhs, |first, _, parts| {
                parts(&mut |shared, own, later| {
                    out.write(shared, own, (0, first), later || write == Write::Add, kernel);
                });
            });
        } else {
            blocks.run::<TILE_COLS, TILE_ROWS>(rhs, lhs, |first, _, parts| {
                parts(&mut |shared, own, later| {
                    out.write(own, shared, (first, 0), later || write == Write::Add, kernel);
                });
            });
        }
    }
}

/// As [`product`] with the result rounded to bf16, once; where `write` adds, the sum with the old value.
///
/// # Safety
/// As [`product`].
pub(super) unsafe fn rounded_product(
    out: *mut bf16,
    out_stride: usize,
    write: Write,
    lhs: Matrix,
    rhs: Matrix,
    threads: Threads,
) {
    let kernel = TileKernel::detect();
    let rhs = rhs.transposed();
    let (rows, cols) = (lhs.rows, rhs.rows);
    let out = Rounded { data: out, stride: out_stride };
    // A sum must be whole before it is rounded: the inner dimension is not cut.
    let blocks = Blocks { shared: usize::MAX, threads, kernel };
    // SAFETY: the caller vouches for `out`, and each task gets rows or columns of its own.
    unsafe {
        if rows <= cols {
            blocks.run::<TILE_ROWS, TILE_COLS>(lhs, rhs, |first, cols, parts| {
                with_sums(rows, cols, |sums| {
                    parts(&mut |shared, own, later| sums.write(shared, own, (0, 0), later, kernel));
                    out.round(sums, (0, first), write);
                });
            });
        } else {
            blocks.run::<TILE_COLS, TILE_ROWS>(rhs, lhs, |first, rows, parts| {
                with_sums(rows, cols, |sums| {
                    parts(&mut |shared, own, later| sums.write(own, shared, (0, 0), later, kernel));
                    out.round(sums, (first, 0), write);
                });
            });
        }
    }
}

/// Lends the thread's buffer as a dense result.
fn with_sums(rows: usize, cols: usize, task: impl FnOnce(Output)) {
    SUMS.with_borrow_mut(|sums| {
        if sums.len() < rows * cols {
            sums.resize(rows * cols, 0.0);
        }
        task(Output::new(&mut sums[..rows * cols], rows, cols));
    });
}

/// Calls back for each part of the inner dimension in order: the shared factor's panels, the task's own, and whether
/// an earlier part came before.
type Parts<'a, const S: usize, const L: usize> = &'a mut dyn FnMut(&mut dyn FnMut(Panels<S>, Panels<L>, bool));

/// How the work of a product is shared out.
#[derive(Clone, Copy)]
struct Blocks {
    /// Numbers of the smaller factor that are packed at a time.
    shared: usize,
    threads: Threads,
    kernel: TileKernel,
}

impl Blocks {
    /// Calls `task(first, count, parts)` for every block of rows of `larger`.
    fn run<const S: usize, const L: usize>(
        self,
        smaller: Matrix,
        larger: Matrix,
        task: impl Fn(usize, usize, Parts<S, L>) + Sync,
    ) {
        let Self { threads, kernel, .. } = self;
        let (inner, size) = (smaller.cols, larger.rows);
        let tasks = match threads {
            Threads::One => 1,
            Threads::All => TASKS,
        };
        let block = size.div_ceil(tasks).next_multiple_of(L).min(OUTER.next_multiple_of(L));
        // Whole parts, so that the order of a sum does not depend on the outer sizes.
        let slab = (self.shared / smaller.rows).max(INNER) / INNER * INNER;
        for slab_start in (0..inner).step_by(slab) {
            let parts: Vec<_> = (slab_start..inner.min(slab_start.saturating_add(slab)))
                .step_by(INNER)
                .map(|start| (start, INNER.min(inner - start)))
                .collect();
            let shared: Vec<Vec<u32>> = parts
                .iter()
                .map(|part| {
                    let mut packed = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
                    pack_rows::<S>(&mut packed, smaller, (0, smaller.rows), *part, kernel, threads);
                    packed
                })
                .collect();
            let one = |index: usize| {
                let first = index * block;
                let count = block.min(size - first);
                OWN.with_borrow_mut(|own| {
                    task(first, count, &mut |multiply| {
                        for (part, shared) in parts.iter().zip(&shared) {
                            pack_rows::<L>(own, larger, (first, count), *part, kernel, Threads::One);
                            let pairs = part.1.div_ceil(2);
                            let shared = Panels::new(&shared[..smaller.rows.div_ceil(S) * S * pairs], pairs);
                            let own = Panels::new(&own[..count.div_ceil(L) * L * pairs], pairs);
                            multiply(shared, own, part.0 > 0);
                        }
                    });
                });
            };
            let blocks = 0..size.div_ceil(block);
            match threads {
                Threads::One => blocks.for_each(one),
                Threads::All => blocks.into_par_iter().with_max_len(1).for_each(one),
            }
            SPARE.with_borrow_mut(|spare| spare.extend(shared));
        }
    }
}

/// Packs rows `first..first + rows` of `matrix`, the given part of its columns, panel after panel.
fn pack_rows<const R: usize>(
    packed: &mut Vec<u32>,
    matrix: Matrix,
    (first, rows): (usize, usize),
    part: (usize, usize),
    kernel: TileKernel,
    threads: Threads,
) {
    let pairs = part.1.div_ceil(2);
    let len = rows.div_ceil(R) * R * pairs;
    if packed.len() < len {
        packed.resize(len, 0);
    }
    let pack = |(index, panel): (usize, &mut [u32])| {
        pack::panel(panel.as_chunks_mut::<R>().0, matrix, first + index * R, part, kernel);
    };
    match threads {
        Threads::One => packed[..len].chunks_exact_mut(R * pairs).enumerate().for_each(pack),
        Threads::All => packed[..len].par_chunks_exact_mut(R * pairs).enumerate().for_each(pack),
    }
}

/// Packed rows of a factor: panels of `R` rows.
#[derive(Clone, Copy)]
struct Panels<'a, const R: usize> {
    data: &'a [[u32; R]],
    pairs: usize,
}

impl<'a, const R: usize> Panels<'a, R> {
    fn new(packed: &'a [u32], pairs: usize) -> Self {
        Self { data: packed.as_chunks().0, pairs }
    }

    fn iter(self) -> impl Iterator<Item = &'a [[u32; R]]> {
        self.data.chunks_exact(self.pairs)
    }
}

/// The result, shared by tasks that write to different parts of it.
#[derive(Clone, Copy)]
pub(super) struct Output {
    data: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
}

// SAFETY: tasks write to parts of their own, as `product` and `by_blocks` share them out.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// A dense result.
    fn new(data: &mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a dense result");
        Self { data: data.as_mut_ptr(), stride: cols, rows, cols }
    }

    /// A result whose rows are `stride` apart.
    pub(super) fn strided(data: *mut f32, stride: usize, rows: usize, cols: usize) -> Self {
        Self { data, stride, rows, cols }
    }

    /// Where an element is.
    ///
    /// # Safety
    /// The element is inside the result.
    pub(super) unsafe fn at(self, row: usize, col: usize) -> *mut f32 {
        debug_assert!(row < self.rows && col < self.cols, "an element outside the result");
        // SAFETY: the caller vouches for it.
        unsafe { self.data.add(row * self.stride + col) }
    }

    /// The product of packed rows and columns into the result from (row, column) `first` on.
    ///
    /// # Safety
    /// The part of the result below and right of `first` that the panels cover is valid and the caller's alone.
    unsafe fn write(
        &self,
        lhs: Panels<TILE_ROWS>,
        rhs: Panels<TILE_COLS>,
        first: (usize, usize),
        add: bool,
        kernel: TileKernel,
    ) {
        for (lhs_index, lhs) in lhs.iter().enumerate() {
            let row = first.0 + lhs_index * TILE_ROWS;
            for (rhs_index, rhs) in rhs.iter().enumerate() {
                let col = first.1 + rhs_index * TILE_COLS;
                let (rows, cols) = (TILE_ROWS.min(self.rows - row), TILE_COLS.min(self.cols - col));
                // SAFETY: `row` and `col` are inside the result, which is valid as the caller says; a tile that leaves it is
                // computed beside it, and the part inside copied.
                unsafe {
                    let out = self.data.add(row * self.stride + col);
                    if (rows, cols) == (TILE_ROWS, TILE_COLS) {
                        kernel.write(lhs, rhs, out, self.stride, add);
                    } else {
                        let mut tile: Tile = [[0.0; TILE_COLS]; TILE_ROWS];
                        kernel.write(lhs, rhs, tile.as_flattened_mut().as_mut_ptr(), TILE_COLS, false);
                        for (index, sums) in tile.iter().enumerate().take(rows) {
                            let out = std::slice::from_raw_parts_mut(out.add(index * self.stride), cols);
                            for (o, sum) in out.iter_mut().zip(sums) {
                                *o = if add { *o + sum } else { *sum };
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A result in bf16, shared by tasks that write to different parts of it.
#[derive(Clone, Copy)]
struct Rounded {
    data: *mut bf16,
    stride: usize,
}

// SAFETY: tasks write to parts of their own, as `Blocks::run` shares them out.
unsafe impl Send for Rounded {}
// SAFETY: as above.
unsafe impl Sync for Rounded {}

impl Rounded {
    /// Rounds sums into the result from (row, column) `first` on.
    ///
    /// # Safety
    /// That part of the result is valid for reads and writes and the caller's alone; `sums` is still borrowed.
    unsafe fn round(self, sums: Output, first: (usize, usize), write: Write) {
        for row in 0..sums.rows {
            // SAFETY: the caller vouches for both, row by row.
            let (out, sums) = unsafe {
                let out = self.data.add((first.0 + row) * self.stride + first.1);
                let out = std::slice::from_raw_parts_mut(out, sums.cols);
                (out, std::slice::from_raw_parts(sums.data.add(row * sums.stride), sums.cols))
            };
            match write {
                Write::Replace => vector::round(out, sums),
                Write::Add => vector::add_rounded(out, sums),
            }
        }
    }
}
