"""Sampling from logits with one uniform a row, and the record of what was drawn."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc

from zoo.harness.native.rows import Rows

BLOCK = 1024
WIDE = 4096  # logits that a pass of the search for the nucleus reads at once
NEGLIGIBLE = 88.0  # nats below the most probable token: nothing there counts in fp32


@triton.jit
def _sum_blocks(logits_ptr, partial_ptr, V, inverse_temperature, BLOCK: tl.constexpr):
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
def _ordered(value):
    """Whole numbers in the order of the numbers in fp32."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)


@triton.jit
def _inside(logit, v, least, last):
    """Which tokens a nucleus with this edge holds."""
    return (_ordered(logit) > least) | ((_ordered(logit) == least) & (v <= last))


@triton.jit
def _nucleus(
    logits_ptr, partial_ptr, edge_ptr, alive_ptr, V, inverse_temperature, top_p, lowest, BLOCKS: tl.constexpr, BLOCKS_TILE: tl.constexpr,
    BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One row: the edge of its nucleus (the least of its logits, in order, and the last of the tokens that have just that one and are in it), found by
    halving; then the blocks' sums at the temperature again, of the tokens in it alone."""
    row = tl.program_id(0)
    gdc.gdc_launch_dependents()
    gdc.gdc_wait()
    if tl.load(alive_ptr + row) == 0:
        return
    b = tl.arange(0, BLOCKS_TILE)
    at = partial_ptr + (row * BLOCKS + b) * 4
    tops = tl.load(at, mask=b < BLOCKS, other=float("-inf"))
    top = tl.max(tops, 0)
    target = top_p * tl.sum(tl.load(at + 2, mask=b < BLOCKS, other=0.0) * tl.exp((tops - top) * inverse_temperature), 0)
    logits_ptr += row.to(tl.int64) * V
    low, high = _ordered(top - lowest).to(tl.int64), _ordered(top).to(tl.int64)
    while low < high:  # the tokens from `low` on reach the target, those beyond `high` do not
        middle = low + (high - low + 1) // 2
        least = middle.to(tl.int32)
        mass = 0.0
        for start in range(0, V, WIDE):
            v = start + tl.arange(0, WIDE)
            logit = tl.load(logits_ptr + v, mask=v < V, other=float("-inf"))
            mass += tl.sum(tl.where(_ordered(logit) >= least, tl.exp((logit - top) * inverse_temperature), 0.0), 0)
        low = tl.where(mass >= target, middle, low)
        high = tl.where(mass >= target, high, middle - 1)
    least = low.to(tl.int32)
    above, each = 0.0, 0.0
    for start in range(0, V, WIDE):
        v = start + tl.arange(0, WIDE)
        logit = tl.load(logits_ptr + v, mask=v < V, other=float("-inf"))
        weight = tl.exp((logit - top) * inverse_temperature)
        above += tl.sum(tl.where(_ordered(logit) > least, weight, 0.0), 0)
        each = tl.maximum(each, tl.max(tl.where(_ordered(logit) == least, weight, 0.0), 0))
    # among equals the smaller id goes first; none is at the edge where rounding leaves all mass short of the target
    wanted = tl.where(each > 0, tl.maximum(tl.ceil((target - above) / tl.maximum(each, 1e-38)), 1.0), 1.0).to(tl.int32)
    found, last = 0, V
    for start in range(0, V, WIDE):
        v = start + tl.arange(0, WIDE)
        logit = tl.load(logits_ptr + v, mask=v < V, other=float("-inf"))
        equal = ((_ordered(logit) == least) & (v < V)).to(tl.int32)
        last = tl.minimum(last, tl.min(tl.where((equal == 1) & (found + tl.cumsum(equal, 0) == wanted), v, V), 0))
        found += tl.sum(equal, 0)
    tl.store(edge_ptr + 2 * row, least)
    tl.store(edge_ptr + 2 * row + 1, last)
    for block in range(BLOCKS):
        v = block * BLOCK + tl.arange(0, BLOCK)
        logit = tl.load(logits_ptr + v, mask=v < V, other=float("-inf"))
        at_block = partial_ptr + (row * BLOCKS + block) * 4
        tl.store(at_block + 2, tl.sum(tl.where(_inside(logit, v, least, last), tl.exp((logit - tl.load(at_block)) * inverse_temperature), 0.0), 0))


@triton.jit
def _draw(
    logits_ptr, partial_ptr, edge_ptr, uniform_ptr, stop_ptr, token_ptr, position_ptr, request_ptr, written_ptr, alive_ptr, response_ptr, behaviour_ptr,
    student_ptr, finished_ptr, length_ptr, V, LIMIT, STOPS, inverse_temperature, GREEDY: tl.constexpr, NUCLEUS: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCKS_TILE: tl.constexpr, BLOCK: tl.constexpr, STOPS_TILE: tl.constexpr,
):  # fmt: skip
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
        if NUCLEUS:
            least, last_equal = tl.load(edge_ptr + 2 * row), tl.load(edge_ptr + 2 * row + 1)
            weight = tl.where(_inside(logit, v, least, last_equal), weight, 0.0)
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
    tl.store(length_ptr + request, written + 1)
    tl.store(token_ptr + row, token)
    tl.store(written_ptr + row, written + 1)
    tl.store(position_ptr + row, tl.load(position_ptr + row) + 1)
    tl.store(alive_ptr + row, ((stopped == 0) & (written + 1 < LIMIT)).to(tl.int32))


def draw(logits_RV: Tensor, rows: Rows, uniform_QT: Tensor, stop_S: Tensor, *, temperature: float, top_p: float, limit: int) -> None:
    """Draw one token a living row from its own uniform, record it with its log-probabilities, and advance the row."""
    count, vocabulary = logits_RV.shape
    blocks = triton.cdiv(vocabulary, BLOCK)
    greedy, inverse = temperature == 0.0, 1.0 if temperature == 0.0 else 1.0 / temperature
    sizes = {"BLOCKS": blocks, "BLOCKS_TILE": triton.next_power_of_2(blocks), "BLOCK": BLOCK}
    partial = torch.empty(count, blocks, 4, device=logits_RV.device, dtype=torch.float32)
    edge = torch.empty(count, 2, device=logits_RV.device, dtype=torch.int32)
    _sum_blocks[(count, blocks)](logits_RV, partial, vocabulary, inverse, BLOCK=BLOCK, launch_pdl=True)
    if top_p < 1.0 and not greedy:
        lowest = NEGLIGIBLE * temperature
        _nucleus[(count,)](logits_RV, partial, edge, rows.alive_R, vocabulary, inverse, top_p, lowest, **sizes, WIDE=WIDE, num_warps=8, launch_pdl=True)
    _draw[(count,)](
        logits_RV,
        partial,
        edge,
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
        rows.length_Q,
        vocabulary,
        limit,
        len(stop_S),
        inverse,
        GREEDY=greedy,
        NUCLEUS=top_p < 1.0,
        **sizes,
        STOPS_TILE=triton.next_power_of_2(max(len(stop_S), 1)),
        launch_pdl=True,
    )
