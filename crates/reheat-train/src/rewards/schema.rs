//! JSON against a schema (draft 2020-12, unless the schema names another).

use std::sync::Arc;

use jsonschema::{PatternOptions, Retrieve, Uri, Validator};
use serde_json::Value;

/// A schema that stands for itself: it refers to no other document.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    validator: Arc<Validator>,
}

/// Gets no document, from no network and no file.
struct Nowhere;

impl Retrieve for Nowhere {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("expected the place of a schema in the same document, such as #/$defs/name, not `{uri}`").into())
    }
}

/// Characters of a value that an error shows.
const SHOWN: usize = 80;

impl Schema {
    /// A schema to be held to.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(crate) fn new(root: Value) -> Result<Self, String> {
        let fault = |error: jsonschema::ValidationError<'_>| {
            let place = error.instance_path().to_string();
            format!("`#{place}`: {}", short(&error.to_string()))
        };
        // Patterns come from files and are held against what a model writes: the engine takes time linear in both.
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex()).with_retriever(Nowhere);
        let validator = options.build(&root).map_err(fault)?;
        Ok(Self { validator: Arc::new(validator) })
    }

    /// Whether `value` is what the schema asks for.
    pub(crate) fn accepts(&self, value: &Value) -> bool {
        self.validator.is_valid(value)
    }

    /// The first thing that is wrong with `value`, if it is not what the schema asks for.
    pub(crate) fn fault(&self, value: &Value) -> Option<String> {
        let error = self.validator.validate(value).err()?;
        let place = error.instance_path().to_string();
        Some(if place.is_empty() {
            short(&error.to_string())
        } else {
            format!("{place}: {}", short(&error.to_string()))
        })
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN * 2) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_that_is_none_is_refused_with_the_place() {
        let message = |schema: Value| Schema::new(schema).unwrap_err();
        assert!(message(json!({ "type": "text" })).starts_with("`#/type`: \"text\" is not"));
        assert!(
            message(json!({ "properties": { "a": { "minLength": "x" } } })).starts_with("`#/properties/a/minLength`")
        );
        assert!(message(json!({ "pattern": "(" })).contains("pattern"));
        assert!(message(json!([])).contains("is not of types"));
    }

    /// Neither a host nor a file is asked.
    #[test]
    fn another_document_is_not_fetched() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("schema.json");
        std::fs::write(&file, r#"{"type": "integer"}"#).unwrap();
        for target in ["https://example.com/schema".to_owned(), format!("file://{}", file.display())] {
            let message = Schema::new(json!({ "$ref": target })).unwrap_err();
            assert!(message.contains("in the same document"), "{message}");
        }
        let inside = Schema::new(json!({ "$ref": "#/$defs/whole", "$defs": { "whole": { "type": "integer" } } }));
        assert!(inside.unwrap().accepts(&json!(1)));
    }

    #[test]
    fn what_is_wrong_with_a_value_is_told() {
        let schema = Schema::new(json!({ "properties": { "a": { "type": "integer" } }, "required": ["a"] })).unwrap();
        assert_eq!(schema.fault(&json!({ "a": 1 })), None);
        assert_eq!(schema.fault(&json!({})).unwrap(), "\"a\" is a required property");
        assert_eq!(schema.fault(&json!({ "a": "x" })).unwrap(), "/a: \"x\" is not of type \"integer\"");
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        // Any answer will do: the schema says nothing.
        let _ = Schema::new(json!({ "$ref": "#" })).unwrap().accepts(&json!(1));
        let list = json!({ "type": "object", "properties": { "next": { "$ref": "#" } }, "required": ["value"] });
        let list = Schema::new(list).unwrap();
        assert!(list.accepts(&json!({ "value": 1, "next": { "value": 2 } })));
        assert!(!list.accepts(&json!({ "value": 1, "next": { "values": 2 } })));
    }
}
