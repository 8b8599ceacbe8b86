//! Rows to a Parquet file.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
};

use polars_arrow::{
    array::{Array, BooleanArray, ListArray, PrimitiveArray, StructArray, Utf8Array},
    bitmap::Bitmap,
    datatypes::{ArrowDataType, ArrowSchema, Field},
    offset::Offsets,
    record_batch::RecordBatchT,
};
use polars_error::{PolarsError, PolarsResult};
use polars_parquet::write::{
    CompressionOptions, FileWriter, StatisticsOptions, Version, WriteOptions, get_dtype_encoding, row_group_iter,
};
use serde_json::Value;

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

    fn data_type(&self) -> ArrowDataType {
        match self {
            Self::Bool => ArrowDataType::Boolean,
            Self::Integer => ArrowDataType::Int64,
            Self::Number => ArrowDataType::Float64,
            Self::Unknown | Self::Text | Self::Json => ArrowDataType::LargeUtf8,
            Self::List(kind) => ArrowDataType::LargeList(Box::new(kind.field("item"))),
            // Parquet has no objects without fields.
            Self::Fields(fields) if fields.is_empty() => ArrowDataType::LargeUtf8,
            Self::Fields(fields) => ArrowDataType::Struct(fields.iter().map(|(name, kind)| kind.field(name)).collect()),
        }
    }

    fn field(&self, name: &str) -> Field {
        Field::new(name.into(), self.data_type(), true)
    }

    /// Values of this kind, or nulls.
    fn array(&self, mut values: Vec<Value>) -> PolarsResult<Box<dyn Array>> {
        let present = |values: &[Value]| Some(values.iter().map(|value| !value.is_null()).collect::<Bitmap>());
        Ok(match self {
            Self::Bool => BooleanArray::from_iter(values.iter().map(Value::as_bool)).boxed(),
            Self::Integer => PrimitiveArray::from_iter(values.iter().map(Value::as_i64)).boxed(),
            Self::Number => PrimitiveArray::from_iter(values.iter().map(Value::as_f64)).boxed(),
            Self::Text => Utf8Array::<i64>::from_iter(values.iter().map(Value::as_str)).boxed(),
            Self::List(kind) => {
                let validity = present(&values);
                let lists = values.into_iter().map(|value| match value {
                    Value::Array(items) => items,
                    _ => Vec::new(),
                });
                let lists: Vec<Vec<Value>> = lists.collect();
                let offsets = Offsets::<i64>::try_from_lengths(lists.iter().map(Vec::len))?;
                let items = kind.array(lists.into_iter().flatten().collect())?;
                ListArray::try_new(self.data_type(), offsets.into(), items, validity)?.boxed()
            }
            Self::Fields(fields) if !fields.is_empty() => {
                let (length, validity) = (values.len(), present(&values));
                let columns = fields.iter().map(|(name, kind)| {
                    kind.array(values.iter_mut().map(|value| take(value.as_object_mut(), name)).collect())
                });
                StructArray::try_new(self.data_type(), length, columns.collect::<PolarsResult<_>>()?, validity)?.boxed()
            }
            Self::Unknown | Self::Json | Self::Fields(_) => {
                let texts = values.iter().map(|value| (!value.is_null()).then(|| value.to_string()));
                Utf8Array::<i64>::from_iter(texts).boxed()
            }
        })
    }
}

/// The value under a name, or null.
fn take(object: Option<&mut Row>, name: &str) -> Value {
    object.and_then(|object| object.get_mut(name)).map(Value::take).unwrap_or_default()
}

/// A Parquet file that grows by groups of rows.
pub(super) struct ParquetFile<'a> {
    path: &'a Path,
    columns: Vec<(String, Kind)>,
    writer: FileWriter<BufWriter<File>>,
    /// The values of each column that aren't written yet.
    group: Vec<Vec<Value>>,
    rows: usize,
}

impl<'a> ParquetFile<'a> {
    pub(super) fn create(path: &'a Path, schema: TableSchema) -> Result<Self, DataError> {
        let file = File::create(path).map_err(|source| DataError::Write { path: path.to_owned(), source })?;
        let fields: ArrowSchema = schema.columns.iter().map(|(name, kind)| kind.field(name)).collect();
        let options = WriteOptions {
            statistics: StatisticsOptions::default(),
            version: Version::V1,
            compression: CompressionOptions::Zstd(None),
            data_page_size: None,
        };
        let writer = FileWriter::try_new(BufWriter::new(file), fields, options).map_err(failed(path))?;
        let group = vec![Vec::new(); schema.columns.len()];
        Ok(Self { path, columns: schema.columns, writer, group, rows: 0 })
    }

    pub(super) fn push(&mut self, mut row: Row) -> Result<(), DataError> {
        for ((name, _), values) in self.columns.iter().zip(&mut self.group) {
            values.push(take(Some(&mut row), name));
        }
        self.rows += 1;
        if self.rows < GROUP_ROWS { Ok(()) } else { self.write_group().map_err(failed(self.path)) }
    }

    fn write_group(&mut self) -> PolarsResult<()> {
        let rows = std::mem::take(&mut self.rows);
        if rows == 0 {
            return Ok(());
        }
        let columns = self.columns.iter().zip(&mut self.group);
        let columns = columns.map(|((_, kind), values)| kind.array(std::mem::take(values)));
        let columns = columns.collect::<PolarsResult<Vec<_>>>()?;
        let encodings = columns.iter().map(|column| get_dtype_encoding(column.dtype())).collect();
        let batch = RecordBatchT::try_new(rows, Arc::new(self.writer.schema().clone()), columns)?;
        let types = self.writer.parquet_schema().fields().to_vec();
        let group = row_group_iter(batch, encodings, types, self.writer.options());
        self.writer.write(rows as u64, group)
    }

    pub(super) fn finish(mut self) -> Result<(), DataError> {
        let ended = self.write_group().and_then(|()| self.writer.end(None));
        ended.map_err(failed(self.path))?;
        self.writer.into_inner().flush().map_err(|source| DataError::Write { path: self.path.to_owned(), source })
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
