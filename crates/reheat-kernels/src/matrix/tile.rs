//! The innermost product: a tile of the result from a panel of each factor.
//!
//! Panels hold pairs of bf16 along the inner dimension, so that one 32-bit lane of both factors gives two terms of a
//! sum. A product of two bf16 is exact in f32; sums are f32, pair by pair, the odd term first, on every CPU.

use multiversion::multiversion;

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 12;
/// Columns of a tile: with [`TILE_ROWS`], 24 of the 32 AVX-512 registers hold sums.
pub(crate) const TILE_COLS: usize = 32;

/// The sums of a whole tile.
pub(crate) type Tile = [[f32; TILE_COLS]; TILE_ROWS];

/// Which code computes tiles, decided once per product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TileKernel {
    /// `vdpbf16ps` on 512-bit registers.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// Widened to f32 and multiplied there, in the vectors that the compiler finds.
    Portable,
}

impl TileKernel {
    /// The fastest that this CPU runs.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw") {
            return Self::Avx512Bf16;
        }
        Self::Portable
    }

    /// `out = lhs · rhs` or `out += lhs · rhs` for a whole tile.
    ///
    /// # Safety
    /// `out` is valid for reads and writes of [`TILE_ROWS`] rows of [`TILE_COLS`] numbers, rows `out_stride` apart, and
    /// nothing else refers to them. The kernel is one that [`Self::detect`] may give on this CPU.
    pub(crate) unsafe fn write(
        self,
        lhs: &[[u32; TILE_ROWS]],
        rhs: &[[u32; TILE_COLS]],
        out: *mut f32,
        out_stride: usize,
        add: bool,
    ) {
        match self {
            // SAFETY: `detect` found the instructions; the caller vouches for `out`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { avx512::write(lhs, rhs, out, out_stride, add) },
            Self::Portable => {
                let mut tile = [[0.0; TILE_COLS]; TILE_ROWS];
                portable(lhs, rhs, &mut tile);
                for (row, sums) in tile.iter().enumerate() {
                    // SAFETY: the caller vouches for every row of the tile, and gives it to us alone.
                    let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * out_stride), TILE_COLS) };
                    for (o, sum) in out.iter_mut().zip(sums) {
                        *o = if add { *o + sum } else { *sum };
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{TILE_COLS, TILE_ROWS};

    /// f32 lanes of a register.
    const LANES: usize = 16;
    const VECTORS: usize = TILE_COLS / LANES;

    /// # Safety
    /// As [`super::TileKernel::write`], on a CPU with these instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn write(
        lhs: &[[u32; TILE_ROWS]],
        rhs: &[[u32; TILE_COLS]],
        out: *mut f32,
        out_stride: usize,
        add: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; TILE_ROWS];
        for (lhs, rhs) in lhs.iter().zip(rhs) {
            let columns: [__m512bh; VECTORS] = std::array::from_fn(|vector| {
                // SAFETY: a row of the panel is `VECTORS` registers long.
                bf16_pairs(unsafe { _mm512_loadu_si512(rhs.as_ptr().add(LANES * vector).cast()) })
            });
            for (sums, pair) in sums.iter_mut().zip(lhs) {
                let pair = bf16_pairs(_mm512_set1_epi32(pair.cast_signed()));
                for (sum, columns) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_dpbf16_ps(*sum, pair, columns);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                // SAFETY: the caller vouches for the whole tile.
                unsafe {
                    let out = out.add(row * out_stride + LANES * vector);
                    let sum = if add { _mm512_add_ps(_mm512_loadu_ps(out), sum) } else { sum };
                    _mm512_storeu_ps(out, sum);
                }
            }
        }
    }

    #[inline(always)]
    fn bf16_pairs(bits: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits, and every pattern of 16 bits is a bf16.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
    }
}

/// A quarter of the rows by half of the columns at a time: that many sums fit AVX2's registers too.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn portable(lhs: &[[u32; TILE_ROWS]], rhs: &[[u32; TILE_COLS]], tile: &mut Tile) {
    const ROWS: usize = 4;
    const COLS: usize = 16;
    for first_row in (0..TILE_ROWS).step_by(ROWS) {
        for first_col in (0..TILE_COLS).step_by(COLS) {
            let mut sums = [[0.0_f32; COLS]; ROWS];
            for (lhs, rhs) in lhs.iter().zip(rhs) {
                let (mut even, mut odd) = ([0.0; COLS], [0.0; COLS]);
                for col in 0..COLS {
                    even[col] = f32::from_bits(rhs[first_col + col] << 16);
                    odd[col] = f32::from_bits(rhs[first_col + col] & 0xffff_0000);
                }
                for row in 0..ROWS {
                    let pair = lhs[first_row + row];
                    let (left_even, left_odd) = (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000));
                    for col in 0..COLS {
                        let sum = left_odd.mul_add(odd[col], sums[row][col]);
                        sums[row][col] = left_even.mul_add(even[col], sum);
                    }
                }
            }
            for row in 0..ROWS {
                tile[first_row + row][first_col..first_col + COLS].copy_from_slice(&sums[row]);
            }
        }
    }
}
