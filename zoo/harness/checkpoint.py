"""Checkpoints: everything a run needs to go on as if it had never stopped, as safetensors and JSON, swapped in atomically."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.errors import ZooError
from zoo.harness.parts import load_optimizer_tensors, optimizer_tensors
from zoo.harness.sharding import all_like, gathered

if TYPE_CHECKING:
    from zoo.harness.train import Trainer

VERSION = 2
STATE = "state.json"


def save(trainer: Trainer, folder: Path) -> None:
    """Checkpoint everything that the next step depends on, in one piece: where models are sharded all processes call this, and the main one writes.
    Behind the last step the optimizer's state, twice the weights, is left out: what is still to come evaluates."""
    main, student = trainer.processes.main, trainer.pair.student
    moments = {} if trainer.done else optimizer_tensors(trainer.optimizer)
    tensors = {"student": gathered(student.state_dict(), main), "optimizer": gathered(moments, main)}
    if not main:
        return
    parts = {}
    for name, part in trainer.parts.items():
        parts[name], tensors[f"part:{name}"] = split_state(part.state_dict())
    tied = student.config.tie_word_embeddings
    tensors = {group: {k: v for k, v in named.items() if not (tied and k == "lm_head.weight")} for group, named in tensors.items()}
    state = {"spent": asdict(trainer.spent), "phases": asdict(trainer.phases), "iteration": trainer.iteration, "rows": trainer.rows, "parts": parts}
    save_checkpoint(folder, state, {group: named for group, named in tensors.items() if named or group == "optimizer"})


def restore(trainer: Trainer, folder: Path) -> None:
    """Go on from a checkpoint, if there is one."""
    found = load_checkpoint(folder)
    if found is None:
        return
    state, tensors = found
    trainer.pair.student.load_state_dict(all_like(tensors["student"], trainer.pair.student.state_dict()), strict=False)
    load_optimizer_tensors(trainer.optimizer, tensors["optimizer"])
    for name, part in trainer.parts.items():
        part.load_state_dict({**state["parts"][name], **tensors.get(f"part:{name}", {})})
    trainer.spent, trainer.phases = type(trainer.spent)(**state["spent"]), type(trainer.phases)(**state["phases"])
    trainer.iteration, trainer.rows = state["iteration"], state["rows"]


def save_checkpoint(folder: Path, state: dict[str, Any], tensors: dict[str, dict[str, Tensor]]) -> None:
    """Write `state` (JSON values) and named groups of tensors to `folder`, replacing an older checkpoint only when complete.

    A folder with `state.json`, which is written last and removed first, is complete; so a process may be killed at any moment.

    Raises:
        ZooError: the disk is full; the older checkpoint is untouched.
    """
    fresh = _beside(folder, "new")
    try:
        if not folder.exists() and (fresh / STATE).is_file():
            fresh.rename(folder)  # the last process was killed in the middle of `_swap`
        _discard(fresh)
        fresh.mkdir(parents=True)
        for name, group in tensors.items():
            own = {k: v.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for k, v in group.items()}  # none shares its memory
            save_file(own, fresh / f"{name}.safetensors")
            _sync(fresh / f"{name}.safetensors")
        (fresh / "partial").write_text(json.dumps({"version": VERSION, "groups": sorted(tensors), **state}), encoding="utf-8")
        _sync(fresh / "partial")
        (fresh / "partial").rename(fresh / STATE)
        _sync(fresh)
        _swap(fresh, folder)
    except (OSError, SafetensorError) as error:
        if folder.exists() or not (fresh / STATE).is_file():
            _discard(fresh)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error):
            raise ZooError(f"the disk is full: no checkpoint written to {folder}; the last one is intact, free space and run the same command again") from None
        raise


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The last complete checkpoint, or None.

    Raises:
        ZooError: the files are damaged or of another version.
    """
    found = _last_complete(folder)
    if found is None:
        return None
    state = load_state(folder)
    assert state is not None
    try:
        return state, {name: load_file(found / f"{name}.safetensors") for name in state["groups"]}
    except (OSError, SafetensorError) as error:
        raise _damaged(found, error) from None


def load_state(folder: Path) -> dict[str, Any] | None:
    """The JSON values of the last complete checkpoint, or None.

    Raises:
        ZooError: they are damaged or of another version.
    """
    found = _last_complete(folder)
    if found is None:
        return None
    try:
        state = json.loads((found / STATE).read_text(encoding="utf-8"))
        version, _ = state["version"], state["groups"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(found, error) from None
    if version != VERSION:
        raise ZooError(f"checkpoint {found} is of version {version}, not {VERSION}; delete that folder to start the cell again")
    return dict(state)


def _last_complete(folder: Path) -> Path | None:
    candidates = (folder, _beside(folder, "new"), _beside(folder, "old"))
    return next((candidate for candidate in candidates if (candidate / STATE).is_file()), None)


def _damaged(folder: Path, error: Exception) -> ZooError:
    return ZooError(f"checkpoint {folder} is damaged ({str(error).splitlines()[0]}); delete that folder to start the cell again")


def _swap(fresh: Path, folder: Path) -> None:
    old = _beside(folder, "old")
    _discard(old)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    _sync(folder.parent)
    _discard(old)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{folder.name}.{ending}")


def _discard(folder: Path) -> None:
    """Remove a checkpoint; from the first moment on nobody takes it for complete."""
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def split_state(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """JSON values and tensors of a component's `state_dict` apart."""
    return {k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}, {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
