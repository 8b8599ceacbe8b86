//! What a person reads when the input is bad, and the exit code that goes with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A folder with a complete tiny checkpoint, `model`, and rows, `rows.jsonl`, to be spoilt.
struct Bench {
    folder: TempDir,
}

/// What a run left.
struct Ended {
    code: Option<i32>,
    stderr: String,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let model = folder.path().join("model");
        fs::create_dir(&model).expect("the folder is writable");
        for entry in fs::read_dir(fixtures.join("tied-grouped")).expect("the fixture is there") {
            let file = entry.expect("the fixture is there").path();
            fs::copy(&file, model.join(file.file_name().expect("a file"))).expect("the folder is writable");
        }
        fs::copy(fixtures.join("conversations.jsonl"), folder.path().join("rows.jsonl")).expect("the fixture is there");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("the folder is writable");
    }

    /// Replaces a text in a file that has it.
    fn replace(&self, name: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.path(name)).expect("a text file");
        assert!(text.contains(old), "{name} has no {old}");
        self.write(name, text.replace(old, new));
    }

    /// Two steps of fine-tuning, with further arguments.
    fn sft(&self, arguments: &str) -> Ended {
        self.bash(&format!("reheat sft --model model --dataset rows.jsonl --output-dir out --max-steps 2 {arguments}"))
    }

    fn bash(&self, command: &str) -> Ended {
        let binary = Path::new(env!("CARGO_BIN_EXE_reheat"));
        let output = Command::new("bash")
            .args(["-c", &command.replace("reheat ", &format!("'{}' ", binary.display()))])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("bash starts");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
        Ended { code: output.status.code(), stderr }
    }
}

impl Ended {
    /// The run ended with `code`, and stderr holds every one of the texts.
    #[track_caller]
    fn says(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is missing in:\n{}", self.stderr);
        }
    }
}

#[test]
fn the_fixture_trains() {
    let bench = Bench::new();
    bench.sft("").says(0, &["2 steps"]);
    assert!(bench.path("out/model.safetensors").exists());
}

/// What `auto` takes depends on the machine; that it is told, and is the same as asking for it, does not.
#[test]
fn a_dtype_left_to_the_machine_is_told_and_written_down() {
    let bench = Bench::new();
    let ended = bench.sft("");
    let config = fs::read_to_string(bench.path("out/config.yaml")).expect("the run's settings");
    let dtype = config.lines().find_map(|line| line.strip_prefix("dtype: ")).expect("a dtype");
    ended.says(0, &[&format!("{dtype} (this CPU ")]);
    let losses = || {
        let text = fs::read_to_string(bench.path("out/metrics.jsonl")).expect("metrics");
        let loss = |line: &str| line.split(',').find(|field| field.contains("\"loss\"")).map(str::to_owned);
        text.lines().filter_map(loss).collect::<Vec<_>>()
    };
    let left_to_the_machine = losses();
    bench.sft(&format!("--dtype {dtype} --overwrite-output-dir")).says(0, &[]);
    assert_eq!(losses(), left_to_the_machine);
    bench.sft("--dtype float16 --overwrite-output-dir").says(2, &["auto, float32, bfloat16"]);
}

#[test]
fn options_of_trl_that_are_not_there_are_told_with_what_to_do() {
    let bench = Bench::new();
    bench.sft("--bf16").says(2, &["unexpected argument '--bf16'", "hint: set `dtype` instead"]);
    bench.sft("--report_to none").says(2, &["hint: leave --report_to out: metrics are always written"]);
    bench.sft("--max_seq_length 64").says(0, &["note: --max-seq-length is called --max-length now"]);
}

#[test]
fn a_missing_dataset_is_named() {
    let bench = Bench::new();
    fs::remove_file(bench.path("rows.jsonl")).expect("it was there");
    bench.sft("").says(2, &["rows.jsonl"]);
}

#[test]
fn a_missing_model_is_named() {
    Bench::new()
        .bash("reheat sft --model nowhere --dataset rows.jsonl")
        .says(2, &["no model folder `nowhere`", "hint:"]);
}

#[test]
fn missing_files_of_a_model_are_named() {
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let bench = Bench::new();
        fs::remove_file(bench.path("model").join(file)).expect("the fixture has it");
        bench.sft("").says(2, &[file]);
    }
}

#[test]
fn a_truncated_checkpoint_is_told() {
    let bench = Bench::new();
    let bytes = fs::read(bench.path("model/model.safetensors")).expect("the fixture has it");
    for kept in [0, 4, 100, bytes.len() - 1] {
        bench.write("model/model.safetensors", &bytes[..kept]);
        bench.sft("").says(2, &["model.safetensors"]);
    }
}

#[test]
fn another_architecture_is_told() {
    let bench = Bench::new();
    bench.replace("model/config.json", "\"qwen2\"", "\"llama\"");
    bench.sft("").says(2, &["model type `llama` is not supported, expected `qwen2`"]);
}

#[test]
fn damaged_json_is_told_with_its_line() {
    let bench = Bench::new();
    let text = fs::read_to_string(bench.path("model/config.json")).expect("the fixture has it");
    bench.write("model/config.json", &text[..text.len() / 2]);
    bench.sft("").says(2, &["config.json", "line"]);
}

#[test]
fn every_misshapen_tensor_is_in_one_error() {
    let bench = Bench::new();
    let config = fs::read_to_string(bench.path("model/config.json")).expect("the fixture has it");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("it is JSON");
    let width = config["intermediate_size"].as_u64().expect("a number") + 8;
    config["intermediate_size"] = width.into();
    bench.write("model/config.json", config.to_string());
    bench.sft("").says(2, &["layers.0.mlp.gate_proj.weight", "layers.1.mlp.down_proj.weight", "expected"]);
}

#[test]
fn weights_that_are_not_finite_are_told() {
    let bench = Bench::new();
    let mut bytes = fs::read(bench.path("model/model.safetensors")).expect("the fixture has it");
    let len = bytes.len();
    bytes[len - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    bench.write("model/model.safetensors", bytes);
    bench.sft("").says(2, &["NaN"]);
}

#[test]
fn an_empty_dataset_is_told() {
    let bench = Bench::new();
    bench.write("rows.jsonl", "");
    bench.sft("").says(2, &["rows.jsonl"]);
}

#[test]
fn a_row_of_no_known_format_is_told_with_its_line_and_what_is_accepted() {
    let bench = Bench::new();
    bench.write("rows.jsonl", "\n{\"foo\": \"x\", \"bar\": 2}\n");
    bench.sft("").says(2, &["rows.jsonl:2", "foo", "bar", "messages", "hint:"]);
}

#[test]
fn a_row_that_is_no_json_is_told_with_its_line() {
    let bench = Bench::new();
    let rows = fs::read_to_string(bench.path("rows.jsonl")).expect("the fixture has it");
    bench.write("rows.jsonl", format!("{rows}{{\"messages\": [\n"));
    let line = rows.lines().count() + 1;
    bench.sft("").says(2, &[&format!("rows.jsonl:{line}")]);
    bench.sft("--on-bad-row skip").says(0, &["1 row left out: not JSON"]);
}

#[test]
fn what_is_longer_than_max_length_is_counted() {
    Bench::new().sft("--max-length 8").says(0, &["cut"]);
}

#[test]
fn a_loss_that_becomes_nan_stops_the_run_and_keeps_what_was_saved() {
    let bench = Bench::new();
    bench
        .bash("reheat sft --model model --dataset rows.jsonl --output-dir out --learning-rate 1e10 --max-steps 20 --save-steps 1 --logging-steps 1 --max-grad-norm 0")
        .says(1, &["training stopped before the update", "rows [", "hint: lower --learning-rate"]);
    assert!(bench.path("out/checkpoint-1/model.safetensors").exists());
}

/// A limit on the size of files fails a write as a full disk does, for any user and on any file system.
#[cfg(unix)]
#[test]
fn a_write_that_fails_leaves_no_half_of_a_model() {
    let bench = Bench::new();
    let command = "trap '' XFSZ; ulimit -f 64; reheat sft --model model --dataset rows.jsonl --output-dir out --max-steps 2 --save-steps 1";
    bench.bash(command).says(1, &["cannot write", "model.safetensors"]);
    assert!(!bench.path("out/checkpoint-1").exists());
    assert!(!bench.path("out/model.safetensors").exists());
}

#[test]
fn every_wrong_setting_is_in_one_error() {
    let arguments = "--learning-rate -1 --adam-beta2 1.5 --logging-steps 0";
    Bench::new().sft(arguments).says(2, &["learning_rate is -1", "adam_beta2 is 1.5", "logging_steps is 0"]);
}

#[test]
fn a_misspelt_key_is_answered_with_the_right_one() {
    let bench = Bench::new();
    bench.write("sft.yaml", "learning_rte: 1e-4\n");
    bench.bash("reheat sft --config sft.yaml --model model --dataset rows.jsonl").says(2, &["learning_rate"]);
}

#[test]
fn a_device_that_is_not_in_the_binary_is_told() {
    Bench::new().sft("--device cuda:0").says(2, &["cuda", "hint:"]);
}
