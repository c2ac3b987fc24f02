"""From a cell of a committed table back to the records that it was computed from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, suggest
from zoo.records import digest_file


@dataclass(frozen=True)
class Source:
    """One record behind a cell; `state` says whether the file is still what the table was made from."""

    path: str
    sha256: str
    state: str


def trace(manifest: Path, records: Path, table: str, row: str, column: str) -> list[Source]:
    """The records behind one cell of `COMPARISON` (its main table) or `COMPARISON/TABLE`, in order of their paths.

    Raises:
        ZooError: no manifest there, or it knows no such table, row or column, with the nearest name.
    """
    if not manifest.is_file():
        raise ZooError(f"no manifest at {manifest}; `zoo tables` writes it")
    name, _, part = table.partition("/")
    comparison = _named(json.loads(manifest.read_text(encoding="utf-8"))["comparisons"], name, "comparison")
    cells = _named(_named(comparison["tables"], part or "main", f"table of {name}"), row, "row")
    found = behind(comparison, _named(cells, column, "column"))
    return sorted((Source(each["path"], each["sha256"], _state(records / each["path"], each["sha256"])) for each in found), key=lambda source: source.path)


def behind(comparison: dict[str, Any], cell: str) -> list[dict[str, str]]:
    """path and sha256 of each record behind a cell, from the comparison's section of the manifest and what stands there for the cell."""
    known = comparison["records"]
    return [known[digest] for digest in comparison["sets"][cell].split()]


def _named(places: dict[str, Any], name: str, what: str) -> Any:
    if name not in places:
        raise ZooError(f"the manifest has no {what} '{name}'{suggest(name, places)}; there are: {_few(places)}")
    return places[name]


def _few(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:12]) + (f" and {len(every) - 12} more" if len(every) > 12 else "")


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return "missing"
    return "unchanged" if digest_file(path) == sha256 else "changed"
