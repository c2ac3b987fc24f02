"""Distributions of several scorers over the same tokens, computed when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from zoo.components.targets import Target
from zoo.errors import ZooError

FLOOR = -1e4  # a scorer's zero: far below any log-probability that fp32 can weigh, near enough to keep losses and gradients finite


Mix = Callable[[Callable[[str], Tensor]], Tensor]


class LogitView:
    """N tokens seen through functions that give each scorer's logits (N, V); implements `zoo.statistics.View`.

    Logits become fp32 (float64 stays) before the temperature and the softmax. A scorer's target transform follows; the
    others that it reads reach it without gradient. Logits that are wider than the narrowest scorer's are cut, never padded. Tokens that
    a scorer rules out (-inf) get the log-probability `FLOOR`. `mixes` are scorers made of others, as functions of their
    log-probabilities; a temperature warms the members.
    """

    def __init__(
        self,
        token_N: Tensor,
        logits: Mapping[str, Callable[[], Tensor]],
        targets: Mapping[str, Target] | None = None,
        values: Mapping[str, Callable[..., Tensor]] | None = None,
        vocabulary: int | None = None,
        mixes: Mapping[str, Mix] | None = None,
        states: Mapping[str, Callable[[str], list[Tensor]]] | None = None,
    ) -> None:
        self._states = states or {}
        self.token_N = token_N
        self._mixes = mixes or {}
        self._logits, self._targets, self._values, self._vocabulary = logits, targets or {}, values or {}, vocabulary
        self._raw: dict[str, Tensor] = {}
        self._logp: dict[tuple[str, float], Tensor] = {}

    def logp_NV(self, scorer: str, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (N, V) of a scorer, cached for the life of the view."""
        key = (scorer, temperature)
        if key not in self._logp:
            if scorer in self._mixes:
                logp_NV = self._mixes[scorer](lambda member: self.logp_NV(member, temperature)).clamp(min=FLOOR)
            else:
                raw_NV = self._raw_logits(scorer)
                logp_NV = (raw_NV if temperature == 1.0 else raw_NV / temperature).log_softmax(-1).clamp(min=FLOOR)
            target = self._targets.get(scorer)
            if target is not None:
                others = {name: self.logp_NV(name, temperature).detach() for name in target.reads}
                logp_NV = target.transform(logp_NV, others).clamp(min=FLOOR)
            self._logp[key] = logp_NV
        return self._logp[key]

    def value_N(self, learner: str) -> Tensor:
        """A value head's estimate at each token."""
        return self._values[learner]()

    def states(self, scorer: str, layers: str) -> list[Tensor]:
        """Hidden states (N, H) of the chosen layers."""
        if scorer not in self._states:
            raise ZooError(f"no hidden states for scorer '{scorer}'")
        return self._states[scorer](layers)

    def projected(self, learner: str, states_NH: Tensor, place: int) -> Tensor:
        """States mapped by a projector."""
        return self._values[learner](states_NH, place)

    def _raw_logits(self, scorer: str) -> Tensor:
        if scorer not in self._raw:
            if scorer not in self._logits:
                raise ZooError(f"no logits for scorer '{scorer}'")
            logits_NV = self._logits[scorer]()[:, : self._vocabulary]
            self._raw[scorer] = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        return self._raw[scorer]
