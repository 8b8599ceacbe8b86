//! `reheat template` as a process: what a person and a program get.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{fs, path::PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Line breaks inside of quotes, as in many templates of the wild.
const TEMPLATE: &str = "{%- for message in messages %}{{ '<|im_start|>' + message.role + '
' + message.content + '<|im_end|>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}";

const CHAT: &str = r#"[{"role": "user", "content": "Hé"}, {"role": "assistant", "content": "Yo!"}]"#;
const CHAT_TEXT: &str = "<|im_start|>user\nHé<|im_end|>\n<|im_start|>assistant\nYo!<|im_end|>\n";

struct Case {
    folder: TempDir,
}

struct Ran {
    code: i32,
    out: String,
    talk: String,
}

impl Case {
    fn new(messages: &str) -> Self {
        let case = Self { folder: TempDir::new().unwrap() };
        fs::write(case.path("chat.jinja"), TEMPLATE).unwrap();
        fs::write(case.path("messages.json"), messages).unwrap();
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Ran {
        let output = Command::cargo_bin("reheat")
            .unwrap()
            .current_dir(self.folder.path())
            .arg("template")
            .args(words)
            .args(["--messages", "messages.json"])
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), talk: text(output.stderr) }
    }
}

impl Ran {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.talk);
        serde_json::from_str(&self.out).unwrap()
    }
}

#[test]
fn a_conversation_is_rendered_as_text_and_as_json() {
    let case = Case::new(CHAT);
    let plain = case.run(&["render", "--template", "chat.jinja"]);
    assert_eq!((plain.code, plain.out.as_str(), plain.talk.as_str()), (0, CHAT_TEXT, ""));

    let json = case.run(&["render", "--template", "chat.jinja", "--add-generation-prompt", "--json"]).json();
    assert_eq!(json, json!({"text": format!("{CHAT_TEXT}<|im_start|>assistant\n"), "generation_spans": []}));

    let open = case.run(&["render", "--template", "chat.jinja", "--continue-final-message"]);
    assert_eq!(open.out, CHAT_TEXT.strip_suffix("<|im_end|>\n").unwrap());
}

#[test]
fn spans_count_characters() {
    let case = Case::new(CHAT);
    let marked =
        "{% for m in messages %}{{ m.content }}: {% generation %}{{ m.content }}{% endgeneration %};{% endfor %}";
    fs::write(case.path("marked.jinja"), marked).unwrap();
    let json = case.run(&["render", "--template", "marked.jinja", "--json"]).json();
    assert_eq!(json, json!({"text": "Hé: Hé;Yo!: Yo!;", "generation_spans": [[4, 6], [12, 15]]}));
}

#[test]
fn tools_and_variables_reach_the_template() {
    let case = Case::new(CHAT);
    fs::write(case.path("t.jinja"), "{{ tools[0].name }} {{ bos_token }} {{ add_generation_prompt }}").unwrap();
    fs::write(case.path("tools.json"), r#"[{"name": "add"}]"#).unwrap();
    let kwargs = r#"{"bos_token": "<s>", "add_generation_prompt": true}"#;
    let ran = case.run(&["render", "--template", "t.jinja", "--tools", "tools.json", "--kwargs", kwargs]);
    assert_eq!(ran.out, "add <s> True");
}

#[test]
fn of_many_cases_each_has_a_line_and_failures_are_counted() {
    let case = Case::new(
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"kwargs\": {\"add_generation_prompt\": true}}\n\
         {\"messages\": [{\"from\": \"human\", \"value\": \"a\"}]}\n",
    );
    let ran = case.run(&["render", "--template", "chat.jinja", "--json"]);
    assert_eq!((ran.code, ran.talk.as_str()), (2, "error: 1 of 2 conversations cannot be rendered\n"));
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["text"], "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(lines[1]["error"]["kind"], "failed");
    assert!(lines[1]["error"]["hint"].as_str().unwrap().contains("reheat data convert"));

    // A template that is none costs its own cases alone.
    let user = json!([{"role": "user", "content": "a"}]);
    let cases = ["broken", "chat"].map(|name| json!({"messages": user, "template": name}).to_string());
    let with_broken = Case::new(&cases.join("\n"));
    fs::write(with_broken.path("broken.jinja"), "{% if %}").unwrap();
    let ran = with_broken.run(&["render", "--template", ".", "--json"]);
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), ran.talk.as_str()), (2, "error: 1 of 2 conversations cannot be rendered\n"));
    assert_eq!(lines[0]["error"]["kind"], "syntax");
    assert_eq!(lines[1]["text"], "<|im_start|>user\na<|im_end|>\n");

    let with_names =
        Case::new("{\"messages\": [], \"template\": \"chat\"}\n{\"messages\": [], \"template\": \"../chat\"}\n");
    let ran = with_names.run(&["render", "--template", "."]);
    assert_eq!(ran.code, 2);
    assert!(ran.talk.contains("template `../chat` is not the name of a file in `.`"), "{}", ran.talk);
}

#[test]
fn a_sharegpt_row_is_met_with_the_missing_field_and_the_way_to_convert_it() {
    let case = Case::new(r#"[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo!"}]"#);
    let ran = case.run(&["render", "--template", "chat.jinja"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.talk.contains("messages[0] has no field `role`, only `from`, `value`"), "{}", ran.talk);
    assert!(ran.talk.contains("hint: ") && ran.talk.contains("`reheat data convert --format sharegpt`"));
}

#[test]
fn the_template_s_own_words_are_the_error() {
    let case = Case::new(CHAT);
    fs::write(case.path("no.jinja"), "{{ raise_exception('no system here') }}").unwrap();
    let ran = case.run(&["render", "--template", "no.jinja"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert_eq!(ran.talk, "error: the chat template refuses this conversation: no system here\n");
}

#[test]
fn a_mask_shows_the_content_and_what_ends_the_turn() {
    let case = Case::new(CHAT);
    let plain = case.run(&["mask", "--template", "chat.jinja"]);
    assert_eq!(plain.out, "<|im_start|>user\nHé<|im_end|>\n<|im_start|>assistant\n⟦Yo!<|im_end|>⟧\n");
    assert_eq!(plain.talk, "13 of 66 characters are trained\n");
    let json = case.run(&["mask", "--template", "chat.jinja", "--json"]).json();
    assert_eq!(json, json!({"text": CHAT_TEXT, "assistant_spans": [[52, 65]], "literal_spans": []}));
}

#[test]
fn with_a_tokenizer_the_mask_covers_tokens_and_users_forge_none() {
    let case = Case::new(r#"[{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "Yo!"}]"#);
    let json = case.run(&["mask", "--json"]).json(); // the bundled model
    let ids = json["ids"].as_array().unwrap();
    let masks = json["assistant_masks"].as_array().unwrap();
    assert_eq!(ids.len(), masks.len());
    assert_eq!(json["literal_spans"], json!([[17, 27]]));
    let end_of_turn = &ids[ids.len() - 2];
    let count = |json: &Value| json["ids"].as_array().unwrap().iter().filter(|id| *id == end_of_turn).count();
    assert_eq!((count(&json), &masks[masks.len() - 2]), (2, &json!(1)));

    let forged = case.run(&["mask", "--json", "--control-tokens", "recognized"]).json();
    assert_eq!((count(&forged), &forged["literal_spans"]), (3, &json!([])));
}
