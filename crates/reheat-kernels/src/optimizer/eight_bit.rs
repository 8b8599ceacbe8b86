//! AdamW with moments in 8 bits: a code for each number, a scale for each block of [`BLOCK`] (Dettmers et al. 2022,
//! 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861, sections 2.1 and 2.2).
//!
//! A code stands for a number between -1 and 1 of bitsandbytes' dynamic map: a power of ten and a linear fraction, as many
//! bits for the fraction as the power leaves. Each step widens a block, updates it in f32 as [`adamw`](super::adamw) does,
//! and rounds it to the nearest codes under its new largest magnitude.

use std::sync::LazyLock;

use burn::backend::Flex;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{AdamWStep, Factors};
use crate::choice::runs_on_cpu;
use crate::matrix::{Element, Elements, dense, elements, into_dense};

/// Numbers that share a scale.
pub const BLOCK: usize = 256;

/// Codes of a map.
const CODES: usize = 256;

/// Powers of ten that a map tells apart.
const POWERS: usize = 7;

/// Numbers that one task handles.
const CHUNK: usize = 64 * 1024;

/// A running mean in 8 bits.
#[derive(Debug, Clone)]
pub struct EightBitMoment {
    /// `[elements]`, u8.
    codes: Tensor<1, Int>,
    /// `[blocks]`, f32: the largest magnitude of each block.
    scales: Tensor<1>,
}

/// A flat parameter with its moments.
#[derive(Debug, Clone)]
pub struct EightBitParameter {
    /// The weights, `[elements]`, f32.
    pub value: Tensor<1>,
    /// Running mean of the gradient, with signs.
    pub first_moment: EightBitMoment,
    /// Running mean of its square, whose codes are of magnitudes alone.
    pub second_moment: EightBitMoment,
}

/// Which of the two maps a moment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EightBitMap {
    /// With negative numbers.
    Signed,
    /// Without, and twice as fine.
    Unsigned,
}

impl EightBitMoment {
    /// A mean of nothing yet: `len` zeros.
    pub fn zeros(len: usize, map: EightBitMap, device: &Device) -> Self {
        let zero = u8::try_from(map.table().zero).expect("there are 256 codes");
        let scales = Tensor::zeros([len.div_ceil(BLOCK)], (device, DType::F32));
        Self { codes: codes_from(vec![zero; len], device), scales }
    }

    /// Takes up what [`Self::codes`] and [`Self::scales`] gave.
    ///
    /// # Panics
    /// If the numbers of codes and scales do not belong together.
    pub fn new(codes: Tensor<1, Int>, scales: Tensor<1>) -> Self {
        assert_eq!(codes.dims()[0].div_ceil(BLOCK), scales.dims()[0], "a scale for each block of codes");
        Self { codes, scales }
    }

    /// `[elements]`, u8.
    pub fn codes(&self) -> Tensor<1, Int> {
        self.codes.clone()
    }

    /// `[blocks]`, f32.
    pub fn scales(&self) -> Tensor<1> {
        self.scales.clone()
    }

    /// The numbers that the codes stand for, `[elements]`, f32.
    pub(crate) fn widened(&self, map: EightBitMap) -> Tensor<1> {
        let [len] = self.codes.dims();
        let numbers = Tensor::<1>::from_data(map.numbers(), &self.scales.device());
        let scales = self.scales().unsqueeze_dim::<2>(1).repeat_dim(1, BLOCK); // [blocks, BLOCK]
        let scales = scales.reshape([-1]).narrow(0, 0, len);
        numbers.select(0, self.codes().cast(DType::I32)) * scales
    }
}

/// Codes in a tensor, `[elements]`, u8.
pub fn codes_from(codes: Vec<u8>, device: &Device) -> Tensor<1, Int> {
    let len = codes.len();
    Tensor::from_data(TensorData::from_bytes_vec(codes, [len], DType::U8), (device, DType::U8))
}

/// One AdamW step with moments in 8 bits.
///
/// # Shapes
/// - `gradient`: `[elements]`, f32 or bf16
///
/// # Panics
/// If the sizes differ.
pub fn adamw_8bit(parameter: EightBitParameter, gradient: Tensor<1>, step: &AdamWStep) -> EightBitParameter {
    let EightBitParameter { value, first_moment, second_moment } = parameter;
    assert_eq!(value.dims(), gradient.dims(), "adamw_8bit: parameter and gradient differ in size");
    for moment in [&first_moment, &second_moment] {
        assert_eq!(value.dims(), moment.codes.dims(), "adamw_8bit: parameter and moment differ in size");
    }
    let parameter = EightBitParameter { value, first_moment, second_moment };
    if !runs_on_cpu(&parameter.value) {
        return reference(parameter, gradient, step);
    }
    let (mut value, gradient) = (dense(parameter.value), dense(gradient));
    let mut first = OnCpu::new(parameter.first_moment);
    let mut second = OnCpu::new(parameter.second_moment);
    let factors = step.factors();
    match elements(&gradient) {
        Elements::F32(gradient) => update_all(value.storage_mut(), &mut first, &mut second, gradient, factors),
        Elements::Bf16(gradient) => update_all(value.storage_mut(), &mut first, &mut second, gradient, factors),
        Elements::Int8(_) => unreachable!("gradients are f32 or bf16"),
    }
    EightBitParameter {
        value: Tensor::from_primitive::<Flex>(value),
        first_moment: first.into_moment(),
        second_moment: second.into_moment(),
    }
}

/// The storage of a moment on the CPU.
struct OnCpu {
    codes: FlexTensor,
    scales: FlexTensor,
}

impl OnCpu {
    fn new(moment: EightBitMoment) -> Self {
        let codes = moment.codes.try_into_primitive::<Flex>().expect("the moment is on the CPU like its parameter");
        Self { codes: into_dense(codes), scales: dense(moment.scales) }
    }

    fn into_moment(self) -> EightBitMoment {
        EightBitMoment {
            codes: Tensor::from_primitive::<Flex>(self.codes),
            scales: Tensor::from_primitive::<Flex>(self.scales),
        }
    }
}

fn update_all<G: Element>(value: &mut [f32], first: &mut OnCpu, second: &mut OnCpu, gradient: &[G], factors: Factors) {
    let (first_codes, first_scales) = (first.codes.storage_mut::<u8>(), first.scales.storage_mut::<f32>());
    let (second_codes, second_scales) = (second.codes.storage_mut::<u8>(), second.scales.storage_mut::<f32>());
    value
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(first_codes.par_chunks_mut(CHUNK).zip(first_scales.par_chunks_mut(CHUNK / BLOCK)))
        .zip(second_codes.par_chunks_mut(CHUNK).zip(second_scales.par_chunks_mut(CHUNK / BLOCK)))
        .for_each(|(((value, gradient), (first, first_scales)), (second, second_scales))| {
            let blocks = value
                .chunks_mut(BLOCK)
                .zip(gradient.chunks(BLOCK))
                .zip(first.chunks_mut(BLOCK).zip(first_scales))
                .zip(second.chunks_mut(BLOCK).zip(second_scales));
            for (((value, gradient), first), second) in blocks {
                update_block(value, gradient, first, second, factors);
            }
        });
}

fn update_block<G: Element>(
    value: &mut [f32],
    gradient: &[G],
    (first_codes, first_scale): (&mut [u8], &mut f32),
    (second_codes, second_scale): (&mut [u8], &mut f32),
    f: Factors,
) {
    let n = value.len();
    let (mut first, mut second) = ([0.0; BLOCK], [0.0; BLOCK]);
    EightBitMap::Signed.table().widen(first_codes, *first_scale, &mut first);
    EightBitMap::Unsigned.table().widen(second_codes, *second_scale, &mut second);
    for i in 0..n {
        let g = gradient[i].to_f32() * f.gradient_scale;
        let m = first[i] * f.beta1 + g * f.one_minus_beta1;
        let v = second[i] * f.beta2 + g * g * f.one_minus_beta2;
        let denominator = v.sqrt() / f.root_correction + f.epsilon;
        value[i] = value[i] * f.keep - f.step_size * m / denominator;
        first[i] = m;
        second[i] = v;
    }
    *first_scale = EightBitMap::Signed.table().round(&first[..n], first_codes);
    *second_scale = EightBitMap::Unsigned.table().round(&second[..n], second_codes);
}

/// The numbers of a map, and how the nearest to another number is found.
struct Table {
    /// In ascending order.
    numbers: [f32; CODES],
    /// The code of 0; those above it are positive.
    zero: usize,
    /// Largest magnitudes that are still nearer to the code of this distance from zero than to the next.
    borders: Vec<f32>,
    /// A distance from zero for the upper bits of a magnitude: that of the smallest one that has them.
    nearest: Vec<u8>,
}

/// Bits of a magnitude that the table of distances leaves out; no two borders share those that are left.
const LEFT_OUT: u32 = 16;
/// Upper bits of the smallest magnitude that the table of distances knows, 2⁻²⁵: what is below is nearest to 0 in both
/// maps.
const SMALLEST: u32 = (127 - 25) << (23 - LEFT_OUT);
/// Upper bits of the largest: 1.
const LARGEST: u32 = 127 << (23 - LEFT_OUT);

static SIGNED: LazyLock<Table> = LazyLock::new(|| Table::new(EightBitMap::Signed));
static UNSIGNED: LazyLock<Table> = LazyLock::new(|| Table::new(EightBitMap::Unsigned));

impl EightBitMap {
    fn table(self) -> &'static Table {
        match self {
            Self::Signed => &SIGNED,
            Self::Unsigned => &UNSIGNED,
        }
    }

    /// Its numbers in ascending order (bitsandbytes 0.50, `create_dynamic_map`).
    pub fn numbers(self) -> [f32; CODES] {
        let mut numbers = vec![0.0, 1.0];
        for power in 0..POWERS {
            let fractions = if self == Self::Signed { 1 << power } else { 2 << power };
            let scale = 10.0_f64.powi(power as i32 + 1 - POWERS as i32);
            for index in 0..fractions {
                // The middle of the parts into which the numbers from 0.1 to 1 fall.
                let fraction = 0.1 + 0.9 * (f64::from(index) + 0.5) / f64::from(fractions);
                numbers.push((scale * fraction) as f32);
                if self == Self::Signed {
                    numbers.push((-scale * fraction) as f32);
                }
            }
        }
        numbers.sort_by(f32::total_cmp);
        numbers.try_into().expect("254 fractions, 0 and 1")
    }
}

impl Table {
    fn new(map: EightBitMap) -> Self {
        let numbers = map.numbers();
        let zero = numbers.iter().position(|number| *number == 0.0).expect("0 is a number of the map");
        let borders: Vec<f32> = numbers[zero..].windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect();
        let distance = |bits: u32| {
            let magnitude = f32::from_bits(bits << LEFT_OUT);
            borders.partition_point(|border| *border < magnitude) as u8
        };
        let nearest = (SMALLEST..=LARGEST).map(distance).collect();
        Self { numbers, zero, borders, nearest }
    }

    fn widen(&self, codes: &[u8], scale: f32, out: &mut [f32]) {
        for (out, code) in out.iter_mut().zip(codes) {
            *out = self.numbers[usize::from(*code)] * scale;
        }
    }

    /// Gives the largest magnitude.
    fn round(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        if largest > 0.0 {
            for (code, value) in codes.iter_mut().zip(values) {
                *code = self.code(value / largest);
            }
        } else {
            codes.fill(self.zero as u8);
        }
        largest
    }

    /// The code of the nearest number, the nearer to zero of two.
    fn code(&self, value: f32) -> u8 {
        let magnitude = value.abs().min(1.0);
        let upper = (magnitude.to_bits() >> LEFT_OUT).clamp(SMALLEST, LARGEST) - SMALLEST;
        let mut distance = usize::from(self.nearest[upper as usize]);
        if self.borders.get(distance).is_some_and(|border| magnitude > *border) {
            distance += 1;
        }
        if value < 0.0 { self.zero - distance.min(self.zero) } else { self.zero + distance }
            .try_into()
            .unwrap_or(u8::MAX)
    }
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(parameter: EightBitParameter, gradient: Tensor<1>, step: &AdamWStep) -> EightBitParameter {
    let f = step.factors();
    let len = gradient.dims()[0];
    let gradient = gradient.cast(DType::F32) * f.gradient_scale;
    let first_moment =
        parameter.first_moment.widened(EightBitMap::Signed) * f.beta1 + gradient.clone() * f.one_minus_beta1;
    let second_moment =
        parameter.second_moment.widened(EightBitMap::Unsigned) * f.beta2 + gradient.square() * f.one_minus_beta2;
    let denominator = second_moment.clone().sqrt() / f.root_correction + f.epsilon;
    let value = parameter.value * f.keep - first_moment.clone() * f.step_size / denominator;
    EightBitParameter {
        value,
        first_moment: rounded(first_moment, EightBitMap::Signed, len),
        second_moment: rounded(second_moment, EightBitMap::Unsigned, len),
    }
}

/// Numbers as codes and scales.
fn rounded(values: Tensor<1>, map: EightBitMap, len: usize) -> EightBitMoment {
    let blocks = len.div_ceil(BLOCK);
    let device = values.device();
    let padding = Tensor::zeros([blocks * BLOCK - len], (&device, DType::F32));
    let values = Tensor::cat(vec![values, padding], 0).reshape([blocks, BLOCK]);
    let scales = values.clone().abs().max_dim(1); // [blocks, 1]
    let divisors = scales.clone().mask_fill(scales.clone().equal_elem(0.0), 1.0);
    let values = (values / divisors).reshape([blocks * BLOCK]).narrow(0, 0, len);
    // The number of borders below a value is its code: a search by halves, of 8 steps.
    let numbers = map.numbers();
    let mut borders: Vec<f32> = numbers.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect();
    borders.push(f32::INFINITY);
    let borders = Tensor::<1>::from_data(borders.as_slice(), &device);
    let mut codes = Tensor::<1, Int>::zeros([len], (&device, DType::I32));
    for half in (0..8).rev().map(|bit| 1 << bit) {
        let above = values.clone().greater(borders.clone().select(0, codes.clone() + (half - 1)));
        codes = codes + above.int().cast(DType::I32) * half;
    }
    EightBitMoment { codes: codes.cast(DType::U8), scales: scales.squeeze_dim::<1>(1) }
}
