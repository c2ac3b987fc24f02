"""Hidden states carried between a student and a teacher by learners of their own: what each side is in the other's space.

The kinds are in `zoo.components.learners`; a `Crossing` is a chunk of tokens as both sides see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zoo.components.alignments import Pairing
from zoo.components.learners import CrossAttention, DualProjector
from zoo.harness.parts import Part, load_optimizer_tensors, optimizer_tensors
from zoo.seeds import seed_for

Places = tuple[Tensor, Tensor]


@dataclass(eq=False)
class Crossing:
    """N tokens of the student with M of the teacher: last states and, behind them, those of further layers; `token_N` was written.

    Only what starts from `own_NH` has a gradient in the student, and only what passes the bridge's maps has one in them.
    """

    bridge: Carrier
    token_N: Tensor
    own_NH: Tensor
    their_MH: Tensor
    pairing: Pairing | None

    @cached_property
    def seen_NV(self) -> Tensor:
        """Logits (N, V) of the teacher in the student's space; 0 where nothing is paired."""
        return self.bridge.seen(self)

    def seen_logits(self) -> Tensor:
        """The same without gradient."""
        return self.seen_NV.detach()

    @cached_property
    def teacher_MW(self) -> Tensor:
        """The teacher's own logits, over its own vocabulary."""
        with torch.no_grad():
            return self.bridge.teacher_logits(self.their_MH)

    def there(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-laws (G, W) of the student in the teacher's space and of the teacher."""
        student_GW, teacher_GW = self.bridge.there(self)
        return (student_GW / temperature).log_softmax(-1), (teacher_GW / temperature).log_softmax(-1)

    def places(self, space: str) -> Places:
        """The rows at which the comparison in a space stands, and their sequences, both (G,)."""
        return self.bridge.places(self, space)

    def agrees_N(self) -> Tensor:
        """1 where the projected teacher's best token is what it is trained towards."""
        best_N = self.bridge.best(self)
        return ((self.seen_NV.argmax(-1) == best_N) & (best_N >= 0)).to(self.seen_NV)

    def fit(self) -> Tensor:
        """The bridge's own loss: the sum of the cross-entropies of the projected teacher, over the tokens that it is trained on."""
        best_N = self.bridge.best(self)
        logp_NV, known_N = self.seen_NV.log_softmax(-1), best_N >= 0
        return -(logp_NV.gather(-1, best_N.clamp(min=0)[:, None])[:, 0] * known_N).sum()


class Carrier(Part):
    """A learner that carries states, with an optimizer of its own."""

    maps: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer

    def __init__(self, student: Any, teacher: Any, vocabulary: int, teacher_vocabulary: int) -> None:
        self.student, self.teacher, self.vocabulary, self.teacher_vocabulary = student, teacher, vocabulary, teacher_vocabulary

    def heads(self) -> tuple[Tensor, Tensor]:
        """Both output heads, (V, d_S) and (W, d_T), without gradient."""
        own, theirs = (model.get_output_embeddings().weight.detach() for model in (self.student, self.teacher))
        return _full(own[: self.vocabulary]), _full(theirs[: self.teacher_vocabulary])

    def teacher_logits(self, states_MH: Tensor) -> Tensor:
        """The teacher's head on its last states."""
        theirs = self.heads()[1]
        return _full(states_MH[:, : theirs.shape[1]]) @ theirs.T

    def seen(self, at: Crossing) -> Tensor:
        raise NotImplementedError

    def there(self, at: Crossing) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def places(self, at: Crossing, space: str) -> Places:
        raise NotImplementedError

    def best(self, at: Crossing) -> Tensor:
        raise NotImplementedError

    def parameters(self) -> list[nn.Parameter]:
        return list(self.maps.values())

    def after_step(self, metrics: Mapping[str, float]) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {**{f"map.{name}": value.detach() for name, value in self.maps.items()}, **optimizer_tensors(self.optimizer)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in self.maps.items():
            value.copy_(state[f"map.{name}"])
        load_optimizer_tensors(self.optimizer, state)


class Dual(Carrier):
    """See `DualProjector`. `shared` are the ids of the tokens that both vocabularies have, the student's and the teacher's."""

    def __init__(self, spec: DualProjector, student: Any, teacher: Any, shared: tuple[Tensor, Tensor], sizes: tuple[int, int]) -> None:
        super().__init__(student, teacher, *sizes)
        own, theirs = self.heads()
        self.mine, self.theirs = (ids.to(own.device) for ids in shared)
        inverse_VS, self.inverse_VT = (torch.linalg.pinv(head[ids].double().T).to(head) for head, ids in ((own, self.mine), (theirs, self.theirs)))
        self.known_W = torch.full((sizes[1],), -1, device=own.device).index_copy(0, self.theirs, self.mine)
        self.maps = {"teacher_to_student": nn.Parameter((theirs[self.theirs].T @ inverse_VS).contiguous())}
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=spec.learning_rate, weight_decay=0.0)

    def rows(self, at: Crossing) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of both sides that pair and whose best token the student has, and their sequences, each (G,)."""
        if at.pairing is None:
            a = c = torch.arange(len(at.token_N), device=at.token_N.device)
            sequence = torch.zeros_like(a)
        else:
            a, _, c, _ = at.pairing.span_G4.T
            sequence = at.pairing.sequence_G
        known = self.known_W[at.teacher_MW[c].argmax(-1)] >= 0
        return a[known], c[known], sequence[known]

    def seen(self, at: Crossing) -> Tensor:
        own, _ = self.heads()
        a, c, _ = self.rows(at)
        logits_GV = _full(at.their_MH[c][:, : self.maps["teacher_to_student"].shape[0]]) @ self.maps["teacher_to_student"] @ own.T
        return torch.zeros(len(at.token_N), len(own), dtype=logits_GV.dtype, device=own.device).index_copy(0, a, logits_GV)

    def there(self, at: Crossing) -> tuple[Tensor, Tensor]:
        own, theirs = self.heads()
        a, c, _ = self.rows(at)
        back_ST = own[self.mine].T @ self.inverse_VT
        return _full(at.own_NH[a][:, : own.shape[1]]) @ back_ST @ theirs.T, at.teacher_MW[c]

    def places(self, at: Crossing, space: str) -> Places:
        a, _, sequence = self.rows(at)
        return a, sequence

    def best(self, at: Crossing) -> Tensor:
        a, c, _ = self.rows(at)
        return torch.full_like(at.token_N, -1).index_copy(0, a, self.known_W[at.teacher_MW[c].argmax(-1)].to(at.token_N))


class Attention(Carrier):
    """See `CrossAttention`. `first` is the column at which the input embeddings stand among each side's states."""

    def __init__(self, spec: CrossAttention, student: Any, teacher: Any, sizes: tuple[int, int], axes: tuple[str | int, ...]) -> None:
        super().__init__(student, teacher, *sizes)
        own, theirs = self.heads()
        self.own, self.their = own.shape[1], theirs.shape[1]
        shapes = {"query": (2 * self.own, 2 * self.their), "teacher_to_student": (self.their, self.own), "student_to_teacher": (self.own, self.their)}
        generator = torch.Generator().manual_seed(seed_for(*axes) % 2**63)
        drawn = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[0] ** 0.5 for name, shape in shapes.items()}
        self.maps = {name: nn.Parameter(value.to(own)) for name, value in drawn.items()}
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=spec.learning_rate, weight_decay=0.0)

    def _both(self, at: Crossing) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """For each sequence: the student's rows, the teacher's rows, scores (n, m) and the teacher's last states and target embeddings, scaled."""
        assert at.pairing is not None
        found = []
        a_G, _, c_G, d_G = at.pairing.span_G4.T
        for number in torch.unique(at.pairing.sequence_G).tolist():
            mine = at.pairing.sequence_G == number
            rows, theirs = a_G[mine], torch.arange(int(c_G[mine][0]), int(d_G[mine][0]), device=a_G.device)
            own_nE = torch.cat([self._inputs(at.own_NH, rows, self.own), self._targets(self.student, at.token_N[rows])], -1)
            target_mT = self._targets(self.teacher, at.pairing.token_M[theirs])
            their_mE = torch.cat([self._inputs(at.their_MH, theirs, self.their), target_mT], -1)
            scores_nm = (own_nE @ self.maps["query"]) @ (their_mE / _spread(their_mE)).T / (2 * self.their) ** 0.5
            last_mT = _full(at.their_MH[theirs][:, : self.their]).detach()
            found.append((rows, theirs, scores_nm, last_mT / _spread(last_mT), target_mT / _spread(target_mT)))
        return found

    @staticmethod
    def _inputs(states_NH: Tensor, rows: Tensor, width: int) -> Tensor:
        """The embeddings of the tokens that were read, which are the states in front of the first block."""
        return _full(states_NH[rows][:, width : 2 * width]).detach()

    @staticmethod
    def _targets(model: Any, ids: Tensor) -> Tensor:
        return _full(model.get_input_embeddings().weight.detach()[ids])

    def seen(self, at: Crossing) -> Tensor:
        own, _ = self.heads()
        found_NV = torch.zeros(len(at.token_N), len(own), dtype=own.dtype, device=own.device)
        for rows, _, scores_nm, last_mT, target_mT in self._both(at):
            found_NV = found_NV.index_copy(0, rows, scores_nm.softmax(-1) @ ((last_mT + target_mT) @ self.maps["teacher_to_student"]) @ own.T)
        return found_NV

    def there(self, at: Crossing) -> tuple[Tensor, Tensor]:
        _, theirs = self.heads()
        students, teachers = [], []
        for rows, their, scores_nm, _, _ in self._both(at):
            carried_nT = _full(at.own_NH[rows][:, : self.own]) @ self.maps["student_to_teacher"]
            students.append(scores_nm.T.softmax(-1) @ carried_nT @ theirs.T)
            teachers.append(at.teacher_MW[their])
        nothing = at.teacher_MW[:0]
        return torch.cat([nothing, *students]), torch.cat([nothing, *teachers])

    def places(self, at: Crossing, space: str) -> Places:
        """Each student token; in the teacher's space each of its tokens, at the student's token that is as far in the response."""
        found = []
        assert at.pairing is not None
        for number, (rows, their, *_) in zip(torch.unique(at.pairing.sequence_G).tolist(), self._both(at), strict=True):
            mine = rows if space == "student" else rows[torch.arange(len(their), device=rows.device) * len(rows) // len(their)]
            found.append((mine, torch.full_like(mine, number)))
        nothing = at.token_N[:0]
        return torch.cat([nothing, *(rows for rows, _ in found)]), torch.cat([nothing, *(number for _, number in found)])

    def best(self, at: Crossing) -> Tensor:
        assert at.pairing is not None
        return torch.full_like(at.token_N, -1).index_copy(0, at.pairing.span_G4[:, 0], at.token_N[at.pairing.span_G4[:, 0]])


def _full(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def _spread(value: Tensor) -> Tensor:
    """The standard deviation of all numbers, at least a little."""
    return value.std().clamp(min=1e-6)
