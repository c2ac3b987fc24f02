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


def test_the_plan_on_paper_is_what_the_cost_model_computes(tmp_path: Path) -> None:
    page = BENCHMARKS.parent / "docs" / "scaling.md"
    again = tmp_path / "scaling.md"
    again.write_text(page.read_text())
    subprocess.run([sys.executable, str(BENCHMARKS / "roofline.py"), "plan", "--write", str(again)], check=True, timeout=60)
    assert again.read_text() == page.read_text() and "|step|" in page.read_text()


def test_phases_add_up_to_the_step_and_are_drawn_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import phases

    files = [tmp_path / "before.json", tmp_path / "after.json"]
    for file, more in zip(files, ([], ["--activation-checkpointing"]), strict=True):
        monkeypatch.setattr(sys, "argv", ["phases.py", "measure", "--tiny", "--steps", "1", "--json", str(file), *more])
        phases.main()
    found = [json.loads(file.read_text()) for file in files]
    assert [one["activation_checkpointing"] for one in found] == [False, True]
    for one in found:
        assert sum(one["phases_s"].values()) == pytest.approx(one["bordered_step_s"]) and one["supervised_tokens"] > 0
        assert {"decode", "teacher", "student forward", "loss backward", "student backward", "optimizer"} < set(one["phases_s"]) <= set(phases.PHASES)
        assert all(seconds > 0 for name, seconds in one["phases_s"].items() if name != "other")
    monkeypatch.setattr(sys, "argv", ["phases.py", "draw", *map(str, files), "--svg", str(tmp_path / "phases.svg")])
    phases.main()
    drawn = (tmp_path / "phases.svg").read_text()
    assert all(text in drawn for text in ("before", "after", *phases.PHASES, "seconds a step"))


def test_bounds_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer of width 2 with one head of 2, an inner width of 3 and 5 tokens."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from roofline import Batch, Size, bounds, update

    size, batch = Size(1, 2, 1, 1, 2, 3, 5), Batch(sequences=4, prompt=3, answer=2, longest=6)
    assert size.body == 4 * 2 * 2 + 3 * 2 * 3 and size.outer == 10 and size.parameters == size.body + 10
    works = {work.name: work for parts in bounds(size, size, batch).values() for work in parts}
    assert works["prefill"].flops == 2 * 34 * 12 + 4 * 12 * 1.5 * 2
    assert works["decode: weights"].flops == 2 * 44 * 8 and works["decode: weights"].moved == 6 * 44 * 2
    assert works["decode: cache"].moved == 2 * (8 * 4) * 2 * 2 and works["decode: logits"].moved == 2 * 8 * 5 * 4
    assert works["teacher"].flops == 2 * 34 * 20 + 4 * 20 * 2.5 * 2 and works["student"].flops == 3 * works["teacher"].flops
    again = next(work for work in update(size, size, batch, recomputed=True) if work.name == "student")
    assert again.flops == 4 * works["teacher"].flops
    assert works["heads and divergence"].flops == 2 * 8 * 40 and works["optimizer"].moved == 44 * 30
    assert works["student"].seconds({"flops_per_s": 1e3, "bytes_per_s": 1e9}) == works["student"].flops / 1e3
