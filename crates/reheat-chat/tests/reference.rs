//! Small templates that each try one corner of Jinja2 and Python, against transformers (`reference/make.py`).

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use reheat_chat::{ChatError, ChatTemplate, Conversation, Preparation, RenderOptions, Rendered, TemplateTokens};
use serde_json::{Map, Value, json};

const CASES: &str = include_str!("reference/cases.jsonl");

#[test]
fn every_corner_agrees() {
    let mut lines = CASES.lines();
    let header: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let variables = header["variables"].as_object().unwrap();
    let mut faults = Vec::new();
    let mut count = 0;
    for line in lines {
        let case: Value = serde_json::from_str(line).unwrap();
        count += 1;
        let source = case["template"].as_str().unwrap();
        if let Err(fault) = check(&case, variables) {
            faults.push(format!("{source}\n   {fault}"));
        }
    }
    assert!(count > 1000);
    assert!(faults.is_empty(), "{} of {count} differ\n{}", faults.len(), faults.join("\n"));
}

fn check(case: &Value, variables: &Map<String, Value>) -> Result<(), String> {
    match (render(case, variables), case.get("error")) {
        (Err(ChatError::Limit { limit }), _) => Err(format!("limit {limit}")),
        (Err(_), Some(_)) => Ok(()),
        // Python renders it, and an error is better than another text.
        (Err(_), None) if case.get("refused").is_some() => Ok(()),
        (Ok(rendered), _) if case.get("refused").is_some() => Err(format!("rendered {:?}", rendered.text)),
        (Err(error), None) => Err(format!("ours `{error}`, theirs {}", case["expected"])),
        (Ok(rendered), Some(error)) => Err(format!("ours {:?}, theirs {error}", rendered.text)),
        (Ok(rendered), None) if rendered.text != case["expected"].as_str().unwrap() => {
            Err(format!("ours   {:?}\n   theirs {}", rendered.text, case["expected"]))
        }
        (Ok(rendered), None) => {
            let spans = rendered.in_characters(&rendered.generation_spans);
            let spans: Vec<Value> = spans.iter().map(|span| json!([span.start, span.end])).collect();
            match case.get("generation_spans") {
                Some(expected) if *expected != json!(spans) => Err(format!("spans {spans:?}, theirs {expected}")),
                _ => Ok(()),
            }
        }
    }
}

fn render(case: &Value, variables: &Map<String, Value>) -> Result<Rendered, ChatError> {
    let tokens = TemplateTokens::new([("eos_token", "</s>")]);
    let template = ChatTemplate::new(case["template"].as_str().unwrap(), &tokens)?;
    let conversation = Conversation::from_json(json!({"messages": case["messages"], "tools": case["tools"]}))?;
    let continue_field = case.get("continue").map(|field| field.as_str().unwrap().to_owned());
    let options = RenderOptions {
        kwargs: if continue_field.is_some() { Map::new() } else { variables.clone() },
        continue_final_message: continue_field.is_some(),
        continue_field,
        now: Some("2025-01-02T03:04:05".parse().unwrap()),
        preparation: Preparation::AsGiven,
        ..RenderOptions::default()
    };
    template.render(&conversation, &options)
}
