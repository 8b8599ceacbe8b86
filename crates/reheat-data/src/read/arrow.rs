//! What Parquet and IPC share: cells of Arrow arrays as JSON values.

use std::{ops::Range, sync::Arc};

use polars_arrow::{
    array::{
        Array, BinaryArray, BinaryViewArray, BooleanArray, DictionaryArray, DictionaryKey, FixedSizeListArray,
        ListArray, MapArray, PrimitiveArray, StructArray, Utf8Array, Utf8ViewArray, get_value_display,
    },
    datatypes::{ArrowDataType, ArrowSchema, Field, IntegerType, PhysicalType},
    offset::Offset,
    types::{NativeType, PrimitiveType},
};
use serde_json::Value;

use super::{KeepColumn, MAX_ROW_BYTES};
use crate::{Row, RowProblem};

/// How deep types may be nested; a file that says more is damaged or means harm.
const MAX_DEPTH: usize = 64;

/// Rows that were decoded together. Each becomes JSON when it is [parsed](super::RawRow::parse), by many threads.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) names: Arc<[String]>,
    pub(super) columns: Vec<Box<dyn Array>>,
    /// There may be rows of which no column is kept.
    pub(super) num_rows: usize,
}

impl Batch {
    /// Bytes of a row's text, and eight for each value that isn't text.
    pub(super) fn row_bytes(&self, index: usize) -> usize {
        self.columns.iter().map(|column| bytes_of(column.as_ref(), index)).fold(0, usize::saturating_add)
    }

    /// A row as JSON.
    ///
    /// Keys of structs that are null are left out: Arrow gives every struct the keys of all of them, and the files don't
    /// say which nulls were written by a person. TRL does the same (`remove_none_values`).
    pub(super) fn row(&self, index: usize) -> Result<Row, RowProblem> {
        // A page of a few bytes can say that a text of a megabyte comes a million times.
        if self.row_bytes(index) as u64 > MAX_ROW_BYTES {
            return Err(RowProblem::TooLarge { limit: MAX_ROW_BYTES });
        }
        let mut row = Row::with_capacity(self.names.len());
        for (name, column) in self.names.iter().zip(&self.columns) {
            let value = cell(column.as_ref(), index).map_err(|wrong| wrong.problem(name))?;
            if !value.is_null() {
                row.insert(name.clone(), value);
            }
        }
        Ok(row)
    }
}

/// The columns that are kept, in the order of the file.
///
/// # Errors
/// If one of them has a type without a counterpart in JSON.
pub(super) fn kept(schema: &ArrowSchema, keep: KeepColumn) -> Result<Vec<Field>, String> {
    let fields: Vec<Field> = schema.iter_values().filter(|field| keep(&field.name)).cloned().collect();
    for field in &fields {
        check_type(&field.dtype, 0).map_err(|reason| format!("column `{}` {reason}", field.name))?;
    }
    Ok(fields)
}

pub(super) fn names(fields: &[Field]) -> Arc<[String]> {
    fields.iter().map(|field| field.name.to_string()).collect()
}

fn check_type(dtype: &ArrowDataType, depth: usize) -> Result<(), String> {
    use ArrowDataType as D;
    if depth > MAX_DEPTH {
        return Err(format!("is nested more than {MAX_DEPTH} deep"));
    }
    match dtype {
        D::List(field) | D::LargeList(field) | D::FixedSizeList(field, _) | D::Map(field, _) => {
            check_type(&field.dtype, depth + 1)
        }
        D::Struct(fields) => fields.iter().try_for_each(|field| check_type(&field.dtype, depth + 1)),
        D::Dictionary(IntegerType::Int128 | IntegerType::UInt128, ..) => {
            Err("has a dictionary with 128-bit keys".to_owned())
        }
        D::Dictionary(_, values, _) => check_type(values, depth + 1),
        D::Extension(extension) => check_type(&extension.inner, depth + 1),
        other if is_shown_as_text(other) => Ok(()),
        other => match other.to_physical_type() {
            PhysicalType::FixedSizeBinary | PhysicalType::Union => {
                Err(format!("has the type {other:?}, which is not text"))
            }
            _ => Ok(()),
        },
    }
}

/// Why a cell is no JSON value.
enum Wrong {
    /// The array is not what its type says.
    Damaged,
    NotText,
}

impl Wrong {
    fn problem(self, column: &str) -> RowProblem {
        match self {
            Self::Damaged => RowProblem::Undecodable { reason: format!("`{column}` is not what the schema says") },
            Self::NotText => RowProblem::WrongType {
                field: column.to_owned(),
                expected: "text",
                found: "bytes that are not UTF-8".to_owned(),
            },
        }
    }
}

/// Bytes of a cell, without making it.
fn bytes_of(array: &dyn Array, index: usize) -> usize {
    const OTHER: usize = 8;
    fn of<A: 'static>(array: &dyn Array, bytes: impl Fn(&A) -> usize) -> usize {
        array.as_any().downcast_ref::<A>().map_or(OTHER, bytes)
    }
    let of_items = |items: &dyn Array, range: Range<usize>| match items.dtype().to_physical_type() {
        PhysicalType::Primitive(_) | PhysicalType::Boolean | PhysicalType::Null => OTHER + OTHER * range.len(),
        _ => range.map(|index| bytes_of(items, index)).fold(OTHER, usize::saturating_add),
    };
    fn of_key<K: DictionaryKey>(array: &dyn Array, index: usize) -> usize {
        of::<DictionaryArray<K>>(array, |array| bytes_of(array.values().as_ref(), array.key_value(index)))
    }
    if index >= array.len() || array.is_null(index) {
        return OTHER;
    }
    match array.dtype().to_physical_type() {
        PhysicalType::Utf8 => of::<Utf8Array<i32>>(array, |array| array.value(index).len()),
        PhysicalType::LargeUtf8 => of::<Utf8Array<i64>>(array, |array| array.value(index).len()),
        PhysicalType::Utf8View => of::<Utf8ViewArray>(array, |array| array.value(index).len()),
        PhysicalType::Binary => of::<BinaryArray<i32>>(array, |array| array.value(index).len()),
        PhysicalType::LargeBinary => of::<BinaryArray<i64>>(array, |array| array.value(index).len()),
        PhysicalType::BinaryView => of::<BinaryViewArray>(array, |array| array.value(index).len()),
        PhysicalType::List => of::<ListArray<i32>>(array, |array| {
            let (start, end) = array.offsets().start_end(index);
            of_items(array.values().as_ref(), start..end)
        }),
        PhysicalType::LargeList => of::<ListArray<i64>>(array, |array| {
            let (start, end) = array.offsets().start_end(index);
            of_items(array.values().as_ref(), start..end)
        }),
        PhysicalType::FixedSizeList => of::<FixedSizeListArray>(array, |array| {
            of_items(array.values().as_ref(), index * array.size()..(index + 1) * array.size())
        }),
        PhysicalType::Map => of::<MapArray>(array, |array| {
            let (start, end) = array.offsets().start_end(index);
            of_items(array.field().as_ref(), start..end)
        }),
        PhysicalType::Struct => of::<StructArray>(array, |array| {
            let fields = array.fields().iter().zip(array.values());
            fields
                .map(|(field, values)| field.name.len() + bytes_of(values.as_ref(), index))
                .fold(OTHER, usize::saturating_add)
        }),
        PhysicalType::Dictionary(kind) => match kind {
            IntegerType::Int8 => of_key::<i8>(array, index),
            IntegerType::Int16 => of_key::<i16>(array, index),
            IntegerType::Int32 => of_key::<i32>(array, index),
            IntegerType::Int64 => of_key::<i64>(array, index),
            IntegerType::UInt8 => of_key::<u8>(array, index),
            IntegerType::UInt16 => of_key::<u16>(array, index),
            IntegerType::UInt32 => of_key::<u32>(array, index),
            IntegerType::UInt64 => of_key::<u64>(array, index),
            IntegerType::Int128 | IntegerType::UInt128 => OTHER,
        },
        _ => OTHER,
    }
}

fn cell(array: &dyn Array, index: usize) -> Result<Value, Wrong> {
    use PhysicalType as P;
    if index >= array.len() {
        return Err(Wrong::Damaged);
    }
    if array.is_null(index) {
        return Ok(Value::Null);
    }
    // Dates and decimals are integers underneath; only their display knows what they mean.
    if is_shown_as_text(array.dtype()) {
        let mut text = String::new();
        let shown = get_value_display(array, "null")(&mut text, index);
        return if shown.is_ok() { Ok(Value::String(text)) } else { Err(Wrong::Damaged) };
    }
    match array.dtype().to_physical_type() {
        P::Null => Ok(Value::Null),
        P::Boolean => Ok(Value::Bool(down::<BooleanArray>(array)?.value(index))),
        P::Primitive(kind) => number(array, kind, index),
        P::Utf8 => text(down::<Utf8Array<i32>>(array)?.value(index)),
        P::LargeUtf8 => text(down::<Utf8Array<i64>>(array)?.value(index)),
        P::Utf8View => text(down::<Utf8ViewArray>(array)?.value(index)),
        P::Binary => bytes(down::<BinaryArray<i32>>(array)?.value(index)),
        P::LargeBinary => bytes(down::<BinaryArray<i64>>(array)?.value(index)),
        P::BinaryView => bytes(down::<BinaryViewArray>(array)?.value(index)),
        P::List => list(down::<ListArray<i32>>(array)?, index),
        P::LargeList => list(down::<ListArray<i64>>(array)?, index),
        P::FixedSizeList => {
            let array = down::<FixedSizeListArray>(array)?;
            let size = array.size();
            items(array.values().as_ref(), index * size..(index + 1) * size)
        }
        P::Map => {
            let array = down::<MapArray>(array)?;
            let (start, end) = array.offsets().start_end(index);
            items(array.field().as_ref(), start..end)
        }
        P::Struct => object(down::<StructArray>(array)?, index),
        P::Dictionary(kind) => dictionary(array, kind, index),
        P::FixedSizeBinary | P::Union => Err(Wrong::Damaged),
    }
}

fn down<A: 'static>(array: &dyn Array) -> Result<&A, Wrong> {
    array.as_any().downcast_ref::<A>().ok_or(Wrong::Damaged)
}

fn text(text: &str) -> Result<Value, Wrong> {
    Ok(Value::String(text.to_owned()))
}

/// Python's writers store text as bytes now and then; bytes that aren't text have no place in a conversation.
fn bytes(bytes: &[u8]) -> Result<Value, Wrong> {
    text(std::str::from_utf8(bytes).map_err(|_| Wrong::NotText)?)
}

fn number(array: &dyn Array, kind: PrimitiveType, index: usize) -> Result<Value, Wrong> {
    fn of<T: NativeType + Into<Value>>(array: &dyn Array, index: usize) -> Result<Value, Wrong> {
        Ok(down::<PrimitiveArray<T>>(array)?.value(index).into())
    }
    match kind {
        PrimitiveType::Int8 => of::<i8>(array, index),
        PrimitiveType::Int16 => of::<i16>(array, index),
        PrimitiveType::Int32 => of::<i32>(array, index),
        PrimitiveType::Int64 => of::<i64>(array, index),
        PrimitiveType::UInt8 => of::<u8>(array, index),
        PrimitiveType::UInt16 => of::<u16>(array, index),
        PrimitiveType::UInt32 => of::<u32>(array, index),
        PrimitiveType::UInt64 => of::<u64>(array, index),
        PrimitiveType::Float32 => of::<f32>(array, index),
        PrimitiveType::Float64 => of::<f64>(array, index),
        _ => {
            let mut text = String::new();
            let shown = get_value_display(array, "null")(&mut text, index);
            if shown.is_ok() { Ok(Value::String(text)) } else { Err(Wrong::Damaged) }
        }
    }
}

fn is_shown_as_text(kind: &ArrowDataType) -> bool {
    use ArrowDataType as D;
    matches!(
        kind,
        D::Timestamp(..)
            | D::Date32
            | D::Date64
            | D::Time32(_)
            | D::Time64(_)
            | D::Duration(_)
            | D::Interval(_)
            | D::Decimal(..)
            | D::Decimal32(..)
            | D::Decimal64(..)
            | D::Decimal256(..)
    )
}

fn list<O: Offset>(array: &ListArray<O>, index: usize) -> Result<Value, Wrong> {
    let (start, end) = array.offsets().start_end(index);
    items(array.values().as_ref(), start..end)
}

fn items(values: &dyn Array, range: Range<usize>) -> Result<Value, Wrong> {
    range.map(|index| cell(values, index)).collect::<Result<_, _>>().map(Value::Array)
}

fn object(array: &StructArray, index: usize) -> Result<Value, Wrong> {
    let mut object = Row::with_capacity(array.fields().len());
    for (field, values) in array.fields().iter().zip(array.values()) {
        let value = cell(values.as_ref(), index)?;
        if !value.is_null() {
            object.insert(field.name.to_string(), value);
        }
    }
    Ok(Value::Object(object))
}

fn dictionary(array: &dyn Array, kind: IntegerType, index: usize) -> Result<Value, Wrong> {
    fn of<K: DictionaryKey>(array: &dyn Array, index: usize) -> Result<Value, Wrong> {
        let array = down::<DictionaryArray<K>>(array)?;
        cell(array.values().as_ref(), array.key_value(index))
    }
    match kind {
        IntegerType::Int8 => of::<i8>(array, index),
        IntegerType::Int16 => of::<i16>(array, index),
        IntegerType::Int32 => of::<i32>(array, index),
        IntegerType::Int64 => of::<i64>(array, index),
        IntegerType::UInt8 => of::<u8>(array, index),
        IntegerType::UInt16 => of::<u16>(array, index),
        IntegerType::UInt32 => of::<u32>(array, index),
        IntegerType::UInt64 => of::<u64>(array, index),
        IntegerType::Int128 | IntegerType::UInt128 => Err(Wrong::Damaged),
    }
}
