"""The head's product in training: narrow operands, sums and logits in fp32, the weight's gradient added where it belongs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ZooError

CHUNK_BYTES = 1 << 28  # of one (tokens, vocabulary) tensor in fp32: a larger chunk takes more memory and is no faster


def chunk_tokens_for(vocabulary: int, asked: int) -> int:
    """How many tokens a chunk may hold: what was asked for, or fewer where the vocabulary is large."""
    return max(min(asked, CHUNK_BYTES // (4 * vocabulary)), 1)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in fp32 of operands of any type: summed without rounding on CUDA, from widened operands elsewhere."""
    if left.is_cuda and left.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left right, in place and in the same precision."""
    if left.is_cuda and left.dtype in (torch.bfloat16, torch.float16):
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


class HeadProduct(torch.autograd.Function):
    """logits = states W' over the first rows of W, (N, V) in fp32.

    Autocast would round the logits, on which log-probabilities hang, to bf16. The gradient of W is added to `weight.grad` at once, so a pass over
    many chunks holds it once; autograd sees none for it.
    """

    @staticmethod
    def forward(ctx: Any, states_NH: Tensor, narrow_VH: Tensor, weight: nn.Parameter) -> Tensor:
        narrow_NH = states_NH.to(narrow_VH.dtype)
        ctx.save_for_backward(narrow_NH, narrow_VH)
        ctx.weight, ctx.kind = weight, states_NH.dtype
        return product(narrow_NH, narrow_VH.T)

    @staticmethod
    def backward(ctx: Any, grad_NV: Tensor) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        narrow_NH, narrow_VH = ctx.saved_tensors
        grad_NV = grad_NV.to(narrow_VH.dtype)
        if ctx.weight.requires_grad:
            if ctx.weight.grad is None:
                ctx.weight.grad = torch.zeros_like(ctx.weight)
            add_product(ctx.weight.grad[: len(narrow_VH)], grad_NV.T, narrow_NH)
        return (product(grad_NV, narrow_VH).to(ctx.kind) if ctx.needs_input_grad[0] else None), None, None


def plain_head(head: Any) -> bool:
    """Whether a head is a product with a matrix and no more: not wrapped, not shared out, without bias, its gradient in fp32 if it has one."""
    whole = type(head) is nn.Linear and type(head.weight) is nn.Parameter and head.bias is None
    return whole and (not head.weight.requires_grad or head.weight.dtype == torch.float32)


class NarrowHeads:
    """Heads' weights in the type that products read them in, cut to `vocabulary` rows: cast once while `kept`, afresh otherwise."""

    def __init__(self, kind: torch.dtype) -> None:
        self.kind = kind
        self._depth = 0
        self._kept: dict[tuple[int, int], Tensor] = {}

    def __enter__(self) -> None:
        """Nobody moves weights until the outermost exit."""
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._kept.clear()

    def logits(self, head: Any, states_NH: Tensor, vocabulary: int | None) -> Tensor:
        """The head's logits (N, V) in fp32.

        Raises:
            ZooError: the head is more than a matrix (see `plain_head`).
        """
        if not plain_head(head):
            raise ZooError("this head is more than a product with a matrix; call it instead")
        rows = min(vocabulary or head.out_features, head.out_features)
        key = (id(head.weight), rows)
        narrow_VH = self._kept.get(key)
        if narrow_VH is None:
            narrow_VH = head.weight.detach()[:rows].to(self.kind)
            if self._depth:
                self._kept[key] = narrow_VH
        logits: Tensor = HeadProduct.apply(states_NH, narrow_VH, head.weight)
        return logits
