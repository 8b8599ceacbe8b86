//! Checkpoints in and out, and every fault they can have.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use reheat_model::{ModelError, Precision, Qwen2, Qwen2Config, SaveOptions, WeightDtype, for_each_parameter};
use tempfile::TempDir;

/// f32 forward passes of two implementations, as the reference states it.
const FORWARD_TOLERANCE: f32 = 1e-4;

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

fn device() -> Device {
    Device::flex()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn saved(options: &SaveOptions) -> (TempDir, Qwen2) {
    let dir = TempDir::new().unwrap();
    let model = Qwen2::random(&Qwen2Config::tiny(64), 3, &device());
    model.save(dir.path(), options).unwrap();
    (dir, model)
}

#[test]
fn logits_equal_the_reference() {
    let Some(golden) = shared("golden/trl-1.16") else { return };
    let reference: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(golden.join("trajectories.json")).unwrap()).unwrap();
    let model = Qwen2::load(&golden.join("tiny_qwen2"), &device()).unwrap();
    let logits = model.logits(&[1, 2, 3, 4, 5, 6, 7]);
    let numbers = |key: &str| -> Vec<f32> {
        reference[key].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
    };
    let close = |ours: &[f32], key: &str| {
        for (a, b) in ours.iter().zip(numbers(key)) {
            assert!((a - b).abs() <= FORWARD_TOLERANCE, "{key}: {a} instead of {b}");
        }
    };
    close(&values(logits.clone().slice([6..7, 0..8])), "forward/last_logits_first8");
    close(&values(logits.clone().exp().sum_dim(1).log()), "forward/logsumexp");
    let argmax: Vec<f32> = values(logits.argmax(1).float());
    assert_eq!(argmax, numbers("forward/argmax"));
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let model = Qwen2::random(&Qwen2Config::tiny(64), 1, &device());
    let packed = model.hidden_states(&[1, 2, 3, 9, 8], &[3, 2]);
    let alone = model.hidden_states(&[9, 8], &[2]);
    let difference = (packed.narrow(0, 3, 2) - alone).abs().max().into_scalar::<f32>();
    assert!(difference <= 1e-6, "off by {difference}: sums of the same numbers in another blocking");
}

#[test]
fn saving_and_loading_keeps_every_bit() {
    let (dir, model) = saved(&SaveOptions::default());
    let loaded = Qwen2::load(dir.path(), &device()).unwrap();
    assert_eq!(values(model.logits(&[5, 6, 7])), values(loaded.logits(&[5, 6, 7])));
    let header = fs::read(dir.path().join("model.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&header[..200]).contains(r#""format":"pt""#));
}

#[test]
fn shards_hold_every_tensor_once() {
    let (dir, model) = saved(&SaveOptions { max_shard_bytes: 9_000, ..SaveOptions::default() });
    let shards = fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "safetensors"));
    assert!(shards.count() > 3);
    let loaded = Qwen2::load(dir.path(), &device()).unwrap();
    assert_eq!(values(model.logits(&[5])), values(loaded.logits(&[5])));
}

#[test]
fn half_precision_files_load_as_their_rounded_values() {
    for (dtype, relative) in [(WeightDtype::F16, 1.0 / 1024.0), (WeightDtype::Bf16, 1.0 / 128.0)] {
        let (dir, model) = saved(&SaveOptions { dtype, ..SaveOptions::default() });
        let loaded = Qwen2::load(dir.path(), &device()).unwrap();
        let (before, after) = (values(model.head()), values(loaded.head()));
        assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() <= a.abs() * relative), "{dtype:?}");
        assert!(before != after, "{dtype:?} rounds");
    }
}

#[test]
fn matrices_held_in_fewer_bits_give_nearly_the_same_logits() {
    let (dir, model) = saved(&SaveOptions::default());
    let expected = values(model.logits(&[5, 6, 7]));
    let size = expected.iter().fold(0.0_f32, |size, logit| size.max(logit.abs()));
    // bf16 keeps 8 bits of each factor and int8 7 bits of the largest of a row; a few layers add up.
    for (precision, relative) in [(Precision::Bfloat16, 0.02), (Precision::Int8, 0.04)] {
        let mut held = Qwen2::load_in(dir.path(), &device(), precision).unwrap();
        let logits = values(held.logits(&[5, 6, 7]));
        let error = logits.iter().zip(&expected).fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
        assert!(error > 0.0 && error <= relative * size, "{precision}: off by {error} of {size}");
        // The matrices are the original's to the last bit that the type has.
        held.set_compute(reheat_kernels::Compute::F32);
        let (head, original) = (values(held.head_weight().to_f32()), values(model.head()));
        let row = original.len() / 64;
        for (index, (a, b)) in head.iter().zip(&original).enumerate() {
            let largest = original[index / row * row..][..row].iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            let half_step = if precision == Precision::Int8 { largest / 127.0 * 0.501 } else { b.abs() / 256.0 };
            assert!((a - b).abs() <= half_step, "{precision}: {a} instead of {b}");
        }
        assert!(matches!(held.save(dir.path(), &SaveOptions::default()), Err(ModelError::Rounded)));
    }
}

#[test]
fn parameters_have_checkpoint_names() {
    let model = Qwen2::random(&Qwen2Config::tiny(64), 1, &device());
    let mut names = BTreeSet::new();
    for_each_parameter(&model, "", |name, _, _| assert!(names.insert(name.to_owned())));
    assert_eq!(names.len(), 2 * 12 + 2);
    assert!(names.contains("model.embed_tokens.weight") && names.contains("model.norm.weight"));
    assert!(names.contains("model.layers.1.self_attn.q_proj.bias"));
}

fn edit_config(dir: &Path, from: &str, to: &str) {
    let path = dir.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn load_error(dir: &Path) -> String {
    let error = Qwen2::load(dir, &device()).unwrap_err();
    format!("{error}").replace(&*dir.to_string_lossy(), "DIR")
}

#[test]
fn another_architecture_is_named() {
    let (dir, _) = saved(&SaveOptions::default());
    edit_config(dir.path(), r#""model_type": "qwen2""#, r#""model_type": "llama""#);
    assert_eq!(load_error(dir.path()), "`DIR/config.json`: model type `llama` is not supported, expected `qwen2`");
}

#[test]
fn all_wrong_tensors_are_in_one_error() {
    let (dir, _) = saved(&SaveOptions::default());
    edit_config(dir.path(), r#""intermediate_size": 64"#, r#""intermediate_size": 48"#);
    edit_config(dir.path(), r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 3"#);
    let error = Qwen2::load(dir.path(), &device()).unwrap_err();
    let ModelError::Tensors { missing, unexpected, misshapen, .. } = &error else { panic!("{error}") };
    assert_eq!((missing.len(), unexpected.len(), misshapen.len()), (12, 0, 6));
    assert!(error.to_string().contains("`model.layers.0.mlp.gate_proj.weight` has shape [64, 32], expected [48, 32]"));
    edit_config(dir.path(), r#""num_hidden_layers": 3"#, r#""num_hidden_layers": 1"#);
    let error = load_error(dir.path());
    assert!(error.contains("12 unexpected: `model.layers.1.input_layernorm.weight`"), "{error}");
}

#[test]
fn a_truncated_file_is_reported() {
    let (dir, _) = saved(&SaveOptions::default());
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(load_error(dir.path()), "`DIR/model.safetensors` is damaged or truncated");
    fs::write(&path, b"").unwrap();
    assert!(load_error(dir.path()).contains("model.safetensors"));
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let dir = TempDir::new().unwrap();
    let model = Qwen2::random(&Qwen2Config::tiny(64), 3, &device());
    let model = reheat_model::map_parameters(model, "", |name, values| {
        if name == "model.norm.weight" { values.mul_scalar(f32::NAN) } else { values }
    });
    model.save(dir.path(), &SaveOptions::default()).unwrap();
    assert_eq!(
        load_error(dir.path()),
        "`DIR/model.safetensors`: tensor `model.norm.weight` holds 32 values that are NaN or infinite"
    );
}

#[test]
fn missing_weights_and_pickles_are_told_apart() {
    let (dir, _) = saved(&SaveOptions::default());
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let error = Qwen2::load(dir.path(), &device()).unwrap_err();
    assert!(error.hint().unwrap().contains("give the directory"));
    fs::write(dir.path().join("pytorch_model.bin"), b"").unwrap();
    let error = Qwen2::load(dir.path(), &device()).unwrap_err();
    assert!(error.hint().unwrap().contains("never read"));
}

#[test]
fn a_shard_outside_the_checkpoint_is_refused() {
    let (dir, _) = saved(&SaveOptions::default());
    let index = r#"{"weight_map": {"model.norm.weight": "../secret.safetensors"}}"#;
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    assert_eq!(
        load_error(dir.path()),
        "`DIR/model.safetensors.index.json`: shard `../secret.safetensors` is not a plain file name"
    );
}
