//! Every kernel against its plain definition, on the device at hand.

use std::time::Instant;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::{
    AdamWParameter, AdamWStep, AttentionLayout, Compute, Dropout, IGNORE_INDEX, Int8Weight, RotaryTable, Weight, adamw,
    attention, causal_attention, embedding, embedding_backward, linear, logprobs, optimizer, rms_norm, rotary, swiglu,
    token_logprobs_vjp,
};

/// What was found out about one kernel.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KernelCheck {
    /// What the kernel does, and in which types.
    pub name: &'static str,
    /// Largest difference from the definition in f32 on the CPU, values and gradients, relative to the largest number.
    pub error: f64,
    /// Largest error that rounding explains.
    pub tolerance: f64,
    /// Seconds of a forward and a backward pass, the fastest of a few.
    pub seconds: f64,
    /// Seconds that the definition takes on the same device.
    pub definition_seconds: f64,
}

impl KernelCheck {
    /// Whether the error is one of rounding; not so where there is a NaN.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// f32 on both sides, in another order of sums of up to a thousand terms; TF32 or f16 inside would be far outside.
const F32_TOLERANCE: f64 = 1e-4;
/// A factor of a bf16 product that was itself computed may round to either neighbour, 2⁻⁸ apart.
const BF16_TOLERANCE: f64 = 4e-3;
/// Times that each side runs.
const REPETITIONS: usize = 3;

const TOKENS: usize = 192;
const WIDTH: usize = 256;
const OUTPUT: usize = 640;
const HEAD_DIM: usize = 64;
const DROPOUT: Dropout = Dropout { rate: 0.1, seed: 3 };

/// Compares every kernel with its definition on `device`.
///
/// What a device cannot store is left out: bf16, or int8. Takes seconds on a CPU; the first use of a GPU compiles its
/// kernels.
pub fn check_kernels(device: &Device) -> Vec<KernelCheck> {
    let computes = computes(device);
    let mut checks = linear_checks(device, &computes);
    checks.extend(elementwise_checks(device));
    checks.extend(computes.iter().map(|compute| attention_check(device, *compute)));
    checks.extend(computes.iter().map(|compute| logprobs_check(device, *compute)));
    checks.push(embedding_check(device));
    checks.push(adamw_check(device));
    checks
}

/// The types in which the device takes products.
fn computes(device: &Device) -> Vec<Compute> {
    let bf16 = device.supports_dtype(DType::BF16).then_some(Compute::Bf16);
    std::iter::once(Compute::F32).chain(bf16).collect()
}

fn linear_checks(device: &Device, computes: &[Compute]) -> Vec<KernelCheck> {
    let (x, weight, bias) = (numbers(1, [TOKENS, WIDTH]), numbers(2, [OUTPUT, WIDTH]), numbers(3, [1, OUTPUT]));
    let trained = |name, compute, tolerance| {
        Case { name, tolerance, inputs: vec![x.clone(), weight.clone(), bias.clone()] }.run(
            device,
            move |t| linear(t[0].clone(), t[1].clone(), Some(row(&t[2])), compute),
            move |t| linear::reference(t[0].clone(), t[1].clone().into(), Some(row(&t[2])), compute),
        )
    };
    let narrow = |device: &Device| tensor(&numbers(2, [OUTPUT, WIDTH]), device);
    // The gradient of the output is a factor too: ours is rounded, the definition's result is.
    let frozen = |name, tokens: usize, stored: &dyn Fn(&Device) -> Weight| {
        let (here, on_cpu) = (stored(device), stored(&Device::flex()));
        let weight = |t: &[Tensor<2>]| if t[0].device().inner() == *device { here.clone() } else { on_cpu.clone() };
        Case { name, tolerance: 2.0 * BF16_TOLERANCE, inputs: vec![numbers(1, [tokens, WIDTH])] }.run(
            device,
            |t| linear(t[0].clone(), weight(t), None, Compute::Bf16),
            |t| linear::reference(t[0].clone(), weight(t), None, Compute::Bf16),
        )
    };
    let bf16 = |device: &Device| narrow(device).cast(DType::BF16).into();
    let int8 = |device: &Device| Int8Weight::quantize(narrow(device)).into();
    let mut checks = vec![trained("dense layer, f32", Compute::F32, F32_TOLERANCE)];
    if computes.contains(&Compute::Bf16) {
        checks.extend([
            // Its gradients are rounded to bf16.
            trained("dense layer, bf16", Compute::Bf16, 2.0 * BF16_TOLERANCE),
            frozen("dense layer, bf16 weight", TOKENS, &bf16),
            frozen("dense layer, bf16 weight, one row", 1, &bf16),
        ]);
        if device.supports_dtype(DType::I8) {
            checks.extend([
                frozen("dense layer, int8 weight", TOKENS, &int8),
                frozen("dense layer, int8 weight, one row", 1, &int8),
            ]);
        }
    }
    checks
}

fn elementwise_checks(device: &Device) -> Vec<KernelCheck> {
    let (x, y, weight) = (numbers(1, [TOKENS, OUTPUT]), numbers(2, [TOKENS, OUTPUT]), numbers(3, [1, OUTPUT]));
    let positions: Vec<usize> = (0..TOKENS).collect();
    let table = |device: &Device| RotaryTable::new(&positions, HEAD_DIM, 1e6, device);
    let case = |name, inputs| Case { name, tolerance: F32_TOLERANCE, inputs };
    vec![
        case("RMS norm", vec![x.clone(), weight]).run(
            device,
            |t| rms_norm(t[0].clone(), row(&t[1]), 1e-6),
            |t| rms_norm::reference(t[0].clone(), row(&t[1]), 1e-6),
        ),
        case("dropout", vec![x.clone()]).run(
            device,
            |t| DROPOUT.forward(t[0].clone()),
            |t| DROPOUT.reference(t[0].clone()),
        ),
        case("SwiGLU", vec![x.clone(), y]).run(
            device,
            |t| swiglu(t[0].clone(), t[1].clone()),
            |t| swiglu::reference(t[0].clone(), t[1].clone()),
        ),
        case("rotary embedding", vec![x]).run(
            device,
            |t| rotary(t[0].clone(), &table(&t[0].device().inner())),
            |t| rotary::reference(t[0].clone(), &table(&t[0].device().inner())),
        ),
    ]
}

fn attention_check(device: &Device, compute: Compute) -> KernelCheck {
    let inputs = vec![
        numbers(1, [TOKENS, 4 * HEAD_DIM]),
        numbers(2, [TOKENS, 2 * HEAD_DIM]),
        numbers(3, [TOKENS, 2 * HEAD_DIM]),
    ];
    let (name, tolerance) = match compute {
        Compute::F32 => ("attention, f32", F32_TOLERANCE),
        Compute::Bf16 => ("attention, bf16", 4.0 * BF16_TOLERANCE),
    };
    let packed = AttentionLayout::packed(4, 2, HEAD_DIM, &[TOKENS / 3, TOKENS - TOKENS / 3]);
    let layout = AttentionLayout { compute, ..packed };
    Case { name, tolerance, inputs }.run(
        device,
        |t| causal_attention(t[0].clone(), t[1].clone(), t[2].clone(), &layout),
        |t| attention::reference(t[0].clone(), t[1].clone(), t[2].clone(), &layout),
    )
}

/// The head takes its gradients by itself: they are its outputs.
fn logprobs_check(device: &Device, compute: Compute) -> KernelCheck {
    let (hidden, head) = (numbers(1, [TOKENS, WIDTH]), numbers(2, [OUTPUT, WIDTH]));
    let labels: Vec<i32> =
        (0..TOKENS).map(|token| if token % 7 == 0 { IGNORE_INDEX } else { (token * 31 % OUTPUT) as i32 }).collect();
    let objective = |_: &[usize], logprobs: Tensor<1>| logprobs.ones_like().into();
    let side = |device: &Device, fused: bool| {
        let (hidden, head) = (tensor(&hidden, device), tensor(&head, device));
        let start = Some(head.zeros_like());
        let (tokens, gradients) = if fused {
            token_logprobs_vjp(hidden, head, &labels, start, &objective, 0.0, compute)
        } else {
            let head = Weight::from(head);
            let scored = logprobs::Scored::new(&hidden, &head, &labels);
            logprobs::reference_vjp(hidden, head, &scored, start, &objective, compute)
        };
        let gradient = gradients.head.expect("the head is trained");
        vec![values(tokens.logprobs), values(tokens.entropy), values(gradients.hidden), values(gradient)]
    };
    let (name, tolerance) = match compute {
        Compute::F32 => ("head with log-probabilities, f32", F32_TOLERANCE),
        Compute::Bf16 => ("head with log-probabilities, bf16", BF16_TOLERANCE),
    };
    compare(name, tolerance, device, side)
}

/// A few ids come often, as in text.
fn embedding_check(device: &Device) -> KernelCheck {
    let ids: Vec<i32> = (0..TOKENS).map(|token| (token * token % OUTPUT) as i32).collect();
    compare("embedding gradient", F32_TOLERANCE, device, |device, fused| {
        let (gradient, rows) =
            (tensor(&numbers(1, [OUTPUT, WIDTH]), device), tensor(&numbers(2, [TOKENS, WIDTH]), device));
        let sum =
            if fused { embedding_backward(gradient, &ids, rows) } else { embedding::reference(gradient, &ids, rows) };
        vec![values(sum)]
    })
}

fn adamw_check(device: &Device) -> KernelCheck {
    let step = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
        gradient_scale: 0.7,
        rounding_seed: 0,
    };
    compare("AdamW", F32_TOLERANCE, device, |device, fused| {
        let input = |seed| tensor(&numbers(seed, [OUTPUT, WIDTH]), device);
        let parameter = AdamWParameter {
            value: input(1),
            first_moment: input(2),
            second_moment: input(3).square().add_scalar(0.01),
        };
        let updated = match fused {
            true => adamw(parameter, input(4), &step),
            false => optimizer::reference(parameter, input(4), &step),
        };
        vec![values(updated.value), values(updated.first_moment), values(updated.second_moment)]
    })
}

/// One kernel on inputs of two dimensions.
struct Case {
    name: &'static str,
    tolerance: f64,
    inputs: Vec<Numbers>,
}

impl Case {
    fn run(
        self,
        device: &Device,
        kernel: impl Fn(&[Tensor<2>]) -> Tensor<2>,
        definition: impl Fn(&[Tensor<2>]) -> Tensor<2>,
    ) -> KernelCheck {
        compare(self.name, self.tolerance, device, |device, fused| {
            let leaf = |input: &Numbers| tensor(input, device).autodiff().require_grad();
            let leaves: Vec<Tensor<2>> = self.inputs.iter().map(leaf).collect();
            let output = if fused { kernel(&leaves) } else { definition(&leaves) };
            let projection = tensor(&numbers(9, output.dims()), device);
            let gradients = (output.clone() * projection).sum().backward();
            let gradients = leaves.iter().map(|leaf| leaf.grad(&gradients).expect("every input has a gradient"));
            std::iter::once(output.inner()).chain(gradients).map(values).collect()
        })
    }
}

/// Runs `side(device, fused)` on the device, and as the definition on the CPU.
fn compare(
    name: &'static str,
    tolerance: f64,
    device: &Device,
    side: impl Fn(&Device, bool) -> Vec<Vec<f32>>,
) -> KernelCheck {
    let oracle = side(&Device::flex(), false);
    let ours = side(device, true);
    let error = ours.iter().zip(&oracle).map(|(ours, oracle)| relative_error(ours, oracle)).fold(0.0, larger);
    let time = |fused| {
        let seconds = (0..REPETITIONS).map(|_| {
            let start = Instant::now();
            side(device, fused);
            start.elapsed().as_secs_f64()
        });
        seconds.fold(f64::INFINITY, f64::min)
    };
    KernelCheck { name, error, tolerance, seconds: time(true), definition_seconds: time(false) }
}

/// Of two numbers the larger, and NaN where one is.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn relative_error(ours: &[f32], oracle: &[f32]) -> f64 {
    if ours.len() != oracle.len() {
        return f64::INFINITY;
    }
    let scale = oracle.iter().map(|x| f64::from(x.abs())).fold(f64::MIN_POSITIVE, larger);
    ours.iter().zip(oracle).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, larger) / scale
}

/// Numbers of a test input and their shape.
#[derive(Clone)]
struct Numbers {
    values: Vec<f32>,
    shape: [usize; 2],
}

/// Between -1 and 1, the same on every device: multiples of the golden ratio, modulo 1.
fn numbers(seed: usize, shape: [usize; 2]) -> Numbers {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let number = |index: usize| ((index + 7919 * seed) as f64 * GOLDEN * seed as f64).fract() * 2.0 - 1.0;
    Numbers { values: (0..shape[0] * shape[1]).map(|index| number(index) as f32).collect(), shape }
}

fn tensor(numbers: &Numbers, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(numbers.values.clone(), numbers.shape), device)
}

fn row(tensor: &Tensor<2>) -> Tensor<1> {
    tensor.clone().squeeze_dim::<1>(0)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().try_to_vec().expect("cast to f32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_passes() {
        let failed: Vec<_> = check_kernels(&Device::flex()).into_iter().filter(|check| !check.passed()).collect();
        assert_eq!(failed, []);
    }

    #[test]
    fn nan_is_an_error() {
        assert!(relative_error(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert_eq!(relative_error(&[1.0, 1.5], &[1.0, 2.0]), 0.25);
    }
}
