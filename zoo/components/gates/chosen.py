"""Gates on whole responses and on parts of them: random acceptance, balance of outcomes, change points, stop tokens."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Slot, component
from zoo.components.gates.base import Gate
from zoo.statistics import Entropy, Statistic, TokenContext, log_probs
from zoo.tensors import smallest


@component("gate")
class Acceptance(Gate):
    """Kept with probability min(1, target(y) / draft(y)), as speculative decoding accepts a draft (TrOPD 2606.01249); `is: rejected` keeps
    the others. Gates on the same two scorers share one draw for each token, so a term that keeps the accepted tokens and one that keeps
    the rejected ones are complements."""

    kind: Literal["acceptance"] = "acceptance"
    target: str = "teacher"
    draft: str = "student"
    which: Literal["accepted", "rejected"] = Field("accepted", alias="is")

    model_config = {"populate_by_name": True}

    def scorers(self) -> tuple[str, ...]:
        return (self.target, self.draft)

    def statistics(self) -> tuple[Statistic, ...]:
        return log_probs(self.scorers())

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        ratio_BT = (context.logp_BT(self.target) - context.logp_BT(self.draft)).nan_to_num(0.0).exp()
        accepted_BT = context.uniform_BT(f"acceptance of {self.draft} by {self.target}") < ratio_BT
        return (accepted_BT if self.which == "accepted" else ~accepted_BT) & context.mask_BT


@component("gate")
class ClassBalance(Gate):
    """Right and wrong responses of the global batch in the proportion 1 : `ratio` at most, by dropping a random part of the more
    frequent outcome (Uni-OPD 2605.03677); all are kept where one outcome is missing. A reward above 1/2 is right."""

    kind: Literal["class_balance"] = "class_balance"
    name: str
    ratio: float = Field(1.0, ge=1)
    outcome = True

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        rows_B = context.mask_BT.any(1)
        right_B = context.rewards[self.name] > 0.5
        sides = [right_B & rows_B, ~right_B & rows_B]
        counts = [int(context.total(side_B.sum())) for side_B in sides]
        more = 0 if counts[0] > counts[1] else 1
        wanted = math.ceil(self.ratio * counts[1 - more])
        kept_B = rows_B
        if 0 < wanted < counts[more]:
            draw_B = context.uniform_B("class balance")
            last = smallest(draw_B, sides[more], wanted - 1, context.total)
            kept_B = sides[1 - more] | (sides[more] & (draw_B <= last))
        return kept_B[:, None] & context.mask_BT


@component("gate")
class ChangePoint(Gate):
    """The response up to the one place where a measure falls for good (Prefix Teach, Suffix Fade 2605.13643; penalty inferred).

    With means m_1..m_n of the measure over segments of `segment` tokens, RSS0 around their mean and RSS1(c) around one mean up to c and
    another after it: BIC0 = n ln(RSS0 / n) + ln n, BIC1(c) = n ln(RSS1(c) / n) + 3 ln n. The rest after segment c is dropped where
    BIC1(c) < BIC0 at the best c and the second mean is the lower one; nothing is dropped where n is less than twice `least`.
    """

    kind: Literal["change_point"] = "change_point"
    of: Annotated[Any, Slot("measure")]
    segment: int = Field(8, ge=1)
    least: int = Field(2, ge=1)

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of.scorers())

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(self.of.statistics())

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        value_BT, kept_BT = self.of.value(context), context.mask_BT.clone()
        for row_T, mask_T, kept_T in zip(value_BT, context.mask_BT, kept_BT, strict=True):
            place_N = mask_T.nonzero()[:, 0]
            kept_T[place_N[self.kept(row_T[place_N].double()) :]] = False
        return kept_BT

    def kept(self, value_N: Tensor) -> int:
        """How many of a response's tokens are kept."""
        means_M = torch.stack([piece.mean() for piece in value_N.split(self.segment)]) if len(value_N) else value_N
        n = len(means_M)
        if n < 2 * self.least:
            return len(value_N)
        rss0, rss, cut = _spread(means_M), math.inf, 0
        for c in range(self.least, n - self.least + 1):
            if (found := _spread(means_M[:c]) + _spread(means_M[c:])) < rss:
                rss, cut = found, c
        # A tiny constant keeps the logarithm finite for a perfect fit.
        bic0, bic1 = n * math.log(rss0 / n + 1e-12) + math.log(n), n * math.log(rss / n + 1e-12) + 3 * math.log(n)
        falls = bool(means_M[cut:].mean() < means_M[:cut].mean())
        return cut * self.segment if bic1 < bic0 and falls else len(value_N)


def _spread(value_M: Tensor) -> float:
    return float((value_M - value_M.mean()).square().sum())


@component("gate")
class Finished(Gate):
    """Responses that ended by themselves, or (`is: false`) those that the length limit cut."""

    kind: Literal["finished"] = "finished"
    value: bool = Field(True, alias="is")

    model_config = {"populate_by_name": True}

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        return (context.rollout.finished_B == self.value)[:, None] & context.mask_BT


@component("gate")
class TokenSet(Gate):
    """Tokens outside a set of ids, or inside it (`is: in`); `stop` adds the token that ended the response (Power-OPD 2606.17199)."""

    kind: Literal["token_set"] = "token_set"
    ids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    stop: bool = False
    side: Literal["in", "out"] = Field("out", alias="is")

    model_config = {"populate_by_name": True}

    @model_validator(mode="after")
    def _some(self) -> TokenSet:
        if not self.ids and not self.stop:
            raise ValueError("the set is empty; give ids, or stop: true")
        return self

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        rollout, mask_BT = context.rollout, context.mask_BT
        inside_BT = torch.isin(rollout.response_BT, torch.tensor(self.ids, dtype=rollout.response_BT.dtype, device=mask_BT.device))
        if self.stop:
            last_BT = mask_BT & (mask_BT.flip(1).cumsum(1).flip(1) == 1)
            inside_BT = inside_BT | (last_BT & rollout.finished_B[:, None])
        return (inside_BT if self.side == "in" else ~inside_BT) & mask_BT


@component("gate")
class HasContext(Gate):
    """Sequences for which a scorer's context has something to show, or (`is: absent`) those for which it has nothing (SRPO 2604.02288: wrong
    answers without a right peer stay with GRPO). The scorer is one that another term of the stream reads."""

    kind: Literal["context"] = "context"
    of: str
    which: Literal["present", "absent"] = Field("present", alias="is")

    model_config = {"populate_by_name": True}

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        absent_B = context.absent.get(self.of, torch.zeros_like(context.mask_BT[:, 0]))
        return (absent_B if self.which == "absent" else ~absent_B)[:, None] & context.mask_BT


@component("gate")
class GroupPick(Gate):
    """One member of each group: among those with the wanted verdict (all, where `wanted` is any) the one whose measure, by its mean over the
    response, is highest or lowest; the first of equals. Without a member of that verdict the group has none (SSOPD 2605.17497: the longest
    wrong answer; BRTS 2605.09725: the right one that the student finds likeliest). A reward above 1/2 is right."""

    kind: Literal["group_pick"] = "group_pick"
    name: str
    wanted: Literal["right", "wrong", "any"] = "right"
    of: Annotated[Any, Slot("measure")]
    side: Literal["highest", "lowest"] = "highest"
    outcome = True

    def scorers(self) -> tuple[str, ...]:
        return tuple(self.of.scorers())

    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(self.of.statistics())

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT, right_B = context.mask_BT, context.rewards[self.name] > 0.5
        eligible_B = mask_BT.any(1) & {"right": right_B, "wrong": ~right_B, "any": torch.ones_like(right_B)}[self.wanted]
        value_B = context.sequence_mean(self.of.value(context)) * (1.0 if self.side == "highest" else -1.0)
        kept_B = torch.zeros_like(eligible_B)
        for group in context.rollout.group_B[eligible_B].unique():
            members = (eligible_B & (context.rollout.group_B == group)).nonzero()[:, 0]
            kept_B[members[value_B[members].argmax()]] = True
        return kept_B[:, None] & mask_BT


@component("gate")
class EntropyChunks(Gate):
    """At most `count` stretches of `size` tokens that begin where the student's entropy is highest, chosen from the highest on, none over another or
    past the response's end (OmniOPD 2606.01476); `part` is their first tokens, the `chunks` themselves, or the `rest` of the response."""

    kind: Literal["entropy_chunks"] = "entropy_chunks"
    count: int = Field(10, ge=1)
    size: int = Field(50, ge=1)
    part: Literal["anchors", "chunks", "rest"]

    def scorers(self) -> tuple[str, ...]:
        return ("student",)

    def statistics(self) -> tuple[Statistic, ...]:
        return (Entropy("student"),)

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT, entropy_BT = context.mask_BT, context.column(Entropy("student"))
        anchors, inside = torch.zeros_like(mask_BT), torch.zeros_like(mask_BT)
        for b in range(len(mask_BT)):
            places = mask_BT[b].nonzero()[:, 0]
            order = entropy_BT[b, places].sort(descending=True, stable=True).indices.tolist()
            taken = list[int]()
            for at in order:
                if len(taken) < self.count and at + self.size <= len(places) and all(abs(at - other) >= self.size for other in taken):
                    taken.append(at)
                    anchors[b, places[at]] = True
                    inside[b, places[at : at + self.size]] = True
        return anchors if self.part == "anchors" else inside if self.part == "chunks" else mask_BT & ~inside
