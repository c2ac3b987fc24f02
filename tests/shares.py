"""Long checks of every entry: the default run takes a fixed share of the registry, `-m slow` the rest, so that both together ask all."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import pytest

OUT_OF, TAKEN = 24, (0, 8)  # of so many parts by a hash of the name, these are taken: one entry in twelve


def shared_out(names: Iterable[str]) -> list[Any]:
    """Parameters by name; eleven of twelve are marked slow, by a hash of the name, so that another entry moves none of them."""
    return [pytest.param(name, id=name, marks=() if zlib.crc32(name.encode()) % OUT_OF in TAKEN else pytest.mark.slow) for name in names]
