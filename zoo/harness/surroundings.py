"""What an evaluation must not disturb: random states, the model's modes, and the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from zoo.tensors import Generation

FIXED_SEED = 1234


@contextlib.contextmanager
def isolated(model: torch.nn.Module) -> Iterator[None]:
    """Fixed random states inside (tasks may shuffle with them); afterwards those of before, and each module's mode as found.

    CUDA's states are saved where CUDA is in use, and never seeded: nothing here draws from them.
    """
    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(0)
            np.random.seed(FIXED_SEED)
            torch.default_generator.manual_seed(FIXED_SEED)
            model.eval()
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval's logs, progress bars and prints go nowhere; it offers no switch that covers all three."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


@dataclass(frozen=True)
class Heard:
    """A decoding engine whose own output reaches the user although all around it is `quiet`."""

    engine: Any
    out: TextIO
    err: TextIO

    def generate(self, prompts: Sequence[Sequence[int]], **settings: Any) -> list[Generation]:
        """The engine's answers."""
        with contextlib.redirect_stdout(self.out), contextlib.redirect_stderr(self.err):
            return self.engine.generate(prompts, **settings)  # type: ignore[no-any-return]
