//! JSON that comes in: OpenAI's fields, and those of other servers for what OpenAI has no word for.
//!
//! A field that would change the answer and can't be honoured is refused by name; one that can't change it is ignored.

use std::collections::BTreeMap;

use reheat_generate::GenerateConfig;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::ApiError;

/// Fields that name the client or its purposes, and change nothing in an answer.
const IGNORED: [&str; 9] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "reasoning_effort",
    "verbosity",
];
/// Most choices of one request.
const MAX_CHOICES: usize = 64;
/// Most stop strings; OpenAI allows four.
const MAX_STOPS: usize = 16;
/// Most alternatives of a position; OpenAI's limit.
const MAX_TOP_LOGPROBS: usize = 20;

/// How to draw, in both kinds of request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Sampling {
    pub(super) model: Option<String>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    min_tokens: Option<usize>,
    n: Option<usize>,
    seed: Option<i64>,
    stop: Option<OneOrMany<String>>,
    ignore_eos: Option<bool>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamOptions {
    pub(super) include_usage: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`stop` has to be a text or a list of texts")]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// `POST /v1/chat/completions`
#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest {
    pub(super) messages: Vec<Map<String, Value>>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    response_format: Option<Value>,
    /// Further variables for the template.
    #[serde(default)]
    pub(super) chat_template_kwargs: Option<Map<String, Value>>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    #[serde(flatten)]
    pub(super) sampling: Sampling,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// `POST /v1/completions`
#[derive(Debug, Deserialize)]
pub(super) struct TextRequest {
    pub(super) prompt: Prompt,
    logprobs: Option<usize>,
    echo: Option<bool>,
    suffix: Option<String>,
    best_of: Option<usize>,
    #[serde(flatten)]
    pub(super) sampling: Sampling,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One prompt or several, as text or as token ids.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`prompt` has to be a text, a list of token ids, or a list of these")]
pub(super) enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    ManyIds(Vec<Vec<u32>>),
}

/// Reads a body.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::invalid(format!("the body can't be read: {error}")))
}

impl ChatRequest {
    /// Refuses what can't be honoured.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let rest = &self.rest;
        refuse_unknown(rest)?;
        match &self.tool_choice {
            None | Some(Value::Null) => {}
            Some(Value::String(choice)) if choice == "auto" || choice == "none" => {}
            Some(_) => return Err(ApiError::field("tool_choice", "only `auto` and `none` are supported")),
        }
        match self.response_format.as_ref().map(|format| &format["type"]) {
            None | Some(Value::Null) => Ok(()),
            Some(kind) if kind == "text" => Ok(()),
            Some(_) => Err(ApiError::field("response_format", "only `text` is supported")),
        }
    }

    /// The tools that the template is to see.
    pub(super) fn offered_tools(&self) -> Option<&Vec<Value>> {
        let wanted = self.tool_choice.as_ref().is_none_or(|choice| choice != "none");
        self.tools.as_ref().filter(|tools| wanted && !tools.is_empty())
    }

    /// Alternatives of each position, or `None` where no log-probabilities are asked for.
    pub(super) fn top_logprobs(&self) -> Result<Option<usize>, ApiError> {
        match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => Err(ApiError::field("top_logprobs", "`top_logprobs` needs `logprobs`")),
            (true, top) => at_most("top_logprobs", top.unwrap_or(0), MAX_TOP_LOGPROBS).map(Some),
        }
    }
}

impl TextRequest {
    /// Refuses what can't be honoured.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let rest = &self.rest;
        refuse_unknown(rest)?;
        if self.echo == Some(true) {
            return Err(ApiError::field("echo", "`echo` is not supported"));
        }
        if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::field("suffix", "`suffix` is not supported"));
        }
        if self.best_of.is_some_and(|best_of| best_of != self.sampling.n.unwrap_or(1)) {
            return Err(ApiError::field("best_of", "`best_of` other than `n` is not supported"));
        }
        Ok(())
    }

    /// Alternatives of each position, or `None` where no log-probabilities are asked for.
    pub(super) fn top_logprobs(&self) -> Result<Option<usize>, ApiError> {
        self.logprobs.map(|top| at_most("logprobs", top, MAX_TOP_LOGPROBS)).transpose()
    }
}

fn at_most(param: &str, value: usize, limit: usize) -> Result<usize, ApiError> {
    let refused = || ApiError::field(param, format!("`{param}` is {value}, expected at most {limit}"));
    if value <= limit { Ok(value) } else { Err(refused()) }
}

fn refuse_unknown(rest: &Map<String, Value>) -> Result<(), ApiError> {
    match rest.iter().find(|(name, value)| !value.is_null() && !IGNORED.contains(&name.as_str())) {
        Some((name, _)) => Err(ApiError::field(name, format!("`{name}` is not supported"))),
        None => Ok(()),
    }
}

/// What a request leaves open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults<'a> {
    pub(super) max_new_tokens: usize,
    pub(super) seed: u64,
    pub(super) eos_token_ids: &'a [u32],
}

impl Sampling {
    /// The library's settings. Where OpenAI documents a default, it is that.
    pub(super) fn config(&self, defaults: Defaults, top_logprobs: Option<usize>) -> Result<GenerateConfig, ApiError> {
        let n = self.n.unwrap_or(1);
        if n == 0 || n > MAX_CHOICES {
            return Err(ApiError::field("n", format!("`n` is {n}, expected 1 to {MAX_CHOICES}")));
        }
        let max_new_tokens = self.max_completion_tokens.or(self.max_tokens).unwrap_or(defaults.max_new_tokens);
        if max_new_tokens == 0 {
            return Err(ApiError::field("max_tokens", "`max_tokens` is 0, expected 1 or more"));
        }
        if let Some(min) = self.min_tokens.filter(|min| *min > max_new_tokens) {
            let message = format!("`min_tokens` is {min}, more than the {max_new_tokens} that there may be");
            return Err(ApiError::field("min_tokens", message));
        }
        let base = GenerateConfig::default();
        let config = GenerateConfig {
            max_new_tokens,
            min_new_tokens: self.min_tokens.unwrap_or(base.min_new_tokens),
            temperature: self.temperature.unwrap_or(1.0),
            // Other servers write -1 for no limit.
            top_k: self.top_k.map_or(base.top_k, |k| usize::try_from(k).unwrap_or(0)),
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            logit_bias: self.logit_bias()?,
            num_return_sequences: n,
            tempered_logprobs: false,
            num_top_logprobs: top_logprobs.unwrap_or(0),
            seed: self.seed.map_or(defaults.seed, i64::cast_unsigned),
            eos_token_ids: if self.ignore_eos == Some(true) { Vec::new() } else { defaults.eos_token_ids.to_vec() },
        };
        Ok(config)
    }

    fn logit_bias(&self) -> Result<BTreeMap<u32, f32>, ApiError> {
        let entry = |(id, bias): (&String, &f32)| {
            let refused = |_| ApiError::field("logit_bias", format!("`{id}` is not a token id"));
            Ok((id.parse().map_err(refused)?, *bias))
        };
        self.logit_bias.iter().flatten().map(entry).collect()
    }

    /// Texts that end a completion.
    pub(super) fn stops(&self) -> Result<Vec<String>, ApiError> {
        let stops = match &self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(stop)) => vec![stop.clone()],
            Some(OneOrMany::Many(stops)) => stops.clone(),
        };
        at_most("stop", stops.len(), MAX_STOPS)?;
        Ok(stops)
    }

    /// Whether the answer comes in pieces, and whether usage counts come last.
    pub(super) fn streaming(&self) -> Option<bool> {
        let with_usage = self.stream_options.as_ref().is_some_and(|options| options.include_usage);
        self.stream.unwrap_or(false).then_some(with_usage)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DEFAULTS: Defaults = Defaults { max_new_tokens: 512, seed: 9, eos_token_ids: &[2] };

    fn chat(value: &Value) -> ChatRequest {
        parse(value.to_string().as_bytes()).unwrap()
    }

    fn refusal(value: &Value) -> Value {
        let request = chat(value);
        let checked = request.check().and_then(|()| request.top_logprobs()).and_then(|top| {
            request.sampling.stops()?;
            request.sampling.config(DEFAULTS, top)
        });
        checked.unwrap_err().body()["error"]["param"].clone()
    }

    #[test]
    fn what_is_not_said_is_openais_default() {
        let request = chat(&json!({ "messages": [], "user": "x", "stop": null, "temperature": null }));
        request.check().unwrap();
        let config = request.sampling.config(DEFAULTS, None).unwrap();
        let expected =
            GenerateConfig { max_new_tokens: 512, seed: 9, eos_token_ids: vec![2], ..GenerateConfig::default() };
        assert_eq!(config, expected);
    }

    #[test]
    fn what_is_said_arrives() {
        let request = chat(&json!({
            "messages": [], "max_tokens": 5, "max_completion_tokens": 7, "n": 3, "seed": -1, "top_k": -1, "top_p": 0.5,
            "logit_bias": { "5": -100 }, "stop": ["a", "b"], "logprobs": true, "top_logprobs": 4, "ignore_eos": true,
        }));
        let config = request.sampling.config(DEFAULTS, request.top_logprobs().unwrap()).unwrap();
        let expected = GenerateConfig {
            max_new_tokens: 7,
            num_return_sequences: 3,
            seed: u64::MAX,
            top_p: 0.5,
            logit_bias: [(5, -100.0)].into(),
            num_top_logprobs: 4,
            ..GenerateConfig::default()
        };
        assert_eq!(config, expected);
        assert_eq!(request.sampling.stops().unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let with = |name: &str, value: Value| {
            let mut request = json!({ "messages": [] });
            request[name] = value;
            refusal(&request)
        };
        for (name, value) in [
            ("response_format", json!({ "type": "json_object" })),
            ("tool_choice", json!("required")),
            ("functions", json!([])),
            ("top_logprobs", json!(3)),
            ("n", json!(0)),
            ("n", json!(1000)),
            ("max_tokens", json!(0)),
            ("min_tokens", json!(513)),
            ("stop", json!(vec!["x"; 17])),
            ("logit_bias", json!({ "x": 1 })),
        ] {
            assert_eq!(with(name, value.clone()), name, "{value}");
        }
    }

    #[test]
    fn prompts_are_texts_or_ids() {
        let prompt =
            |value: Value| parse::<TextRequest>(json!({ "prompt": value }).to_string().as_bytes()).unwrap().prompt;
        assert!(matches!(prompt(json!("a")), Prompt::Text(_)));
        assert!(matches!(prompt(json!(["a", "b"])), Prompt::Texts(texts) if texts.len() == 2));
        assert!(matches!(prompt(json!([1, 2])), Prompt::Ids(_)));
        assert!(matches!(prompt(json!([[1], [2]])), Prompt::ManyIds(_)));
    }
}
