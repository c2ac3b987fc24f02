"""What one component is worth: methods of a comparison whose recorded bodies differ in exactly one, and the paired difference of their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from zoo import stats
from zoo.records import Record
from zoo.score_frame import ANCHORS
from zoo.stats.contrasts import body_contrasts
from zoo.table_cells import EVIDENCE, records
from zoo.table_forms import Column, Table, TableCell
from zoo.table_study import Study, difference_SI, estimate_cell, number_cell, p_cell


def contrasts_table(scores: pd.DataFrame, chosen: Sequence[Record]) -> Table | None:
    """One row per pair of methods that differ in one component; None with one seed or where there is no such pair.

    Bodies are those that the records say were run, with all defaults written out.
    """
    study = Study.of(scores)
    found = [(contrast, pair) for contrast in body_contrasts(_bodies(chosen)) for pair in contrast.pairs]
    if len(study.seeds) < 2 or not found or not study.tasks:
        return None
    rates = {record.run.method: record.run.resolved.get("learning_rate") for record in chosen}
    differences = {task: [_difference(study, task, *pair) for _, pair in found] for task in study.tasks}
    adjusted = {task: _adjusted(differences[task]) for task in study.tasks}
    rows = []
    for place, (contrast, (first, second)) in enumerate(found):
        behind = records(row for row in study.rows if row["method"] in (first, second))
        notes = tuple(f"{name}: {EVIDENCE['inferred']}" for name in (first, second) if _evidence(study, name) == "inferred")
        labels = [TableCell(text, notes=notes if index == 3 else (), records=behind) for index, text in
                  enumerate((contrast.place, contrast.first, contrast.second, first, second))]  # fmt: skip
        cells = [cell for task in study.tasks for cell in _cells(differences[task][place], adjusted[task][place], behind)]
        rows.append((*labels, *cells, TableCell(_rates(rates.get(first), rates.get(second)), records=behind)))
    columns = [Column(name, name, number=False) for name in ("component", "from", "to", "first", "second")]
    for task in study.tasks:
        columns += [Column(f"{task.name}.difference", f"{task.name}: second − first", error=True, interval=True), Column(f"{task.name}.p_holm", "p (Holm)")]
        columns += [Column(f"{task.name}.minimum_detectable_effect", "detectable")]
    columns.append(Column("learning_rates", "learning rates", number=False))
    remarks = (
        "Each row: two methods whose bodies, as recorded with all defaults, differ in one component (`zoo diff FIRST SECOND` prints it).",
        "Differences of raw scores, paired by seed and item; p of no difference, adjusted by Holm's method over the rows of a column.",
        "Where learning rates differ (each method's own, tuned or declared), the row is of the component and its rate together.",
    )
    return Table(f"{study.heading} – component contrasts", tuple(columns), tuple(rows), remarks, labels=5)


def _bodies(chosen: Sequence[Record]) -> dict[str, Mapping[str, Any]]:
    """The body that each method's records say was run; a method whose seeds ran different bodies is left out."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in chosen:
        body = record.run.resolved.get("body")
        if record.run.method not in ANCHORS and isinstance(body, Mapping) and body.get("objective"):
            found.setdefault(record.run.method, []).append(body)
    return {method: bodies[0] for method, bodies in found.items() if all(body == bodies[0] for body in bodies)}


def _difference(study: Study, task: Any, first: str, second: str) -> stats.Array | None:
    left, right = study.complete(task, first), study.complete(task, second)
    return difference_SI(right, left) if left and right else None


def _adjusted(differences: Sequence[stats.Array | None]) -> list[float]:
    there = [place for place, difference in enumerate(differences) if difference is not None]
    values = stats.holm([stats.crossed_p_value(difference) for difference in differences if difference is not None])
    found = [float("nan")] * len(differences)
    for place, value in zip(there, values, strict=True):
        found[place] = value
    return found


def _cells(difference: stats.Array | None, p: float, behind: Sequence[str]) -> tuple[TableCell, ...]:
    if difference is None:
        return (
            TableCell("n/a", notes=("a seed without a score, or other items: nothing is filled in",), records=tuple(behind)),
            TableCell("n/a"),
            TableCell("n/a"),
        )
    found = stats.crossed_interval(difference)
    return estimate_cell(found, behind), p_cell(p, behind), number_cell(stats.crossed_detectable(difference), behind)


def _evidence(study: Study, method: str) -> str:
    return next((row["evidence"] for row in study.rows if row["method"] == method and row["evidence"]), "")


def _rates(first: Any, second: Any) -> str:
    shown = [f"{rate:g}" if isinstance(rate, int | float) else "?" for rate in (first, second)]
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} → {shown[1]}"
