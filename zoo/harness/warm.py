"""What a worker imports, imported once: the server that workers are forked from loads this module and nothing else (`zoo.harness.forked`).

Nothing here may ask for a GPU, not even how many there are: CUDA can't be used in a process forked after that, and a worker is told only behind the fork
which GPU is its own. What can't be imported is left to the worker, whose own attempt says why.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

MODULES = (
    "zoo.harness.run", "zoo.harness.evaluate", "zoo.harness.lm", "zoo.harness.trackers", "zoo.tune", "zoo.provoke.running",
    "lm_eval.evaluator", "lm_eval.tasks", "transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2",
)  # fmt: skip


def warm() -> None:
    """Import it all, read the shipped registry and the detectors, and let the collector of garbage pass over what every worker shares."""
    for name in MODULES:
        with suppress(Exception):
            import_module(name)
    with suppress(Exception):
        import_module("zoo").load_registry()
    with suppress(Exception):
        import_module("zoo.failures.detecting").known_detectors()
    gc.collect()
    gc.freeze()


@contextmanager
def _unheard() -> Iterator[None]:
    """An interrupt is the command's, and what libraries say while they load goes nowhere; by the descriptor, which their loggers keep."""
    before, kept = signal.signal(signal.SIGINT, signal.SIG_IGN), os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        signal.signal(signal.SIGINT, before)


with _unheard():
    warm()
