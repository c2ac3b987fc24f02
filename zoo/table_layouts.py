"""Which rows and columns the tables of a comparison have. Every table is a function of the frame of `zoo.scores`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from zoo import stats
from zoo import table_cells as cells
from zoo.score_frame import ANCHORS, COSTS, FAMILIES, PHASES, anchor_row
from zoo.table_cells import Row
from zoo.table_forms import Column, Table, TableCell, fixed

MANY = 20  # rows; more are divided into sections
Body = tuple[tuple[TableCell, ...], ...]
Families = Mapping[str, tuple[int, str]]  # method → the place of its family among families, and its name
BRIEF = ("method", "status", "score", "gap_closed", "seconds")
ACROSS_SEEDS = "± is one standard error over seeds and test items."
COST_TITLES = {name: name.replace("_", " ") for name in COSTS[:5]}
SPENT = ("steps", "rollouts", "supervised_tokens", "generated_tokens", "teacher_tokens")
GIB = 2.0**30
COST_READING = (
    "Means over seeds; what failed runs spent counts too.",
    "Phases: rollout writes generated tokens, score reads teacher tokens, update trains on supervised ones, evaluate writes the suites' answers.",
    "Peak memory: of the first process; on a GPU what torch allocated for the run, on a CPU the whole process's highest so far.",
    "FLOP: estimated from numbers of tokens, not measured. Truncated, mean length (tokens): the answers in evaluation.",
)


@dataclass(frozen=True)
class Task:
    """One evaluated task; `name` is how columns call it."""

    family: str
    suite: str
    task: str
    name: str

    def of(self, rows: Iterable[Row]) -> list[Row]:
        return [row for row in rows if (row["family"], row["suite"], row["task"]) == (self.family, self.suite, self.task)]


@dataclass(frozen=True)
class Shown:
    """A column and how its cell follows from one method's rows (all headline tasks and seeds)."""

    column: Column
    cell: Callable[[Sequence[Row]], TableCell]


def frame_rows(scores: pd.DataFrame, *, headline: bool) -> list[Row]:
    """The frame's rows as mappings, only the headline metric of each task if asked."""
    rows = [{str(key): value for key, value in row.items()} for row in scores.to_dict("records")]
    return [row for row in rows if row["headline"] or not headline]


def tasks_of(rows: Iterable[Row]) -> list[Task]:
    """The evaluated tasks: in-distribution first, retention last, then by suite and name."""
    found = sorted({(row["family"], row["suite"], row["task"]) for row in rows if row["task"]}, key=lambda t: (FAMILIES.index(t[0]), t))
    names = [task for _, _, task in found]
    return [Task(*task, task[2] if names.count(task[2]) == 1 else f"{task[1]}/{task[2]}") for task in found]


def seeds_of(rows: Iterable[Row]) -> list[int]:
    """The seeds that methods were trained with."""
    found = list(rows)
    return sorted({row["seed"] for row in found if row["method"] not in ANCHORS} or {row["seed"] for row in found})


def _heading(rows: Sequence[Row]) -> str:
    return f"{rows[0]['comparison']}: {rows[0]['title']}" if rows[0]["title"] else str(rows[0]["comparison"])


# --- the main table


def main_table(scores: pd.DataFrame, *, brief: bool = False) -> Table:
    """One row per method, anchors first, then by name: headline scores, truncation, gap closed, retention and costs.

    `brief` keeps what fits a terminal: method, scores, gap closed and seconds.
    """
    rows = frame_rows(scores, headline=True)
    shown = [Shown(Column("method", "method", number=False), cells.name_cell), *_score_columns(rows), *_cost_columns(len(seeds_of(rows)) > 1)]
    shown = [show for show in shown if show.column.key.rpartition(".")[2] in BRIEF or not brief]
    body = _body(rows, shown)
    reading = _reading(rows)
    remarks = [*reading[:2], *_warnings(rows)] if brief else [*_setting(rows), *reading, *_warnings(rows)]
    remarks += _legend(cell.text for line in body for cell in line)
    columns = (replace(show.column, title=show.column.title.replace("distribution", "dist.")) if brief else show.column for show in shown)
    return Table(_heading(rows), tuple(columns), body, tuple(remarks))


def by_family(table: Table, families: Families) -> Table:
    """A table of many methods in sections: those of one family together, in the families' order; a small one as it is."""
    if len(table.rows) <= MANY:
        return table
    placed = [(families.get(row[0].text, (len(families), "Other")), row) for row in table.rows]
    placed.sort(key=lambda pair: pair[0])  # stable: by name within
    remarks = tuple(remark.replace("in alphabetical order", "by family") for remark in table.remarks)
    return replace(table, rows=tuple(row for _, row in placed), sections=tuple(name for (_, name), _ in placed), remarks=remarks)


def _body(rows: Sequence[Row], shown: Sequence[Shown]) -> Body:
    mine: dict[str, list[Row]] = {}
    for row in rows:
        mine.setdefault(row["method"], []).append(row)
    return tuple(tuple(show.cell(found) for show in shown) for found in mine.values())


def _score_columns(rows: Sequence[Row]) -> list[Shown]:
    tasks, anchors = tasks_of(rows), [row for row in rows if row["method"] in ANCHORS]
    inside, kept = ([task for task in tasks if task.family == family] for family in ("in_distribution", "retention"))
    if not tasks:
        return [Shown(Column("status", "status"), _status_cell)]

    def column(task: Task, key: str, title: str, cell: Callable[[Sequence[Row]], TableCell], error: bool = True) -> Shown:
        bounds = len(seeds_of(rows)) >= stats.MIN_SEEDS and key in ("gap_closed", "difference")
        return Shown(Column(f"{task.name}.{key}", title, error, interval=bounds), lambda mine: cell(task.of(mine)))

    shown = [column(task, "score", f"{task.name} ({task.family.replace('_', ' ')})", cells.score_cell) for task in tasks]
    shown += [column(task, "truncated_share", _titled("truncated", task, inside), cells.share_cell, error=False) for task in inside]
    shown += [column(task, "gap_closed", _titled("gap closed", task, inside), lambda mine: cells.gap_cell(mine, anchors)) for task in inside]
    if len(seeds_of(rows)) >= stats.MIN_SEEDS:
        shown.append(Shown(Column("iqm_gap_closed", "IQM gap closed"), lambda mine: cells.iqm_cell(mine, anchors)))
    shown += [column(task, "difference", _titled("Δ retention", task, kept), lambda mine: cells.difference_cell(mine, anchors)) for task in kept]
    return shown


def _status_cell(rows: Sequence[Row]) -> TableCell:
    return cells.missing(rows, explain=True)


def _titled(title: str, task: Task, tasks: Sequence[Task]) -> str:
    return title if len(tasks) == 1 else f"{title}, {task.name}"


def _cost_columns(several: bool) -> list[Shown]:
    return [_cost_column(name, title) for name, title in COST_TITLES.items()] + ([_cost_column("flops_estimate", "FLOP")] if several else [])


def _cost_column(name: str, title: str, key: str | None = None, unit: float = 1.0) -> Shown:
    return Shown(Column(key or name, title), lambda mine: cells.cost_cell(mine, name, title, unit))


# --- remarks


def _setting(rows: Sequence[Row]) -> list[str]:
    """What holds for all rows: pair, budget, suites, weights."""
    trained = [row for row in rows if row["uuid"] and row["method"] not in ("student", "teacher")]
    asked = {(int(row["budget_asked"]), row["budget_unit"].replace("_", " ")) for row in trained}
    budget = f"; budget: {asked.copy().pop()[0]:,} {asked.copy().pop()[1]} per method and seed" if len(asked) == 1 else ""
    suites = sorted({f"`{row['suite']}` (version {row['suite_digest'][:12]})" for row in rows if row["suite_digest"]})
    versions = sorted({row["lm_eval_version"] for row in rows if row["lm_eval_version"]})
    remarks = [f"Pair `{next((row['pair'] for row in rows if row['pair']), '?')}`{budget}."]
    remarks += [f"Suite {', '.join(suites)}, lm-eval {', '.join(versions)}."] if suites else []
    weights = {row["weights_note"] for row in rows if row["uuid"]}
    return remarks + [f"Weights: {note}." for note in weights if note and len(weights) == 1]


def _reading(rows: Sequence[Row]) -> list[str]:
    """How to read the numbers, and what the number of seeds allows."""
    seeds = len(seeds_of(rows))
    if seeds == 1:
        allowed = "One seed: no interval over seeds and no ranking is given. Methods stand in alphabetical order."
        errors_over = "± is one standard error over test items; it says nothing about another seed."
    elif seeds < stats.MIN_SEEDS:
        allowed = f"{seeds} seeds: means; too few for intervals over seeds, and no ranking is given. Methods stand in alphabetical order."
        errors_over = ACROSS_SEEDS
    else:
        allowed = (
            f"{seeds} seeds: means; brackets are 95 % intervals over seeds and items, paired with the student by item. Who beats whom: `standing`, `pairwise`."
        )
        errors_over = ACROSS_SEEDS
    gap = "Gap closed = (method − student) / (teacher − student), only where teacher − student exceeds 2 standard errors."
    remarks = [allowed, gap, errors_over]
    errors = [row["difference_stderr"] for row in rows if row["family"] == "in_distribution" and row["method"] not in ANCHORS]
    errors = [error for error in errors if not math.isnan(error)]
    if seeds == 1 and errors:
        smallest = fixed(stats.minimum_detectable_effect(max(errors)), 3)
        remarks.append(f"In distribution, item noise hides true differences to the student below {smallest} (5 % level, 80 % power).")
    return remarks


def _warnings(rows: Sequence[Row]) -> list[str]:
    """What makes rows less comparable than they look."""
    remarks = []
    trained = [row for row in rows if row["uuid"] and row["method"] not in ("student", "teacher")]
    if len({(row["budget_asked"], row["budget_unit"]) for row in trained}) > 1:
        listed = sorted({f"{row['method']} {int(row['budget_asked']):,} {row['budget_unit'].replace('_', ' ')}" for row in trained})
        remarks.append(f"**Unequal budgets**: {', '.join(listed)}.")
    for suite in sorted({row["suite"] for row in rows if row["suite"]}):
        if len({row["suite_digest"] for row in rows if row["suite"] == suite and row["suite_digest"]}) > 1:
            remarks.append(f"**Rows were evaluated on different versions of the suite `{suite}`.**")
    for row in rows:
        student = anchor_row("student", row, rows) if row["method"] == "no_op" and row["items"] else None
        changed = sum(student["items"].get(item) != score for item, score in row["items"].items()) if student else 0
        if changed:
            remarks.append(f"**`no_op` differs from the student on {changed} items of {row['task']}**: an update without learning changed it.")
    return remarks


def _legend(texts: Iterable[str]) -> list[str]:
    seen = {mark for text in texts for mark in (*text.split(" / "), text[-1:])}
    explained = [f"{mark}: {meaning}" for mark, meaning in cells.LEGEND.items() if mark in seen]
    return [f"{'; '.join(explained)}."] if explained else []


# --- the other tables


def cost_table(scores: pd.DataFrame) -> Table:
    """What each method used up, one row per method: tokens, seconds and tokens per second by phase, memory, FLOP, length of answers."""
    rows = frame_rows(scores, headline=True)
    shown = [Shown(Column("method", "method", number=False), cells.name_cell)]
    shown += [_cost_column(name, name.replace("_", " ")) for name in SPENT]
    shown += [_cost_column("gpu_seconds", "GPU seconds")] if any(row["gpu_seconds"] > 0 for row in rows) else []
    shown += [column for phase in PHASES for column in _phase_columns(phase)]
    shown += [_cost_column("peak_memory_bytes", "peak memory (GiB)", "peak_memory_gib", GIB), _cost_column("flops_estimate", "FLOP")]
    inside = [task for task in tasks_of(rows) if task.family == "in_distribution"]
    shown += [column for task in inside for column in _answer_columns(task, inside)]
    shown.append(Shown(Column("processes", "processes"), cells.processes_cell))
    body = _body(rows, shown)
    remarks = (*_setting(rows)[:1], *COST_READING, *_legend(cell.text for line in body for cell in line))
    return Table(f"{_heading(rows)} – costs", tuple(show.column for show in shown), body, remarks)


def _phase_columns(phase: str) -> list[Shown]:
    rate = Shown(Column(f"{phase}_tokens_per_second", f"{phase} tokens/s"), lambda mine: cells.rate_cell(mine, phase))
    return [_cost_column(f"{phase}_seconds", f"{phase} seconds"), rate]


def _answer_columns(task: Task, tasks: Sequence[Task]) -> list[Shown]:
    share = Column(f"{task.name}.truncated_share", _titled("truncated", task, tasks))
    length = Column(f"{task.name}.mean_length", _titled("mean length", task, tasks))
    return [Shown(share, lambda mine: cells.share_cell(task.of(mine))), Shown(length, lambda mine: cells.length_cell(task.of(mine)))]


def metrics_table(scores: pd.DataFrame) -> Table:
    """Every metric and filter of every task, one row per method, seed and metric."""
    rows = frame_rows(scores, headline=False)
    labels = ("method", "seed", "suite", "task", "family", "metric", "headline")
    numbers = {"score": "score", "n": "items", "truncated_share": "truncated", "mean_length": "mean length"}
    columns = [Column(name, name, number=False) for name in labels]
    columns += [Column(name, title, error=name == "score") for name, title in numbers.items()]

    def line(row: Row) -> tuple[TableCell, ...]:
        behind = tuple(row["records"])
        named = [TableCell({True: "yes", False: "no"}[row[name]] if name == "headline" else str(row[name]), records=behind) for name in labels]
        return (*named, *cells.raw_cells(row))

    body = tuple(line(row) for row in rows if row["task"])
    legend = _legend(cell.text for line_ in body for cell in line_)
    return Table(f"{_heading(rows)} – all metrics", tuple(columns), body, ("± is one standard error over test items.", *legend), labels=7)
