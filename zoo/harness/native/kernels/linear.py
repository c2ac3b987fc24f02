"""Embedding, norm, and the three products of a layer."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc

STORE, ADD, GATE = 0, 1, 2
TILE = {"BM": 64, "BN": 32, "BK": 128, "num_warps": 4, "num_stages": 4}  # the best of 11 for each of SmolLM2's four products on an H100


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
def _norm(x_ptr, gain_ptr, out_ptr, K, eps, BLOCK: tl.constexpr):
    """A row divided by its root mean square, times the gain."""
    row, k = tl.program_id(0), tl.arange(0, BLOCK)
    gdc.gdc_launch_dependents()
    gain = tl.load(gain_ptr + k, mask=k < K, other=0.0).to(tl.float32)
    gdc.gdc_wait()
    x = tl.load(x_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    y = x / tl.sqrt(tl.sum(x * x, 0) / K + eps) * gain
    tl.store(out_ptr + row * K + k, y.to(out_ptr.dtype.element_ty), mask=k < K)


def rms_norm(x_RK: Tensor, gain_K: Tensor, eps: float, out_RK: Tensor) -> None:
    """out = x / rms(x) * gain."""
    rows, size = x_RK.shape
    _norm[(rows,)](x_RK, gain_K, out_RK, size, eps, BLOCK=triton.next_power_of_2(size), launch_pdl=True)


@triton.jit
def _linear(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    R,
    N,
    K,
    BIASED: tl.constexpr,
    MODE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """A tile (BM rows, BN outputs) of x W', rounded where training rounds: after the product and after the activation."""
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    kind: tl.constexpr = x_ptr.dtype.element_ty
    gdc.gdc_launch_dependents()
    gdc.gdc_wait()
    acc = tl.zeros([BM, BN], tl.float32)
    up = tl.zeros([BM, BN], tl.float32)
    for start in range(0, K, BK):
        inside = start + k < K
        x = tl.load(x_ptr + m[:, None] * K + (start + k)[None, :], mask=(m[:, None] < R) & inside[None, :], other=0.0)
        at = n[:, None].to(tl.int64) * K + (start + k)[None, :]
        valid = (n[:, None] < N) & inside[None, :]
        acc = tl.dot(x, tl.trans(tl.load(weight_ptr + at, mask=valid, other=0.0)), acc, input_precision="ieee")
        if MODE == 2:
            above = weight_ptr + N.to(tl.int64) * K
            up = tl.dot(x, tl.trans(tl.load(above + at, mask=valid, other=0.0)), up, input_precision="ieee")
    if BIASED:
        acc += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    acc = acc.to(kind).to(tl.float32)
    out = out_ptr + m[:, None].to(tl.int64) * N + n[None, :]
    valid = (m[:, None] < R) & (n[None, :] < N)
    if MODE == 1:
        acc += tl.load(out, mask=valid, other=0.0).to(tl.float32)
    if MODE == 2:
        acc = (acc / (1.0 + tl.exp(-acc))).to(kind).to(tl.float32) * up.to(kind).to(tl.float32)
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=valid)


def _launch(x_RK: Tensor, weight_NK: Tensor, out_RN: Tensor, mode: int, bias_N: Tensor | None = None) -> None:
    (rows, inputs), outputs = x_RK.shape, out_RN.shape[1]
    tile = TILE if x_RK.element_size() == 2 else {**TILE, "BK": TILE["BK"] // 2}
    _linear[(triton.cdiv(outputs, tile["BN"]), triton.cdiv(rows, tile["BM"]))](
        x_RK,
        weight_NK,
        weight_NK if bias_N is None else bias_N,
        out_RN,
        rows,
        outputs,
        inputs,
        BIASED=bias_N is not None,
        MODE=mode,
        **tile,
        launch_pdl=True,
    )


def linear(x_RK: Tensor, weight_NK: Tensor, out_RN: Tensor, bias_N: Tensor | None = None) -> None:
    """out = x W' + b."""
    _launch(x_RK, weight_NK, out_RN, STORE, bias_N)


def linear_onto(x_RK: Tensor, weight_NK: Tensor, out_RN: Tensor) -> None:
    """out += x W'."""
    _launch(x_RK, weight_NK, out_RN, ADD)


def gated_linear(x_RK: Tensor, weight_2FK: Tensor, out_RF: Tensor) -> None:
    """out = silu(x Wg') * x Wu', the two stacked in one weight."""
    _launch(x_RK, weight_2FK, out_RF, GATE)


def head(x_RK: Tensor, weight_VK: Tensor, out_RV: Tensor) -> None:
    """Logits, summed and kept in fp32."""
    torch.mm(x_RK, weight_VK.T, out_dtype=out_RV.dtype, out=out_RV)
