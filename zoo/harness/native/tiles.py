"""Which tile each product of a decode step and its attention take: measured ones as data, one that serves everywhere otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

Product = Literal["linear", "gated", "parts", "attend"]
MOST_PARTS = 8
BUSY = 264  # programs that keep the 132 multiprocessors of an H100 or H200 busy


@dataclass(frozen=True)
class Tile:
    """What one program computes (rows, outputs), how many inputs it reads at a time, and among how many programs all inputs are divided."""

    rows: int = 64
    outputs: int = 32
    inputs: int = 128
    warps: int = 4
    stages: int = 4
    parts: int = 1

    def span(self, inputs: int) -> int:
        """How many inputs a part sums over: whole steps of the tile's own."""
        steps = -(-inputs // self.inputs)
        return -(-steps // self.parts) * self.inputs

    def divided(self, inputs: int, parts: int) -> Tile:
        """The tile with at most so many parts, none of them empty."""
        return replace(self, parts=-(-inputs // replace(self, parts=parts).span(inputs)))


DEFAULT = Tile()  # the best of 11 for each of SmolLM2's four products on an H100
ATTEND = Tile(stages=3)  # of attention `inputs` counts positions, and `rows` and `outputs` say nothing


@cache
def measured() -> dict[tuple[str, int, int], Tile]:
    """By product, inputs and outputs, from `tiles.json`, which `benchmarks/tiles.py` writes."""
    rows = json.loads(Path(__file__).with_name("tiles.json").read_text())
    return {(row["product"], row["inputs"], row["outputs"]): Tile(**row["tile"]) for row in rows}


def tile_for(product: Product, rows: int, inputs: int, outputs: int, width: int) -> Tile:
    """The measured tile, for operands of two bytes; else the default, half as deep for wider operands, with as many parts as keep a GPU busy. Of attention,
    `inputs` are the queries a key head has and `outputs` the size of a head."""
    tile = measured().get((product, inputs, outputs)) if width == 2 else None
    if tile is not None:
        return tile.divided(inputs, tile.parts)
    if product == "attend":
        return ATTEND
    tile = DEFAULT if width == 2 else replace(DEFAULT, inputs=DEFAULT.inputs // 2)
    if product != "parts":
        return tile
    programs = -(-outputs // tile.outputs) * -(-rows // tile.rows)
    return tile.divided(inputs, max(1, min(BUSY // programs, inputs // tile.inputs // 2, MOST_PARTS)))
