"""The native step's operations as Triton kernels; `plain` says in torch what each computes.

Seven launches a layer: norm, projection, attention with its rotation and cache write, projection onto the residual, norm, gated projection,
projection onto the residual. The residual stream is fp32 and rounding happens where it does in training under autocast.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc

from zoo.harness.native.rows import Rows

STORE, ADD, GATE = 0, 1, 2
OVERLAP = True
TILE = {"BM": 64, "BN": 32, "BK": 128, "num_warps": 4, "num_stages": 4}  # the best of 11 for each of SmolLM2's four products on an H100
DRAW_BLOCK = 1024
ATTEND_BLOCK = 128
HEADS_TILE = 16


# Every kernel lets the next one start at once (`gdc_launch_dependents`) and waits for the one before to end (`gdc_wait`) before it
# touches anything that changes, so that launches overlap. (Prefetching weights into L2 meanwhile made a step 8 % slower.)


@triton.jit
def _embed(token_ptr, embedding_ptr, x_ptr, K, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A row's embedding."""
    row, k = tl.program_id(0), tl.arange(0, BLOCK)
    gdc.gdc_launch_dependents()
    gdc.gdc_wait()
    x = tl.load(embedding_ptr + tl.load(token_ptr + row).to(tl.int64) * K + k, mask=k < K, other=0.0)
    tl.store(x_ptr + row * K + k, x.to(x_ptr.dtype.element_ty), mask=k < K)


def embed(token_R: Tensor, embedding_VK: Tensor, x_RK: Tensor) -> None:
    """The residual stream of fresh tokens."""
    size = embedding_VK.shape[1]
    _embed[(len(x_RK),)](token_R, embedding_VK, x_RK, size, BLOCK=triton.next_power_of_2(size), launch_pdl=OVERLAP)


@triton.jit
def _norm(x_ptr, gain_ptr, out_ptr, K, eps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
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
    _norm[(rows,)](x_RK, gain_K, out_RK, size, eps, BLOCK=triton.next_power_of_2(size), launch_pdl=OVERLAP)


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
):  # type: ignore[no-untyped-def]
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
        launch_pdl=OVERLAP,
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


@triton.jit
def _rotated(ptr, rows, d, cosine, sine, norm_ptr, eps, D: tl.constexpr, NORMED: tl.constexpr, valid):  # type: ignore[no-untyped-def]
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
):  # type: ignore[no-untyped-def]
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
        BLOCK=ATTEND_BLOCK,
        TILE=max(HEADS_TILE, triton.next_power_of_2(heads // kv_heads)),
        num_warps=4,
        num_stages=3,
        launch_pdl=OVERLAP,
    )


@triton.jit
def _sum_blocks(logits_ptr, partial_ptr, V, inverse_temperature, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of one block of a row's logits: the maximum, where it is, and the sums of exponentials, plain and at the temperature."""
    row, block = tl.program_id(0), tl.program_id(1)
    gdc.gdc_launch_dependents()
    gdc.gdc_wait()
    v = block * BLOCK + tl.arange(0, BLOCK)
    logit = tl.load(logits_ptr + row.to(tl.int64) * V + v, mask=v < V, other=float("-inf"))
    top = tl.max(logit, 0)
    at = partial_ptr + (row * tl.num_programs(1) + block) * 4
    tl.store(at, top)
    tl.store(at + 1, tl.sum(tl.exp(logit - top), 0))
    tl.store(at + 2, tl.sum(tl.exp((logit - top) * inverse_temperature), 0))
    tl.store(at + 3, tl.argmax(logit, 0).to(tl.float32) + block * BLOCK)


@triton.jit
def _draw(
    logits_ptr,
    partial_ptr,
    uniform_ptr,
    stop_ptr,
    token_ptr,
    position_ptr,
    request_ptr,
    written_ptr,
    alive_ptr,
    response_ptr,
    behaviour_ptr,
    student_ptr,
    finished_ptr,
    V,
    LIMIT,
    STOPS,
    inverse_temperature,
    GREEDY: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCKS_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STOPS_TILE: tl.constexpr,
):  # type: ignore[no-untyped-def]
    """One row: find the block, then the token, at which the cumulative distribution passes the row's uniform; record and advance."""
    row = tl.program_id(0)
    gdc.gdc_launch_dependents()
    gdc.gdc_wait()
    if tl.load(alive_ptr + row) == 0:
        return
    request, written = tl.load(request_ptr + row), tl.load(written_ptr + row)
    b = tl.arange(0, BLOCKS_TILE)
    at = partial_ptr + (row * BLOCKS + b) * 4
    tops = tl.load(at, mask=b < BLOCKS, other=float("-inf"))
    top = tl.max(tops, 0)
    mass = tl.load(at + 1, mask=b < BLOCKS, other=0.0) * tl.exp(tops - top)
    log_total = tl.log(tl.sum(mass, 0))
    warped = tl.load(at + 2, mask=b < BLOCKS, other=0.0) * tl.exp((tops - top) * inverse_temperature)
    total = tl.sum(warped, 0)
    if GREEDY:
        best = tl.load(at + 3, mask=b < BLOCKS, other=0.0)
        token = tl.min(tl.where(tops == top, best, 2147483520.0), 0).to(tl.int32)
    else:
        target = tl.load(uniform_ptr + request.to(tl.int64) * LIMIT + written) * total
        upto = tl.cumsum(warped, 0)
        # the last block with mass of its own bounds the search: rounding may leave the target at the total
        block = tl.minimum(tl.sum((upto <= target).to(tl.int32), 0), tl.max(tl.where(warped > 0, b, 0), 0))
        before = tl.sum(tl.where(b < block, warped, 0.0), 0)
        v = block * BLOCK + tl.arange(0, BLOCK)
        logit = tl.load(logits_ptr + row.to(tl.int64) * V + v, mask=v < V, other=float("-inf"))
        weight = tl.exp((logit - top) * inverse_temperature)
        passed = (before + tl.cumsum(weight, 0) <= target) & (v < V)
        last = tl.max(tl.where(weight > 0, v, 0), 0)
        token = tl.minimum(block * BLOCK + tl.sum(passed.to(tl.int32), 0), last)
    chosen = tl.load(logits_ptr + row.to(tl.int64) * V + token) - top
    place = request.to(tl.int64) * LIMIT + written
    tl.store(response_ptr + place, token)
    tl.store(student_ptr + place, chosen - log_total)
    tl.store(behaviour_ptr + place, 0.0 if GREEDY else chosen * inverse_temperature - tl.log(total))
    s = tl.arange(0, STOPS_TILE)
    stopped = tl.max((tl.load(stop_ptr + s, mask=s < STOPS, other=-1) == token).to(tl.int32), 0)
    tl.store(finished_ptr + request, stopped)
    tl.store(token_ptr + row, token)
    tl.store(written_ptr + row, written + 1)
    tl.store(position_ptr + row, tl.load(position_ptr + row) + 1)
    tl.store(alive_ptr + row, ((stopped == 0) & (written + 1 < LIMIT)).to(tl.int32))


def draw(logits_RV: Tensor, rows: Rows, uniform_QT: Tensor, stop_S: Tensor, *, temperature: float, limit: int) -> None:
    """Draw one token a living row from its own uniform, record it with its log-probabilities, and advance the row."""
    count, vocabulary = logits_RV.shape
    blocks = triton.cdiv(vocabulary, DRAW_BLOCK)
    inverse = 1.0 if temperature == 0.0 else 1.0 / temperature
    partial = torch.empty(count, blocks, 4, device=logits_RV.device, dtype=torch.float32)
    _sum_blocks[(count, blocks)](logits_RV, partial, vocabulary, inverse, BLOCK=DRAW_BLOCK, launch_pdl=OVERLAP)
    _draw[(count,)](
        logits_RV,
        partial,
        uniform_QT,
        stop_S,
        rows.token_R,
        rows.position_R,
        rows.request_R,
        rows.written_R,
        rows.alive_R,
        rows.response_QT,
        rows.behaviour_QT,
        rows.student_QT,
        rows.finished_Q,
        vocabulary,
        limit,
        len(stop_S),
        inverse,
        GREEDY=temperature == 0.0,
        BLOCKS=blocks,
        BLOCKS_TILE=triton.next_power_of_2(blocks),
        BLOCK=DRAW_BLOCK,
        STOPS_TILE=triton.next_power_of_2(max(len(stop_S), 1)),
        launch_pdl=OVERLAP,
    )
