"""What a model writes with: its table, in the context that it sees there, warped as the stream says."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoo.components.rollouts import Stream, warp
from zoo.lab.doubles import Tables
from zoo.lab.world import Array


def read_logits(stream: Stream, name: str, tables: Tables) -> Tensor:
    """The table with which a model writes for a stream, with the context that it sees there."""
    context = getattr(stream, "context_of", lambda _: stream.context)(name)
    logits_SV = tables.logits(name).detach()
    return logits_SV if context is None else logits_SV + tables.context_table(context, tables.model_of(name))


def warped(stream: Any, name: str, tables: Tables) -> Array:
    """The log-law (S, V) that its tokens are drawn from."""
    how = stream.warp_of(name) if hasattr(stream, "warp_of") else (stream.temperature, stream.top_p)
    found: Array = warp(read_logits(stream, name, tables), *how).log_softmax(-1).numpy()
    return found
