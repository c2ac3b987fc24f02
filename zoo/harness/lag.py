"""Lag-0 mismatch: how far the log-probabilities that sampling recorded are from those of the training forward under the very same weights.

    gap = |log p of the decoder - log p of the training forward|,  in nats, over the student's own tokens

Where it is not small, ratios of "old" and "new" policy are off before the first step, and so is every on-policy estimate. On a CPU in fp32 it is
rounding (1e-6); in bf16 two implementations of one model differ by about 0.01 to 0.02 in the mean (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from zoo.harness.bank import Bank
from zoo.harness.scoring import Scored, columns_of, hidden_states
from zoo.method import Method
from zoo.statistics import LogProb, TokenContext
from zoo.tensors import Author

ITERATIONS = 2  # the second one shows whether the decoder has followed the first steps
SEQUENCES = 64  # of a stream whose student was not asked anyway
TAIL = 0.999
MEAN, QUANTILE, TOKENS = "lag0.mean", "lag0.q999", "lag0.tokens"


@torch.no_grad()
def lag0(method: Method, bank: Bank, scored: Mapping[str, Scored], steps: int) -> dict[str, float]:
    """Mean and 99.9 % quantile of the gap, and the number of tokens, over the streams that were written after `steps` optimizer steps; empty where
    the student wrote none of them."""
    gaps, counted, context = [], [], None
    for part in scored.values():
        if part.context.rollout.version != steps:
            continue
        context = part.context
        rollout, logp_BT = context.rollout, context.columns.get(LogProb("student"))
        if logp_BT is None:
            rollout = rollout.rows(range(min(len(rollout), SEQUENCES)))
            logp_BT = columns_of((LogProb("student"),), method, bank, rollout, hidden_states(bank, ["student"], rollout))[LogProb("student")]
        own_BT = rollout.mask_BT & (rollout.author_BT == int(Author.STUDENT)) & rollout.student_logp_BT.isfinite()
        gaps.append((logp_BT - rollout.student_logp_BT).abs().where(own_BT, torch.zeros_like(logp_BT)).flatten())
        counted.append(own_BT.flatten())
    return {} if context is None else _figures(context, torch.cat(gaps), torch.cat(counted))


def _figures(context: TokenContext, gap: torch.Tensor, counted: torch.Tensor) -> dict[str, float]:
    """Over all processes; the context knows how to sum over them."""
    tokens = int(context.total(counted.sum()))
    if not tokens:
        return {}
    return {MEAN: float(context.total(gap.double().sum())) / tokens, QUANTILE: float(context.quantile(gap.float(), counted, TAIL)), TOKENS: tokens}


def worst(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What a run's record says: the largest figures among its steps' rows; empty where none has any."""
    seen = [row for row in rows if MEAN in row]
    return {name.removeprefix("lag0."): max(row[name] for row in seen) for name in (MEAN, QUANTILE, TOKENS)} if seen else {}
