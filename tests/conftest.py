"""What all tests share: one thread, no hub, and the tiny pair."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML file of a tiny random pair."""
    from harness_kit import write_pair

    return write_pair(tmp_path_factory.mktemp("pair"))
