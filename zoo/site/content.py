"""What the site is made from: the registry, the records with their tables, the catalogue of failure modes. Read once, nothing rendered."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from zoo.checklist import checklist_table
from zoo.entry import MethodEntry
from zoo.families import families
from zoo.figures.data import Board, board, read_curve, read_findings
from zoo.paths import data_root
from zoo.published import orders_table, published_table
from zoo.records import Record, comparisons, digest_file, load_records
from zoo.score_frame import ANCHORS, score_frame, select
from zoo.table_contrasts import contrasts_table
from zoo.table_failures import read_diagnoses
from zoo.table_families import agreement_table, families_table
from zoo.table_forms import Table, TableCell
from zoo.table_layouts import cost_table, main_table
from zoo.table_standing import pairwise_table, standing_table

MOST_PAIRS = 40  # methods of a comparison whose pairs are still printed one by one
BESIDE = ("curve.json", "failures.json")
DETECTION = "failure_detection.csv"


@dataclass(frozen=True)
class Attempt:
    """One attempt and what lies beside it. `counts` says whether it is the one that stands for its method and seed."""

    record: Record
    curve: Sequence[Mapping[str, Any]]
    findings: Mapping[str, Mapping[str, Any]]
    counts: bool
    files: Mapping[str, str]

    @property
    def anchor(self) -> str:
        """Its place on its record page."""
        return f"r-{self.record.run.uuid[:8]}"

    @property
    def page(self) -> str:
        """Its record page."""
        return f"records/{self.record.run.comparison}/{self.record.run.method}.html"


@dataclass(frozen=True)
class Comparison:
    """One comparison: its board, its tables, its attempts by method."""

    id: str
    title: str
    pair: str
    board: Board
    tables: Mapping[str, Table]
    attempts: Mapping[str, Sequence[Attempt]]

    @cached_property
    def cells(self) -> dict[str, dict[str, TableCell]]:
        """method → column → cell. A column is called by its key in the main table, by table and key in the others."""
        found: dict[str, dict[str, TableCell]] = {}
        for name, table in self._by_method():
            for row in table.rows:
                mine = found.setdefault(row[0].text, {})
                mine |= {named(name, column.key): cell for column, cell in zip(table.columns[1:], row[1:], strict=True)}
        return found

    @cached_property
    def titles(self) -> dict[str, str]:
        """column → what it is called on a page of records."""
        return {
            named(name, column.key): column.title if name == "main" else f"{name}: {column.title}"
            for name, table in self._by_method()
            for column in table.columns[1:]
        }

    def _by_method(self) -> list[tuple[str, Table]]:
        return [(name, table) for name, table in self.tables.items() if self.of_methods(table)]

    def of_methods(self, table: Table) -> bool:
        """Whether each row of a table is a method's."""
        return table.labels == 1 and all(row[0].text in self.attempts or not row[0].records for row in table.rows)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the trained methods."""
        runs = [attempt.record.run for mine in self.attempts.values() for attempt in mine]
        return sorted({run.seed for run in runs if run.method not in ANCHORS})

    @property
    def size(self) -> int:
        """How many cells are scored."""
        return sum(len(scores) for scores in self.board.score.values())


@dataclass(frozen=True)
class Site:
    """Everything that pages are made from."""

    registry: Mapping[str, MethodEntry]
    family: Mapping[str, str]
    sources: Mapping[str, str]
    comparisons: Sequence[Comparison]
    modes: Mapping[str, Any]
    detection: Sequence[Mapping[str, str]]
    records: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)  # digest → page, anchor, words

    @property
    def featured(self) -> Comparison | None:
        """The comparison with most scores."""
        return max(self.comparisons, key=lambda one: (one.size, one.id), default=None)

    def of_method(self, method: str) -> list[Comparison]:
        """The comparisons that a method takes part in, the largest first."""
        found = [one for one in self.comparisons if method in one.board.methods]
        return sorted(found, key=lambda one: (-one.size, one.id))


def load_site(registry: Mapping[str, MethodEntry], records: Path, tables: Path) -> Site:
    """Read everything. Records may be absent: then the site holds the registry alone. Raises ZooError for broken records."""
    family = families(registry)
    coordinates = {name: entry.coordinates.model_dump(mode="json") for name, entry in registry.items() if entry.coordinates is not None}
    found = [_comparison(records, name, registry, family, coordinates) for name in comparisons(records)]
    digests = {digest: place for one in found for digest, place in _places(one)}
    return Site(registry, family, _sources(registry), found, _modes(), _detection(tables / DETECTION), digests)


def _comparison(root: Path, name: str, registry: Mapping[str, MethodEntry], family: Mapping[str, str], coordinates: Mapping[str, Any]) -> Comparison:
    records = load_records(root, name)
    frame = score_frame(records)
    counted = [cell.record for cell in select(records) if cell.record]
    tables: dict[str, Table | None] = {"main": main_table(frame), "standing": standing_table(frame), "costs": cost_table(frame)}
    if frame["method"].nunique() <= MOST_PAIRS and counted:
        tables |= _further(root, frame, counted, registry)
    chosen = {record.run.uuid for record in counted}
    attempts: dict[str, list[Attempt]] = {}
    for record in sorted(records, key=lambda record: (record.run.seed, record.run.created, record.run.uuid)):
        folder = root / name / record.run.method / record.run.uuid
        beside = {path.relative_to(root).as_posix(): digest_file(path) for path in map(folder.joinpath, BESIDE) if path.exists()}
        attempt = Attempt(record, read_curve(folder), read_findings(folder), record.run.uuid in chosen, {**record.digests, **beside})
        attempts.setdefault(record.run.method, []).append(attempt)
    return Comparison(
        id=name,
        title=str(frame["title"].iloc[0]),
        pair=records[0].run.pair,
        board=board(root, records, family, coordinates, frame),
        tables={key: table for key, table in tables.items() if table is not None},
        attempts=attempts,
    )


def _further(root: Path, frame: pd.DataFrame, records: Sequence[Record], registry: Mapping[str, MethodEntry]) -> dict[str, Table | None]:
    """What is said of pairs and parts: too much to read, and to compute, for hundreds of methods."""
    return {
        "families": families_table(frame, registry),
        "contrasts": contrasts_table(frame, records),
        "agreement": agreement_table(frame),
        "published": published_table(frame, records, registry),
        "published orders": orders_table(frame, registry),
        "pairwise": pairwise_table(frame),
        "checklist": checklist_table(frame, records, registry, read_diagnoses(root, records)),
    }


def _places(one: Comparison) -> list[tuple[str, tuple[str, str, str]]]:
    """Digest of each record file → where it is shown."""
    found = []
    for method, attempts in one.attempts.items():
        for attempt in attempts:
            for path, digest in attempt.files.items():
                words = f"{method}, seed {attempt.record.run.seed}: {Path(path).name}"
                found.append((digest, (attempt.page, attempt.anchor, words)))
    return found


def _sources(registry: Mapping[str, MethodEntry]) -> dict[str, str]:
    """The YAML of each entry as its author wrote it, where it lies in the registry's own folder."""
    folder = data_root() / "registry" / "methods"
    return {name: file.read_text(encoding="utf-8") for name in registry if (file := folder / f"{name}.yaml").exists()}


def _modes() -> dict[str, dict[str, Any]]:
    """The catalogue of failure modes as plain data, by id."""
    folder = data_root() / "registry" / "failure_modes"
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("FM*.yaml"))}


def _detection(path: Path) -> list[dict[str, str]]:
    """The rows of the detection matrix, as generated; none where it has not been made."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def named(table: str, key: str) -> str:
    """What a column of a table is called among those of all tables."""
    return key if table == "main" else f"{table}.{key}"


def number(value: float | None, digits: int = 3) -> str:
    """A number for reading; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")
