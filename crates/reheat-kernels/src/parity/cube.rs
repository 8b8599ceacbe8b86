//! The kernels in CubeCL on what the graphics system offers, if only Mesa's software renderer.
//!
//! Shapes are few and odd: each width of a head is compiled anew.

use std::panic::catch_unwind;

use burn::tensor::{DType, Device, DeviceKind, Tensor};

use super::{assert_close, compare_on, device as cpu, random, row};
use crate::*;

/// Runs `check` on the default adapter; without one says so and passes.
fn on_adapter(check: impl FnOnce(&Device)) {
    let device = catch_unwind(|| {
        let device = Device::wgpu(DeviceKind::DefaultDevice);
        device.sync().map(|()| device)
    });
    match device {
        Ok(Ok(device)) => check(&device),
        _ => eprintln!("no graphics adapter starts: kernels in CubeCL are not tested"),
    }
}

fn packed_with_prefix(layout: &mut AttentionLayout, prefix: usize) {
    for (index, span) in layout.spans.iter_mut().enumerate() {
        let start = if index == 0 { 0 } else { span.keys.start + prefix };
        span.keys = start..span.keys.end + prefix;
    }
}

#[test]
fn every_kernel_passes_the_doctor() {
    on_adapter(|device| {
        let failed: Vec<_> = check_kernels(device).into_iter().filter(|check| !check.passed()).collect();
        assert_eq!(failed, []);
    });
}

#[test]
fn elementwise_kernels_equal_their_definitions() {
    on_adapter(|device| {
        for (rows, width) in [(1, 1), (3, 70), (65, 64), (130, 257)] {
            compare_on(
                device,
                [random([rows, width]), random([1, width])],
                |[x, w]| rms_norm(x, row(w), 1e-6),
                |[x, w]| rms_norm::reference(x, row(w), 1e-6),
            );
            let dropout = Dropout { rate: 0.3, seed: 5 };
            compare_on(device, [random([rows, width])], |[x]| dropout.forward(x), |[x]| dropout.reference(x));
            compare_on(
                device,
                [random([rows, width]), random([rows, width])],
                |[gate, up]| swiglu(gate, up),
                |[gate, up]| swiglu::reference(gate, up),
            );
        }
        for (tokens, heads, half) in [(1, 1, 1), (5, 3, 19), (33, 2, 32)] {
            let positions: Vec<usize> = (400..400 + tokens).collect();
            let table = |x: &Tensor<2>| RotaryTable::new(&positions, 2 * half, 1e6, &x.device().inner());
            compare_on(
                device,
                [random([tokens, heads * 2 * half])],
                |[x]| rotary(x.clone(), &table(&x)),
                |[x]| rotary::reference(x.clone(), &table(&x)),
            );
        }
    });
}

#[test]
fn attention_equals_its_definition() {
    let cases: [(&[usize], usize, usize, usize, usize); 6] = [
        (&[1], 1, 1, 1, 0),
        (&[17, 0, 40, 1], 2, 2, 20, 0),
        (&[33, 16], 6, 2, 64, 25),
        (&[1, 1], 4, 1, 64, 70),
        (&[50], 2, 1, 128, 3),
        // Too wide for a tile: the definition.
        (&[9, 4], 1, 1, 130, 0),
    ];
    on_adapter(|device| {
        for (lens, heads, key_heads, head_dim, prefix) in cases {
            let mut layout = AttentionLayout::packed(heads, key_heads, head_dim, lens);
            packed_with_prefix(&mut layout, prefix);
            let (queries, keys) = (lens.iter().sum(), lens.iter().sum::<usize>() + prefix);
            compare_on(
                device,
                [
                    random([queries, heads * head_dim]),
                    random([keys, key_heads * head_dim]),
                    random([keys, key_heads * head_dim]),
                ],
                |[q, k, v]| causal_attention(q, k, v, &layout),
                |[q, k, v]| attention::reference(q, k, v, &layout),
            );
        }
    });
}

#[test]
fn logprobs_equal_their_definition() {
    let labels: Vec<i32> = (0..45).map(|token| if token % 4 == 1 { IGNORE_INDEX } else { token * 7 % 131 }).collect();
    let objective = |positions: &[usize], logprobs: Tensor<1>| {
        let weights: Vec<f32> = positions.iter().map(|position| *position as f32 + 0.5).collect();
        let weights = Tensor::<1>::from_data(weights.as_slice(), &logprobs.device());
        TokenDerivatives { logprobs: logprobs.exp() * weights.clone(), entropy: Some(weights * -0.3) }
    };
    on_adapter(|device| {
        let (hidden, head, start) = (random([45, 30]), random([131, 30]), random([131, 30]));
        for (labels, smoothing) in [(labels.as_slice(), 0.0), (&labels, 0.3), (&[IGNORE_INDEX; 45], 0.0)] {
            let here = |x: &Tensor<2>| x.clone().to_device(device);
            let (stats, gradients) = token_logprobs_vjp(
                here(&hidden),
                here(&head),
                labels,
                Some(here(&start)),
                &objective,
                smoothing,
                Compute::F32,
            );
            let forward = token_logprobs(here(&hidden), here(&head), labels, Compute::F32);
            let scored = logprobs::Scored::new(&hidden, &head.clone().into(), labels).smoothed(smoothing);
            let (hidden, head) = (hidden.clone(), head.clone().into());
            let oracle = logprobs::reference_vjp(hidden, head, &scored, Some(start.clone()), &objective, Compute::F32);
            for (what, ours, theirs) in [
                ("log-probabilities, forward only", forward.logprobs, oracle.0.logprobs.clone()),
                ("log-probabilities", stats.logprobs, oracle.0.logprobs),
                ("entropy", stats.entropy, oracle.0.entropy),
                ("top-1 hits", stats.is_top1, oracle.0.is_top1),
                ("mean logit", stats.mean_logit, oracle.0.mean_logit),
                ("mean log-probability", stats.mean_logprob, oracle.0.mean_logprob),
                ("expected probability", stats.log_sum_sq_probs, oracle.0.log_sum_sq_probs),
            ] {
                assert_close(what, ours.to_device(&cpu()), theirs);
            }
            assert_close("gradient of the hidden states", gradients.hidden.to_device(&cpu()), oracle.1.hidden);
            let gradient = gradients.head.expect("the head is trained").to_device(&cpu());
            assert_close("gradient of the head", gradient, oracle.1.head.expect("as there"));
        }
    });
}

#[test]
fn a_held_parameter_is_not_written_to() {
    let settings = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
        gradient_scale: 0.7,
        rounding_seed: 0,
    };
    on_adapter(|device| {
        let parameter = AdamWParameter {
            value: random([7, 41]),
            first_moment: random([7, 41]),
            second_moment: random([7, 41]).square(),
        };
        let gradient = random([7, 41]);
        let there = AdamWParameter {
            value: parameter.value.clone().to_device(device),
            first_moment: parameter.first_moment.clone().to_device(device),
            second_moment: parameter.second_moment.clone().to_device(device),
        };
        let held = there.value.clone();
        let ours = adamw(there, gradient.clone().to_device(device), &settings);
        assert_close("the held value", held.to_device(&cpu()), parameter.value.clone());
        let oracle = optimizer::reference(parameter, gradient, &settings);
        assert_close("value", ours.value.to_device(&cpu()), oracle.value);
        assert_close("first moment", ours.first_moment.to_device(&cpu()), oracle.first_moment);
        assert_close("second moment", ours.second_moment.to_device(&cpu()), oracle.second_moment);
    });
}

/// By hand: the rows of id 2 are the first and the third.
#[test]
fn embedding_rows_of_one_id_are_summed() {
    on_adapter(|device| {
        let rows = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], device);
        let gradient = embedding_backward(Tensor::ones([4, 2], device), &[2, 0, 2], rows);
        let sums = gradient.cast(DType::F32).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(sums, [4.0, 5.0, 1.0, 1.0, 7.0, 9.0, 1.0, 1.0]);
        let unchanged = embedding_backward(Tensor::ones([4, 2], device), &[], Tensor::zeros([0, 2], device));
        assert_eq!(unchanged.into_data().try_to_vec::<f32>().unwrap(), [1.0; 8]);
    });
}

#[test]
fn nan_in_a_row_stays_in_the_results_of_that_row() {
    on_adapter(|device| {
        let x = Tensor::<2>::from_data([[0.5, 1.0], [f32::NAN, 1.0], [0.25, 2.0]], device);
        let nan_by_row = |rows: Vec<f32>, width: usize| -> Vec<bool> {
            rows.chunks(width).map(|row| row.iter().all(|value| value.is_nan())).collect()
        };
        let normalised = rms_norm(x.clone(), Tensor::ones([2], device), 1e-6);
        let normalised = normalised.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(nan_by_row(normalised, 2), [false, true, false]);
        let head = random([5, 2]).to_device(device);
        let logprobs = token_logprobs(x.clone(), head, &[1, 1, 1], Compute::F32).logprobs;
        assert_eq!(nan_by_row(logprobs.into_data().try_to_vec::<f32>().unwrap(), 1), [false, true, false]);
        // A query that is no number spoils its own output.
        let layout = AttentionLayout::packed(1, 1, 2, &[3]);
        let (k, v) = (random([3, 2]).to_device(device), random([3, 2]).to_device(device));
        let attended = causal_attention(x, k, v, &layout).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(nan_by_row(attended, 2), [false, true, false]);
    });
}
