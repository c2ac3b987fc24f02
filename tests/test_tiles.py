"""Which tiles the native decoder's products take: parts cover the inputs, and the table of measured ones is what the kernels can run."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.harness.native import tiles
from zoo.harness.native.tiles import ATTEND, DEFAULT, MOST_PARTS, Tile, attention_tile, tile_for

sizes = st.integers(1, 20_000)


@given(inputs=sizes, depth=st.sampled_from([16, 32, 64, 128, 256]), parts=st.integers(1, MOST_PARTS))
def test_parts_cover_the_inputs_and_none_is_empty(inputs: int, depth: int, parts: int) -> None:
    tile = Tile(inputs=depth).divided(inputs, parts)
    span = tile.span(inputs)
    assert 1 <= tile.parts <= parts and span % depth == 0
    assert span * tile.parts >= inputs > span * (tile.parts - 1)


@given(rows=st.integers(1, 512), inputs=sizes, outputs=sizes, width=st.sampled_from([2, 4]))
def test_any_shape_has_a_tile(rows: int, inputs: int, outputs: int, width: int) -> None:
    for product in ("linear", "gated", "parts"):
        tile = tiles._chosen(product, rows, inputs, outputs, width)
        assert 1 <= tile.parts <= (MOST_PARTS if product == "parts" else 1)
        assert tile.inputs * width <= 256, "a wider operand takes half the depth, or the tile outgrows shared memory"


def test_few_outputs_are_divided_until_the_gpu_is_busy_and_many_are_not() -> None:
    narrow, wide = (tiles._chosen("parts", 128, 2048, outputs, 2).parts for outputs in (512, 16_384))
    assert narrow > 1 == wide


def test_measured_tiles_are_for_two_byte_operands_alone() -> None:
    (kind, inputs, outputs), tile = next((key, tile) for key, tile in tiles.measured().items() if key[0] == "gated" and tile != DEFAULT)
    x_RK = torch.zeros(2, inputs)
    assert kind == "gated" and tile_for("gated", x_RK.bfloat16(), outputs) == tile != tile_for("gated", x_RK, outputs)
    assert attention_tile(5, 48, 2) == ATTEND == attention_tile(7, 64, 4)


@pytest.mark.parametrize(("key", "tile"), tiles.measured().items(), ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "")
def test_the_table_holds_what_kernels_can_run(key: tuple[str, int, int], tile: Tile) -> None:
    values = asdict(tile)
    assert all(value & (value - 1) == 0 for name, value in values.items() if name in ("rows", "outputs", "inputs", "warps"))
    assert tile.outputs >= 16 and tile.inputs >= 16 and tile.warps <= 8 and tile.parts <= MOST_PARTS
    assert tile.parts == 1 or key[0] == "parts"
    if key[0] != "attend":  # what a stage holds of both operands, in two bytes each; a multiprocessor has 227 KiB
        read = tile.rows + tile.outputs * (2 if key[0] == "gated" else 1)
        assert 2 * read * tile.inputs * tile.stages <= 227 * 1024
