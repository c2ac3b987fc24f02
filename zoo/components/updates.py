"""Updates: how the parameters move."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zoo.components.base import Component, Slot, component


def absent(value: Any) -> bool:
    """Whether an optional part was not given; it then leaves no trace in what an entry runs."""
    return value is None


class Move(Component):
    """Base of the ways in which a step departs from the optimizer's own."""


@component("step")
class Extrapolate(Move):
    """EffOPD (2605.11739, its code): when the number of steps is a power of two, further along the direction of travel,
    theta' = theta + f (theta - base) on the matrices of attention and MLP blocks, kept where the score on `prompts` validation prompts
    (greedy answers, the share that `check` accepts) rises strictly. After each accepted trial f <- f / (1 + f), which is the same stride
    again; the first failure or `trials` trials end the search. `base` is the best point of the last search, at first the initial student.
    """

    kind: Literal["extrapolate"] = "extrapolate"
    factor: float = Field(2.0, gt=0)
    trials: int = Field(5, ge=1)
    prompts: int = Field(50, ge=1)
    check: str = "answer"


@component("step")
class PrivateStep(Move):
    """DP-SGD (1607.00133): g = (1/B) (sum_i g_i min(1, clip / |g_i|) + Normal(0, (noise clip)^2)), where g_i is the gradient of B times
    sequence i's part of the loss, each sequence taken by itself. With `delta` the row of each step carries the epsilon spent so far, by
    Opacus's accountant of Renyi divergences (optional extra `dp`); its sampling rate is the share of the prompts drawn for a step.
    """

    kind: Literal["dp"] = "dp"
    clip: float = Field(gt=0)
    noise: float = Field(ge=0)
    delta: float | None = Field(None, gt=0, lt=1)


@component("step")
class MatchNorm(Move):
    """The combined gradient g, scaled to the norm of one term's own: g |g_term| / |g| (2606.00564, its eta)."""

    kind: Literal["match_norm"] = "match_norm"
    to: int = Field(0, ge=0)


@component("step")
class Merge(Move):
    """After the run's last step theta <- mean of theta and the weights of the peers in `of`, branches of the same start (2604.27083)."""

    kind: Literal["merge"] = "merge"
    of: tuple[str, ...] = Field(min_length=1)


@component("step")
class Restart(Move):
    """Once the share `at` of the run is over, theta <- theta_0, the initial weights, and the optimizer's moments are forgotten: the first part of
    the run only made what the second learns from (TMS 2602.03073)."""

    kind: Literal["restart"] = "restart"
    at: float = Field(gt=0, lt=1)


class Anchor(Component):
    """Base of the pulls of all weights towards the initial ones; their gradient is added before the clip."""

    strength: float = Field(gt=0)


@component("anchor")
class L2Anchor(Anchor):
    """(strength / 2) |theta - theta_0|^2."""

    kind: Literal["l2"] = "l2"
    shorthand = "strength"


@component("anchor")
class FisherAnchor(Anchor):
    """(strength / 2) sum_i F_i (theta_i - theta_0,i)^2 (EWC 1612.00796, eq. 3), F the diagonal of the initial student's Fisher information:
    the mean over `samples` training prompts of the squared gradient of log p(y|x), y drawn from the student itself."""

    kind: Literal["fisher"] = "fisher"
    shorthand = "strength"
    samples: int = Field(64, ge=1)


class Adapter(Component):
    """Base of the small modules that are trained in place of all weights."""


@component("adapter")
class Lora(Adapter):
    """W + (alpha / rank) B A on the linear maps whose names end in `targets`; B starts at 0 (2106.09685; peft, optional extra `peft`)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Update(Component):
    """Base of all updates. The learning rate, its schedule and the gradient clip belong to the comparison, so that all
    methods share them; an entry states only what is part of its method."""


@component("update")
class AdamW(Update):
    """Decoupled weight decay Adam, on all parameters or on an adapter's; `step` departs from the optimizer's own, `anchor` pulls back."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    step: Annotated[Move, Slot("step")] | None = Field(None, exclude_if=absent)
    anchor: Annotated[Anchor, Slot("anchor")] | None = Field(None, exclude_if=absent)
    adapter: Annotated[Adapter, Slot("adapter")] | None = Field(None, exclude_if=absent)

    @model_validator(mode="after")
    def _compatible(self) -> AdamW:
        if self.adapter is not None and (self.anchor is not None or isinstance(self.step, Extrapolate | Merge | Restart)):
            raise ValueError("an anchor and steps extrapolate, merge and restart act on the student's own weights, which an adapter freezes; drop one")
        return self


@component("update")
class TrustRegion(Update):
    """Natural gradient under a bound on the KL (TRPO 1502.05477, equation 14, section 6 and appendix C): s solves (F + damping) s = g by
    `iterations` of conjugate gradients, g the gradient of the loss L and F the Fisher information of the next-token law, meaned over the
    batch's supervised tokens; theta <- theta - beta s with beta = sqrt(2 kl / s^T (F + damping) s), times `shrink` until L falls and the mean
    KL(p_old || p) is within `kl`. After `backtracks` trials the weights stay.

    There is no optimizer: the learning rate has no effect, and the gradient clip, which scales g, none either. L is the surrogate, so a
    policy gradient states its ratio.
    """

    kind: Literal["trust_region"] = "trust_region"
    kl: float = Field(0.01, gt=0)
    damping: float = Field(0.1, ge=0)
    iterations: int = Field(10, ge=1)
    backtracks: int = Field(10, ge=1)
    shrink: float = Field(0.5, gt=0, lt=1)
    adapter: Annotated[Adapter, Slot("adapter")] | None = Field(None, exclude_if=absent)
