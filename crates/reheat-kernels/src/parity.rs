//! Every kernel against its plain definition: values and gradients, over odd sizes, single rows and prefixes.

#[cfg(feature = "wgpu")]
mod cube;

use burn::tensor::{DType, Device, Distribution, Tensor};
use proptest::prelude::*;

use crate::*;

/// Both sides compute in f32 and differ in the order of their sums: up to a few hundred terms of size 1.
const TOLERANCE: f32 = 2e-5;

/// Where a factor of a bf16 product was itself computed, both sides may round it to different neighbours, 2⁻⁸ apart.
const ROUNDED_TOLERANCE: f32 = 4e-3;

fn device() -> Device {
    Device::flex()
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device())
}

fn assert_close<const D: usize>(what: &str, ours: Tensor<D>, oracle: Tensor<D>) {
    assert_within(TOLERANCE, what, ours, oracle);
}

fn assert_within<const D: usize>(tolerance: f32, what: &str, ours: Tensor<D>, oracle: Tensor<D>) {
    assert_eq!(ours.dims(), oracle.dims(), "{what}");
    let scale = oracle.clone().abs().max().into_scalar::<f32>().max(1.0);
    let difference = (ours - oracle).abs().max().into_scalar::<f32>();
    assert!(difference <= tolerance * scale, "{what}: off by {difference} at scale {scale}");
}

/// As [`compare_on`], with the kernel for the CPU.
fn compare<const N: usize>(
    inputs: [Tensor<2>; N],
    kernel: impl Fn([Tensor<2>; N]) -> Tensor<2>,
    oracle: impl Fn([Tensor<2>; N]) -> Tensor<2>,
) {
    compare_on(&device(), inputs, kernel, oracle);
}

/// Compares a kernel on `place` with its definition on the CPU: output and the gradient of a random projection of it in
/// every input.
fn compare_on<const N: usize>(
    place: &Device,
    inputs: [Tensor<2>; N],
    kernel: impl Fn([Tensor<2>; N]) -> Tensor<2>,
    oracle: impl Fn([Tensor<2>; N]) -> Tensor<2>,
) {
    let output = oracle(inputs.clone());
    let there = inputs.clone().map(|x| x.to_device(place));
    assert_close("output without gradients", kernel(there).to_device(&device()), output.clone());
    let projection = random(output.dims());
    let gradients = |f: &dyn Fn([Tensor<2>; N]) -> Tensor<2>, place: &Device| {
        let leaves = inputs.clone().map(|x| x.to_device(place).autodiff().require_grad());
        let y = f(leaves.clone());
        let gradients = (y.clone() * projection.clone().to_device(place)).sum().backward();
        let gradient = |leaf: Tensor<2>| leaf.grad(&gradients).expect("every input has a gradient");
        (y.inner().to_device(&device()), leaves.map(|leaf| gradient(leaf).to_device(&device())))
    };
    let (ours, our_gradients) = gradients(&kernel, place);
    let (theirs, their_gradients) = gradients(&oracle, &device());
    assert_close("output", ours, theirs);
    for (index, (ours, theirs)) in our_gradients.into_iter().zip(their_gradients).enumerate() {
        assert_close(&format!("gradient of input {index}"), ours, theirs);
    }
}

fn row(x: Tensor<2>) -> Tensor<1> {
    x.squeeze_dim::<1>(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn linear_equals_its_definition(tokens in 1usize..70, input in 1usize..40, output in 1usize..50) {
        compare([random([tokens, input]), random([output, input]), random([1, output])],
            |[x, w, b]| linear(x, w, Some(row(b)), Compute::F32),
            |[x, w, b]| linear::reference(x, w.into(), Some(row(b)), Compute::F32));
        compare([random([tokens, input]), random([output, input])],
            |[x, w]| linear(x, w, None, Compute::F32), |[x, w]| linear::reference(x, w.into(), None, Compute::F32));
    }

    /// Gradients are those of the definition with every factor rounded, the gradient of the output too.
    #[test]
    fn linear_in_bf16_equals_its_definition(tokens in 1usize..70, input in 1usize..140, output in 1usize..80) {
        let (x, weight, grad) = (random([tokens, input]), random([output, input]), random([tokens, output]));
        let leaves = [x.clone(), weight.clone()].map(|leaf| leaf.autodiff().require_grad());
        let y = linear(leaves[0].clone(), leaves[1].clone(), None, Compute::Bf16);
        let gradients = (y.clone() * grad.clone()).sum().backward();
        let rounded = |factor: &Tensor<2>| linear::rounded(factor.clone(), Compute::Bf16);
        assert_close("output", y.inner(), linear::reference(x.clone(), weight.clone().into(), None, Compute::Bf16));
        assert_close("gradient of x", leaves[0].grad(&gradients).unwrap(), rounded(&grad).matmul(rounded(&weight)));
        let ours = leaves[1].grad(&gradients).unwrap();
        assert_eq!(ours.dtype(), DType::BF16);
        assert_within(ROUNDED_TOLERANCE, "gradient of the weight", ours.cast(DType::F32),
            rounded(&grad).transpose().matmul(rounded(&x)));
    }

    #[test]
    fn linear_with_narrow_weights_equals_its_definition(tokens in 1usize..40, input in 1usize..140, output in 1usize..80) {
        let (x, weight, bias) = (random([tokens, input]), random([output, input]), random([1, output]));
        for weight in [Weight::from(weight.clone().cast(DType::BF16)), Int8Weight::quantize(weight.clone()).into()] {
            for compute in [Compute::F32, Compute::Bf16] {
                let ours = linear(x.clone(), weight.clone(), Some(row(bias.clone())), compute);
                assert_close("output", ours, linear::reference(x.clone(), weight.clone(), Some(row(bias.clone())), compute));
                let leaf = x.clone().autodiff().require_grad();
                let grad = random([tokens, output]);
                let gradients = (linear(leaf.clone(), weight.clone(), None, compute) * grad.clone()).sum().backward();
                // The scales of an int8 weight go with the gradient; its integers are exact in either type.
                let (stored, grad) = match &weight {
                    Weight::Float(weight) => (weight.clone(), grad),
                    Weight::Int8(weight) => (weight.values().float(), grad * weight.scales().unsqueeze::<2>()),
                };
                let oracle = linear::rounded(grad, compute).matmul(linear::rounded(stored, compute));
                assert_close("gradient of x", leaf.grad(&gradients).unwrap(), oracle);
            }
        }
    }

    #[test]
    fn linear_four_bit_equals_its_definition(
        tokens in 1usize..40,
        input in 1usize..70,
        output in 1usize..50,
        nested_scales: bool,
        fp4: bool,
    ) {
        let kind = if fp4 { FourBitKind::Fp4 } else { FourBitKind::Nf4 };
        let weight = FourBitWeight::quantize(random([output, input]), FourBitConfig { kind, nested_scales });
        compare([random([tokens, input])],
            |[x]| linear_four_bit(x, &weight, None, Compute::F32),
            |[x]| four_bit::reference(x, &weight));
    }

    #[test]
    fn lora_equals_its_definition(
        tokens in 1usize..70,
        input in 1usize..40,
        output in 1usize..50,
        rank in 1usize..9,
        rate in prop_oneof![Just(0.0), 0.0..0.95],
        seed: u64,
    ) {
        let dropout = (rate > 0.0).then_some(Dropout { rate, seed });
        let update = LoraUpdate { scale: 1.7, dropout };
        compare([random([tokens, output]), random([tokens, input]), random([rank, input]), random([output, rank])],
            |[y, x, a, b]| lora(y, x, a, b, update), |[y, x, a, b]| lora::reference(y, x, a, b, update));
    }

    /// Inputs keep away from 0: the gradient of a row of next to nothing is the difference of two huge numbers.
    #[test]
    fn rms_norm_equals_its_definition(rows in 1usize..90, width in 1usize..70) {
        let x = random([rows, width]);
        compare([x.clone() + x.sign() * 0.5, random([1, width])],
            |[x, w]| rms_norm(x, row(w), 1e-6), |[x, w]| rms_norm::reference(x, row(w), 1e-6));
    }

    #[test]
    fn swiglu_equals_its_definition(rows in 1usize..40, width in 1usize..70) {
        compare([random([rows, width]), random([rows, width])],
            |[gate, up]| swiglu(gate, up), |[gate, up]| swiglu::reference(gate, up));
    }

    #[test]
    fn rotary_equals_its_definition(tokens in 1usize..80, heads in 1usize..4, half in 1usize..20, start in 0usize..500) {
        let positions: Vec<usize> = (start..start + tokens).collect();
        let table = RotaryTable::new(&positions, 2 * half, 1e6, &device());
        compare([random([tokens, heads * 2 * half])], |[x]| rotary(x, &table), |[x]| rotary::reference(x, &table));
    }

    #[test]
    fn attention_equals_its_definition(
        lens in prop::collection::vec(1usize..140, 1..4),
        groups in 1usize..4,
        num_key_value_heads in 1usize..3,
        head_dim in 1usize..20,
        prefix in 0usize..90,
    ) {
        let num_heads = groups * num_key_value_heads;
        let mut layout = AttentionLayout::packed(num_heads, num_key_value_heads, head_dim, &lens);
        // The first sequence follows a cached prefix: its keys start earlier than its queries.
        for (index, span) in layout.spans.iter_mut().enumerate() {
            let start = if index == 0 { 0 } else { span.keys.start + prefix };
            span.keys = start..span.keys.end + prefix;
        }
        let (queries, keys) = (lens.iter().sum(), lens.iter().sum::<usize>() + prefix);
        let key_shape = [keys, num_key_value_heads * head_dim];
        compare([random([queries, num_heads * head_dim]), random(key_shape), random(key_shape)],
            |[q, k, v]| causal_attention(q, k, v, &layout), |[q, k, v]| attention::reference(q, k, v, &layout));
    }

    #[test]
    fn logprobs_equal_their_definition(
        labels in prop::collection::vec(prop_oneof![Just(IGNORE_INDEX), 0i32..37], 1..50),
        width in 1usize..30,
        smoothing in prop_oneof![Just(0.0), 0.0..0.9],
        bf16: bool,
        with_entropy: bool,
    ) {
        let (hidden, head) = (random([labels.len(), width]), random([37, width]));
        let compute = if bf16 { Compute::Bf16 } else { Compute::F32 };
        let objective = |positions: &[usize], logprobs: Tensor<1>| {
            let weight = |position: &usize| (*position as f32 + 0.5) / labels.len() as f32;
            let weights: Vec<f32> = positions.iter().map(weight).collect();
            let weights = Tensor::from_data(weights.as_slice(), &device());
            let entropy = with_entropy.then(|| weights.clone() * -0.3);
            TokenDerivatives { logprobs: logprobs.exp() * weights, entropy }
        };
        let start = random([37, width]);
        let (stats, gradients) =
            token_logprobs_vjp(hidden.clone(), head.clone(), &labels, Some(start.clone()), &objective, smoothing, compute);
        let forward = token_logprobs(hidden.clone(), head.clone(), &labels, compute);
        let scored = logprobs::Scored::new(&hidden, &head.clone().into(), &labels).smoothed(smoothing);
        let oracle = logprobs::reference_vjp(hidden, head.into(), &scored, Some(start), &objective, compute);
        assert_close("log-probabilities, forward only", forward.logprobs, oracle.0.logprobs.clone());
        assert_close("log-probabilities", stats.logprobs, oracle.0.logprobs);
        assert_close("entropy", stats.entropy, oracle.0.entropy);
        assert_close("top-1 hits", stats.is_top1, oracle.0.is_top1);
        assert_close("mean logit", stats.mean_logit, oracle.0.mean_logit);
        assert_close("mean log-probability", stats.mean_logprob, oracle.0.mean_logprob);
        assert_close("expected probability", stats.log_sum_sq_probs, oracle.0.log_sum_sq_probs);
        let tolerance = if bf16 { ROUNDED_TOLERANCE } else { TOLERANCE };
        assert_within(tolerance, "gradient of the hidden states", gradients.hidden, oracle.1.hidden);
        assert_within(tolerance, "gradient of the head", gradients.head.unwrap(), oracle.1.head.unwrap());
    }

    #[test]
    fn adamw_equals_its_definition(rows in 1usize..30, width in 1usize..30, step in 1u64..2000) {
        let parameter = AdamWParameter {
            value: random([rows, width]),
            first_moment: random([rows, width]),
            second_moment: random([rows, width]).square(),
        };
        let settings = AdamWStep {
            learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1, step, gradient_scale: 0.7,
            rounding_seed: 0,
        };
        let gradient = random([rows, width]).cast(if rows % 2 == 0 { DType::F32 } else { DType::BF16 });
        let ours = adamw(parameter.clone(), gradient.clone(), &settings);
        let oracle = optimizer::reference(parameter, gradient, &settings);
        assert_close("value", ours.value, oracle.value);
        assert_close("first moment", ours.first_moment, oracle.first_moment);
        assert_close("second moment", ours.second_moment, oracle.second_moment);
    }
}

/// Sizes that end within a block. A moment halfway between two codes may take either, and gradients in bf16 meet that
/// often: both codes are equally far from it then.
#[test]
fn adamw_in_8_bits_equals_its_definition() {
    for (len, dtype) in
        [(1, DType::F32), (255, DType::BF16), (256, DType::F32), (700, DType::BF16), (70_000, DType::F32)]
    {
        let mut parameter = EightBitParameter {
            value: Tensor::zeros([len], &device()),
            first_moment: EightBitMoment::zeros(len, EightBitMap::Signed, &device()),
            second_moment: EightBitMoment::zeros(len, EightBitMap::Unsigned, &device()),
        };
        for step in 1..4 {
            let settings = AdamWStep {
                learning_rate: 1e-2,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.1,
                step,
                gradient_scale: 0.7,
                rounding_seed: 0,
            };
            let gradient = (random([len]) * random([len]).powi_scalar(3)).cast(dtype);
            let scaled = gradient.clone().cast(DType::F32) * settings.gradient_scale;
            let first = parameter.first_moment.widened(EightBitMap::Signed) * 0.9 + scaled.clone() * 0.1;
            let second = parameter.second_moment.widened(EightBitMap::Unsigned) * 0.999 + scaled.square() * 0.001;
            let ours = adamw_8bit(parameter.clone(), gradient.clone(), &settings);
            let oracle = optimizer::eight_bit::reference(parameter, gradient, &settings);
            assert_close("value", ours.value, oracle.value.clone());
            for (map, exact, ours, oracle) in [
                (EightBitMap::Signed, first, ours.first_moment, &oracle.first_moment),
                (EightBitMap::Unsigned, second, ours.second_moment, &oracle.second_moment),
            ] {
                assert_close("scales", ours.scales(), oracle.scales());
                let off = (ours.codes().cast(DType::I32) - oracle.codes().cast(DType::I32)).abs();
                assert!(off.max().into_scalar::<i32>() <= 1, "{len} numbers, step {step}");
                let distance = |moment: &EightBitMoment| (exact.clone() - moment.widened(map)).abs();
                let farther = (distance(&ours) - distance(oracle)).abs() / exact.clone().abs().clamp_min(1e-30);
                assert!(farther.max().into_scalar::<f32>() < 1e-5, "{len} numbers, step {step}");
            }
            parameter = oracle;
        }
    }
}

/// The oracle's derivative of the entropy, by autodiff of the definition `-Σ p·log p`.
#[test]
fn the_derivative_of_the_entropy_is_that_of_its_definition() {
    let (hidden, head) = (random([5, 8]), random([11, 8]));
    let labels = [3, 0, 10, 7, 1];
    let weights = Tensor::<1>::from_data([0.5f32, -1.0, 2.0, 0.1, 1.5], &device());
    let objective = |_: &[usize], logprobs: Tensor<1>| TokenDerivatives {
        logprobs: logprobs.zeros_like(),
        entropy: Some(weights.clone()),
    };
    let (_, ours) = token_logprobs_vjp(hidden.clone(), head.clone(), &labels, None, &objective, 0.0, Compute::F32);

    let tracked = hidden.autodiff().require_grad();
    let log_p = burn::tensor::activation::log_softmax(tracked.clone().matmul(head.transpose()), 1); // [tokens, vocab]
    let entropy = -(log_p.clone().exp() * log_p).sum_dim(1).squeeze_dim::<1>(1);
    let gradients = (entropy * weights).sum().backward();
    let theirs = tracked.grad(&gradients).expect("it was marked as requiring a gradient");
    assert_close("gradient of the hidden states", ours.hidden, theirs);
}

/// Softmax and its backward pass compute what is rounded next, so that both sides may round it apart.
#[test]
fn attention_in_bf16_equals_its_definition() {
    let mut layout = AttentionLayout::packed(4, 2, 16, &[70, 33]);
    layout.compute = Compute::Bf16;
    let inputs = [random([103, 64]), random([103, 32]), random([103, 32])];
    let run = |[q, k, v]: [Tensor<2>; 3]| causal_attention(q, k, v, &layout);
    let oracle = attention::reference(inputs[0].clone(), inputs[1].clone(), inputs[2].clone(), &layout);
    assert_within(ROUNDED_TOLERANCE, "output", run(inputs.clone()), oracle);
    // Gradients are those of f32 but for the rounding of every factor, which a norm averages.
    let projection = random([103, 64]);
    let gradients = |layout: &AttentionLayout| {
        let leaves = inputs.clone().map(|input| input.autodiff().require_grad());
        let [q, k, v] = leaves.clone();
        let gradients = (causal_attention(q, k, v, layout) * projection.clone()).sum().backward();
        leaves.map(|leaf| leaf.grad(&gradients).unwrap())
    };
    let exact = gradients(&AttentionLayout { compute: Compute::F32, ..layout.clone() });
    let norm = |x: Tensor<2>| x.square().sum().sqrt().into_scalar::<f32>();
    for (ours, exact) in gradients(&layout).into_iter().zip(exact) {
        let off = norm(ours - exact.clone()) / norm(exact);
        assert!(off < 2.0 * ROUNDED_TOLERANCE, "gradient: off by {off} of its norm");
    }
}

#[test]
fn embedding_rows_of_one_id_are_summed() {
    let rows = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], &device());
    let gradient = embedding_backward(Tensor::ones([4, 2], &device()), &[2, 0, 2], rows);
    gradient
        .into_data()
        .assert_eq(&burn::tensor::TensorData::from([[4.0, 5.0], [1.0, 1.0], [7.0, 9.0], [1.0, 1.0f32]]), true);
}

#[test]
fn embedding_rows_are_added_to_a_rounded_gradient() {
    let rows = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], &device());
    let gradient = embedding_backward(Tensor::<2>::ones([4, 2], &device()).cast(DType::BF16), &[2, 0, 2], rows);
    assert_eq!(
        gradient.cast(DType::F32).into_data().try_to_vec::<f32>().unwrap(),
        [4.0, 5.0, 1.0, 1.0, 7.0, 9.0, 1.0, 1.0]
    );
}

/// 100,000 moments of 1 get a thousandth of 0 or 2 each: the mean moves by ±0.001, a quarter of a step of bf16 and less.
#[test]
fn moments_in_bf16_keep_their_mean() {
    const COUNT: usize = 100_000;
    // A step of bf16 below 1 is 2⁻⁸, above it 2⁻⁷: six standard deviations of the mean of that many draws.
    const MEAN_TOLERANCE: f32 = 6.0 * 0.5 / 128.0 / 316.0;
    for gradient in [0.0, std::f32::consts::SQRT_2] {
        let ones = || Tensor::<1>::ones([COUNT], &device()).cast(DType::BF16);
        let parameter =
            AdamWParameter { value: Tensor::zeros([COUNT], &device()), first_moment: ones(), second_moment: ones() };
        let settings = AdamWStep {
            learning_rate: 0.0,
            beta1: 0.999,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: 1,
            gradient_scale: 1.0,
            rounding_seed: 7,
        };
        let gradient = Tensor::<1>::full([COUNT], gradient, &device());
        for stepped in [
            adamw(parameter.clone(), gradient.clone(), &settings),
            optimizer::reference(parameter, gradient.clone(), &settings),
        ] {
            let expected = 0.999 + 0.001 * gradient.clone().square().mean().into_scalar::<f32>();
            let mean = stepped.second_moment.cast(DType::F32).mean().into_scalar::<f32>();
            assert!((mean - expected).abs() < MEAN_TOLERANCE, "{mean}, expected {expected}");
        }
    }
}

#[test]
fn gradients_of_both_types_are_summed_in_f32() {
    let values = |dtype| Tensor::<1>::from_data([1.0, 2.5], &device()).cast(dtype);
    for (left, right) in
        [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::F32, DType::BF16), (DType::BF16, DType::BF16)]
    {
        let sum = add_gradients(values(left), values(right));
        assert_eq!(sum.into_data().try_to_vec::<f32>().unwrap(), [2.0, 5.0]);
    }
}

#[test]
fn squared_norm_sums_every_element() {
    assert_eq!(squared_norm(Tensor::<2>::ones([300, 1000], &device())).into_scalar::<f32>(), 300_000.0);
}

#[test]
fn nan_in_a_row_stays_in_the_results_of_that_row() {
    let hidden = Tensor::<2>::from_data([[f32::NAN, 1.0], [0.5, 1.0]], &device());
    let stats = token_logprobs(hidden, random([5, 2]), &[1, 1], Compute::F32);
    let logprobs = stats.logprobs.into_data().try_to_vec::<f32>().unwrap();
    assert!(logprobs[0].is_nan() && logprobs[1].is_finite());
}
