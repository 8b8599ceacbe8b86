//! Masks for any template: derived, proved, or refused.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod shared;

use std::fs;

use reheat_chat::{ChatError, ChatTemplate, Conversation, RenderOptions, TemplateTokens};
use serde_json::json;

/// Each template of the shared set on a conversation of two turns: which text is trained.
#[test]
fn templates_of_published_models() {
    let Some(dir) = shared::folder("data/chat-templates/templates") else { return };
    let mut report = Vec::new();
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let tokens = TemplateTokens::new([("bos_token", "<s>"), ("eos_token", "</s>")]);
        let template = ChatTemplate::from_file(&path, &tokens).unwrap();
        let conversation = Conversation::from_json(json!([
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there!"},
            {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you."}
        ]));
        let options = RenderOptions { now: Some("2025-01-02T03:04:05".parse().unwrap()), ..Default::default() };
        let line = match template.render_for_training(&conversation.unwrap(), &options) {
            Ok(transcript) => {
                let spans: Vec<_> =
                    transcript.assistant_spans.iter().map(|span| &transcript.text[span.bytes.clone()]).collect();
                format!("{name}: {spans:?}")
            }
            Err(error) => format!(
                "{name}: {error}\n   {:?}",
                template
                    .render(
                        &Conversation::from_json(json!([
                            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there!"},
                            {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you."}
                        ]))
                        .unwrap(),
                        &options
                    )
                    .map(|r| r.text)
            ),
        };
        report.push(line);
    }
    println!("{}", report.join("\n"));
    let _ = ChatError::Empty;
}
