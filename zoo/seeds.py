"""Random numbers from named axes: a seed is a hash of what it is for, and every sequence owns its streams.

So two runs that agree on the axes see the same noise, whatever ran before, beside or on how many processes, and evaluation
never moves a training stream.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def seed_for(*axes: str | int) -> int:
    """A seed in [0, 2^63) for named axes, such as `seed_for("gsm8k-first", 0, "rollout", step, prompt.id)`.

    Order and type matter: 1 and "1" differ, and ("a", "b") differs from ("ab",).

    Raises:
        TypeError: an axis is neither text nor a whole number (a float or object would hash differently between machines).
    """
    for axis in axes:
        if isinstance(axis, bool) or not isinstance(axis, (str, int)):
            raise TypeError(f"a seed axis must be str or int, not {type(axis).__name__}: {axis!r}")
    digest = hashlib.sha256(json.dumps(axes, ensure_ascii=True, separators=(",", ":")).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uniforms(seeds: Sequence[int], length: int, *, stream: int = 0) -> Tensor:
    """One private stream of uniforms on [0, 1) per row: (B, length), float64, on the CPU.

    A shorter `length` gives a prefix of a longer one. `stream` numbers independent streams under the same seed (Philox is
    keyed by the pair), so a policy that draws twice a token shares its first draw with one that draws once.
    """
    rows = [np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))).random(length) for seed in seeds]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, length, dtype=torch.float64)
