"""Parquet and Arrow files of one table in every spelling that writers have, and the rows as JSON.

Made with pyarrow, the reference implementation: pages of both versions, so small that rows run through several of them,
with and without dictionaries, in every compression that it writes.
"""

import json
import pathlib

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq

OUT = pathlib.Path(__file__).parents[2] / "crates/reheat-data/tests/fixtures"
ROWS = 60


def row(index: int) -> dict:
    turns = [{"from": "human" if turn % 2 == 0 else "gpt", "value": f"{index}.{turn} " * (turn + 1)} for turn in range(index % 5)]
    if index % 11 == 3:
        turns.append(None)
    if index % 7 == 2:
        turns.append({"from": "gpt", "value": None})
    return {
        "id": index,
        "system": None if index % 13 == 5 else f"system {index % 3}",
        "conversations": None if index % 17 == 4 else turns,
        "tags": [[number, index] for number in range(index % 4)] + ([None] if index % 5 == 1 else []),
        "meta": None if index % 9 == 8 else {"score": index / 4, "good": index % 2 == 0, "notes": ["é"] * (index % 3)},
        "required": {"x": index * 2, "y": str(index)},
    }


SCHEMA = pa.schema([
    pa.field("id", pa.int64(), nullable=False),
    pa.field("system", pa.string()),
    pa.field("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))),
    pa.field("tags", pa.list_(pa.list_(pa.int32()))),
    pa.field("meta", pa.struct([("score", pa.float64()), ("good", pa.bool_()), ("notes", pa.list_(pa.string()))])),
    pa.field("required", pa.struct([pa.field("x", pa.int32(), False), pa.field("y", pa.string(), False)]), False),
])

TINY = {"data_page_size": 64, "write_batch_size": 3}
FILES = {
    "v1-plain": {"compression": "none", "use_dictionary": False, **TINY},
    "v1-dictionary": {"compression": "snappy", **TINY},
    "v2-zstd": {"compression": "zstd", "data_page_version": "2.0", **TINY},
    "v2-plain": {"compression": "none", "data_page_version": "2.0", "use_dictionary": False, **TINY},
    "groups-gzip": {"compression": "gzip", "row_group_size": 7},
    "one-page-brotli": {"compression": "brotli"},
    "indexed-lz4": {"compression": "lz4", "write_page_index": True, "write_page_checksum": True, **TINY},
    "delta": {"compression": "none", "use_dictionary": False, "column_encoding": {
        "id": "DELTA_BINARY_PACKED", "system": "DELTA_LENGTH_BYTE_ARRAY",
        "conversations.list.element.value": "DELTA_BYTE_ARRAY"}, **TINY},
}


def without_nulls(value):
    """Arrow gives every struct all keys; those that are null are left out, as TRL's remove_none_values does."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    rows = [row(index) for index in range(ROWS)]
    table = pa.Table.from_pylist(rows, SCHEMA)
    with open(OUT / "rows.jsonl", "w", encoding="utf-8") as file:
        for item in rows:
            file.write(json.dumps(without_nulls(item), ensure_ascii=False) + "\n")
    for name, options in FILES.items():
        pq.write_table(table, OUT / f"{name}.parquet", **options)
    batches = table.to_batches(max_chunksize=13)
    for name, compression in [("plain", None), ("lz4", "lz4"), ("zstd", "zstd")]:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(OUT / f"file-{name}.arrow", SCHEMA, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)
    with pa.ipc.new_stream(OUT / "stream.arrow", SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
    encoded = table.set_column(1, "system", table["system"].combine_chunks().dictionary_encode())
    pq.write_table(encoded, OUT / "categorical.parquet", compression="none")
    with pa.ipc.new_file(OUT / "categorical.arrow", encoded.schema) as writer:
        writer.write_table(encoded)


if __name__ == "__main__":
    main()
