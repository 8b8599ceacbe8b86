//! The fields of settings structs as data: key, type, default, help.

use std::fmt;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::names::old_names;

/// All fields that a command accepts, in the order in which they are declared.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) fields: Vec<Field>,
}

/// One field of a settings struct.
#[derive(Debug)]
pub(crate) struct Field {
    /// TRL's name, as in YAML.
    pub(crate) key: String,
    /// The flag without its dashes.
    pub(crate) flag: String,
    /// Other spellings of the flag: TRL writes underscores.
    pub(crate) aliases: Vec<String>,
    /// Names of the setting in other versions and tools, each as a key and as a flag.
    pub(super) old_names: Vec<(&'static str, String)>,
    /// `no-…` and `no_…`, the flag that says false.
    pub(crate) negations: [String; 2],
    pub(crate) kind: Kind,
    /// Whether the value may be absent (`none`).
    pub(crate) optional: bool,
    /// Smallest number that the type holds.
    pub(crate) minimum: Option<f64>,
    /// Whether a comma parts the items of a list on the command line.
    pub(crate) commas: bool,
    pub(crate) help: String,
    pub(crate) default: Value,
    /// What the flag means without a value; `None` where it needs one.
    pub(crate) bare: Option<String>,
    /// Whether [`AUTO`] is a value, which the machine decides.
    pub(crate) auto: bool,
    /// Heading in the help.
    pub(crate) section: &'static str,
    /// Deserializes the struct with only this field changed, and says what is wrong.
    check: fn(&str, &Value) -> Result<(), String>,
}

/// The value of a setting that is decided when the device is known.
pub(crate) const AUTO: &str = "auto";

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Bool,
    Integer,
    Number,
    Text,
    Choice(Vec<String>),
    List(Box<Kind>),
    /// Anything else: written as JSON on the command line.
    Json,
}

impl Table {
    /// Adds the fields of `T` under the heading `section`.
    ///
    /// A field's flag is its key with dashes, or what the schema extension `x-flag` says. `x-commas: false` keeps commas
    /// in the items of a list, and `x-bare` is what the flag means without a value.
    pub(crate) fn with<T>(mut self, section: &'static str) -> Self
    where
        T: JsonSchema + Serialize + DeserializeOwned + Default,
    {
        let schema = SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<T>();
        let defaults = defaults::<T>();
        let properties = schema.get("properties").and_then(Value::as_object);
        for (key, property) in properties.into_iter().flatten() {
            let (kind, optional) = Kind::of(property);
            let flag =
                property.get("x-flag").and_then(Value::as_str).map_or_else(|| key.replace('_', "-"), str::to_owned);
            let mut aliases = vec![key.clone(), key.replace('_', "-")];
            aliases.retain(|alias| *alias != flag);
            aliases.dedup();
            self.fields.push(Field {
                key: key.clone(),
                old_names: old_names(key).map(|old| (old, old.replace('_', "-"))).collect(),
                negations: [format!("no-{flag}"), format!("no_{key}")],
                aliases,
                flag,
                kind,
                optional,
                commas: property.get("x-commas").and_then(Value::as_bool).unwrap_or(true),
                bare: property.get("x-bare").and_then(Value::as_str).map(str::to_owned),
                auto: false,
                minimum: property.get("minimum").and_then(Value::as_f64),
                help: plain(property.get("description").and_then(Value::as_str).unwrap_or_default()),
                default: defaults.get(key).cloned().unwrap_or(Value::Null),
                section,
                check: check::<T>,
            });
        }
        self
    }

    /// Gives a field another default than its struct has: what a method's own settings say of a shared one.
    ///
    /// # Panics
    /// If there is no such field.
    pub(crate) fn with_default(mut self, key: &str, value: Value) -> Self {
        self.known(key).default = value;
        self
    }

    /// Gives a closed choice the further value [`AUTO`], and makes it the default.
    ///
    /// # Panics
    /// If there is no such field.
    pub(crate) fn with_auto(mut self, key: &str) -> Self {
        let field = self.known(key);
        if let Kind::Choice(names) = &mut field.kind {
            names.insert(0, AUTO.to_owned());
        }
        field.auto = true;
        field.default = AUTO.into();
        self
    }

    fn known(&mut self, key: &str) -> &mut Field {
        let field = self.fields.iter_mut().find(|field| field.key == key);
        field.unwrap_or_else(|| panic!("`{key}` is no setting"))
    }

    /// The old names of a field that mean nothing else here, each as a key and as a flag.
    pub(super) fn old_names<'a>(&'a self, field: &'a Field) -> impl Iterator<Item = &'a (&'static str, String)> {
        let is_taken =
            |flag: &String| self.fields.iter().any(|field| field.flag == *flag || field.aliases.contains(flag));
        field.old_names.iter().filter(move |(_, flag)| !is_taken(flag))
    }

    pub(crate) fn field(&self, key: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.key == key)
    }
}

/// The fields of a settings struct with their defaults.
pub(super) fn defaults<T: Serialize + Default>() -> Map<String, Value> {
    match serde_json::to_value(T::default()) {
        Ok(Value::Object(map)) => map,
        other => unreachable!("settings are a struct, found {other:?}"),
    }
}

fn check<T: Serialize + DeserializeOwned + Default>(key: &str, value: &Value) -> Result<(), String> {
    let mut all = defaults::<T>();
    all.insert(key.to_owned(), value.clone());
    serde_json::from_value::<T>(Value::Object(all)).map(drop).map_err(|error| error.to_string())
}

impl Field {
    /// Turns what a person wrote into a value of the field's type.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub(crate) fn accept(&self, value: &Value) -> Result<Value, String> {
        let is_none = match value {
            Value::Null => true,
            Value::String(text) => matches!(text.as_str(), "none" | "None" | "null"),
            _ => false,
        };
        if is_none && self.optional {
            return Ok(Value::Null);
        }
        let refused = |value: &Value| format!("expected {}, found {}", self.expected(), shown(value));
        let accepted = self.kind.accept(value).ok_or_else(|| refused(value))?;
        if self.auto && accepted == AUTO {
            return Ok(accepted);
        }
        if let (Some(minimum), Some(number)) = (self.minimum, accepted.as_f64())
            && number < minimum
        {
            return Err(refused(value));
        }
        (self.check)(&self.key, &accepted).map_err(|reason| format!("{}: {reason}", refused(value)))?;
        Ok(accepted)
    }

    fn expected(&self) -> String {
        let at_least = self.minimum.map(|minimum| format!(" of at least {minimum}")).unwrap_or_default();
        let or_none = if self.optional { " or none" } else { "" };
        format!("{}{at_least}{or_none}", self.kind)
    }

    /// Reads the words given to the flag.
    pub(crate) fn accept_words(&self, words: &[String]) -> Result<Value, String> {
        if matches!(self.kind, Kind::List(_)) {
            if let [only] = words
                && matches!(only.as_str(), "none" | "None" | "null")
            {
                return self.accept(&Value::Null);
            }
            return self.accept(&Value::Array(words.iter().cloned().map(Value::String).collect()));
        }
        self.accept(&Value::String(words.join(" ")))
    }
}

impl Kind {
    /// The kind that a property's schema describes, and whether it may be null.
    fn of(schema: &Value) -> (Self, bool) {
        if let Some(options) = schema.get("anyOf").and_then(Value::as_array) {
            let (nulls, others): (Vec<_>, Vec<_>) = options.iter().partition(|option| option["type"] == "null");
            return match others.as_slice() {
                [only] => (Self::of(only).0, !nulls.is_empty()),
                _ => (Self::Json, !nulls.is_empty()),
            };
        }
        if let Some(choices) = choices(schema) {
            let optional = choices.iter().any(Value::is_null);
            let names = choices.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            return (Self::Choice(names), optional);
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => return (Self::Json, true),
        };
        let optional = types.contains(&"null");
        let types: Vec<&str> = types.into_iter().filter(|name| *name != "null").collect();
        let kind = match types.as_slice() {
            ["boolean"] => Self::Bool,
            ["integer"] => Self::Integer,
            ["number"] => Self::Number,
            ["string"] => Self::Text,
            ["array"] => Self::List(Box::new(Self::of(&schema["items"]).0)),
            _ => Self::Json,
        };
        (kind, optional)
    }

    fn accept(&self, value: &Value) -> Option<Value> {
        let text = value.as_str();
        match self {
            Self::Bool => value.as_bool().or_else(|| truth(text?)).map(Value::Bool),
            Self::Integer => integer(value).or_else(|| integer(&serde_json::from_str(text?.trim()).ok()?)),
            Self::Number => {
                let number =
                    value.as_f64().or_else(|| text?.trim().parse().ok()).filter(|number| number.is_finite())?;
                // Keep an integer's own spelling: 3, not 3.0.
                Some(if value.is_number() { value.clone() } else { serde_json::Number::from_f64(number)?.into() })
            }
            Self::Text => match value {
                Value::String(_) => Some(value.clone()),
                Value::Number(_) | Value::Bool(_) => Some(Value::String(value.to_string())),
                _ => None,
            },
            Self::Choice(names) => {
                names.iter().find(|name| name.as_str() == text.unwrap_or_default()).map(|name| name.clone().into())
            }
            Self::List(kind) => match value {
                Value::Array(items) => {
                    items.iter().map(|item| kind.accept(item)).collect::<Option<_>>().map(Value::Array)
                }
                other => kind.accept(other).map(|item| Value::Array(vec![item])),
            },
            Self::Json => match value {
                Value::String(text) => Some(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))),
                other => Some(other.clone()),
            },
        }
    }
}

/// A whole number, also where it was written as `1e3`.
fn integer(value: &Value) -> Option<Value> {
    if value.is_i64() || value.is_u64() {
        return Some(value.clone());
    }
    let number = value.as_f64()?;
    #[expect(clippy::cast_possible_truncation, reason = "whole and small, as just checked")]
    (number.fract() == 0.0 && number.abs() < 1e15).then(|| Value::from(number as i64))
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// The values of a closed choice, whether or not they are documented one by one.
fn choices(schema: &Value) -> Option<Vec<Value>> {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return Some(values.clone());
    }
    let options = schema.get("oneOf")?.as_array()?;
    let mut values = Vec::new();
    for option in options {
        match (option.get("const"), option.get("enum").and_then(Value::as_array)) {
            (Some(value), _) => values.push(value.clone()),
            (None, Some(many)) => values.extend(many.iter().cloned()),
            (None, None) => return None,
        }
    }
    Some(values)
}

/// A doc comment as help: without links' brackets.
fn plain(doc: &str) -> String {
    doc.replace("[`", "`").replace("`]", "`").trim().to_owned()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        Value::Null => "nothing".to_owned(),
        other => format!("`{other}`"),
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("true or false"),
            Self::Integer => f.write_str("a whole number"),
            Self::Number => f.write_str("a number"),
            Self::Text => f.write_str("text"),
            Self::Choice(names) => write!(f, "one of {}", names.join(", ")),
            Self::List(kind) => match kind.as_ref() {
                Self::Choice(names) => write!(f, "a list of names out of {}", names.join(", ")),
                Self::Text => f.write_str("a list of names"),
                _ => f.write_str("a list of numbers"),
            },
            Self::Json => f.write_str("a value"),
        }
    }
}
