"""Checkpoints: everything a run needs to go on as if it had never stopped, as safetensors and JSON, swapped in atomically."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.errors import ZooError

VERSION = 1


def save_checkpoint(folder: Path, state: dict[str, Any], tensors: dict[str, dict[str, Tensor]]) -> None:
    """Write `state` (JSON values) and named groups of tensors to `folder`, replacing an older checkpoint only when complete.

    Raises:
        ZooError: the disk is full; the older checkpoint is untouched.
    """
    fresh = folder.with_name(f"{folder.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for name, group in tensors.items():
            contiguous = {k: v.detach().to("cpu").contiguous().clone() for k, v in group.items()}
            save_file(contiguous, fresh / f"{name}.safetensors")
            _sync(fresh / f"{name}.safetensors")
        (fresh / "state.json").write_text(json.dumps({"version": VERSION, "groups": sorted(tensors), **state}), encoding="utf-8")
        _sync(fresh / "state.json")
        _swap(fresh, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error):
            raise ZooError(f"the disk is full: no checkpoint written to {folder}; the last one is intact, free space and run the same command again") from None
        raise


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The last complete checkpoint, or None.

    Raises:
        ZooError: the files are damaged or of another version.
    """
    for candidate in (folder, folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")):
        if (candidate / "state.json").is_file():
            try:
                state = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
                groups = {name: load_file(candidate / f"{name}.safetensors") for name in state["groups"]}
            except (ValueError, KeyError, OSError, SafetensorError) as error:
                raise ZooError(f"checkpoint {candidate} is damaged ({error}); delete that folder to start the cell again") from None
            if state["version"] != VERSION:
                raise ZooError(f"checkpoint {candidate} is of version {state['version']}, not {VERSION}; delete that folder to start the cell again")
            return state, groups
    return None


def _swap(fresh: Path, folder: Path) -> None:
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _sync(file: Path) -> None:
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def split_state(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """JSON values and tensors of a component's `state_dict` apart."""
    return {k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}, {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
