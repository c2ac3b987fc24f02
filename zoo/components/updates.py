"""Updates: how the parameters move."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zoo.components.base import Component, component


class Update(Component):
    """Base of all updates. The learning rate, its schedule and the gradient clip belong to the comparison, so that all
    methods share them; an entry states only what is part of its method."""


@component("update")
class AdamW(Update):
    """Decoupled weight decay Adam on all parameters."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
