//! A YAML file of settings, with the line of each.

use std::{fs, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::fault::Fault;

/// One `key: value` of the file.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Value,
    /// 1-based.
    pub(crate) line: u64,
}

/// A mapping in file order; keys may repeat, which is found later and reported with both lines.
struct Entries(Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("settings, one `key: value` a line")
            }

            fn visit_unit<E>(self) -> Result<Entries, E> {
                Ok(Entries(Vec::new())) // an empty file
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let line = key.referenced.line();
                    entries.push(Entry { key: key.value, line, value: map.next_value()? });
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_any(EntriesVisitor)
    }
}

/// Reads the file.
///
/// # Errors
/// If it can't be read or isn't a YAML mapping.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>, Fault> {
    let text = fs::read_to_string(path)
        .map_err(|error| Fault::input(format!("cannot read the settings in `{}`", path.display())).because(error))?;
    parse(&text).map_err(|reason| {
        Fault::input(format!("`{}` is not a YAML file of settings: {reason}", path.display()))
            .hint("a settings file has one `key: value` a line, such as `learning_rate: 2e-5`")
    })
}

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    serde_saphyr::from_str::<Entries>(text).map(|entries| entries.0).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_keep_their_type_and_line() {
        let entries = parse("# a run\nlearning_rate: 2e-5\n\npacking: true\nmax_steps: 10\nname: a b\nnone: null\nlist:\n  - a\n  - b\n").unwrap();
        let read: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.value.clone(), e.line)).collect();
        assert_eq!(
            read,
            [
                ("learning_rate", json!(2e-5), 2),
                ("packing", json!(true), 4),
                ("max_steps", json!(10), 5),
                ("name", json!("a b"), 6),
                ("none", json!(null), 7),
                ("list", json!(["a", "b"]), 8),
            ]
        );
    }

    #[test]
    fn an_empty_file_has_no_settings() {
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("# nothing yet\n").unwrap(), []);
    }

    #[test]
    fn a_list_is_refused_with_a_position() {
        let reason = parse("- a\n- b\n").unwrap_err();
        assert!(reason.contains("key: value"), "{reason}");
    }
}
