"""Which runs have faster layers, and which are compiled.

On a GPU layers are lean (`zoo.harness.lean`) where they can be: that costs nothing. torch.compile serves divergences over the whole vocabulary, and layers
that are not lean. It takes about 50 s with a cold cache (H200, SmolLM2-135M, torch 2.11, layers and divergence) and then saves about 3 microseconds a
supervised token beside plain layers, more with larger models and vocabularies (benchmarks/README.md, "A whole step"). So it pays from about 20 million
supervised tokens, and that is the rule. The time counts as training, in the phases in which it falls. Everything decodes without it.
"""

from __future__ import annotations

from zoo.components.updates import AdamW
from zoo.entry import MethodEntry
from zoo.harness.bank import Bank
from zoo.harness.comparison import Comparison
from zoo.harness.fused import CompiledLayers, Fused
from zoo.harness.lean import LeanLayers, fits

COMPILE_FROM = 20_000_000  # supervised tokens


def pays(comparison: Comparison, device: str) -> bool:
    """Whether a run is to be compiled: as `settings.compile` says; `auto` on CUDA from `COMPILE_FROM` supervised tokens."""
    asked = comparison.settings.compile
    return asked == "on" or (asked == "auto" and device == "cuda" and comparison.budget.amount >= COMPILE_FROM)


def faster_where_it_pays(entry: MethodEntry, comparison: Comparison, bank: Bank) -> None:
    """Let the bank run lean layers on a GPU, or compiled ones where the student's are of another make, and compile divergences. Layers stay plain where
    something reaches into them: states of inner layers, forward derivatives, sharding; and uncompiled where adapters do."""
    update, compiles = entry.update, pays(comparison, bank.device.type)
    whole = isinstance(update, AdamW) and not bank.layers.union and bank.pair.split is None
    if compiles:
        bank.fused = Fused()
    if whole and bank.device.type == "cuda" and comparison.settings.layers == "lean" and fits(bank.models["student"]):
        bank.lean = LeanLayers()
    elif compiles and whole and getattr(update, "adapter", None) is None:
        bank.compiled = CompiledLayers()
