"""The benchmarks run, on random models on a CPU; what they measure there means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_our_loss_on_the_same_rollouts_is_trls(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    file = tmp_path / "out.json"
    command = [sys.executable, str(BENCHMARKS / "vs_trl.py"), "--tiny", "--steps", "1", "--json", str(file)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    found = json.loads(file.read_text())
    assert found["vs_trl"]["loss_difference"] < 1e-4 and found["ours"]["loss_same_rollouts"] > 1e-2
    assert found["ours"]["tokens_per_step"] > 0 and found["trl"]["tokens_per_step"] > 0
