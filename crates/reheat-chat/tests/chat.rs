//! Reading conversations, finding and saving templates, options, and errors with their hints.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{fs, path::Path};

use proptest::prelude::*;
use reheat_chat::{
    Case, Cases, ChatError, ChatTemplate, ControlTokens, Conversation, Message, Preparation, RenderOptions,
    TemplateTokens,
};
use serde_json::{Value, json};

fn plain(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, &TemplateTokens::new([("eos_token", "<|im_end|>")])).unwrap()
}

fn conversation(value: Value) -> Conversation {
    Conversation::from_json(value).unwrap()
}

fn render(template: &ChatTemplate, value: Value, options: &RenderOptions) -> Result<String, ChatError> {
    Ok(template.render(&conversation(value), options)?.text)
}

fn turns() -> Value {
    json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo!"}])
}

#[test]
fn chatml() {
    let template = ChatTemplate::chatml(&TemplateTokens::default());
    let text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo!<|im_end|>\n";
    assert_eq!(render(&template, turns(), &RenderOptions::default()).unwrap(), text);
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    assert_eq!(render(&template, turns(), &options).unwrap(), format!("{text}<|im_start|>assistant\n"));
    let transcript = template.render_for_training(&conversation(turns()), &options).unwrap();
    assert_eq!(transcript.text, text);
    assert_eq!(&text[transcript.assistant_spans[0].bytes.clone()], "Yo!<|im_end|>");
    assert!(
        !template.inference_source().contains("generation %}")
            && !template.inference_source().contains("generation -%}")
    );
}

#[test]
fn variables_come_from_tokens_options_and_conversation() {
    let template = plain("{{ eos_token }} {{ a }} {{ b }}");
    let options =
        RenderOptions { kwargs: json!({"a": 1, "b": 2}).as_object().unwrap().clone(), ..RenderOptions::default() };
    let row = json!({"messages": turns(), "chat_template_kwargs": {"b": 3}});
    assert_eq!(render(&template, row, &options).unwrap(), "<|im_end|> 1 3");
}

#[test]
fn null_fields_are_dropped_unless_asked_for() {
    let template = plain("{% for m in messages %}{{ m.content is defined }}{{ m }}{% endfor %}");
    let messages = json!([{"role": "assistant", "content": null}]);
    let given = RenderOptions { preparation: Preparation::AsGiven, ..RenderOptions::default() };
    assert_eq!(render(&template, messages.clone(), &RenderOptions::default()).unwrap(), "False{'role': 'assistant'}");
    assert_eq!(render(&template, messages, &given).unwrap(), "True{'role': 'assistant', 'content': None}");
    assert!(matches!(render(&template, json!([]), &RenderOptions::default()), Err(ChatError::Empty)));
    assert_eq!(render(&template, json!([]), &given).unwrap(), "");
}

#[test]
fn a_final_message_is_left_open() {
    let template = ChatTemplate::chatml(&TemplateTokens::default());
    let options = RenderOptions { continue_final_message: true, ..RenderOptions::default() };
    let text = render(&template, turns(), &options).unwrap();
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo!");
    let both = RenderOptions { add_generation_prompt: true, ..options };
    assert!(matches!(render(&template, turns(), &both), Err(ChatError::PromptAndContinue)));
}

#[test]
fn control_tokens_of_messages_are_told_apart() {
    let template = plain("{% for m in messages %}{{ m.content|trim }}<|im_end|>{% endfor %}");
    let messages = json!([{"role": "user", "content": " a<|im_end|>b "}, {"role": "user", "content": "<|im_end|>"}]);
    let rendered = template.render(&conversation(messages.clone()), &RenderOptions::default()).unwrap();
    assert_eq!(rendered.text, "a<|im_end|>b<|im_end|><|im_end|><|im_end|>");
    assert_eq!(rendered.literal_spans, [1..11, 22..32]);
    let options = RenderOptions { control_tokens: ControlTokens::Recognized, ..RenderOptions::default() };
    assert!(template.render(&conversation(messages), &options).unwrap().literal_spans.is_empty());
}

#[test]
fn added_tokens_count_where_the_template_builds_turns_of_them() {
    let tokens = TemplateTokens {
        added: ["<U>", "<A>", "<think>"].map(str::to_owned).to_vec(),
        ..TemplateTokens::new([("eos_token", "</s>")])
    };
    let source = "{% for m in messages %}{{ '<U>' if m.role == 'user' else '<A>' }}{{ m.content }}</s>{% endfor %}";
    let template = ChatTemplate::new(source, &tokens).unwrap();
    let messages = json!([
        {"role": "user", "content": "<A><think>"}, {"role": "assistant", "content": "<think><A></s>"}
    ]);
    let rendered = template.render(&conversation(messages), &RenderOptions::default()).unwrap();
    let literal: Vec<&str> = rendered.literal_spans.iter().map(|span| &rendered.text[span.clone()]).collect();
    // The user can't speak for the assistant; a model's own thinking stays thinking; nobody ends a turn.
    assert_eq!(literal, ["<A>", "</s>"]);
    assert_eq!(rendered.literal_spans[0], 3..6);
}

#[test]
fn a_template_that_acts_on_a_control_token_is_an_error_where_a_message_spells_it() {
    let template =
        plain("{% for m in messages %}{{ m.content.split('<|im_end|>')[0] }}{{ m.content|length }}{% endfor %}");
    let messages = json!([{"role": "user", "content": "a<|im_end|>b"}]);
    let error = render(&template, messages.clone(), &RenderOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "a message spells the control token `<|im_end|>`, and the template acts on it");
    let options = RenderOptions { control_tokens: ControlTokens::Recognized, ..RenderOptions::default() };
    assert_eq!(render(&template, messages, &options).unwrap(), "a12");
}

#[test]
fn tool_templates_are_taken_for_conversations_with_tools() {
    let named = [("default", "plain"), ("tool_use", "tools"), ("rag", "documents")];
    let named = named.map(|(name, source)| (name.to_owned(), source.to_owned())).to_vec();
    let template = ChatTemplate::from_named(named, &TemplateTokens::default()).unwrap();
    assert_eq!(template.names().collect::<Vec<_>>(), ["default", "tool_use", "rag"]);
    let options = RenderOptions::default();
    assert_eq!(render(&template, turns(), &options).unwrap(), "plain");
    assert_eq!(render(&template, json!({"messages": turns(), "tools": []}), &options).unwrap(), "tools");
    assert_eq!(render(&template.named("rag").unwrap(), turns(), &options).unwrap(), "documents");
    let error = template.named("nope").unwrap_err();
    assert_eq!(error.to_string(), "there is no chat template `nope`, only `default`, `tool_use`, `rag`");

    let unnamed = ChatTemplate::from_named(
        vec![("a".to_owned(), "a".to_owned()), ("b".to_owned(), "b".to_owned())],
        &TemplateTokens::default(),
    );
    assert!(matches!(render(&unnamed.unwrap(), turns(), &options), Err(ChatError::UnknownTemplate { .. })));
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn found(dir: &Path) -> Option<Vec<(String, String)>> {
    let template = ChatTemplate::from_dir(dir, &TemplateTokens::default()).unwrap()?;
    let named = |name: &str| template.named(name).unwrap().source().to_owned();
    Some(template.names().map(|name| (name.to_owned(), named(name))).collect())
}

fn pairs(expected: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    Some(expected.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned())).collect())
}

#[test]
fn templates_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    assert_eq!(found(dir), None);
    write(dir, "chat_template.json", r#"{"chat_template": "from json"}"#);
    assert_eq!(found(dir), pairs(&[("default", "from json")]));
    write(dir, "tokenizer_config.json", r#"{"chat_template": null}"#);
    assert_eq!(found(dir), pairs(&[("default", "from json")]));
    write(dir, "tokenizer_config.json", r#"{"chat_template": "from config"}"#);
    assert_eq!(found(dir), pairs(&[("default", "from config")]));
    let list = r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]}"#;
    write(dir, "tokenizer_config.json", list);
    assert_eq!(found(dir), pairs(&[("default", "d"), ("rag", "r")]));
    write(dir, "tokenizer_config.json", r#"{"chat_template": {"default": "d", "tool_use": "t"}}"#);
    assert_eq!(found(dir), pairs(&[("default", "d"), ("tool_use", "t")]));
    write(dir, "chat_template.jinja", "from file\n");
    assert_eq!(found(dir), pairs(&[("default", "from file\n")]));
    write(dir, "chat_templates/tool_use.jinja", "tools");
    assert_eq!(found(dir), pairs(&[("default", "from file\n"), ("tool_use", "tools")]));

    write(dir, "chat_template.jinja", "{% if %}");
    let error = ChatTemplate::from_dir(dir, &TemplateTokens::default()).unwrap_err();
    assert_eq!(error.to_string(), "chat template, line 1: unexpected the end of the tag, expected an expression");
    let empty = tempfile::tempdir().unwrap();
    write(empty.path(), "tokenizer_config.json", r#"{"chat_template": 5}"#);
    assert!(matches!(ChatTemplate::from_dir(empty.path(), &TemplateTokens::default()), Err(ChatError::Shape { .. })));
    write(empty.path(), "tokenizer_config.json", "{");
    assert!(matches!(ChatTemplate::from_dir(empty.path(), &TemplateTokens::default()), Err(ChatError::Json { .. })));
}

#[test]
fn saved_templates_have_no_markers_and_no_rival() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    write(dir, "tokenizer_config.json", r#"{"eos_token": "e", "chat_template": "old", "pad_token": "p"}"#);
    let named = [("default", "{% generation %}x{% endgeneration %}"), ("tool_use", "t")];
    let named = named.map(|(name, source)| (name.to_owned(), source.to_owned())).to_vec();
    ChatTemplate::from_named(named, &TemplateTokens::default()).unwrap().save(dir).unwrap();
    assert_eq!(found(dir), pairs(&[("default", "x"), ("tool_use", "t")]));
    let config: Value = serde_json::from_str(&fs::read_to_string(dir.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(config.to_string(), r#"{"eos_token":"e","pad_token":"p"}"#);
}

#[test]
fn share_gpt_rows_are_met_with_the_way_to_convert_them() {
    // A template with line breaks inside of quotes, which reads a field that these rows lack.
    let template = plain(
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}",
    );
    assert_eq!(
        render(&template, turns(), &RenderOptions::default()).unwrap(),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo!<|im_end|>\n"
    );
    let rows = json!([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo!"}]);
    let error = render(&template, rows, &RenderOptions::default()).unwrap_err();
    let expected = "chat template, line 1: messages[0] has no field `role`, only `from`, `value`: ";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert!(error.hint().unwrap().contains("--format sharegpt"));

    let error = Conversation::from_json(json!({"conversations": [{"from": "human", "value": "Hi"}]})).unwrap_err();
    assert_eq!(error.to_string(), "conversation: `messages` is missing; the keys are conversations");
    assert!(error.hint().unwrap().contains("--format sharegpt"));
}

#[test]
fn conversations_are_read_in_every_form() {
    let one = conversation(turns());
    assert_eq!(one, Conversation::new(vec![Message::new("user", "Hi"), Message::new("assistant", "Yo!")]));
    let line = serde_json::to_string(&json!({"messages": turns(), "id": 7})).unwrap();
    for text in [
        turns().to_string(),
        line.clone(),
        serde_json::to_string_pretty(&json!({"messages": turns()})).unwrap(),
        json!([turns()]).to_string(),
        json!([{"messages": turns()}]).to_string(),
    ] {
        let cases = Cases::read(&text).unwrap().cases;
        assert_eq!((cases.len(), &cases[0].conversation), (1, &one), "{text}");
    }
    assert_eq!(Cases::read(&format!("{line}\n\n{line}\n")).unwrap().cases.len(), 2);

    let row = json!({"messages": turns(), "tools": "[{\"type\": \"function\"}]", "documents": [], "kwargs": {"a": 1}});
    let read = conversation(row);
    assert_eq!(read.tools, Some(vec![json!({"type": "function"})]));
    assert_eq!(read.documents, Some(vec![]));
    assert_eq!(read.template_kwargs["a"], 1);
    assert_eq!(conversation(json!({"messages": [], "tools": ""})).tools, None);
}

#[test]
fn a_case_says_how_it_is_rendered() {
    let case = |value: Value| Case::from_json(value).unwrap();
    assert_eq!(case(turns()).options.preparation, Preparation::ApplyChatTemplate);
    let kwargs = json!({"add_generation_prompt": true, "eos_token": "</s>"});
    let with_kwargs = case(json!({"messages": turns(), "kwargs": kwargs, "template": "zephyr"}));
    assert!(with_kwargs.options.add_generation_prompt && !with_kwargs.options.continue_final_message);
    assert_eq!(with_kwargs.options.preparation, Preparation::AsGiven);
    assert_eq!(with_kwargs.template.as_deref(), Some("zephyr"));
    // Options are no variables of the template's.
    assert_eq!(json!(with_kwargs.conversation.template_kwargs), json!({"eos_token": "</s>"}));
    assert!(case(json!({"messages": turns(), "continue_final_message": true})).options.continue_final_message);
}

#[test]
fn wrong_conversations_name_the_place() {
    let check = |text: &str, expected: &str| {
        assert_eq!(Cases::read(text).unwrap_err().to_string(), expected, "{text}");
    };
    check("5", "conversation: expected messages, found a number");
    check("{", "the file: not valid JSON");
    check("{\"messages\": 5}", "messages: expected a list, found a number");
    check("{\"messages\": [5]}", "messages[0]: expected an object, found a number");
    check("{\"messages\": [], \"tools\": 5}", "tools: expected a list, found a number");
    check("{\"messages\": [], \"kwargs\": []}", "kwargs: expected an object, found a list");
    check(
        "{\"messages\": [], \"add_generation_prompt\": 1}",
        "add_generation_prompt: expected true or false, found a number",
    );
    check("{\"messages\": []}\n{\"messages\": null}", "line 2: messages: expected a list, found null");
    check("{\"messages\": []}\n\n{", "line 3: not valid JSON");
}

#[test]
fn faults_name_the_line_of_the_template() {
    let check = |source: &str, expected: &str| {
        let result = ChatTemplate::new(source, &TemplateTokens::default());
        let result = result.and_then(|template| render(&template, turns(), &RenderOptions::default()));
        assert_eq!(result.unwrap_err().to_string(), expected, "{source}");
    };
    check(
        "a\n{%- if x -%}\n\n{{ missing.x }}\n{% endif %}{{\n\n'a' + 1 }}",
        "chat template, line 5: tried to use + operator on unsupported types string and number",
    );
    check("\n\n{{ missing.x }}", "chat template, line 3: reaching into something that is not defined");
    check("\n{% for x in none %}{% endfor %}", "chat template, line 2: `NoneType` object is not iterable");
    check("\n{% for x in y %}", "chat template, line 2: `for` is not closed");
    check("\n\n{% endif %}", "chat template, line 3: unexpected `endif`: nothing is open");
    check("{% for x in y %}\n{% endif %}", "chat template, line 2: unexpected `endif`: `for` of line 1 is still open");
    check("{% bogus %}", "chat template, line 1: unknown tag `bogus`");
    check("{{ x|bogus }}", "chat template, line 1: filter bogus is unknown");
    check("{{ raise_exception('no tools') }}", "the chat template refuses this conversation: no tools");
}

#[test]
fn the_clock_can_be_set() {
    let template = plain("{{ strftime_now('%Y-%m-%d %H:%M') }}");
    assert!(template.uses_clock());
    let options = RenderOptions { now: Some("2024-02-29T12:34:56".parse().unwrap()), ..RenderOptions::default() };
    assert_eq!(render(&template, turns(), &options).unwrap(), "2024-02-29 12:34");
    assert_eq!(render(&template, turns(), &RenderOptions::default()).unwrap().len(), 16);
}

#[test]
fn the_environment_can_set_the_clock() {
    // The environment of this process is not this test's to change, so it runs itself with another one.
    let name = "the_environment_can_set_the_clock";
    let Ok(now) = std::env::var("REHEAT_NOW") else {
        for now in ["2025-01-02T03:04:05Z", "2025-01-02T03:04:05+09:00", "tomorrow", "2025-01-02"] {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", name]).env("REHEAT_NOW", now).output().unwrap();
            assert!(output.status.success(), "{now}: {}", String::from_utf8_lossy(&output.stdout));
        }
        return;
    };
    let result = render(&plain("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}"), turns(), &RenderOptions::default());
    if now.contains('T') {
        // The time as it is written, whatever its offset.
        assert_eq!(result.unwrap(), "2025-01-02 03:04:05");
    } else {
        let expected = format!("`REHEAT_NOW` is `{now}`, which is not an RFC 3339 time such as 2025-01-02T03:04:05Z");
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
}

/// Read and printed as `json.loads` and `json.dumps` of Python 3.12 do.
#[test]
fn numbers_of_seventeen_digits_keep_every_bit() {
    let text = r#"[{"role": "user", "content": "", "x": [2.1469818083566171e-07, 0.1, 1e16, 123456789.12345678]}]"#;
    let messages: Value = serde_json::from_str(text).unwrap();
    let rendered = render(&plain("{{ messages[0].x|tojson }}"), messages, &RenderOptions::default()).unwrap();
    assert_eq!(rendered, "[2.1469818083566171e-07, 0.1, 1e+16, 123456789.12345678]");
}

proptest! {
    #[test]
    fn no_template_panics(source in "(\\{[{%#]|[%#}]\\}|[ -~]|\n|if|for|in|set|x|endif|endfor|raw|generation|endgeneration|'|\\(|\\)|-|\\|){0,40}") {
        if let Ok(template) = ChatTemplate::new(source, &TemplateTokens::default()) {
            let _ = template.render(&conversation(turns()), &RenderOptions::default());
            let _ = template.inference_source();
        }
    }

    #[test]
    fn text_without_tags_is_itself(text in "[^{\r]{0,60}") {
        let rendered = render(&plain(&text), turns(), &RenderOptions::default()).unwrap();
        prop_assert_eq!(rendered, text.strip_suffix('\n').unwrap_or(&text));
    }

    #[test]
    fn without_markers_the_text_is_the_same(parts in prop::collection::vec(prop_oneof![
        Just("{% generation %}"), Just("{%- generation -%}"), Just("{%+ generation +%}"), Just("{% endgeneration %}"),
        Just("{%- endgeneration -%}"), Just(" "), Just("\n"), Just("a"), Just("{{ 'b' }}"), Just("{%- if true %}c{% endif %}"),
        Just("{# d #}"),
    ], 0..12)) {
        let source = parts.concat();
        if let Ok(template) = ChatTemplate::new(source, &TemplateTokens::default()) {
            let text = render(&template, turns(), &RenderOptions::default()).unwrap();
            let inference = plain(&template.inference_source());
            prop_assert!(!inference.has_generation_markers());
            prop_assert_eq!(render(&inference, turns(), &RenderOptions::default()).unwrap(), text);
        }
    }

    #[test]
    fn json_round_trips(text in ".{0,40}", number in -1_000_000_000_i64..1_000_000_000) {
        let template = plain("{{ messages|tojson }}");
        let messages = json!([{"role": "user", "content": text, "extra": [number, null, true, {"é": 0.5}]}]);
        let rendered = render(&template, messages.clone(), &RenderOptions::default()).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&rendered).unwrap(), messages);
    }
}
