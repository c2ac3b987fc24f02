"""Gates on dialogues: which turn a token belongs to, and what it is for."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import component
from zoo.components.gates.base import Gate, Threshold
from zoo.statistics import TokenContext
from zoo.tensors import Role


@component("gate")
class RoleGate(Gate):
    """Tokens of one role: `call`, what the writer asks of a tool; `answer`, behind the pair's mark of a final answer; `text`, all else that it
    wrote (SD-Search 2605.18299 teaches queries alone, Canonical-Context OPD 2605.30251 answers alone)."""

    kind: Literal["role"] = "role"
    role: Literal["text", "call", "answer"] = Field(alias="is")

    model_config = {"populate_by_name": True}

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        return (context.rollout.roles_BT == int(Role[self.role.upper()])) & context.mask_BT


@component("gate")
class TurnGate(Threshold):
    """The turn that a token belongs to, counted from 0; `from_end` counts from the writer's last turn, which is 0, backwards (MAIGO 2605.27186
    treats the last turn otherwise than those before it)."""

    kind: Literal["turn"] = "turn"
    from_end: bool = False

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT, turn_BT = context.mask_BT, context.rollout.turns_BT
        if self.from_end:
            turn_BT = torch.where(mask_BT, turn_BT, -1).amax(1, keepdim=True) - turn_BT
        return self.passes(turn_BT) & mask_BT
