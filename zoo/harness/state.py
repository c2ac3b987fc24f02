"""State that moves with the steps: teachers that are copies of the student, and schedules that follow a measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from zoo.components.base import walk
from zoo.components.schedules import Adaptive
from zoo.components.teachers import GatedWeights, PeriodicWeights, SelfTeacher, SnapshotWeights
from zoo.entry import MethodEntry
from zoo.harness.parts import Part
from zoo.harness.scoring import Bank
from zoo.seeds import seed_for


class Copy(Part):
    """A model of the student's lineage that moves by a rule: its weights, and a few numbers."""

    def __init__(self, model: Any, student: Any) -> None:
        self.model, self.student = model, student
        self.numbers: dict[str, float] = {}

    @torch.no_grad()
    def move(self, share: float) -> None:
        """Go this share of the way to the student."""
        for kept, live in zip(self.model.parameters(), self.student.parameters(), strict=True):
            kept.lerp_(live.to(kept.dtype), share) if share < 1.0 else kept.copy_(live)

    def state_dict(self) -> dict[str, Any]:
        return {**self.model.state_dict(), "numbers": self.numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.numbers = dict(state["numbers"])
        self.model.load_state_dict({k: v for k, v in state.items() if k != "numbers"}, strict=False)


class Average(Copy):
    """w <- decay w + (1 - decay) student."""

    def __init__(self, model: Any, student: Any, decay: float) -> None:
        super().__init__(model, student)
        self.decay = decay

    def after_step(self, metrics: Mapping[str, float]) -> None:
        self.move(1.0 - self.decay)


class Periodic(Copy):
    """Copies the student by the clock."""

    def __init__(self, model: Any, student: Any, rule: PeriodicWeights) -> None:
        super().__init__(model, student)
        self.rule, self.numbers = rule, {"round": 0.0}

    def after_step(self, metrics: Mapping[str, float]) -> None:
        if self.rule.every is not None:
            due = int(metrics["step"]) % self.rule.every == 0
        else:
            part = float(int(metrics["progress"] * (self.rule.rounds or 1)))
            due, self.numbers = part > self.numbers["round"], {"round": part}
        if due:
            self.move(1.0)


class Gated(Copy):
    """Copies the student when all tests hold."""

    def __init__(self, model: Any, student: Any, rule: GatedWeights) -> None:
        super().__init__(model, student)
        self.rule, self.numbers = rule, {"since": 0.0}

    def after_step(self, metrics: Mapping[str, float]) -> None:
        numbers, rule = self.numbers, self.rule
        numbers["since"] += 1
        if rule.measure not in metrics:
            return
        now = metrics[rule.measure]
        mean = numbers["mean"] = rule.smooth * numbers.get("mean", now) + (1.0 - rule.smooth) * now
        rises = "best" not in numbers or mean > numbers["best"] + rule.margin
        if numbers["since"] >= rule.every and rises and (rule.tail is None or metrics.get(rule.tail, 0.0) <= rule.limit):
            self.move(1.0)
            numbers["since"], numbers["best"] = 0.0, mean


class Snapshots(Copy):
    """Copies by the clock, one of which is drawn anew for each step once all are there; `drawn_by` are the axes of that draw."""

    def __init__(self, model: Any, student: Any, rule: SnapshotWeights, drawn_by: tuple[str | int, ...]) -> None:
        super().__init__(model, student)
        self.rule, self.drawn_by = rule, drawn_by
        self.kept: list[dict[str, torch.Tensor]] = []

    @torch.no_grad()
    def after_step(self, metrics: Mapping[str, float]) -> None:
        due = min(int(metrics["progress"] / self.rule.until * self.rule.count), self.rule.count)
        if len(self.kept) < due:  # one step may pass several parts
            now = {name: p.detach().to("cpu", copy=True) for name, p in self.student.named_parameters()}
            self.kept += [now] * (due - len(self.kept))
        if len(self.kept) == self.rule.count:
            chosen = self.kept[seed_for("snapshot", *self.drawn_by, int(metrics["step"])) % self.rule.count]
            for name, p in self.model.named_parameters():
                p.copy_(chosen[name].to(p))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **{f"kept.{i}.{name}": value for i, one in enumerate(self.kept) for name, value in one.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        found: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in state.items():
            if key.startswith("kept."):
                _, index, name = key.split(".", 2)
                found.setdefault(int(index), {})[name] = value.to("cpu")
        self.kept = [found[index] for index in sorted(found)]
        super().load_state_dict({key: value for key, value in state.items() if not key.startswith("kept.")})


def lineage_copies(entry: MethodEntry, bank: Bank, axes: tuple[str | int, ...] = ()) -> dict[str, Part]:
    """The moving copies of the student that an entry's teachers are, by the key of their weights."""
    found: dict[str, Part] = {}
    for name, teacher in entry.teachers.items():
        if not isinstance(teacher, SelfTeacher):
            continue
        key, student, rule = bank.keys[name].weights, bank.models["student"], teacher.weights
        if key not in bank.models or not bank.moves(name) or key == "student":
            continue
        if isinstance(rule, PeriodicWeights):
            found[key] = Periodic(bank.models[key], student, rule)
        elif isinstance(rule, SnapshotWeights):
            found[key] = Snapshots(bank.models[key], student, rule, (*axes, name))
        elif isinstance(rule, GatedWeights):
            found[key] = Gated(bank.models[key], student, rule)
        else:
            found[key] = Average(bank.models[key], student, rule.decay)  # type: ignore[attr-defined]
    return found


class Measured(Part):
    """The present values of an entry's adaptive schedules; equal schedules share one."""

    def __init__(self, entry: MethodEntry) -> None:
        found = [part for field in ("rollouts", "teachers", "rewards", "objective") for part in walk(getattr(entry, field))]
        self.rules = tuple(dict.fromkeys(part for part in found if isinstance(part, Adaptive)))
        self.states = [rule.begin() for rule in self.rules]

    @property
    def values(self) -> dict[Any, float]:
        """Each schedule's number, as `Method` wants it."""
        return {rule: state["value"] for rule, state in zip(self.rules, self.states, strict=True)}

    def after_step(self, metrics: Mapping[str, float]) -> None:
        for index, rule in enumerate(self.rules):
            if all(name in metrics for name in rule.measures()):
                self.states[index] = rule.follow(self.states[index], metrics, metrics["progress"])

    def state_dict(self) -> dict[str, Any]:
        return {"states": self.states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.states = [dict(one) for one in state["states"]]
