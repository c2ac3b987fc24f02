"""`paper_tables/failure_detection.*`: does each detector fire on its provocation and keep silent on its control, and on what else does it fire."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from zoo.provoke.verdicts import DROP_Z, SEEDS, Row, Toy, drop_step, load_toys, rows_of, wilson
from zoo.table_forms import Column, Table, TableCell, fixed, to_csv, to_latex, to_markdown

NAMES = ("failure_detection", "failure_matrix", "failure_false_alarms")
COLUMNS = ("failure_mode", "provocation", "control", "seed", "fired_on_provocation", "fired_on_control", "first_alarm_step", "accuracy_drop_step", "validated")
SIGNS = {"red": "R", "amber": "a", "silent": "·", "not_measured": "–"}
ORDER = ("red", "amber", "silent", "not_measured")


def detection_files(records: Path) -> dict[str, bytes]:
    """Every file by name, a function of the records alone; empty where there are none."""
    toys, aside = load_toys(records)
    if not toys:
        return {}
    rows, modes = rows_of(toys), sorted({mode for toy in toys for mode in toy.run.findings})
    main, matrix, alarms = detection_table(rows, aside), matrix_table(toys, modes), false_alarms(toys, modes)
    files = {"failure_detection.csv": detection_csv(rows), "failure_matrix.csv": matrix_csv(toys, modes), "failure_false_alarms.csv": to_csv(alarms)}
    links = {"the full matrix": "failure_matrix.md", "false alarms on healthy runs": "failure_false_alarms.md"}
    files["failure_detection.md"] = to_markdown(main, links=links)
    files |= {f"{name}.md": to_markdown(table) for name, table in zip(NAMES[1:], (matrix, alarms), strict=True)}
    files |= {f"{name}.tex": to_latex(table) for name, table in zip(NAMES, (main, matrix, alarms), strict=True)}
    return {name: text.encode() for name, text in sorted(files.items())}


def cells_of(row: Row) -> dict[str, str]:
    """A row of the CSV."""
    mode, (up, down) = row.mode, (row.provocation, row.control)
    return dict(zip(COLUMNS, (
        mode, _said(up), _said(down), str(row.seed), up.fired(mode) if up else "not run", down.fired(mode) if down else "not run",
        _step(up.first_step(mode) if up else None), _step(_drop(up) if up else None), "yes" if row.validated else "no",
    ), strict=True))  # fmt: skip


def detection_csv(rows: Sequence[Row]) -> str:
    """Exactly the columns of `COLUMNS`."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells_of(row) for row in rows)
    return out.getvalue()


def detection_table(rows: Sequence[Row], aside: int) -> Table:
    """The same for print, the seeds of a mode in one row."""
    modes: dict[str, list[Row]] = {}
    for row in rows:
        modes.setdefault(row.mode, []).append(row)
    made = []
    for mode, seeds in modes.items():
        texts = [cells_of(row) for row in seeds]
        digests = tuple(toy.digest for row in seeds for toy in (row.provocation, row.control) if toy)
        values = [mode, texts[0]["provocation"], texts[0]["control"], *(_shared(texts, name) for name in COLUMNS[4:8]), texts[0]["validated"]]
        made.append(tuple(TableCell(value, records=digests) for value in values))
    good = sum(seeds[0].validated for seeds in modes.values())
    names = ("failure mode", "provocation", "control", "fired on it", "fired on control", "first alarm", "accuracy fell", "validated")
    remarks = (
        f"{good} of {len(modes)} detectors validated: fired, amber or red, on the provocation with every seed ({', '.join(map(str, SEEDS))}), and measured "
        "and silent on the control with every seed. Values are by seed.",
        "First alarm: the optimizer step at which the detector first fired on the provocation. Accuracy fell: the first evaluation (greedy, on the validation "
        f"prompts) below the best so far by more than {DROP_Z} standard errors of the difference of two shares.",
        f"Thresholds were tuned on other seeds (100 and above). {aside} older records of the same set-ups are set aside.",
    )
    columns = tuple(Column(name.replace(" ", "_"), name, number=False) for name in names)
    return Table("Detectors of failure modes on what provokes them", columns, tuple(made), remarks)


def matrix_table(toys: Sequence[Toy], modes: Sequence[str]) -> Table:
    """Every set-up against every detector: how often of its seeds it was red (R), amber (a), silent or not measured."""
    setups: dict[str, list[Toy]] = {}
    for toy in toys:
        setups.setdefault(toy.run.method, []).append(toy)
    rows = [
        (TableCell(name, records=tuple(t.digest for t in found)), *(TableCell(_counts([toy.level(mode) for toy in found])) for mode in modes))
        for name, found in setups.items()
    ]  # fmt: skip
    remarks = (
        "R red, a amber, · silent, – not measured (its columns or its probe are not there); a number says for how many seeds, where they differ.",
        "A set-up that provokes one failure may show others as well: a stop token that is lost (FM03) fills the budget (FM01). The control column of "
        "failure_detection says whether a detector can tell its own failure from its absence.",
    )
    columns = (Column("set_up", "set-up", number=False), *(Column(mode, mode.removeprefix("FM"), number=False) for mode in modes))
    return Table("Every set-up against every detector", columns, tuple(rows), remarks)


def matrix_csv(toys: Sequence[Toy], modes: Sequence[str]) -> str:
    """One row for each run, a level for each detector."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["set_up", "arm", "seed", *modes])
    for toy in toys:
        writer.writerow([toy.run.method, toy.run.arm, toy.run.seed, *(toy.level(mode).replace("_", " ") for mode in modes)])
    return out.getvalue()


def false_alarms(toys: Sequence[Toy], modes: Sequence[str]) -> Table:
    """How often each detector fires on healthy runs in which it was measured."""
    healthy = [toy for toy in toys if toy.run.arm == "healthy"]
    rows = []
    for mode in modes:
        levels = [toy.level(mode) for toy in healthy]
        count, fired = len(levels) - levels.count("not_measured"), levels.count("amber") + levels.count("red")
        low, high = wilson(fired, count)
        where = sorted({toy.run.method.removeprefix("healthy-") for toy in healthy if toy.fired(mode) == "yes"})
        digests = tuple(toy.digest for toy in healthy)
        rate = TableCell(fixed(fired / count, 3), fired / count, interval=(low, high), records=digests) if count else TableCell(SIGNS["not_measured"])
        numbers = (TableCell(str(n), n) for n in (count, levels.count("amber"), levels.count("red")))
        rows.append((TableCell(mode), *numbers, rate, TableCell(", ".join(where) or SIGNS["not_measured"])))
    methods = sorted({toy.run.method.removeprefix("healthy-") for toy in healthy})
    remarks = (f"{len(healthy)} runs of {len(methods)} entries in which nothing is provoked: {', '.join(methods)}. The CSV has 95 % intervals (Wilson).",)
    columns = (
        Column("failure_mode", "failure mode", number=False), Column("measured", "measured"), Column("amber", "amber"), Column("red", "red"),
        Column("rate", "rate", interval=True), Column("methods", "on", number=False),
    )  # fmt: skip
    return Table("False alarms on healthy runs", columns, tuple(rows), remarks)


def _drop(toy: Toy) -> int | None:
    return drop_step(toy.run.accuracy, toy.run.prompts)


def _said(toy: Toy | None) -> str:
    return "" if toy is None else str(getattr(toy.run, "summary", toy.run.method))


def _step(step: int | None) -> str:
    return "" if step is None else str(step)


def _shared(texts: Sequence[dict[str, str]], name: str) -> str:
    values = [text[name] or SIGNS["not_measured"] for text in texts]
    return values[0] if len(set(values)) == 1 else " ".join(values)


def _counts(levels: Sequence[str]) -> str:
    found = [(SIGNS[level], levels.count(level)) for level in ORDER if level in levels]
    return found[0][0] if len(found) == 1 else "".join(f"{sign}{count}" for sign, count in found)
