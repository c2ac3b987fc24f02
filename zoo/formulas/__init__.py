"""What an entry minimises, written out from its components: as LaTeX, and as plain text made from it."""

from zoo.formulas.docstrings import first_sentence
from zoo.formulas.plain import plain
from zoo.formulas.written import Line, aligned, formula

__all__ = ["Line", "aligned", "first_sentence", "formula", "plain"]
