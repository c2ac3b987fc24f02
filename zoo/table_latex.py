"""A table's LaTeX form: booktabs, shrunk to the line where it is wide, over several pages where it is long. ASCII, whatever the data holds."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.table_forms import Column, Table, TableCell

WIDE = 90  # characters in a line; a wider table is shrunk to the page
LONG = 45  # rows; a longer table goes over pages
WORDY = 70  # characters in a cell; longer ones are broken into lines
PACKAGES = r"% \usepackage{array,booktabs,graphicx,longtable}"
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta", "κ": "kappa", "λ": "lambda",
    "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega",
    "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
MATHS = {
    "±": "pm", "−": "-", "×": "times", "†": "dagger", "≥": "geq", "≤": "leq", "≠": "neq", "≈": "approx", "·": "cdot", "→": "rightarrow", "←": "leftarrow",
    "∝": "propto", "‖": "|", "∞": "infty", "∇": "nabla", "√": "surd", "∈": "in", "∑": "sum", "¬": "neg", "∂": "partial", "⟨": "langle", "⟩": "rangle",
    "<": "<", ">": ">", "|": "|", "«": "ll", "»": "gg",
}  # fmt: skip
PLAIN = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "—": "---", "…": r"\ldots{}", "’": "'", "‘": "`",
    "“": "``", "”": "''", "\u00a0": "~", "`": "", "\n": " ",
    "ł": r"\l{}", "Ł": r"\L{}", "ø": r"\o{}", "Ø": r"\O{}", "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ı": r"\i{}",
}  # fmt: skip
ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030c": "v", "\u0327": "c", "\u0304": "=", "\u0306": "u", "\u0307": ".",
           "\u030a": "r", "\u030b": "H"}  # fmt: skip


def to_latex(table: Table) -> str:
    """A booktabs table with a caption of the title, its sections, and remarks and footnotes below it; its first line names the packages."""
    notes, longest = table.footnotes, _longest(table)
    below = [tex(remark) for remark in table.remarks] + [f"\\textsuperscript{{{number}}}{tex(note)}" for number, note in enumerate(notes, 1)]
    if len(table.rows) > LONG or max(longest, default=0) > WORDY:
        return "\n".join([PACKAGES, *_long(table, longest), r"{\footnotesize", *(rf"\noindent {text}\par" for text in below), "}", ""])
    lines = [PACKAGES, *_short(table, wide=sum(longest) + 2 * len(longest) > WIDE)]
    return "\n".join([*lines, r"\par\raggedright\footnotesize", *(rf"{text}\par" for text in below), r"\end{table}", ""])


def _longest(table: Table) -> list[int]:
    """The characters of each column's widest cell."""
    return [max([len(column.title), *(len(row[index].text) for row in table.rows)]) for index, column in enumerate(table.columns)]


def _short(table: Table, *, wide: bool) -> list[str]:
    tabular = [rf"\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in table.columns)}}}", *_body(table), r"\end{tabular}"]
    begun = [r"\begin{table}", r"\centering", rf"\caption{{{tex(table.title)}}}"]
    return [*begun, *([r"\resizebox{\linewidth}{!}{%", *tabular[:-1], r"\end{tabular}}"] if wide else tabular)]


def _long(table: Table, longest: Sequence[int]) -> list[str]:
    """Columns share the line by how much stands in them, so that nothing runs off the page."""
    head = _line(tex(column.title) for column in table.columns)
    top = [rf"\caption{{{tex(table.title)}}}\\", r"\toprule", head, r"\midrule", r"\endfirsthead", r"\toprule", head, r"\midrule", r"\endhead"]
    size = "tiny" if sum(longest) > 2 * WIDE else "scriptsize"
    shares = [min(max(width, 10), WORDY) for width in longest]
    widths = [rf">{{\{_ragged(c)}\arraybackslash}}p{{{0.92 * share / sum(shares):.3f}\linewidth}}" for c, share in zip(table.columns, shares, strict=True)]
    begun = [rf"{{\{size}\setlength{{\tabcolsep}}{{2pt}}", rf"\begin{{longtable}}{{{''.join(widths)}}}", *top, r"\bottomrule", r"\endfoot"]
    return [*begun, *_lines(table), r"\end{longtable}}"]


def _ragged(column: Column) -> str:
    return "raggedleft" if column.number else "raggedright"


def _body(table: Table) -> list[str]:
    return [r"\toprule", _line(tex(column.title) for column in table.columns), r"\midrule", *_lines(table), r"\bottomrule"]


def _lines(table: Table) -> list[str]:
    notes, before, lines = table.footnotes, "", list[str]()

    def printed(cell: TableCell) -> str:
        marks = ",".join(str(notes.index(note) + 1) for note in cell.notes)
        return tex(cell.text) + (f"\\textsuperscript{{{marks}}}" if marks else "")

    for section, row in zip(table.sections or [""] * len(table.rows), table.rows, strict=True):
        if section != before:
            lines += [*([r"\addlinespace"] if lines else []), rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\textit{{{tex(section)}}}}} \\"]
            before = section
        lines.append(_line(printed(cell) for cell in row))
    return lines


def _line(cells: Iterable[str]) -> str:
    line = " & ".join(cells) + r" \\"
    return "{}" + line if line.startswith(("[", "*")) else line  # or the row break before it would take it for its argument


def tex(text: str) -> str:
    """Text as LaTeX that pdflatex sets without further packages; what it has no sign for becomes its name in brackets."""
    return "".join(_character(character) for character in text.replace("**", ""))


def _character(character: str) -> str:
    if character in PLAIN:
        return PLAIN[character]
    if character in MATHS:
        sign = MATHS[character]
        return f"$\\{sign}$" if sign.isalpha() or character == "‖" else f"${sign}$"
    if character in GREEK:
        return f"$\\{GREEK[character]}$"
    if character.isascii():
        return character
    letter, *marks = list(unicodedata.normalize("NFD", character))
    if letter.isascii() and len(marks) == 1 and marks[0] in ACCENTS:
        return f"\\{ACCENTS[marks[0]]}{{{letter}}}"
    if letter.isascii() and letter.isalpha():
        return letter  # its mark needs a font encoding that not every document loads
    name = unicodedata.name(character, "sign").lower()
    return f"[U+{ord(character):04X}]" if name.startswith("cjk") else f"[{name}]"
