"""The schema of a registry entry, how it is loaded and checked, and how two entries differ."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

import zoo.components  # noqa: F401  registers all components
from zoo.components.base import Slot, Strict, Text
from zoo.components.learners import Learner
from zoo.components.rewards import Reward
from zoo.components.rollouts import Stream
from zoo.components.teachers import Teacher
from zoo.components.terms.base import Term
from zoo.components.updates import AdamW, Update
from zoo.coordinates import Access, Coordinates, Granularity, Signal, derive_coordinates
from zoo.errors import ZooError, in_yaml, suggest
from zoo.paths import data_root
from zoo.yamlio import Short, load_model, place


def _quoted(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Identifiers have five digits after the dot since January 2015, and YAML has dropped the trailing zeros.
        written = f"{value:.{5 if value >= 1501 else 4}f}"
        raise PydanticCustomError("text", 'is a number; quote it: "{written}"', {"written": written})
    return value


def _figure(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PydanticCustomError("text", "should be a number or text, not {got}", {"got": in_yaml(value)})
    return value


ArxivId = Annotated[str, Text(r"\d{4}\.\d{4,5}", "an arXiv id like \"2306.13649\""), BeforeValidator(_quoted)]
EntryId = Annotated[str, Text(r"[a-z][a-z0-9_]*", "lower-case letters, digits and underscores, a letter first")]
FixedPoint = Annotated[str, Text(r"teacher|none|tilted: .+", "teacher, none or 'tilted: <formula>'")]
FailureMode = Annotated[str, Text(r"FM\d\d", "a failure mode of the catalogue, FM01 to FM29")]
Figure = Annotated[float | str, BeforeValidator(_figure)]


class Paper(Strict):
    """Where the method was published. `part` tells entries of one paper apart."""

    arxiv: ArxivId | None = None
    year: int | None = None
    first_author: str | None = None
    venue: str | None = None
    url: str | None = None
    part: str | None = None


class Evidence(Strict):
    """How solid the formula is, and where it was read."""

    level: Literal["code", "paper_text", "abstract", "inferred"]
    source: str


class SurveyCoordinates(Strict):
    """What a survey printed, one value each; null where it printed none."""

    feedback_signal: Signal | None = None
    teacher_access: Access | None = None
    loss_granularity: Granularity | None = None


class Deviation(Strict):
    """One difference between the paper and this entry."""

    field: str
    paper: Any
    ours: Any
    reason: str


class Reported(Strict):
    """A figure of the paper itself, with its setting; never mixed with ours."""

    setting: str
    metric: str
    value: Figure
    source: str


class MethodEntry(Strict):
    """One method: who writes the tokens, who judges them, and an objective that is a sum of terms."""

    id: EntryId
    name: str
    paper: Paper
    surveys: tuple[Literal["A", "B"], ...] = ()
    survey_leaf: str | None = None
    variant_of: str | None = None
    identical_core_to: str | None = None
    evidence: Evidence
    coordinates: Coordinates | None = None
    survey_coordinates: dict[Literal["A", "B"], SurveyCoordinates] = {}
    survey_disagreement: dict[Literal["A", "B"], str] = {}
    fixed_point: FixedPoint
    rollouts: dict[str, Annotated[Stream, Slot("rollout")]] = {}
    teachers: dict[str, Annotated[Teacher, Slot("teacher")]] = {}
    rewards: dict[str, Annotated[Reward, Slot("reward")]] = {}
    learners: dict[str, Annotated[Learner, Slot("learner")]] = {}
    objective: tuple[Annotated[Term, Slot("term")], ...] = ()
    update: Annotated[Update, Slot("update")] = AdamW()
    published: dict[str, Any] = {}
    deviations: tuple[Deviation, ...] = ()
    reported: tuple[Reported, ...] = ()
    known_failures: tuple[FailureMode, ...] = ()
    notes: str | None = None
    anchor: Literal["student", "teacher", "trained"] | None = None
    executable: bool = True
    blocked_by: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> MethodEntry:
        if self.executable != (self.blocked_by is None):
            raise ValueError("executable: false needs blocked_by with the reason, and an executable entry has none")
        if self.anchor in ("student", "teacher"):
            if self.objective or self.rollouts:
                raise ValueError(f"the anchor '{self.anchor}' is not trained, so it has neither objective nor rollouts")
        elif not self.rollouts:
            raise ValueError("rollout (or rollouts) is required and missing: who writes the tokens")
        elif not self.objective:
            raise ValueError("objective is required and missing: a list of terms")
        elif self.coordinates is None and self.anchor is None:
            raise ValueError("coordinates are required; write the ones that `zoo check` derives")
        return self


SHORT: Short = {("rollouts", "main"): ("rollout",)}


def expand(data: dict[str, Any]) -> dict[str, Any]:
    """Write the short form `rollout:` as `rollouts: {main: ...}`.

    Raises:
        ZooError: both forms are given.
    """
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

    def prepare(data: dict[str, Any]) -> dict[str, Any]:
        try:
            return expand(data)
        except ZooError as error:
            raise ZooError(place([str(error)], file)) from None

    entry = load_model(MethodEntry, file, prepare, SHORT)
    found = problems(entry) or coordinate_problems(entry)
    if entry.id != file.stem:
        found = [f"id: '{entry.id}' differs from the file's name; name the file {entry.id}.yaml"]
    if found:
        raise ZooError(place(found, file, SHORT))
    return entry


def coordinate_problems(entry: MethodEntry) -> list[str]:
    """Differences between claimed and derived coordinates, and survey values that differ without a reason."""
    if entry.coordinates is None:
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


class Registry(Mapping[str, MethodEntry]):
    """All entries by id."""

    def __init__(self, entries: Mapping[str, MethodEntry]) -> None:
        self._entries = dict(sorted(entries.items()))

    def __getitem__(self, key: str) -> MethodEntry:
        if key not in self._entries:
            raise ZooError(f"no method '{key}' in the registry{suggest(key, self._entries)}")
        return self._entries[key]

    def __iter__(self) -> Any:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def load_registry(*folders: Path) -> Registry:
    """Every entry of the shipped registry and of further folders.

    Raises:
        ZooError: all mistakes of all files; an id or an arXiv id used twice without `variant_of` or `paper.part`.
    """
    files = [f for folder in (data_root() / "registry" / "methods", *folders) for f in sorted(folder.rglob("*.yaml"))]
    entries: dict[str, MethodEntry] = {}
    first: dict[str, Path] = {}
    mistakes: list[str] = []
    for file in files:
        try:
            entry = load_entry(file)
        except ZooError as error:
            mistakes.append(str(error))
            continue
        if entry.id in entries:
            mistakes.append(place([f"id: '{entry.id}' is also the id of {first[entry.id]}; ids are unique, rename one"], file))
        entries[entry.id], first[entry.id] = entry, file
    mistakes += [*_repeated_papers(entries.values()), *_dangling(entries, {f.stem for f in files})]
    if mistakes:
        raise ZooError("\n".join(mistakes))
    return Registry(entries)


def _repeated_papers(entries: Iterable[MethodEntry]) -> list[str]:
    seen: dict[tuple[str, str | None], str] = {}
    found = []
    for entry in entries:
        key = (entry.paper.arxiv or "", entry.paper.part)
        if entry.paper.arxiv and entry.variant_of is None:
            if key in seen:
                found.append(f"{entry.id}: arXiv {entry.paper.arxiv} is also {seen[key]}'s; set variant_of or paper.part")
            seen.setdefault(key, entry.id)
    return found


def _dangling(entries: Mapping[str, MethodEntry], known: Collection[str]) -> list[str]:
    """Links to no entry; `known` also holds those that could not be loaded, whose own mistakes are told already."""
    links = [(e.id, field, getattr(e, field)) for e in entries.values() for field in ("variant_of", "identical_core_to")]
    return [f"{me}: {field} names '{target}', which is no entry{suggest(target, known)}" for me, field, target in links if target and target not in known]


BODY = ("rollouts", "teachers", "rewards", "learners", "objective", "update")


def body(entry: MethodEntry) -> dict[str, Any]:
    """What runs: the entry without its documentation."""
    return {name: value for name, value in entry.model_dump(mode="json", by_alias=True).items() if name in BODY}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists, by path."""
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
        return {k: v for key, inner in items for k, v in flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
    if isinstance(value, list | tuple) and value:
        return {k: v for i, inner in enumerate(value) for k, v in flatten(inner, f"{prefix}[{i}]").items()}
    return {prefix: value}


def diff(first: MethodEntry, second: MethodEntry) -> dict[str, tuple[Any, Any]]:
    """The paths at which two bodies differ, with both values; None where a path is absent."""
    a, b = flatten(body(first)), flatten(body(second))
    return {path: (a.get(path), b.get(path)) for path in dict.fromkeys([*a, *b]) if a.get(path) != b.get(path)}
