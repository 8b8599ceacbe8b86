//! Text, errors and generation spans equal those of transformers 5.23 for every template and case of the shared set.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod shared;

use std::{collections::BTreeMap, fs, path::Path};

use reheat_chat::{ChatError, ChatTemplate, Conversation, Preparation, RenderOptions, TemplateTokens};
use serde_json::{Value, json};

#[test]
fn every_rendering_agrees() {
    let Some(dir) = shared::folder("data/chat-templates") else { return };
    let mut templates: BTreeMap<String, ChatTemplate> = BTreeMap::new();
    let mut faults = Vec::new();
    let cases = json_lines(&dir.join("goldens.jsonl"));
    for case in &cases {
        let name = case["template"].as_str().unwrap();
        let template = templates.entry(name.to_owned()).or_insert_with(|| {
            let source = fs::read_to_string(dir.join(format!("templates/{name}.jinja"))).unwrap();
            ChatTemplate::new(source, &TemplateTokens::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
        });
        if let Err(fault) = check(template, case) {
            faults.push(format!("{name} {} {}: {fault}", case["case"], case["kwargs"]["add_generation_prompt"]));
        }
    }
    assert!(faults.is_empty(), "{} of {} differ\n{}", faults.len(), cases.len(), faults.join("\n"));
}

fn check(template: &ChatTemplate, case: &Value) -> Result<(), String> {
    let mut kwargs = case["kwargs"].as_object().unwrap().clone();
    let add_generation_prompt = kwargs.remove("add_generation_prompt") == Some(json!(true));
    let conversation = Conversation::from_json(json!({"messages": case["messages"], "tools": case["tools"]})).unwrap();
    let options = RenderOptions {
        add_generation_prompt,
        kwargs,
        now: Some("2025-01-02T03:04:05".parse().unwrap()),
        preparation: Preparation::AsGiven,
        ..RenderOptions::default()
    };
    match (template.render(&conversation, &options), case.get("error")) {
        (Ok(rendered), None) => {
            if rendered.text != case["expected"].as_str().unwrap() {
                return Err(format!("\n  ours   {:?}\n  theirs {:?}", rendered.text, case["expected"]));
            }
            let spans: Vec<_> = rendered
                .in_characters(&rendered.generation_spans)
                .iter()
                .map(|span| json!([span.start, span.end]))
                .collect();
            match case.get("generation_spans") {
                Some(expected) if *expected != json!(spans) => Err(format!("spans {spans:?}, not {expected}")),
                _ => Ok(()),
            }
        }
        (Err(ChatError::Refused { message }), Some(error)) if error["type"] == "TemplateError" => {
            if error["message"] == message { Ok(()) } else { Err(format!("refused with {message:?}, not {error}")) }
        }
        (Err(error @ ChatError::Limit { .. }), Some(_)) => Err(error.to_string()),
        (Err(_), Some(error)) if error["type"] != "TemplateError" => Ok(()),
        (Ok(rendered), Some(error)) => Err(format!("renders {:?}, not {error}", rendered.text)),
        (Err(error), _) => Err(format!("fails with `{error}`, not {}", case.get("error").unwrap_or(&case["expected"]))),
    }
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
