"""Columns that only measures read: what two scorers say of one state, and how they rank its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.statistics import Entropy, View, kl_NV

Distance = Literal["kl", "jsd", "hellinger", "total_variation"]


@dataclass(frozen=True)
class Distances:
    """A distance of two scorers' distributions in a state; `top_k` sums its entries over the k best tokens of `of` alone, unnormalised."""

    of: str
    to: str
    by: Distance = "kl"
    top_k: int | None = None

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.of, self.to)

    def compute(self, view: View) -> Tensor:
        of_NV, to_NV = view.logp_NV(self.of), view.logp_NV(self.to)
        if self.top_k is not None:
            index_NK = of_NV.topk(min(self.top_k, of_NV.shape[-1]), -1).indices
            of_NV, to_NV = of_NV.gather(-1, index_NK), to_NV.gather(-1, index_NK)
        if self.by == "kl":
            return kl_NV(of_NV, to_NV)
        if self.by == "jsd":
            middle_NV = torch.logaddexp(of_NV, to_NV) - torch.log(torch.tensor(2.0, dtype=of_NV.dtype))
            return 0.5 * (kl_NV(of_NV, middle_NV) + kl_NV(to_NV, middle_NV))
        if self.by == "hellinger":
            return (0.5 * ((0.5 * of_NV).exp() - (0.5 * to_NV).exp()).square().sum(-1)).sqrt()
        return 0.5 * (of_NV.exp() - to_NV.exp()).abs().sum(-1)


@dataclass(frozen=True)
class EntropyShare:
    """A scorer's entropy over that of a uniform distribution on the vocabulary."""

    scorer: str

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.scorer,)

    def compute(self, view: View) -> Tensor:
        return Entropy(self.scorer).compute(view) / math.log(view.logp_NV(self.scorer).shape[-1])


@dataclass(frozen=True)
class Largest:
    """A scorer's largest probability."""

    scorer: str

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.scorer,)

    def compute(self, view: View) -> Tensor:
        return view.logp_NV(self.scorer).amax(-1).exp()


@dataclass(frozen=True)
class Ranks:
    """How many tokens `under` holds more probable than the written token, or than the most probable token of `of`."""

    under: str
    of: str | None = None

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.under,) if self.of is None else (self.under, self.of)

    def compute(self, view: View) -> Tensor:
        logp_NV = view.logp_NV(self.under)
        token_N = view.token_N if self.of is None else view.logp_NV(self.of).argmax(-1)
        return (logp_NV > logp_NV.gather(-1, token_N[:, None])).sum(-1).to(logp_NV.dtype)


@dataclass(frozen=True)
class OnTop:
    """What `of` says of the k best tokens of `among`: their mass, the gap between the best two log-probabilities, or how many of
    them are among its own k best, as a share."""

    of: str
    among: str
    k: int
    what: Literal["mass", "margin", "overlap"]

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.of, self.among)

    def compute(self, view: View) -> Tensor:
        of_NV, among_NV = view.logp_NV(self.of), view.logp_NV(self.among)
        k = min(self.k, of_NV.shape[-1])
        index_NK = among_NV.topk(k, -1).indices
        if self.what == "overlap":
            own_NK = of_NV.topk(k, -1).indices
            return (own_NK[:, :, None] == index_NK[:, None, :]).any(-1).to(of_NV.dtype).mean(-1)
        logp_NK = of_NV.gather(-1, index_NK)
        if self.what == "mass":
            return logp_NK.exp().sum(-1)
        best_N2 = logp_NK.topk(min(2, k), -1).values
        return best_N2[:, 0] - best_N2[:, -1]
