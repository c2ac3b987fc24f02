"""Long checks of every entry: the default run takes a fixed share of the registry, `-m slow` the rest, so that both together ask all."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import pytest

ONE_IN = 8


def shared_out(names: Iterable[str]) -> list[Any]:
    """Parameters by name; seven of eight are marked slow, by a hash of the name, so that another entry moves none of them."""
    return [pytest.param(name, id=name, marks=() if zlib.crc32(name.encode()) % ONE_IN == 0 else pytest.mark.slow) for name in names]
