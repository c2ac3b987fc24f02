"""The kernels' work in torch: what they are compared with, and what serves where there is no GPU. Sums are in fp32 at least."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.harness.native import plain as native
from zoo.harness.native.weights import wide_type


def _wide(x: Tensor) -> Tensor:
    return x.to(wide_type(x.dtype))


def norm(x_NH: Tensor, gain_H: Tensor, eps: float, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """The normalised rows in `kind`, and 1 / rms (N,)."""
    wide_NH = _wide(x_NH)
    scale_N = (wide_NH.square().mean(-1) + eps).rsqrt()
    unit_NH = (wide_NH * scale_N[:, None]).to(x_NH.dtype)
    return (_wide(unit_NH) * _wide(gain_H)).to(kind), scale_N


def norm_backward(x_NH: Tensor, gain_H: Tensor, scale_N: Tensor, grad_NH: Tensor, passed_NH: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of the rows, with `passed_NH` added, and of the gain."""
    unit_NH, grad_NH = _wide(x_NH) * scale_N[:, None], _wide(grad_NH)
    through_NH = grad_NH * _wide(gain_H)
    out_NH = scale_N[:, None] * (through_NH - unit_NH * (through_NH * unit_NH).mean(-1, keepdim=True))
    return (out_NH if passed_NH is None else out_NH + passed_NH).to(x_NH.dtype), (grad_NH * unit_NH).sum(0).to(gain_H.dtype)


def rotate(x_NUD: Tensor, cosine_RD: Tensor, sine_RD: Tensor, kind: torch.dtype, *, back: bool = False) -> Tensor:
    """Heads (tokens, heads, D) turned by the angles of their tokens, whose rows repeat; `back` turns the other way."""
    repeats = len(x_NUD) // len(cosine_RD)
    cosine, sine = (_wide(t).repeat(repeats, 1)[:, None] for t in (cosine_RD, -sine_RD if back else sine_RD))
    return native.rotate(_wide(x_NUD), cosine, sine).to(kind)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return F.silu(_wide(gate)).to(gate.dtype) * up


def gated_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    wide, grad_wide = _wide(gate), _wide(grad)
    share = torch.sigmoid(wide)
    return (grad_wide * _wide(up) * share * (1 + wide * (1 - share))).to(gate.dtype), (grad_wide * wide * share).to(up.dtype)
