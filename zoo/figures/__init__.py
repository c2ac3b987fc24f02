"""The figures of a comparison, as functions of its records: each is data first, drawn second, and known by the digest of its data."""

from zoo.figures.scores import comparison_figure, figure_png, figure_svg
from zoo.figures.style import FAINT, FAMILY_COLOURS, INK, STUDENT, STYLE

__all__ = ["FAINT", "FAMILY_COLOURS", "INK", "STUDENT", "STYLE", "comparison_figure", "figure_png", "figure_svg"]
