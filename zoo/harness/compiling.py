"""Which runs are compiled: layers of the student and of its teachers, and divergences over the whole vocabulary.

Compiling takes about 15 s (H100, SmolLM2-135M, torch 2.11; less once its cache on disk is warm) and then saves about 15 microseconds a supervised token,
more with larger models and vocabularies. So it pays from about a million supervised tokens, and that is the rule. The time counts as training, in
the phases in which it falls. Everything decodes without it.
"""

from __future__ import annotations

from zoo.components.updates import AdamW
from zoo.entry import MethodEntry
from zoo.harness.bank import Bank
from zoo.harness.comparison import Comparison
from zoo.harness.fused import CompiledLayers, Fused

COMPILE_FROM = 1_000_000  # supervised tokens


def pays(comparison: Comparison, device: str) -> bool:
    """Whether a run is to be compiled: as `settings.compile` says; `auto` on CUDA from `COMPILE_FROM` supervised tokens."""
    asked = comparison.settings.compile
    return asked == "on" or (asked == "auto" and device == "cuda" and comparison.budget.amount >= COMPILE_FROM)


def compile_where_it_pays(entry: MethodEntry, comparison: Comparison, bank: Bank) -> None:
    """Let the bank compile. Layers stay plain where something reaches into them: states of inner layers, adapters, forward derivatives, sharding."""
    if not pays(comparison, bank.device.type):
        return
    bank.fused = Fused()
    update = entry.update
    whole = isinstance(update, AdamW) and getattr(update, "adapter", None) is None
    if whole and not bank.layers.union and bank.pair.split is None:
        bank.compiled = CompiledLayers()
