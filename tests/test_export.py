"""From a run to a checkpoint that transformers loads, with its card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, comparison, made, read_pair, registry, shipped, stub_evaluation, write_pair
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoo.errors import ZooError
from zoo.export import export, find_run
from zoo.harness import run
from zoo.harness.keep import weights_folder
from zoo.harness.plan import Place, make_plan
from zoo.harness.run import run_comparison
from zoo.records import load_records

LORA = {"kind": "lora", "rank": 2, "alpha": 4.0, "targets": ["q_proj", "up_proj"]}
PLAIN = made("plain", rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL])
LOW = made("low", rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL], update={"kind": "adamw", "adapter": LORA})
ENTRIES = registry(PLAIN, LOW, shipped("student"), shipped("teacher"), shipped("no_op"))
SENTENCE = [[3, 4, 5, 6, 7, 8, 9]]


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def ran(pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """A finished comparison: its results folder, and the logits of each model as it was evaluated."""
    pair, seen = read_pair(pair_file), dict[str, Any]()

    def evaluation(decoder: Any, model: Any, *arguments: Any, **settings: Any) -> dict[str, Any]:
        with torch.no_grad():
            seen[str(len(seen))] = model(torch.tensor(SENTENCE)).logits.clone()
        return stub_evaluation(decoder, model, *arguments, **settings)

    monkeypatch.setattr(run, "load_pair", lambda *_, **__: pair)
    monkeypatch.setattr(run, "evaluate", evaluation)

    def do(*methods: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
        declared = comparison(pair_file, methods=methods, budget={"amount": 150}, diagnose_every=0, **changes)
        assert {outcome.status for outcome in run_comparison(declared, ENTRIES, Place(tmp_path), device="cpu")} == {"success"}
        return tmp_path, seen

    return do


@pytest.mark.parametrize("method", ["plain", "low"])
def test_the_exported_model_is_the_one_that_was_evaluated(ran: Callable[..., Any], tmp_path: Path, method: str) -> None:
    if method == "low":
        pytest.importorskip("peft")
    results, seen = ran(method, keep_weights=True)
    made_files = export(f"trial/{method}", tmp_path / "out", results, ENTRIES)
    model = AutoModelForCausalLM.from_pretrained(made_files.folder)
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor(SENTENCE)).logits, seen["0"], atol=2e-5, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(made_files.folder).vocab_size > 0
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(made_files.files) and "kept.json" not in made_files.files


def test_the_card_says_what_was_done(ran: Callable[..., Any], tmp_path: Path) -> None:
    results, _ = ran("student", "plain", "low", keep_weights=True) if _has_peft() else ran("student", "plain", keep_weights=True)
    export("trial/plain/0", tmp_path / "out", results, ENTRIES)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for part in ("library_name: transformers", "# plain on tiny", "## Method", "\\begin{aligned}", "- evidence: ", "## Budget", "150 supervised",
                 "| micro_add (in distribution) |", "This run was not diagnosed", "## Provenance", "sha256 of its record"):  # fmt: skip
        assert part in card, part
    if _has_peft():
        export("trial/low", tmp_path / "adapted", results, ENTRIES)
        assert "low-rank modules that were trained are merged" in (tmp_path / "adapted" / "README.md").read_text(encoding="utf-8")


def _has_peft() -> bool:
    try:
        import peft  # noqa: F401
    except ImportError:
        return False
    return True


def test_keeping_weights_changes_no_key_and_nothing_is_kept_unasked(ran: Callable[..., Any], pair_file: Path, tmp_path: Path) -> None:
    keys = [[cell.run_key for cell in make_plan(comparison(pair_file, methods=("plain",), keep_weights=keep), ENTRIES, Place(tmp_path)).cells]
            for keep in (True, False)]  # fmt: skip
    assert keys[0] == keys[1]
    results, _ = ran("plain")
    assert not (results / "weights").exists()
    with pytest.raises(ZooError, match=r"kept no weights .* `keep_weights: true` into the comparison's settings"):
        export("trial/plain", tmp_path / "out", results, ENTRIES)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_one_clear_line(ran: Callable[..., Any], tmp_path: Path) -> None:
    results, _ = ran("student", "plain", keep_weights=True)
    [record] = [record for record in load_records(results / "records", "trial") if record.run.method == "plain"]
    assert weights_folder(results, "trial", "plain", 0, record.run.uuid).is_dir()
    assert find_run(results / "records", record.run.uuid[:12])[0].run.uuid == record.run.uuid
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for name, folder, message in (
        ("trial/student", "new", "nothing to export: student .* which no run has trained"),
        ("trail/plain", "new", "no records of comparison 'trail'.*did you mean 'trial'"),
        ("trial/plane", "new", "no run of 'plane'; did you mean 'plain'"),
        ("trial/plain/3", "new", "no seed 3"),
        ("ffffffff", "new", "no run 'ffffffff'"),
        ("", "new", "no run ''"),
        ("trial/plain", "full", "is there already"),
    ):
        with pytest.raises(ZooError, match=message):
            export(name, tmp_path / folder, results, ENTRIES)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
