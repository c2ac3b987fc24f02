"""A table as data, and its Markdown, CSV and terminal forms (LaTeX: `zoo.table_latex`). Nothing here knows what the numbers mean."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from zoo.table_latex import to_latex

__all__ = ["Column", "Table", "TableCell", "fixed", "to_csv", "to_latex", "to_markdown", "to_terminal", "write_files"]
TIGHT: dict[str, Any] = {"padding": (0, 1), "collapse_padding": True, "pad_edge": False, "show_edge": False}


@dataclass(frozen=True)
class TableCell:
    """What is printed, the number behind it with its error and 95 % interval (CSV), footnotes, and the digests of the records it is from."""

    text: str
    value: float | None = None
    error: float | None = None
    notes: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Column:
    """`key` names the column in CSV and manifest, `title` in print; `error` adds a `<key>_stderr` in CSV, `interval` a `_low` and a `_high`."""

    key: str
    title: str
    error: bool = False
    number: bool = True
    interval: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells below columns; the first `labels` cells of a row name it. `remarks` hold for the whole table.

    `sections` names the part of the table that each row is in, where it has parts: rows of one part stand together.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    remarks: tuple[str, ...] = ()
    labels: int = 1
    sections: tuple[str, ...] = ()

    @property
    def footnotes(self) -> tuple[str, ...]:
        """Different notes in order of first appearance; a note's number is its place here, from 1."""
        return tuple(dict.fromkeys(note for row in self.rows for cell in row for note in cell.notes))


def fixed(value: float, digits: int) -> str:
    """A number with so many decimals: of its twelve significant digits, a tie goes to the even neighbour.

    Twelve digits are the same on every machine, where the last bits of a sum may not be; so is what is printed.
    """
    if not math.isfinite(value):
        return "n/a"
    rounded = Decimal(f"{value:.12g}").quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)
    return f"{abs(rounded) if rounded == 0 else rounded:f}"


def to_markdown(table: Table, picture: str | None = None, links: Mapping[str, str] | None = None) -> str:
    """A heading, the remarks, the table with aligned columns, links (target by text), GitHub footnotes and a picture."""
    notes = table.footnotes
    lines = [[column.title for column in table.columns]]
    before = ""
    for section, row in zip(table.sections or [""] * len(table.rows), table.rows, strict=True):
        lines += [[f"**{_pipe(section)}**", *[""] * (len(row) - 1)]] if section != before else []
        lines.append([_pipe(cell.text) + "".join(f"[^{notes.index(n) + 1}]" for n in cell.notes) for cell in row])
        before = section
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(table.columns))]
    rule = [("-" * (width - 1) + ":") if column.number else "-" * width for column, width in zip(table.columns, widths, strict=True)]
    padded = [
        [text.rjust(width) if column.number else text.ljust(width) for text, width, column in zip(line, widths, table.columns, strict=True)]
        for line in [lines[0], rule, *lines[1:]]
    ]
    body = [f"| {' | '.join(line)} |" for line in padded]
    parts = [f"# {table.title}", "\n".join(f"- {remark}" for remark in table.remarks), "\n".join(body)]
    parts += ["Beside it: " + ", ".join(f"[{text}]({target})" for text, target in links.items()) + "."] if links else []
    parts += ["\n".join(f"[^{number}]: {note}" for number, note in enumerate(notes, 1))]
    parts += [f"![Scores by method and task]({picture})"] if picture else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _pipe(text: str) -> str:
    return text.replace("|", "\\|")


def to_csv(table: Table) -> str:
    """Plain numbers, beside each the `_stderr` or the ends of the interval that it has, marks where there is none; section and notes last."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for column in table.columns for name in _csv_names(column)] + ["section"] * bool(table.sections) + ["notes"])
    for index, row in enumerate(table.rows):
        values = [value for column, cell in zip(table.columns, row, strict=True) for value in _csv_values(column, cell)]
        writer.writerow([*values, *table.sections[index : index + 1], "; ".join(dict.fromkeys(note for cell in row for note in cell.notes))])
    return out.getvalue()


def _csv_names(column: Column) -> list[str]:
    return [column.key, *([f"{column.key}_stderr"] if column.error else []), *([f"{column.key}_low", f"{column.key}_high"] if column.interval else [])]


def _csv_values(column: Column, cell: TableCell) -> list[str]:
    values = [cell.text if cell.value is None else _number(cell.value)]
    values += ["" if cell.error is None else _number(cell.error)] if column.error else []
    return [*values, *(["", ""] if cell.interval is None else map(_number, cell.interval))] if column.interval else values


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "n/a"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else f"{value:.10g}"


def to_terminal(table: Table) -> RichTable:
    """The table for a terminal, as narrow as it gets, its remarks and footnotes as the caption; markup in the data is not interpreted."""
    notes = table.footnotes
    printed = RichTable(title=Text(table.title), box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", **TIGHT)
    for column in table.columns:
        printed.add_column(Text(column.title), justify="right" if column.number else "left", no_wrap=not column.number)
    for index, row in enumerate(table.rows):
        if table.sections and table.sections[index] != (table.sections[index - 1] if index else ""):
            printed.add_row(Text(table.sections[index], style="bold"))
        marks = [",".join(str(notes.index(note) + 1) for note in cell.notes) for cell in row]
        printed.add_row(*(Text(cell.text.replace(" ± ", "±") + (f" [{mark}]" if mark else "")) for cell, mark in zip(row, marks, strict=True)))
    printed.caption = Text("\n" + "\n".join([*table.remarks, *(f"[{number}] {note}" for number, note in enumerate(notes, 1))]).replace("`", ""))
    return printed


def write_files(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write generated files below a folder; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (out / name).write_bytes(data)
    return [out / name for name in files]
