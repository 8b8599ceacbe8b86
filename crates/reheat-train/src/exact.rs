//! JSON whose numbers come back bit for bit.
//!
//! `serde_json` prints the shortest digits that mean a number, but reads them with an error of up to one unit in the
//! last place; a sum of losses that passes through a file would drift. Here a fractional number is its 64 bits.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

/// Key of an object that stands for a number.
const BITS: &str = "f64";

/// JSON of `value`.
pub(crate) fn to_string(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).expect("what is saved has string keys");
    serde_json::to_string_pretty(&encode(value)).expect("a JSON value can be written as JSON")
}

/// The value again.
pub(crate) fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(decode(serde_json::from_str(text)?))
}

fn encode(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().expect("it is one");
            // The digits are for people.
            json!({ BITS: format!("{:016x}", number.to_bits()), "about": number })
        }
        Value::Array(items) => Value::Array(items.into_iter().map(encode).collect()),
        Value::Object(entries) => Value::Object(entries.into_iter().map(|(key, value)| (key, encode(value))).collect()),
        other => other,
    }
}

fn decode(value: Value) -> Value {
    match value {
        Value::Object(entries) => match bits(&entries) {
            Some(number) => json!(number),
            None => Value::Object(entries.into_iter().map(|(key, value)| (key, decode(value))).collect()),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(decode).collect()),
        other => other,
    }
}

fn bits(entries: &Map<String, Value>) -> Option<f64> {
    let bits = u64::from_str_radix(entries.get(BITS)?.as_str()?, 16).ok()?;
    Some(f64::from_bits(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_survives() {
        let numbers = [0.1 + 0.2, 1.0 / 3.0, f64::MIN_POSITIVE, 123_456_789.123_456_79, -0.0, 5e-324];
        let read: Vec<f64> = from_str(&to_string(&numbers)).unwrap();
        let bits = |numbers: &[f64]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(&numbers));
        let mixed = json!({ "step": 3, "rows": [{ "loss": 0.5, "name": "f64" }] });
        assert_eq!(from_str::<Value>(&to_string(&mixed)).unwrap(), mixed);
    }
}
