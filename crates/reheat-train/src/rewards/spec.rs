//! The built-in rewards, by name.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::is_correct;
use super::json::{calls_tools, is_json_of, schema_in};
use super::judge::Judge;
use super::program::ProgramReward;
use super::schema::Schema;
use super::shape::{CosineLength, after_thoughts, has_think_format, repetition, soft_overlong};
use super::{ModelReward, Reward, RewardError};
use crate::Talk;

/// A reward as people write it: `NAME` or `NAME:ARGUMENTS`.
///
/// Arguments are values in the order in which they are listed here, or `key=value`, with commas between them.
///
/// | reward | is |
/// |---|---|
/// | `think_format` | 1 where the completion starts with one pair of `<think>` tags, else 0 |
/// | `accuracy[:column=solution]` | 1 where the completion gives the answer in the column, else 0 |
/// | `reasoning_accuracy[:column=solution]` | the same of what follows `</think>`; 0 without it |
/// | `regex:PATTERN` | 1 where the pattern matches anywhere, else 0 |
/// | `contains:column` | 1 where a text in the column is in the completion, else 0 |
/// | `length:target` | less by 1 for each token more or less than the target |
/// | `repetition[:ngram_size=3,max_penalty=-1]` | `max_penalty` times the share of repeated n-grams of tokens |
/// | `soft_overlong[:max_completion_len=1280,soft_punish_cache=256]` | 0, and down to -1 over the last tokens before the limit |
/// | `cosine:max_len[,column=solution,min_value_wrong=-1,max_value_wrong=-0.5,min_value_correct=0.5,max_value_correct=1]` | accuracy, better short where correct and long where wrong |
/// | `json_schema:FILE` or `json_schema:column=NAME` | 1 where the completion is JSON of that shape, else 0 |
/// | `tool_call` | 1 where the completion calls tools of the column `tools` with arguments of their shape, else 0 |
/// | `program:[timeout_secs=60,]COMMAND` | what the program says ([`ProgramReward`]) |
/// | `model:DIR` | the score of a reward model ([`ModelReward`]) |
///
/// Those with a column do not apply where the row has nothing in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct RewardSpec {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ThinkFormat,
    Accuracy,
    ReasoningAccuracy,
    Regex,
    Contains,
    Length,
    Repetition,
    SoftOverlong,
    Cosine,
    JsonSchema,
    ToolCall,
    Program,
    Model,
}

/// Names, what they mean, and what TRL calls them.
const KINDS: [(&str, Kind, Option<&str>); 13] = [
    ("think_format", Kind::ThinkFormat, Some("think_format_reward")),
    ("accuracy", Kind::Accuracy, Some("accuracy_reward")),
    ("reasoning_accuracy", Kind::ReasoningAccuracy, Some("reasoning_accuracy_reward")),
    ("regex", Kind::Regex, None),
    ("contains", Kind::Contains, None),
    ("length", Kind::Length, None),
    ("repetition", Kind::Repetition, Some("get_repetition_penalty_reward")),
    ("soft_overlong", Kind::SoftOverlong, Some("get_soft_overlong_punishment")),
    ("cosine", Kind::Cosine, Some("get_cosine_scaled_reward")),
    ("json_schema", Kind::JsonSchema, None),
    ("tool_call", Kind::ToolCall, None),
    ("program", Kind::Program, None),
    ("model", Kind::Model, None),
];

/// Loads the reward model of this path or name for the reward of this name.
pub type LoadModel = Arc<dyn Fn(&str, &str) -> Result<ModelReward, RewardError> + Send + Sync>;

/// What rewards may need that a name does not hold.
#[derive(Clone)]
#[non_exhaustive]
pub struct RewardContext {
    /// Gets what programs write to their standard error, line by line.
    pub talk: Talk,
    /// Loads reward models.
    pub load_model: LoadModel,
}

impl RewardContext {
    /// Rewards whose programs talk to `talk`, without reward models.
    pub fn new(talk: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let none = |reward: &str, model: &str| {
            let reason = format!("there is nothing to load `{model}` with");
            Err(RewardError::Failed { reward: reward.into(), reason })
        };
        Self { talk: Arc::new(talk), load_model: Arc::new(none) }
    }

    /// The same, with a function that loads reward models.
    pub fn with_models(
        self,
        load_model: impl Fn(&str, &str) -> Result<ModelReward, RewardError> + Send + Sync + 'static,
    ) -> Self {
        Self { load_model: Arc::new(load_model), ..self }
    }
}

impl fmt::Debug for RewardContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RewardContext").finish_non_exhaustive()
    }
}

/// What stands after `model:`.
const MODEL_ARGUMENT: &str = "DIR, the folder of a reward model";

/// Seconds that a program may take for a batch, unless it is told otherwise.
const PROGRAM_TIMEOUT_SECS: u64 = 60;

impl RewardSpec {
    /// Name and arguments.
    fn parts(&self) -> (&str, &str) {
        self.text.split_once(':').unwrap_or((&self.text, ""))
    }

    /// What the reward is called in logs.
    pub fn name(&self) -> &str {
        let named = KINDS.iter().find(|(_, kind, _)| *kind == self.kind);
        named.map_or(self.parts().0, |(name, _, _)| name)
    }

    /// Checks the arguments, as far as that takes no model and starts no program.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn check(&self) -> Result<(), RewardError> {
        match self.kind {
            Kind::Model => self.whole(MODEL_ARGUMENT).map(|_| ()),
            _ => self.build(&RewardContext::new(|_| {})).map(|_| ()),
        }
    }

    /// The reward itself. Programs are started when they are first asked.
    ///
    /// # Errors
    /// If an argument is missing, unknown or out of range, or a schema cannot be read.
    pub fn build(&self, context: &RewardContext) -> Result<Box<dyn Reward>, RewardError> {
        let name = self.name();
        let score = |holds: bool| Some(f64::from(u8::from(holds)));
        let judge = match self.kind {
            Kind::ThinkFormat => {
                self.arguments(&[])?;
                Judge::new(name, move |input| Ok(score(has_think_format(input.completion))))
            }
            Kind::Accuracy => {
                let column = self.arguments(&["column"])?.text("column", "solution");
                Judge::of_column(name, &column, move |input, golds| {
                    Ok(any_correct(input.completion, golds).and_then(score))
                })
            }
            Kind::ReasoningAccuracy => {
                let column = self.arguments(&["column"])?.text("column", "solution");
                Judge::of_column(name, &column, move |input, golds| {
                    let Some(rest) = after_thoughts(input.completion) else { return Ok(Some(0.0)) };
                    Ok(any_correct(rest, golds).and_then(score))
                })
            }
            Kind::Regex => {
                let pattern = self.whole("PATTERN, such as regex:^Answer:")?;
                let pattern = Regex::new(pattern).map_err(|error| self.fault(error.to_string()))?;
                Judge::new(name, move |input| Ok(score(pattern.is_match(input.completion))))
            }
            Kind::Contains => {
                let column = self.arguments(&["column"])?.needed_text("column")?;
                Judge::of_column(name, &column, move |input, texts| {
                    Ok(score(texts.iter().any(|text| input.completion.contains(text))))
                })
            }
            Kind::Length => {
                let target = self.arguments(&["target"])?.count("target", None)? as f64;
                Judge::new(name, move |input| Ok(Some(-(input.completion_ids.len() as f64 - target).abs())))
            }
            Kind::Repetition => {
                let arguments = self.arguments(&["ngram_size", "max_penalty"])?;
                let ngram_size = arguments.count("ngram_size", Some(3))?;
                let max_penalty = arguments.number("max_penalty", -1.0)?;
                if ngram_size == 0 || max_penalty > 0.0 {
                    return Err(self.fault("expected an ngram_size of 1 or more and a max_penalty of 0 or less"));
                }
                Judge::new(name, move |input| Ok(Some(repetition(input.completion_ids, ngram_size, max_penalty))))
            }
            Kind::SoftOverlong => {
                let arguments = self.arguments(&["max_completion_len", "soft_punish_cache"])?;
                let max_len = arguments.count("max_completion_len", Some(1280))?;
                let cache = arguments.count("soft_punish_cache", Some(256))?;
                if cache > max_len {
                    return Err(
                        self.fault(format!("soft_punish_cache is {cache}, more than max_completion_len {max_len}"))
                    );
                }
                Judge::new(name, move |input| Ok(Some(soft_overlong(input.completion_ids.len(), max_len, cache))))
            }
            Kind::Cosine => self.cosine()?,
            Kind::JsonSchema => self.json_schema()?,
            Kind::ToolCall => {
                self.arguments(&[])?;
                Judge::new(name, move |input| Ok(calls_tools(input)?.and_then(score))).with_columns(&["tools"])
            }
            Kind::Program => return self.program(context),
            Kind::Model => {
                let model = self.whole(MODEL_ARGUMENT)?;
                return Ok(Box::new((context.load_model)(name, model)?));
            }
        };
        Ok(Box::new(judge))
    }

    fn cosine(&self) -> Result<Judge, RewardError> {
        let bounds = ["min_value_wrong", "max_value_wrong", "min_value_correct", "max_value_correct"];
        let arguments = self.arguments(&[&["max_len", "column"][..], &bounds].concat())?;
        let cosine = CosineLength {
            max_len: arguments.count("max_len", None)?.max(1),
            min_value_wrong: arguments.number(bounds[0], -1.0)?,
            max_value_wrong: arguments.number(bounds[1], -0.5)?,
            min_value_correct: arguments.number(bounds[2], 0.5)?,
            max_value_correct: arguments.number(bounds[3], 1.0)?,
        };
        let column = arguments.text("column", "solution");
        Ok(Judge::of_column(self.name(), &column, move |input, golds| {
            // Of several solutions, the one that the completion does best by.
            let rewards =
                golds.iter().filter_map(|gold| cosine.reward(input.completion, input.completion_ids.len(), gold));
            Ok(rewards.reduce(f64::max))
        }))
    }

    fn json_schema(&self) -> Result<Judge, RewardError> {
        let score = |holds: bool| Some(f64::from(u8::from(holds)));
        let source = self.whole("FILE or column=NAME")?;
        if let Some(column) = source.strip_prefix("column=") {
            let key = column.to_owned();
            let judge = Judge::new(self.name(), move |input| match input.column(&key) {
                None => Ok(None),
                Some(value) => {
                    let schema = schema_in(value).map_err(|reason| format!("column `{key}`: {reason}"))?;
                    Ok(score(is_json_of(input.completion, &schema)))
                }
            });
            return Ok(judge.with_columns(&[column]));
        }
        let path = PathBuf::from(source);
        let text = fs::read_to_string(&path).map_err(|error| self.fault(format!("cannot read the schema: {error}")))?;
        let schema =
            serde_json::from_str(&text).map_err(|error| self.fault(format!("the schema is not JSON: {error}")))?;
        let schema = Schema::new(schema).map_err(|reason| self.fault(reason))?;
        Ok(Judge::new(self.name(), move |input| Ok(score(is_json_of(input.completion, &schema)))))
    }

    fn program(&self, context: &RewardContext) -> Result<Box<dyn Reward>, RewardError> {
        let mut command = self.whole("COMMAND, such as program:python3 reward.py")?;
        let mut timeout_secs = PROGRAM_TIMEOUT_SECS;
        if let Some((timeout, rest)) = command.strip_prefix("timeout_secs=").and_then(|rest| rest.split_once(',')) {
            timeout_secs = timeout.trim().parse().ok().filter(|secs| *secs > 0).ok_or_else(|| {
                self.fault(format!("timeout_secs is {timeout}, expected a whole number of 1 or more"))
            })?;
            command = rest.trim();
        }
        let timeout = Duration::from_secs(timeout_secs);
        Ok(Box::new(ProgramReward::new(self.name(), command, timeout, context.talk.clone())))
    }

    /// The arguments as one text.
    fn whole(&self, expected: &str) -> Result<&str, RewardError> {
        match self.parts().1.trim() {
            "" => Err(self.fault(format!("expected {}:{expected}", self.name()))),
            rest => Ok(rest),
        }
    }

    /// The arguments by name.
    fn arguments<'a>(&'a self, names: &[&'a str]) -> Result<Arguments<'a>, RewardError> {
        let mut values = BTreeMap::new();
        let rest = self.parts().1;
        let given = rest.split(',').map(str::trim).filter(|_| !rest.trim().is_empty());
        for (index, argument) in given.enumerate() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim()),
                None => match names.get(index) {
                    Some(name) => (*name, argument),
                    None => return Err(self.fault(format!("`{argument}` is one argument too many"))),
                },
            };
            if !names.contains(&name) {
                let known = if names.is_empty() { "none".into() } else { names.join(", ") };
                return Err(self.fault(format!("argument `{name}` is unknown, expected {known}")));
            }
            if values.insert(name, value).is_some() {
                return Err(self.fault(format!("argument `{name}` is given twice")));
            }
        }
        Ok(Arguments { spec: self, values })
    }

    fn fault(&self, reason: impl Into<String>) -> RewardError {
        RewardError::Spec { spec: self.text.clone(), reason: reason.into() }
    }
}

fn any_correct(completion: &str, golds: &[String]) -> Option<bool> {
    golds.iter().filter_map(|gold| is_correct(completion, gold)).reduce(|a, b| a || b)
}

/// Arguments by name, each of which is asked for as what it should be.
struct Arguments<'a> {
    spec: &'a RewardSpec,
    values: BTreeMap<&'a str, &'a str>,
}

impl Arguments<'_> {
    fn text(&self, name: &str, default: &str) -> String {
        (*self.values.get(name).unwrap_or(&default)).to_owned()
    }

    fn needed_text(&self, name: &str) -> Result<String, RewardError> {
        let value = self.values.get(name).filter(|value| !value.is_empty());
        value.map(|value| (*value).to_owned()).ok_or_else(|| self.missing(name))
    }

    fn count(&self, name: &str, default: Option<usize>) -> Result<usize, RewardError> {
        match self.values.get(name) {
            None => default.ok_or_else(|| self.missing(name)),
            Some(value) => {
                value.parse().map_err(|_| self.spec.fault(format!("`{name}` is `{value}`, expected a whole number")))
            }
        }
    }

    fn number(&self, name: &str, default: f64) -> Result<f64, RewardError> {
        let Some(value) = self.values.get(name) else { return Ok(default) };
        let number = value.parse().ok().filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| self.spec.fault(format!("`{name}` is `{value}`, expected a number")))
    }

    fn missing(&self, name: &str) -> RewardError {
        self.spec.fault(format!("expected {}:{name}", self.spec.name()))
    }
}

/// Reads the name; the arguments are read when the reward is built.
impl FromStr for RewardSpec {
    type Err = RewardError;

    fn from_str(text: &str) -> Result<Self, RewardError> {
        let text = text.trim().to_owned();
        let name = text.split(':').next().unwrap_or_default();
        let known = |(own, _, trl): &&(&str, Kind, Option<&str>)| *own == name || *trl == Some(name);
        match KINDS.iter().find(known) {
            Some((_, kind, _)) => Ok(Self { kind: *kind, text }),
            None => {
                let known = KINDS.iter().map(|(name, _, _)| (*name).to_owned()).collect();
                Err(RewardError::Unknown { name: name.to_owned(), known })
            }
        }
    }
}

impl TryFrom<String> for RewardSpec {
    type Error = RewardError;

    fn try_from(text: String) -> Result<Self, RewardError> {
        text.parse()
    }
}

impl From<RewardSpec> for String {
    fn from(spec: RewardSpec) -> Self {
        spec.text
    }
}

impl fmt::Display for RewardSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// All rewards of a run; those of the same name are numbered, so that each has its own place in the logs.
///
/// # Errors
/// As [`RewardSpec::build`].
pub fn build_rewards(specs: &[RewardSpec], context: &RewardContext) -> Result<Vec<Box<dyn Reward>>, RewardError> {
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rewards = Vec::new();
    for spec in specs {
        let reward = spec.build(context)?;
        let count = taken.entry(spec.name()).or_default();
        *count += 1;
        rewards.push(match *count {
            1 => reward,
            count => Box::new(Renamed { name: format!("{}_{count}", spec.name()), reward }),
        });
    }
    Ok(rewards)
}

/// A reward under another name.
struct Renamed {
    name: String,
    reward: Box<dyn Reward>,
}

impl Reward for Renamed {
    fn name(&self) -> &str {
        &self.name
    }

    fn columns(&self) -> Vec<&str> {
        self.reward.columns()
    }

    fn score(&mut self, completions: &[super::RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        self.reward.score(completions)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::super::{RewardInput, score_completions};
    use super::*;

    fn built(spec: &str) -> Result<Box<dyn Reward>, RewardError> {
        spec.parse::<RewardSpec>()?.build(&RewardContext::new(|_| {}))
    }

    fn scored(spec: &str, completion: &str, num_tokens: usize, row: Value) -> Option<f64> {
        let Value::Object(row) = row else { panic!("an object") };
        let (prompt, ids) = (json!("?"), vec![1; num_tokens]);
        let input = RewardInput::new(&prompt, completion, &ids, &row);
        score_completions(&mut *built(spec).unwrap(), &[input]).unwrap()[0]
    }

    #[test]
    fn each_name_does_what_it_says() {
        let none = json!({});
        assert_eq!(scored("think_format", "<think>a</think>b", 1, none.clone()), Some(1.0));
        assert_eq!(scored("accuracy", "#### 3", 1, json!({ "solution": "3" })), Some(1.0));
        assert_eq!(scored("accuracy:answer", "#### 3", 1, json!({ "answer": 3 })), Some(1.0));
        assert_eq!(scored("accuracy:column=answer", "#### 3", 1, json!({ "answer": ["2", "3"] })), Some(1.0));
        assert_eq!(scored("accuracy:answer", "#### 3", 1, json!({ "answer": null })), None);
        assert_eq!(scored("reasoning_accuracy", "<think>3</think>4", 1, json!({ "solution": 4 })), Some(1.0));
        assert_eq!(scored("reasoning_accuracy", "4", 1, json!({ "solution": 4 })), Some(0.0));
        assert_eq!(scored("regex:^(?i)yes, it is", "Yes, it is.", 1, none.clone()), Some(1.0));
        assert_eq!(scored("regex:a:b", "a-b", 1, none.clone()), Some(0.0));
        assert_eq!(scored("contains:names", "It is Rex.", 1, json!({ "names": ["Bo", "Rex"] })), Some(1.0));
        assert_eq!(scored("contains:names", "It is Max.", 1, json!({ "names": ["Bo", "Rex"] })), Some(0.0));
        assert_eq!(scored("contains:names", "It is Max.", 1, json!({ "names": [] })), None);
        assert_eq!(scored("length:5", "", 8, none.clone()), Some(-3.0));
        assert_eq!(scored("repetition:2", "", 5, none.clone()), Some(-0.75));
        assert_eq!(scored("repetition:ngram_size=2,max_penalty=-2", "", 5, none.clone()), Some(-1.5));
        assert_eq!(scored("soft_overlong:100,20", "", 90, none.clone()), Some(-0.5));
        assert_eq!(scored("soft_overlong", "", 1281, none.clone()), Some(-1.0));
        assert_eq!(scored("cosine:10,answer", r"\boxed{1}", 0, json!({ "answer": "1" })), Some(1.0));
        assert_eq!(scored("cosine:10,min_value_wrong=-3", "2", 0, json!({ "solution": "1" })), Some(-3.0));
        assert_eq!(scored("json_schema:column=shape", "1", 1, json!({ "shape": { "type": "integer" } })), Some(1.0));
        assert_eq!(scored("tool_call", "hm", 1, json!({ "tools": [{ "name": "f" }] })), Some(0.0));
        assert_eq!(scored("think_format_reward", "a", 1, none), Some(0.0));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |spec: &str| built(spec).err().expect("an error").to_string();
        assert_eq!(
            message("acuracy"),
            "reward `acuracy` is unknown, expected one of think_format, accuracy, reasoning_accuracy, regex, contains, \
             length, repetition, soft_overlong, cosine, json_schema, tool_call, program, model"
        );
        assert_eq!(message("length"), "reward `length`: expected length:target");
        assert_eq!(message("length:x"), "reward `length:x`: `target` is `x`, expected a whole number");
        assert_eq!(message("length:1,2"), "reward `length:1,2`: `2` is one argument too many");
        assert_eq!(message("length:goal=1"), "reward `length:goal=1`: argument `goal` is unknown, expected target");
        assert_eq!(message("length:1,target=1"), "reward `length:1,target=1`: argument `target` is given twice");
        assert_eq!(message("think_format:1"), "reward `think_format:1`: `1` is one argument too many");
        assert_eq!(message("contains"), "reward `contains`: expected contains:column");
        assert_eq!(
            message("program:"),
            "reward `program:`: expected program:COMMAND, such as program:python3 reward.py"
        );
        assert!(message("regex:(").starts_with("reward `regex:(`: regex parse error"));
        assert!(
            message("json_schema:/nowhere.json")
                .starts_with("reward `json_schema:/nowhere.json`: cannot read the schema")
        );
        assert!(message("repetition:0").contains("expected an ngram_size of 1 or more"));
        assert!(message("program:timeout_secs=0,cat").contains("expected a whole number of 1 or more"));
    }

    #[test]
    fn a_column_of_another_kind_is_named_with_the_prompt() {
        let mut reward = built("contains:answer").unwrap();
        let (prompt, mut row) = (json!("Who?"), Map::new());
        row.insert("answer".into(), json!({ "name": "Rex" }));
        let error = score_completions(&mut *reward, &[RewardInput::new(&prompt, "Rex", &[], &row)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "reward `contains` cannot judge a completion of the prompt `Who?`: column `answer` holds an object, expected a \
             text, a number, or a list of them"
        );
    }

    #[test]
    fn rewards_of_one_name_are_told_apart() {
        let specs: Vec<RewardSpec> = ["regex:a", "think_format", "regex:b"].map(|text| text.parse().unwrap()).into();
        let rewards = build_rewards(&specs, &RewardContext::new(|_| {})).unwrap();
        let names: Vec<&str> = rewards.iter().map(|reward| reward.name()).collect();
        assert_eq!(names, ["regex", "think_format", "regex_2"]);
        assert_eq!(serde_json::to_string(&specs[0]).unwrap(), r#""regex:a""#);
    }
}
