//! What is done to each row: columns renamed and dropped.

use std::collections::BTreeMap;

use super::{filter::Filter, spec::DatasetSpec};
use crate::{DataError, Row, RowId, RowProblem};

/// Changes of a dataset's rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Operations {
    rename: BTreeMap<String, String>,
    pub(super) filter: Option<Filter>,
    columns: Option<Vec<String>>,
}

impl Operations {
    pub(super) fn of(spec: &DatasetSpec) -> Result<Self, DataError> {
        let wrong = |old: &str, new: &str, reason: String| DataError::Setting {
            setting: "rename",
            value: format!("{old}={new}"),
            reason,
        };
        let mut targets = Vec::new();
        for (old, new) in &spec.rename {
            if new.is_empty() {
                return Err(wrong(old, new, "a column needs a name".to_owned()));
            }
            if targets.contains(&new) {
                return Err(wrong(old, new, format!("two columns would be called `{new}`")));
            }
            targets.push(new);
        }
        Ok(Self {
            rename: spec.rename.clone(),
            filter: spec.filter.as_deref().map(str::parse).transpose()?,
            columns: spec.columns.clone(),
        })
    }

    pub(super) fn name_columns(&self) -> bool {
        !self.rename.is_empty() || self.filter.is_some() || self.columns.is_some()
    }

    /// Whether a column of the files has to be read: it is kept, judged by or renamed.
    pub(super) fn reads(&self, column: &str) -> bool {
        let Some(columns) = &self.columns else { return true };
        if self.rename.contains_key(column) || self.rename.values().any(|new| new == column) {
            return true;
        }
        columns.iter().any(|kept| kept == column)
            || self.filter.iter().flat_map(Filter::columns).any(|judged| judged == column)
    }

    /// Whether rows stay as they are, but for the filter.
    pub(super) fn keep_rows(&self) -> bool {
        self.rename.is_empty() && self.columns.is_none()
    }

    /// The row under its new names, in the same order.
    fn renamed(&self, row: Row) -> Result<Row, RowProblem> {
        if self.rename.is_empty() {
            return Ok(row);
        }
        let length = row.len();
        let renamed: Row = row
            .into_iter()
            .map(|(column, value)| match self.rename.get(&column) {
                Some(new) => (new.clone(), value),
                None => (column, value),
            })
            .collect();
        if renamed.len() < length {
            let column = self.rename.values().find(|new| renamed.contains_key(*new)).cloned().unwrap_or_default();
            return Err(RowProblem::ColumnTwice { column });
        }
        Ok(renamed)
    }

    /// The columns that are kept, in the order of the file.
    fn reduced(&self, mut row: Row) -> Row {
        if let Some(columns) = &self.columns {
            row.retain(|column, _| columns.iter().any(|kept| kept == column));
        }
        row
    }

    /// The row as it is passed on, or `None` where the filter leaves it out.
    pub(crate) fn judged(&self, row: Row) -> Result<Option<Row>, RowProblem> {
        let row = self.renamed(row)?;
        let keeps = match &self.filter {
            Some(filter) => filter.keeps(&row)?,
            None => true,
        };
        Ok(keeps.then(|| self.reduced(row)))
    }

    pub(crate) fn apply(&self, row: Row) -> Result<Row, RowProblem> {
        Ok(self.reduced(self.renamed(row)?))
    }

    /// Refuses names that none of the first rows has: a slip of the pen would empty every row, or drop all of them.
    pub(super) fn check(&self, first_rows: &[(RowId, Row)]) -> Result<(), DataError> {
        let Some((id, _)) = first_rows.first() else { return Ok(()) };
        let has = |column: &str| first_rows.iter().any(|(_, row)| row.contains_key(column));
        let has_renamed = |column: &str| {
            self.rename.values().any(|new| new == column) || (has(column) && !self.rename.contains_key(column))
        };
        let missing = |column: &str, purpose: &'static str, available: String| DataError::UnknownColumn {
            row: id.clone(),
            column: column.to_owned(),
            purpose,
            available,
        };
        for (old, new) in &self.rename {
            if !has(old) {
                return Err(missing(old, "rename", columns_of(first_rows, &BTreeMap::new())));
            }
            if has(new) && !self.rename.contains_key(new) {
                return Err(DataError::Setting {
                    setting: "rename",
                    value: format!("{old}={new}"),
                    reason: format!("there is a column `{new}` already"),
                });
            }
        }
        for column in self.filter.iter().flat_map(Filter::columns) {
            if !has_renamed(column) {
                return Err(missing(column, "filter by", columns_of(first_rows, &self.rename)));
            }
        }
        for column in self.columns.iter().flatten() {
            if !has_renamed(column) {
                return Err(missing(column, "keep", columns_of(first_rows, &self.rename)));
            }
        }
        Ok(())
    }
}

/// The columns of the rows under their new names.
fn columns_of(rows: &[(RowId, Row)], rename: &BTreeMap<String, String>) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for column in rows.iter().flat_map(|(_, row)| row.keys()) {
        let column = rename.get(column).unwrap_or(column);
        if !columns.contains(&column.as_str()) {
            columns.push(column);
        }
    }
    columns.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn operations(rename: &[(&str, &str)], filter: Option<&str>, columns: Option<&[&str]>) -> Operations {
        let owned = |text: &str| text.to_owned();
        let spec = DatasetSpec {
            rename: rename.iter().map(|(old, new)| (owned(old), owned(new))).collect(),
            filter: filter.map(owned),
            columns: columns.map(|columns| columns.iter().map(|column| owned(column)).collect()),
            ..DatasetSpec::default()
        };
        Operations::of(&spec).unwrap()
    }

    fn row(value: Value) -> Row {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn columns_are_renamed_in_place_and_dropped() {
        let swap = operations(&[("a", "b"), ("b", "a")], None, Some(&["a", "b"]));
        let changed = swap.apply(row(json!({"a": 1, "x": 0, "b": 2}))).unwrap();
        assert_eq!(serde_json::to_string(&changed).unwrap(), r#"{"b":1,"a":2}"#);
        let problem = operations(&[("a", "b")], None, None).apply(row(json!({"a": 1, "b": 2}))).unwrap_err();
        assert_eq!(problem.to_string(), "two columns would be called `b`");
    }

    #[test]
    fn a_name_that_no_row_has_is_an_error() {
        let file: Arc<str> = "f.jsonl".into();
        let rows = [(RowId::line(&file, 1), row(json!({"a": 1}))), (RowId::line(&file, 2), row(json!({"b": 1})))];
        let error = |operations: Operations| operations.check(&rows).map_err(|error| error.to_string());
        assert_eq!(error(operations(&[("a", "c")], Some("c = 1 or b = 1"), Some(&["c"]))), Ok(()));
        assert_eq!(
            error(operations(&[("z", "c")], None, None)),
            Err("f.jsonl:1: there is no column `z` to rename, only `a`, `b`".to_owned())
        );
        assert_eq!(
            error(operations(&[("a", "c")], Some("a = 1"), None)),
            Err("f.jsonl:1: there is no column `a` to filter by, only `c`, `b`".to_owned())
        );
        assert_eq!(
            error(operations(&[("a", "b")], None, None)),
            Err("rename `a=b`: there is a column `b` already".to_owned())
        );
    }
}
