"""The native step's operations in plain torch: what its kernels must compute, and what runs where there is no GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.components.rollouts.sampling import inverse_cdf, token_logp, warp
from zoo.harness.native.rows import Rows


def embed(token_R: Tensor, embedding_VK: Tensor, x_RK: Tensor) -> None:
    """The residual stream of fresh tokens."""
    x_RK.copy_(embedding_VK[token_R.long()])


MOST_PARTS = 1


def rms_norm(x_RK: Tensor, gain_K: Tensor, eps: float, out_RK: Tensor, parts_RSK: Tensor | None = None) -> None:
    """x += the sum of the parts; out = x / rms(x) * gain."""
    if parts_RSK is not None:
        x_RK.add_(parts_RSK.sum(1))
    out_RK.copy_(normed(x_RK, gain_K, eps))


def normed(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / rms(x) * gain over the last axis, in at least fp32."""
    wide = x if x.dtype == torch.float64 else x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * gain


def linear(x_RK: Tensor, weight_NK: Tensor, out_RN: Tensor, bias_N: Tensor | None = None) -> None:
    """out = x W' + b."""
    out_RN.copy_(F.linear(x_RK, weight_NK, bias_N))


def linear_parts(x_RK: Tensor, weight_NK: Tensor, room: Tensor) -> Tensor:
    """Summands (rows, parts, outputs) of x W': one."""
    return F.linear(x_RK, weight_NK)[:, None]


def gated_linear(x_RK: Tensor, weight_2FK: Tensor, out_RF: Tensor) -> None:
    """out = silu(x Wg') * x Wu', the two stacked in one weight."""
    gate_RF, up_RF = F.linear(x_RK, weight_2FK).chunk(2, -1)
    out_RF.copy_(F.silu(gate_RF) * up_RF)


def head(x_RK: Tensor, weight_VK: Tensor, out_RV: Tensor) -> None:
    """Logits, in at least fp32."""
    out_RV.copy_(F.linear(x_RK, weight_VK))


def rotate(x_RHD: Tensor, cosine_R1D: Tensor, sine_R1D: Tensor) -> Tensor:
    """Rotary embedding, halves convention."""
    half = x_RHD.shape[-1] // 2
    return x_RHD * cosine_R1D + torch.cat([-x_RHD[..., half:], x_RHD[..., :half]], -1) * sine_R1D


def attend(
    qkv_RQ: Tensor,
    keys_SHLD: Tensor,
    values_SHLD: Tensor,
    out_RA: Tensor,
    rows: Rows,
    cosine_LD: Tensor,
    sine_LD: Tensor,
    *,
    heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
) -> None:
    """Rotate, append this position's key and value to each row's slot of the cache, and attend to all positions up to it."""
    count = len(qkv_RQ)
    kv_heads, length, size = keys_SHLD.shape[1:]
    q, k, v = (part.view(count, -1, size) for part in qkv_RQ.split([heads * size, kv_heads * size, kv_heads * size], -1))
    q = q if query_norm is None else normed(q, query_norm, eps)
    k = k if key_norm is None else normed(k, key_norm, eps)
    position_R, slot_R = rows.position_R[:count].long(), rows.slot_R[:count].long()
    cosine, sine = cosine_LD[position_R][:, None], sine_LD[position_R][:, None]
    keys_SHLD[slot_R, :, position_R] = rotate(k, cosine, sine).to(keys_SHLD.dtype)
    values_SHLD[slot_R, :, position_R] = v
    seen_RL = torch.arange(length, device=qkv_RQ.device) <= position_R[:, None]
    attended = F.scaled_dot_product_attention(
        rotate(q, cosine, sine).to(keys_SHLD.dtype)[:, :, None], keys_SHLD[slot_R], values_SHLD[slot_R], attn_mask=seen_RL[:, None, None], enable_gqa=True
    )
    out_RA.copy_(attended.reshape(count, -1))


def draw(logits_RV: Tensor, rows: Rows, uniform_QT: Tensor, stop_S: Tensor, *, temperature: float, top_p: float, limit: int) -> None:
    """Draw one token a living row from its own uniform, record it with its log-probabilities, and advance the row."""
    count = len(logits_RV)
    request_R, written_R = rows.request_R[:count].long(), rows.written_R[:count].long()
    uniform_R = uniform_QT[request_R, written_R.clamp(max=uniform_QT.shape[1] - 1)]
    full_R = behaviour_R = torch.zeros(count, device=logits_RV.device, dtype=logits_RV.dtype)
    if temperature == 0.0:
        token_R = logits_RV.argmax(-1)
        full_R = token_logp(logits_RV, token_R)
    else:
        warped_RV = warp(logits_RV, temperature, top_p)
        token_R = inverse_cdf(warped_RV, uniform_R)
        full_R, behaviour_R = token_logp(logits_RV, token_R), token_logp(warped_RV, token_R)
    rows.record(token_R, behaviour_R, full_R, (token_R[:, None] == stop_S).any(-1), limit)
