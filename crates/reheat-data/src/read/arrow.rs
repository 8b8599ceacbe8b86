//! What Parquet and IPC share: Arrow arrays to JSON values, and decoders kept from panicking.

use std::panic::{AssertUnwindSafe, catch_unwind};

use polars::prelude::PolarsResult;
use polars_arrow::{
    array::{
        Array, BinaryArray, BinaryViewArray, BooleanArray, DictionaryArray, DictionaryKey, FixedSizeListArray,
        ListArray, MapArray, PrimitiveArray, StructArray, Utf8Array, Utf8ViewArray, get_value_display,
    },
    datatypes::{ArrowDataType, IntegerType, PhysicalType},
    offset::Offset,
    types::{NativeType, PrimitiveType},
};
use serde_json::Value;

use crate::Row;

/// Runs a decoder of Polars, which panics on some damaged files where it should return an error; `panicked` is what
/// that means. Gives the reason on one line.
pub(super) fn guarded<T>(panicked: &str, read: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string().replace('\n', " ")),
        Err(_) => Err(panicked.to_owned()),
    }
}

/// The rows of a record batch.
///
/// Keys of structs that are null are left out: Arrow gives every struct the keys of all of them, and the files don't
/// say which nulls were written by a person. TRL does the same (`remove_none_values`).
///
/// # Errors
/// If a column has a type without a counterpart in JSON.
pub(super) fn rows(names: &[&str], columns: &[Box<dyn Array>]) -> Result<Vec<Row>, String> {
    let length = columns.first().map_or(0, |column| column.len());
    let mut rows: Vec<Row> = (0..length).map(|_| Row::with_capacity(names.len())).collect();
    for (name, column) in names.iter().zip(columns) {
        let cells = values(column.as_ref()).map_err(|reason| format!("column `{name}` {reason}"))?;
        for (row, cell) in rows.iter_mut().zip(cells) {
            if !cell.is_null() {
                row.insert((*name).to_owned(), cell);
            }
        }
    }
    Ok(rows)
}

fn values(array: &dyn Array) -> Result<Vec<Value>, String> {
    use PhysicalType as P;
    // Dates and decimals are integers underneath; only their display knows what they mean.
    if is_shown_as_text(array.dtype()) {
        return Ok(displayed(array));
    }
    Ok(match array.dtype().to_physical_type() {
        P::Null => vec![Value::Null; array.len()],
        P::Boolean => cells(down::<BooleanArray>(array)?.iter(), Value::Bool),
        P::Primitive(kind) => numbers(array, kind)?,
        P::Utf8 => cells(down::<Utf8Array<i32>>(array)?.iter(), text),
        P::LargeUtf8 => cells(down::<Utf8Array<i64>>(array)?.iter(), text),
        P::Utf8View => cells(down::<Utf8ViewArray>(array)?.iter(), text),
        P::Binary => bytes(down::<BinaryArray<i32>>(array)?.iter())?,
        P::LargeBinary => bytes(down::<BinaryArray<i64>>(array)?.iter())?,
        P::BinaryView => bytes(down::<BinaryViewArray>(array)?.iter())?,
        P::List => list(down::<ListArray<i32>>(array)?)?,
        P::LargeList => list(down::<ListArray<i64>>(array)?)?,
        P::FixedSizeList => {
            let array = down::<FixedSizeListArray>(array)?;
            let size = array.size();
            nested(array, array.values().as_ref(), |row| row * size..(row + 1) * size)?
        }
        P::Map => {
            let array = down::<MapArray>(array)?;
            let offsets = array.offsets();
            nested(array, array.field().as_ref(), |row| {
                let (start, end) = offsets.start_end(row);
                start..end
            })?
        }
        P::Struct => structs(down::<StructArray>(array)?)?,
        P::Dictionary(kind) => dictionary(array, kind)?,
        P::FixedSizeBinary | P::Union => return Err(format!("has the type {:?}, which is not text", array.dtype())),
    })
}

fn down<A: 'static>(array: &dyn Array) -> Result<&A, String> {
    array.as_any().downcast_ref::<A>().ok_or_else(|| format!("does not hold what its type {:?} says", array.dtype()))
}

fn cells<T>(cells: impl Iterator<Item = Option<T>>, convert: impl Fn(T) -> Value) -> Vec<Value> {
    cells.map(|cell| cell.map_or(Value::Null, &convert)).collect()
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// Python's writers store text as bytes now and then; bytes that aren't text have no place in a conversation.
fn bytes<'a>(cells: impl Iterator<Item = Option<&'a [u8]>>) -> Result<Vec<Value>, String> {
    cells
        .map(|cell| match cell.map(std::str::from_utf8) {
            None => Ok(Value::Null),
            Some(Ok(cell)) => Ok(text(cell)),
            Some(Err(_)) => Err("holds bytes that are not UTF-8 text".to_owned()),
        })
        .collect()
}

fn numbers(array: &dyn Array, kind: PrimitiveType) -> Result<Vec<Value>, String> {
    fn of<T: NativeType + Into<Value>>(array: &dyn Array) -> Result<Vec<Value>, String> {
        Ok(cells(down::<PrimitiveArray<T>>(array)?.iter(), |&number| number.into()))
    }
    match kind {
        PrimitiveType::Int8 => of::<i8>(array),
        PrimitiveType::Int16 => of::<i16>(array),
        PrimitiveType::Int32 => of::<i32>(array),
        PrimitiveType::Int64 => of::<i64>(array),
        PrimitiveType::UInt8 => of::<u8>(array),
        PrimitiveType::UInt16 => of::<u16>(array),
        PrimitiveType::UInt32 => of::<u32>(array),
        PrimitiveType::UInt64 => of::<u64>(array),
        PrimitiveType::Float32 => of::<f32>(array),
        PrimitiveType::Float64 => of::<f64>(array),
        _ => Ok(displayed(array)),
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

fn displayed(array: &dyn Array) -> Vec<Value> {
    let show = get_value_display(array, "null");
    (0..array.len())
        .map(|row| {
            if array.is_null(row) {
                return Value::Null;
            }
            let mut text = String::new();
            match show(&mut text, row) {
                Ok(()) => Value::String(text),
                Err(_) => Value::Null,
            }
        })
        .collect()
}

fn list<O: Offset>(array: &ListArray<O>) -> Result<Vec<Value>, String> {
    let offsets = array.offsets();
    nested(array, array.values().as_ref(), |row| {
        let (start, end) = offsets.start_end(row);
        start..end
    })
}

fn nested(
    array: &dyn Array,
    items: &dyn Array,
    range: impl Fn(usize) -> std::ops::Range<usize>,
) -> Result<Vec<Value>, String> {
    let length = array.len();
    if length == 0 {
        return Ok(Vec::new());
    }
    // Of a slice of a larger array, only the items that its rows use are converted.
    let (first, last) = (range(0).start, range(length - 1).end);
    let mut items = values(items.sliced(first, last - first).as_ref())?;
    Ok((0..length)
        .map(|row| {
            if array.is_null(row) {
                return Value::Null;
            }
            let range = range(row);
            Value::Array(items[range.start - first..range.end - first].iter_mut().map(Value::take).collect())
        })
        .collect())
}

fn structs(array: &StructArray) -> Result<Vec<Value>, String> {
    let names: Vec<&str> = array.fields().iter().map(|field| field.name.as_str()).collect();
    if names.is_empty() {
        return Ok(vec![Value::Object(Row::new()); array.len()]);
    }
    let rows = rows(&names, array.values())?;
    Ok(rows
        .into_iter()
        .enumerate()
        .map(|(index, row)| if array.is_null(index) { Value::Null } else { Value::Object(row) })
        .collect())
}

fn dictionary(array: &dyn Array, kind: IntegerType) -> Result<Vec<Value>, String> {
    fn of<K: DictionaryKey>(array: &dyn Array) -> Result<Vec<Value>, String> {
        let array = down::<DictionaryArray<K>>(array)?;
        let entries = values(array.values().as_ref())?;
        (0..array.len())
            .map(|row| {
                if array.is_null(row) {
                    return Ok(Value::Null);
                }
                entries.get(array.key_value(row)).cloned().ok_or_else(|| "has a damaged dictionary".to_owned())
            })
            .collect()
    }
    match kind {
        IntegerType::Int8 => of::<i8>(array),
        IntegerType::Int16 => of::<i16>(array),
        IntegerType::Int32 => of::<i32>(array),
        IntegerType::Int64 => of::<i64>(array),
        IntegerType::UInt8 => of::<u8>(array),
        IntegerType::UInt16 => of::<u16>(array),
        IntegerType::UInt32 => of::<u32>(array),
        IntegerType::UInt64 => of::<u64>(array),
        IntegerType::Int128 | IntegerType::UInt128 => Err("has a dictionary with 128-bit keys".to_owned()),
    }
}
