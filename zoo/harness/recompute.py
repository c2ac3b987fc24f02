"""Activation checkpointing: of each layer only the input is kept for the backward pass, which computes the rest of the layer again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from zoo.errors import ZooError
from zoo.harness.fused import called


@contextmanager
def recomputed(model: Any, precision: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """A pass through the model keeps one state a layer and token; its backward pass runs each layer once more, in the same `precision`. A layer that is
    compiled stays so, one that is sharded is gathered as before.

    Raises:
        ZooError: the model has no list of layers.
    """
    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        raise ZooError(f"{type(model).__name__} has no list of layers to compute again; use activation_checkpointing: false")
    # Nothing random happens in a layer (models are in evaluation mode), and the state of a GPU's generator can't be had without waiting for the GPU.
    again: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": lambda: (nullcontext(), precision())}
    with called(layers, [partial(checkpoint, layer._compiled_call_impl or layer._call_impl, **again) for layer in layers]):
        yield
