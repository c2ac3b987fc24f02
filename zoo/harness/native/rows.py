"""What the device knows about the rows that are being decoded, and where it writes what they say."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from zoo.harness.decode import Written
from zoo.tensors import Author


@dataclass(frozen=True)
class Rows:
    """R rows in flight and the columns (Q, T) of all Q requests. Every tensor is updated in place: graphs know only addresses.

    `token_R` is fed at `position_R` of cache slot `slot_R` in the next step; the row answers request `request_R`, of which
    `written_R` tokens are written; rows with `alive_R` 0 are idle. All int32, as kernels want them.
    """

    token_R: Tensor
    position_R: Tensor
    slot_R: Tensor
    request_R: Tensor
    written_R: Tensor
    alive_R: Tensor
    response_QT: Tensor
    behaviour_QT: Tensor
    student_QT: Tensor
    finished_Q: Tensor
    length_Q: Tensor

    @classmethod
    def idle(cls, rows: int, requests: int, limit: int, pad_id: int, device: torch.device, dtype: torch.dtype) -> Rows:
        """No row is alive; nothing is written."""

        def ints(*shape: int, fill: int = 0) -> Tensor:
            return torch.full(shape, fill, dtype=torch.int32, device=device)

        def floats() -> Tensor:
            return torch.zeros(requests, limit, dtype=dtype, device=device)

        return cls(
            token_R=ints(rows),
            position_R=ints(rows),
            slot_R=torch.arange(rows, dtype=torch.int32, device=device),
            request_R=ints(rows),
            written_R=ints(rows),
            alive_R=ints(rows),
            response_QT=ints(requests, limit, fill=pad_id),
            behaviour_QT=floats(),
            student_QT=floats(),
            finished_Q=ints(requests),
            length_Q=ints(requests),
        )

    def reset(self, pad_id: int) -> None:
        """Idle rows and empty columns again."""
        for field in fields(self):
            if field.name != "slot_R":
                getattr(self, field.name).zero_()
        self.response_QT.fill_(pad_id)
        self.slot_R.copy_(torch.arange(len(self.slot_R), dtype=torch.int32, device=self.slot_R.device))

    def written(self, count: int, by_student: bool, scored: bool) -> Written:
        """The first `count` requests' columns, copied, as wide as the longest answer."""
        width = max(int(self.length_Q[:count].max()), 1)
        mask_BT = torch.arange(width, device=self.length_Q.device) < self.length_Q[:count, None]
        student_BT = self.student_QT[:count, :width].clone()
        return Written(
            response_BT=self.response_QT[:count, :width].long(),
            mask_BT=mask_BT,
            author_BT=mask_BT * int(Author.STUDENT if by_student else Author.TEACHER),
            behaviour_logp_BT=self.behaviour_QT[:count, :width].clone(),
            student_logp_BT=student_BT if scored else student_BT.masked_fill(mask_BT, float("nan")),
            finished_B=self.finished_Q[:count].bool(),
        )

    def compact(self) -> None:
        """Living rows first, in their order. Caches stay where they are: a row remembers its slot."""
        order_R = torch.argsort(self.alive_R, descending=True, stable=True)
        for column in (self.token_R, self.position_R, self.slot_R, self.request_R, self.written_R, self.alive_R):
            column.copy_(column[order_R])

    def record(self, token_R: Tensor, behaviour_R: Tensor, student_R: Tensor, stop_R: Tensor, limit: int) -> None:
        """Write one token for each of the first `len(token_R)` rows that are alive, and advance them."""
        count = len(token_R)
        at = self.alive_R[:count].bool().nonzero()[:, 0]
        request, place = self.request_R[at].long(), self.written_R[at].long()
        self.response_QT[request, place] = token_R[at].int()
        self.behaviour_QT[request, place], self.student_QT[request, place] = behaviour_R[at], student_R[at]
        self.finished_Q[request], self.length_Q[request] = stop_R[at].int(), (place + 1).int()
        self.token_R[at], self.written_R[at] = token_R[at].int(), (place + 1).int()
        self.position_R[at] += 1
        self.alive_R[at] = (~stop_R[at] & (place + 1 < limit)).int()
