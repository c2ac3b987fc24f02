"""Gates that remember: what earlier steps showed decides what the present one lets through.

The rule is a pure function of a small state, which lives in the run, is saved with it, and is the same for any number of processes: a step
adds sums over the global batch. Where a batch stands alone (the lab, `zoo check`) there is nothing to remember, and each kind says what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Slot, component, walk
from zoo.components.gates.base import Gate
from zoo.statistics import Statistic, TokenContext

State = Mapping[str, Tensor]


class Remembering(Gate):
    """Gates with a state, over a measure."""

    of: Annotated[Any, Slot("measure")]

    @model_validator(mode="after")
    def _fixed(self) -> Remembering:
        if any(part.tag == "schedule" for part in walk(self)):
            raise ValueError("a gate that remembers has no schedules inside: what it remembers was measured by one rule; write a number")
        return self

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of.scorers())

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(self.of.statistics())

    @property
    def key(self) -> str:
        """Where a context keeps its state; equal gates share one."""
        return str(self.model_dump_json(by_alias=True))

    def begin(self, vocabulary: int) -> dict[str, Tensor]:
        """The state before the first step."""
        raise NotImplementedError

    def seen(self, context: TokenContext, vocabulary: int) -> dict[str, Tensor]:
        """What a step's global batch shows: sums."""
        raise NotImplementedError

    def follow(self, state: State, seen: State, progress: float) -> dict[str, Tensor]:
        """The state after a step, with the share `progress` of the run over."""
        raise NotImplementedError


@component("gate")
class Hysteresis(Remembering):
    """A switch for the whole batch with two thresholds (AntiSD 2605.11609): W is the mean of a measure over the first `warmup` of the run, in
    which the gate is shut. It then opens; shuts once a batch's mean is below `down` W; opens again once one reaches `up` W.

    A step acts on what the steps before it showed. A batch that stands alone finds it open.
    """

    kind: Literal["hysteresis"] = "hysteresis"
    down: float = Field(0.93, gt=0)
    up: float = Field(1.0, gt=0)
    warmup: float = Field(0.05, gt=0, lt=1)

    @model_validator(mode="after")
    def _ordered(self) -> Hysteresis:
        if self.down > self.up:
            raise ValueError(f"down ({self.down:g}) must not exceed up ({self.up:g}); between the two the gate stays as it is")
        return self

    def begin(self, vocabulary: int) -> dict[str, Tensor]:
        zero = torch.zeros((), dtype=torch.float64)
        return {"total": zero, "count": zero.clone(), "open": zero.clone()}

    def seen(self, context: TokenContext, vocabulary: int) -> dict[str, Tensor]:
        mask_BT = context.mask_BT
        total = torch.where(mask_BT, self.of.value(context), 0.0).sum().double()
        return {"total": context.total(total).cpu(), "count": context.total(mask_BT.sum()).double().cpu()}

    def follow(self, state: State, seen: State, progress: float) -> dict[str, Tensor]:
        if progress < self.warmup or float(state["count"]) == 0.0:
            sums = {name: state[name] + seen[name] for name in ("total", "count")}
            return {**sums, "open": torch.tensor(float(progress >= self.warmup), dtype=torch.float64)}
        warm, mean = float(state["total"] / state["count"]), float(seen["total"] / seen["count"].clamp(min=1))
        wanted = mean >= (self.down if bool(state["open"]) else self.up) * warm
        return {**state, "open": torch.tensor(float(wanted), dtype=torch.float64)}

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        state = context.memory.get(self.key)
        return context.mask_BT if state is None or bool(state["open"]) else torch.zeros_like(context.mask_BT)


@component("gate")
class Persistent(Remembering):
    """Tokens whose type has kept a high measure: above the `level` quantile of all types' means in each of the last `streak` rounds, a round
    being one of `rounds` equal parts of the run (Rock Tokens 2605.09253, the definition inferred: high at the start and still at saturation).
    `is: other` drops them. A type has a mean where it was written `least` times in the round; where not, the round does not count for it.

    In the first `streak` rounds, and in a batch that stands alone, no type is persistent.
    """

    kind: Literal["persistent"] = "persistent"
    level: float = Field(0.95, gt=0, lt=1)
    rounds: int = Field(10, ge=2)
    streak: int = Field(2, ge=1)
    least: int = Field(1, ge=1)
    which: Literal["persistent", "other"] = Field("other", alias="is")

    model_config = {"populate_by_name": True}

    @model_validator(mode="after")
    def _possible(self) -> Persistent:
        if self.streak >= self.rounds:
            raise ValueError(f"streak ({self.streak}) must be below rounds ({self.rounds}), else the run ends before any type is persistent")
        return self

    def begin(self, vocabulary: int) -> dict[str, Tensor]:
        names = ("total_V", "count_V", "streak_V")
        return {**{name: torch.zeros(vocabulary, dtype=torch.float64) for name in names}, "round": torch.zeros((), dtype=torch.float64)}

    def seen(self, context: TokenContext, vocabulary: int) -> dict[str, Tensor]:
        token_N = context.rollout.response_BT[context.mask_BT]
        value_N = self.of.value(context)[context.mask_BT].double()
        zeros_V = torch.zeros(vocabulary, dtype=torch.float64, device=token_N.device)
        sums = {"total_V": zeros_V.index_add(0, token_N, value_N), "count_V": zeros_V.index_add(0, token_N, torch.ones_like(value_N))}
        return {name: context.total(sum_V).cpu() for name, sum_V in sums.items()}

    def follow(self, state: State, seen: State, progress: float) -> dict[str, Tensor]:
        total_V, count_V = (state[name] + seen[name] for name in ("total_V", "count_V"))
        reached = min(int(progress * self.rounds), self.rounds)
        if reached <= int(state["round"]):
            return {**state, "total_V": total_V, "count_V": count_V}
        known_V = count_V >= self.least
        mean_V, streak_V = total_V / count_V.clamp(min=1), state["streak_V"]
        if bool(known_V.any()):
            high_V = mean_V > mean_V[known_V].quantile(self.level)
            streak_V = torch.where(known_V, torch.where(high_V, streak_V + 1, 0.0), streak_V)
        return {**self.begin(len(total_V)), "streak_V": streak_V, "round": torch.tensor(float(reached), dtype=torch.float64)}

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        state, mask_BT = context.memory.get(self.key), context.mask_BT
        if state is None:
            rock_BT = torch.zeros_like(mask_BT)
        else:
            rock_BT = (state["streak_V"] >= self.streak).to(mask_BT.device)[context.rollout.response_BT]
        return (rock_BT if self.which == "persistent" else ~rock_BT) & mask_BT
