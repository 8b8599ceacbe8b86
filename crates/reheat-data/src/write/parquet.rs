//! Rows to a Parquet file.

use std::{fs::File, path::Path};

use polars::{io::parquet::write::BatchedWriter, prelude::*};
use serde_json::{Map, Value};

use crate::{DataError, Row};

/// Rows that are written together.
const GROUP_ROWS: usize = 4096;

/// Columns that are JSON text whatever they hold, as TRL reads them: their objects differ from row to row.
const JSON_COLUMNS: [&str; 1] = ["tools"];

/// What the values of a column, a list or a field are.
#[derive(Debug, Clone, PartialEq, Default)]
enum Kind {
    /// Only nulls were met.
    #[default]
    Unknown,
    Bool,
    Integer,
    Number,
    Text,
    List(Box<Kind>),
    /// Objects with these fields, in the order in which they were met.
    Fields(Vec<(String, Kind)>),
    /// Values that differ, or are nested too deep: JSON text.
    Json,
}

/// Columns of all rows.
#[derive(Debug, Default)]
pub(super) struct TableSchema {
    columns: Vec<(String, Kind)>,
}

impl TableSchema {
    /// Widens the columns so that they hold a row.
    pub(super) fn look(&mut self, row: &Row) {
        for (name, value) in row {
            // A column of messages has objects two levels down; what those hold besides text is JSON text.
            let kind = if JSON_COLUMNS.contains(&name.as_str()) { Kind::Json } else { Kind::of(value, 2) };
            match self.columns.iter_mut().find(|(column, _)| column == name) {
                Some((_, known)) => *known = std::mem::take(known).joined(kind),
                None => self.columns.push((name.clone(), kind)),
            }
        }
    }
}

impl Kind {
    /// The kind of a value. Objects keep their fields where there are `depth` levels left for lists and objects.
    fn of(value: &Value, depth: usize) -> Self {
        match value {
            Value::Null => Self::Unknown,
            Value::Bool(_) => Self::Bool,
            Value::Number(number) if number.is_i64() => Self::Integer,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::Text,
            Value::Array(_) | Value::Object(_) if depth == 0 => Self::Json,
            Value::Array(items) => {
                let kinds = items.iter().map(|item| Self::of(item, depth - 1));
                match kinds.reduce(Self::joined).unwrap_or_default() {
                    Self::Json => Self::Json,
                    kind => Self::List(Box::new(kind)),
                }
            }
            // Objects at the top are arguments and the like, whose keys differ from row to row.
            Value::Object(_) if depth == 2 => Self::Json,
            Value::Object(fields) => {
                Self::Fields(fields.iter().map(|(name, value)| (name.clone(), Self::of(value, depth - 1))).collect())
            }
        }
    }

    /// The kind that holds the values of both.
    fn joined(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, kind) | (kind, Self::Unknown) => kind,
            (left, right) if left == right => left,
            (Self::Integer, Self::Number) | (Self::Number, Self::Integer) => Self::Number,
            (Self::List(left), Self::List(right)) => match left.joined(*right) {
                Self::Json => Self::Json,
                kind => Self::List(Box::new(kind)),
            },
            (Self::Fields(mut left), Self::Fields(right)) => {
                for (name, kind) in right {
                    match left.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => *known = std::mem::take(known).joined(kind),
                        None => left.push((name, kind)),
                    }
                }
                Self::Fields(left)
            }
            _ => Self::Json,
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Unknown | Self::Text | Self::Json => DataType::String,
            Self::List(kind) => DataType::List(Box::new(kind.data_type())),
            // Parquet has no objects without fields.
            Self::Fields(fields) if fields.is_empty() => DataType::String,
            Self::Fields(fields) => DataType::Struct(field_types(fields)),
        }
    }

    fn any_value(&self, value: Value) -> PolarsResult<AnyValue<'static>> {
        Ok(match (self, value) {
            (_, Value::Null) => AnyValue::Null,
            (Self::Bool, Value::Bool(value)) => AnyValue::Boolean(value),
            (Self::Integer, Value::Number(number)) => number.as_i64().map_or(AnyValue::Null, AnyValue::Int64),
            (Self::Number, Value::Number(number)) => number.as_f64().map_or(AnyValue::Null, AnyValue::Float64),
            (Self::Text, Value::String(text)) => AnyValue::StringOwned(text.into()),
            (Self::List(kind), Value::Array(items)) => AnyValue::List(kind.series("item", items)?),
            (Self::Fields(fields), Value::Object(mut object)) if !fields.is_empty() => {
                let values = fields.iter().map(|(name, kind)| kind.any_value(take(&mut object, name)));
                AnyValue::StructOwned(Box::new((values.collect::<PolarsResult<_>>()?, field_types(fields))))
            }
            (_, value) => AnyValue::StringOwned(value.to_string().into()),
        })
    }

    fn series(&self, name: &str, values: Vec<Value>) -> PolarsResult<Series> {
        let values = values.into_iter().map(|value| self.any_value(value)).collect::<PolarsResult<Vec<_>>>()?;
        Series::from_any_values_and_dtype(name.into(), &values, &self.data_type(), true)
    }
}

fn field_types(fields: &[(String, Kind)]) -> Vec<Field> {
    fields.iter().map(|(name, kind)| Field::new(name.as_str().into(), kind.data_type())).collect()
}

fn take(object: &mut Map<String, Value>, name: &str) -> Value {
    object.get_mut(name).map(Value::take).unwrap_or_default()
}

/// A Parquet file that grows by groups of rows.
pub(super) struct ParquetFile<'a> {
    path: &'a Path,
    columns: Vec<(String, Kind)>,
    writer: BatchedWriter<File>,
    /// The values of each column that aren't written yet.
    group: Vec<Vec<Value>>,
    rows: usize,
}

impl<'a> ParquetFile<'a> {
    pub(super) fn create(path: &'a Path, schema: TableSchema) -> Result<Self, DataError> {
        let file = File::create(path).map_err(|source| DataError::Write { path: path.to_owned(), source })?;
        let fields = schema.columns.iter().map(|(name, kind)| Field::new(name.as_str().into(), kind.data_type()));
        let writer = ParquetWriter::new(file)
            .with_compression(ParquetCompression::Zstd(None))
            .batched(&Schema::from_iter(fields))
            .map_err(failed(path))?;
        let group = vec![Vec::new(); schema.columns.len()];
        Ok(Self { path, columns: schema.columns, writer, group, rows: 0 })
    }

    pub(super) fn push(&mut self, mut row: Row) -> Result<(), DataError> {
        for ((name, _), values) in self.columns.iter().zip(&mut self.group) {
            values.push(take(&mut row, name));
        }
        self.rows += 1;
        if self.rows < GROUP_ROWS { Ok(()) } else { self.write_group() }
    }

    fn write_group(&mut self) -> Result<(), DataError> {
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(());
        }
        let columns = self.columns.iter().zip(&mut self.group);
        let columns = columns.map(|((name, kind), values)| kind.series(name, std::mem::take(values)).map(Column::from));
        let frame = columns.collect::<PolarsResult<Vec<_>>>().and_then(DataFrame::new_infer_height);
        frame.and_then(|frame| self.writer.write_batch(&frame)).map_err(failed(self.path))
    }

    pub(super) fn finish(mut self) -> Result<(), DataError> {
        self.write_group()?;
        self.writer.finish().map(drop).map_err(failed(self.path))
    }
}

fn failed(path: &Path) -> impl Fn(PolarsError) -> DataError + use<> {
    let path = path.to_owned();
    move |error| {
        let source = match error {
            PolarsError::IO { error, .. } => std::io::Error::new(error.kind(), error.to_string()),
            other => std::io::Error::other(other.to_string()),
        };
        DataError::Write { path: path.clone(), source }
    }
}
