//! All tools of a run: what the model wrote to calls, calls to messages, messages to the ids that it goes on after.

use reheat_chat::{AnswerPart, Conversation, Message, RenderOptions, ToolCall, ToolCalls};
use reheat_tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::{Tool, ToolError, Tools, declared};
use crate::TrainError;
use crate::rewards::Schema;

/// Tools by name, and how a conversation goes on after them.
pub(crate) struct Toolbox {
    tools: Vec<(Box<dyn Tool>, Option<Schema>)>,
    template: reheat_chat::ChatTemplate,
}

/// What came of the calls of one turn.
pub(crate) struct Called {
    /// A message of each, in their order.
    pub(crate) messages: Vec<Value>,
    /// Calls that gave no result.
    pub(crate) num_failures: usize,
}

impl Toolbox {
    /// Checks that the schemas can be understood and the template shows what tools say.
    pub(crate) fn new(tools: Tools, tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let Tools { tools, template } = tools;
        let mut checked: Vec<(Box<dyn Tool>, Option<Schema>)> = Vec::with_capacity(tools.len());
        for tool in tools {
            if checked.iter().any(|(other, _)| other.name() == tool.name()) {
                return Err(ToolError::Twice { name: tool.name().into() }.into());
            }
            let parameters = declared::parameters(tool.schema()).cloned().map(Schema::new).transpose();
            let parameters = parameters.map_err(|reason| {
                declared::fault(tool.schema(), format!("has `parameters` that are none: {reason}"))
            })?;
            checked.push((tool, parameters));
        }
        if !ToolCalls::are_taught_by(template.source()) {
            return Err(ToolError::NotTaught.into());
        }
        let toolbox = Self { tools: checked, template };
        toolbox.suffix_ids(&[tool_message("tool", "result".into())], tokenizer)?;
        Ok(toolbox)
    }

    /// What prompts declare.
    pub(crate) fn schemas(&self) -> Vec<&Value> {
        self.tools.iter().map(|(tool, _)| tool.schema()).collect()
    }

    /// Runs calls in their order.
    pub(crate) fn run(&mut self, calls: &[ToolCall]) -> Called {
        let mut called = Called { messages: Vec::with_capacity(calls.len()), num_failures: 0 };
        for ToolCall { name, arguments } in calls {
            let content = match self.call(name, &Value::Object(arguments.clone())) {
                Ok(Value::String(text)) => text,
                Ok(value) => value.to_string(),
                Err(error) => {
                    called.num_failures += 1;
                    // Spelt as Python's `str` of such an object is, but for its quotes.
                    format!("{{\"error\": {}}}", Value::String(error))
                }
            };
            called.messages.push(tool_message(name, content));
        }
        called
    }

    fn call(&mut self, name: &str, arguments: &Value) -> Result<Value, String> {
        let known = self.tools.iter_mut().find(|(tool, _)| tool.name() == name);
        let Some((tool, parameters)) = known else { return Err(format!("Tool {name} not found.")) };
        if let Some(reason) = parameters.as_ref().and_then(|schema| schema.fault(arguments)) {
            return Err(format!("arguments of {name}: {reason}"));
        }
        let Value::Object(arguments) = arguments else { unreachable!("arguments are an object") };
        tool.call(arguments)
    }

    /// The ids between a turn of the assistant that ends with a call and the next: what the template makes of the
    /// messages of tools, and what begins an answer. Found, as in TRL 1.16 (`_get_tool_suffix_ids`), in a conversation
    /// of its own, so that no token of the completion is told anew.
    ///
    /// # Errors
    /// If the template cannot show them, or not after what it shows without them.
    pub(crate) fn suffix_ids(&self, messages: &[Value], tokenizer: &Tokenizer) -> Result<Vec<u32>, TrainError> {
        let name = messages.first().map_or(&Value::Null, |message| &message["name"]);
        let call = json!([{ "type": "function", "function": { "name": name, "arguments": {} } }]);
        let before = [
            json!({ "role": "user", "content": "?" }),
            json!({ "role": "assistant", "content": "", "tool_calls": call }),
        ];
        let ids = |messages: &[&[Value]], add_generation_prompt: bool| -> Result<Vec<u32>, TrainError> {
            let messages = messages.iter().copied().flatten().cloned();
            let messages = messages.filter_map(|message| message.as_object().cloned()).map(Message::from);
            let conversation = Conversation::new(messages.collect());
            let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
            let rendered = self.template.render(&conversation, &options).map_err(ToolError::from)?;
            Ok(tokenizer.encode_literal(&rendered.text, &rendered.literal_spans)?.ids)
        };
        let mut prefix = ids(&[&before], false)?;
        let all = ids(&[&before, messages], true)?;
        // Many templates put a line break after the end token; the model stopped at the token.
        if let Some(end) = prefix.iter().rposition(|id| tokenizer.eos_ids().contains(id)) {
            prefix.truncate(end + 1);
        }
        Ok(all.strip_prefix(prefix.as_slice()).ok_or(ToolError::NoPrefix)?.to_vec())
    }
}

/// A turn that the model wrote, as a message, and the calls in it.
pub(crate) fn read_turn(text: &str) -> (Value, Vec<ToolCall>) {
    let mut parser = ToolCalls::default();
    let (mut content, mut calls) = (String::new(), Vec::new());
    for part in parser.push(text).into_iter().chain(parser.finish()) {
        match part {
            AnswerPart::Text(text) => content.push_str(&text),
            AnswerPart::Call(call) => calls.push(call),
        }
    }
    let mut message = json!({ "role": "assistant", "content": content });
    if !calls.is_empty() {
        let call = |ToolCall { name, arguments }: &ToolCall| json!({ "type": "function", "function": { "name": name, "arguments": arguments } });
        message["tool_calls"] = calls.iter().map(call).collect();
    }
    (message, calls)
}

fn tool_message(name: &str, content: String) -> Value {
    json!({ "role": "tool", "name": name, "content": content })
}

#[cfg(test)]
pub(crate) mod tests {
    use reheat_chat::{ChatTemplate, TemplateTokens};

    use super::*;
    use crate::ToolFn;

    /// A function of whole numbers.
    fn tool(name: &str, parameters: &[&str], function: fn(&[i64]) -> Result<Value, String>) -> Box<dyn Tool> {
        let properties: serde_json::Map<String, Value> =
            parameters.iter().map(|name| ((*name).to_owned(), json!({ "type": "integer" }))).collect();
        let schema = json!({ "type": "function", "function": {
            "name": name, "parameters": { "type": "object", "properties": properties, "required": parameters },
        }});
        let names: Vec<String> = parameters.iter().map(|name| (*name).to_owned()).collect();
        let call = move |arguments: &serde_json::Map<String, Value>| {
            function(&names.iter().filter_map(|name| arguments[name].as_i64()).collect::<Vec<_>>())
        };
        Box::new(ToolFn::new(schema, call).unwrap())
    }

    /// The tools of `tests/golden/tools.py`.
    pub(crate) fn golden_tools(template: &str) -> Tools {
        let tools = vec![
            tool("add", &["a", "b"], |numbers| Ok(json!(numbers.iter().sum::<i64>()))),
            tool("fail", &[], |_| Err("out of order".into())),
            tool("long", &["count"], |numbers| Ok(json!("z".repeat(numbers[0] as usize)))),
        ];
        Tools {
            tools,
            template: ChatTemplate::new(template, &TemplateTokens::new([("eos_token", "<|im_end|>")])).unwrap(),
        }
    }

    const TAUGHT: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}<tool_call>{% endif %}\
                          <|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

    fn tokenizer() -> Tokenizer {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tied-grouped");
        Tokenizer::from_dir(dir).unwrap()
    }

    #[test]
    fn calls_give_results_or_errors_that_are_counted() {
        let mut toolbox = Toolbox::new(golden_tools(TAUGHT), &tokenizer()).unwrap();
        let call = |name: &str, arguments: Value| ToolCall {
            name: name.into(),
            arguments: arguments.as_object().cloned().unwrap(),
        };
        let called = toolbox.run(&[
            call("add", json!({ "a": 1, "b": 2 })),
            call("add", json!({ "a": "x" })),
            call("nope", json!({})),
            call("fail", json!({})),
        ]);
        let contents: Vec<&str> = called.messages.iter().filter_map(|message| message["content"].as_str()).collect();
        assert_eq!(
            contents,
            [
                "3",
                r#"{"error": "arguments of add: \"b\" is a required property"}"#,
                r#"{"error": "Tool nope not found."}"#,
                r#"{"error": "out of order"}"#,
            ]
        );
        assert_eq!(called.num_failures, 3);
        assert_eq!(called.messages[2]["name"], "nope");
    }

    #[test]
    fn only_what_tools_said_stands_between_the_turns() {
        let tokenizer = tokenizer();
        let toolbox = Toolbox::new(golden_tools(TAUGHT), &tokenizer).unwrap();
        let messages = [tool_message("add", "3".into()), tool_message("add", "<|im_end|>".into())];
        let ids = toolbox.suffix_ids(&messages, &tokenizer).unwrap();
        let text = tokenizer.decode(&ids, reheat_tokenizer::DecodeMode::KeepSpecialTokens).unwrap();
        assert_eq!(text, "\ntool: 3<|im_end|>\ntool: <|im_end|><|im_end|>\nassistant: ");
        // A tool cannot end its own turn: what it spells are characters.
        assert_eq!(ids.iter().filter(|id| tokenizer.eos_ids().contains(id)).count(), 2);
    }

    #[test]
    fn a_template_that_cannot_show_tools_is_refused() {
        let error = |template: &str| Toolbox::new(golden_tools(template), &tokenizer()).err().unwrap().to_string();
        assert!(error("{{ messages[0].content }}").contains("shows no calls of tools"));
        let changing = format!("{{{{ messages | length }}}}{TAUGHT}");
        assert!(error(&changing).contains("changes what stands before"));
        let mut twice = golden_tools(TAUGHT);
        twice.tools.extend(golden_tools(TAUGHT).tools);
        let error = Toolbox::new(twice, &tokenizer()).err().unwrap();
        assert_eq!(error.to_string(), "two tools are called `add`");
    }

    #[test]
    fn a_turn_is_read_into_text_and_calls() {
        let (message, calls) =
            read_turn("Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>");
        assert_eq!(calls.len(), 1);
        assert_eq!(
            message,
            json!({ "role": "assistant", "content": "Let me see.", "tool_calls": [
                { "type": "function", "function": { "name": "f", "arguments": { "x": 1 } } },
            ]})
        );
        assert_eq!(read_turn("Hi."), (json!({ "role": "assistant", "content": "Hi." }), Vec::new()));
    }
}
