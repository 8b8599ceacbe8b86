//! 4-bit weights against bitsandbytes.

use burn::tensor::{Device, Tensor, TensorData};
use reheat_kernels::{FourBitConfig, FourBitKind, FourBitWeight};
use reheat_tests::{assert_close, floats, golden, ids};

/// Products of the same table entries and scales.
const PLAIN: f32 = 1e-6;

/// Scales near a midpoint of their 8-bit code may round the other way when their mean is summed in another order; a step
/// of that code is a part in a hundred of the scales' spread.
const NESTED: f32 = 2e-2;

#[test]
fn four_bit_weights_are_those_of_bitsandbytes() {
    let golden = golden("quantized");
    let stride: Vec<usize> = ids(&serde_json::json!([golden["stride"]]));
    for cases in golden["cases"].as_array().expect("a list of cases").chunks(4) {
        // The last of each shape has the matrix, in multiples of 1/512.
        let shape: Vec<usize> = ids(&cases[0]["shape"]);
        let values: Vec<f32> = floats(&cases[3]["weight"]).iter().map(|value| value / 512.0).collect();
        for case in cases {
            let data = TensorData::new(values.clone(), [shape[0], shape[1]]);
            let weight = Tensor::<2>::from_data(data, &Device::flex());
            let kind = if case["kind"] == "nf4" { FourBitKind::Nf4 } else { FourBitKind::Fp4 };
            let nested_scales = case["nested"] == true;
            let packed = FourBitWeight::quantize(weight, FourBitConfig { kind, nested_scales });
            let back: Vec<f32> = packed.to_f32(&Device::flex()).into_data().try_to_vec().expect("a float tensor");
            let step = if values.len() < 1000 { 1 } else { stride[0] };
            let ours: Vec<f32> = back.into_iter().step_by(step).collect();
            let what = format!("{kind:?} {shape:?}, nested scales: {nested_scales}");
            assert_close(&what, &ours, &floats(&case["values"]), if nested_scales { NESTED } else { PLAIN });
        }
    }
}
