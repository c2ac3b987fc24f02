"""Embedding, norm, and the three products of a layer."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc

from zoo.harness.native.tiles import Product, Tile, tile_for

STORE, GATE, PARTS = 0, 1, 2


@triton.jit
def _embed(token_ptr, embedding_ptr, x_ptr, K, BLOCK: tl.constexpr):
    """A row's embedding."""
    row, k = tl.program_id(0), tl.arange(0, BLOCK)
    gdc.gdc_launch_dependents()
    gdc.gdc_wait()
    x = tl.load(embedding_ptr + tl.load(token_ptr + row).to(tl.int64) * K + k, mask=k < K, other=0.0)
    tl.store(x_ptr + row * K + k, x.to(x_ptr.dtype.element_ty), mask=k < K)


def embed(token_R: Tensor, embedding_VK: Tensor, x_RK: Tensor) -> None:
    """The residual stream of fresh tokens."""
    size = embedding_VK.shape[1]
    _embed[(len(x_RK),)](token_R, embedding_VK, x_RK, size, BLOCK=triton.next_power_of_2(size), launch_pdl=True)


@triton.jit
def _norm(x_ptr, parts_ptr, gain_ptr, out_ptr, K, eps, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """A row, with the parts of a product added to it, divided by its root mean square, times the gain."""
    row, k = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    gdc.gdc_launch_dependents()
    gain = tl.load(gain_ptr + k, mask=k < K, other=0.0).to(tl.float32)
    gdc.gdc_wait()
    x = tl.load(x_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    if PARTS > 0:
        added = tl.zeros([BLOCK], tl.float32)
        for part in tl.static_range(PARTS):
            added += tl.load(parts_ptr + (row * PARTS + part) * K + k, mask=k < K, other=0.0)
        x += added.to(out_ptr.dtype.element_ty).to(tl.float32)
        tl.store(x_ptr + row * K + k, x, mask=k < K)
    y = x / tl.sqrt(tl.sum(x * x, 0) / K + eps) * gain
    tl.store(out_ptr + row * K + k, y.to(out_ptr.dtype.element_ty), mask=k < K)


def rms_norm(x_RK: Tensor, gain_K: Tensor, eps: float, out_RK: Tensor, parts_RSK: Tensor | None = None) -> None:
    """x += the sum of the parts, rounded as a product is; out = x / rms(x) * gain."""
    rows, size = x_RK.shape
    parts = 0 if parts_RSK is None else parts_RSK.shape[1]
    _norm[(rows,)](
        x_RK,
        x_RK if parts_RSK is None else parts_RSK,
        gain_K,
        out_RK,
        size,
        eps,
        PARTS=parts,
        BLOCK=triton.next_power_of_2(size),
        launch_pdl=True,
    )


@triton.jit
def _linear(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    R,
    N,
    K,
    SPAN,
    BIASED: tl.constexpr,
    MODE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """A tile (BM rows, BN outputs) of x W', rounded where training rounds: after the product and after the activation. In mode PARTS it is the
    unrounded sum over this program's span of the inputs."""
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    kind: tl.constexpr = x_ptr.dtype.element_ty
    gdc.gdc_launch_dependents()
    gdc.gdc_wait()
    acc = tl.zeros([BM, BN], tl.float32)
    up = tl.zeros([BM, BN], tl.float32)
    first = tl.program_id(2) * SPAN
    for start in range(first, tl.minimum(first + SPAN, K), BK):
        inside = start + k < K
        x = tl.load(x_ptr + m[:, None] * K + (start + k)[None, :], mask=(m[:, None] < R) & inside[None, :], other=0.0)
        at = n[:, None].to(tl.int64) * K + (start + k)[None, :]
        valid = (n[:, None] < N) & inside[None, :]
        acc = tl.dot(x, tl.trans(tl.load(weight_ptr + at, mask=valid, other=0.0)), acc, input_precision="ieee")
        if MODE == 1:
            above = weight_ptr + N.to(tl.int64) * K
            up = tl.dot(x, tl.trans(tl.load(above + at, mask=valid, other=0.0)), up, input_precision="ieee")
    if BIASED:
        acc += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    valid = (m[:, None] < R) & (n[None, :] < N)
    place = m[:, None].to(tl.int64)
    if MODE == 2:
        place = place * tl.num_programs(2) + tl.program_id(2)
    else:
        acc = acc.to(kind).to(tl.float32)
    if MODE == 1:
        acc = (acc / (1.0 + tl.exp(-acc))).to(kind).to(tl.float32) * up.to(kind).to(tl.float32)
    tl.store(out_ptr + place * N + n[None, :], acc.to(out_ptr.dtype.element_ty), mask=valid)


def _tile(product: Product, x_RK: Tensor, outputs: int) -> Tile:
    rows, inputs = x_RK.shape
    return tile_for(product, rows, inputs, outputs, x_RK.element_size())


def _launch(x_RK: Tensor, weight_NK: Tensor, out: Tensor, mode: int, tile: Tile, bias_N: Tensor | None = None) -> None:
    (rows, inputs), outputs = x_RK.shape, out.shape[-1]
    _linear[(triton.cdiv(outputs, tile.outputs), triton.cdiv(rows, tile.rows), tile.parts)](
        x_RK,
        weight_NK,
        weight_NK if bias_N is None else bias_N,
        out,
        rows,
        outputs,
        inputs,
        tile.span(inputs),
        BIASED=bias_N is not None,
        MODE=mode,
        BM=tile.rows,
        BN=tile.outputs,
        BK=tile.inputs,
        num_warps=tile.warps,
        num_stages=tile.stages,
        launch_pdl=True,
    )


def linear(x_RK: Tensor, weight_NK: Tensor, out_RN: Tensor, bias_N: Tensor | None = None) -> None:
    """out = x W' + b."""
    _launch(x_RK, weight_NK, out_RN, STORE, _tile("linear", x_RK, out_RN.shape[1]), bias_N)


def linear_parts(x_RK: Tensor, weight_NK: Tensor, room: Tensor) -> Tensor:
    """Summands (rows, parts, outputs) of x W', each over a span of the inputs, at the start of `room`: few outputs alone do not keep a GPU busy."""
    (rows, _), outputs = x_RK.shape, len(weight_NK)
    tile = _tile("parts", x_RK, outputs)
    out_RSN = room.flatten()[: rows * tile.parts * outputs].view(rows, tile.parts, outputs)
    _launch(x_RK, weight_NK, out_RSN, PARTS, tile)
    return out_RSN


def gated_linear(x_RK: Tensor, weight_2FK: Tensor, out_RF: Tensor) -> None:
    """out = silu(x Wg') * x Wu', the two stacked in one weight."""
    _launch(x_RK, weight_2FK, out_RF, GATE, _tile("gated", x_RK, out_RF.shape[1]))


def head(x_RK: Tensor, weight_VK: Tensor, out_RV: Tensor) -> None:
    """Logits, summed and kept in fp32."""
    torch.mm(x_RK, weight_VK.T, out_dtype=out_RV.dtype, out=out_RV)
