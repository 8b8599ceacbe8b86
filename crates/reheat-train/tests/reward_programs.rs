//! Programs as rewards: those that answer, and those that crash, hang, babble or miscount.
#![cfg(unix)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reheat_train::{ProgramReward, Reward, RewardError, RewardInput, score_completions};
use serde_json::{Map, Value, json};

/// A program and everything that it said to people.
struct Program {
    reward: ProgramReward,
    said: Arc<Mutex<Vec<String>>>,
}

impl Program {
    fn new(command: &str, timeout: Duration) -> Self {
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let talk = Arc::new(move |line: &str| heard.lock().expect("no thread panics").push(line.to_owned()));
        Self { reward: ProgramReward::new("mine", command, timeout, talk), said }
    }

    /// Scores of two completions.
    fn score(&mut self) -> Result<Vec<Option<f64>>, RewardError> {
        let prompt = json!([{ "role": "user", "content": "Who?" }]);
        let Value::Object(row) = json!({ "answer": "Rex" }) else { panic!("an object") };
        let inputs = ["Rex", "\"Bo\"\n"].map(|text| RewardInput::new(&prompt, text, &[1, 2], &row));
        score_completions(&mut self.reward, &[inputs[0], inputs[1].with_truncated(true)])
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().expect("no thread panics").clone()
    }
}

/// Long enough for any shell, whatever else the machine does.
const PATIENT: Duration = Duration::from_secs(60);

fn message(result: Result<Vec<Option<f64>>, RewardError>) -> String {
    result.expect_err("the program is at fault").to_string()
}

#[test]
fn a_program_is_asked_batch_by_batch() {
    let command = r#"n=0; while read -r line; do n=$((n + 1)); echo "[$n, null]"; done"#;
    let mut program = Program::new(command, PATIENT);
    assert_eq!(program.score().unwrap(), [Some(1.0), None]);
    assert_eq!(program.score().unwrap(), [Some(2.0), None]);
    assert_eq!(program.reward.name(), "mine");
    assert_eq!(program.said(), Vec::<String>::new());
}

#[test]
fn a_program_sees_everything_on_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("line");
    let command = format!("read -r line; printf '%s' \"$line\" > '{}'; echo '[0, 0]'", file.display());
    assert_eq!(Program::new(&command, PATIENT).score().unwrap(), [Some(0.0), Some(0.0)]);
    let seen: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let expected = |completion: &str, truncated: bool| {
        json!({
            "prompt": [{ "role": "user", "content": "Who?" }], "completion": completion, "completion_ids": [1, 2],
            "truncated": truncated, "row": { "answer": "Rex" },
        })
    };
    assert_eq!(seen, json!([expected("Rex", false), expected("\"Bo\"\n", true)]));
}

#[test]
fn a_program_that_crashes_once_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tried");
    let file = file.display();
    let command = format!("read -r line; [ -e '{file}' ] && echo '[1, 2]' && exit; touch '{file}'; exit 3");
    let mut program = Program::new(&command, PATIENT);
    assert_eq!(program.score().unwrap(), [Some(1.0), Some(2.0)]);
    let said = program.said().join("\n");
    assert!(said.ends_with("ended before it answered (exit status: 3); it is started again"), "{said}");
}

#[test]
fn a_program_that_crashes_again_ends_training_with_its_last_words() {
    let mut program = Program::new("echo 'no module named numpy' >&2; exit 1", PATIENT);
    let message = message(program.score());
    assert!(
        message.ends_with("ended before it answered (exit status: 1); its last words were\nno module named numpy"),
        "{message}"
    );
    assert!(program.said().contains(&"no module named numpy".to_owned()));
}

#[test]
fn a_command_that_does_not_exist_is_named() {
    let message = message(Program::new("reheat-no-such-program", PATIENT).score());
    assert!(message.contains("reward program `reheat-no-such-program` ended before it answered"), "{message}");
    assert!(message.contains("not found"), "{message}");
}

#[test]
fn a_program_that_hangs_is_given_up() {
    let error = Program::new("sleep 600", Duration::from_secs(1)).score().unwrap_err();
    assert_eq!(error.to_string(), "reward program `sleep 600` gave no answer in 1 seconds");
    assert!(error.hint().is_some_and(|hint| hint.contains("flush")), "{:?}", error.hint());
}

#[test]
fn garbage_is_shown() {
    let of = |answer: &str| {
        message(Program::new(&format!("read -r line; echo '{answer}'; cat > /dev/null"), PATIENT).score())
    };
    for answer in ["loading the model", "", "{}", r#"["1", "2"]"#, "1.0"] {
        let message = of(answer);
        let expected = format!("answered `{answer}`, expected a JSON list of numbers and nulls on one line");
        assert!(message.ends_with(&expected), "{message}");
    }
}

#[test]
fn wrong_counts_and_numbers_name_the_reward() {
    let of = |answer: &str| {
        message(Program::new(&format!("read -r line; echo '{answer}'; cat > /dev/null"), PATIENT).score())
    };
    assert_eq!(of("[1]"), "reward `mine` gave 1 scores for 2 completions, expected one each");
    assert_eq!(
        of("[1.0, NaN]"),
        "reward `mine` is NaN for completion 1 of its batch, to the prompt `Who?`, expected a finite number"
    );
    assert!(of("[1e999, 1]").contains("answered `[1e999, 1]`"));
}

#[test]
fn a_line_too_many_is_not_taken_for_the_next_answer() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written");
    let command = format!("read -r line; echo '[1, 1]'; echo '[2, 2]'; touch '{}'; cat > /dev/null", written.display());
    let mut program = Program::new(&command, PATIENT);
    assert_eq!(program.score().unwrap(), [Some(1.0), Some(1.0)]);
    while !written.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // It is in the pipe; the thread that reads it takes a moment.
    std::thread::sleep(Duration::from_millis(200));
    assert!(message(program.score()).ends_with("printed a line that answers nothing: `[2, 2]`"));
}

#[test]
fn a_program_ends_with_its_reward() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    // It ignores that its input is closed.
    let command = format!("echo $$ > '{}'; read -r line; echo '[0, 0]'; while :; do sleep 1; done", file.display());
    let mut program = Program::new(&command, PATIENT);
    program.score().unwrap();
    let pid = std::fs::read_to_string(file).unwrap();
    drop(program);
    let alive = std::process::Command::new("sh").arg("-c").arg(format!("kill -0 {}", pid.trim())).output().unwrap();
    assert!(!alive.status.success(), "process {pid} lives on");
}

/// The script of `docs/guides/rewards.md`.
#[test]
fn python_judges_in_a_few_lines() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides/rewards.md");
    let page = std::fs::read_to_string(page).unwrap();
    let script = page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the page has it");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reward.py");
    std::fs::write(&file, script).unwrap();
    let mut program = Program::new(&format!("python3 '{}'", file.display()), PATIENT);
    let expected = [Some(0.997), Some(-0.005)];
    assert_eq!(program.score().unwrap(), expected);
    assert_eq!(program.score().unwrap(), expected);
}

/// An empty map is a row too.
#[test]
fn rows_may_be_empty() {
    let (prompt, row) = (json!("Who?"), Map::new());
    let mut reward = Program::new("read -r line; echo '[]'", PATIENT).reward;
    assert_eq!(score_completions(&mut reward, &[]).unwrap(), []);
    let mut reward = Program::new("read -r line; echo '[1]'", PATIENT).reward;
    assert_eq!(score_completions(&mut reward, &[RewardInput::new(&prompt, "", &[], &row)]).unwrap(), [Some(1.0)]);
}
