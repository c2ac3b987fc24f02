"""Attention of one position to a cache."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc

from zoo.harness.native.rows import Rows
from zoo.harness.native.tiles import tile_for

HEADS_TILE = 16  # the fewest rows of a matrix product


@triton.jit
def _rotated(ptr, rows, d, cosine, sine, norm_ptr, eps, D: tl.constexpr, NORMED: tl.constexpr, valid):
    """Vectors at `ptr + rows * D`, normalised where the model does, under the rotary embedding (halves convention)."""
    partner = (d + D // 2) % D
    sign = tl.where(d < D // 2, -1.0, 1.0)
    x = tl.load(ptr + rows * D + d[None, :], mask=valid, other=0.0).to(tl.float32)
    y = tl.load(ptr + rows * D + partner[None, :], mask=valid, other=0.0).to(tl.float32)
    if NORMED:
        scale = 1.0 / tl.sqrt(tl.sum(x * x, 1) / D + eps)
        x = x * scale[:, None] * tl.load(norm_ptr + d).to(tl.float32)[None, :]
        y = y * scale[:, None] * tl.load(norm_ptr + partner).to(tl.float32)[None, :]
    return (x * cosine[None, :] + y * sign[None, :] * sine[None, :]).to(ptr.dtype.element_ty)


@triton.jit
def _attend(
    qkv_ptr,
    keys_ptr,
    values_ptr,
    out_ptr,
    position_ptr,
    slot_ptr,
    alive_ptr,
    cosine_ptr,
    sine_ptr,
    query_norm_ptr,
    key_norm_ptr,
    eps,
    scale,
    LENGTH,
    KV: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    NORMED: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """One row and one key head: softmax(q k') v over the cached positions and this one, online, for the head's group of queries."""
    row, head = tl.program_id(0), tl.program_id(1)
    gdc.gdc_launch_dependents()
    gdc.gdc_wait()
    if tl.load(alive_ptr + row) == 0:
        return
    position = tl.load(position_ptr + row)
    g, d, l = tl.arange(0, TILE), tl.arange(0, D), tl.arange(0, BLOCK)
    cosine = tl.load(cosine_ptr + position * D + d).to(tl.float32)
    sine = tl.load(sine_ptr + position * D + d).to(tl.float32)
    base = qkv_ptr + row * (GROUP + 2) * KV * D
    member = g[:, None] < GROUP
    q = _rotated(base + head * GROUP * D, g[:, None], d, cosine, sine, query_norm_ptr, eps, D, NORMED, member)
    one = tl.zeros([1, 1], tl.int32)
    k = _rotated(base + (GROUP * KV + head) * D, one, d, cosine, sine, key_norm_ptr, eps, D, NORMED, one == 0)
    v = tl.load(base + ((GROUP + 1) * KV + head) * D + d)[None, :]
    cache = (tl.load(slot_ptr + row).to(tl.int64) * KV + head) * LENGTH * D
    tl.store(keys_ptr + cache + position * D + d[None, :], k)
    tl.store(values_ptr + cache + position * D + d[None, :], v)
    top = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * scale
    total = tl.full([TILE], 1.0, tl.float32)
    acc = tl.zeros([TILE, D], tl.float32) + v.to(tl.float32)
    for start in range(0, position, BLOCK):
        seen = start + l < position
        at = cache + (start + l)[:, None] * D + d[None, :]
        score = tl.dot(q, tl.trans(tl.load(keys_ptr + at, mask=seen[:, None], other=0.0)), input_precision="ieee") * scale
        score = tl.where(seen[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp(top - higher)
        weight = tl.exp(score - higher[:, None])
        total = total * shrink + tl.sum(weight, 1)
        block = tl.load(values_ptr + at, mask=seen[:, None], other=0.0)
        acc = acc * shrink[:, None] + tl.dot(weight.to(block.dtype), block, input_precision="ieee")
        top = higher
    out = out_ptr + (row * KV * GROUP + head * GROUP + g[:, None]) * D + d[None, :]
    tl.store(out, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=member)


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
    kv_heads, length, size = keys_SHLD.shape[1:]
    tile = tile_for("attend", len(qkv_RQ), heads // kv_heads, size, qkv_RQ.element_size())
    _attend[(len(qkv_RQ), kv_heads)](
        qkv_RQ,
        keys_SHLD,
        values_SHLD,
        out_RA,
        rows.position_R,
        rows.slot_R,
        rows.alive_R,
        cosine_LD,
        sine_LD,
        qkv_RQ if query_norm is None else query_norm,
        qkv_RQ if key_norm is None else key_norm,
        eps,
        size**-0.5,
        length,
        KV=kv_heads,
        GROUP=heads // kv_heads,
        D=size,
        NORMED=query_norm is not None,
        BLOCK=tile.inputs,
        TILE=max(HEADS_TILE, triton.next_power_of_2(heads // kv_heads)),
        num_warps=tile.warps,
        num_stages=tile.stages,
        launch_pdl=True,
    )
