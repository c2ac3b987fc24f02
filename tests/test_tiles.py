"""Which tiles the native decoder's products take: parts cover the inputs, and the table of measured ones is what the kernels can run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.harness.native import tiles
from zoo.harness.native.tiles import ATTEND, DEFAULT, MOST_PARTS, Tile, tile_for

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
        tile = tile_for(product, rows, inputs, outputs, width)
        assert 1 <= tile.parts <= (MOST_PARTS if product == "parts" else 1)
        assert tile.inputs * width <= 256, "a wider operand takes half the depth, or the tile outgrows shared memory"


def test_few_outputs_are_divided_until_the_gpu_is_busy_and_many_are_not() -> None:
    narrow, wide = (tile_for("parts", 128, 2048, outputs, 2).parts for outputs in (512, 16_384))
    assert narrow > 1 == wide


def test_measured_tiles_are_for_two_byte_operands_alone() -> None:
    (kind, inputs, outputs), tile = next((key, tile) for key, tile in tiles.measured().items() if key[0] == "gated" and tile != DEFAULT)
    assert kind == "gated" and tile_for("gated", 2, inputs, outputs, 2) == tile != tile_for("gated", 2, inputs, outputs, 4)
    assert tile_for("attend", 1, 5, 48, 2) == ATTEND == tile_for("attend", 1, 7, 64, 4)


@pytest.mark.parametrize(("key", "tile"), tiles.measured().items(), ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "")
def test_the_table_holds_what_kernels_can_run(key: tuple[str, int, int], tile: Tile) -> None:
    values = asdict(tile)
    assert all(value & (value - 1) == 0 for name, value in values.items() if name in ("rows", "outputs", "inputs", "warps"))
    assert tile.outputs >= 16 and tile.inputs >= 16 and tile.warps <= 8 and tile.parts <= MOST_PARTS
    assert tile.parts == 1 or key[0] == "parts"
    if key[0] != "attend":  # what a stage holds of both operands, in two bytes each; a multiprocessor has 227 KiB
        read = tile.rows + tile.outputs * (2 if key[0] == "gated" else 1)
        assert 2 * read * tile.inputs * tile.stages <= 227 * 1024


def test_the_search_takes_the_fastest_tile_and_keeps_other_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import tiles as benchmark

    key, table = ("parts", 4864, 896), tmp_path / "tiles.json"

    class MadeUp:
        """A step that is fastest with eight parts of 64 outputs."""

        rows = 128

        def products(self) -> list[tuple[str, int, int]]:
            return [("attend", 7, 64), ("gated", 896, 4864), key, ("linear", 896, 1152), ("parts", 896, 896)]

        def milliseconds(self) -> float:
            tile = tile_for(key[0], 128, *key[1:], 2)
            return 1.0 + abs(tile.parts - 8) + abs(tile.outputs - 64)

    before = tiles.measured
    found = benchmark.searched(MadeUp(), 3600.0)
    assert (found[key].parts, found[key].outputs) == (8, 64) and found["attend", 7, 64] == ATTEND and tiles.measured is before
    rows = [{"product": product, "inputs": 4864, "outputs": outputs, "tile": {}, "of": "before"} for product, outputs in (("parts", 896), ("gated", 3))]
    table.write_text(json.dumps(rows))
    monkeypatch.setattr(benchmark, "TABLE", table)
    benchmark.written(found, "now")
    written = {(row["product"], row["inputs"], row["outputs"]): row for row in json.loads(table.read_text())}
    assert len(written) == 6 and written["gated", 4864, 3]["of"] == "before" and written[key]["of"] == "now"
    assert Tile(**written[key]["tile"]) == found[key]
