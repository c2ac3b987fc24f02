"""A table as data, and its Markdown, LaTeX, CSV and terminal forms. Nothing here knows what the numbers mean."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "…": r"\ldots{}",
    "†": r"$\dagger$",
    "Δ": r"$\Delta$",
    "≥": r"$\geq$",
    "·": r"$\cdot$",
    "π": r"$\pi$",
}

TIGHT: dict[str, Any] = {"padding": (0, 1), "collapse_padding": True, "pad_edge": False, "show_edge": False}


@dataclass(frozen=True)
class TableCell:
    """What is printed, the number behind it (CSV), footnotes, and the digests of the records it was computed from."""

    text: str
    value: float | None = None
    error: float | None = None
    notes: tuple[str, ...] = ()
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """`key` names the column in CSV and manifest, `title` in print; one with `error` also gets a `<key>_stderr` in CSV."""

    key: str
    title: str
    error: bool = False
    number: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of cells below columns; the first `labels` cells of a row name it. `remarks` hold for the whole table."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    remarks: tuple[str, ...] = ()
    labels: int = 1

    @property
    def footnotes(self) -> tuple[str, ...]:
        """Different notes in order of first appearance; a note's number is its place here, from 1."""
        return tuple(dict.fromkeys(note for row in self.rows for cell in row for note in cell.notes))


def to_markdown(table: Table, picture: str | None = None, links: Mapping[str, str] | None = None) -> str:
    """A heading, the remarks, the table with aligned columns, links (target by text), GitHub footnotes and a picture."""
    notes = table.footnotes
    lines = [[column.title for column in table.columns]]
    lines += [[_pipe(cell.text) + "".join(f"[^{notes.index(n) + 1}]" for n in cell.notes) for cell in row] for row in table.rows]
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


def to_latex(table: Table) -> str:
    """A booktabs tabular with a caption of the title, and remarks and footnotes below it."""
    notes = table.footnotes

    def line(cells: list[str]) -> str:
        return " & ".join(cells) + r" \\"

    def printed(cell: TableCell) -> str:
        marks = ",".join(str(notes.index(note) + 1) for note in cell.notes)
        return _tex(cell.text) + (f"\\textsuperscript{{{marks}}}" if marks else "")

    below = [_tex(remark) for remark in table.remarks]
    below += [f"\\textsuperscript{{{number}}}{_tex(note)}" for number, note in enumerate(notes, 1)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_tex(table.title)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in table.columns)}}}",
            r"\toprule",
            line([_tex(column.title) for column in table.columns]),
            r"\midrule",
            *(line([printed(cell) for cell in row]) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(f"\\par\\footnotesize {text}" for text in below),
            r"\end{table}",
            "",
        ]
    )


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text.replace("`", ""))


def to_csv(table: Table) -> str:
    """Plain numbers, a `_stderr` column beside each number that has one, marks where there is none, notes last."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for column in table.columns for name in _csv_names(column)] + ["notes"])
    for row in table.rows:
        values = [value for column, cell in zip(table.columns, row, strict=True) for value in _csv_values(column, cell)]
        writer.writerow([*values, "; ".join(dict.fromkeys(note for cell in row for note in cell.notes))])
    return out.getvalue()


def _csv_names(column: Column) -> list[str]:
    return [column.key, f"{column.key}_stderr"] if column.error else [column.key]


def _csv_values(column: Column, cell: TableCell) -> list[str]:
    values = [cell.text if cell.value is None else _number(cell.value)]
    return [*values, "" if cell.error is None else _number(cell.error)] if column.error else values


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else f"{value:.10g}"


def to_terminal(table: Table) -> RichTable:
    """The table for a terminal, as narrow as it gets, its remarks and footnotes as the caption; markup in the data is not interpreted."""
    notes = table.footnotes
    printed = RichTable(title=Text(table.title), box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", **TIGHT)
    for column in table.columns:
        printed.add_column(Text(column.title), justify="right" if column.number else "left", no_wrap=not column.number)
    for row in table.rows:
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
