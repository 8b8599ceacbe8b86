//! Factors into panels of bf16 pairs, rounded on the way.

use half::bf16;

use super::{Elements, Matrix, tile::TileKernel};
use crate::vector;

/// A number that a factor may be stored in.
pub(crate) trait Element: Copy + Sync {
    const ZERO: Self;

    /// Rounded to nearest, ties to even; NaN stays NaN.
    fn to_bf16(self) -> bf16;

    fn to_f32(self) -> f32;

    /// Sixteen numbers at `low` and sixteen at `high`, in this order.
    ///
    /// # Safety
    /// Both are valid for reads of 16 numbers, and the CPU has AVX512-BF16 and AVX512-BW.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(low: *const Self, high: *const Self) -> std::arch::x86_64::__m512i;

    /// Sixteen numbers as f32.
    ///
    /// # Safety
    /// They are valid for reads, and the CPU has AVX-512F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_wide(at: *const Self) -> std::arch::x86_64::__m512;

    /// Pairs of numbers in a lane of [`Self::load_lanes`].
    #[cfg(target_arch = "x86_64")]
    const LANE_PAIRS: usize = 1;

    /// Sixteen lanes of numbers, in this order.
    ///
    /// # Safety
    /// `at` is valid for reads of 32 numbers for each of [`Self::LANE_PAIRS`]; the CPU as for [`Self::load`].
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_lanes(at: *const Self) -> std::arch::x86_64::__m512i {
        // SAFETY: the caller vouches for the pointer and the CPU.
        unsafe { Self::load(at, at.add(16)) }
    }

    /// In each lane, its pair number `index` in bf16.
    ///
    /// # Safety
    /// The CPU as for [`Self::load`].
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn lane_pair(lanes: std::arch::x86_64::__m512i, _index: usize) -> std::arch::x86_64::__m512i {
        lanes
    }
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn to_bf16(self) -> bf16 {
        vector::to_bf16(self)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(low: *const Self, high: *const Self) -> std::arch::x86_64::__m512i {
        use std::arch::x86_64::*;
        // SAFETY: the caller vouches for the pointers and the CPU; both vectors are 512 bits.
        unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(high), _mm512_loadu_ps(low))) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_wide(at: *const Self) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the caller vouches for the pointer and the CPU.
        unsafe { _mm512_loadu_ps(at) }
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;

    fn to_bf16(self) -> bf16 {
        self
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        vector::to_f32(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(low: *const Self, high: *const Self) -> std::arch::x86_64::__m512i {
        use std::arch::x86_64::*;
        // SAFETY: the caller vouches for the pointers and the CPU.
        unsafe {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(low.cast()));
            _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(high.cast()))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_wide(at: *const Self) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the caller vouches for the pointer and the CPU.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())))) }
    }
}

impl Element for i8 {
    const ZERO: Self = 0;

    fn to_bf16(self) -> bf16 {
        // Eight bits of significand hold every i8.
        vector::to_bf16(f32::from(self))
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(low: *const Self, high: *const Self) -> std::arch::x86_64::__m512i {
        use std::arch::x86_64::*;
        // SAFETY: the caller vouches for the pointers and the CPU; both vectors are 512 bits.
        unsafe {
            let low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(low.cast())));
            let high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(high.cast())));
            std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_wide(at: *const Self) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the caller vouches for the pointer and the CPU.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
    }

    #[cfg(target_arch = "x86_64")]
    const LANE_PAIRS: usize = 2;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_lanes(at: *const Self) -> std::arch::x86_64::__m512i {
        // SAFETY: the caller vouches for the pointer and the CPU.
        unsafe { std::arch::x86_64::_mm512_loadu_si512(at.cast()) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn lane_pair(lanes: std::arch::x86_64::__m512i, index: usize) -> std::arch::x86_64::__m512i {
        // SAFETY: the caller vouches for the CPU.
        unsafe {
            match index {
                0 => avx512::low_bytes(lanes),
                _ => avx512::low_bytes(std::arch::x86_64::_mm512_srli_epi32::<16>(lanes)),
            }
        }
    }
}

/// Packs one panel: rows `first_row..first_row + R` of `matrix`, columns `first_col..first_col + cols`, where the
/// inner dimension runs along the columns. Rows past the matrix and a missing odd column are zero.
///
/// # Panics
/// If `panel` does not hold `cols / 2` pairs, rounded up, or the columns leave the matrix.
pub(super) fn panel<const R: usize>(
    panel: &mut [[u32; R]],
    matrix: Matrix,
    first_row: usize,
    (first_col, cols): (usize, usize),
    kernel: TileKernel,
) {
    assert!(first_col + cols <= matrix.cols && panel.len() == cols.div_ceil(2), "a panel leaves its matrix");
    let rows = matrix.rows.saturating_sub(first_row).min(R);
    if rows == 0 {
        return panel.fill([0; R]);
    }
    let start = first_row * matrix.row_stride + first_col * matrix.col_stride;
    let strides = (matrix.row_stride, matrix.col_stride);
    match matrix.data {
        Elements::F32(data) => pack(panel, &data[start..], rows, cols, strides, kernel),
        Elements::Bf16(data) => pack(panel, &data[start..], rows, cols, strides, kernel),
        Elements::Int8(data) => pack(panel, &data[start..], rows, cols, strides, kernel),
    }
}

fn pack<E: Element, const R: usize>(
    panel: &mut [[u32; R]],
    data: &[E],
    rows: usize,
    cols: usize,
    (row_stride, col_stride): (usize, usize),
    kernel: TileKernel,
) {
    assert!((rows - 1) * row_stride + (cols - 1) * col_stride < data.len(), "a panel leaves its slice");
    let done = match kernel {
        #[cfg(target_arch = "x86_64")]
        TileKernel::Avx512Bf16 if col_stride == 1 => {
            // SAFETY: `detect` found the instructions; all rows and columns lie in the slice, as checked above.
            unsafe { avx512::along_columns(panel, data, rows, cols, row_stride) }
        }
        #[cfg(target_arch = "x86_64")]
        TileKernel::Avx512Bf16 if row_stride == 1 && rows == R => {
            // SAFETY: as above.
            unsafe { avx512::along_rows(panel, data, cols, col_stride) }
        }
        _ => 0,
    };
    for (index, pairs) in panel.iter_mut().enumerate().skip(done) {
        for (row, pair) in pairs.iter_mut().enumerate() {
            let at = |col: usize| match row < rows && col < cols {
                true => u32::from(data[row * row_stride + col * col_stride].to_bf16().to_bits()),
                false => 0,
            };
            *pair = at(2 * index) | at(2 * index + 1) << 16;
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use super::Element;

    /// Pairs that one step packs: as many as a register has 32-bit lanes.
    const LANES: usize = 16;

    /// Packs rows whose columns are adjacent, 32 columns at a time; gives the pairs done.
    ///
    /// # Safety
    /// `rows` rows of `cols` numbers lie in `data`, `row_stride` apart, and the CPU has AVX512-BF16 and AVX512-BW.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn along_columns<E: Element, const R: usize>(
        panel: &mut [[u32; R]],
        data: &[E],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> usize {
        let steps = cols / (2 * LANES);
        for step in 0..steps {
            for first_row in (0..R).step_by(LANES) {
                let mut lanes = [_mm512_setzero_si512(); LANES];
                for (row, lane) in lanes.iter_mut().enumerate().take(rows.saturating_sub(first_row).min(LANES)) {
                    // SAFETY: the row is below `rows` and its 32 columns below `cols`.
                    *lane = unsafe {
                        let at = data.as_ptr().add((first_row + row) * row_stride + step * 2 * LANES);
                        E::load(at, at.add(LANES))
                    };
                }
                let width = LANES.min(R - first_row);
                let mask = u16::MAX >> (LANES - width);
                for (pair, lane) in transposed(lanes).into_iter().enumerate() {
                    let out = panel[step * LANES + pair][first_row..].as_mut_ptr();
                    // SAFETY: the mask keeps the store inside the pair's `R` lanes.
                    unsafe { _mm512_mask_storeu_epi32(out.cast(), mask, lane) };
                }
            }
        }
        steps * LANES
    }

    /// Packs columns whose rows are adjacent, two columns at a time; gives the pairs done.
    ///
    /// # Safety
    /// `cols` columns of `R` numbers lie in `data`, `col_stride` apart, and the CPU has AVX512-BF16 and AVX512-BW.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn along_rows<E: Element, const R: usize>(
        panel: &mut [[u32; R]],
        data: &[E],
        cols: usize,
        col_stride: usize,
    ) -> usize {
        // Lane i of the low half beside lane i of the high half.
        let interleave: [i16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * LANES) as i16);
        // SAFETY: the array is one register long.
        let interleave = unsafe { _mm512_loadu_si512(interleave.as_ptr().cast()) };
        // A load takes `LANES` rows although a panel may have fewer; the last columns leave no room for that.
        let room = data.len().saturating_sub(R.next_multiple_of(LANES));
        let pairs = (cols / 2).min((room / col_stride.max(1)).div_ceil(2));
        for (index, pair) in panel.iter_mut().enumerate().take(pairs) {
            for first_row in (0..R).step_by(LANES) {
                let width = LANES.min(R - first_row);
                let mask = u16::MAX >> (LANES - width);
                // SAFETY: both columns start at least `R` rounded up to `LANES` numbers before the slice's end; the
                // mask keeps the store inside the pair's `R` lanes.
                unsafe {
                    let low = data.as_ptr().add(2 * index * col_stride + first_row);
                    let both = E::load(low, low.add(col_stride));
                    let lanes = _mm512_permutexvar_epi16(interleave, both);
                    _mm512_mask_storeu_epi32(pair[first_row..].as_mut_ptr().cast(), mask, lanes);
                }
            }
        }
        pairs
    }

    /// The lower two bytes of each lane, which are numbers from -128 to 127, as a pair of bf16.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn low_bytes(lanes: __m512i) -> __m512i {
        // A number plus 128 among the lowest bits of a float that is a large power of two: subtracting both leaves it.
        const EVEN: f32 = 8_388_608.0; // 2^23, whose last bit is 1
        const ODD: f32 = 32_768.0; // 2^15, whose last bit but eight is 1
        /// Of three bits, `(a & b) ^ c`.
        const AND_XOR: i32 = 0x6a;
        let even_bits = _mm512_set1_epi32((EVEN.to_bits() | 0x80).cast_signed());
        let odd_bits = _mm512_set1_epi32((ODD.to_bits() | 0x8000).cast_signed());
        let even = _mm512_ternarylogic_epi32::<AND_XOR>(lanes, _mm512_set1_epi32(0xff), even_bits);
        let odd = _mm512_ternarylogic_epi32::<AND_XOR>(lanes, _mm512_set1_epi32(0xff00), odd_bits);
        let even = _mm512_sub_ps(_mm512_castsi512_ps(even), _mm512_set1_ps(EVEN + 128.0));
        let odd = _mm512_sub_ps(_mm512_castsi512_ps(odd), _mm512_set1_ps(ODD + 128.0));
        // Eight bits of significand hold each: the lower half of either is zero.
        let even = _mm512_srli_epi32::<16>(_mm512_castps_si512(even));
        _mm512_or_si512(_mm512_castps_si512(odd), even)
    }

    /// Exchanges rows and lanes of a 16×16 matrix of 32-bit numbers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::matrix) fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
        let mut a = rows;
        let mut b = rows;
        // Pairs of rows, by 32 bits, then by 64: 4×4 blocks are done.
        for i in 0..8 {
            b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
        }
        for i in 0..4 {
            a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
            a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
            a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
            a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
        }
        // a[4g + c] holds, in its 128-bit block q, column 4q + c of rows 4g..4g+4. Now blocks of 128 bits change places.
        for c in 0..4 {
            let low01 = _mm512_shuffle_i32x4::<0x44>(a[c], a[4 + c]); // blocks 0, 1 of groups 0 and 1
            let high01 = _mm512_shuffle_i32x4::<0xee>(a[c], a[4 + c]); // blocks 2, 3 of groups 0 and 1
            let low23 = _mm512_shuffle_i32x4::<0x44>(a[8 + c], a[12 + c]);
            let high23 = _mm512_shuffle_i32x4::<0xee>(a[8 + c], a[12 + c]);
            b[c] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
            b[4 + c] = _mm512_shuffle_i32x4::<0xdd>(low01, low23);
            b[8 + c] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
            b[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high01, high23);
        }
        b
    }
}
