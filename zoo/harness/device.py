"""A GPU that a process has lost: after a fault on the device every call of CUDA fails, for good, and may fail in all
processes that shared it by one service."""

from __future__ import annotations

import os

import torch

from zoo.errors import DeviceLost
from zoo.harness.mps import CHOICE


def lost() -> bool:
    """Whether this process's GPU answers no more."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def refuse_lost(cell: str, reason: str, recorded: bool = False) -> None:
    """Do nothing while the GPU answers. Of a fault among several processes nobody can say whose it was, so such a cell is not `recorded`.

    Raises:
        DeviceLost: the GPU was lost at this cell, for this reason.
    """
    if not lost():
        return
    after = "its record says so; the same command goes on with the other cells" if recorded else "the same command goes on from the last checkpoint"
    raise DeviceLost(f"{cell}: a fault on the GPU ended this process ({reason}); {after}")


def shared() -> bool:
    """Whether a fault may have been another process's."""
    return os.environ.get(CHOICE) == "on"
