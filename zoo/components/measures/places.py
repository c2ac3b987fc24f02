"""Measures of where a token stands and of what came before it; those of other measures, accumulated along the response."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Number, Slot, component
from zoo.components.measures.base import Measure
from zoo.statistics import Statistic, TokenContext


def along(mask_BT: Tensor, like: Tensor) -> Tensor:
    """Supervised tokens before each token, its place among them, (B, T)."""
    return (mask_BT.cumsum(1) - mask_BT.long()).to(like)


@component("measure")
class Position(Measure):
    """Place among the response's supervised tokens, from 0; `relative`: (place + 1/2) / their number, in (0, 1)."""

    kind: Literal["position"] = "position"
    relative: bool = False

    def value(self, context: TokenContext) -> Tensor:
        mask_BT = context.mask_BT
        place_BT = along(mask_BT, context.rollout.behaviour_logp_BT)
        return (place_BT + 0.5) / mask_BT.sum(1, keepdim=True).clamp(min=1) if self.relative else place_BT


@component("measure")
class Length(Measure):
    """The number of the response's supervised tokens, the same for each of them."""

    kind: Literal["length"] = "length"

    def value(self, context: TokenContext) -> Tensor:
        mask_BT = context.mask_BT
        return mask_BT.sum(1, keepdim=True).to(context.rollout.behaviour_logp_BT).expand(mask_BT.shape)


@component("measure")
class Repetition(Measure):
    """How often the n tokens that end here have stood in the response before; 0 for a token that repeats nothing."""

    kind: Literal["repetition"] = "repetition"
    n: int = Field(4, ge=1)

    def value(self, context: TokenContext) -> Tensor:
        found_BT = torch.zeros_like(context.rollout.behaviour_logp_BT)
        rows = zip(context.rollout.response_BT.tolist(), context.mask_BT.tolist(), strict=True)
        for b, (tokens, mask) in enumerate(rows):
            places = [t for t, m in enumerate(mask) if m]
            seen: dict[tuple[int, ...], int] = {}
            for last in range(self.n - 1, len(places)):
                gram = tuple(tokens[t] for t in places[last - self.n + 1 : last + 1])
                found_BT[b, places[last]] = seen.get(gram, 0)
                seen[gram] = seen.get(gram, 0) + 1
        return found_BT


class Along(Measure):
    """Measures that accumulate another one along the response."""

    of: Annotated[Any, Slot("measure")]

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of.scorers())

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(self.of.statistics())


@component("measure")
class Spent(Along):
    """sum_{k<t} x_k / sum_k x_k, the share of a measure that the response has spent before the token; for x >= 0, such as an entropy
    or the size of a log-ratio (IW-OPD 2606.22600; TSD-KD 2603.13260). `here` includes the token itself."""

    kind: Literal["spent"] = "spent"
    here: bool = False

    def value(self, context: TokenContext) -> Tensor:
        value_BT = torch.where(context.mask_BT, self.of.value(context), 0.0)
        passed_BT = value_BT.cumsum(1) if self.here else value_BT.cumsum(1) - value_BT
        return passed_BT / (value_BT.sum(1, keepdim=True) + 1e-8)


@component("measure")
class Events(Along):
    """The number of tokens up to this one whose measure lies below (or above) a threshold (Prune-OPD's drift count, 2605.07804)."""

    kind: Literal["events"] = "events"
    below: Number | None = None
    above: Number | None = None

    @model_validator(mode="after")
    def _one(self) -> Events:
        if (self.below is None) == (self.above is None):
            raise ValueError("give exactly one of below, above")
        return self

    def value(self, context: TokenContext) -> Tensor:
        value_BT = self.of.value(context)
        event_BT = value_BT < self.below if self.below is not None else value_BT > self.above
        return (event_BT & context.mask_BT).cumsum(1).to(value_BT)


@component("measure")
class Ahead(Along):
    """The mean of a measure over the next `window` tokens of the response, fewer at its end; the token's own where none follows
    (CL-EGRSD 2605.13255, its window inferred: an uncertain token that leads into certain text is passing)."""

    kind: Literal["ahead"] = "ahead"
    window: int = Field(16, ge=1)

    def value(self, context: TokenContext) -> Tensor:
        mask_BT, value_BT = context.mask_BT, self.of.value(context)
        found_BT = value_BT.clone()
        for row_T, mask_T, found_T in zip(value_BT, mask_BT, found_BT, strict=True):
            place_N = mask_T.nonzero()[:, 0]
            for i, place in enumerate(place_N[:-1].tolist()):
                found_T[place] = row_T[place_N[i + 1 : i + 1 + self.window]].mean()
        return found_BT
