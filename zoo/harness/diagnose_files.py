"""Diagnosed sequences on disk: one small file for each diagnosed iteration while a run goes on, one table at its end.

A file is named by its iteration, so an iteration that is done again after a kill writes the same file again: nothing is doubled, and what was
written before the last checkpoint stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

TABLES = {"rollouts": "rollouts", "tokens": "tokens", "fixed": "probe-fixed"}  # and their files' endings
PLACE = ["step", "stream", "rollout", "position"]
ENDING = ".arrow"
Columns = Mapping[str, Any]


def write_shard(folder: Path, iteration: int, rank: int, tables: Mapping[str, Sequence[Columns]]) -> None:
    """Write what one process saw in one iteration, each file whole or not at all; tables come in pieces, one for each stream."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pieces in tables.items():
        target = folder / f"{name}-{iteration:08d}-{rank:03d}{ENDING}"
        partial = target.with_suffix(".partial")
        table = pa.concat_tables([pa.table(dict(piece)) for piece in pieces], promote_options="permissive")
        with partial.open("wb") as file, ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        partial.rename(target)


def forget(folder: Path, iteration: int) -> None:
    """Remove what was written in this iteration and later: a run goes on from here."""
    for file in folder.glob(f"*-*-*{ENDING}"):
        if int(file.stem.split("-")[1]) >= iteration:
            file.unlink()


def read_shards(folder: Path, table: str) -> pa.Table | None:
    """All that was written, in order; columns that some files lack are null there. None where there is nothing."""
    files = sorted(folder.glob(f"{table}-*{ENDING}"))
    if not files:
        return None
    whole = pa.concat_tables([ipc.open_file(pa.py_buffer(file.read_bytes())).read_all() for file in files], promote_options="permissive")
    return whole.sort_by([(column, "ascending") for column in PLACE if column in whole.column_names])


def gather(folder: Path, target: Path, uuid: str) -> None:
    """The run's tables as `<uuid>-{rollouts,tokens,probe-fixed}.parquet` in the folder `target`, swapped in atomically."""
    for name, ending in TABLES.items():
        table = read_shards(folder, name)
        if table is None:
            continue
        target.mkdir(parents=True, exist_ok=True)
        partial = target / f".{uuid}-{ending}.partial"
        pq.write_table(table, partial, compression="zstd")
        partial.replace(target / f"{uuid}-{ending}.parquet")
