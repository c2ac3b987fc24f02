"""The final student of a cell, kept where the comparison asks for it (`keep_weights`): what `zoo export` takes its weights from."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.errors import ZooError
from zoo.harness.adapters import detach
from zoo.harness.plan import Cell
from zoo.records import NO_SPACE

if TYPE_CHECKING:
    from zoo.harness.run import Session

KEPT = "kept.json"


def weights_folder(results: Path, comparison: str, method: str, seed: int, uuid: str) -> Path:
    """Where an attempt's final weights lie, if they were kept."""
    return results / "weights" / comparison / f"{method}-s{seed}" / uuid


def keep_weights(session: Session, cell: Cell, uuid: str, model: Any) -> None:
    """Write the model as a transformers checkpoint of safetensors, whole or not at all; low-rank modules are merged into it, W + s B A.

    Raises:
        ZooError: the disk is full.
    """
    folder = weights_folder(session.place.results, session.comparison.id, cell.method, cell.seed, uuid)
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        whole, adapted = without_adapters(model)
        whole.save_pretrained(fresh, safe_serialization=True)
        session.pair.tokenizer.save_pretrained(fresh)
        said = {"uuid": uuid, "comparison": session.comparison.id, "method": cell.method, "seed": cell.seed, "adapter": "merged" if adapted else None,
                "dtype": str(next(whole.parameters()).dtype).removeprefix("torch.")}  # fmt: skip
        (fresh / KEPT).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if error.errno in NO_SPACE:
            raise ZooError(f"the disk is full: the weights of {cell.method} (seed {cell.seed}) were not kept; free space, or set keep_weights: false") from None
        raise


@torch.no_grad()
def without_adapters(model: Any) -> tuple[Any, bool]:
    """The model with its low-rank modules added into its weights, as a copy where there are any; and whether there were."""
    if not any(hasattr(module, "get_delta_weight") for module in model.modules()):
        return model, False
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            weight = module.base_layer.weight
            for name in module.active_adapters:
                weight.add_(module.get_delta_weight(name).to(weight))
    detach(twin)
    return twin, True
