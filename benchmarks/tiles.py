"""Where a decode step goes, and the fastest tile of each of its products, measured inside the step.

python benchmarks/tiles.py MODEL_DIR [--rows 256] [--new 256] [--seconds 120] [--write]

Only the folder's config.json is read: weights are random, which speed does not see. A tile is measured in the whole step's CUDA graph, half way through
the answers, because products measured alone find their weights in the cache and choose badly. --write puts the fastest into the decoder's table, beside
those of other shapes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from zoo.harness.native import NativeDecoder, tiles
from zoo.harness.native.tiles import MOST_PARTS, Product, Tile, tile_for

PROMPT, REPLAYS = 58, 30
TABLE = Path(tiles.__file__).with_name("tiles.json")
SHAPES = [
    Tile(*shape)
    for shape in (
        (128, 32, 128, 4, 3), (64, 64, 64, 4, 4), (128, 64, 64, 4, 4), (64, 32, 64, 4, 5), (128, 32, 64, 4, 4), (64, 64, 128, 4, 3), (128, 64, 64, 8, 4),
        (128, 16, 128, 4, 3), (64, 16, 128, 4, 4), (64, 128, 64, 4, 4), (64, 32, 128, 4, 3), (128, 64, 128, 8, 3), (64, 32, 64, 4, 8), (128, 128, 64, 8, 3),
        (64, 128, 64, 8, 4), (128, 16, 64, 4, 6), (64, 16, 64, 2, 6), (64, 32, 64, 2, 5), (32, 64, 128, 4, 3), (64, 32, 256, 4, 2),
    )
]  # fmt: skip
BLOCKS = [Tile(inputs=inputs, warps=warps, stages=stages) for inputs, warps, stages in (
    (64, 4, 3), (64, 4, 2), (64, 4, 4), (128, 4, 2), (128, 4, 4), (32, 2, 4), (32, 4, 4), (64, 2, 3), (64, 2, 4), (128, 8, 3), (256, 8, 2), (32, 1, 4),
    (64, 1, 3),
)]  # fmt: skip
SHARES = (0.2, 0.25, 0.25, 0.15, 0.15)  # of the time of a search, as the products stand
Key = tuple[Product, int, int]


class Step:
    """A decoder whose rows are half way through their answers."""

    def __init__(self, folder: str, rows: int, new: int) -> None:
        self.rows, self.position = rows, PROMPT + new // 2
        torch.manual_seed(0)
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16).eval()
        self.decoder = NativeDecoder(model, pad_id=0, stop_ids=[-1], rows=rows)
        prompts, noise = [[5 + i % 900] * PROMPT for i in range(rows)], torch.rand(rows, new, dtype=torch.float64)
        for _ in range(3):
            torch.cuda.synchronize()
            began = time.perf_counter()
            self.decoder.write(prompts, noise, temperature=1.0)
            torch.cuda.synchronize()
            self.speed = rows * new / (time.perf_counter() - began)
        self.step = next(iter(self.decoder._kept.values()))

    def milliseconds(self) -> float:
        """The best of three times thirty replays of a freshly captured step."""
        graph = self.step.graph_for(self.rows)
        return min(self._replayed(graph) for _ in range(3))

    def _replayed(self, graph: torch.cuda.CUDAGraph) -> float:
        rows = self.step.rows
        rows.position_R.fill_(self.position)
        rows.alive_R.fill_(1)
        rows.written_R.fill_(1)
        rows.request_R.copy_(torch.arange(self.rows, device="cuda"))
        graph.replay()
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(REPLAYS):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / REPLAYS

    def products(self) -> list[Key]:
        """Attention and the four products of a layer."""
        w, layer = self.decoder.weights, self.decoder.weights.layers[0]
        width, wide = layer.down.shape
        attend: Key = ("attend", w.heads // w.kv_heads, w.head_size)
        return [attend, ("gated", width, wide), ("parts", wide, width), ("linear", width, layer.qkv.shape[0]), ("parts", w.heads * w.head_size, width)]


def left_out(step: Step, whole: float) -> Iterator[tuple[str, float]]:
    """What a step saves without each of its operations."""
    from zoo.harness.native import kernels  # Triton comes with CUDA builds of torch alone

    def nothing(*given: Any, **named: Any) -> None:
        return None

    def no_parts(x_RK: torch.Tensor, weight_NK: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
        return room.flatten()[: len(x_RK) * len(weight_NK)].view(len(x_RK), 1, len(weight_NK))

    for name in ("attend", "linear", "linear_parts", "gated_linear", "rms_norm", "head", "draw"):
        kept = getattr(kernels, name)
        setattr(kernels, name, no_parts if name == "linear_parts" else nothing)
        yield name, whole - step.milliseconds()
        setattr(kernels, name, kept)


def candidates(key: Key, now: Tile) -> Iterator[Tile]:
    """Other tiles than the one in use: divided otherwise, or of another shape in as many parts."""
    if key[0] == "attend":
        yield from (tile for tile in BLOCKS if tile != now)
        return
    if key[0] == "parts":
        yield from (replace(now, parts=count) for count in (1, 2, 3, 4, 6, MOST_PARTS) if count != now.parts)
    yield from (replace(tile, parts=count) for tile in SHAPES for count in ((2, 4, MOST_PARTS) if key[0] == "parts" else (1,)))


def fastest(key: Key, step: Step, table: dict[Key, Tile], until: float) -> list[tuple[float, Tile]]:
    """What tiles of one product were measured while the others stay, the fastest first; the table takes that one."""
    found = [(step.milliseconds(), table[key])]
    for tile in candidates(key, table[key]):
        if time.monotonic() > until:
            break
        table[key] = tile
        try:
            found.append((step.milliseconds(), tile))
        except Exception as error:  # a tile that does not compile, or needs more than a multiprocessor has
            print(f"  {tile}: {str(error)[:80]!r}", file=sys.stderr)
    found.sort(key=lambda pair: pair[0])
    table[key] = found[0][1]
    return found


def searched(step: Step, seconds: float) -> dict[Key, Tile]:
    """The best tile of each product, one product after the other."""
    table = {(kind, inputs, outputs): tile_for(kind, step.rows, inputs, outputs, 2) for kind, inputs, outputs in step.products()}
    with patch.object(tiles, "measured", lambda: table):
        for key, share in zip(table, SHARES, strict=True):
            found = fastest(key, step, table, time.monotonic() + share * seconds)
            shown = ", ".join(f"{ms:.3f} {list(asdict(tile).values())}" for ms, tile in found[:6])
            print(f"{key}: {len(found)} tiles; {shown}; the slowest {found[-1][0]:.3f}", flush=True)
        print(f"in the end {step.milliseconds():.3f} ms", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=120.0, help="for the search; 0: only where the step goes")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("tiles are measured on a GPU, and there is none here")
    step = Step(options.model, options.rows, options.new)
    whole = step.milliseconds()
    print(f"{torch.cuda.get_device_name()}: {step.speed:.0f} tokens/s, a step of {options.rows} rows at position {step.position} {whole:.3f} ms", flush=True)
    for name, saved in left_out(step, whole):
        print(f"  without {name:13s} {saved:.3f} ms less", flush=True)
    if options.seconds:
        table = searched(step, options.seconds)
        if options.write:
            written(table, f"{Path(options.model).name}, {options.rows} rows, {torch.cuda.get_device_name()}")


def written(table: dict[Key, Tile], where: str) -> None:
    """The table with these shapes' tiles in place of their former ones."""
    rows = [row for row in json.loads(TABLE.read_text()) if (row["product"], row["inputs"], row["outputs"]) not in table]
    rows += [{"product": kind, "inputs": inputs, "outputs": outputs, "tile": asdict(tile), "of": where} for (kind, inputs, outputs), tile in table.items()]
    TABLE.write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
