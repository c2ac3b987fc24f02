"""What a provocation is: two arms, each a method, settings and a doctor, that differ in one thing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zoo.compat import problems
from zoo.components.base import Strict
from zoo.entry import MethodEntry
from zoo.entry.loading import expand
from zoo.entry.registry import file_of
from zoo.errors import ZooError, suggest
from zoo.failures.probes.names import NAMES
from zoo.failures.probes.scene import Sizes
from zoo.harness.comparison import Budget, Comparison, Settings
from zoo.harness.doctor import AnyChange
from zoo.harness.doctor_lessons import Lesson
from zoo.harness.doctor_task import TaskChanges
from zoo.paths import data_root
from zoo.yamlio import load_declared, load_model, read_yaml

ARMS = ("provocation", "control")
# What every arm runs with unless it says otherwise.
SETTINGS: dict[str, Any] = {
    "rollouts_per_step": 32, "max_new_tokens": 40, "learning_rate": 1.0e-4, "warmup": 0.1, "clip_norm": 1.0, "validation_prompts": 128, "evaluate_every": 5,
    "diagnose_every": 2,
}  # fmt: skip
# What an inline method need not say: nobody has published it.
INLINE: dict[str, Any] = {
    "paper": {"arxiv": None, "year": 2026, "first_author": "none", "venue": "a set-up, not a method"},
    "evidence": {"level": "code", "source": "this repository"},
    "fixed_point": "none",
    "anchor": "trained",
    "rollout": {"author": "student"},
}
BOOKKEEPING = ("coordinates", "survey_coordinates", "survey_disagreement", "survey_leaf", "surveys", "variant_of", "identical_core_to", "known_failures",
               "reported", "deviations", "published", "notes", "reproduce_with", "findings")  # fmt: skip


class ModelChanges(Strict):
    """One model: a copy `of` another one of the pair (as it was loaded), then lessons, then changes of its logits. `stops` are the tokens that it
    declares to end an answer, the first one the one that it writes."""

    of: str | None = None
    lessons: tuple[Lesson, ...] = ()
    changes: tuple[AnyChange, ...] = ()
    stops: tuple[str, ...] = ()


class Doctor(Strict):
    """Changes of a pair before a run: of its models by name (new names are new teachers), of its task, and further templates of contexts."""

    models: dict[str, ModelChanges] = {}
    task: TaskChanges = TaskChanges()
    contexts: dict[str, str] = {}


class Arm(Strict):
    """One side of a provocation. `method` is an entry's body, or `of: ID` with the keys that replace that entry's; `refused` says why a rule of
    compatibility is set aside, where the failure is one that the registry refuses by name. `probes` (`zoo.failures.probes`) are taken at the start,
    the cheap ones also at `looks` places between and at the end; `sizes` makes them smaller."""

    summary: str = Field(min_length=1)
    pair: str = "micro"
    method: dict[str, Any]
    settings: dict[str, Any] = {}
    tokens: Annotated[int, Field(ge=100)] = 20_000
    doctor: Doctor = Doctor()
    probes: tuple[Literal[NAMES], ...] = ()  # type: ignore[valid-type]
    looks: int = Field(3, ge=0, le=20)
    sizes: dict[str, int] = {}
    refused: str | None = None

    @model_validator(mode="after")
    def _settings_are_legal(self) -> Arm:
        self.all_settings()
        if stray := [name for name in self.sizes if name not in Sizes.__dataclass_fields__]:
            raise ValueError(f"sizes.{stray[0]}: probes have no such size{suggest(stray[0], Sizes.__dataclass_fields__)}")
        return self

    def all_settings(self) -> Settings:
        """Its settings with those that all arms share."""
        return Settings.model_validate({**SETTINGS, **self.settings})

    def entry(self, name: str) -> MethodEntry:
        """The method that it trains, by this id.

        Raises:
            ZooError: the body is wrong, or a rule refuses it without `refused`.
        """
        try:
            entry = MethodEntry.model_validate(expand({**self._body(), "id": name.replace("-", "_"), "name": name}))
        except ValueError as error:
            raise ZooError(f"{name}: method: {error}") from None
        found = problems(entry)
        if found and self.refused is None:
            raise ZooError(f"{name}: method.{found[0]} (or say under `refused` why that is what is wanted)")
        if self.refused is not None and not found:
            raise ZooError(f"{name}: refused: no rule refuses this method; remove it")
        return entry

    def _body(self) -> dict[str, Any]:
        own = {key: value for key, value in self.method.items() if key != "of"}
        if "rollouts" in own:
            own = {**own, "rollout": None}
        base = dict(read_yaml(file_of(self.method["of"]))[0]) if "of" in self.method else {}
        if {"rollout", "rollouts"} & own.keys():
            base = {key: value for key, value in base.items() if key not in ("rollout", "rollouts")}
        body = {**INLINE, **base, **own, "anchor": "trained"}
        if "rollouts" in body:
            body.pop("rollout", None)
        return {key: value for key, value in body.items() if key not in BOOKKEEPING}

    def comparison(self, name: str, seed: int) -> Comparison:
        """The comparison of one cell that the run is."""
        return Comparison(
            id=name, title=self.summary, pair=self.pair, methods=(name.replace("-", "_"),), seeds=(seed,), suites=("micro",),
            budget=Budget(amount=self.tokens), settings=self.all_settings(),
        )  # fmt: skip


class Provocation(Strict):
    """The set-up of one failure mode. `common` is shared by both arms; what an arm says replaces it, key by key."""

    id: str = Field(pattern=r"^FM\d\d$")
    about: str = Field(min_length=1)
    provocation: Arm
    control: Arm

    @model_validator(mode="before")
    @classmethod
    def _share_out(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "common" not in data:
            return data
        if not isinstance(data["common"], Mapping):
            raise ValueError("common should be a mapping of what both arms share")
        rest = {key: value for key, value in data.items() if key != "common"}
        return {**rest, **{name: merged(data["common"], rest[name]) for name in ARMS if isinstance(rest.get(name), Mapping)}}

    @model_validator(mode="after")
    def _differ(self) -> Provocation:
        if self.provocation.model_dump(exclude={"summary"}) == self.control.model_dump(exclude={"summary"}):
            raise ValueError("provocation and control are the same; a control differs in what provokes")
        return self

    def arm(self, name: str) -> Arm:
        """`provocation` or `control`."""
        if name not in ARMS:
            raise ZooError(f"no arm '{name}'{suggest(name, ARMS)}")
        return self.provocation if name == "provocation" else self.control


class Healthy(Strict):
    """Runs in which nothing is provoked, for the rate of false alarms: entries of the registry as they are, all with the same settings."""

    id: str = Field(pattern=r"^healthy$")
    about: str
    methods: tuple[str, ...] = Field(min_length=1)
    pair: str = "micro"
    settings: dict[str, Any] = {}
    tokens: int = Field(20_000, ge=100)
    rates: dict[str, float] = {}
    probes: tuple[Literal[NAMES], ...] = ()  # type: ignore[valid-type]
    looks: int = Field(3, ge=0, le=20)

    def arm(self, method: str) -> Arm:
        """One method's run."""
        if method not in self.methods:
            raise ZooError(f"'{method}' is not among the healthy runs{suggest(method, self.methods)}")
        settings = {**self.settings, **({"learning_rate": self.rates[method]} if method in self.rates else {})}
        return Arm(summary=method, pair=self.pair, method={"of": method}, settings=settings, tokens=self.tokens, probes=self.probes, looks=self.looks)


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings as one, the second's values first; mappings in both are merged in turn, lists are not."""
    both = {key: merged(first[key], second[key]) for key in first if isinstance(first[key], Mapping) and isinstance(second.get(key), Mapping)}
    return {**first, **second, **both}


def folder() -> Path:
    """Where the set-ups lie."""
    return data_root() / "registry" / "provocations"


def load_provocation(name: str | Path) -> Provocation:
    """One set-up, by failure mode or from a YAML file.

    Raises:
        ZooError: there is none, or a mistake in its file or in one of its methods.
    """
    found = load_declared(Provocation, "provocation", name)
    for arm in ARMS:
        found.arm(arm).entry(f"{found.id.lower()}-{arm}")
    return found


def load_provocations() -> dict[str, Provocation]:
    """All set-ups by failure mode."""
    return {file.stem: load_provocation(file) for file in sorted(folder().glob("FM*.yaml"))}


def load_healthy() -> Healthy:
    """The healthy runs."""
    return load_model(Healthy, folder() / "healthy.yaml")
