"""What lies between a layer's matrix products as Triton kernels; `plain` says in torch what each computes. Sums and products are in fp32.

Numbers that change from batch to batch are not specialised on: Triton would compile a kernel anew for those that 16 divides.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NORM_PROGRAMS = 528  # four a multiprocessor; each sums the gain's gradient over its own rows
ELEMENTS = 2048


@triton.jit
def _norm(x_ptr, gain_ptr, y_ptr, scale_ptr, H, eps, ROUNDED: tl.constexpr, BLOCK: tl.constexpr):
    """A row over its root mean square, times the gain; rounded in between where the row is narrow."""
    row, h = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * H + h, mask=h < H, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / H + eps)
    y = x * scale
    if ROUNDED:
        y = y.to(x_ptr.dtype.element_ty).to(tl.float32)
    y = y * tl.load(gain_ptr + h, mask=h < H, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * H + h, y.to(y_ptr.dtype.element_ty), mask=h < H)
    tl.store(scale_ptr + row, scale)


def norm(x_NH: Tensor, gain_H: Tensor, eps: float, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """The normalised rows in `kind`, and 1 / rms (N,)."""
    rows, size = x_NH.shape
    y_NH, scale_N = torch.empty_like(x_NH, dtype=kind), x_NH.new_empty(rows, dtype=torch.float32)
    _norm[(rows,)](x_NH, gain_H, y_NH, scale_N, size, eps, ROUNDED=x_NH.dtype.itemsize < 4, BLOCK=triton.next_power_of_2(size))
    return y_NH, scale_N


@triton.jit(do_not_specialize=["N"])
def _norm_backward(x_ptr, gain_ptr, scale_ptr, grad_ptr, passed_ptr, out_ptr, part_ptr, N, H, PASSED: tl.constexpr, BLOCK: tl.constexpr):
    """Gradients of a program's rows, to which what came along the residual is added, and its part of the gain's."""
    program, h = tl.program_id(0), tl.arange(0, BLOCK)
    gain = tl.load(gain_ptr + h, mask=h < H, other=0.0).to(tl.float32)
    part = tl.zeros([BLOCK], tl.float32)
    for row in range(program, N, tl.num_programs(0)):
        at = (tl.zeros([BLOCK], tl.int64) + row) * H + h
        scale = tl.load(scale_ptr + row)
        unit = tl.load(x_ptr + at, mask=h < H, other=0.0).to(tl.float32) * scale
        grad = tl.load(grad_ptr + at, mask=h < H, other=0.0).to(tl.float32)
        part += grad * unit
        grad = grad * gain
        out = scale * (grad - unit * (tl.sum(grad * unit, 0) / H))
        if PASSED:
            out += tl.load(passed_ptr + at, mask=h < H, other=0.0).to(tl.float32)
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=h < H)
    tl.store(part_ptr + program * H + h, part, mask=h < H)


def norm_backward(x_NH: Tensor, gain_H: Tensor, scale_N: Tensor, grad_NH: Tensor, passed_NH: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of the rows, with `passed_NH` added, and of the gain."""
    rows, size = x_NH.shape
    out_NH, programs = torch.empty_like(x_NH), min(rows, NORM_PROGRAMS)
    part_PH = x_NH.new_empty(programs, size, dtype=torch.float32)
    along = x_NH if passed_NH is None else passed_NH
    _norm_backward[(programs,)](
        x_NH, gain_H, scale_N, grad_NH, along, out_NH, part_PH, rows, size, PASSED=passed_NH is not None, BLOCK=triton.next_power_of_2(size)
    )
    return out_NH, part_PH.sum(0).to(gain_H.dtype)


@triton.jit(do_not_specialize=["ROWS"])
def _rotate(x_ptr, out_ptr, cosine_ptr, sine_ptr, ROWS, sign, HEADS: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr):
    """All heads of one token, turned by its angles or back (halves convention)."""
    token = tl.program_id(0).to(tl.int64)
    d, head = tl.arange(0, D // 2), tl.arange(0, TILE)
    angle = (token % ROWS) * D + d
    cosine, sine = tl.load(cosine_ptr + angle).to(tl.float32)[None, :], tl.load(sine_ptr + angle).to(tl.float32)[None, :] * sign
    at = token * HEADS * D + head[:, None] * D + d[None, :]
    valid = head[:, None] < HEADS
    low = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
    high = tl.load(x_ptr + at + D // 2, mask=valid, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (low * cosine - high * sine).to(out_ptr.dtype.element_ty), mask=valid)
    tl.store(out_ptr + at + D // 2, (high * cosine + low * sine).to(out_ptr.dtype.element_ty), mask=valid)


def rotate(x_NUD: Tensor, cosine_RD: Tensor, sine_RD: Tensor, kind: torch.dtype, *, back: bool = False) -> Tensor:
    """Heads (tokens, heads, D) turned by the angles of their tokens, whose rows repeat; `back` turns the other way."""
    tokens, heads, size = x_NUD.shape
    out_NUD = torch.empty_like(x_NUD, dtype=kind)
    _rotate[(tokens,)](x_NUD, out_NUD, cosine_RD, sine_RD, len(cosine_RD), -1.0 if back else 1.0, HEADS=heads, D=size, TILE=triton.next_power_of_2(heads))
    return out_NUD


@triton.jit(do_not_specialize=["COUNT"])
def _gated(gate_ptr, up_ptr, out_ptr, COUNT, BLOCK: tl.constexpr):
    """silu(gate) rounded as training rounds it, times up."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_ptr + at, mask=at < COUNT, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + at, mask=at < COUNT, other=0.0).to(tl.float32)
    act = (gate / (1.0 + tl.exp(-gate))).to(gate_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + at, (act * up).to(out_ptr.dtype.element_ty), mask=at < COUNT)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    out = torch.empty_like(gate)
    _gated[(triton.cdiv(gate.numel(), ELEMENTS),)](gate, up, out, gate.numel(), BLOCK=ELEMENTS)
    return out


@triton.jit(do_not_specialize=["COUNT"])
def _gated_backward(gate_ptr, up_ptr, grad_ptr, gate_grad_ptr, up_grad_ptr, COUNT, BLOCK: tl.constexpr):
    """Gradients of both factors."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_ptr + at, mask=at < COUNT, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + at, mask=at < COUNT, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at, mask=at < COUNT, other=0.0).to(tl.float32)
    share = 1.0 / (1.0 + tl.exp(-gate))
    tl.store(up_grad_ptr + at, (grad * gate * share).to(up_grad_ptr.dtype.element_ty), mask=at < COUNT)
    slope = share * (1.0 + gate * (1.0 - share))
    tl.store(gate_grad_ptr + at, (grad * up * slope).to(gate_grad_ptr.dtype.element_ty), mask=at < COUNT)


def gated_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    gate_grad, up_grad = torch.empty_like(gate), torch.empty_like(up)
    _gated_backward[(triton.cdiv(gate.numel(), ELEMENTS),)](gate, up, grad, gate_grad, up_grad, gate.numel(), BLOCK=ELEMENTS)
    return gate_grad, up_grad
