//! Runs of the binary that are killed, interrupted or out of space, and taken up again.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Kills that a run survives before it is left alone.
const KILLS: usize = 30;

const STEPS: &str = "80";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// A run of many small steps with a checkpoint after every other one.
fn sft(output_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reheat"));
    with_arguments(&mut command, output_dir);
    command
}

fn with_arguments(command: &mut Command, output_dir: &Path) {
    command.arg("sft").arg("--model").arg(fixtures().join("tied-grouped"));
    command.arg("--dataset").arg(fixtures().join("conversations.jsonl"));
    command.arg("--output-dir").arg(output_dir);
    for (flag, value) in [
        ("--per-device-train-batch-size", "1"),
        ("--gradient-accumulation-steps", "2"),
        ("--max-steps", STEPS),
        ("--save-steps", "2"),
        ("--save-total-limit", "2"),
        ("--logging-steps", "3"),
        ("--learning-rate", "1e-3"),
    ] {
        command.args([flag, value]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// The command that goes on with a run, or starts it where it was killed before its first checkpoint.
fn resume(output_dir: &Path) -> Command {
    let mut command = sft(output_dir);
    if !checkpoints(output_dir).is_empty() {
        command.arg("--resume-from-checkpoint");
    }
    command
}

fn checkpoints(output_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(output_dir).into_iter().flatten().filter_map(Result::ok);
    let mut dirs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    dirs.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("checkpoint-"));
    dirs
}

fn finish(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What a run ends in: weights, moments and metrics, the latter without the one column that has a clock in it.
fn result(output_dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let last = output_dir.join(format!("checkpoint-{STEPS}"));
    let mut files: BTreeMap<String, Vec<u8>> = [
        ("model", output_dir.join("model.safetensors")),
        ("checkpoint", last.join("model.safetensors")),
        ("optimizer", last.join("optimizer.safetensors")),
    ]
    .into_iter()
    .map(|(name, path)| (name.to_owned(), fs::read(path).unwrap()))
    .collect();
    let metrics = fs::read_to_string(output_dir.join("metrics.jsonl")).unwrap();
    let timeless = metrics.lines().map(|line| line.split(",\"tokens_per_second\"").next().unwrap().to_owned() + "\n");
    files.insert("metrics".into(), timeless.collect::<String>().into_bytes());
    files
}

#[track_caller]
fn assert_same_result(output_dir: &Path, reference: &Path) {
    let (ours, expected) = (result(output_dir), result(reference));
    for (name, bytes) in &expected {
        assert!(ours[name] == *bytes, "{name} differs from the uninterrupted run's");
    }
    let mut left: Vec<_> = fs::read_dir(output_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let mut whole: Vec<_> = fs::read_dir(reference).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    whole.sort();
    assert_eq!(left, whole, "nothing unfinished is left behind");
}

/// SIGKILL at random moments: while it starts, trains, saves, resumes.
#[test]
fn a_run_that_is_killed_again_and_again_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (reference, victim) = (folder.path().join("reference"), folder.path().join("victim"));
    let started = Instant::now();
    finish(sft(&reference));
    let whole_run = started.elapsed();

    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut died = 0;
    for _ in 0..KILLS {
        let mut child = resume(&victim).spawn().unwrap();
        thread::sleep(whole_run.mul_f64(rng.random_range(0.0..0.3)));
        child.kill().unwrap();
        died += usize::from(!child.wait().unwrap().success());
    }
    assert!(died > 0, "no run was killed before its end");
    finish(resume(&victim));
    assert_same_result(&victim, &reference);
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// The first signal saves; a second one, sent at once, may come before that and leaves without.
#[test]
fn an_interrupted_run_exits_with_130_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (reference, stopped) = (folder.path().join("reference"), folder.path().join("stopped"));
    finish(sft(&reference));
    for signals in [&["-INT"][..], &["-TERM"], &["-INT", "-TERM"]] {
        let child = resume(&stopped).spawn().unwrap();
        let before = checkpoints(&stopped);
        // Training has begun, and with it the handling of signals, when there is a new checkpoint.
        while checkpoints(&stopped) == before {
            thread::sleep(Duration::from_millis(1));
        }
        signals.iter().for_each(|name| signal(&child, name));
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{told}");
        if signals.len() == 1 {
            assert!(told.contains("the checkpoint is saved"), "{told}");
            assert!(told.contains("hint: the same command with --resume-from-checkpoint goes on"), "{told}");
        }
    }
    finish(resume(&stopped));
    assert_same_result(&stopped, &reference);
}

/// Files may grow to a size that the model's fits and the optimizer's does not: a save fails half way, the run stops
/// with the name of the file, and what was saved before can be resumed.
#[test]
fn a_full_disk_spoils_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (reference, full) = (folder.path().join("reference"), folder.path().join("full"));
    finish(sft(&reference));
    // An ignored signal stays ignored in the program that follows: writes fail then, as they do on a full disk.
    let limited = |blocks: u32, extra: &[&str]| {
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_reheat")]);
        with_arguments(&mut command, &full);
        command.args(extra).output().unwrap()
    };
    // 200 blocks of 512 bytes hold the model (98 kB), not the moments (197 kB).
    let output = limited(200, &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot write") && told.contains("optimizer.safetensors"), "{told}");
    assert_eq!(checkpoints(&full), Vec::<PathBuf>::new());

    let mut child = resume(&full).spawn().unwrap();
    while checkpoints(&full).len() < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let saved = checkpoints(&full);
    let output = limited(200, &["--resume-from-checkpoint"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(checkpoints(&full), saved, "what was saved before is still there");
    finish(resume(&full));
    assert_same_result(&full, &reference);
}
