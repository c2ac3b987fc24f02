"""What several seeds allow to be said of a comparison: complete methods, their gains over the student by seed and item, a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from zoo import stats
from zoo.score_frame import ANCHORS, anchor_row
from zoo.table_cells import Row, complete_seeds, records, signed
from zoo.table_forms import TableCell, fixed
from zoo.table_layouts import Task, frame_rows, seeds_of, tasks_of

FIXED = ("student", "teacher")
SMALLEST_P = 0.001


@dataclass(frozen=True)
class Gain:
    """What one method gained over the student on one task, by seed and item; `per_I` is what the teacher gained there, where gaps have a meaning."""

    gained_SI: stats.Array
    per_I: stats.Array | None
    records: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """The headline rows of one comparison, and what is complete in them: a method counts on a task where every seed has a score there."""

    rows: tuple[Row, ...]

    @classmethod
    def of(cls, scores: pd.DataFrame) -> Study:
        """From the frame of `zoo.scores`."""
        return cls(tuple(frame_rows(scores, headline=True)))

    @cached_property
    def tasks(self) -> list[Task]:
        """The evaluated tasks, in-distribution first."""
        return tasks_of(self.rows)

    @cached_property
    def inside(self) -> list[Task]:
        """The tasks in distribution."""
        return [task for task in self.tasks if task.family == "in_distribution"]

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that methods were trained with."""
        return seeds_of(self.rows)

    @cached_property
    def heading(self) -> str:
        """Id and title of the comparison."""
        return f"{self.rows[0]['comparison']}: {self.rows[0]['title']}" if self.rows[0]["title"] else str(self.rows[0]["comparison"])

    @cached_property
    def trained(self) -> list[str]:
        """The methods without the fixed models, no_op first, then by name."""
        return [method for method in dict.fromkeys(row["method"] for row in self.rows) if method not in FIXED]

    @cached_property
    def baseline(self) -> str | None:
        """The first method that the comparison lists after the anchors and that is complete; None where there is none."""
        listed = {row["method"]: row["listed"] for row in self.rows if row["method"] not in ANCHORS and not math.isnan(row["listed"])}
        return next((method for method in sorted(listed, key=lambda name: (listed[name], name)) if all(self.complete(t, method) for t in self.inside)), None)

    @cached_property
    def anchors(self) -> list[Row]:
        """The rows of the anchors."""
        return [row for row in self.rows if row["method"] in ANCHORS]

    @cached_property
    def _by_task(self) -> dict[Task, list[Row]]:
        return {}

    def of_task(self, task: Task) -> list[Row]:
        """The rows of a task, looked for once."""
        if task not in self._by_task:
            self._by_task[task] = task.of(self.rows)
        return self._by_task[task]

    def complete(self, task: Task, method: str) -> list[Row]:
        """The method's rows of the task in the order of seeds, or nothing where a seed has no score, or other items than the student."""
        found = complete_seeds(self.of_task(task), method, self.seeds)
        start = anchor_row("student", found[0], self.anchors) if found else None
        same = start is None or all(row["items"].keys() == start["items"].keys() for row in found)
        return found if same and all(row["items"].keys() == found[0]["items"].keys() for row in found) else []

    def missing(self, task: Task, method: str) -> str:
        """Why a method is not complete on a task, for a footnote."""
        mine = [row for row in task.of(self.rows) if row["method"] == method]
        lost = [f"seed {row['seed']} {row['status'].replace('_', ' ')}" for row in mine if math.isnan(row["score"])]
        return f"{method}: {', '.join(lost) or 'other seeds or other items than the rest'}; nothing is filled in"

    def gain(self, task: Task, method: str) -> Gain | None:
        """The method's gain over the student, paired by item and, where the student was evaluated by seed, by seed; None where incomplete."""
        found = self.complete(task, method)
        starts = [anchor_row("student", row, self.anchors) for row in found]
        if not found or any(start is None for start in starts):
            return None
        order = list(starts[0]["items"]) if starts[0] else []
        gained = [[row["items"][item] - start["items"][item] for item in order] for row, start in zip(found, starts, strict=True) if start]
        student, teacher = starts[0], anchor_row("teacher", found[0], self.anchors)
        whole = all(not row["gap_reason"] for row in found) and teacher is not None and student is not None
        per = np.array([teacher["items"][item] - student["items"][item] for item in order]) if whole and teacher and student else None
        return Gain(np.array(gained), per, records(found, starts, [teacher] if per is not None else []))

    def matrix(self, tasks: Sequence[Task], methods: Sequence[str]) -> stats.Array:
        """Scores (methods, tasks x seeds) of methods that are complete on all the tasks."""
        return np.array([[row["score"] for task in tasks for row in self.complete(task, method)] for method in methods])


def difference_SI(left: Sequence[Row], right: Sequence[Row]) -> stats.Array | None:
    """left - right by seed and item, rows in one order of seeds; None where they were not evaluated on the same items."""
    order = list(left[0]["items"])
    if any(row["items"].keys() != left[0]["items"].keys() for row in (*left, *right)):
        return None
    return np.array([[mine["items"][item] - other["items"][item] for item in order] for mine, other in zip(left, right, strict=True)])


def estimate_cell(found: stats.Estimate, behind: Iterable[str], digits: int = 3, notes: tuple[str, ...] = ()) -> TableCell:
    """A value with its 95 % interval, or with its standard error where there is none."""
    spread = f"[{signed(found.interval[0], digits)}, {signed(found.interval[1], digits)}]" if found.interval else f"± {fixed(found.stderr, digits)}"
    return TableCell(f"{signed(found.value, digits)} {spread}", found.value, found.stderr, notes, tuple(behind), found.interval)


def number_cell(value: float, behind: Iterable[str], digits: int = 3) -> TableCell:
    """A plain number; n/a for NaN."""
    return TableCell("n/a", records=tuple(behind)) if math.isnan(value) else TableCell(signed(value, digits), value, None, (), tuple(behind))


def p_cell(p: float, behind: Iterable[str]) -> TableCell:
    """A p-value; small ones as a bound in print."""
    if math.isnan(p):
        return TableCell("n/a", records=tuple(behind))
    return TableCell(f"< {SMALLEST_P}" if p < SMALLEST_P else fixed(p, 3), p, None, (), tuple(behind))


def behind(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The digests behind rows."""
    return records(rows)
