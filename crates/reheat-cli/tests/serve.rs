//! `reheat serve` as a process: what a client sends, what comes back, and what happens when it misbehaves.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// A server on a free port. It is killed when it is dropped.
struct Server {
    child: Child,
    address: String,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// The message and the field of an error.
    fn error(&self) -> (u16, String, Value) {
        let error = &self.json()["error"];
        (self.status, error["message"].as_str().unwrap().to_owned(), error["param"].clone())
    }

    /// The objects of a stream, which must have been ended properly.
    fn events(&self) -> Vec<Value> {
        let mut data: Vec<&str> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

impl Server {
    /// The bundled model, which is a base model.
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, None)
    }

    fn start_with(arguments: &[&str], key: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reheat"));
        command.args(["serve", "--port", "0"]).args(arguments).env_remove("REHEAT_API_KEY");
        if let Some(key) = key {
            command.env("REHEAT_API_KEY", key);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap().to_owned();
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = self.connect();
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        let mut all = vec![("Host", self.address.as_str()), ("Content-Type", "application/json")];
        all.retain(|(name, _)| !headers.iter().any(|(other, _)| other == name));
        for (name, value) in all.iter().chain(headers) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        write!(stream, "{text}\r\n{body}").unwrap();
        stream
    }

    fn ask_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        read(self.send(method, path, headers, body))
    }

    fn get(&self, path: &str) -> Reply {
        self.ask_with("GET", path, &[], "")
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask_with("POST", path, &[], &body.to_string())
    }

    fn complete(&self, body: Value) -> Reply {
        let mut whole = json!({ "model": "bundled", "prompt": "The zebra", "temperature": 0, "max_tokens": 8 });
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        self.post("/v1/completions", &whole)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut stream: TcpStream) -> Reply {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    Reply { status, head: head.to_owned(), body }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}

/// What `reheat generate` says to the same prompt.
fn generated(tokens: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args(["generate", "--json", "--max-new-tokens", tokens, "The zebra"])
        .output()
        .unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_completion_is_what_generate_gives() {
    let server = Server::start(&[]);
    let expected = generated("8");
    let reply = server.complete(json!({ "n": 2, "logprobs": 2 }));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let value = reply.json();
    assert_eq!((&value["object"], &value["model"]), (&json!("text_completion"), &json!("bundled")));
    let choices = value["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!((&choice["text"], &choice["index"]), (&json!(expected), &json!(index)));
        let logprobs = &choice["logprobs"];
        assert_eq!(logprobs["tokens"].as_array().unwrap().len(), logprobs["token_logprobs"].as_array().unwrap().len());
        // Greedy: the drawn token is the likeliest, so its log-probability is the largest of its alternatives'.
        let first = logprobs["top_logprobs"][0].as_object().unwrap();
        let largest = first.values().filter_map(Value::as_f64).fold(f64::NEG_INFINITY, f64::max);
        assert_eq!((first.len(), logprobs["token_logprobs"][0].as_f64()), (2, Some(largest)));
    }
    let usage = &value["usage"];
    let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);

    let streamed = server.complete(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    assert!(streamed.head.to_lowercase().contains("content-type: text/event-stream"), "{}", streamed.head);
    let events = streamed.events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, expected);
    let (last, pieces) = events.split_last().unwrap();
    assert_eq!(
        (&last["choices"], last["usage"]["completion_tokens"].as_u64()),
        (&json!([]), Some(usage["completion_tokens"].as_u64().unwrap() / 2))
    );
    assert!(pieces.last().unwrap()["choices"][0]["finish_reason"].is_string());
}

#[test]
fn prompts_stops_and_seeds() {
    let server = Server::start(&[]);
    let whole = generated("8");
    let stop = whole.trim().split(' ').nth(1).unwrap();
    let reply = server.complete(json!({ "stop": [stop] })).json();
    let choice = &reply["choices"][0];
    assert_eq!((choice["text"].as_str(), &choice["finish_reason"]), (whole.split(stop).next(), &json!("stop")));

    let several = server.complete(json!({ "prompt": ["The zebra", "The llama", "The zebra"] })).json();
    let texts: Vec<&Value> = several["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!((texts[0], texts.len()), (texts[2], 3));
    assert_eq!(texts[0], &json!(whole));

    let drawn =
        |seed: u64| server.complete(json!({ "temperature": 1.5, "seed": seed, "n": 3 })).json()["choices"].clone();
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

/// The bundled model with a template that spells what it was given.
fn chat_model() -> tempfile::TempDir {
    const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                            {% if tools %}{{ tools | length }} tools\n{% endif %}{{ note }}assistant:";
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/base")).unwrap().flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    std::fs::write(folder.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    folder
}

#[test]
fn a_chat_is_a_completion_of_what_the_template_makes_of_it() {
    let folder = chat_model();
    let server = Server::start(&["--model", folder.path().to_str().unwrap(), "--served-model-name", "bundled"]);
    let chat = |extra: Value| {
        let mut request = json!({
            "model": "bundled", "temperature": 0, "max_completion_tokens": 8,
            "messages": [{ "role": "user", "content": [{ "type": "text", "text": "The " }, { "type": "text", "text": "zebra" }] }],
        });
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post("/v1/chat/completions", &request)
    };
    let completed = |prompt: &str| server.complete(json!({ "prompt": prompt })).json();
    let plain = completed("user: The zebra\nassistant:");
    let reply = chat(json!({ "logprobs": true, "top_logprobs": 1 })).json();
    let choice = &reply["choices"][0];
    assert_eq!(choice["message"]["content"], plain["choices"][0]["text"]);
    assert_eq!((&choice["message"]["role"], &reply["usage"]), (&json!("assistant"), &plain["usage"]));
    let content = choice["logprobs"]["content"].as_array().unwrap();
    let spelled: String = content.iter().filter_map(|token| token["token"].as_str()).collect();
    assert_eq!(spelled, choice["message"]["content"].as_str().unwrap());
    assert!(content.iter().all(|token| token["logprob"] == token["top_logprobs"][0]["logprob"]));

    let tool = json!({ "type": "function", "function": { "name": "f", "parameters": {} } });
    let with_tools = chat(json!({ "tools": [tool], "chat_template_kwargs": { "note": "Note. " } })).json();
    let expected = completed("user: The zebra\n1 tools\nNote. assistant:");
    assert_eq!(with_tools["choices"][0]["message"]["content"], expected["choices"][0]["text"]);
    assert_eq!(
        chat(json!({ "tools": [tool], "tool_choice": "none" })).json()["choices"],
        chat(json!({})).json()["choices"]
    );

    let events = chat(json!({ "stream": true, "n": 2 })).events();
    for index in 0..2 {
        let mut of_choice = events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == index);
        let deltas: Vec<&Value> = of_choice.clone().map(|choice| &choice["delta"]).collect();
        assert_eq!(deltas[0]["role"], "assistant");
        let text: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
        assert_eq!(json!(text), choice["message"]["content"]);
        assert_eq!(of_choice.next_back().unwrap()["finish_reason"], choice["finish_reason"]);
    }

    let image = json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "x" } }] }]);
    let (status, message, field) = chat(json!({ "messages": image })).error();
    assert_eq!((status, field), (400, json!("messages[0].content")), "{message}");
}

/// The bundled model, taught to call a tool, and to tell what the tool said.
fn tool_model() -> tempfile::TempDir {
    const TEMPLATE: &str = "{% if tools %}Tools: {% for t in tools %}{{ t.function.name }}{% endfor %}. Call: <tool_call>\n{% endif %}\
        {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>\n\
        {\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}\
        <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let call = json!({ "type": "function", "function": { "name": "sky", "arguments": { "in": "Oslo" } } });
    let row = json!({
        "messages": [
            { "role": "user", "content": "What is the sky like in Oslo?" },
            { "role": "assistant", "content": "Let me look.", "tool_calls": [call] },
            { "role": "tool", "content": "rain" },
            { "role": "assistant", "content": "It rains there." },
        ],
        "tools": [tool()],
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tools.jinja"), TEMPLATE).unwrap();
    std::fs::write(folder.path().join("rows.jsonl"), format!("{row}\n").repeat(8)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args(["sft", "--dataset", "rows.jsonl", "--chat-template-path", "tools.jinja", "--assistant-only-loss"])
        .args(["--learning-rate", "3e-3", "--warmup-steps", "5", "--max-steps", "80"])
        .args(["--per-device-train-batch-size", "2", "--output-dir", "model", "--model"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/base"))
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

fn tool() -> Value {
    json!({ "type": "function", "function": { "name": "sky", "description": "The sky.", "parameters": { "type": "object" } } })
}

#[test]
fn a_tool_is_called_and_what_it_says_is_told() {
    let folder = tool_model();
    let server = Server::start(&["--model", folder.path().join("model").to_str().unwrap()]);
    let chat = |messages: &Value, extra: &[(&str, Value)]| {
        let mut request = json!({ "model": "model", "temperature": 0, "tools": [tool()], "messages": messages });
        for (name, value) in extra {
            request[*name] = value.clone();
        }
        server.post("/v1/chat/completions", &request)
    };
    let mut messages = json!([{ "role": "user", "content": "What is the sky like in Oslo?" }]);
    let reply = chat(&messages, &[]).json();
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{reply}");
    assert_eq!(choice["message"]["content"], "Let me look.");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("sky")));
    assert_eq!(call["function"]["arguments"], "{\"in\":\"Oslo\"}");

    let events = chat(&messages, &[("stream", true.into())]).events();
    let deltas: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["delta"]).collect();
    let text: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    let calls: Vec<&Value> = deltas.iter().filter_map(|delta| delta["tool_calls"].as_array()).flatten().collect();
    assert_eq!((text.as_str(), calls.len(), &calls[0]["index"]), ("Let me look.", 1, &json!(0)));
    assert_eq!(calls[0]["function"], call["function"]);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    // As a client says it back: the message as it came, with arguments as text, and the tool's answer by the call's id.
    messages.as_array_mut().unwrap().push(choice["message"].clone());
    let said = json!({ "role": "tool", "tool_call_id": call["id"], "content": "rain" });
    messages.as_array_mut().unwrap().push(said);
    let reply = chat(&messages, &[]).json();
    let choice = &reply["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("It rains there."), &json!("stop")));
    assert_eq!(choice["message"]["tool_calls"], Value::Null);

    messages[1]["tool_calls"][0]["function"]["arguments"] = "{".into();
    let (status, _, field) = chat(&messages, &[]).error();
    assert_eq!((status, field), (400, json!("messages[1].tool_calls")));
}

#[test]
fn errors_have_openais_shape() {
    let server = Server::start(&["--cache-tokens", "200"]);
    let check = |reply: Reply, status: u16, message: &str, param: Value| {
        let (found, text, field) = reply.error();
        assert!(found == status && text.contains(message) && field == param, "{found} {field} {text}");
    };
    check(server.get("/v1/nothing"), 404, "no such address", Value::Null);
    check(server.get("/v1/completions"), 405, "another method", Value::Null);
    check(server.get("/v1/models/other"), 404, "`bundled` is served here", json!("model"));
    check(server.complete(json!({ "model": "other" })), 404, "`other` does not exist", json!("model"));
    check(server.complete(json!({ "temperature": -1 })), 400, "temperature is -1", json!("temperature"));
    check(
        server.complete(json!({ "temperature": -1, "stream": true })),
        400,
        "temperature is -1",
        json!("temperature"),
    );
    check(server.complete(json!({ "nonsense": 1 })), 400, "`nonsense` is not supported", json!("nonsense"));
    check(server.complete(json!({ "max_tokens": 1000 })), 400, "tokens of cache, and it holds 200", Value::Null);
    check(server.complete(json!({ "prompt": "" })), 400, "the prompt is empty", Value::Null);
    check(server.complete(json!({ "prompt": 12 })), 400, "`prompt` has to be a text, a list of token ids", Value::Null);
    check(
        server.complete(json!({ "logit_bias": { "9999": 1 } })),
        400,
        "logit bias for token id 9999",
        json!("logit_bias"),
    );
    check(server.complete(json!({ "prompt": [999_999] })), 400, "outside the model's vocabulary", Value::Null);
    check(server.complete(json!({ "prompt": "x ".repeat(600_000) })), 413, "longer than", Value::Null);
    check(server.ask_with("POST", "/v1/completions", &[], "{"), 400, "the body can't be read", Value::Null);
    let chat = json!({ "model": "bundled", "messages": [{ "role": "user", "content": "hi" }] });
    check(server.post("/v1/chat/completions", &chat), 400, "has no chat template", json!("messages"));
    // A web page can send text anywhere, and can call this machine by a name of its own.
    let text = [("Content-Type", "text/plain")];
    check(server.ask_with("POST", "/v1/completions", &text, "{}"), 415, "has to be JSON", Value::Null);
    let host = [("Host", "evil.example")];
    check(server.ask_with("GET", "/v1/models", &host, ""), 403, "names another machine", Value::Null);
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "bundled");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_key_is_needed_where_there_is_one() {
    let server = Server::start_with(&[], Some("secret"));
    let models = |value: &str| server.ask_with("GET", "/v1/models", &[("Authorization", value)], "").status;
    assert_eq!((models("Bearer secret"), models("Bearer other"), models("secret")), (200, 401, 401));
    assert_eq!(server.get("/v1/models").error().0, 401);
    let open = Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args(["serve", "--host", "0.0.0.0"])
        .env_remove("REHEAT_API_KEY")
        .output()
        .unwrap();
    let text = String::from_utf8(open.stderr).unwrap();
    assert_eq!(open.status.code(), Some(2));
    assert!(text.contains("there is no API key") && text.contains("hint: set REHEAT_API_KEY"), "{text}");
}

#[test]
fn a_full_queue_refuses_and_a_client_that_leaves_makes_room() {
    let server = Server::start(&["--max-queue", "1"]);
    let long =
        json!({ "model": "bundled", "prompt": "The", "max_tokens": 200, "stream": true, "ignore_eos": true, "n": 16 });
    let mut leaving = server.send("POST", "/v1/completions", &[], &long.to_string());
    // Its answer has begun.
    leaving.read_exact(&mut [0; 200]).unwrap();
    let (status, message, _) = server.complete(json!({})).error();
    assert_eq!((status, message.as_str()), (429, "too many requests are waiting; try again later"));
    drop(leaving);
    let patience = std::time::Instant::now();
    while server.complete(json!({})).status != 200 {
        assert!(patience.elapsed() < Duration::from_secs(60), "the place is not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_lets_an_answer_end() {
    let mut server = Server::start(&[]);
    let body = json!({ "model": "bundled", "prompt": "The", "max_tokens": 100, "stream": true, "ignore_eos": true });
    let mut answering = server.send("POST", "/v1/completions", &[], &body.to_string());
    answering.read_exact(&mut [0; 200]).unwrap();
    let signal = Command::new("kill").args(["-INT", &server.child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let mut rest = String::new();
    answering.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(TcpStream::connect(&server.address).is_err());
}
