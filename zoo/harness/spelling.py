"""Byte heads: what the student's hidden states say of the bytes of the next token, beside a teacher's law over them and the bytes themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zoo.components.alignments import Pairing
from zoo.components.learners import ByteHeads
from zoo.harness.parts import Part, load_optimizer_tensors, optimizer_tensors

SYMBOLS, STOP, NOTHING = 257, 256, -1e4


class Heads(Part):
    """The byte heads, one row of weights for each; they begin at 0, where every byte is as likely."""

    def __init__(self, spec: ByteHeads, size: int, like: Tensor) -> None:
        self.weight_JHB = nn.Parameter(torch.zeros(spec.heads, size, SYMBOLS, dtype=like.dtype, device=like.device))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=spec.learning_rate, weight_decay=0.0)

    def parameters(self) -> list[nn.Parameter]:
        return [self.weight_JHB]

    def logp(self, states_NH: Tensor, row_G: Tensor, byte_G: Tensor) -> Tensor:
        """Log-laws (G, B) of byte `byte_G` of the token at `row_G`."""
        found_GB = states_NH.new_zeros(len(row_G), SYMBOLS)
        for j in range(len(self.weight_JHB)):
            at = (byte_G == j).nonzero()[:, 0]
            found_GB = found_GB.index_copy(0, at, states_NH[row_G[at]] @ self.weight_JHB[j].to(states_NH))
        return found_GB.log_softmax(-1)

    def after_step(self, metrics: Mapping[str, float]) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"weight_JHB": self.weight_JHB.detach(), **optimizer_tensors(self.optimizer)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weight_JHB.copy_(state["weight_JHB"])
        load_optimizer_tensors(self.optimizer, state)


@dataclass(eq=False)
class Spelling:
    """A chunk's tokens as bytes: `own_NH` are the student's last states, `pieces` the bytes of its tokens. With `teacher_MW` and `pairing` the bytes
    meet a teacher's law, without them themselves."""

    heads: Heads
    token_N: Tensor
    own_NH: Tensor
    pieces: Mapping[int, bytes] | tuple[bytes | None, ...]
    stop: int
    pairing: Pairing | None = None
    teacher_MW: Tensor | None = None

    def spelled(self, token: int) -> list[int]:
        """The bytes of a token that heads predict; nothing for one that is no text."""
        piece = [STOP] if token == self.stop else list(self.pieces[token] or b"")
        return piece[: len(self.heads.weight_JHB)]

    @cached_property
    def rows(self) -> list[tuple[int, int, int]]:
        """Row, number and value of each byte; against a teacher only of tokens that it pairs."""
        paired = range(len(self.token_N)) if self.pairing is None else self.pairing.span_G4[:, 0].tolist()
        tokens = self.token_N.tolist()
        return [(row, j, byte) for row in paired for j, byte in enumerate(self.spelled(tokens[row]))]

    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.tensor([each[k] for each in self.rows], dtype=torch.long, device=self.token_N.device) for k in range(3))  # type: ignore[return-value]

    def there(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-masses of the heads and of what they are compared with: (G, B), a row for each byte; against the bytes themselves (N, J B), a row
        for each token that is the joint law of which byte, each as likely, and its value."""
        row_G, byte_G, value_G = self._columns()
        own_GB = self.heads.logp(self.own_NH, row_G, byte_G)
        if self.teacher_MW is not None:
            return own_GB, self._law()
        count, heads = len(self.token_N), len(self.heads.weight_JHB)
        known_G = torch.zeros(count, device=own_GB.device, dtype=own_GB.dtype).index_add(0, row_G, torch.ones_like(row_G, dtype=own_GB.dtype))
        share_G1 = known_G[row_G].log()[:, None]
        exact_GB = torch.full_like(own_GB, NOTHING).scatter(1, value_G[:, None], 0.0)
        empty = own_GB.new_full((count * heads, SYMBOLS), NOTHING)
        laws = [empty.index_copy(0, row_G * heads + byte_G, one - share_G1).view(count, heads * SYMBOLS)[self._texts()] for one in (own_GB, exact_GB)]
        return laws[0], laws[1]

    def _texts(self) -> Tensor:
        """Rows of tokens that have bytes."""
        return torch.unique(self._columns()[0])

    def _law(self) -> Tensor:
        """The teacher's law (G, B) at each byte."""
        assert self.pairing is not None and self.teacher_MW is not None
        known, law_MW = self.pairing.vocabularies, self.teacher_MW.log_softmax(-1).exp()
        token_M, alike = self.pairing.token_M.tolist(), dict[bytes, list[tuple[int, int]]]()
        place = 0
        for (_, _, c, _), begun, row in zip(self.pairing.span_G4.tolist(), self.pairing.begun, self.pairing.span_G4[:, 0].tolist(), strict=True):
            for j in range(len(self.spelled(int(self.token_N[row])))):
                at, size = c + begun[2 * j], begun[2 * j + 1]
                alike.setdefault((known.teacher.pieces[token_M[at]] or b"")[:size], []).append((place, at))
                place += 1
        found_GB = law_MW.new_zeros(place, SYMBOLS)
        for before, places in alike.items():
            ids, byte = (part.to(law_MW.device) for part in known.continuing(before))
            mass_KI = law_MW[torch.tensor([at for _, at in places], device=law_MW.device)][:, ids]
            sums_KB = mass_KI.new_zeros(len(places), SYMBOLS + 1).index_add(1, byte, mass_KI)
            law_KB = sums_KB[:, :SYMBOLS] / sums_KB.sum(-1, keepdim=True).clamp(min=1e-30)
            found_GB = found_GB.index_copy(0, torch.tensor([g for g, _ in places], device=law_MW.device), law_KB)
        return found_GB.log().clamp(min=NOTHING)

    def places(self, space: str) -> tuple[Tensor, Tensor]:
        """The rows at which the comparison stands, and no sequences."""
        row_G = self._columns()[0] if self.teacher_MW is not None else self._texts()
        return row_G, torch.zeros_like(row_G)

    def seen_logits(self) -> Tensor:
        raise NotImplementedError

    def agrees_N(self) -> Tensor:
        raise NotImplementedError

    def fit(self) -> float:
        """The heads learn with the student, from the divergences that read them."""
        return 0.0
