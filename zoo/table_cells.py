"""How each cell of a comparison's tables follows from the scores. Every cell carries the digests of the records behind it.

A row is one row of the frame of `zoo.scores` as a mapping; `rows` are those of one method (and task) over its seeds,
`everything` are all rows of the comparison, for the anchors among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zoo import stats
from zoo.score_frame import ANCHORS, NOT_RUN, WITHDRAWN, anchor_row
from zoo.table_forms import TableCell, fixed

Row = dict[str, Any]
MARKS = {
    "diverged": "div",
    "oom": "oom",
    "timeout": "t/o",
    "error": "err",
    WITHDRAWN: "n/a",
    NOT_RUN: "–",
    "cancelled": "–",
    "orphaned": "–",
    "success": "n/a",
}
LEGEND = {
    "div": "diverged",
    "oom": "out of memory",
    "t/o": "out of time",
    "err": "ended by an error",
    "n/a": "not available, for the reason given",
    "–": "not run to its end",
    "†": "no interval, because of too few seeds or a failed one",
}
EVIDENCE = {
    "paper_text": "objective from the paper's text, not checked against official code",
    "abstract": "objective from the paper's abstract only",
    "inferred": "objective inferred, not stated by the paper",
}


def name_cell(rows: Sequence[Row]) -> TableCell:
    """The method's name, with footnotes about its evidence and its records."""
    method = rows[0]["method"]
    notes = [f"{method}: {EVIDENCE[row['evidence']]}" for row in rows if row["evidence"] in EVIDENCE and method not in ANCHORS]
    notes += [note for row in rows for note in row["notes"]]
    return TableCell(method, notes=tuple(dict.fromkeys(notes)), records=records(rows))


def records(*groups: Iterable[Mapping[str, Any] | None]) -> tuple[str, ...]:
    return tuple(sorted({digest for rows in groups for row in rows if row for digest in row["records"]}))


def scored(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not math.isnan(row["score"])]


def missing(rows: Sequence[Row], *, explain: bool) -> TableCell:
    """The mark of a cell without a number: how its runs ended, once each, with the reasons as footnotes."""
    marks = dict.fromkeys(MARKS[row["status"]] for row in rows)
    reasons = [f"{row['method']}: {row['reason']}" for row in rows if row["status"] != NOT_RUN]
    return TableCell(" / ".join(marks) or "–", notes=tuple(dict.fromkeys(reasons)) if explain else (), records=records(rows))


def _partly(rows: Sequence[Row]) -> tuple[str, ...]:
    """A footnote where some seeds have no score: the mean is over the others."""
    lost = [f"seed {row['seed']} {MARKS[row['status']]}" for row in rows if math.isnan(row["score"])]
    return (f"{rows[0]['method']}: mean over {len(scored(rows))} of {len(rows)} seeds ({', '.join(lost)})",) if lost else ()


def standard_error(found: Sequence[Row]) -> float | None:
    """One standard error of the mean of scored rows, over items and with several seeds over those too; None where seeds were evaluated on other items."""
    order = list(found[0]["items"])
    if any(row["items"].keys() != found[0]["items"].keys() for row in found):
        return None
    return float(stats.crossed_mean([[row["items"][item] for item in order] for row in found]).stderr)


def score_cell(rows: Sequence[Row]) -> TableCell:
    """Mean headline score over seeds ± its standard error: over items, and with several seeds over those too."""
    found = scored(rows)
    if not found:
        return missing(rows, explain=True)
    value = float(np.mean([row["score"] for row in found]))
    error = standard_error(found)
    if error is None:
        counts = " / ".join(str(count) for count in dict.fromkeys(len(row["items"]) for row in found))
        notes = (*_partly(rows), f"{found[0]['method']}: seeds were evaluated on other items ({counts}): a mean of unlike scores, without an error")
        return TableCell(fixed(value, 3), value, None, notes, records(rows))
    return TableCell(f"{fixed(value, 3)} ± {fixed(error, 3)}", value, error, _partly(rows), records(rows))


def share_cell(rows: Sequence[Row]) -> TableCell:
    """Mean share of answers that were cut off at the length limit."""
    return _of_answers(rows, "truncated_share", lambda value: f"{fixed(100 * value, 1)} %")


def length_cell(rows: Sequence[Row]) -> TableCell:
    """Mean length of the answers in tokens."""
    return _of_answers(rows, "mean_length", lambda value: fixed(value, 1))


def _of_answers(rows: Sequence[Row], name: str, form: Callable[[float], str]) -> TableCell:
    found = [row for row in scored(rows) if not math.isnan(row[name])]
    if not found:
        failed = not scored(rows)
        return missing(rows, explain=False) if failed else TableCell("n/a", notes=("nothing is generated",), records=records(rows))
    value = float(np.mean([row[name] for row in found]))
    return TableCell(form(value), value, None, (), records(rows))


def _gained(found: Sequence[Row], rows: Sequence[Row]) -> tuple[stats.Array, stats.Array]:
    """Gains over the student (seeds, items), and the teacher's gain (items), in one item order."""
    student, teacher = anchor_row("student", found[0], rows), anchor_row("teacher", found[0], rows)
    assert student is not None and teacher is not None
    order = list(student["items"])
    starts = [anchor_row("student", row, rows) or student for row in found]
    gained = [[row["items"][item] - start["items"][item] for item in order] for row, start in zip(found, starts, strict=True)]
    return np.array(gained), np.array([teacher["items"][item] - student["items"][item] for item in order])


def gap_cell(rows: Sequence[Row], everything: Sequence[Row]) -> TableCell:
    """Teacher-gap closed; with four seeds or more, all of them scored, a 95 % interval over seeds and items."""
    found = scored(rows)
    if not found:
        return missing(rows, explain=False)
    behind = records(rows, (anchor_row(anchor, row, everything) for row in found for anchor in ("student", "teacher")))
    reasons = tuple(dict.fromkeys(row["gap_reason"] for row in found if row["gap_reason"]))
    if reasons:
        return TableCell("n/a", notes=reasons, records=behind)
    method = found[0]["method"]
    if method in ("student", "teacher"):
        return TableCell(str(int(method == "teacher")), float(method == "teacher"), 0.0, (), behind)
    gained_SI, whole_I = _gained(found, everything)
    closed = stats.crossed_interval(gained_SI, whole_I)
    complete = len(found) == len(rows)
    spread = f"[{signed(closed.interval[0])}, {signed(closed.interval[1])}]" if closed.interval and complete else f"± {fixed(closed.stderr, 2)}"
    few = len(rows) > 1 and (len(found) < stats.MIN_SEEDS or not complete)
    notes = ("nothing varies, neither over seeds nor over items: no interval",) if len(rows) > 1 and not few and closed.interval is None else ()
    return TableCell(f"{signed(closed.value)} {spread}{' †' if few else ''}", closed.value, closed.stderr, notes, behind, closed.interval if complete else None)


def gap_rows(rows: Sequence[Row], everything: Sequence[Row]) -> tuple[list[float], tuple[str, ...]]:
    """The teacher-gap closed of every task but retention's and every seed, where all have it (else nothing), and the records behind them.

    A task where the teacher does not lead is left out for everybody; a seed with other items than the anchors is one that lacks the number.
    """
    valid = _with_gap(rows)
    values = [row["gap_closed"] for row in valid]
    if not values or any(math.isnan(value) for value in values):
        return [], records(rows)
    return values, records(rows, (anchor_row(anchor, row, everything) for row in valid for anchor in ("student", "teacher")))


def _with_gap(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a teacher-gap closed, or would have it had their run come to its end on the anchors' items."""
    return [row for row in rows if row["family"] != "retention" and (not row["gap_reason"] or math.isnan(row["difference"]))]


def iqm_cell(rows: Sequence[Row], everything: Sequence[Row]) -> TableCell:
    """Interquartile mean of the teacher-gap closed over tasks and seeds, where every one of them has it."""
    values, behind = gap_rows(rows, everything)
    if not values:
        return TableCell("n/a", notes=("the IQM needs every seed",) if _with_gap(rows) else (), records=behind)
    return TableCell(signed(stats.iqm(values)), stats.iqm(values), None, (), behind)


def difference_cell(rows: Sequence[Row], everything: Sequence[Row]) -> TableCell:
    """Raw difference to the untrained student on the same items ± its standard error."""
    found = scored(rows)
    if not found:
        return missing(rows, explain=False)
    behind = records(rows, (anchor_row("student", row, everything) for row in found))
    lost = [row["gap_reason"] for row in found if math.isnan(row["difference"])]
    if lost:
        return TableCell("n/a", notes=tuple(dict.fromkeys(lost)), records=behind)
    if found[0]["method"] == "student":
        return TableCell("0", 0.0, 0.0, (), behind)
    starts = [anchor_row("student", row, everything) or row for row in found]
    differences = [[row["items"][item] - start["items"][item] for item in start["items"]] for row, start in zip(found, starts, strict=True)]
    estimate, complete = stats.crossed_interval(differences), len(found) == len(rows)
    value, error, interval = estimate.value, estimate.stderr, estimate.interval if complete else None
    spread = f"[{signed(interval[0], 3)}, {signed(interval[1], 3)}]" if interval else f"± {fixed(error, 3)}"
    return TableCell(f"{'+' if value > 0 else ''}{signed(value, 3)} {spread}", value, error, (), behind, interval)


def cost_cell(rows: Sequence[Row], name: str, title: str, unit: float = 1.0) -> TableCell:
    """What a run spent, the mean over seeds; a failed run spent something too. `unit` is the size of what the column counts."""
    spent = _spent(rows, name)
    if not spent or any(math.isnan(value) for value in spent):
        return _unrecorded(rows, spent, f"{title} were")
    value = float(np.mean(spent)) / unit
    form = _seconds if name.endswith("seconds") else _amount if unit == 1.0 else _digits
    return TableCell(form(value), value, None, (), records(rows))


def rate_cell(rows: Sequence[Row], phase: str) -> TableCell:
    """Tokens per second of a phase: all seeds' tokens over all seeds' seconds."""
    seconds, tokens = _spent(rows, f"{phase}_seconds"), _spent(rows, f"{phase}_tokens")
    if not seconds or any(math.isnan(value) for value in (*seconds, *tokens)):
        return _unrecorded(rows, seconds, f"tokens per second of {phase} were")
    if sum(seconds) == 0:
        return TableCell("n/a", notes=("this phase took no time",), records=records(rows))
    value = sum(tokens) / sum(seconds)
    return TableCell(_amount(value), value, None, (), records(rows))


def processes_cell(rows: Sequence[Row]) -> TableCell:
    """How many processes a run had, with a footnote on the device; several numbers where seeds differ."""
    runs = {row["uuid"]: row for row in rows if row["uuid"]}.values()
    counts = sorted({row["processes"] for row in runs if not math.isnan(row["processes"])})
    devices = tuple(dict.fromkeys(f"on {row['device']}" for row in runs if row["device"]))
    if not counts:
        return TableCell("n/a" if runs else "–", notes=devices or (("processes and device were not recorded",) if runs else ()), records=records(rows))
    return TableCell(" / ".join(f"{count:.0f}" for count in counts), counts[0] if len(counts) == 1 else None, None, devices, records(rows))


def _spent(rows: Sequence[Row], name: str) -> list[float]:
    return list({row["uuid"]: row[name] for row in rows if row["uuid"]}.values())


def _unrecorded(rows: Sequence[Row], spent: Sequence[float], what: str) -> TableCell:
    return TableCell("n/a", notes=(f"{what} not recorded",), records=records(rows)) if spent else TableCell("–")


def raw_cells(row: Row) -> list[TableCell]:
    """Score, number of items, truncated share and mean length of one run on one metric."""
    behind = tuple(row["records"])
    if math.isnan(row["score"]):
        return [missing([row], explain=index == 0) for index in range(4)]
    error = None if math.isnan(row["stderr"]) else row["stderr"]
    shown = fixed(row["score"], 4) + ("" if error is None else f" ± {fixed(error, 4)}")
    found = [TableCell(shown, row["score"], error, (), behind), TableCell(f"{row['n']:.0f}", row["n"], None, (), behind)]
    share, length = row["truncated_share"], row["mean_length"]
    found.append(TableCell("n/a", records=behind) if math.isnan(share) else TableCell(f"{fixed(100 * share, 1)} %", share, None, (), behind))
    found.append(TableCell("n/a", records=behind) if math.isnan(length) else TableCell(fixed(length, 1), length, None, (), behind))
    return found


def complete_seeds(rows: Sequence[Row], method: str, seeds: Sequence[int]) -> list[Row]:
    """The method's rows of one task in the order of seeds, or nothing where a seed lacks a score."""
    found = {row["seed"]: row for row in scored(rows) if row["method"] == method}
    return [found[seed] for seed in seeds] if found.keys() >= set(seeds) else []


def _amount(value: float) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value / 1e3:.1f} k" if value >= 1e4 else f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def signed(value: float, digits: int = 2) -> str:
    """A number that may be negative, with a minus sign in place of the hyphen."""
    return fixed(value, digits).replace("-", "−")
