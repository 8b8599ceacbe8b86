//! Invariants of low-rank adapters, and every fault that their files can have.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Distribution, Tensor};
use reheat_kernels::FourBitConfig;
use reheat_model::{
    LoadOptions, LoraConfig, ModelError, Precision, Quantization, Qwen2, Qwen2Config, SaveOptions, TargetModules,
    for_each_parameter, map_parameters,
};
use tempfile::TempDir;

/// `x·Wᵀ + s·(x·Aᵀ)·Bᵀ` against `x·(W + s·B·A)ᵀ` in f32 through two layers, logits of size 1.
const MERGE_TOLERANCE: f32 = 1e-5;

const INPUT_IDS: [i32; 5] = [5, 6, 7, 1, 40];

fn base() -> Qwen2 {
    Qwen2::random(&Qwen2Config::tiny(64), 3, &Device::flex())
}

fn logits(model: &Qwen2) -> Vec<f32> {
    model.logits(&INPUT_IDS).into_data().try_to_vec().unwrap()
}

fn names(words: &[&str]) -> TargetModules {
    TargetModules::Names(words.iter().map(|word| (*word).to_owned()).collect())
}

/// One of each kind.
fn kinds() -> Vec<LoraConfig> {
    let lora = LoraConfig { r: 4, lora_alpha: 8.0, target_modules: TargetModules::AllLinear, ..LoraConfig::default() };
    vec![
        lora.clone(),
        LoraConfig { use_rslora: true, target_modules: names(&["q_proj", "mlp.down_proj"]), ..lora.clone() },
        LoraConfig { use_dora: true, ..lora.clone() },
        LoraConfig { trainable_token_indices: vec![40, 5, 63], ..lora.clone() },
        LoraConfig { modules_to_save: vec!["lm_head".into(), "norm".into(), "embed_tokens".into()], ..lora },
    ]
}

fn adapted(config: &LoraConfig) -> Qwen2 {
    base().with_lora(config.clone(), "base", 11).unwrap()
}

/// With every trained parameter moved away from where it started.
fn moved(config: &LoraConfig) -> Qwen2 {
    moved_from(adapted(config))
}

fn moved_from(model: Qwen2) -> Qwen2 {
    let trained: Vec<String> = trained_names(&model);
    let moved = map_parameters(model, "", |name, values| {
        if !trained.iter().any(|other| other == name) {
            return values;
        }
        let noise = Tensor::random(values.dims(), Distribution::Normal(0.0, 0.1), &values.device());
        values + noise
    });
    moved.with_token_rows_written()
}

fn trained_names(model: &Qwen2) -> Vec<String> {
    let mut found = Vec::new();
    for_each_parameter(model, "", |name, _, _| {
        if model.trains(name) {
            found.push(name.to_owned());
        }
    });
    found
}

#[test]
fn trained_parameters_are_known_from_the_shape() {
    for config in kinds() {
        let model = adapted(&config);
        assert_eq!(config.num_parameters(base().config()), model.num_trained_parameters(), "{config:?}");
    }
}

#[test]
fn a_fresh_adapter_changes_no_bit() {
    for config in kinds() {
        assert_eq!(logits(&adapted(&config)), logits(&base()), "{config:?}");
    }
}

#[test]
fn merged_is_adapted_and_off_is_base() {
    for config in kinds() {
        let model = moved(&config);
        let (with, off) = (logits(&model), logits(&model.without_adapters()));
        assert_ne!(with, off, "{config:?}");
        assert_eq!(off, logits(&base()), "{config:?}");
        let merged = model.merged();
        assert!(merged.lora_config().is_none());
        for (a, b) in logits(&merged).iter().zip(&with) {
            assert!((a - b).abs() <= MERGE_TOLERANCE, "{config:?}: {a} instead of {b}");
        }
    }
}

#[test]
fn a_merged_model_is_a_checkpoint_like_any_other() {
    let config = kinds().pop().unwrap();
    let merged = moved(&config).merged();
    let dir = TempDir::new().unwrap();
    merged.save(dir.path(), &SaveOptions::default()).unwrap();
    let loaded = Qwen2::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!(logits(&loaded), logits(&merged));
    assert!(!loaded.config().tie_word_embeddings, "the head was trained by itself");
}

#[test]
fn names_are_those_of_peft() {
    let names = trained_names(&adapted(&kinds()[2]));
    assert_eq!(names.len(), 2 * 7 * 3);
    for end in ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"] {
        let name = format!("base_model.model.model.layers.1.mlp.down_proj.{end}");
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let names = trained_names(&adapted(&kinds()[4]));
    for name in ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"] {
        assert!(names.iter().any(|other| other == name), "{name} in {names:?}");
    }
}

#[test]
fn draws_depend_on_the_seed_and_the_layer_alone() {
    let factor = |model: &Qwen2| -> Vec<f32> {
        let adapter = model.layers[1].self_attn.v_proj.adapter.as_ref().unwrap();
        adapter.lora_A.weight.val().into_data().try_to_vec().unwrap()
    };
    let config = LoraConfig { r: 4, ..LoraConfig::default() };
    let all = LoraConfig { target_modules: TargetModules::AllLinear, ..config.clone() };
    let drawn = factor(&adapted(&config));
    assert_eq!(drawn, factor(&adapted(&all)));
    assert_ne!(drawn, factor(&base().with_lora(config, "base", 12).unwrap()));
    // U(-1/√32, 1/√32)
    let bound = 1.0 / 32f32.sqrt();
    assert!(drawn.iter().all(|value| value.abs() <= bound) && drawn.iter().any(|value| value.abs() > 0.9 * bound));
}

#[test]
fn dropout_is_the_same_for_the_same_seed_and_none_without_one() {
    let config = LoraConfig { lora_dropout: 0.5, ..kinds()[0].clone() };
    let model = moved(&config);
    let dropped = logits(&model.with_dropout(1));
    assert_eq!(dropped, logits(&model.with_dropout(1)));
    assert_ne!(dropped, logits(&model.with_dropout(2)));
    assert_ne!(dropped, logits(&model));
    let none = moved(&kinds()[0]);
    assert_eq!(logits(&none.with_dropout(1)), logits(&none));
}

#[test]
fn saving_and_loading_keeps_every_bit() {
    for config in kinds() {
        let model = moved(&config);
        let dir = TempDir::new().unwrap();
        model.save(dir.path(), &SaveOptions::default()).unwrap();
        assert!(Qwen2::is_adapter(dir.path()) && !dir.path().join("config.json").exists());
        let loaded = base().with_adapter(dir.path()).unwrap();
        assert_eq!(logits(&loaded), logits(&model), "{config:?}");
        assert_eq!(trained_names(&loaded), trained_names(&model), "{config:?}");
        let read = loaded.lora_config().unwrap();
        assert_eq!((read.r, read.lora_alpha, read.use_dora), (config.r, config.lora_alpha, config.use_dora));
    }
}

#[test]
fn a_relative_base_is_found_from_the_adapter_upwards() {
    let dir = TempDir::new().unwrap();
    let (base_dir, adapter) = (dir.path().join("models/base"), dir.path().join("runs/lora/checkpoint-3"));
    base().save(&base_dir, &SaveOptions::default()).unwrap();
    let model = base().with_lora(kinds()[0].clone(), "models/base", 5).unwrap();
    model.save(&adapter, &SaveOptions::default()).unwrap();
    assert_eq!(Qwen2::adapter_base(&adapter).unwrap(), fs::canonicalize(base_dir).unwrap());
}

#[test]
fn an_adapter_folder_loads_with_the_base_that_it_names() {
    let (base_dir, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    base().save(base_dir.path(), &SaveOptions::default()).unwrap();
    let model = base().with_lora(kinds()[0].clone(), &base_dir.path().to_string_lossy(), 5).unwrap();
    model.save(dir.path(), &SaveOptions::default()).unwrap();
    assert!(Qwen2::load(dir.path(), &Device::flex()).unwrap().lora_config().is_some());
    fs::remove_dir_all(base_dir.path()).unwrap();
    let error = Qwen2::load(dir.path(), &Device::flex()).unwrap_err();
    assert!(error.to_string().ends_with("which is not there"), "{error}");
}

/// Every way in which a base can be held in fewer bits.
fn load_options() -> Vec<LoadOptions> {
    let four_bit =
        |nested_scales| Some(Quantization::FourBit(FourBitConfig { nested_scales, ..FourBitConfig::default() }));
    let mut options = vec![LoadOptions { precision: Precision::Bfloat16, quantization: None }];
    for quantization in [Some(Quantization::Int8), four_bit(false), four_bit(true)] {
        options.push(LoadOptions { precision: Precision::Float32, quantization });
        options.push(LoadOptions { precision: Precision::Bfloat16, quantization });
    }
    options
}

#[test]
fn a_base_in_fewer_bits_keeps_the_invariants_of_adapters() {
    let dir = TempDir::new().unwrap();
    base().save(dir.path(), &SaveOptions::default()).unwrap();
    let plain = logits(&base());
    for options in load_options() {
        let load = || Qwen2::load_with(dir.path(), &options, &Device::flex()).unwrap();
        let held = logits(&load());
        assert_ne!(held, plain, "{options:?} rounds");
        for config in kinds() {
            let fresh = load().with_lora(config.clone(), "base", 11).unwrap();
            // A head that is trained is held in f32, where sums are taken in another order.
            let tolerance = if config.modules_to_save.is_empty() { 0.0 } else { MERGE_TOLERANCE };
            for (a, b) in logits(&fresh).iter().zip(&held) {
                assert!((a - b).abs() <= tolerance, "{options:?} {config:?}: {a} instead of {b}");
            }
            let model = moved_from(fresh);
            let with = logits(&model);
            assert_eq!(logits(&model.without_adapters()), held, "{options:?} {config:?}");
            for (a, b) in logits(&model.merged()).iter().zip(&with) {
                assert!((a - b).abs() <= MERGE_TOLERANCE, "{options:?} {config:?}: {a} instead of {b}");
            }
        }
    }
}

#[test]
fn fewer_bits_round_less_than_they_must() {
    let dir = TempDir::new().unwrap();
    base().save(dir.path(), &SaveOptions::default()).unwrap();
    let plain = logits(&base());
    let size = plain.iter().map(|value| value * value).sum::<f32>();
    for (options, most) in load_options().into_iter().zip([0.01, 0.02, 0.02, 0.2, 0.2, 0.2, 0.2]) {
        let held = logits(&Qwen2::load_with(dir.path(), &options, &Device::flex()).unwrap());
        let error = held.iter().zip(&plain).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let relative = (error / size).sqrt();
        assert!(relative <= most, "{options:?}: off by {relative}");
    }
}

fn refused(config: LoraConfig) -> ModelError {
    base().with_lora(config, "base", 0).unwrap_err()
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let error = refused(LoraConfig { r: 0, lora_alpha: f64::NAN, ..LoraConfig::default() });
    assert_eq!(error.to_string(), "lora_r is 0, expected 1 or more; lora_alpha is NaN, expected more than 0");
    let error = refused(LoraConfig { target_modules: names(&["q_proj", "qproj", "c_attn"]), ..LoraConfig::default() });
    assert_eq!(error.to_string(), "lora_target_modules: no module is called `qproj`, `c_attn`");
    let hint = error.hint().unwrap();
    assert_eq!(hint, "there are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj");
    let error = refused(LoraConfig { target_modules: names(&["q_proj", "lm_head"]), ..LoraConfig::default() });
    assert_eq!(error.to_string(), "`lm_head` cannot get an adapter");
    let error = refused(LoraConfig { modules_to_save: vec!["head".into()], ..LoraConfig::default() });
    assert_eq!(error.to_string(), "lora_modules_to_save: no module is called `head`");
    let pattern = TargetModules::Pattern(r"layers\.9\..*".into());
    assert!(matches!(
        refused(LoraConfig { target_modules: pattern, ..LoraConfig::default() }),
        ModelError::UnknownModules { .. }
    ));
}

fn load_error(dir: &Path) -> String {
    base().with_adapter(dir).unwrap_err().to_string().replace(&*dir.to_string_lossy(), "DIR")
}

fn edit_config(dir: &Path, from: &str, to: &str) {
    let path = dir.join("adapter_config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn saved() -> TempDir {
    let dir = TempDir::new().unwrap();
    adapted(&kinds()[0]).save(dir.path(), &SaveOptions::default()).unwrap();
    dir
}

#[test]
fn adapters_of_other_kinds_are_named() {
    let dir = saved();
    edit_config(dir.path(), r#""peft_type": "LORA""#, r#""peft_type": "IA3""#);
    assert_eq!(
        load_error(dir.path()),
        "`DIR/adapter_config.json`: adapters of type `IA3` are not supported, expected `LORA`"
    );
    let dir = saved();
    edit_config(dir.path(), r#""bias": "none""#, r#""bias": "lora_only""#);
    assert_eq!(load_error(dir.path()), "`DIR/adapter_config.json`: `bias` is \"lora_only\", which is not supported");
    let dir = saved();
    edit_config(dir.path(), r#""r": 4"#, r#""r": -4"#);
    assert_eq!(load_error(dir.path()), "`DIR/adapter_config.json`: `r` is -4, expected a whole number");
}

#[test]
fn a_base_of_another_shape_is_told_with_every_fault() {
    let dir = saved();
    let other = Qwen2::load(&other_shape(dir.path()), &Device::flex()).unwrap();
    let error = other.with_adapter(dir.path()).unwrap_err();
    let ModelError::AdapterTensors { missing, unexpected, misshapen, .. } = &error else { panic!("{error}") };
    // One layer less, and another width in the feed-forward layers: A of down_proj, B of the other two.
    assert_eq!((missing.len(), unexpected.len(), misshapen.len()), (0, 14, 3));
    let text = error.to_string();
    assert!(text.contains("has shape [64, 4], expected [48, 4]"), "{text}");
    assert!(error.hint().unwrap().contains("--base-model"));
}

fn other_shape(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("other");
    let text = r#"{"model_type": "qwen2", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;
    let serde_json::Value::Object(raw) = serde_json::from_str(text).unwrap() else { panic!("an object") };
    let config = Qwen2Config::from_json(raw, "config.json".into()).unwrap();
    Qwen2::random(&config, 0, &Device::flex()).save(&path, &SaveOptions::default()).unwrap();
    path
}

#[test]
fn damaged_and_missing_files_are_reported() {
    let dir = saved();
    let path = dir.path().join("adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    assert_eq!(load_error(dir.path()), "`DIR/adapter_model.safetensors` is damaged or truncated");
    fs::remove_file(&path).unwrap();
    assert_eq!(load_error(dir.path()), "`DIR` holds no `adapter_model.safetensors`");
    fs::write(dir.path().join("adapter_config.json"), "{").unwrap();
    assert_eq!(load_error(dir.path()), "`DIR/adapter_config.json` is not valid");
}

#[test]
fn token_rows_that_cannot_be_trained_are_refused() {
    let told = |config: LoraConfig| base().with_lora(config, "base", 1).unwrap_err().to_string();
    let tokens = |ids: &[u32]| LoraConfig { trainable_token_indices: ids.to_vec(), ..LoraConfig::default() };
    let outside = told(tokens(&[3, 64]));
    assert!(outside.contains("64 is outside the model's vocabulary of 64"), "{outside}");
    let twice = told(tokens(&[3, 4, 3]));
    assert!(twice.contains("trainable_token_indices has 3 twice"), "{twice}");
    let whole = told(LoraConfig { modules_to_save: vec!["embed_tokens".into()], ..tokens(&[3]) });
    assert!(whole.contains("embed_tokens is trained whole"), "{whole}");
    let head = told(LoraConfig { modules_to_save: vec!["lm_head".into()], ..tokens(&[3]) });
    assert!(head.contains("a head that is tied to the embedding"), "{head}");
}
