use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::{Expression, Operand, Operator, Path};
use crate::{Row, RowProblem, row::kind_of};

/// True, false, or neither where a null decides.
type Truth = Option<bool>;

impl Expression {
    pub(super) fn evaluate(&self, row: &Row) -> Result<Truth, RowProblem> {
        Ok(match self {
            // What is decided already needs no look at the rest: `length(a) > 3 and a.3 = 'x'`.
            Self::Or(parts) => decided_by(parts, row, true)?,
            Self::And(parts) => decided_by(parts, row, false)?,
            Self::Not(part) => part.evaluate(row)?.map(|truth| !truth),
            Self::Compare { left, operator, right } => {
                match compare(&left.value(row), left, &right.value(row), right)? {
                    None => None,
                    Some(Order::Ordered(order)) => Some(operator.holds(order)),
                    Some(Order::Unordered(equal)) => match operator {
                        Operator::Equal => Some(equal),
                        Operator::NotEqual => Some(!equal),
                        _ => return Err(wrong(left, "a number or text", &left.value(row))),
                    },
                }
            }
            Self::In { operand, values } => {
                let value = operand.value(row);
                let mut found = if value.is_null() { None } else { Some(false) };
                for literal in values {
                    if equal(&value, operand, literal)? == Some(true) {
                        found = Some(true);
                        break;
                    }
                }
                found
            }
            Self::Contains { operand, value: part } => match (operand.value(row), part) {
                (Value::Null, _) => None,
                (Value::String(text), Value::String(part)) => Some(text.contains(part.as_str())),
                (Value::Array(items), part) => Some(items.iter().any(|item| match (item, part) {
                    (Value::Number(a), Value::Number(b)) => order_of(a, b) == Some(Ordering::Equal),
                    (item, part) => item == part,
                })),
                (other, _) => return Err(wrong(operand, "text or a list", &other)),
            },
            Self::IsNull(operand) => Some(operand.value(row).is_null()),
        })
    }
}

/// `and` and `or` of three truths: one `decisive` decides, else one that is neither.
fn decided_by(parts: &[Expression], row: &Row, decisive: bool) -> Result<Truth, RowProblem> {
    let mut all = Some(!decisive);
    for part in parts {
        match part.evaluate(row)? {
            Some(truth) if truth == decisive => return Ok(Some(decisive)),
            Some(_) => {}
            None => all = None,
        }
    }
    Ok(all)
}

impl Operator {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl Operand {
    fn value(&self, row: &Row) -> Value {
        match self {
            Self::Column(path) => path.find(row).cloned().unwrap_or_default(),
            Self::Length(path) => match path.find(row) {
                Some(Value::String(text)) => text.chars().count().into(),
                Some(Value::Array(items)) => items.len().into(),
                Some(Value::Object(object)) => object.len().into(),
                _ => Value::Null,
            },
            Self::Literal(value) => value.clone(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Column(path) => path.0.join("."),
            Self::Length(path) => format!("length({})", path.0.join(".")),
            Self::Literal(value) => value.to_string(),
        }
    }
}

impl Path {
    fn find<'a>(&self, row: &'a Row) -> Option<&'a Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(row.get(first)?, |value, name| match value {
            Value::Object(object) => object.get(name),
            Value::Array(items) => items.get(name.parse::<usize>().ok()?),
            _ => None,
        })
    }
}

/// How two values stand to each other.
enum Order {
    Ordered(Ordering),
    /// Equal or not; neither comes first.
    Unordered(bool),
}

/// `None` where one of the two is null.
fn compare(a: &Value, a_name: &Operand, b: &Value, b_name: &Operand) -> Result<Option<Order>, RowProblem> {
    let number = |text: &str, operand: &Operand, value: &Value| {
        serde_json::from_str::<Number>(text.trim()).map_err(|_| wrong(operand, "a number", value))
    };
    let numbers = |a: &Number, b: &Number| Some(Order::Ordered(order_of(a, b)?));
    Ok(match (a, b) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::Number(a), Value::Number(b)) => numbers(a, b),
        (Value::String(text), Value::Number(b)) => numbers(&number(text, a_name, a)?, b),
        (Value::Number(a), Value::String(text)) => numbers(a, &number(text, b_name, b)?),
        (Value::String(a), Value::String(b)) => Some(Order::Ordered(a.cmp(b))),
        (Value::Bool(a), Value::Bool(b)) => Some(Order::Unordered(a == b)),
        // CSV spells truth as text.
        (Value::String(text), Value::Bool(b)) | (Value::Bool(b), Value::String(text)) => {
            Some(Order::Unordered(text.trim().eq_ignore_ascii_case(&b.to_string())))
        }
        (Value::Array(_) | Value::Object(_), _) => return Err(wrong(a_name, "a number, text or true or false", a)),
        (_, Value::Array(_) | Value::Object(_)) => return Err(wrong(b_name, "a number, text or true or false", b)),
        (a, b) => {
            return Err(RowProblem::WrongType {
                field: a_name.name(),
                expected: "of the kind that it is compared with",
                found: format!("{} and {}", kind_of(a), kind_of(b)),
            });
        }
    })
}

fn equal(value: &Value, operand: &Operand, literal: &Value) -> Result<Truth, RowProblem> {
    // A list of alternatives may mix kinds; those of another kind are no match.
    if let (Value::String(text), Value::Number(_)) = (value, literal)
        && serde_json::from_str::<Number>(text.trim()).is_err()
    {
        return Ok(Some(false));
    }
    let order = compare(value, operand, literal, &Operand::Literal(literal.clone()))?;
    Ok(order.map(|order| match order {
        Order::Ordered(order) => order.is_eq(),
        Order::Unordered(equal) => equal,
    }))
}

/// Exact between integers of any size, else as floating-point numbers.
fn order_of(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

fn wrong(operand: &Operand, expected: &'static str, found: &Value) -> RowProblem {
    let shown = match found {
        Value::String(text) => format!("the text `{}`", text.chars().take(40).collect::<String>()),
        other => kind_of(other).to_owned(),
    };
    RowProblem::WrongType { field: operand.name(), expected, found: shown }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Filter;
    use super::*;

    fn row() -> Row {
        let Value::Object(row) = json!({
            "score": 4.5, "count": "12", "lang": "en", "good": true, "tags": ["a", "b"], "none": null,
            "messages": [{"role": "user", "content": "hello"}], "my column": 1, "big": 9_007_199_254_740_993_u64,
        }) else {
            unreachable!("it is an object")
        };
        row
    }

    fn keeps(filter: &str) -> Result<bool, String> {
        let filter: Filter = filter.parse().map_err(|error: crate::DataError| error.to_string())?;
        filter.keeps(&row()).map_err(|problem| problem.to_string())
    }

    #[test]
    fn comparisons() {
        for filter in [
            "score > 4",
            "score >= 4.5 and lang = 'en'",
            "count > 9", // as a number; as text it would be smaller
            "not score < 4",
            "lang in ('de', 'en')",
            "lang not in ('de', 3)",
            "tags contains 'b' and not tags contains 'c'",
            "messages.0.content contains 'ell'",
            "length(messages) = 1 and length(lang) <= 2",
            "none is null and missing is null and lang is not null",
            "good = true AND good <> FALSE",
            "\"my column\" == 1",
            "big > 9007199254740992",
            "(lang = 'de' or score != 3) and 1e0 <= score",
        ] {
            assert_eq!(keeps(filter), Ok(true), "{filter}");
        }
        for filter in ["score > 5", "lang = 'EN'", "lang = 'en''s'", "messages.3.role = 'user'", "tags contains 1"] {
            assert_eq!(keeps(filter), Ok(false), "{filter}");
        }
    }

    /// Neither a comparison with null nor its negation is true, as in SQL.
    #[test]
    fn null_decides_nothing() {
        for filter in ["none = 1", "not none = 1", "none in (1)", "not none contains 'a'", "none = 1 and lang = 'en'"] {
            assert_eq!(keeps(filter), Ok(false), "{filter}");
        }
        assert_eq!(keeps("none = 1 or lang = 'en'"), Ok(true));
    }

    #[test]
    fn what_cannot_be_compared_is_a_problem_of_the_row() {
        assert_eq!(keeps("lang > 3"), Err("`lang` must be a number, found the text `en`".to_owned()));
        assert_eq!(keeps("tags = 'a'"), Err("`tags` must be a number, text or true or false, found a list".to_owned()));
        assert_eq!(keeps("good > true"), Err("`good` must be a number or text, found a boolean".to_owned()));
        assert_eq!(
            keeps("score = true"),
            Err("`score` must be of the kind that it is compared with, found a number and a boolean".to_owned())
        );
    }

    #[test]
    fn the_error_says_where_and_what() {
        let reason = |filter: &str| keeps(filter).unwrap_err().split_once("`: ").unwrap().1.to_owned();
        assert_eq!(
            reason("score"),
            "expected a comparison such as `=`, `<`, `in`, `contains` or `is null` at character 6, found the end"
        );
        assert_eq!(reason("score > "), "expected a column at character 9, found the end");
        assert_eq!(reason("a = 'x"), "the quote at character 5 is not closed");
        assert_eq!(reason("a = 1 b"), "expected `and`, `or` or the end at character 7, found `b`");
        assert_eq!(reason("a ~ 1"), "`~` at character 3 is not understood");
        assert_eq!(reason("a = 1x"), "`1x` at character 5 is no number");
        assert_eq!(
            reason("a in (b)"),
            "expected a number, a text in single quotes, `true` or `false` at character 7, found `b`"
        );
        assert!(reason(&format!("{}a = 1", "(".repeat(1000))).contains("nested more than 64 deep"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z0-9 ()'\"<>=!,.&-]{0,40}|\\PC{0,20}") {
            let _ = text.parse::<Filter>().map(|filter| filter.keeps(&row()));
        }
    }
}
