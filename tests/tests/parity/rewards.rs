//! Built-in rewards against TRL's, and JSON schemas against Python's jsonschema.

use reheat_tests::{golden, ids};
use reheat_train::{RewardContext, RewardInput, RewardSpec, score_completions};
use serde_json::{Map, Value, json};

/// The same formula in doubles.
const TOLERANCE: f64 = 1e-12;

/// What the reward `spec` says of a completion.
fn scored(spec: &str, completion: &str, ids: &[u32], row: &Map<String, Value>) -> Option<f64> {
    let spec: RewardSpec = spec.parse().expect("a name that is known");
    let mut reward = spec.build(&RewardContext::new(|_| {})).expect("arguments that are taken");
    let prompt = json!("?");
    score_completions(&mut *reward, &[RewardInput::new(&prompt, completion, ids, row)]).expect("nothing fails")[0]
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn with_solution(solution: &Value) -> Map<String, Value> {
    [("solution".to_owned(), solution.clone())].into_iter().collect()
}

fn assert_same(what: &str, ours: Option<f64>, theirs: &Value) {
    let same = match (ours, theirs.as_f64()) {
        (Some(ours), Some(theirs)) => (ours - theirs).abs() <= TOLERANCE,
        (ours, theirs) => ours.is_none() && theirs.is_none(),
    };
    assert!(same, "{what}: {ours:?} instead of {theirs}");
}

#[test]
fn the_format_of_thoughts() {
    for case in list(&golden("rewards")["think_format"]) {
        assert_same(text(&case[0]), scored("think_format", text(&case[0]), &[], &Map::new()), &case[1]);
    }
}

#[test]
fn answers_in_formulas() {
    let golden = golden("rewards");
    for reward in ["accuracy", "reasoning_accuracy"] {
        for case in list(&golden[reward]) {
            let ours = scored(reward, text(&case[0]), &[], &with_solution(&case[1]));
            assert_same(&format!("{reward} of {case}"), ours, &case[2]);
        }
    }
}

/// TRL looks at formulas alone, and at several boxes as one answer; these are right all the same.
#[test]
fn answers_outside_formulas_count_too() {
    for case in list(&golden("rewards")["accuracy_departures"]) {
        assert_eq!(case[2].as_f64(), Some(0.0), "no departure any more: {case}");
        assert_eq!(scored("accuracy", text(&case[0]), &[], &with_solution(&case[1])), Some(1.0), "{case}");
    }
}

#[test]
fn repetition_and_length() {
    let golden = golden("rewards");
    for reward in ["repetition", "soft_overlong"] {
        for settings in list(&golden[reward]) {
            for case in list(&settings[1]) {
                let spec = text(&settings[0]);
                assert_same(&format!("{spec} of {case}"), scored(spec, "", &ids(&case[0]), &Map::new()), &case[1]);
            }
        }
    }
}

#[test]
fn accuracy_by_length() {
    for settings in list(&golden("rewards")["cosine"]) {
        for case in list(&settings[1]) {
            let spec = text(&settings[0]);
            let ids = vec![1; case[1].as_u64().expect("a length") as usize];
            let ours = scored(spec, text(&case[0]), &ids, &with_solution(&json!("1")));
            assert_same(&format!("{spec} of {case}"), ours, &case[2]);
        }
    }
}

#[test]
fn json_of_a_shape() {
    for case in list(&golden("rewards")["json_schema"]) {
        let row: Map<String, Value> = [("shape".to_owned(), case[0].clone())].into_iter().collect();
        for value in list(&case[1]) {
            let ours = scored("json_schema:column=shape", &value[0].to_string(), &[], &row);
            let theirs = value[1].as_bool().map(|valid| f64::from(u8::from(valid)));
            assert_eq!(ours, theirs, "{} against {}", value[0], case[0]);
        }
    }
}
