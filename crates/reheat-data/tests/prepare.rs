//! Rows become what TRL's trainers make of them, and nothing is lost without a count.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{fs, path::PathBuf};

use reheat_chat::{ChatTemplate, ControlTokens, TemplateTokens};
use reheat_data::{
    DataError, Dataset, DatasetSpec, Format, OnBadRow, Overlong, PackingStrategy, PrepareOptions, Prepared, Prompt,
    TruncationMode, prepare_preference, prepare_prompts, prepare_reward, prepare_sft, prepare_unpaired,
};
use reheat_tokenizer::Tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The fixture that the golden values were made with, and a file of rows.
struct Case {
    folder: TempDir,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    options: PrepareOptions,
}

impl Case {
    fn new(rows: &Value) -> Self {
        let lines: Vec<String> = rows.as_array().unwrap().iter().map(Value::to_string).collect();
        Self::of_text(&lines.join("\n"))
    }

    fn of_text(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("rows.jsonl"), text).unwrap();
        let model = root().join("tests/fixtures/tied-grouped");
        let tokenizer = Tokenizer::from_dir(&model).unwrap();
        let tokens = TemplateTokens {
            special: ["<|im_start|>", "<|im_end|>"].map(str::to_owned).to_vec(),
            ..TemplateTokens::default()
        };
        let template = ChatTemplate::from_dir(&model, &tokens).unwrap().unwrap();
        Self { folder, tokenizer, template, options: PrepareOptions::default() }
    }

    fn with(mut self, change: impl FnOnce(&mut PrepareOptions)) -> Self {
        change(&mut self.options);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn dataset(&self) -> Dataset {
        Dataset::open(&DatasetSpec::new(self.path("rows.jsonl").to_string_lossy()).into()).unwrap()
    }

    fn sft(&self) -> Result<Prepared, DataError> {
        prepare_sft(&self.dataset(), &self.tokenizer, Some(&self.template), &self.options, &mut |_| {})
    }

    fn prompts(&self) -> Result<Prepared<Prompt>, DataError> {
        prepare_prompts(&self.dataset(), &self.tokenizer, Some(&self.template), &self.options, &mut |_| {})
    }

    fn error(&self) -> String {
        self.said(&self.sft().unwrap_err())
    }

    fn said(&self, error: &DataError) -> String {
        error.to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text).unwrap().ids
    }

    /// What training reads, as TRL has it in its columns.
    fn columns(&self, trainer: &str) -> Vec<Value> {
        let Self { tokenizer, options, .. } = self;
        let template = Some(&self.template);
        match trainer {
            "sft" => self
                .sft()
                .unwrap()
                .examples
                .iter()
                .map(|sequence| {
                    let mut row = json!({"input_ids": sequence.input_ids, "labels": sequence.labels()});
                    if !sequence.seq_lens.is_empty() {
                        row["seq_lengths"] = json!(sequence.seq_lens);
                    }
                    row
                })
                .collect(),
            "dpo" => {
                let prepared = prepare_preference(&self.dataset(), tokenizer, template, options, &mut |_| {}).unwrap();
                let row = |pair: &reheat_data::PreferencePair| json!({"prompt_ids": pair.prompt_ids, "chosen_ids": pair.chosen_ids, "rejected_ids": pair.rejected_ids});
                prepared.examples.iter().map(row).collect()
            }
            "grpo" => {
                let row =
                    |one: &Prompt| json!({"prompt_ids": one.prompt_ids, "prompt": one.prompt, "columns": one.columns});
                self.prompts().unwrap().examples.iter().map(row).collect()
            }
            "reward" => {
                // TRL leaves longer pairs out.
                let options = PrepareOptions { overlong: Overlong::Drop, ..options.clone() };
                let prepared = prepare_reward(&self.dataset(), tokenizer, template, &options, &mut |_| {}).unwrap();
                let row = |pair: &reheat_data::RewardPair| match pair.margin {
                    Some(margin) => {
                        json!({"chosen_ids": pair.chosen_ids, "rejected_ids": pair.rejected_ids, "margin": margin})
                    }
                    None => json!({"chosen_ids": pair.chosen_ids, "rejected_ids": pair.rejected_ids}),
                };
                prepared.examples.iter().map(row).collect()
            }
            _ => {
                let prepared = prepare_unpaired(&self.dataset(), tokenizer, template, options, &mut |_| {}).unwrap();
                let mut examples = prepared.examples;
                examples.sort_by_key(|example| !example.label); // TRL's order, which ours departs from
                let row = |one: &reheat_data::UnpairedCompletion| json!({"prompt_ids": one.prompt_ids, "completion_ids": one.completion_ids, "label": one.label});
                examples.iter().map(row).collect()
            }
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// TRL's settings as ours.
fn set(options: &mut PrepareOptions, settings: &Value) {
    let packing = settings["packing"].as_bool().unwrap_or(false);
    for (key, value) in settings.as_object().unwrap() {
        match key.as_str() {
            "max_length" => options.max_length = Some(value.as_u64().unwrap() as usize),
            "truncation_mode" => options.truncation_mode = serde_json::from_value(value.clone()).unwrap(),
            "completion_only_loss" => options.completion_only_loss = value.as_bool().unwrap(),
            "assistant_only_loss" => options.assistant_only_loss = value.as_bool().unwrap(),
            "packing" => options.packing = options.packing.or(packing.then_some(PackingStrategy::Bfd)),
            "packing_strategy" => options.packing = Some(serde_json::from_value(value.clone()).unwrap()),
            other => panic!("unknown setting {other}"),
        }
    }
}

/// Golden values from TRL's own trainers: `tests/golden/rows.py`.
#[test]
fn rows_become_what_trl_makes_of_them() {
    let text = fs::read_to_string(root().join("tests/golden/values/rows.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    for (name, case) in golden["cases"].as_object().unwrap() {
        let ours = Case::new(&case["rows"])
            .with(|options| {
                options.control_tokens = ControlTokens::Recognized;
                if case["trainer"] == "grpo" {
                    options.max_length = None; // TRL has no limit
                }
                set(options, &case["settings"]);
            })
            .columns(case["trainer"].as_str().unwrap());
        let theirs = case["prepared"].as_array().unwrap();
        assert_eq!(ours.len(), theirs.len(), "{name}: rows");
        for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            for (column, values) in theirs.as_object().unwrap() {
                assert_eq!(&ours[column], values, "{name}: {column} of row {index}");
            }
        }
    }
}

#[test]
fn what_is_cut_is_counted() {
    let rows = json!([{"text": "0123456789"}, {"text": "0123"}]);
    let prepared = |change: fn(&mut PrepareOptions)| Case::new(&rows).with(change).sft().unwrap();
    let cut = prepared(|options| options.max_length = Some(8));
    let report = &cut.report;
    assert_eq!((report.rows, report.examples, report.truncated, report.tokens_cut), (2, 2, 1, 3));
    assert_eq!((report.tokens, report.trained_tokens), (8 + 5, 7 + 4));

    let dropped = prepared(|options| {
        options.max_length = Some(8);
        options.overlong = Overlong::Drop;
    });
    assert_eq!((dropped.examples.len(), dropped.report.skipped["overlong"]), (1, 1));
    assert_eq!(dropped.report.skipped_rows[0].problem, "the row has 11 tokens, max_length is 8");

    let error = Case::new(&rows).with(|options| {
        options.max_length = Some(8);
        options.overlong = Overlong::Error;
    });
    assert_eq!(error.error(), "rows.jsonl:1: the row has 11 tokens, max_length is 8");

    let split = prepared(|options| {
        options.max_length = Some(8);
        options.packing = Some(PackingStrategy::BfdSplit);
    });
    let packing = split.report.packing.unwrap();
    assert_eq!((split.report.tokens_cut, packing.split, packing.rows, packing.tokens), (0, 1, 2, 16));
}

#[test]
fn bad_rows_stop_the_run_or_are_set_aside_with_their_text() {
    let text = "{\"b\": 1}\n{\"text\": \"good\"}\n{\"text\": \n{\"text\": [1]}\n{\"text\": \"better\"}\n";
    let error = Case::of_text(text).error();
    assert!(error.starts_with("rows.jsonl:1: column `text` is missing, the row has `b`"), "{error}");

    let case = Case::of_text(text);
    let path = case.path("out/rejected.jsonl");
    let case = case.with(|options| {
        options.on_bad_row = OnBadRow::Skip;
        options.rejected = Some(path.clone());
    });
    let prepared = case.sft().unwrap();
    let report = &prepared.report;
    assert_eq!((report.rows, report.examples, report.skipped_rows.len()), (5, 2, 3));
    assert_eq!(json!(report.skipped), json!({"not JSON": 1, "missing column": 1, "wrong type": 1}));
    let lines: Vec<Value> =
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<&str> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["{\"b\": 1}", "{\"text\": ", "{\"text\": [1]}"]);
    assert!(lines[2]["row"].as_str().unwrap().ends_with("rows.jsonl:4"));
    assert_eq!(
        (&lines[2]["reason"], &lines[2]["problem"]),
        (&json!("wrong type"), &json!("`text` must be text, found a list"))
    );
}

#[test]
fn where_nothing_is_rejected_no_file_is_made() {
    let case = Case::new(&json!([{"text": "good"}]));
    let path = case.path("rejected.jsonl");
    let case = case.with(|options| options.rejected = Some(path.clone()));
    case.sft().unwrap();
    assert!(!path.exists());
}

#[test]
fn conversations_without_an_answer_teach_nothing_and_are_named() {
    let rows = json!([
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]},
    ]);
    let case = Case::new(&rows).with(|options| options.assistant_only_loss = true);
    let prepared = case.sft().unwrap();
    let report = &prepared.report;
    assert_eq!((prepared.examples.len(), report.without_trained_token, report.skipped["nothing to learn"]), (1, 1, 1));
    assert!(report.skipped_rows[0].row.to_string().ends_with("rows.jsonl:1"));

    let only = Case::new(&json!([rows[0].clone()])).with(|options| options.assistant_only_loss = true);
    assert_eq!(
        only.error(),
        format!("none of the 1 rows of `{}` can be used: 1 nothing to learn", only.path("rows.jsonl").display())
            .replace(&format!("{}/", only.folder.path().display()), "")
    );
}

#[test]
fn messages_with_weights_are_learned_where_the_weight_is_one() {
    let rows = json!([{"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "bb", "weight": 0},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "dd"},
    ]}]);
    let case = Case::new(&rows);
    let sequence = &case.sft().unwrap().examples[0];
    let learned: Vec<u32> =
        sequence.labels().into_iter().filter(|label| *label >= 0).map(|label| label as u32).collect();
    assert_eq!(learned, case.ids("dd<|im_end|>"));
}

#[test]
fn a_message_ends_its_own_turn_only_where_that_is_asked_for() {
    let rows =
        json!([{"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "b"}]}]);
    let end = 256;
    let ends = |control_tokens| {
        let case = Case::new(&rows).with(|options| options.control_tokens = control_tokens);
        case.sft().unwrap().examples[0].input_ids.iter().filter(|id| **id == end).count()
    };
    assert_eq!((ends(ControlTokens::Literal), ends(ControlTokens::Recognized)), (2, 3));
}

#[test]
fn what_cannot_work_is_refused_at_the_first_row() {
    let text = json!([{"text": "a"}]);
    let assistant = Case::new(&text).with(|options| options.assistant_only_loss = true);
    assert!(assistant.error().starts_with("rows.jsonl:1: text rows are text, in which no assistant speaks"));
    assert!(assistant.sft().unwrap_err().hint().unwrap().contains("--assistant-only-loss"));

    let preference = Case::new(&json!([{"prompt": "a", "chosen": "b", "rejected": "c"}]));
    let needed = "text, conversations, prompts with completions, or tokens";
    assert_eq!(preference.error(), format!("rows.jsonl:1: the rows are preferences, and needed are {needed}"));

    let chat = Case::new(&json!([{"messages": [{"role": "user", "content": "a"}]}]));
    let error = prepare_sft(&chat.dataset(), &chat.tokenizer, None, &chat.options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, DataError::NoTemplate { format: Format::Messages, .. }), "{error}");

    for (value, change) in [
        ("0", (|options| options.max_length = Some(0)) as fn(&mut PrepareOptions)),
        ("none", |options| {
            options.max_length = None;
            options.packing = Some(PackingStrategy::Bfd);
        }),
    ] {
        let error = Case::new(&text).with(change).error();
        assert!(error.starts_with(&format!("max_length `{value}`")), "{error}");
    }
}

#[test]
fn preferences_without_room_for_an_answer_are_left_out() {
    let rows = json!([
        {"prompt": "0123456789", "chosen": "a", "rejected": "b"}, {"prompt": "01", "chosen": "abcdefghijkl", "rejected": "b"},
    ]);
    let case = Case::new(&rows).with(|options| options.max_length = Some(10));
    let prepared =
        |options| prepare_preference(&case.dataset(), &case.tokenizer, Some(&case.template), options, &mut |_| {});
    let pairs = prepared(&case.options).unwrap();
    assert_eq!(pairs.report.skipped["no room for an answer"], 1);
    assert_eq!((pairs.report.truncated, pairs.report.tokens_cut), (1, 5));
    let [pair] = pairs.examples.as_slice() else { panic!("one pair is left") };
    assert_eq!((pair.chosen_ids.len(), pair.rejected_ids.len()), (8, 2));
    assert_eq!(pair.chosen().num_items(), 8);

    let mut keep_end = case.options.clone();
    keep_end.truncation_mode = TruncationMode::KeepEnd;
    assert!(prepared(&keep_end).unwrap_err().to_string().starts_with("truncation_mode `keep_end`"));
}

/// Prompts of rows, as messages.
fn asked(rows: &Value) -> Vec<Value> {
    Case::new(rows).prompts().unwrap().examples.into_iter().map(|one| one.prompt).collect()
}

#[test]
fn a_row_with_an_answer_gives_what_it_answers() {
    let said = |role: &str, content: &str| json!({"role": role, "content": content});
    let question = json!([said("user", "2+2?")]);
    assert_eq!(asked(&json!([{"question": "2+2?", "answer": "4"}])), std::slice::from_ref(&question));
    assert_eq!(asked(&json!([{"problem": "2+2?", "solutions": ["4", "four"]}])), std::slice::from_ref(&question));
    assert_eq!(
        asked(&json!([{"instruction": "Add.", "input": "2, 2", "output": "4", "system": "Be brief."}])),
        [json!([said("system", "Be brief."), said("user", "Add.\n\n2, 2")])]
    );
    let turns = [said("user", "Hi"), said("assistant", "Yo"), said("user", "2+2?"), said("assistant", "4")];
    assert_eq!(asked(&json!([{"messages": turns}])), [json!(turns[..3])]);
    assert_eq!(asked(&json!([{"prompt": "2+2=", "completion": "4"}])), [json!("2+2=")]);
    // What is called the prompt is meant, whatever else is there.
    assert_eq!(
        asked(&json!([{"prompt": "2+2=", "question": "2+2?", "answer": "4", "messages": turns}])),
        [json!("2+2=")]
    );

    let only_answers = Case::new(&json!([{"messages": [said("assistant", "4")]}]));
    assert_eq!(only_answers.said(&only_answers.prompts().unwrap_err()), "rows.jsonl:1: `the prompt` is empty");
}

#[test]
fn what_an_answer_is_judged_by_comes_with_its_prompt() {
    let tool = json!({"type": "function", "function": {"name": "add"}});
    let rows = json!([{
        "id": 7, "prompt": "2+2=", "answer": 4.1, "tools": [tool], "system": "x", "none": null,
        "chat_template_kwargs": {"k": true},
    }]);
    let case = Case::new(&rows);
    let cache = case.path("cache");
    let case = case.with(|options| options.cache = Some(cache));
    let made = case.prompts().unwrap();
    let prompt = &made.examples[0];
    assert_eq!((&prompt.prompt, &prompt.tools), (&json!("2+2="), &Some(vec![tool.clone()])));
    let columns = json!({
        "id": 7, "answer": 4.1, "tools": [tool], "system": "x", "none": null, "chat_template_kwargs": {"k": true},
    });
    assert_eq!(json!(prompt.columns).to_string(), columns.to_string());
    assert_eq!(prompt.prompt_ids, case.ids("2+2="));
    assert_eq!((made.report.tokens, made.report.trained_tokens, made.report.without_trained_token), (4, 0, 0));
    assert_eq!(case.prompts().unwrap(), made);
    assert_eq!(fs::read_dir(case.path("cache")).unwrap().count(), 1);

    // Tools and the row's own arguments reach the template.
    let mut case = Case::new(&json!([{"prompt": [{"role": "user", "content": "a"}], "tools": [{"name": "add"}],
        "chat_template_kwargs": {"k": 8}}]));
    let source = "{{ messages[0].content }}{{ tools[0].function.name }}{{ k }}{{ add_generation_prompt }}";
    case.template = ChatTemplate::new(source, &TemplateTokens::default()).unwrap();
    assert_eq!(case.prompts().unwrap().examples[0].prompt_ids, case.ids("aadd8True"));
}

#[test]
fn a_prompt_beyond_the_limit_is_left_out_or_keeps_its_end() {
    let rows = json!([{"prompt": "0123456789"}, {"prompt": "0123"}]);
    let case = |overlong| {
        Case::new(&rows).with(|options| {
            options.max_length = Some(8);
            options.overlong = overlong;
        })
    };
    let dropped = case(Overlong::Drop).prompts().unwrap();
    assert_eq!((dropped.examples.len(), dropped.report.skipped["overlong"], dropped.report.rows), (1, 1, 2));
    assert_eq!(dropped.report.skipped_rows[0].problem, "the prompt has 10 tokens, max_prompt_length is 8");

    let cut = case(Overlong::Truncate);
    let ids: Vec<Vec<u32>> = cut.prompts().unwrap().examples.into_iter().map(|one| one.prompt_ids).collect();
    assert_eq!(ids, [cut.ids("23456789"), cut.ids("0123")]);
    let report = cut.prompts().unwrap().report;
    assert_eq!((report.truncated, report.tokens_cut, report.tokens), (1, 2, 12));

    let error = case(Overlong::Error);
    assert!(error.said(&error.prompts().unwrap_err()).starts_with("rows.jsonl:1: the prompt has 10 tokens"));
    let all = case(Overlong::Drop).with(|options| options.max_length = Some(2));
    assert!(all.said(&all.prompts().unwrap_err()).ends_with("can be used: 2 overlong"));
}

#[test]
fn rows_without_a_prompt_are_refused() {
    let case = Case::new(&json!([{"text": "a"}]));
    let error = case.prompts().unwrap_err();
    assert_eq!(case.said(&error), "rows.jsonl:1: the rows are text, and needed are prompts, or rows that answer one");
    assert!(error.hint().unwrap().contains("--rename"));
}

#[test]
fn a_cache_is_used_until_a_byte_changes() {
    let rows = json!([{"text": "one"}, {"text": [2]}, {"text": "three"}]);
    let case = Case::new(&rows);
    let (cache, rejected) = (case.path("cache"), case.path("rejected.jsonl"));
    let mut case = case.with(|options| {
        options.on_bad_row = OnBadRow::Skip;
        options.cache = Some(cache.clone());
        options.rejected = Some(rejected.clone());
    });
    let entries = || {
        let mut entries: Vec<PathBuf> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries
    };
    let made = case.sft().unwrap();
    assert_eq!(entries().len(), 1);
    fs::remove_file(&rejected).unwrap();

    // What is found is what was made, and a damaged entry is made again.
    let found = case.sft().unwrap();
    assert_eq!((&found.examples, json!(found.report)), (&made.examples, json!(made.report)));
    assert!(rejected.exists());
    let whole = fs::read(&entries()[0]).unwrap();
    for damaged in [whole[..whole.len() - 1].to_vec(), [&whole[..40], &[whole[40] ^ 1], &whole[41..]].concat(), vec![]]
    {
        fs::write(&entries()[0], damaged).unwrap();
        assert_eq!(case.sft().unwrap().examples, made.examples);
        assert_eq!(fs::read(&entries()[0]).unwrap(), whole);
    }

    // Another setting, another template, another byte of the file: each is another entry.
    case.options.max_length = Some(3);
    assert_ne!(case.sft().unwrap().examples, made.examples);
    assert_eq!(entries().len(), 2);
    case.template = ChatTemplate::new("{{ messages }}", &TemplateTokens::default()).unwrap();
    case.sft().unwrap();
    assert_eq!(entries().len(), 3);
    // Two letters of the vocabulary change places that no row has.
    let model = case.path("model");
    fs::create_dir(&model).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let text = fs::read_to_string(root().join("tests/fixtures/tied-grouped").join(file)).unwrap();
        let swapped = text.replace("\"X\":", "\"swap\":").replace("\"Q\":", "\"X\":").replace("\"swap\":", "\"Q\":");
        assert!(file != "tokenizer.json" || swapped != text);
        fs::write(model.join(file), swapped).unwrap();
    }
    case.tokenizer = Tokenizer::from_dir(&model).unwrap();
    case.sft().unwrap();
    assert_eq!(entries().len(), 4);
    let text = fs::read_to_string(case.path("rows.jsonl")).unwrap();
    fs::write(case.path("rows.jsonl"), text.replace("three", "threE")).unwrap();
    case.sft().unwrap();
    assert_eq!(entries().len(), 5);
}

#[test]
fn pairs_are_cached_too() {
    let rows = json!([{"prompt": "a", "chosen": "b", "rejected": "c"}]);
    let case = Case::new(&rows);
    let cache = case.path("cache");
    let case = case.with(|options| options.cache = Some(cache));
    let pairs = || {
        let Case { tokenizer, template, options, .. } = &case;
        prepare_preference(&case.dataset(), tokenizer, Some(template), options, &mut |_| {}).unwrap().examples
    };
    assert_eq!(pairs(), pairs());
    let single = || {
        let Case { tokenizer, template, options, .. } = &case;
        prepare_unpaired(&case.dataset(), tokenizer, Some(template), options, &mut |_| {}).unwrap().examples
    };
    assert_eq!(single(), single());
    assert_eq!(fs::read_dir(case.path("cache")).unwrap().count(), 2);
}

/// A call that the template leaves out is not learned, and the report says so.
#[test]
fn tools_that_the_template_does_not_print_are_counted() {
    let call = json!([{ "type": "function", "function": { "name": "weather", "arguments": { "city": "Bonn" } } }]);
    let tool = json!([{ "type": "function", "function": { "name": "weather", "description": "", "parameters": {} } }]);
    let asked = json!({ "role": "user", "content": "Rain?" });
    let case = Case::new(&json!([
        { "messages": [asked, { "role": "assistant", "content": "", "tool_calls": call }] },
        { "messages": [asked, { "role": "assistant", "content": "No." }], "tools": tool },
        { "messages": [asked, { "role": "assistant", "content": "No.", "tool_calls": [] }] },
    ]));
    let hidden = |source: &str| {
        let template = ChatTemplate::new(source, &TemplateTokens::default()).unwrap();
        let options = &case.options;
        let prepared = prepare_sft(&case.dataset(), &case.tokenizer, Some(&template), options, &mut |_| {}).unwrap();
        assert_eq!(prepared.examples.len(), 3);
        prepared.report.hidden_tools
    };
    let said = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    let calls =
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls | default([]) | tojson }}\n{% endfor %}";
    assert_eq!(hidden(said), 2);
    assert_eq!(hidden(calls), 1);
    assert_eq!(hidden(&format!("{{{{ tools | tojson if tools }}}}{calls}")), 0);
}
