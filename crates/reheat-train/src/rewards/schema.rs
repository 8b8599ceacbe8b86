//! Validation of JSON against a schema (draft 2020-12), without references to other documents.
//!
//! The crate `jsonschema` would switch on features of serde_json and of number crates for the whole workspace, and can
//! fetch schemas; of what it knows, rewards need this much.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value};

/// A schema whose keywords are all understood.
#[derive(Debug, Clone)]
pub(super) struct Schema {
    root: Value,
}

/// Keywords that say nothing about validity.
const ANNOTATIONS: [&str; 15] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
    "nullable",
];

/// Keywords that are checked.
const KEYWORDS: [&str; 32] = [
    "$ref",
    "type",
    "enum",
    "const",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "properties",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "required",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "contains",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// References followed on the way to one value: those of a schema that refers to itself never end.
const MAX_REFERENCES: usize = 64;

impl Schema {
    /// Checks that every keyword is one that is understood, so that none is passed over in silence.
    pub(super) fn new(root: Value) -> Result<Self, String> {
        let schema = Self { root };
        schema.check(&schema.root, "#")?;
        Ok(schema)
    }

    /// Whether `value` is what the schema asks for.
    pub(super) fn accepts(&self, value: &Value) -> bool {
        self.valid(&self.root, value, 0)
    }

    fn check(&self, schema: &Value, at: &str) -> Result<(), String> {
        let object = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(object) => object,
            other => return Err(format!("`{at}` is {other}, expected an object or a boolean")),
        };
        for (keyword, value) in object {
            let here = format!("{at}/{keyword}");
            let expected = |what: &str| format!("`{here}` is {value}, expected {what}");
            match keyword.as_str() {
                "$defs" | "definitions" | "properties" | "patternProperties" => {
                    let members = value.as_object().ok_or_else(|| expected("an object"))?;
                    for (name, member) in members {
                        if keyword == "patternProperties" {
                            Regex::new(name).map_err(|error| format!("`{here}`: {error}"))?;
                        }
                        self.check(member, &format!("{here}/{name}"))?;
                    }
                }
                "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                    let members = value.as_array().ok_or_else(|| expected("a list"))?;
                    members
                        .iter()
                        .enumerate()
                        .try_for_each(|(index, member)| self.check(member, &format!("{here}/{index}")))?;
                }
                "not" | "if" | "then" | "else" | "additionalProperties" | "propertyNames" | "items" | "contains" => {
                    self.check(value, &here)?;
                }
                "$ref" => {
                    let target = value.as_str().and_then(|pointer| self.target(pointer));
                    target
                        .ok_or_else(|| expected("the place of a schema in the same document, such as #/$defs/name"))?;
                }
                "type" => {
                    let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                    let fine = value.as_array().map_or_else(|| known(value), |names| names.iter().all(known));
                    fine.then_some(()).ok_or_else(|| expected(&format!("one of {}", TYPES.join(", "))))?;
                }
                "enum" => value.as_array().map(|_| ()).ok_or_else(|| expected("a list"))?,
                "required" => {
                    let names = value.as_array().filter(|names| names.iter().all(Value::is_string));
                    names.map(|_| ()).ok_or_else(|| expected("a list of names"))?;
                }
                "pattern" => {
                    let pattern = value.as_str().ok_or_else(|| expected("a regular expression"))?;
                    Regex::new(pattern).map_err(|error| format!("`{here}`: {error}"))?;
                }
                "uniqueItems" => value.as_bool().map(|_| ()).ok_or_else(|| expected("a boolean"))?,
                "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                    value.as_f64().map(|_| ()).ok_or_else(|| expected("a number"))?;
                }
                "multipleOf" => {
                    value
                        .as_f64()
                        .filter(|step| *step > 0.0)
                        .map(|_| ())
                        .ok_or_else(|| expected("a number above 0"))?;
                }
                "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                    value.as_u64().map(|_| ()).ok_or_else(|| expected("a whole number"))?;
                }
                "const" => {}
                other if ANNOTATIONS.contains(&other) => {}
                _ => return Err(format!("keyword `{here}` is not supported, expected {}", KEYWORDS.join(", "))),
            }
        }
        Ok(())
    }

    /// The schema at a pointer into this document.
    fn target(&self, pointer: &str) -> Option<&Value> {
        self.root.pointer(pointer.strip_prefix('#')?)
    }

    fn valid(&self, schema: &Value, value: &Value, references: usize) -> bool {
        let Value::Object(schema) = schema else { return schema != &Value::Bool(false) };
        schema.iter().all(|(keyword, argument)| self.holds(schema, keyword, argument, value, references))
    }

    /// Whether one keyword holds; those about another type always do.
    fn holds(
        &self,
        schema: &Map<String, Value>,
        keyword: &str,
        argument: &Value,
        value: &Value,
        references: usize,
    ) -> bool {
        let valid = |schema: &Value| self.valid(schema, value, references);
        let members = || argument.as_array().into_iter().flatten();
        match keyword {
            "$ref" => {
                let target = argument.as_str().and_then(|pointer| self.target(pointer));
                references < MAX_REFERENCES && target.is_some_and(|schema| self.valid(schema, value, references + 1))
            }
            "type" => match argument {
                Value::Array(names) => names.iter().filter_map(Value::as_str).any(|name| is_of(value, name)),
                name => name.as_str().is_some_and(|name| is_of(value, name)),
            },
            "enum" => members().any(|known| same(known, value)),
            "const" => same(argument, value),
            "allOf" => members().all(valid),
            "anyOf" => members().any(valid),
            "oneOf" => members().filter(|schema| valid(schema)).count() == 1,
            "not" => !valid(argument),
            "if" => schema.get(if valid(argument) { "then" } else { "else" }).is_none_or(valid),
            // A value inside is another value: references on the way to it count anew.
            _ => match value {
                Value::Object(object) => self.object_holds(schema, keyword, argument, object),
                Value::Array(items) => self.array_holds(schema, keyword, argument, items),
                Value::String(text) => string_holds(keyword, argument, text),
                Value::Number(_) => number_holds(keyword, argument, value),
                Value::Null | Value::Bool(_) => true,
            },
        }
    }

    fn object_holds(
        &self,
        schema: &Map<String, Value>,
        keyword: &str,
        argument: &Value,
        object: &Map<String, Value>,
    ) -> bool {
        match keyword {
            "properties" => {
                let mut known = argument.as_object().into_iter().flatten();
                known.all(|(name, schema)| object.get(name).is_none_or(|value| self.valid(schema, value, 0)))
            }
            "patternProperties" => patterns(argument).all(|(pattern, schema)| {
                object.iter().filter(|(name, _)| pattern.is_match(name)).all(|(_, value)| self.valid(schema, value, 0))
            }),
            "additionalProperties" => {
                let named = schema.get("properties").and_then(Value::as_object);
                let patterned: Vec<Regex> = schema
                    .get("patternProperties")
                    .into_iter()
                    .flat_map(patterns)
                    .map(|(pattern, _)| pattern)
                    .collect();
                let is_additional = |name: &str| {
                    !named.is_some_and(|named| named.contains_key(name))
                        && !patterned.iter().any(|pattern| pattern.is_match(name))
                };
                object.iter().filter(|(name, _)| is_additional(name)).all(|(_, value)| self.valid(argument, value, 0))
            }
            "propertyNames" => object.keys().all(|name| self.valid(argument, &Value::String(name.clone()), 0)),
            "required" => {
                let mut names = argument.as_array().into_iter().flatten().filter_map(Value::as_str);
                names.all(|name| object.contains_key(name))
            }
            "minProperties" => at_least(object.len(), argument),
            "maxProperties" => at_most(object.len(), argument),
            _ => true,
        }
    }

    fn array_holds(&self, schema: &Map<String, Value>, keyword: &str, argument: &Value, items: &[Value]) -> bool {
        match keyword {
            "prefixItems" => {
                let schemas = argument.as_array().into_iter().flatten();
                schemas.zip(items).all(|(schema, item)| self.valid(schema, item, 0))
            }
            "items" => {
                let prefix = schema.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
                items.iter().skip(prefix).all(|item| self.valid(argument, item, 0))
            }
            "contains" => items.iter().any(|item| self.valid(argument, item, 0)),
            "minItems" => at_least(items.len(), argument),
            "maxItems" => at_most(items.len(), argument),
            "uniqueItems" => {
                argument != &Value::Bool(true)
                    || items.iter().map(canonical).collect::<BTreeSet<_>>().len() == items.len()
            }
            _ => true,
        }
    }
}

fn patterns(argument: &Value) -> impl Iterator<Item = (Regex, &Value)> {
    let members = argument.as_object().into_iter().flatten();
    members.filter_map(|(pattern, schema)| Some((Regex::new(pattern).ok()?, schema)))
}

fn at_least(count: usize, limit: &Value) -> bool {
    limit.as_u64().is_none_or(|limit| count as u64 >= limit)
}

fn at_most(count: usize, limit: &Value) -> bool {
    limit.as_u64().is_none_or(|limit| count as u64 <= limit)
}

fn string_holds(keyword: &str, argument: &Value, text: &str) -> bool {
    match keyword {
        "minLength" => at_least(text.chars().count(), argument),
        "maxLength" => at_most(text.chars().count(), argument),
        "pattern" => {
            argument.as_str().and_then(|pattern| Regex::new(pattern).ok()).is_none_or(|pattern| pattern.is_match(text))
        }
        _ => true,
    }
}

fn number_holds(keyword: &str, argument: &Value, value: &Value) -> bool {
    let (Some(value), Some(argument)) = (value.as_f64(), argument.as_f64()) else { return true };
    match keyword {
        "minimum" => value >= argument,
        "maximum" => value <= argument,
        "exclusiveMinimum" => value > argument,
        "exclusiveMaximum" => value < argument,
        "multipleOf" => {
            let quotient = value / argument;
            // 0.3 is a multiple of 0.1, though their quotient as doubles is 2.9999999999999996.
            (quotient - quotient.round()).abs() <= 1e-9 * quotient.abs().max(1.0)
        }
        _ => true,
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match (name, value) {
        ("null", Value::Null)
        | ("boolean", Value::Bool(_))
        | ("number", Value::Number(_))
        | ("string", Value::String(_))
        | ("array", Value::Array(_))
        | ("object", Value::Object(_)) => true,
        ("integer", Value::Number(number)) => number.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    }
}

/// Equality as JSON means it: 1 and 1.0 are one number, and members have no order.
fn same(a: &Value, b: &Value) -> bool {
    canonical(a) == canonical(b)
}

fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(object) => {
            let mut members: Vec<String> = object
                .iter()
                .map(|(name, value)| format!("{}:{}", Value::String(name.clone()), canonical(value)))
                .collect();
            members.sort();
            format!("{{{}}}", members.join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_keyword_that_is_not_understood_is_refused() {
        let message = |schema: Value| Schema::new(schema).unwrap_err();
        assert!(
            message(json!({ "properties": { "a": { "unevaluatedItems": false } } }))
                .starts_with("keyword `#/properties/a/unevaluatedItems` is not supported, expected $ref, type")
        );
        assert_eq!(
            message(json!({ "type": "text" })),
            "`#/type` is \"text\", expected one of null, boolean, integer, number, string, array, object"
        );
        assert!(message(json!({ "$ref": "https://example.com/schema" })).contains("in the same document"));
        assert!(message(json!({ "pattern": "(" })).starts_with("`#/pattern`: regex parse error"));
        assert!(message(json!([])).contains("expected an object or a boolean"));
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let looping = Schema::new(json!({ "$ref": "#" })).unwrap();
        assert!(!looping.accepts(&json!(1)));
        let list = json!({ "type": "object", "properties": { "next": { "$ref": "#" } }, "required": ["value"] });
        let list = Schema::new(list).unwrap();
        assert!(list.accepts(&json!({ "value": 1, "next": { "value": 2 } })));
        assert!(!list.accepts(&json!({ "value": 1, "next": { "values": 2 } })));
    }
}
