"""The kernels with their gradients."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zoo.harness.lean import plain


def operations(tensor: Tensor) -> ModuleType:
    """The kernels on a GPU, plain torch elsewhere."""
    if not tensor.is_cuda:
        return plain
    from zoo.harness.lean import kernels  # Triton is only there with CUDA builds of torch

    return kernels


class Norm(torch.autograd.Function):
    """x and x / rms(x) * gain, over the last dimension. x is handed on, so that the gradient along the residual is added where the norm's is made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_H: Tensor, eps: float, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        x_NH = x.reshape(-1, x.shape[-1]).contiguous()
        y_NH, scale_N = operations(x).norm(x_NH, gain_H, eps, kind)
        ctx.save_for_backward(x_NH, gain_H, scale_N)
        ctx.set_materialize_grads(False)
        return x.view_as(x), y_NH.view(x.shape)

    @staticmethod
    def backward(ctx: Any, passed: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        if grad is None:
            return passed, None, None, None
        x_NH, gain_H, scale_N = ctx.saved_tensors
        rows = None if passed is None else passed.reshape(x_NH.shape).contiguous()
        out_NH, gain_grad_H = operations(grad).norm_backward(x_NH, gain_H, scale_N, grad.reshape(x_NH.shape).contiguous(), rows)
        return out_NH.view(grad.shape), gain_grad_H if ctx.needs_input_grad[1] else None, None, None


class Rotate(torch.autograd.Function):
    """Heads (tokens, heads, D) under the rotary embedding, in `kind`."""

    @staticmethod
    def forward(ctx: Any, x_NUD: Tensor, cosine_RD: Tensor, sine_RD: Tensor, kind: torch.dtype) -> Tensor:
        ctx.save_for_backward(cosine_RD, sine_RD)
        ctx.kind = x_NUD.dtype
        return operations(x_NUD).rotate(x_NUD.contiguous(), cosine_RD, sine_RD, kind)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad_NUD: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        cosine_RD, sine_RD = ctx.saved_tensors
        return operations(grad_NUD).rotate(grad_NUD.contiguous(), cosine_RD, sine_RD, ctx.kind, back=True), None, None, None


class Gated(torch.autograd.Function):
    """silu(gate) * up, rounded after each."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return operations(gate).gated(gate, up)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        return operations(grad).gated_backward(gate, up, grad.contiguous())  # type: ignore[no-any-return]
