"""How the methods of a comparison with several seeds stand: each against a baseline and in the field, and every pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import pandas as pd

from zoo import stats
from zoo.score_frame import ANCHORS
from zoo.table_cells import Row, gap_rows, missing, name_cell, records, signed
from zoo.table_forms import Column, Table, TableCell, fixed
from zoo.table_layouts import Task
from zoo.table_study import FIXED, Study, difference_SI, estimate_cell, number_cell, p_cell

FIELD = ("win_rate", "average_rank", "iqm_gap_closed", "optimality_gap")


def standing_table(scores: pd.DataFrame) -> Table | None:
    """Each trained method against the baseline on every in-distribution headline, and in the field; None below four seeds or without a baseline."""
    study = Study.of(scores)
    if len(study.seeds) < stats.MIN_SEEDS or study.baseline is None or not study.inside:
        return None
    against = {task: _against(study, task, study.baseline) for task in study.inside}
    field = _field(study)
    rows = []
    for method in study.trained:
        mine = [row for row in study.rows if row["method"] == method]
        rows.append((name_cell(mine), *(cell for task in study.inside for cell in against[task][method]), *field[method]))
    columns = [Column("method", "method", number=False)]
    for task in study.inside:
        of = "" if len(study.inside) == 1 else f", {task.name}"
        columns += [
            Column(f"{task.name}.difference", f"less {study.baseline}{of}", error=True, interval=True),
            Column(f"{task.name}.probability_of_improvement", f"P(> {study.baseline}){of}"),
            Column(f"{task.name}.p_holm", f"p (Holm){of}"),
            Column(f"{task.name}.minimum_detectable_effect", f"detectable{of}"),
        ]
    columns += [Column(name, name.replace("_", " ").replace("iqm", "IQM")) for name in FIELD]
    return Table(f"{study.heading} – standing", tuple(columns), tuple(rows), _reading(study))


def _reading(study: Study) -> tuple[str, ...]:
    ranked = [task.name for task in _ranked(study)]
    return (
        f"{len(study.seeds)} seeds. Baseline: {study.baseline}, the first method that the comparison lists; differences are paired by seed and item.",
        f"P(> {study.baseline}): the share of pairs of runs, one of each, that the method wins; ties count half. p: of no difference, adjusted by "
        "Holm's method over the methods of a column. detectable: the true difference found with 80 % power at the 5 % level.",
        f"Win rate and average rank (1 is best): over {', '.join(ranked)}, each seed by itself, among the trained methods that have every seed; ties share. "
        "They say who won here, not by how much.",
        "IQM and optimality gap of the teacher-gap closed over the same tasks and seeds: the mean of the middle half; the mean shortfall from the teacher.",
        "A method with a failed seed has neither: nothing is filled in.",
    )


def _ranked(study: Study) -> list[Task]:
    return [task for task in study.tasks if task.family != "retention"]


def _against(study: Study, task: Task, baseline: str) -> dict[str, list[TableCell]]:
    """The four cells of each method on a task: difference, probability of improvement, p and detectable effect."""
    base = study.complete(task, baseline)
    found: dict[str, list[TableCell]] = {}
    differences: dict[str, stats.Array] = {}
    for method in study.trained:
        mine = study.complete(task, method)
        difference = difference_SI(mine, base) if mine and method != baseline else None
        if difference is not None:
            differences[method] = difference
            continue
        rows = [row for row in task.of(study.rows) if row["method"] == method]
        failed = [row for row in rows if math.isnan(row["score"])]
        lost = missing(failed, explain=False).text if failed else "n/a"
        empty = (
            TableCell("0", 0.0, 0.0, (), records(mine)) if method == baseline else TableCell(lost, notes=(study.missing(task, method),), records=records(rows))
        )
        rest = TableCell("–" if method == baseline else lost, records=records(rows))
        found[method] = [empty, rest, rest, rest]
    adjusted = dict(zip(differences, stats.holm([stats.crossed_p_value(d) for d in differences.values()]), strict=True))
    for method, difference in differences.items():
        mine = study.complete(task, method)
        found[method] = _compared(mine, base, difference, adjusted[method])
    return found


def _compared(left: Sequence[Row], right: Sequence[Row], difference: stats.Array, p: float) -> list[TableCell]:
    behind = records(left, right)
    improvement = stats.probability_of_improvement([row["score"] for row in left], [row["score"] for row in right])
    estimate = estimate_cell(stats.crossed_interval(difference), behind)
    return [estimate, number_cell(improvement, behind), p_cell(p, behind), number_cell(stats.crossed_detectable(difference), behind)]


def _field(study: Study) -> dict[str, list[TableCell]]:
    """Win rate, average rank, IQM and optimality gap of each trained method."""
    tasks = _ranked(study)
    complete = [method for method in study.trained if all(study.complete(task, method) for task in tasks)]
    several = len(complete) > 1
    scores = study.matrix(tasks, complete)
    wins, ranks = (dict(zip(complete, map(float, of(scores)), strict=True)) if several else {} for of in (stats.win_rate, stats.average_rank))
    everyone = records(*(study.complete(task, method) for task in tasks for method in complete)) if several else ()
    found = {}
    for method in study.trained:
        rows = [row for row in study.rows if row["method"] == method]
        closed, behind = gap_rows(rows, study.rows)
        values = (wins.get(method, math.nan), ranks.get(method, math.nan), *((stats.iqm(closed), stats.optimality_gap(closed)) if closed else (math.nan,) * 2))
        sources = (everyone, everyone, behind, behind)
        found[method] = [number_cell(value, source, 2) for value, source in zip(values, sources, strict=True)]
    return found


# --- every pair


def pairwise_table(scores: pd.DataFrame) -> Table | None:
    """Paired differences of all methods on the in-distribution headlines; None below four seeds, which say little, and where no two are complete."""
    study = Study.of(scores)
    if len(study.seeds) < stats.MIN_SEEDS:
        return None
    lines: list[tuple[TableCell, ...]] = []
    for task in study.inside:
        complete = {method: study.complete(task, method) for method in study.trained if method not in FIXED}
        usable = [method for method, found in complete.items() if found]
        lines += _lines(task.name, [(complete[left], complete[right]) for left, right in combinations(usable, 2)])
    if not lines:
        return None
    columns = [Column(name, name, number=False) for name in ("task", "left", "right")]
    columns += [Column("difference", "left − right", error=True), Column("interval", "95 % interval")]
    columns += [Column("probability_of_improvement", "P(left > right)"), Column("p_holm", "p (Holm)"), Column("minimum_detectable_effect", "detectable")]
    remarks = (
        f"{len(study.seeds)} seeds, the same for left and right, and the same items. Methods with a failed seed are left out: nothing is filled in.",
        "95 % interval and p: Student's t for seeds and for items, each with its own degrees of freedom; p is adjusted by Holm's method within a task.",
        "detectable: the true difference found with 80 % power at the 5 % level. All depend on which methods compete.",
    )
    return Table(f"{study.heading} – pairwise", tuple(columns), tuple(lines), remarks, labels=3)


def _lines(task: str, pairs: Sequence[tuple[list[Row], list[Row]]]) -> Iterator[tuple[TableCell, ...]]:
    """One line per pair of methods on a task, p-values adjusted among them; pairs that were not evaluated on the same items are left out."""
    differences = [(left, right, found) for left, right in pairs if (found := difference_SI(left, right)) is not None]
    adjusted = stats.holm([stats.crossed_p_value(found) for _, _, found in differences])
    for (left, right, found), p in zip(differences, adjusted, strict=True):
        whole, improvement, chance, detectable = _compared(left, right, found, p)
        behind, error, interval = whole.records, whole.error or 0.0, whole.interval
        labels = [TableCell(text, records=behind) for text in (task, left[0]["method"], right[0]["method"])]
        difference = TableCell(f"{signed(whole.value or 0.0, 3)} ± {fixed(error, 3)}", whole.value, error, (), behind)
        bracket = TableCell(f"[{signed(interval[0], 3)}, {signed(interval[1], 3)}]" if interval else "n/a", records=behind)
        yield (*labels, difference, bracket, improvement, chance, detectable)


def detectable(study: Study) -> tuple[str, ...]:
    """A remark per in-distribution task: which true differences to the student these seeds and items find; none below four seeds."""
    found = []
    for task in study.inside:
        gains = [gain for method in study.trained if method not in ANCHORS and (gain := study.gain(task, method)) is not None]
        sizes = sorted(size for gain in gains if not math.isnan(size := stats.crossed_detectable(gain.gained_SI)))
        if sizes:
            half, every = fixed(sizes[(len(sizes) - 1) // 2], 3), fixed(sizes[-1], 3)
            found.append(f"Detectable on {task.name} (5 % level, 80 % power): a true difference to the student of {half} for half of the methods, "
                         f"of {every} for all; between methods: `standing`, `pairwise`.")  # fmt: skip
    return tuple(found)
