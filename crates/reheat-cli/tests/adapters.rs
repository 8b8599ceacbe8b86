//! Adapters on the command line: trained, used, gone on with, merged, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use burn::tensor::Device;
use reheat_model::{Qwen2, Qwen2Config, SaveOptions};
use tempfile::TempDir;

/// A folder with a tiny model, `base`, and rows, `rows.jsonl`.
struct Bench {
    folder: TempDir,
}

/// What a run left.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bench = Self { folder };
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        copy(&fixtures.join("tied-grouped"), &bench.path("base"));
        copy(&fixtures.join("adapters/all-linear"), &bench.path("adapter"));
        fs::copy(fixtures.join("conversations.jsonl"), bench.path("rows.jsonl")).expect("the fixture is there");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn reheat(&self, arguments: &str) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_reheat"))
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    fn succeeds(&self, arguments: &str) -> Ended {
        let ended = self.reheat(arguments);
        assert_eq!(ended.code, Some(0), "{arguments}: {}", ended.stderr);
        ended
    }

    /// The message of a run that must end with exit code 2.
    fn refused(&self, arguments: &str) -> String {
        let ended = self.reheat(arguments);
        assert_eq!(ended.code, Some(2), "{arguments}: {}", ended.stderr);
        ended.stderr
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the folder is writable");
    for entry in fs::read_dir(from).expect("the fixture is there") {
        let file = entry.expect("the fixture is there").path();
        fs::copy(&file, to.join(file.file_name().expect("a file"))).expect("the folder is writable");
    }
}

const SFT: &str = "sft --dataset rows.jsonl --max-steps 2 --learning-rate 1e-2";
const GENERATE: &str = "generate --max-new-tokens 8 --json";

#[test]
fn an_adapter_is_trained_used_gone_on_with_and_merged() {
    let bench = Bench::new();
    let trained = bench.succeeds(&format!(
        "{SFT} --model base --output-dir runs/lora --use-peft --lora-r 4 --lora_target_modules q_proj,down_proj"
    ));
    assert!(trained.stderr.contains("adapters: 1152 parameters are trained"), "{}", trained.stderr);
    assert!(
        bench.path("runs/lora/adapter_model.safetensors").is_file()
            && !bench.path("runs/lora/model.safetensors").exists()
    );

    let adapted = bench.succeeds(&format!("{GENERATE} --model runs/lora Hello"));
    bench.succeeds("merge --model runs/lora --output-dir merged");
    let merged = bench.succeeds(&format!("{GENERATE} --model merged Hello"));
    let ids = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("one JSON document")["ids"].clone();
    assert_eq!(ids(&adapted.stdout), ids(&merged.stdout));

    let resumed = bench.succeeds(&format!("{SFT} --model runs/lora --output-dir runs/more --use-peft"));
    assert!(resumed.stderr.contains("the adapter's own settings: rank 4, alpha 32"), "{}", resumed.stderr);
    bench.succeeds(&format!("{GENERATE} --model runs/more Hello"));
}

#[test]
fn an_adapter_of_peft_takes_its_base_and_tokenizer_from_where_it_is_told() {
    let bench = Bench::new();
    let error = bench.refused(&format!("{GENERATE} --model adapter Hello"));
    assert!(
        error.contains("the adapter in `adapter` belongs to the model `tied-grouped`, which is not there"),
        "{error}"
    );
    assert!(error.contains("hint: give the folder of the base model with --base-model"), "{error}");
    bench.succeeds(&format!("{GENERATE} --model adapter --base-model base Hello"));
    let error = bench.refused(&format!("{GENERATE} --model base --base-model base Hello"));
    assert!(error.contains("`base` is not an adapter"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_before_rows_are_read() {
    let bench = Bench::new();
    let sft = format!("{SFT} --model base --output-dir out --use-peft");
    for (arguments, message) in [
        ("--lora-target-modules q_proj,c_attn", "no module is called `c_attn`\nhint: there are down_proj, gate_proj"),
        ("--lora-target-modules lm_head", "`lm_head` cannot get an adapter"),
        ("--lora-modules-to-save head", "lora_modules_to_save: no module is called `head`"),
        ("--lora-r 0 --lora-alpha -1", "2 settings are wrong"),
        ("--lora-alpha nan", "--lora-alpha: expected a number, found `nan`"),
    ] {
        let error = bench.refused(&format!("{sft} {arguments}"));
        assert!(error.contains(message) && !error.contains("sequences"), "{arguments}: {error}");
    }
    let error = bench.refused(&format!("{SFT} --model adapter --base-model base --output-dir out"));
    assert!(error.contains("`adapter` is an adapter, not a whole model"), "{error}");
    let error = bench.refused("merge --model base --output-dir out");
    assert!(error.contains("`base` is a whole model"), "{error}");
    let error = bench.refused("merge --model adapter --base-model base --output-dir base");
    assert!(error.contains("`base` holds what is to be merged"), "{error}");
    assert!(!bench.path("out").exists());
}

#[test]
fn a_base_in_fewer_bits_is_trained_on() {
    let bench = Bench::new();
    let sft = format!("{SFT} --model base --output-dir out --use-peft --overwrite-output-dir");
    for settings in [
        "--load-in-4bit",
        "--load-in-4bit --bnb-4bit-quant-type fp4 --use-bnb-nested-quant --dtype bfloat16",
        "--load-in-8bit --use-dora",
        "--dtype bfloat16 --lora-modules-to-save lm_head",
    ] {
        bench.succeeds(&format!("{sft} {settings}"));
        bench.succeeds("merge --model out --output-dir merged");
    }
    let error = bench.refused(&format!("{SFT} --model base --output-dir out --load-in-4bit"));
    assert!(error.contains("load_in_4bit is for weights that stay frozen: it needs use_peft"), "{error}");
}

#[test]
fn a_stopped_run_with_adapters_goes_on_in_the_same_bytes() {
    let bench = Bench::new();
    let sft = "sft --dataset rows.jsonl --learning-rate 1e-2 --model base --use-peft --lora-dropout 0.2 \
               --lora-modules-to-save lm_head,norm --save-steps 2 --save-strategy steps --num-train-epochs 4";
    bench.succeeds(&format!("{sft} --output-dir whole"));
    bench.succeeds(&format!("{sft} --output-dir cut"));
    let weights = |run: &str| fs::read(bench.path(run).join("adapter_model.safetensors")).expect("an adapter");
    fs::remove_file(bench.path("cut/adapter_model.safetensors")).expect("the final model");
    fs::remove_dir_all(bench.path("cut/checkpoint-4")).expect("the last checkpoint");
    bench.succeeds(&format!("{sft} --output-dir cut --resume-from-checkpoint true"));
    assert!(weights("whole") == weights("cut"), "a resumed run ends in other weights");
}

#[test]
fn settings_of_adapters_without_adapters_are_noted() {
    let ended = Bench::new().succeeds(&format!("{SFT} --model base --output-dir out --lora-r 4"));
    assert!(ended.stderr.contains("note: --lora-r: `lora_r` has no effect without use_peft"), "{}", ended.stderr);
}

/// A token that the tokenizer did not have is added, trained, saved with the adapter, and in the merged model.
#[test]
fn new_tokens_are_added_and_trained() {
    let bench = Bench::new();
    // As many rows as Qwen2.5 has to spare, in small.
    let config = Qwen2Config::tiny(264);
    Qwen2::random(&config, 7, &Device::flex())
        .save(&bench.path("base"), &SaveOptions::default())
        .expect("it is writable");
    let rows = r#"{"prompt":"a","completion":"<call>b</call>"}"#;
    fs::write(bench.path("calls.jsonl"), format!("{rows}\n").repeat(4)).expect("it is writable");
    let train = "sft --model base --dataset calls.jsonl --output-dir out --max-steps 4 --learning-rate 1e-2 --use-peft \
                 --save-steps 2 --new-tokens <call> </call>";
    bench.succeeds(train);
    let settings = fs::read_to_string(bench.path("out/adapter_config.json")).expect("the adapter is there");
    let settings: serde_json::Value = serde_json::from_str(&settings).expect("it is JSON");
    assert_eq!(settings["trainable_token_indices"], serde_json::json!([259, 260]));
    let ids = |model: &str| bench.succeeds(&format!("tokenize --model {model} --json <call>")).stdout;
    assert!(ids("out").contains("259"), "{}", ids("out"));
    // Resumed in the middle, the same bytes.
    let expected = fs::read(bench.path("out/adapter_model.safetensors")).expect("the adapter is there");
    fs::remove_dir_all(bench.path("out/checkpoint-4")).expect("the checkpoint is there");
    bench.succeeds(&format!("{train} --resume-from-checkpoint"));
    assert_eq!(fs::read(bench.path("out/adapter_model.safetensors")).expect("the adapter is there"), expected);
    bench.succeeds("merge --model out --output-dir merged");
    let answer = |model: &str| {
        bench
            .succeeds(&format!("generate --model {model} --max-new-tokens 8 --temperature 0 --dtype float32 <call>"))
            .stdout
    };
    assert_eq!(answer("merged"), answer("out"));
    assert!(ids("merged").contains("259"));

    let told = bench.refused(
        &train.replace("<call> </call>", "<a> <b> <c> <d> <e> <f>").replace("--output-dir out", "--output-dir other"),
    );
    assert!(told.contains("`<f>` would be token 264, and the model has rows for 264 tokens"), "{told}");
}

#[test]
fn a_changed_base_is_noticed_when_a_run_goes_on() {
    let bench = Bench::new();
    let train = "sft --model base --output-dir out --save-steps 2 --use-peft --dtype float32";
    bench.succeeds(&format!("{train} --dataset rows.jsonl --max-steps 2"));
    fs::rename(bench.path("rows.jsonl"), bench.path("moved.jsonl")).expect("the rows are there");
    let changed = "--dataset moved.jsonl --max-steps 4 --load-in-8bit --resume-from-checkpoint --tui";
    let told = bench.succeeds(&format!("{train} {changed}")).stderr;
    for line in [
        "note: load_in_8bit was false, is true: the run ends in other weights than without the change",
        "note: dataset_name was [\"rows.jsonl\"], is [\"moved.jsonl\"]: the rows are the same",
        "note: max_steps was 2, is 4:",
    ] {
        assert!(told.contains(line), "{line} is not in {told}");
    }
    assert_eq!(told.matches(" was ").count(), 3, "{told}");
    let told = bench.refused(
        &format!("{train} --dataset moved.jsonl --max-steps 6 --resume-from-checkpoint").replace("--use-peft", ""),
    );
    assert!(told.contains("use_peft was true, is false"), "{told}");
}
