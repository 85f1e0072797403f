"""Reads a flow log with DuckDB, Polars and pyarrow and prints what each saw, as JSON.

What they must have seen is said by readers.rs. The arguments are the directory `flows/v1` and the output of
`flowlog schema --format sql`.
"""

import json
import sys

import duckdb
import polars
import pyarrow.compute
import pyarrow.dataset


def with_duckdb(directory):
    files = f"read_parquet('{directory}/**/*.parquet', hive_partitioning = true)"
    columns = duckdb.sql(f"DESCRIBE SELECT * FROM {files}").fetchall()
    rows, seqs, addresses, end_us, partitions = duckdb.sql(
        "SELECT count(*), sum(seq)::BIGINT, count(DISTINCT src_ip), max(epoch_us(end_time)), "
        f"list(DISTINCT date::VARCHAR || ' ' || lpad(hour::VARCHAR, 2, '0')) FROM {files}"
    ).fetchone()
    return {
        "columns": {name: kind for name, kind, *_ in columns},
        "rows": rows,
        "sum_of_seq": seqs,
        "addresses": addresses,
        "last_end_us": end_us,
        "partitions": sorted(partitions),
    }


def with_polars(directory):
    frame = polars.read_parquet(f"{directory}/**/*.parquet", hive_partitioning=True)
    partitions = frame.select("date", "hour").unique().rows()
    return {
        "columns": {name: str(kind) for name, kind in frame.schema.items()},
        "rows": frame.height,
        "sum_of_seq": frame["seq"].sum(),
        "addresses": frame["src_ip"].n_unique(),
        "last_end_us": frame["end_time"].dt.timestamp("us").max(),
        "partitions": sorted(f"{date} {int(hour):02}" for date, hour in partitions),
    }


def with_pyarrow(directory):
    table = pyarrow.dataset.dataset(directory, format="parquet", partitioning="hive").to_table()
    partitions = {(row["date"], row["hour"]) for row in table.select(["date", "hour"]).to_pylist()}
    return {
        "columns": {field.name: str(field.type) for field in table.schema},
        "rows": table.num_rows,
        "sum_of_seq": pyarrow.compute.sum(table["seq"]).as_py(),
        "addresses": pyarrow.compute.count_distinct(table["src_ip"]).as_py(),
        "last_end_us": pyarrow.compute.max(table["end_time"].cast("int64")).as_py(),
        "partitions": sorted(f"{date} {int(hour):02}" for date, hour in partitions),
    }


def durations(directory, statements):
    """The sum of `duration_us` of the view, in the table of all rows."""
    duckdb.execute(statements)
    duckdb.sql(
        "INSERT INTO flows BY NAME SELECT * EXCLUDE (date, hour) "
        f"FROM read_parquet('{directory}/**/*.parquet', hive_partitioning = true)"
    )
    return duckdb.sql("SELECT sum(duration_us)::BIGINT FROM flows_with_duration").fetchone()[0]


readers = {"DuckDB": with_duckdb, "Polars": with_polars, "pyarrow": with_pyarrow}
flows, statements = sys.argv[1:]
seen = {name: read(flows) for name, read in readers.items()}
seen["durations"] = durations(flows, statements)
json.dump(seen, sys.stdout)
