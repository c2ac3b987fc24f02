"""The schema of a registry entry, how it is loaded and checked, how two entries differ, and how many there are."""

from zoo.entry.bodies import BODY, body, core, diff, flatten, written
from zoo.entry.fields import Deviation, Evidence, Paper, Reported, Reproduction, SurveyCoordinates
from zoo.entry.loading import SHORT, coordinate_problems, expand, load_entry
from zoo.entry.model import MethodEntry
from zoo.entry.registry import Registry, file_of, load_registry
from zoo.entry.totals import Totals, totals

__all__ = [
    "BODY", "SHORT", "Deviation", "Evidence", "MethodEntry", "Paper", "Registry", "Reported", "Reproduction", "SurveyCoordinates", "Totals",
    "body", "coordinate_problems", "core", "diff", "expand", "file_of", "flatten", "load_entry", "load_registry", "totals", "written",
]  # fmt: skip
