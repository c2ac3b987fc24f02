"""The lab's tables and their files: estimators, truncated supports, routings."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from zoo.lab.estimators import HORIZONS, EstimatorNumbers, estimator_numbers, truncation_numbers
from zoo.lab.figures import estimator_svg, routing_svg
from zoo.lab.routing import STUDENT, TEACHER, routing_numbers
from zoo.table_forms import Column, Table, TableCell, to_csv, to_latex, to_markdown, write_files

DIGITS = 3
FILES = (
    *(f"{table}.{form}" for table in ("estimators", "routing", "truncation") for form in ("md", "tex", "csv")),
    "estimators.svg", "routing.svg",
)  # fmt: skip


def write_lab_files(out: Path) -> list[Path]:
    """Write them all below a folder; returns the paths."""
    return write_files(out, lab_files())


@lru_cache(maxsize=1)
def lab_files() -> dict[str, bytes]:
    """Every generated file of the lab by name: a function of the code alone, the same bytes each time."""
    estimators, routing, truncation = estimator_table(), routing_table(), truncation_table()
    files = {
        "estimators.md": _markdown(estimators, "estimators.svg", "Bias and noise by estimator"),
        "estimators.tex": to_latex(estimators),
        "estimators.csv": to_csv(estimators),
        "routing.md": _markdown(routing, "routing.svg", "Where a negative update moves probability"),
        "routing.tex": to_latex(routing),
        "routing.csv": to_csv(routing),
        "truncation.md": to_markdown(truncation),
        "truncation.tex": to_latex(truncation),
        "truncation.csv": to_csv(truncation),
    }
    return {**{name: text.encode() for name, text in files.items()}, "estimators.svg": estimator_svg(), "routing.svg": routing_svg()}


def _markdown(table: Table, picture: str, caption: str) -> str:
    return to_markdown(table) + f"\n![{caption}]({picture})\n"


def number(value: float | None, digits: int = DIGITS, note: str | None = None) -> TableCell:
    """A rounded number; what is printed and what the CSV holds are the same, so that machines agree."""
    notes = (note,) if note else ()
    if value is None or math.isnan(value):
        return TableCell("–", notes=notes)
    rounded = round(value, digits) + 0.0
    return TableCell(f"{rounded:.{digits}f}".replace("-", "−"), rounded, notes=notes)


def text(value: str, note: str | None = None) -> TableCell:
    """A cell of words."""
    return TableCell(value, notes=(note,) if note else ())


def estimator_table() -> Table:
    """The estimator boundary table with what was measured."""
    columns = (
        Column("estimator", "estimator", number=False),
        Column("stated", "expectation equals", number=False),
        Column("bias_a", "bias (a)"),
        Column("cosine_a", "cos (a)"),
        Column("bias_b", "bias (b)"),
        Column("cosine_b", "cos (b)"),
        Column("variance_per_token", f"variance/token, T={HORIZONS[-1]}"),
        Column("growth", "growth with T"),
    )
    remarks = (
        "Exact expectations by enumeration on a tabular model (V = 4, T = 3; groups V = 3, T = 2), no sampling.",
        "(a): gradient of the per-state divergence with the visited states frozen; (b): gradient of the sequence-level reverse KL. "
        "Bias is |mean − reference| / |reference|.",
        f"Variance: trace of the covariance of one sequence's gradient at V = 3 (groups: V = 2, per member); growth: exponent between T = {HORIZONS[0]} "
        f"and T = {HORIZONS[-1]}. Zeros are below 1e-9.",
    )
    return Table("Estimators: what each one estimates", columns, tuple(_estimator_row(n) for n in estimator_numbers()), remarks)


def _estimator_row(n: EstimatorNumbers) -> tuple[TableCell, ...]:
    notes = {
        "zero": "its expected gradient is exactly zero, and all that is left is noise (D.6)" if n.null else None,
        "(a)": "(a) of the reverse KL",
    }
    return (
        text(n.row.name),
        text(n.row.says, notes.get(n.row.says)),
        number(n.state[0]),
        number(None if n.null else n.state[1]),
        number(n.sequence[0]),
        number(None if n.null else n.sequence[1]),
        number(n.per_token),
        number(n.growth, 2),
    )


def truncation_table() -> Table:
    """Where each mass handling leaves the student's mass on the support."""
    columns = (
        Column("loss", "loss on the teacher's top 2", number=False),
        Column("stated", "P_S stated", number=False),
        Column("first", "P_S, first start"),
        Column("second", "P_S, second start"),
        Column("ratio", "P_S / Q_S"),
    )
    rows = []
    for n in truncation_numbers():
        near = n.rest > 1e-6
        note = "still rising: the approach to 1 is slow" if near else None
        free = abs(n.student[0] - n.student[1]) > 1e-3
        cells = (text(n.row.name), text(n.row.says), number(n.student[0], note=note), number(n.student[1], note=note))
        rows.append((*cells, number(None if free else n.student[0] / n.teacher)))
    remarks = (
        "One state, V = 5, q = (.45, .25, .15, .1, .05), S the teacher's two best tokens, Q_S = 0.7; the exact update followed to its rest from two starts.",
        "On S the shape is the teacher's in every row; 1/e = 0.368.",
    )
    return Table("Truncated supports: where the mass comes to rest", columns, tuple(rows), remarks)


def routing_table() -> Table:
    """What a negative update does to each probability, by routing."""
    symbols = tuple(Column(f"change_{v}", f"Δp{v + 1}") for v in range(len(STUDENT)))
    columns = (
        Column("routing", "routing", number=False),
        Column("rule", "receives", number=False),
        Column("written", "written", number=False),
        *symbols,
        Column("reach", "reach"),
        Column("kl", "ΔKL"),
        Column("losers", "losers"),
    )
    rows = []
    for n in routing_numbers():
        for token, moved in n.moved.items():
            cells = (text(n.row.name), text(n.row.says), text(f"token {token + 1}"), *(number(float(m), 4) for m in moved))
            rows.append((*cells, number(n.reach[token]), number(n.kl[token]), number(float(n.losers[token]), 0)))
        blank = tuple(TableCell("") for _ in STUDENT)
        rows.append(
            (text(n.row.name), text(n.row.says), text("all, in the mean"), *blank, number(n.reach_all), number(n.mean_kl, note=_cosine(n.cosine)), text(""))
        )
    remarks = (
        f"One state: p = {_vector(STUDENT)}, q = {_vector(TEACHER)}; immediate log-ratio, first order, per unit of learning rate.",
        "reach: share of the mass that other tokens gain which goes to the teacher's two best; ΔKL: change of KL(p‖q); "
        "losers: tokens that lose mass although they were not written.",
        "Student's top 2: the same whatever was written. Several samples (multi_sample of n): 1/n of the sampled row and the rest of its mean.",
    )
    return Table("Routing: where a negative update moves probability", columns, tuple(rows), remarks, labels=3)


def _cosine(value: float) -> str:
    return f"cosine with the descent of KL(p‖q): {value:.3f}"


def _vector(values: object) -> str:
    return "(" + ", ".join(f"{float(v):g}" for v in values) + ")"  # type: ignore[attr-defined]
