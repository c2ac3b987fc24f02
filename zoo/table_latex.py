"""A table's LaTeX form: booktabs, in parts where it is wide, over several pages where it is long. ASCII, whatever the data holds."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.table_forms import Column, Table, TableCell

WIDE = 90  # characters in a line; a wider table is shrunk to the page
WIDEST = 140  # so far that it can still be read; beyond, its columns are divided into parts
LONG = 45  # rows; a longer table goes over pages
WORDY = 60  # characters in a cell; longer ones are broken into lines
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
    parts = _parts(table, longest)
    lines = [line for number, shown in enumerate(parts, 1) for line in _short(table, longest, shown, f" ({number} of {len(parts)})" * (len(parts) > 1))]
    return "\n".join([PACKAGES, *lines[:-1], r"\par\raggedright\footnotesize", *(rf"{text}\par" for text in below), lines[-1], ""])


def _longest(table: Table) -> list[int]:
    """The characters of each column's widest cell."""
    return [max([len(column.title), *(len(row[index].text) for row in table.rows)]) for index, column in enumerate(table.columns)]


def _parts(table: Table, longest: Sequence[int]) -> list[list[int]]:
    """The columns of each part, the labels in all of them: as few parts as can be read, about equally wide."""
    labels, others = list(range(table.labels)), list(range(table.labels, len(longest)))
    fixed, sizes = sum(longest[place] + 2 for place in labels), [longest[place] + 2 for place in others]
    count = 1 if fixed + sum(sizes) <= WIDEST else -(-sum(sizes) // max(WIDEST - fixed, 20))
    parts: list[list[int]] = [[*labels] for _ in range(count)]
    taken = 0
    for place, size in zip(others, sizes, strict=True):
        parts[min((taken + size // 2) * count // sum(sizes), count - 1)].append(place)
        taken += size
    return [part for part in parts if len(part) > len(labels)] or [labels]


def _short(table: Table, longest: Sequence[int], shown: Sequence[int], part: str) -> list[str]:
    """One part as a float, its last line the end of the float."""
    form = "".join("r" if table.columns[place].number else "l" for place in shown)
    tabular = [rf"\begin{{tabular}}{{{form}}}", *_body(table, shown), r"\end{tabular}"]
    wide = sum(longest[place] + 2 for place in shown) > WIDE
    begun = [r"\begin{table}", r"\centering", rf"\caption{{{tex(table.title)}{part}}}"]
    return [*begun, *([r"\resizebox{\linewidth}{!}{%", *tabular[:-1], r"\end{tabular}}"] if wide else tabular), r"\end{table}"]


def _long(table: Table, longest: Sequence[int]) -> list[str]:
    """Columns share the line by how much stands in them, and names may break behind an underscore, so that nothing runs off the page."""
    head = _line(tex(column.title) for column in table.columns)
    top = [rf"\caption{{{tex(table.title)}}}\\", r"\toprule", head, r"\midrule", r"\endfirsthead", r"\toprule", head, r"\midrule", r"\endhead"]
    size = "tiny" if sum(longest) > 2 * WIDE else "scriptsize"
    shares = [min(max(width, 10), WORDY) for width in longest]
    widths = [rf">{{\{_ragged(c)}\arraybackslash}}p{{{0.92 * share / sum(shares):.3f}\linewidth}}" for c, share in zip(table.columns, shares, strict=True)]
    begun = [rf"{{\{size}\setlength{{\tabcolsep}}{{2pt}}", rf"\begin{{longtable}}{{{''.join(widths)}}}", *top, r"\bottomrule", r"\endfoot"]
    lines = [line.replace(r"\_", r"\_\allowbreak{}") for line in _lines(table, range(len(table.columns)))]
    return [*begun, *lines, r"\end{longtable}}"]


def _ragged(column: Column) -> str:
    return "raggedleft" if column.number else "raggedright"


def _body(table: Table, shown: Sequence[int]) -> list[str]:
    return [r"\toprule", _line(tex(table.columns[place].title) for place in shown), r"\midrule", *_lines(table, shown), r"\bottomrule"]


def _lines(table: Table, shown: Sequence[int]) -> list[str]:
    """The rows, of the columns that are shown; footnotes have the whole table's numbers."""
    notes, before, lines = table.footnotes, "", list[str]()

    def printed(cell: TableCell) -> str:
        marks = ",".join(str(notes.index(note) + 1) for note in cell.notes)
        return tex(cell.text) + (f"\\textsuperscript{{{marks}}}" if marks else "")

    for section, row in zip(table.sections or [""] * len(table.rows), table.rows, strict=True):
        if section != before:
            lines += [*([r"\addlinespace"] if lines else []), rf"\multicolumn{{{len(shown)}}}{{l}}{{\textit{{{tex(section)}}}}} \\"]
            before = section
        lines.append(_line(printed(row[place]) for place in shown))
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
