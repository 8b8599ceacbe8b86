//! Every format of the shared data goes through, in both directions, and what is odd is found.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use reheat_data::{
    Conversion, ConversionOptions, ConvertOptions, ConvertTo, DataError, Dataset, DatasetSpec, Example, Format,
    OnBadRow, Row, RowProblem, convert, inspect,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no {}", path.display());
    None
}

fn open(path: &Path) -> Dataset {
    Dataset::open(&DatasetSpec::new(path.to_string_lossy()).into()).unwrap()
}

fn written(rows: &[Value]) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.jsonl");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    (folder, path)
}

fn examples(path: &Path) -> (Format, Vec<Row>) {
    let mut conversion = Conversion::new(&open(path), ConversionOptions::default());
    let mut rows = Vec::new();
    loop {
        let chunk = conversion.next_chunk().unwrap();
        if chunk.is_empty() {
            return (conversion.files()[0].1.format, rows);
        }
        for (id, examples) in chunk {
            rows.extend(
                examples.unwrap_or_else(|problem| panic!("{id}: {problem}")).into_iter().map(Example::into_row),
            );
        }
    }
}

/// The folder, the file, the format that is told, and how many examples it has.
const FILES: [(&str, Format, usize); 21] = [
    ("llama-factory/alpaca_en_demo.json", Format::Alpaca, 500),
    ("llama-factory/alpaca_zh_demo.json", Format::Alpaca, 200),
    ("llama-factory/identity.json", Format::Alpaca, 91),
    ("llama-factory/glaive_toolcall_en_demo.json", Format::ShareGpt, 240),
    ("llama-factory/glaive_toolcall_zh_demo.json", Format::ShareGpt, 80),
    ("llama-factory/dpo_en_demo.json", Format::Preference, 180),
    ("llama-factory/dpo_zh_demo.json", Format::Preference, 60),
    ("llama-factory/kto_en_demo.json", Format::UnpairedPreference, 200),
    ("llama-factory/reason_tool_use_demo_50.jsonl", Format::Messages, 38),
    ("llama-factory/v1_sft_demo.jsonl", Format::Messages, 200),
    ("llama-factory/v1_dpo_demo.jsonl", Format::Preference, 7),
    ("llama-factory/c4_demo.jsonl", Format::Text, 80),
    ("derived/prompt_completion.jsonl", Format::PromptCompletion, 325),
    ("derived/toolcall_messages.jsonl", Format::Messages, 320),
    ("derived/reasoning_messages.jsonl", Format::Messages, 38),
    ("derived/openthoughts_style.jsonl", Format::ShareGpt, 10),
    ("derived/sft_messages.jsonl", Format::Messages, 200),
    ("derived/preference_messages.jsonl", Format::Preference, 60),
    ("self-instruct/seed_tasks.jsonl", Format::Alpaca, 175),
    ("self-instruct/user_oriented_instructions.jsonl", Format::Alpaca, 150),
    ("gsm8k/train-1000.jsonl", Format::QuestionAnswer, 1000),
];

#[test]
fn every_shared_file_goes_through_and_comes_back_from_parquet() {
    let Some(shared) = shared() else { return };
    let folder = TempDir::new().unwrap();
    for (file, format, count) in FILES {
        let path = shared.join(file);
        let (told, rows) = examples(&path);
        assert_eq!(told, format, "{file}");
        assert_eq!(rows.len(), count, "{file}: examples");
        for name in ["out.parquet", "out.jsonl"] {
            let out = folder.path().join(name);
            let to = ConvertTo::File(out.clone());
            let report = convert(&open(&path), to, &ConvertOptions::default(), &mut |_| {}).unwrap();
            assert_eq!(report.examples as usize, rows.len(), "{file}");
            let (_, back) = examples(&out);
            assert_eq!(back.len(), rows.len(), "{file} by {name}");
            for (index, (back, row)) in back.iter().zip(&rows).enumerate() {
                assert_eq!(json!(back), json!(row), "{file} by {name}: example {index}");
            }
        }
    }
}

#[test]
fn parquet_holds_rows_of_different_columns() {
    let call = json!({"type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
    let (folder, path) = written(&[
        json!({"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "function": {"name": "f"}}]}),
        json!({"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "2", "name": "f"}]}),
        json!({"messages": [{"role": "user", "content": "é\u{0}😀"}], "chat_template_kwargs": {"deep": [1, {"a": null}]}}),
    ]);
    let out = folder.path().join("out.parquet");
    convert(&open(&path), ConvertTo::File(out.clone()), &ConvertOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(json!(examples(&out).1), json!(examples(&path).1));
    assert!(!folder.path().join("out.partial").exists());
}

#[test]
fn preferences_become_single_answers() {
    let (folder, path) = written(&[json!({"chosen": "The sky is blue.", "rejected": "The sky is green."})]);
    let out = folder.path().join("out.jsonl");
    let options = ConvertOptions { unpair: true, ..ConvertOptions::default() };
    convert(&open(&path), ConvertTo::File(out.clone()), &options, &mut |_| {}).unwrap();
    let rows: Vec<Value> = fs::read_to_string(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        rows,
        [
            json!({"prompt": "The sky is", "completion": " blue.", "label": true}),
            json!({"prompt": "The sky is", "completion": " green.", "label": false}),
        ]
    );
}

#[test]
fn a_failed_conversion_leaves_what_was_there() {
    let (folder, path) = written(&[json!({"text": "a"}), json!({"text": []})]);
    let out = folder.path().join("out.jsonl");
    fs::write(&out, "before").unwrap();
    let to = || ConvertTo::File(out.clone());
    let error = convert(&open(&path), to(), &ConvertOptions::default(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, DataError::Row { .. }), "{error}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "before");

    let rejected = folder.path().join("rejected.jsonl");
    let conversion = ConversionOptions { on_bad_row: OnBadRow::Skip, ..ConversionOptions::default() };
    let options = ConvertOptions { conversion, unpair: false, rejected: Some(rejected.clone()) };
    let report = convert(&open(&path), to(), &options, &mut |_| {}).unwrap();
    assert_eq!((report.rows, report.examples, report.skipped["wrong type"]), (2, 1, 1));
    assert!(fs::read_to_string(rejected).unwrap().contains("rows.jsonl:2"));
    let wrong = ConvertTo::File(folder.path().join("out.xlsx"));
    let error = convert(&open(&path), wrong, &ConvertOptions::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("expected a name that ends in .jsonl or .parquet"), "{error}");
}

#[test]
fn an_inspection_finds_what_is_odd() {
    let said = |role: &str, content: &str| json!({"role": role, "content": content});
    let (_folder, path) = written(&[
        json!({"messages": [said("user", "a"), said("assistant", "b")], "id": 1}),
        json!({"messages": [said("user", "a"), said("assistant", "b")], "id": 2}),
        json!({"messages": [said("user", "a"), said("user", "b"), said("assistant", " ")]}),
        json!({"messages": [said("user", "a")]}),
        json!({"messages": [said("nobody", "a")]}),
    ]);
    let found = inspect(&open(&path), None, &ConversionOptions::default(), &mut |_| {}).unwrap();
    assert_eq!((found.rows, found.files[0].format), (5, Format::Messages));
    assert_eq!(json!(found.roles), json!({"user": 5, "assistant": 3}));
    let count = |finding: &reheat_data::Finding| finding.count;
    assert_eq!(
        [&found.duplicates, &found.empty_turns, &found.roles_out_of_order, &found.without_answer].map(count),
        [1, 1, 1, 1]
    );
    assert!(found.duplicates.first[0].contains("rows.jsonl:2 repeats "));
    assert!(found.roles_out_of_order.first[0].ends_with("rows.jsonl:3: message 1 is `user` after `user`"));
    assert_eq!(found.bad_rows["unknown role"].count, 1);
    let id = found.columns.iter().find(|column| column.name == "id").unwrap();
    assert_eq!((id.missing, &json!(id.shapes)), (3, &json!({"whole number": 2})));
}

#[test]
fn rows_that_fit_several_formats_are_described_all_the_same() {
    let (_folder, path) = written(&[json!({"instruction": "a", "output": "b", "text": "c"})]);
    let found = inspect(&open(&path), None, &ConversionOptions::default(), &mut |_| {}).unwrap();
    assert!(found.problem.unwrap().contains("fit several formats: alpaca, text; say which with --format"));
    assert_eq!(found.columns.len(), 3);
    let options = ConversionOptions { format: Some(Format::Text), ..ConversionOptions::default() };
    let found = inspect(&open(&path), None, &options, &mut |_| {}).unwrap();
    assert_eq!((found.files[0].format, found.problem), (Format::Text, None));
}

/// The first row may be the one in which something is null, missing or empty.
#[test]
fn a_first_row_that_lacks_something_does_not_decide() {
    let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    for (first, second, format, problem) in [
        (
            json!({"prompt": "a", "completion": null}),
            json!({"prompt": "a", "completion": "b"}),
            Format::PromptCompletion,
            "`completion` is empty",
        ),
        (
            json!({"prompt": "a"}),
            json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
            Format::Preference,
            "column `chosen` is missing, the row has `prompt`",
        ),
        (
            json!({"question": "a", "answer": null}),
            json!({"question": "a", "answer": 4}),
            Format::QuestionAnswer,
            "`answer` is empty",
        ),
        (json!({"messages": []}), json!({"messages": turns}), Format::Messages, "`messages` is empty"),
    ] {
        let (_folder, path) = written(&[first, second.clone(), second]);
        let mut conversion = Conversion::new(&open(&path), ConversionOptions::default());
        let mut rows = conversion.next_chunk().unwrap();
        assert_eq!(conversion.files()[0].1.format, format);
        assert!(rows.drain(1..).all(|(_, examples)| examples.is_ok_and(|examples| examples.len() == 1)), "{format}");
        assert_eq!(rows[0].1.as_ref().unwrap_err().to_string(), problem);
    }
}

/// A float in its place would print as another number.
#[test]
fn integers_beyond_64_bits_in_json_text_are_bad_rows() {
    let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "[99999999999999999999]"}]);
    let tool = |default: &str| format!(r#"[{{"name": "f", "parameters": {{"default": {default}}}}}]"#);
    let call = |argument: &str| {
        let function = json!({"name": "f", "arguments": format!(r#"{{"n": {argument}}}"#)});
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}])
    };
    let (fits, wide) = ("18446744073709551615", "18446744073709551616");
    let (_folder, path) = written(&[
        json!({"messages": turns, "tools": tool(fits)}),
        json!({"messages": turns, "tools": tool(wide)}),
        json!({"messages": call(fits)}),
        json!({"messages": call(wide)}),
        json!({"messages": turns.to_string()}),
    ]);
    let mut conversion = Conversion::new(&open(&path), ConversionOptions::default());
    let problem = |row: (_, Result<_, RowProblem>)| row.1.err().map(|problem| problem.to_string());
    let problems: Vec<_> = conversion.next_chunk().unwrap().into_iter().map(problem).collect();
    let beyond = Some("the integer 18446744073709551616 is beyond 64 bits".to_owned());
    assert_eq!(problems, [None, beyond.clone(), None, beyond, None]);
}

/// That everything was left out is another finding than that there was nothing.
#[test]
fn a_filter_that_keeps_nothing_is_told() {
    let (_folder, path) = written(&[json!({"text": "a"}), json!({"text": "b"})]);
    let spec = DatasetSpec { filter: Some("text = 'c'".into()), ..DatasetSpec::new(path.to_string_lossy()) };
    let dataset = Dataset::open(&spec.into()).unwrap();
    let to = ConvertTo::File(path.with_extension("out.jsonl"));
    let error = convert(&dataset, to, &ConvertOptions::default(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.ends_with("can be used: 2 left out by the filter"), "{error}");
}

#[test]
fn a_dataset_without_rows_is_an_error() {
    let (_folder, path) = written(&[]);
    let error = inspect(&open(&path), None, &ConversionOptions::default(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, DataError::Empty { .. }), "{error}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        prop::sample::select(vec!["user", "assistant", "gpt", "human", "[{\"role\": 1}]", "{}"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop::sample::select(vec!["role", "content", "from", "value", "tool_calls", "type", "text", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a row holds, it becomes an example or a bad row, and an example comes back from its row.
    #[test]
    fn no_row_panics_and_examples_keep_their_row(
        columns in prop::collection::vec((prop::sample::select(vec![
            "messages", "conversations", "prompt", "completion", "chosen", "rejected", "label", "text", "input_ids",
            "labels", "instruction", "input", "output", "history", "system", "tools", "question", "answer", "completions",
        ]), any_json()), 1..5),
        format in prop::option::of(prop::sample::select(Format::ALL.to_vec())),
    ) {
        let row: Value = columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let (_folder, path) = written(&[row]);
        let options = ConversionOptions { format, on_bad_row: OnBadRow::Skip, ..ConversionOptions::default() };
        let mut conversion = Conversion::new(&open(&path), options);
        let Ok(rows) = conversion.next_chunk() else { return Ok(()) }; // several formats
        for (_, examples) in rows {
            for example in examples.unwrap_or_default() {
                let kind = example.kind();
                let row = example.into_row();
                let (_folder, path) = written(&[json!(row)]);
                // What else is in the row of a prompt may be of another format.
                let format = (kind == "prompt-only").then_some(Format::PromptOnly);
                let options = ConversionOptions { format, ..ConversionOptions::default() };
                let mut again = Conversion::new(&open(&path), options);
                let back = again.next_chunk().unwrap().remove(0).1.unwrap();
                prop_assert_eq!(back.len(), 1);
                prop_assert_eq!(back[0].kind(), kind);
                prop_assert_eq!(json!(back.into_iter().next().unwrap().into_row()), json!(row));
            }
        }
    }
}
