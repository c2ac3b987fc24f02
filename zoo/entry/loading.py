"""One entry: read from its file, expanded, validated, and held against what it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.components.plugins import load_plugins
from zoo.coordinates import derive_coordinates
from zoo.entry.fields import SurveyCoordinates
from zoo.entry.model import MethodEntry
from zoo.entry.stages import flatten_stages, stage_places
from zoo.errors import ZooError
from zoo.yamlio import Short, load_model, place, read_yaml

SHORT: Short = {("rollouts", "main"): ("rollout",)}


def expand(data: dict[str, Any]) -> dict[str, Any]:
    """Write the short form `rollout:` as `rollouts: {main: ...}`, and `stages:` as terms with windows.

    Raises:
        ZooError: both forms are given.
    """
    if "stages" in data or "rounds" in data:
        return flatten_stages(data)
    if "rollout" in data:
        if "rollouts" in data:
            raise ZooError("rollout: is short for rollouts: {main: ...}; give one of the two, not both")
        data = {("rollouts" if key == "rollout" else key): ({"main": value} if key == "rollout" else value) for key, value in data.items()}
    return data


def load_entry(file: Path) -> MethodEntry:
    """Read, validate and check one entry: schema, names, compatibility, coordinates.

    Raises:
        ZooError: every mistake, one per line, with file, line and path.
    """
    from zoo.compat import problems  # compat reads entries, so it sits above this module

    load_plugins()

    def prepare(data: dict[str, Any]) -> dict[str, Any]:
        try:
            return expand(data)
        except ZooError as error:
            raise ZooError(place([str(error)], file)) from None

    read = read_yaml(file)
    short = {**SHORT, **stage_places(read[0])}
    entry = load_model(MethodEntry, file, prepare, short, read)
    found = problems(entry) or coordinate_problems(entry)
    if entry.id != file.stem:
        found = [f"id: '{entry.id}' differs from the file's name; name the file {entry.id}.yaml"]
    if found:
        raise ZooError(place(found, file, short))
    return entry


def coordinate_problems(entry: MethodEntry) -> list[str]:
    """Differences between claimed and derived coordinates, and survey values that differ without a reason."""
    if entry.coordinates is None or not entry.objective:
        return []
    derived, found = derive_coordinates(entry), []
    for name, (claimed, actual) in entry.coordinates.differences(derived).items():
        found.append(f"coordinates.{name}: claimed {_plain(claimed)}, but what runs is {_plain(actual)}; correct the claim or the objective")
    for survey in dict.fromkeys([*entry.survey_coordinates, *entry.survey_disagreement]):
        printed = entry.survey_coordinates.get(survey, SurveyCoordinates())
        off = [name for name in SurveyCoordinates.model_fields if not _agrees(getattr(printed, name), getattr(derived, name))]
        if off and survey not in entry.survey_disagreement:
            detail = ", ".join(f"{name} {getattr(printed, name)} against {_plain(getattr(derived, name))}" for name in off)
            found.append(f"survey_coordinates.{survey} differs from what runs ({detail}); give the reason under survey_disagreement.{survey}")
        if not off and survey in entry.survey_disagreement:
            found.append(f"survey_disagreement.{survey} explains a difference that does not exist; remove it")
    return found


def _agrees(printed: str | None, derived: Any) -> bool:
    return printed is None or (set(derived) == {printed} if isinstance(derived, tuple) else printed == derived)


def _plain(value: Any) -> str:
    return "[" + ", ".join(value) + "]" if isinstance(value, tuple) else str(value)
