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

MODULES = (  # the large ones first, so that none takes long by itself
    "torch", "pandas", "scipy.stats", "zoo.entry", "transformers.modeling_utils", "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2", "zoo.harness.decode", "zoo.harness.run", "zoo.harness.evaluate", "zoo.harness.lm", "zoo.harness.trackers",
    "zoo.tune", "zoo.provoke.running", "lm_eval.evaluator", "lm_eval.tasks",
)  # fmt: skip


def warm() -> None:
    """Import it all, read the shipped registry and the detectors, and let the collector of garbage pass over what every worker shares. Ends the process
    where the command has ended meanwhile: nobody will ask for a worker."""
    command = os.getppid()
    for name in MODULES:
        with suppress(Exception):
            import_module(name)
        if os.getppid() != command:
            os._exit(0)
    with suppress(Exception):
        import_module("zoo").load_registry()
    with suppress(Exception):
        import_module("zoo.failures.detecting").known_detectors()
    with suppress(Exception):
        import_module("triton.runtime.cache").triton_key()  # a digest of its own files, which it remembers
    gc.collect()
    gc.freeze()


@contextmanager
def _unheard() -> Iterator[None]:
    """What libraries say while they load goes nowhere, by the descriptor, which their loggers keep; an interrupt, which the command reports, ends the
    process without a word."""
    before, kept = signal.signal(signal.SIGINT, lambda *_: os._exit(130)), os.dup(2)
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
