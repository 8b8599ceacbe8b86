//! `--filter`: which rows are kept, as a small expression with SQL's words.
//!
//! ```text
//! expression  = conjunction { "or" conjunction }
//! conjunction = negation { "and" negation }
//! negation    = "not" negation | "(" expression ")" | comparison
//! comparison  = operand ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) operand
//!             | operand [ "not" ] "in" "(" literal { "," literal } ")"
//!             | operand [ "not" ] "contains" literal
//!             | operand "is" [ "not" ] "null"
//! operand     = column | "length" "(" column ")" | literal
//! column      = name { "." name }      names with other characters in double quotes; a number picks from a list
//! literal     = number | 'text' | true | false
//! ```
//!
//! A column that a row lacks is null. A comparison with null is neither true nor false, as in SQL, and a row is kept
//! where the whole is true. Text is compared with a number as the number that it spells, since CSV has nothing but text.
//! It is no SQL of Polars: rows are JSON of any shape, and the engine behind that is larger than all of this crate.

mod parse; // text to a tree
mod evaluate; // a tree and a row to true, false or neither

use std::str::FromStr;

use serde_json::Value;

use crate::{DataError, Row, RowProblem};

/// A condition on rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter {
    root: Expression,
}

#[derive(Debug, Clone, PartialEq)]
enum Expression {
    Or(Vec<Expression>),
    And(Vec<Expression>),
    Not(Box<Expression>),
    Compare { left: Operand, operator: Operator, right: Operand },
    In { operand: Operand, values: Vec<Value> },
    Contains { operand: Operand, value: Value },
    IsNull(Operand),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Column(Path),
    /// Characters of text, items of a list, keys of an object.
    Length(Path),
    Literal(Value),
}

/// A column, and the way on into its value.
#[derive(Debug, Clone, PartialEq)]
struct Path(Vec<String>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Filter {
    /// Whether the row is kept.
    ///
    /// # Errors
    /// If values can't be compared.
    pub(crate) fn keeps(&self, row: &Row) -> Result<bool, RowProblem> {
        Ok(self.root.evaluate(row)? == Some(true))
    }

    /// The columns that the expression names.
    pub(crate) fn columns(&self) -> Vec<&str> {
        let mut columns = Vec::new();
        self.root.columns(&mut columns);
        columns
    }
}

impl FromStr for Filter {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        parse::parse(text).map(|root| Self { root }).map_err(|reason| DataError::Setting {
            setting: "filter",
            value: text.to_owned(),
            reason,
        })
    }
}

impl Expression {
    fn columns<'a>(&'a self, columns: &mut Vec<&'a str>) {
        let mut add = |operand: &'a Operand| {
            if let Operand::Column(path) | Operand::Length(path) = operand {
                columns.push(&path.0[0]);
            }
        };
        match self {
            Self::Or(parts) | Self::And(parts) => parts.iter().for_each(|part| part.columns(columns)),
            Self::Not(part) => part.columns(columns),
            Self::Compare { left, right, .. } => {
                add(left);
                add(right);
            }
            Self::In { operand, .. } | Self::Contains { operand, .. } | Self::IsNull(operand) => add(operand),
        }
    }
}
