//! AdamW with moments in 8 bits: bitsandbytes' maps, and the nearest codes in them.

use burn::tensor::{DType, Device, Tensor};
use reheat_kernels::{AdamWStep, EightBitMap, EightBitMoment, EightBitParameter, adamw_8bit};
use reheat_tests::{assert_close, floats, golden, ids};
use serde_json::Value;

/// bitsandbytes computes its maps in f32, ours are rounded once.
const MAP: f32 = 1e-6;

/// Sums of a few products in f32.
const UPDATE: f32 = 2e-6;

/// Of 700 codes those that may differ, by one: what lies at a border goes either way when the map is off by its rounding.
const BORDERLINE: usize = 2;

/// A move of a weight by another code of its moment: half a step of the map, a part in a hundred, of the learning rate.
const OTHER_CODE: f32 = 1e-3;

fn assert_moment(what: &str, moment: &EightBitMoment, codes: &Value, scales: &Value) {
    let ours: Vec<i32> = moment.codes().cast(DType::I32).into_data().try_to_vec().expect("integers");
    let expected: Vec<i32> = ids(codes);
    assert_eq!(ours.len(), expected.len(), "{what}");
    let off: Vec<i32> = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).filter(|off| *off > 0).collect();
    assert!(off.len() <= BORDERLINE && off.iter().all(|off| *off == 1), "{what}: {off:?}");
    let ours: Vec<f32> = moment.scales().into_data().try_to_vec().expect("floats");
    assert_close(&format!("{what}, scales"), &ours, &floats(scales), OTHER_CODE);
}

#[test]
fn maps_are_those_of_bitsandbytes() {
    let maps = &golden("eight_bit")["maps"];
    assert_close("signed", &EightBitMap::Signed.numbers(), &floats(&maps[0]), MAP);
    assert_close("unsigned", &EightBitMap::Unsigned.numbers(), &floats(&maps[1]), MAP);
}

#[test]
fn updates_are_those_of_the_definition() {
    let golden = golden("eight_bit");
    let device = Device::flex();
    let settings: Vec<f64> = serde_json::from_value(golden["settings"].clone()).expect("numbers");
    let [learning_rate, beta1, beta2, epsilon, weight_decay] = settings[..] else { panic!("five settings") };
    let vector = |value: &Value| Tensor::<1>::from_data(floats(value).as_slice(), &device);
    let value = vector(&golden["start"]);
    let moment = |map| EightBitMoment::zeros(value.dims()[0], map, &device);
    let (first_moment, second_moment) = (moment(EightBitMap::Signed), moment(EightBitMap::Unsigned));
    let mut parameter = EightBitParameter { value, first_moment, second_moment };
    let steps = golden["steps"].as_array().expect("a list");
    for (index, (expected, gradient)) in steps.iter().zip(golden["gradients"].as_array().expect("a list")).enumerate() {
        let step = AdamWStep {
            learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            step: index as u64 + 1,
            gradient_scale: 1.0,
            rounding_seed: 0,
        };
        parameter = adamw_8bit(parameter, vector(gradient), &step);
        let ours: Vec<f32> = parameter.value.clone().into_data().try_to_vec().expect("floats");
        let tolerance = if index == 0 { UPDATE } else { OTHER_CODE };
        assert_close(&format!("step {index}"), &ours, &floats(&expected["value"]), tolerance);
        let (codes, scales) = (&expected["codes"], &expected["absmax"]);
        assert_moment(&format!("step {index}, first"), &parameter.first_moment, &codes[0], &scales[0]);
        assert_moment(&format!("step {index}, second"), &parameter.second_moment, &codes[1], &scales[1]);
    }
}
