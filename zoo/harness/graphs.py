"""Decoding at a fixed shape: one step of a causal LM on transformers' static cache, captured as a CUDA graph.

A small student's decode step is hundreds of tiny kernels, so launching them one by one costs several times their running time.
The graph replays them in one launch. It reads the parameters *at their addresses*: weights that an optimizer updates in place are
seen by the next replay, weights that are replaced (`param.data = ...`, `load_state_dict(assign=True)`, a move between devices)
are not, and need `Stepper.release()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, StaticCache
from transformers.cache_utils import StaticLayer

from zoo.errors import ZooError

GROUPED = "zoo_grouped_decode"
WARM_UPS = 3


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of one query position, query heads of a group folded into the query axis: (B, 1, heads, size).

    The usual path copies keys and values once for each query head as soon as there is a mask, which for a decode step over a long
    cache is most of the memory traffic.

    Raises:
        ValueError: the layer wants something beyond plain softmax attention.
    """
    extras = [name for name in ("softcap", "position_bias", "s_aux") if options.get(name) is not None]
    if query.shape[2] != 1 or extras:
        raise ValueError("grouped decode attention is for one position of plain softmax attention")
    batch, heads, _, size = query.shape
    folded = query.reshape(batch, key.shape[1], heads // key.shape[1], size)
    attended = F.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.reshape(batch, 1, heads, value.shape[-1]), None


AttentionInterface.register(GROUPED, grouped_attention)


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """The model's attention implementation replaced for a while."""
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def at_least_fp32(logits: Tensor) -> Tensor:
    """Logits in fp32, or in fp64 where the model computes in it."""
    return logits if logits.dtype == torch.float64 else logits.float()


class FixedDecoder:
    """Static cache, static inputs and one decode step for `batch` rows of at most `length` tokens.

    Every buffer is allocated once; a step writes the cache slot, opens its mask, runs the model and advances, all on the device,
    so it can be captured (`capture`) or run as it is (for tests on a CPU). The logits buffer is overwritten by the next step.

    Raises:
        ZooError: the model's attention or cache has parts that a fixed shape does not cover.
    """

    def __init__(self, model: Any, *, batch: int, length: int, vocab_size: int, capture: bool) -> None:
        config = model.config.get_text_config(decoder=True)
        if config._attn_implementation != "sdpa":
            raise ZooError(f"fixed-shape decoding needs sdpa attention, the model has '{config._attn_implementation}'")
        self.cache = StaticCache(config=config, max_cache_len=length)
        if odd := {type(layer).__name__ for layer in self.cache.layers if type(layer) is not StaticLayer}:
            raise ZooError(f"fixed-shape decoding needs full attention in every layer, the model has {', '.join(sorted(odd))}")
        self.model, self.batch, self.length, self.vocab_size = model, batch, length, vocab_size
        device, dtype = model.device, model.get_input_embeddings().weight.dtype
        self.token_B1 = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.position_B1 = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.slot_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.bias_B11L = torch.full((batch, 1, 1, length), float("-inf"), dtype=dtype, device=device)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.logits_BV = torch.zeros(batch, vocab_size, dtype=wide, device=device)
        self.graph = self._captured() if capture else None

    def _advance(self) -> None:
        """One step: the body of the graph. No host synchronisation, no new buffer that outlives it."""
        self.bias_B11L.index_fill_(3, self.slot_1, 0.0)
        with attention(self.model, GROUPED):
            output = self.model(
                input_ids=self.token_B1,
                attention_mask=self.bias_B11L,
                position_ids=self.position_B1,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.logits_BV.copy_(output.logits[:, -1, : self.vocab_size])
        self.slot_1.add_(1)
        self.position_B1.add_(1)

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Warm up on a side stream (lazy initialisation, kernel selection), then record one step."""
        with torch.cuda.device(self.model.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._advance()
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # thread_local: a loader or watchdog thread that touches CUDA meanwhile must not spoil the capture
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._advance()
        return graph

    def prefill(self, ids_BP: Tensor, mask_BP: Tensor) -> Tensor:
        """Fill the cache with left-padded prompts; the logits (batch, V) after their last token. Not captured: prompts differ in length."""
        width = ids_BP.shape[1]
        self.cache.reset()
        mask_BL = F.pad(mask_BP, (0, self.length - width))
        output = self.model(
            input_ids=ids_BP,
            attention_mask=mask_BL,
            position_ids=positions(mask_BP),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.bias_B11L.copy_(torch.where(mask_BL.bool(), 0.0, float("-inf"))[:, None, None])
        self.position_B1.copy_(mask_BP.sum(-1, keepdim=True))
        self.slot_1.fill_(width)
        self.logits_BV.copy_(output.logits[:, -1, : self.vocab_size])
        return self.logits_BV

    def step(self, token_B: Tensor) -> Tensor:
        """Logits (batch, V) after one more token for each of the first `len(token_B)` rows; the rest decode on unheeded."""
        self.token_B1[: len(token_B), 0] = token_B
        if self.graph is None:
            self._advance()
        else:
            self.graph.replay()
        return self.logits_BV


def positions(mask_BP: Tensor) -> Tensor:
    """Position ids of left-padded prompts: 0 at each row's first real token."""
    return (mask_BP.cumsum(-1) - 1).clamp_min(0)
