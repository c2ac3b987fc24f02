"""What is logged of each step: its signals in figures, and now and then how much of the gradient is noise. docs/logs.md lists the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.harness.parallel import Processes
from zoo.harness.scoring import Scored, backward
from zoo.method import Method, Prepared
from zoo.statistics import TokenContext

if TYPE_CHECKING:
    from zoo.harness.train import Trainer

QUANTILES = {"q001": 0.001, "q01": 0.01, "q50": 0.5, "q99": 0.99}
LARGE = 10.0  # advantages beyond this are tails
SLICES = 8


def signal_figures(prepared: Sequence[Prepared], contexts: Mapping[str, TokenContext], processes: Processes) -> dict[str, float]:
    """Of each term and stream: the share of tokens kept, what they weigh, and the advantages' moments, quantiles and tails."""
    row: dict[str, float] = {}
    for part in prepared:
        context, where = contexts[part.stream], f"{part.term}.{part.stream}"
        mask_BT, scale_BT = context.mask_BT, part.scale_BT
        kept_BT = mask_BT & (scale_BT != 0)
        advantage_BT = part.columns.get("advantage", torch.zeros_like(scale_BT))
        sums = _sums(mask_BT, kept_BT, scale_BT.abs(), advantage_BT)
        count, kept, weight, squared, total, squares, absolute, tail, negative = processes.total(sums).tolist()
        row[f"kept.{where}"] = kept / max(count, 1.0)
        row[f"weight.{where}.ess"] = weight**2 / (count * squared) if squared > 0 else float("nan")
        if "advantage" not in part.columns:
            continue
        some = max(kept, 1.0)
        row[f"advantage.{where}.mean"] = total / some
        row[f"advantage.{where}.std"] = max(squares / some - (total / some) ** 2, 0.0) ** 0.5
        row[f"advantage.{where}.negative"] = negative / some
        row[f"advantage.{where}.tail"] = tail / absolute if absolute > 0 else 0.0
        row |= {f"advantage.{where}.{name}": value for name, value in _quantiles(advantage_BT, kept_BT, context, processes).items()}
    return row


def _sums(mask_BT: Tensor, kept_BT: Tensor, weight_BT: Tensor, advantage_BT: Tensor) -> Tensor:
    kept = advantage_BT[kept_BT].double()
    weights = weight_BT[mask_BT].double()
    size = kept.abs()
    found = [mask_BT.sum(), kept_BT.sum(), weights.sum(), weights.square().sum(), kept.sum(), kept.square().sum()]
    found += [size.sum(), size[size > LARGE].sum(), (kept < 0).sum()]
    return torch.stack([each.double() for each in found])


def _quantiles(value_BT: Tensor, counted_BT: Tensor, context: TokenContext, processes: Processes) -> dict[str, float]:
    if processes.count > 1:
        return {name: float(context.quantile(value_BT, counted_BT, level)) for name, level in QUANTILES.items()}
    kept = value_BT[counted_BT].double()
    if not len(kept):
        return dict.fromkeys(QUANTILES, 0.0)
    ordered = kept.sort().values
    place = torch.tensor(list(QUANTILES.values()), dtype=torch.float64, device=kept.device) * (len(kept) - 1)
    low, high = ordered[place.floor().long()], ordered[place.ceil().long()]
    return dict(zip(QUANTILES, (low + (place - place.floor()) * (high - low)).tolist(), strict=True))


def gradient_noise(
    trainer: Trainer, method: Method, scored: Mapping[str, Scored], prepared: Sequence[Prepared], rows: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Signal to noise of the batch's gradient, from M = 8 slices that a step sums up:

        s2  = sum_m |g_m - mean g|^2 / (M - 1)         g_m: M times slice m's share of the gradient
        snr = (|mean g|^2 - s2 / M) / (s2 / M)         0 in expectation where the slices agree on nothing

    `rows` names each sequence's place in the whole batch, by stream, which decides its slice; so processes agree. The gradients that stand are left
    as they are. Empty where a slice got nothing.
    """
    held = [(p, p.grad) for p in _parameters(trainer)]
    mean: list[Tensor] | None = None
    squares, filled = 0.0, 0
    try:
        for number in range(SLICES):
            for p, _ in held:
                p.grad = None
            asked = _slice(trainer, method, scored, prepared, rows, number)
            trainer.processes.sum_gradients(trainer.trained)
            filled += trainer.processes.total_int(asked) > 0
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trainer.trained]
            squares += float(sum(g.double().square().sum() for g in grads))
            mean = grads if mean is None else [m.add_(g) for m, g in zip(mean, grads, strict=True)]
    finally:
        for p, grad in held:
            p.grad = grad
    if filled < SLICES or mean is None:
        return {}
    whole = float(sum(g.double().square().sum() for g in mean))  # |sum g_m|^2 = |mean|^2 where g_m is M times the share
    spread = (SLICES**2 * squares - SLICES * whole) / (SLICES - 1)
    noise = spread / SLICES
    return {"snr": (whole - noise) / noise if noise > 0 else float("nan"), "grad_noise": max(noise, 0.0) ** 0.5}


def _parameters(trainer: Trainer) -> list[torch.nn.Parameter]:
    learned = [p for part in trainer.parts.values() for p in part.parameters()]
    heads = [p for head in (*trainer.bank.values.values(), *trainer.bank.projectors.values()) if isinstance(head, torch.nn.Module) for p in head.parameters()]
    return list({id(p): p for p in (*trainer.trained, *learned, *heads)}.values())


def _slice(trainer: Trainer, method: Method, scored: Mapping[str, Scored], prepared: Sequence[Prepared], rows: Mapping[str, Sequence[int]], number: int) -> int:
    """Add one slice's gradient; how many sequences of this process it holds."""
    count = 0
    for name, part in scored.items():
        mine = [p for p in prepared if p.stream == name]
        index = [local for local, place in enumerate(rows[name]) if place % SLICES == number]
        if mine:  # where there is nothing here too: `backward` sums over the processes
            backward(method, trainer.bank, part.rows(index), [p.rows(index) for p in mine])
            count += len(index)
    return count
