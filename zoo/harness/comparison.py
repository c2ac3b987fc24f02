"""Comparisons: what is compared, declared before anything runs."""

from __future__ import annotations

import operator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from zoo.components.base import Strict
from zoo.errors import suggest
from zoo.failures.probes.names import NAMES as PROBES
from zoo.paths import declared
from zoo.yamlio import load_model

HARMLESS = {
    "micro_tokens", "chunk_tokens", "checkpoint_every", "decode_batch", "engine", "vllm_memory", "vllm_sleep", "leakage_every", "diagnose_every",
    "evaluate_every", "keep_weights", "sharding", "probes", "compile", "layers", "activation_checkpointing",
    "teacher_cache_gib",
}  # fmt: skip
DIAGNOSE_EVERY = 10  # iterations; what it costs is measured in docs/logs.md
VLLM_MEMORY = 0.4
Positive = Annotated[int, Field(ge=1)]


class Budget(Strict):
    """What every method may spend: supervised tokens that pass through the student with gradient."""

    unit: Literal["supervised_tokens"] = "supervised_tokens"
    amount: Positive


class Settings(Strict):
    """How every method is trained. Everything here affects results except `micro_tokens`, `chunk_tokens`, `engine` (to rounding),
    `vllm_memory` and `vllm_sleep` (to rounding), `checkpoint_every`, `leakage_every`, `diagnose_every`, `evaluate_every` and `sharding`. `engine: reference`
    decodes everything step by step; `auto` decodes natively what can be; `vllm` lets vLLM write what it can, in `vllm_memory` of the GPU and with
    noise of its own, so it is part of a run's key (see `zoo.harness.writers`). Every `leakage_every` iterations (0: never) a control tells what
    scorers take from their contexts (see `zoo.harness.leakage`). Every `diagnose_every` iterations (0: never) a few sequences are logged token by token
    (docs/logs.md), every `evaluate_every` steps (0: never) the greedy accuracy on `validation_prompts` prompts. `probes` are measured at the start and
    the end of each run, cheap ones at its evaluations as well (docs/preflight.md). `sharding: fsdp2` splits the
    models over the processes of `accelerate launch` (to rounding; see `zoo.harness.sharding`). `keep_weights` leaves each cell's final student
    below results/weights, for `zoo export`. `compile` compiles layers and divergences (to rounding); `auto` does where a run on a GPU is long enough to
    repay it (see `zoo.harness.compiling`). `layers: plain` runs layers on a GPU as transformers has them, without kernels of ours (to rounding; see
    `zoo.harness.lean`). `activation_checkpointing` computes each layer of the student again in the backward pass instead of keeping
    its activations: less memory, a third more work (see `zoo.harness.recompute`). `teacher_cache_gib` of the host's memory (0: none)
    keep teachers' states of given and replayed texts, which are then computed once (to rounding; see `zoo.harness.kept_states`)."""

    rollouts_per_step: Positive
    max_new_tokens: Positive
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    validation_prompts: Positive = 64
    validate_every: Positive = 10
    micro_tokens: Positive = 16384
    chunk_tokens: Positive = 1024
    decode_batch: Positive = 256
    engine: Literal["auto", "reference", "vllm"] = "auto"
    vllm_memory: float = Field(VLLM_MEMORY, gt=0, lt=1, exclude_if=partial(operator.eq, VLLM_MEMORY))
    vllm_sleep: Literal[0, 1, 2] = Field(2, exclude_if=partial(operator.eq, 2))
    checkpoint_every: Positive = 10
    leakage_every: int = Field(0, ge=0, exclude_if=operator.not_)
    diagnose_every: int = Field(DIAGNOSE_EVERY, ge=0, exclude_if=partial(operator.eq, DIAGNOSE_EVERY))
    evaluate_every: int = Field(0, ge=0, exclude_if=operator.not_)
    probes: tuple[str, ...] = Field((), exclude_if=operator.not_)
    keep_weights: bool = Field(False, exclude_if=operator.not_)
    sharding: Literal["none", "fsdp2"] = Field("none", exclude_if=partial(operator.eq, "none"))
    compile: Literal["auto", "on", "off"] = Field("auto", exclude_if=partial(operator.eq, "auto"))
    layers: Literal["lean", "plain"] = Field("lean", exclude_if=partial(operator.eq, "lean"))
    activation_checkpointing: bool = Field(False, exclude_if=operator.not_)
    teacher_cache_gib: float = Field(0.0, ge=0, exclude_if=operator.not_)

    @field_validator("probes")
    @classmethod
    def _probes_exist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in PROBES:
                raise ValueError(f"'{name}' is no probe{suggest(name, PROBES)}")
        return tuple(dict.fromkeys(value))


class Override(Strict):
    """A method's own values, with the reason; budgets can't be overridden."""

    reason: str
    learning_rate: float | None = Field(None, gt=0)


class Evaluation(Strict):
    """How suites are run."""

    limit: Positive | None = None
    batch: Positive = 256


class Sweep(Strict):
    """The learning rates that every method is tried with before the comparison runs, on seeds that are not reported and a suite that is not:
    `zoo tune` (see `zoo.tune`)."""

    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=2)
    seeds: tuple[int, ...] = Field(min_length=1)
    suite: str

    @model_validator(mode="after")
    def _ordered(self) -> Sweep:
        if list(self.learning_rates) != sorted(set(self.learning_rates)):
            raise ValueError("learning_rates should ascend without repetition")
        return self


class Comparison(Strict):
    """Methods, pair, budget, seeds and suites; `selection: last` evaluates the weights at the end of the budget."""

    id: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    title: str
    pair: str
    methods: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    suites: tuple[str, ...] = Field(min_length=1)
    budget: Budget
    settings: Settings
    overrides: dict[str, Override] = {}
    sweep: Sweep | None = Field(None, exclude_if=operator.not_)
    evaluation: Evaluation = Evaluation()
    selection: Literal["last"] = "last"
    notes: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Comparison:
        for name, items in (("methods", self.methods), ("seeds", self.seeds), ("suites", self.suites)):
            if len(set(items)) != len(items):
                raise ValueError(f"{name} holds a repetition")
        stray = [m for m in self.overrides if m not in self.methods]
        if stray:
            raise ValueError(f"overrides.{stray[0]}: no such method in this comparison{suggest(stray[0], self.methods)}")
        if self.sweep is not None and (shared := set(self.sweep.seeds) & set(self.seeds)):
            raise ValueError(f"sweep.seeds: {min(shared)} is reported by this comparison; rates are chosen on other seeds")
        if self.sweep is not None and self.sweep.suite in self.suites:
            raise ValueError(f"sweep.suite: '{self.sweep.suite}' is reported by this comparison; rates are chosen on other problems")
        return self

    def learning_rate(self, method: str) -> float:
        """The learning rate of one method: the common one unless overridden."""
        override = self.overrides.get(method)
        return self.settings.learning_rate if override is None or override.learning_rate is None else override.learning_rate


def load_comparison(name: str | Path) -> Comparison:
    """A comparison by id, or by the path of a YAML file; a pair file that it names may lie beside it.

    Raises:
        ZooError: no such comparison, or mistakes in its file.
    """
    file = declared("comparison", name)
    comparison = load_model(Comparison, file)
    beside = file.parent / comparison.pair
    if comparison.pair.endswith((".yaml", ".yml")) and beside.is_file():
        return comparison.model_copy(update={"pair": str(beside)})
    return comparison


def settings_that_matter(comparison: Comparison, method: str) -> dict[str, Any]:
    """The settings that affect a cell's result, for its run key."""
    values = comparison.settings.model_dump(exclude=HARMLESS)
    if comparison.settings.engine == "vllm":
        values["engine"] = "vllm"
    return {**values, "learning_rate": comparison.learning_rate(method), "budget": comparison.budget.model_dump(), "selection": comparison.selection}
