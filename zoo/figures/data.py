"""What figures are drawn from: one comparison's scores, curves and findings, as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zoo.errors import ZooError
from zoo.families import FAMILIES, OTHER
from zoo.records import Record, digest_json, load_records
from zoo.score_frame import ANCHORS, score_frame, select
from zoo.table_layouts import frame_rows

Point = Mapping[str, float | None]
FINDING = ("level", "value", "first_step", "reason")
FIRED = ("red", "amber")
IDLE = "no_op"  # it learns nothing: what fires in its runs is the pair's or the task's, and no method's
DIGITS = 9  # of every number that is drawn: what a machine's last bits do must not change the digest


@dataclass(frozen=True)
class Cost:
    """What the runs of a method spent, the mean over seeds; NaN where it was not recorded."""

    written: float
    seconds: float


@dataclass(frozen=True)
class Board:
    """One comparison. `score[method]` is one number per scored seed: the share of the teacher's gap that is closed, the mean over the tasks in
    distribution, or the raw score where that share has no meaning (`unit` says which). `curves[method]` is one list of points per seed;
    `findings[method][mode]` is one level per seed."""

    id: str
    title: str
    unit: str
    methods: tuple[str, ...]
    family: Mapping[str, str]
    coordinates: Mapping[str, Mapping[str, Any]]
    score: Mapping[str, tuple[float, ...]]
    runs: Mapping[str, tuple[float, ...]]
    items: Mapping[str, Any]
    raw: Mapping[str, float]
    cost: Mapping[str, Cost]
    curves: Mapping[str, list[list[Point]]]
    findings: Mapping[str, Mapping[str, list[str]]]
    records: tuple[str, ...] = field(default=())

    @property
    def trained(self) -> list[str]:
        """The methods, without the anchors."""
        return [method for method in self.methods if method not in ANCHORS]

    def mean(self, method: str) -> float:
        """The method's score, the mean over its seeds; NaN without one."""
        return float(np.mean(self.score[method])) if self.score.get(method) else math.nan

    def groups(self) -> list[tuple[str, list[str]]]:
        """Families in their fixed order, each with its methods, best first; families without a method are left out."""
        found: dict[str, list[str]] = {name: [] for name in FAMILIES}
        for method in self.trained:
            found[self.family.get(method, OTHER)].append(method)
        ranked = {name: sorted(methods, key=lambda method: (-_last(self.mean(method)), method)) for name, methods in found.items()}
        return [(name, methods) for name, methods in ranked.items() if methods]

    def diagnosed(self) -> list[tuple[str, list[str]]]:
        """The methods with findings, by family; before them the one that learns nothing."""
        groups = [("Learns nothing", [IDLE]), *self.groups()]
        return [(name, mine) for name, methods in groups if (mine := [method for method in methods if method in self.findings])]

    def idle_modes(self) -> set[str]:
        """The failure modes that fired without learning."""
        return {mode for mode, levels in self.findings.get(IDLE, {}).items() if set(FIRED) & set(levels)}


def _last(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def load_board(root: Path, comparison: str, family: Mapping[str, str], coordinates: Mapping[str, Mapping[str, Any]] = {}) -> Board:
    """The comparison's board from its records below `root`. Raises ZooError where there are none."""
    records = load_records(root, comparison)
    if not records:
        raise ZooError(f"{root}: no records of comparison '{comparison}'; `zoo run {comparison}` makes them")
    return board(root, records, family, coordinates)


def board(
    root: Path,
    records: Sequence[Record],
    family: Mapping[str, str],
    coordinates: Mapping[str, Mapping[str, Any]] = {},
    frame: pd.DataFrame | None = None,
) -> Board:
    """The board from records already read, and from their scores where these were already made; curves and findings are read beside them."""
    rows = frame_rows(score_frame(records) if frame is None else frame, headline=True)
    inside = [row for row in rows if row["family"] == "in_distribution"]
    methods = tuple(dict.fromkeys(row["method"] for row in rows))
    found = [row for row in inside if not math.isnan(row["score"])]
    closed = bool(found) and all(not math.isnan(row["gap_closed"]) for row in found if row["method"] not in ("student", "teacher"))
    value = "gap_closed" if closed else "score"
    chosen = {cell.record.run.uuid: cell.record for cell in select(records) if cell.record}
    curves, findings = _beside(root, chosen.values())
    return Board(
        id=records[0].run.comparison,
        title=next((row["title"] for row in rows if row["title"]), ""),
        unit="share of the teacher's gap closed" if closed else "score",
        methods=methods,
        family={method: family.get(method, OTHER) for method in methods},
        coordinates={method: coordinates.get(method, {}) for method in methods},
        score={method: _by_seed(inside, method, value) for method in methods},
        runs={method: tuple(row[value] for row in found if row["method"] == method and not math.isnan(row[value])) for method in methods},
        items={method: _items(found, method) for method in methods},
        raw={method: float(np.mean([row["score"] for row in found if row["method"] == method] or [math.nan])) for method in methods},
        cost={method: _cost(rows, method) for method in methods},
        curves=curves,
        findings=findings,
        records=tuple(sorted({digest for row in rows for digest in row["records"]})),
    )


def _by_seed(rows: Sequence[Mapping[str, Any]], method: str, value: str) -> tuple[float, ...]:
    """One number per seed that has all tasks."""
    mine = [row for row in rows if row["method"] == method]
    seeds = {row["seed"]: [other[value] for other in mine if other["seed"] == row["seed"]] for row in mine}
    return tuple(float(np.mean(values)) for _, values in sorted(seeds.items()) if not any(math.isnan(value) for value in values))


def _items(rows: Sequence[Mapping[str, Any]], method: str) -> dict[str, dict[int, Mapping[Any, float]]]:
    """task → seed → item → score."""
    found: dict[str, dict[int, Mapping[Any, float]]] = {}
    for row in rows:
        if row["method"] == method:
            found.setdefault(f"{row['suite']}/{row['task']}", {})[row["seed"]] = row["items"]
    return found


def _cost(rows: Sequence[Mapping[str, Any]], method: str) -> Cost:
    """Tokens the student wrote or was trained on, and seconds."""
    runs = {row["uuid"]: row for row in rows if row["method"] == method and row["uuid"] and row["status"] == "success"}.values()
    if not runs:
        return Cost(math.nan, math.nan)
    written = [row["generated_tokens"] + row["supervised_tokens"] for row in runs]
    return Cost(float(np.mean(written)), float(np.mean([row["seconds"] for row in runs])))


def _beside(root: Path, records: Iterable[Record]) -> tuple[dict[str, list[list[Point]]], dict[str, dict[str, list[str]]]]:
    """The curves and findings that lie beside the records' `run.json`; nothing for records without them."""
    curves: dict[str, list[list[Point]]] = {}
    findings: dict[str, dict[str, list[str]]] = {}
    for record in sorted(records, key=lambda record: (record.run.method, record.run.seed, record.run.uuid)):
        run = record.run
        folder = root / run.comparison / run.method / run.uuid
        if points := read_curve(folder):
            curves.setdefault(run.method, []).append(points)
        for mode, finding in read_findings(folder).items():
            findings.setdefault(run.method, {}).setdefault(mode, []).append(str(finding["level"]))
    return curves, findings


def read_curve(folder: Path) -> list[Point]:
    """The points of an attempt's `curve.json`, in order; empty where there is none."""
    content = _json(folder / "curve.json")
    return [dict(zip(content["columns"], values, strict=True)) for values in content.get("points", ())]


def read_findings(folder: Path) -> dict[str, dict[str, Any]]:
    """Failure mode → level, value, first_step and reason of an attempt's `failures.json`; empty where there is none."""
    found = _json(folder / "failures.json").get("findings", {})
    return {str(mode): dict(zip(FINDING, finding, strict=True)) for mode, finding in sorted(found.items())}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ZooError(f"{path}: broken JSON ({error}); restore the file from version control") from None
    return dict(content) if isinstance(content, Mapping) else {}


def rounded(value: Any) -> Any:
    """The data as JSON holds it, numbers to DIGITS significant digits, NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.{DIGITS}g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def data_digest(value: Any) -> str:
    """sha256 of a figure's data."""
    return digest_json(rounded(value))
