"""From a cell of a committed table back to the records that it was computed from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, suggest
from zoo.records import digest_file

ENTRIES, LAB = "the registry's entries; `zoo show ENTRY` prints what a row is made from", "the lab's code; `zoo lab` computes it again"
UNRECORDED = {
    **dict.fromkeys(("survey_a_coordinates", "survey_a_tree", "survey_b_variables"), ENTRIES),
    **dict.fromkeys(("estimators", "routing", "truncation"), LAB),
}


@dataclass(frozen=True)
class Source:
    """One record behind a cell; `state` says whether the file is still what the table was made from."""

    path: str
    sha256: str
    state: str


def trace(manifest: Path, records: Path, table: str, row: str, column: str) -> list[Source]:
    """The records behind one cell of `COMPARISON` (its main table), `COMPARISON/TABLE`, or a table of detectors, in order of their paths.

    Raises:
        ZooError: no manifest there, or it knows no such table, row or column, with the nearest name; or a table that no record is behind.
    """
    if not manifest.is_file():
        raise ZooError(f"no manifest at {manifest}; `zoo tables` writes it")
    content = json.loads(manifest.read_text(encoding="utf-8"))
    detectors = content.get("detectors") or {"tables": {}}
    if table in detectors["tables"]:
        section, part = detectors, table
    elif table in UNRECORDED:
        raise ZooError(f"no record is behind {table}: it is a function of {UNRECORDED[table]}")
    else:
        name, _, part = table.partition("/")
        section, part = _named(content["comparisons"], name, "comparison", also=detectors["tables"]), part or "main"
        _named(section["tables"], part, f"table of {name}")
    found = behind(section, part, row, column)
    return sorted((Source(each["path"], each["sha256"], _state(records / each["path"], each["sha256"])) for each in found), key=lambda source: source.path)


def behind(section: Mapping[str, Any], table: str, row: str, column: str) -> list[dict[str, str]]:
    """path and sha256 of each record behind a cell of a table, from a section of the manifest."""
    sets = _named(section["tables"][table], row, "row")
    if isinstance(sets, str):  # one for all columns
        sets = dict.fromkeys(section["columns"][table], sets)
    return [section["records"][digest] for digest in section["sets"][_named(sets, column, "column")].split()]


def _named(places: Mapping[str, Any], name: str, what: str, also: Iterable[str] = ()) -> Any:
    if name not in places:
        known = [*places, *also]
        near, longer = suggest(name, known), [place for place in known if place.startswith(f"{name} · ")]
        raise ZooError(f"the manifest has no {what} '{name}'{near if 'did you mean' in near else ''}; there are: {_few(longer or known)}")
    return places[name]


def _few(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:12]) + (f" and {len(every) - 12} more" if len(every) > 12 else "")


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return "missing"
    return "unchanged" if digest_file(path) == sha256 else "changed"
