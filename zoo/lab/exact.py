"""Batches that stand for a whole law: components run unchanged, in float64, and what they sum over the batch is an expectation.

Components write `context.total(x.sum())` for every quantity of the global batch. In the lab each row of `x` is an outcome with a
probability, so `total` has to weigh the rows. `Weighing` remembers what was summed; the context's `total` sums it again with
the weights of its own rows, times `COPIES`, as if the batch held so many sequences in exact proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.seeds import seed_for, uniforms
from zoo.statistics import TokenContext

COPIES = float(2**30)
SUMS = {torch.Tensor.sum, torch.sum}
CASTS = {torch.Tensor.to, torch.Tensor.float, torch.Tensor.double, torch.Tensor.detach, torch.Tensor.long, torch.Tensor.int}


class Unweighed(Exception):
    """A component handed `total` something that is no plain sum over the batch."""


class Weighing(TorchFunctionMode):
    """While active: float32 is float64, and each full sum of a tensor remembers the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.summed: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> Any:
        self._usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.set_default_dtype(self._usual)
        self.summed.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        if any(a is torch.float32 for a in args) or any(a is torch.float32 for a in kwargs.values()):
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            kwargs = {k: torch.float64 if a is torch.float32 else a for k, a in kwargs.items()}
        found = func(*args, **kwargs)
        if func in SUMS and isinstance(found, Tensor) and found.dim() == 0 and args[0].dim() > 0:
            self.summed[id(found)] = (found, args[0])
        elif func in CASTS and id(args[0]) in self.summed:
            self.summed[id(found)] = (found, self.summed[id(args[0])][1])
        return found

    def weigher(self, weight_B: Tensor) -> Callable[[Tensor], Tensor]:
        """A `total` for a batch whose rows have these probabilities."""

        def total(value: Tensor) -> Tensor:
            if id(value) not in self.summed:
                raise Unweighed("a batch statistic that is no plain sum over the sequences")
            whole = self.summed[id(value)][1]
            if len(whole) != len(weight_B):
                raise Unweighed("a batch statistic over something else than the sequences")
            with torch._C.DisableTorchFunction():
                return COPIES * (whole.double() * weight_B.view(-1, *[1] * (whole.dim() - 1))).sum()

        return total


@dataclass(frozen=True)
class LabContext(TokenContext):
    """A context whose uniform draws are one of `copies` evenly shifted sets, so that their mean over the copies is near exact."""

    shift_B: Tensor | None = None
    asked: Any = None

    def uniform_BT(self, purpose: str) -> Tensor:
        """One draw for each place and purpose, moved by the row's shift: over the copies each token's draw is even on [0, 1)."""
        if self.asked is not None:
            self.asked.append(purpose)
        drawn_1T = uniforms([seed_for("lab", "draws", purpose)], max(self.mask_BT.shape[1], 1))
        shift_B = torch.zeros(len(self.rollout)) if self.shift_B is None else self.shift_B
        return torch.remainder(drawn_1T + shift_B[:, None].double(), 1.0)


def contexts_by_process(
    prepare: Callable[[Mapping[str, TokenContext]], Any], outcomes: Sequence[Mapping[str, TokenContext]], probability: list[float], passes: int = 8
) -> list[Any]:
    """The slow and literal way: each outcome is a process of its own, and `total` adds what the processes report, by probability.

    The k-th report is known once all processes have made it, so the passes repeat until every total stands.
    """
    known: list[Tensor] = []
    for _ in range(passes):
        reports: list[list[Tensor]] = []
        made = []
        for outcome in outcomes:
            reports.append([])

            def total(value: Tensor, mine: list[Tensor] = reports[-1], known: list[Tensor] = known) -> Tensor:
                mine.append(value.detach().double())
                return known[len(mine) - 1] if len(mine) <= len(known) else COPIES * value.double()

            made.append(prepare({name: _with_total(context, total) for name, context in outcome.items()}))
        if len({len(mine) for mine in reports}) != 1:
            raise Unweighed("a number of batch statistics that depends on the outcome")
        found = [torch.stack([COPIES * p * mine[k] for p, mine in zip(probability, reports, strict=True)]).sum(0) for k in range(len(reports[0]))]
        if len(found) == len(known) and all(torch.allclose(a, b, rtol=1e-13, atol=0.0) for a, b in zip(found, known, strict=True)):
            return made
        known = found
    raise Unweighed("batch statistics that do not settle")


def _with_total(context: TokenContext, total: Callable[[Tensor], Tensor]) -> TokenContext:
    return replace(context, total=total)
