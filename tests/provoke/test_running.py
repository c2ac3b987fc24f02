"""A whole provocation in seconds: trained, judged, recorded once; what is done is not done again, what was cut off is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo.provoke.running as running
from zoo.harness.plan import Place
from zoo.provoke.running import Cell, done_keys, key_of, run_cells
from zoo.provoke.setups import Provocation

METHOD = {
    "teachers": {"teacher": {"kind": "external"}},
    "objective": ({"term": "divergence", "teacher": "teacher", "divergence": "reverse_kl", "reduce": "token_mean"},),
}
TINY = Provocation.model_validate({
    "id": "FM03",
    "about": "as the shipped one, in three steps",
    "common": {
        "method": METHOD, "tokens": 300, "settings": {"rollouts_per_step": 8, "validation_prompts": 8, "diagnose_every": 1}, "probes": ("stops",), "looks": 1,
        "sizes": {"prompts": 4, "rollouts": 2},
    },
    "provocation": {"summary": "two stops", "doctor": {"models": {
        "student": {"changes": ({"kind": "bias", "tokens": ("<e2>",), "by": -25.0},)},
        "teacher": {"changes": ({"kind": "swap", "tokens": ("<e1>", "<e2>")},), "stops": ("<e2>",)},
    }}},
    "control": {"summary": "one stop"},
})  # fmt: skip
CELLS = [Cell("FM03", arm, 0) for arm in ("provocation", "control")]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "load_provocation", lambda mode: TINY)


def records(root: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(root.glob("records/provocations/*/*/provocation.json"))]
    return {record["method"]: record for record in found}


def test_run_cut_off_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, whole = Place(results=tmp_path), running.trained
    before = torch.random.get_rng_state()

    def cut(cell: Cell) -> Any:
        if cell.arm == "control":
            raise KeyboardInterrupt
        return whole(cell)

    monkeypatch.setattr(running, "trained", cut)
    with pytest.raises(KeyboardInterrupt):
        list(run_cells(CELLS, place))
    assert set(records(tmp_path)) == {"fm03-provocation"} and len(done_keys(place)) == 1
    monkeypatch.setattr(running, "trained", whole)
    [left] = run_cells(CELLS, place)
    assert left["method"] == "fm03-control" and set(records(tmp_path)) == {"fm03-provocation", "fm03-control"}
    assert list(run_cells(CELLS, place)) == []
    found = records(tmp_path)
    assert found["fm03-provocation"]["findings"]["FM03"][0] == "red" and found["fm03-control"]["findings"]["FM03"][0] == "silent"
    assert found["fm03-provocation"]["findings"]["FM03"][2] == 0
    assert found["fm03-control"]["accuracy"][0][0] == 0 and found["fm03-control"]["spent"]["supervised_tokens"] >= 300
    assert found["fm03-control"]["failure_mode"] == "FM03" and found["fm03-control"]["summary"] == "one stop"
    sizes = [path.stat().st_size for path in tmp_path.glob("records/provocations/*/*/provocation.json")]
    assert max(sizes) < 5000
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_key_follows_what_matters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = Place(results=tmp_path)
    keys = {key_of(cell, place) for cell in (*CELLS, Cell("FM03", "control", 1))}
    assert len(keys) == 3
    renamed = TINY.model_copy(update={"control": TINY.control.model_copy(update={"summary": "in other words"})})
    monkeypatch.setattr(running, "load_provocation", lambda mode: renamed)
    assert key_of(CELLS[1], place) in keys
    longer = TINY.model_copy(update={"control": TINY.control.model_copy(update={"tokens": 301})})
    monkeypatch.setattr(running, "load_provocation", lambda mode: longer)
    assert key_of(CELLS[1], place) not in keys
