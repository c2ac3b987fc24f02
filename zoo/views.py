"""Distributions of several scorers over the same tokens, computed when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.components.alignments import Pairing, Rows
from zoo.components.targets import Target
from zoo.errors import ZooError

FLOOR = -1e4  # a scorer's zero: far below any log-probability that fp32 can weigh, near enough to keep losses and gradients finite


Mix = Callable[[Callable[[str], Tensor]], Tensor]


class LogitView:
    """N tokens seen through functions that give each scorer's logits (N, V); implements `zoo.statistics.View`.

    Logits become fp32 (float64 stays) before the temperature and the softmax. A scorer's target transform follows; the
    others that it reads reach it without gradient. Logits that are wider than the narrowest scorer's are cut, never padded. Tokens that
    a scorer rules out (-inf) get the log-probability `FLOOR`; those that are known to rule out none are `open`, which spares passes over their
    vocabulary. `mixes` are scorers made of others, as functions of their
    log-probabilities; a temperature warms the members. `pairings` are scorers with another tokenizer, whose logits (M, W) are over their own
    tokens and vocabulary. `crossings` are teachers that a learner carries to the student or the student to
    them, each with the space in which they meet (`zoo.harness.dual.Crossing`).
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
        pairings: Mapping[str, Pairing] | None = None,
        crossings: Mapping[str, tuple[Any, str]] | None = None,
        fused: Callable[[Any, Tensor, Tensor, float], Tensor | None] | None = None,
        open: Collection[str] = (),
    ) -> None:
        self._fused, self._open = fused, open
        self._states, self._pairings, self.crossings = states or {}, pairings or {}, crossings or {}
        self.token_N = token_N
        self._mixes = mixes or {}
        self._logits, self._targets, self._values, self._vocabulary = logits, targets or {}, values or {}, vocabulary
        self._raw: dict[str, Tensor] = {}
        self._logp: dict[tuple[str, float], Tensor] = {}

    def logp_NV(self, scorer: str, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (N, V) of a scorer, cached for the life of the view."""
        if scorer in self._pairings:
            return self._carried(scorer, temperature)
        if self._there(scorer):
            raise ZooError(f"scorer '{scorer}' meets the student in its own space and has no law over the student's vocabulary; set space: student")
        key = (scorer, temperature)
        if key not in self._logp:
            if scorer in self._mixes:
                logp_NV = self._mixes[scorer](lambda member: self.logp_NV(member, temperature)).clamp(min=FLOOR)
            else:
                raw_NV = self._raw_logits(scorer)
                logp_NV = (raw_NV if temperature == 1.0 else raw_NV / temperature).log_softmax(-1)
                logp_NV = logp_NV if scorer in self._open else logp_NV.clamp(min=FLOOR)
            target = self._targets.get(scorer)
            if target is not None:
                others = {name: self.logp_NV(name, temperature).detach() for name in target.reads}
                logp_NV = target.transform(logp_NV, others).clamp(min=FLOOR)
            self._logp[key] = logp_NV
        return self._logp[key]

    def written_N(self, scorer: str) -> Tensor:
        """The log-probability of each written token (N,)."""
        if scorer in self._pairings:
            return self._pairings[scorer].alignment.shared_N(self._rows(scorer, 1.0))
        return self.logp_NV(scorer).gather(-1, self.token_N[:, None])[:, 0]

    def compared(self, scorer: str, temperature: float = 1.0) -> tuple[Tensor, Tensor] | None:
        """Both sides' log-masses (G, K), for a teacher whose alignment compares spans."""
        if self._there(scorer):
            both = self.crossings[scorer][0].there(temperature)
            return both[0].clamp(min=FLOOR), both[1].detach().clamp(min=FLOOR)
        if scorer not in self._pairings or self._pairings[scorer].alignment.law:
            return None
        student_GK, teacher_GK = self._pairings[scorer].alignment.compared(self._rows(scorer, temperature))
        return student_GK.clamp(min=FLOOR), teacher_GK.detach().clamp(min=FLOOR)

    def divergence_N(self, divergence: Any, scorer: str, temperature: float = 1.0) -> Tensor | None:
        """A divergence's entries summed over the whole vocabulary, in one pass from the logits; None where that can't be had."""
        plain = not (scorer in self._mixes or scorer in self._pairings or scorer in self.crossings or {scorer, "student"} & set(self._targets))
        if self._fused is None or not plain:
            return None
        return self._fused(divergence, self._raw_logits("student"), self._raw_logits(scorer), temperature)

    def places(self, scorer: str) -> tuple[Tensor, Tensor] | None:
        """The row and the sequence of each span (G,), for a teacher with an alignment."""
        if scorer in self.crossings:
            crossing, space = self.crossings[scorer]
            return crossing.places(space)  # type: ignore[no-any-return]
        pairing = self._pairings.get(scorer)
        return None if pairing is None else (pairing.alignment.place(pairing.span_G4), pairing.sequence_G)

    def _there(self, scorer: str) -> bool:
        return scorer in self.crossings and self.crossings[scorer][1] == "teacher"

    def _rows(self, scorer: str, temperature: float) -> Rows:
        raw_MW = self._raw_logits(scorer, len(self._pairings[scorer].vocabularies.teacher))
        logp_MW = (raw_MW if temperature == 1.0 else raw_MW / temperature).log_softmax(-1).clamp(min=FLOOR)
        return Rows(self._pairings[scorer], self.logp_NV("student", temperature), logp_MW, self.token_N)

    def _carried(self, scorer: str, temperature: float) -> Tensor:
        """The law over the student's vocabulary that an alignment makes of the teacher's."""
        pairing = self._pairings[scorer]
        if not pairing.alignment.law:
            raise ZooError(f"scorer '{scorer}' has another tokenizer and alignment {pairing.alignment.kind}, which gives no law over the student's vocabulary; "
                           "use alignment prefix_cover, or a divergence on columns")  # fmt: skip
        rows = self._rows(scorer, temperature)
        own_NV = rows.student_NV.detach()
        return own_NV.index_copy(0, pairing.span_G4[:, 0], pairing.alignment.compared(rows)[1].to(own_NV)).clamp(min=FLOOR)

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

    def _raw_logits(self, scorer: str, vocabulary: int | None = None) -> Tensor:
        if scorer not in self._raw:
            if scorer not in self._logits:
                raise ZooError(f"no logits for scorer '{scorer}'")
            logits_NV = self._logits[scorer]()[:, : vocabulary or self._vocabulary]
            self._raw[scorer] = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        return self._raw[scorer]
