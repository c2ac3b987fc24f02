"""Drawing a token from logits with one uniform number per row: inverse CDF in vocabulary order.

A row's token is a function of its own logits and its own uniform, never of the other rows. Logits may be unnormalised;
log-probabilities are a special case.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 512


class Draw(NamedTuple):
    """One token per row. `behaviour_logp_B` is under the warped law it was drawn from, `full_logp_B` under the plain softmax."""

    token_B: Tensor
    behaviour_logp_B: Tensor
    full_logp_B: Tensor


def token_logp(logits_BV: Tensor, token_B: Tensor) -> Tensor:
    """Log-probability of one token per row under the softmax of the logits: (B,)."""
    return logits_BV.gather(-1, token_B[:, None])[:, 0] - logits_BV.logsumexp(-1)


def nucleus(logits_BV: Tensor, top_p: float) -> Tensor:
    """Logits with everything outside the nucleus at -inf: the fewest most probable tokens whose mass reaches `top_p`.

    At least one token stays; among equals the smaller id goes first (stable sort), so the set does not depend on the batch.
    """
    order = logits_BV.sort(dim=-1, descending=True, stable=True)
    prob_BV = order.values.softmax(-1)
    outside_BV = prob_BV.cumsum(-1, dtype=torch.float64) - prob_BV >= top_p
    outside_BV[:, 0] = False
    return logits_BV.masked_fill(torch.zeros_like(outside_BV).scatter(-1, order.indices, outside_BV), float("-inf"))


def warp(logits_BV: Tensor, temperature: float, top_p: float) -> Tensor:
    """Logits of the law that is sampled from: temperature first, then the nucleus. Temperature 0 leaves the argmax alone."""
    if temperature == 0.0:
        best_B1 = logits_BV.argmax(-1, keepdim=True)
        return torch.full_like(logits_BV, float("-inf")).scatter(-1, best_B1, 0.0)
    scaled_BV = logits_BV if temperature == 1.0 else logits_BV / temperature
    return scaled_BV if top_p >= 1.0 else nucleus(scaled_BV, top_p)


def _first_above(cdf_BN: Tensor, target_B1: Tensor) -> Tensor:
    """First index whose cumulative mass exceeds the target, never past the last entry with mass of its own: (B,)."""
    above_B = (cdf_BN <= target_B1).sum(-1)
    last_B = (cdf_BN < cdf_BN[:, -1:]).sum(-1)
    return torch.minimum(above_B, last_B)


def inverse_cdf(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token at which the cumulative distribution first exceeds the row's uniform: (B,).

    Two levels, because a cumulative sum over 150,000 entries for each token is most of the cost of a small model's step:
    sums of blocks in float64 find the block, a cumulative sum inside it finds the token. Tokens of zero mass are never drawn.
    """
    weight_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)).exp_()
    vocabulary = weight_BV.shape[-1]
    width = BLOCK if vocabulary > 4 * BLOCK else vocabulary
    weight_BKW = F.pad(weight_BV, (0, -vocabulary % width)).unflatten(-1, (-1, width))
    upto_BK = weight_BKW.sum(-1, dtype=torch.float64).cumsum(-1)
    target_B1 = uniform_B.to(torch.float64)[:, None] * upto_BK[:, -1:]
    block_B1 = _first_above(upto_BK, target_B1)[:, None]
    before_B1 = F.pad(upto_BK, (1, 0)).gather(-1, block_B1)
    inside_BW = weight_BKW.gather(1, block_B1[..., None].expand(-1, -1, width))[:, 0].cumsum(-1, dtype=torch.float64)
    return block_B1[:, 0] * width + _first_above(inside_BW, target_B1 - before_B1)


def sample_from(logits_BV: Tensor, uniform_B: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Draw:
    """Draws one token per row, with both of its log-probabilities.

    `behaviour_logp_B` belongs to the law that was sampled: temperature-scaled, and renormalised inside the nucleus where
    `top_p` < 1. `full_logp_B` is the log-softmax of the raw logits, what a trainer differentiates. Temperature 0 is greedy:
    behaviour log-probability 0.
    """
    if temperature == 0.0:
        token_B = logits_BV.argmax(-1)
        full_B = token_logp(logits_BV, token_B)
        return Draw(token_B, torch.zeros_like(full_B), full_B)
    warped_BV = warp(logits_BV, temperature, top_p)
    token_B = inverse_cdf(warped_BV, uniform_B)
    behaviour_B = token_logp(warped_BV, token_B)
    return Draw(token_B, behaviour_B, behaviour_B if warped_BV is logits_BV else token_logp(logits_BV, token_B))
