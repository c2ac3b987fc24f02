"""What torch.compile makes of a step's two largest crowds of small kernels: the layers of a backbone, and a divergence over the whole vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.views import FLOOR

log = logging.getLogger(__name__)
Entries = Callable[[Tensor, Tensor], Tensor]
TRIAL_ROWS = 4
TRIAL_SHAPE = (5, 23)  # sizes that no other dimension has, or the compiler would take them for the same
MOST = 4  # a divergence whose numbers follow a schedule would be compiled at every step


class CalledLayers:
    """Layers of backbones that are called otherwise (`_made`) while their states are computed for a loss or a column; to everyone else, decoders above all,
    they are plain. A model's calls are made once."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[nn.ModuleList, list[Any]]] = {}

    @contextmanager
    def within(self, model: Any) -> Iterator[None]:
        """The model's layers are called so until the exit, where it has a list of them."""
        layers = getattr(model.base_model, "layers", nn.ModuleList())
        if id(layers) not in self._calls:
            self._calls[id(layers)] = layers, self._made(model, layers) if len(layers) else []
        with called(layers, self._calls[id(layers)][1]):
            yield

    def _made(self, model: Any, layers: nn.ModuleList) -> list[Any]:
        """A call a layer; none where the layers stay as they are."""
        raise NotImplementedError


class CompiledLayers(CalledLayers):
    """Compiled layers.

    One graph serves all layers and all batches of two rows or more; results change by rounding. A batch of one row goes through the plain layers: the
    compiler would make graphs of its own for it, which takes longer than such batches ever will. A model is tried once, forward and backward, before
    its first use: one that can't be compiled here stays as it is, and the reason is logged.
    """

    def _made(self, model: Any, layers: nn.ModuleList) -> list[Any]:
        """The compiled calls, after a trial; none if it failed. Gradients that wait for a step stay."""
        calls, kept = [_unless_single(layer._call_impl) for layer in layers], [p.grad for p in model.parameters()]
        learns = any(p.requires_grad for p in layers.parameters())
        ids_BL = torch.zeros(TRIAL_SHAPE, dtype=torch.long, device=next(layers.parameters()).device)
        try:
            with torch.set_grad_enabled(learns), called(layers, calls):
                states_BLH = model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
                if learns:
                    states_BLH.float().sum().backward()
        except Exception as error:
            log.warning("the layers of %s are not compiled, slower: %s", type(model).__name__, _first_line(error))
            return []
        finally:
            for p, grad in zip(model.parameters(), kept, strict=True):
                p.grad = grad
        return calls


def _unless_single(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's call, compiled for states (B, L, H) with B > 1."""
    compiled = torch.compile(plain, dynamic=True)

    def call(states_BLH: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (compiled if states_BLH.shape[0] > 1 else plain)(states_BLH, *args, **kwargs)

    return call


@contextmanager
def called(layers: nn.ModuleList, calls: Sequence[Any]) -> Iterator[None]:
    """Layers whose calls are these, if there are any, until the exit; then what they were before."""
    before = [layer._compiled_call_impl for layer in layers]
    for layer, call in zip(layers, calls, strict=False):
        layer._compiled_call_impl = call
    try:
        yield
    finally:
        for layer, call in zip(layers, before, strict=True):
            layer._compiled_call_impl = call


class Fused:
    """Sums of a divergence's entries over the whole vocabulary, compiled once for each divergence: two passes over both models' logits forward
    and two backward, where the separate steps take some sixty.

    A divergence that can't be compiled here is left to the separate steps, and the reason is logged once; so are those beyond the first few.
    """

    def __init__(self) -> None:
        self._compiled: dict[tuple[Any, float, int], Any] = {}

    def __call__(self, divergence: Any, student_NV: Tensor, teacher_NV: Tensor, temperature: float) -> Tensor | None:
        """The loss (N,) from raw logits (N, V) in fp32, or None."""
        key = (divergence, temperature, student_NV.shape[1])
        if key not in self._compiled:
            if len(self._compiled) >= MOST:
                return None
            self._compiled[key] = _tried(divergence, temperature, student_NV, teacher_NV)
        compiled = self._compiled[key]
        return None if compiled is None else compiled(_any_rows(student_NV), _any_rows(teacher_NV))  # type: ignore[no-any-return]


def separate(entries: Entries, temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The same, step by step: what is compiled."""

    def loss_N(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        student_NV, teacher_NV = (z if temperature == 1.0 else z / temperature for z in (student_NV, teacher_NV))
        return entries(student_NV.log_softmax(-1).clamp(min=FLOOR), teacher_NV.log_softmax(-1).clamp(min=FLOOR)).sum(-1)

    return loss_N


def _tried(divergence: Any, temperature: float, student_NV: Tensor, teacher_NV: Tensor) -> Any:
    """The compiled function, after one pass forward and backward, in which everything is compiled."""
    plain = separate(divergence.entries, temperature)
    compiled = torch.compile(plain)
    try:
        with torch.enable_grad():
            leaf_NV = _any_rows(student_NV.detach()[:1].repeat(TRIAL_ROWS, 1).requires_grad_())
            loss_N = compiled(leaf_NV, _any_rows(teacher_NV.detach()[:1].repeat(TRIAL_ROWS, 1)))
            loss_N.sum().backward()
    except Exception as error:
        log.warning("%s is computed step by step, slower: %s", type(divergence).__name__, _first_line(error))
        return None
    return compiled


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _any_rows(tensor: Tensor) -> Tensor:
    torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor
