//! Row primitives that the compiler turns into SIMD, compiled for AVX-512, AVX2 and the baseline and chosen at run time.
//!
//! Sums keep 16 partial sums, so a result depends on the row alone and never on the number of threads.

use half::bf16;
use multiversion::multiversion;

/// Partial sums per reduction: one AVX-512 register of f32.
pub(crate) const LANES: usize = 16;

/// `e^x` in f32: Cephes `expf` (S. Moshier), reduction by ln 2 in two parts and a degree-5 polynomial.
///
/// Within 2 ulp of the exact value; 0 below -86.6 (no denormals), infinity above 88.7, NaN for NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-86.6, 88.7);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 0.166_666_65);
    p = p.mul_add(r, 0.5);
    let fraction = (p * r).mul_add(r, r + 1.0);
    // 2^(n-1), built from the integer left in the low bits of `shifted`; n reaches 128, one more than f32 can say.
    let half_power = f32::from_bits(shifted.to_bits().wrapping_add(126) << 23);
    let value = fraction * half_power * 2.0;
    let value = if x < -86.6 { 0.0 } else { value };
    if x > 88.7 { f32::INFINITY } else { value }
}

/// The nearest bf16, the even one of two; NaN stays NaN. `half` branches where this can be vectorised.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
}

/// The value of a bf16. `half` asks for a NaN first; the shift keeps it one.
#[inline(always)]
pub(crate) fn to_f32(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// Rounds a row.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn round(out: &mut [bf16], x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = to_bf16(*x);
    }
}

/// `out += x`, the sum taken in f32.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn add_rounded(out: &mut [bf16], x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = to_bf16(to_f32(*o) + x);
    }
}

/// `out += x` for narrower `x`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn add_widened(out: &mut [f32], x: &[bf16]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o += to_f32(*x);
    }
}

/// `Σ x²`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn sum_of_squares(x: &[bf16]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            let x = to_f32(block[i]);
            lanes[i] = x.mul_add(x, lanes[i]);
        }
    }
    let mut sum = 0.0;
    for x in rest {
        sum += to_f32(*x) * to_f32(*x);
    }
    sum_lanes(lanes) + sum
}

#[inline(always)]
pub(crate) fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ a·b`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for i in 0..LANES {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    let mut rest = 0.0;
    for (x, y) in a_rest.iter().zip(b_rest) {
        rest += x * y;
    }
    sum_lanes(lanes) + rest
}

/// `Σ a·b·c`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let (c_blocks, c_rest) = c.as_chunks::<LANES>();
    for ((x, y), z) in a_blocks.iter().zip(b_blocks).zip(c_blocks) {
        for i in 0..LANES {
            lanes[i] = (x[i] * y[i]).mul_add(z[i], lanes[i]);
        }
    }
    let mut rest = 0.0;
    for ((x, y), z) in a_rest.iter().zip(b_rest).zip(c_rest) {
        rest += x * y * z;
    }
    sum_lanes(lanes) + rest
}

/// Largest element; NaN where the row holds one, -∞ for an empty row.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut has_nan = false;
    for block in blocks {
        for i in 0..LANES {
            has_nan |= block[i].is_nan();
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
        }
    }
    let mut best = f32::NEG_INFINITY;
    for &x in lanes.iter().chain(rest) {
        has_nan |= x.is_nan();
        best = if x > best { x } else { best };
    }
    if has_nan { f32::NAN } else { best }
}

/// Replaces each score by `e^(scale·score - shift)` and returns their sum.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn exp_in_place(row: &mut [f32], scale: f32, shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            block[i] = exp(block[i].mul_add(scale, -shift));
            lanes[i] += block[i];
        }
    }
    let mut sum = 0.0;
    for x in rest {
        *x = exp(x.mul_add(scale, -shift));
        sum += *x;
    }
    sum_lanes(lanes) + sum
}

/// Sums over a row, from which follow log-softmax, its entropy, and the expected probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RowSums {
    /// `Σ e^(x-shift)`.
    pub(crate) exp: f32,
    /// `Σ (x-shift)·e^(x-shift)`.
    pub(crate) weighted: f32,
    /// `Σ e^(2(x-shift))`.
    pub(crate) squared: f32,
    /// `Σ x`.
    pub(crate) plain: f32,
}

/// The sums of a row, which is left as it is.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn row_sums(row: &[f32], shift: f32) -> RowSums {
    let (mut exp_lanes, mut weighted_lanes, mut squared_lanes, mut plain_lanes) =
        ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES]);
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            let d = block[i] - shift;
            let e = exp(d);
            exp_lanes[i] += e;
            // -∞ · 0 is NaN: a masked logit adds nothing.
            weighted_lanes[i] += if e == 0.0 { 0.0 } else { d * e };
            squared_lanes[i] = e.mul_add(e, squared_lanes[i]);
            plain_lanes[i] += block[i];
        }
    }
    let mut sums = RowSums { exp: 0.0, weighted: 0.0, squared: 0.0, plain: 0.0 };
    for x in rest {
        let d = x - shift;
        let e = exp(d);
        sums.exp += e;
        sums.weighted += if e == 0.0 { 0.0 } else { d * e };
        sums.squared = e.mul_add(e, sums.squared);
        sums.plain += x;
    }
    RowSums {
        exp: sum_lanes(exp_lanes) + sums.exp,
        weighted: sum_lanes(weighted_lanes) + sums.weighted,
        squared: sum_lanes(squared_lanes) + sums.squared,
        plain: sum_lanes(plain_lanes) + sums.plain,
    }
}

/// Scales a row in place.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn scale_in_place(row: &mut [f32], factor: f32) {
    for x in row {
        *x *= factor;
    }
}

/// `out *= x`, element by element.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn multiply_in_place(out: &mut [f32], x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o *= x;
    }
}

/// `out += factor · x`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn add_scaled(out: &mut [f32], x: &[f32], factor: f32) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = x.mul_add(factor, *o);
    }
}

/// `out += factor · a · b`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn add_scaled_product(out: &mut [f32], a: &[f32], b: &[f32], factor: f32) {
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = (a * b).mul_add(factor, *o);
    }
}

/// `out = factor · a · b`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn scaled_product(out: &mut [f32], a: &[f32], b: &[f32], factor: f32) {
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = a * b * factor;
    }
}

/// `p · (dp - delta) · factor` in place of `p`: the gradient of the softmax rows.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn softmax_backward_row(p: &mut [f32], dp: &[f32], delta: f32, factor: f32) {
    for (p, dp) in p.iter_mut().zip(dp) {
        *p *= (dp - delta) * factor;
    }
}

/// As [`softmax_backward_row`], with one `delta` per column.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn softmax_backward_columns(p: &mut [f32], dp: &[f32], deltas: &[f32], factor: f32) {
    for ((p, dp), delta) in p.iter_mut().zip(dp).zip(deltas) {
        *p *= (dp - delta) * factor;
    }
}

/// `e^(scale·score - shift)` in place, with one shift per column.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn exp_columns(row: &mut [f32], scale: f32, shifts: &[f32]) {
    for (x, shift) in row.iter_mut().zip(shifts) {
        *x = exp(x.mul_add(scale, -shift));
    }
}

/// `out = silu(gate) · up`, with `silu(g) = g · σ(g)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn silu_product(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
        *o = g / (1.0 + exp(-g)) * u;
    }
}

/// Puts the gradients of [`silu_product`] with respect to `gate` and `up` in their place.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn silu_product_backward(gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
    let n = gate.len();
    let (up, grad) = (&mut up[..n], &grad[..n]);
    for i in 0..n {
        let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
        let silu = gate[i] * sigmoid;
        gate[i] = grad[i] * up[i] * sigmoid * (1.0 + gate[i] - silu);
        up[i] = grad[i] * silu;
    }
}

/// Rotates the halves of one head: `(x1·cos - x2·sin, x2·cos + x1·sin)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(crate) fn rotate(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    let (first, second) = out.split_at_mut(half);
    let (x1, x2) = x.split_at(half);
    let (second, x2, sin) = (&mut second[..half], &x2[..half], &sin[..half]);
    for i in 0..half {
        let s = sin[i] * sign;
        first[i] = x1[i] * cos[i] - x2[i] * s;
        second[i] = x2[i] * cos[i] + x1[i] * s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two units in the last place of f32, the bound that `exp` states.
    const EXP_RELATIVE_ERROR: f64 = 2.0 * f32::EPSILON as f64;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut row: Vec<f32> = (-8660..8870).map(|i| i as f32 * 0.01).collect();
        let inputs = row.clone();
        exp_in_place(&mut row, 1.0, 0.0);
        for (x, y) in inputs.iter().zip(&row) {
            let exact = f64::from(*x).exp();
            assert!(((f64::from(*y) - exact) / exact).abs() <= EXP_RELATIVE_ERROR, "exp({x}) = {y}, not {exact}");
        }
    }

    #[test]
    fn exp_keeps_limits_and_nan() {
        let mut row = [f32::NEG_INFINITY, -200.0, 0.0, 200.0, f32::INFINITY, f32::NAN];
        exp_in_place(&mut row, 1.0, 0.0);
        assert_eq!(row[..5], [0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY]);
        assert!(row[5].is_nan());
    }

    #[test]
    fn max_sees_every_element_and_nan() {
        let mut row: Vec<f32> = (0..37).map(|i| (i * 7 % 31) as f32).collect();
        assert_eq!(max(&row), 30.0);
        row[36] = 99.0;
        assert_eq!(max(&row), 99.0);
        row[3] = f32::NAN;
        assert!(max(&row).is_nan());
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn dot_covers_the_tail() {
        let a: Vec<f32> = (0..19).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), 2109.0);
        assert_eq!(dot3(&a, &a, &[2.0; 19]), 4218.0);
    }

    #[test]
    fn rounding_is_that_of_half() {
        let mut bits: Vec<u32> = (0..1 << 16).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
        bits.extend([0x7f80_0000, 0xff80_0000, 0x7fc0_0001, 0x7f80_0001, 0x7f7f_ffff, 0x3f80_8000, 0x3f81_8000, 1]);
        for x in bits.into_iter().map(f32::from_bits) {
            let (ours, theirs) = (to_bf16(x), bf16::from_f32(x));
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{x}: {ours} and {theirs}");
        }
    }
}
