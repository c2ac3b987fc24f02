"""The example in the README's words runs as it stands, from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_example_compares_two_methods(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "compare.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "4 cells, 24,000 supervised tokens to go" in done.stdout
    for line in ("student success", "teacher success", "sft success", "gkd_on_policy success"):
        assert line in done.stdout
    assert len(list((tmp_path / "records" / "example").glob("*/*/run.json"))) == 4
