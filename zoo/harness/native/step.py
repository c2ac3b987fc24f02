"""One decode step of a whole model over fixed buffers, and its CUDA graphs for a few numbers of rows."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.harness.native import plain
from zoo.harness.native.rows import Rows
from zoo.harness.native.weights import Weights, wide_type

FEWEST_ROWS = 16
WARM_UPS = 2


@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers, (layers, slots, key heads, L, head size) each."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, weights: Weights, slots: int, length: int) -> Cache:
        """Room for `slots` sequences of `length` tokens."""
        shape = (len(weights.layers), slots, weights.kv_heads, length, weights.head_size)
        return cls(*(torch.zeros(shape, device=weights.device, dtype=weights.kind) for _ in range(2)))


def operations(device: torch.device) -> ModuleType:
    """The kernels on a GPU, plain torch elsewhere."""
    if device.type != "cuda":
        return plain
    from zoo.harness.native import kernels  # Triton is only there with CUDA builds of torch

    return kernels


class DecodeStep:
    """Feeds each row's token, draws the next one and records it: everything on the device, so that a graph can hold it.

    `rows`, `cache`, `uniform_QT` and `stop_S` are fixed buffers. Graphs are captured for the full number of rows and its halves.
    """

    def __init__(
        self,
        weights: Weights,
        rotary: tuple[Tensor, Tensor],
        cache: Cache,
        rows: Rows,
        uniform_QT: Tensor,
        stop_S: Tensor,
        *,
        temperature: float,
        top_p: float = 1.0,
    ) -> None:
        self.weights, self.cosine_LD, self.sine_LD = weights, *rotary
        self.cache, self.rows = cache, rows
        self.uniform_QT, self.stop_S, self.law = uniform_QT, stop_S, {"temperature": temperature, "top_p": top_p}
        self.limit, self.capacity = uniform_QT.shape[1], len(rows.token_R)
        self.ops = operations(weights.device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._buffers = self._allocate()
        self._seen = torch.zeros((), dtype=torch.int64, pin_memory=weights.device.type == "cuda")

    def _allocate(self) -> tuple[Tensor, ...]:
        """The residual stream, the logits and the parts of a product in at least fp32; what linear layers read and write in their own type."""
        w, like = self.weights, self.weights.head
        wide = wide_type(w.kind)
        width, attended = like.shape[1], w.heads * w.head_size
        narrow = (width, attended + 2 * w.kv_heads * w.head_size, attended, w.layers[0].down.shape[1])
        return (
            like.new_zeros(self.capacity, width, dtype=wide),
            *(like.new_zeros(self.capacity, size) for size in narrow),
            like.new_zeros(self.capacity, w.head.shape[0], dtype=wide),
            like.new_zeros(self.capacity, self.ops.MOST_PARTS * width, dtype=wide),
        )

    @torch.no_grad()
    def advance(self, count: int) -> None:
        """One token for each of the first `count` rows that are alive."""
        w, ops, rows = self.weights, self.ops, self.rows
        x, normed, qkv, attended, hidden, logits, room = (buffer[:count] for buffer in self._buffers)
        parts = None
        ops.embed(rows.token_R[:count], w.embedding, x)
        for layer, keys_SHLD, values_SHLD in zip(w.layers, self.cache.keys, self.cache.values, strict=True):
            ops.rms_norm(x, layer.attention_norm, w.eps, normed, parts)
            ops.linear(normed, layer.qkv, qkv, layer.qkv_bias)
            ops.attend(
                qkv,
                keys_SHLD,
                values_SHLD,
                attended,
                rows,
                self.cosine_LD,
                self.sine_LD,
                heads=w.heads,
                query_norm=layer.query_norm,
                key_norm=layer.key_norm,
                eps=w.eps,
            )
            parts = ops.linear_parts(attended, layer.out, room)
            ops.rms_norm(x, layer.mlp_norm, w.eps, normed, parts)
            ops.gated_linear(normed, layer.gate_up, hidden)
            parts = ops.linear_parts(hidden, layer.down, room)
        ops.rms_norm(x, w.final_norm, w.eps, normed, parts)
        ops.head(normed, w.head, logits)
        ops.draw(logits, rows, self.uniform_QT, self.stop_S, **self.law, limit=self.limit)

    @torch.no_grad()
    def prefill(self, ids_BP: Tensor, slot_B: Tensor) -> None:
        """Keys and values of right-padded prompts into their slots of the cache. Large matrices: torch's own products serve."""
        w, ops, (count, width) = self.weights, self.ops, ids_BP.shape
        x = w.embedding[ids_BP.flatten()].to(wide_type(w.kind))
        normed = torch.empty_like(x, dtype=w.kind)
        cosine, sine = self.cosine_LD[None, :width, None], self.sine_LD[None, :width, None]
        sizes = [w.heads * w.head_size, w.kv_heads * w.head_size, w.kv_heads * w.head_size]
        for layer, keys_SHLD, values_SHLD in zip(w.layers, self.cache.keys, self.cache.values, strict=True):
            ops.rms_norm(x, layer.attention_norm, w.eps, normed)
            parts = F.linear(normed, layer.qkv, layer.qkv_bias).split(sizes, -1)
            q, k, v = (part.reshape(count, width, -1, w.head_size) for part in parts)
            q = q if layer.query_norm is None else plain.normed(q, layer.query_norm, w.eps)
            k = k if layer.key_norm is None else plain.normed(k, layer.key_norm, w.eps)
            q, k = (plain.rotate(part, cosine, sine).to(v.dtype).transpose(1, 2) for part in (q, k))
            keys_SHLD[slot_B, :, :width], values_SHLD[slot_B, :, :width] = k, v.transpose(1, 2)
            attended = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True)
            x += F.linear(attended.transpose(1, 2).reshape(count * width, -1), layer.out)
            ops.rms_norm(x, layer.mlp_norm, w.eps, normed)
            gate, up = F.linear(normed, layer.gate_up).chunk(2, -1)
            x += F.linear(F.silu(gate) * up, layer.down)

    def run(self, count: int) -> None:
        """`advance` for at least `count` rows, through a graph where there is a GPU."""
        if self.weights.device.type != "cuda":
            self.advance(count)
        else:
            self._graphs[self.size_for(count)].replay()

    def run_and_count(self, count: int, steps: int) -> int:
        """`run` several times; how many rows were alive before the last one. The device is busy with that one while the host reads."""
        for _ in range(steps - 1):
            self.run(count)
        alive = self.rows.alive_R.sum()
        if self.weights.device.type != "cuda":
            self.run(count)
            return int(alive)
        self._seen.copy_(alive, non_blocking=True)
        read = torch.cuda.Event()
        read.record()
        self.run(count)
        read.synchronize()
        return int(self._seen)

    def size_for(self, count: int) -> int:
        """The fewest rows, among the captured numbers, that hold `count`."""
        size = self.capacity
        while size // 2 >= max(count, FEWEST_ROWS):
            size //= 2
        return size

    def capture(self) -> None:
        """Record a graph for the capacity and its halves. Rows must be idle: warming up runs the step as it is."""
        size = self.capacity
        while True:
            self._graphs[size] = self.graph_for(size)
            if size // 2 < FEWEST_ROWS:
                return
            size //= 2

    def graph_for(self, size: int) -> torch.cuda.CUDAGraph:
        """`advance` for so many rows as a graph, after it has run a few times."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self.advance(size)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: a loader or watchdog thread that touches CUDA meanwhile must not spoil the capture
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.advance(size)
        return graph
