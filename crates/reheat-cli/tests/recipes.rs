//! Every recipe in the docs is run on a tiny model.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn every_recipe_trains() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut recipes = 0;
    for entry in fs::read_dir(root.join("docs/recipes")).unwrap() {
        let recipe = entry.unwrap().path();
        let text = fs::read_to_string(&recipe).unwrap();
        let rows = root.join("tests/fixtures/conversations.jsonl");
        let out = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_reheat"));
        command.arg("sft").arg("--config").arg(&recipe);
        command.arg("--model").arg(root.join("tests/fixtures/tied-grouped")).arg("--dataset").arg(&rows);
        command.args(["--max-steps", "4", "--max-length", "128", "--logging-steps", "1", "--output-dir"]);
        command.arg(out.path().join("run"));
        if text.contains("eval_strategy") {
            command.arg("--eval-dataset").arg(&rows);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", recipe.display(), String::from_utf8_lossy(&output.stderr));
        let metrics = fs::read_to_string(out.path().join("run/metrics.jsonl")).unwrap();
        assert_eq!(metrics.lines().filter(|line| line.contains("\"grad_norm\"")).count(), 4, "{}", recipe.display());
        assert!(out.path().join("run/README.md").is_file());
        recipes += 1;
    }
    assert!(recipes >= 3);
}
