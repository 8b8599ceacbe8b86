//! Every recipe in the docs is run on the bundled tiny model, with the command that it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const COMMANDS: [&str; 6] = ["sft", "dpo", "kto", "reward", "grpo", "rloo"];

#[test]
fn every_recipe_trains_and_every_command_has_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let demo = root.join("crates/reheat-cli/demo");
    let mut named = BTreeSet::new();
    for entry in fs::read_dir(root.join("docs/recipes")).unwrap() {
        let recipe = entry.unwrap().path();
        let text = fs::read_to_string(&recipe).unwrap();
        let usage =
            text.lines().find_map(|line| line.strip_prefix("#   reheat ")).expect("a recipe says how it is used");
        let name = usage.split(' ').next().unwrap();
        let rows = match name {
            "sft" => "train.jsonl",
            "dpo" | "kto" | "reward" => "preferences.jsonl",
            "grpo" | "rloo" => "questions.jsonl",
            other => panic!("{}: no command `{other}`", recipe.display()),
        };
        let rows = demo.join(rows);
        let out = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_reheat"));
        command.arg(name).arg("--config").arg(&recipe);
        command.arg("--model").arg(demo.join("base")).arg("--dataset").arg(&rows);
        command.args([
            "--max-steps",
            "2",
            "--gradient-accumulation-steps",
            "1",
            "--logging-steps",
            "1",
            "--output-dir",
        ]);
        command.arg(out.path().join("run")).env("REHEAT_CACHE", out.path());
        if usage.contains("--eval-dataset") {
            command.arg("--eval-dataset").arg(&rows).args(["--eval-strategy", "steps", "--eval-steps", "2"]);
            command.args(["--save-strategy", "steps", "--save-steps", "2"]);
        }
        match name {
            "grpo" | "rloo" => command.args(["--reward", "contains:expected", "--max-completion-length", "8"]),
            _ => command.args(["--max-length", "128"]),
        };
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", recipe.display(), String::from_utf8_lossy(&output.stderr));
        let metrics = fs::read_to_string(out.path().join("run/metrics.jsonl")).unwrap();
        let rows = |key: &str| metrics.lines().filter(|line| line.contains(key)).count();
        assert_eq!(rows("\"grad_norm\""), 2, "{}: {metrics}", recipe.display());
        assert_eq!(rows("\"eval_loss\""), usize::from(usage.contains("--eval-dataset")), "{}", recipe.display());
        assert!(out.path().join("run/README.md").is_file());
        named.insert(name.to_owned());
    }
    assert_eq!(named, COMMANDS.map(str::to_owned).into());
}
