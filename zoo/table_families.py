"""Means over families of methods, one family for each value of each coordinate; totals by evidence; whether tasks and seeds agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from zoo import stats
from zoo.entry import MethodEntry
from zoo.entry.totals import LEVELS
from zoo.score_frame import ANCHORS
from zoo.table_cells import records
from zoo.table_forms import Column, Table, TableCell
from zoo.table_layouts import Task
from zoo.table_study import Gain, Study, estimate_cell, number_cell, p_cell

COORDINATES = ("feedback_signal", "teacher_access", "loss_granularity", "estimator", "routing")
INFERRED = "inferred"
EVERYTHING = "all"


def families_table(scores: pd.DataFrame, registry: Mapping[str, MethodEntry]) -> Table | None:
    """One row per value of each coordinate: how many methods, and on each headline task their mean gain and its difference to the others.

    None with one seed, where no method is complete, and where none of them is in the registry.
    """
    study = Study.of(scores)
    members = _members(study, registry)
    if len(study.seeds) < 2 or not study.tasks or not members:
        return None
    gains = {task: {m: gain for m in study.trained if m not in ANCHORS and (gain := study.gain(task, m)) is not None} for task in study.tasks}
    if not any(gains.values()):
        return None
    units = {task: _unit(task, gains[task]) for task in study.tasks}
    inferred = {row["method"] for row in study.rows if row["evidence"] == INFERRED}
    twins = {name for name in members[EVERYTHING, EVERYTHING] if name in registry and registry[name].identical_core_to in members[EVERYTHING, EVERYTHING]}
    counted = {name for name in members[EVERYTHING, EVERYTHING] if name not in inferred | twins}
    rows = []
    for (coordinate, value), names in members.items():
        cells = [cell for task in study.tasks for cell in _means(gains[task], units[task], names & counted, counted - names)]
        listed = [f"{name} ({INFERRED})" if name in inferred else f"{name} (twin)" if name in twins else name for name in sorted(names)]
        behind = records(row for row in study.rows if row["method"] in names)
        labels = (TableCell(coordinate.replace("_", " "), records=behind), TableCell(value.replace("_", " "), records=behind))
        rows.append((*labels, TableCell(str(len(names & counted)), len(names & counted), records=behind), *cells, TableCell(", ".join(listed), records=behind)))
    columns = [Column("coordinate", "coordinate", number=False), Column("value", "value", number=False), Column("methods", "methods")]
    for task in study.tasks:
        columns += [Column(f"{task.name}.mean", f"{task.name}: {units[task]}", error=True, interval=True)]
        columns += [Column(f"{task.name}.against_others", "less the others", error=True, interval=True)]
    columns.append(Column("members", "members", number=False))
    return Table(f"{study.heading} – by family", tuple(columns), tuple(rows), _reading(study, registry, inferred, twins, gains), labels=2)


def _unit(task: Task, gains: Mapping[str, Gain]) -> str:
    whole = task.family != "retention" and bool(gains) and all(gain.per_I is not None for gain in gains.values())
    return "gap closed" if whole else "Δ to the student"


def _members(study: Study, registry: Mapping[str, MethodEntry]) -> dict[tuple[str, str], set[str]]:
    """(coordinate, value) → trained methods of the comparison, by the registry's coordinates; last by the records' evidence."""
    names = [name for name in study.trained if name not in ANCHORS]
    placed = {name: entry for name in names if (entry := registry.get(name)) is not None and entry.coordinates is not None}
    if not placed:
        return {}
    found: dict[tuple[str, str], set[str]] = {(EVERYTHING, EVERYTHING): set(placed)}
    for coordinate in COORDINATES:
        by_value: dict[str, set[str]] = {}
        for name, entry in placed.items():
            values = getattr(entry.coordinates, coordinate)
            for value in values if isinstance(values, tuple) else (values,):
                by_value.setdefault(value, set()).add(name)
        found |= {(coordinate, value): by_value[value] for value in sorted(by_value)}
    evidence = {row["method"]: row["evidence"] for row in study.rows if row["evidence"]}
    levels = {level: {name for name in placed if evidence.get(name) == level} for level in LEVELS}
    return found | {("evidence", level): names for level, names in levels.items() if names}


def _means(gains: Mapping[str, Gain], unit: str, inside: set[str], outside: set[str]) -> tuple[TableCell, TableCell]:
    """The mean over a family's methods that are complete, and the same less the mean over the other methods."""
    mine, others = ([gains[name] for name in sorted(names) if name in gains] for names in (inside, outside))
    if not mine:
        return TableCell("–"), TableCell("–")
    per = mine[0].per_I if unit == "gap closed" else None
    behind = tuple(sorted({digest for gain in (*mine, *others) for digest in gain.records}))
    own = tuple(sorted({digest for gain in mine for digest in gain.records}))
    family = np.mean([gain.gained_SI for gain in mine], axis=0)
    digits = 2 if per is not None else 3
    mean = estimate_cell(stats.crossed_interval(family, per), own, digits)
    if not others:
        return mean, TableCell("–", records=own)
    rest = np.mean([gain.gained_SI for gain in others], axis=0)
    return mean, estimate_cell(stats.crossed_interval(family - rest, per), behind, digits)


def _reading(
    study: Study, registry: Mapping[str, MethodEntry], inferred: set[str], twins: set[str], gains: Mapping[Task, Mapping[str, Gain]]
) -> tuple[str, ...]:
    few = len(study.seeds) < stats.MIN_SEEDS
    remarks = [
        "A family: the methods with that value of the coordinate, derived from what their objectives run; a method with several values is in several families.",
        f"Means over the family's methods, each with equal weight, {'± one standard error' if few else 'with 95 % intervals'} over {len(study.seeds)} "
        "seeds and items. The methods are those that were run, not a sample of their families; they differ in more than the coordinate: no row is its effect.",
        "less the others: the family's mean less that of the other methods of the table.",
    ]
    shown = sorted((inferred & set(study.trained)) - set(ANCHORS))
    if shown:
        remarks.append(f"Shown but in no mean, since their objective is inferred and not stated by a paper: {', '.join(shown)}.")
    if twins:
        remarks.append(f"Shown but in no mean, since another method of the table runs the same: {', '.join(sorted(twins))}.")
    for task in study.tasks:
        lost = [name for name in study.trained if name not in ANCHORS and name not in gains[task]]
        remarks += [f"Not in the means on {task.name}, for a seed without a score: {', '.join(lost)}."] if lost else []
    unknown = [name for name in study.trained if name not in ANCHORS and (name not in registry or registry[name].coordinates is None)]
    return (*remarks, *([f"Without coordinates in the registry, so in no row: {', '.join(unknown)}."] if unknown else []))


# --- do tasks and seeds agree?


def agreement_table(scores: pd.DataFrame) -> Table | None:
    """Rank correlation of the methods between tasks, and between seeds on each task; None below two seeds or four complete methods."""
    study = Study.of(scores)
    methods = [m for m in study.trained if m not in ANCHORS and all(study.complete(task, m) for task in study.tasks)]
    if len(study.seeds) < 2 or len(methods) < 4 or not study.tasks:
        return None
    rows = (*_between_tasks(study, methods), *_between_seeds(study, methods))
    columns = (
        *(Column(name, name, number=False) for name in ("between", "first", "second")),
        Column("methods", "methods"),
        Column("kendall_tau", "Kendall's tau-b", interval=True),
        Column("spearman_rho", "Spearman's rho"),
        Column("p_value", "p"),
    )
    remarks = (
        f"{len(methods)} methods that have every seed on every task, without the anchors. 1: the same order; 0: no relation.",
        "Tasks: by mean score over seeds. Seeds: the mean over all pairs of seeds of one task, with the lowest and the highest; no p for a mean.",
        "Brackets: Fieller's approximate 95 % interval over methods; p: of |tau-b| under random order, two-sided.",
    )
    return Table(f"{study.heading} – rank agreement", columns, rows, remarks, labels=3)


def _between_tasks(study: Study, methods: Sequence[str]) -> Iterator[tuple[TableCell, ...]]:
    for left, right in combinations(study.tasks, 2):
        behind = records(*(study.complete(task, m) for task in (left, right) for m in methods))
        one, other = ({m: float(np.mean([row["score"] for row in study.complete(task, m)])) for m in methods} for task in (left, right))
        found = stats.rank_agreement(one, other)
        labels = (TableCell(text, records=behind) for text in ("tasks", left.name, right.name))
        yield (*labels, TableCell(str(len(methods)), len(methods), records=behind), tau_cell(found.kendall, len(methods), behind),
               number_cell(found.spearman, behind, 2), p_cell(found.p_value, behind))  # fmt: skip


def _between_seeds(study: Study, methods: Sequence[str]) -> Iterator[tuple[TableCell, ...]]:
    for task in study.tasks:
        score_MS = study.matrix([task], methods)
        behind = records(*(study.complete(task, m) for m in methods))
        pairs = list(combinations(range(score_MS.shape[1]), 2))
        taus = [tau for a, b in pairs if not math.isnan(tau := stats.kendall_tau_b(score_MS[:, a], score_MS[:, b]))]
        rhos = [rho for a, b in pairs if not math.isnan(rho := stats.spearman_rho(score_MS[:, a], score_MS[:, b]))]
        mean = number_cell(float(np.mean(taus)) if taus else math.nan, behind, 2)
        span = f" ({number_cell(min(taus), ()).text[:-1]} to {number_cell(max(taus), ()).text[:-1]})" if taus else ""
        labels = (TableCell(text, records=behind) for text in ("seeds", task.name, f"{len(pairs)} pair{'s' * (len(pairs) != 1)}"))
        yield (*labels, TableCell(str(len(methods)), len(methods), records=behind), TableCell(mean.text + span, mean.value, records=behind),
               number_cell(float(np.mean(rhos)) if rhos else math.nan, behind, 2), TableCell("–", records=behind))  # fmt: skip


def tau_cell(tau: float, methods: int, behind: Sequence[str]) -> TableCell:
    """Kendall's tau with its approximate interval, where it has one."""
    interval, plain = stats.tau_interval(tau, methods), number_cell(tau, behind, 2)
    if interval is None:
        return plain
    low, high = (number_cell(end, (), 2).text for end in interval)
    return TableCell(f"{plain.text} [{low}, {high}]", tau, None, (), tuple(behind), interval)
