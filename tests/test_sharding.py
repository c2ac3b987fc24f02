"""Models split over two processes (FSDP2) give the steps, the weights and the checkpoints of one process that holds them whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, TESTS, comparison, digest, made, process, read_pair, shipped, trainer_of, weights
from safetensors.torch import load_file
from sharding_driver import AGAIN, methods, train
from test_processes import LAUNCH

from zoo.errors import ZooError
from zoo.harness.checkpoint import restore
from zoo.harness.parallel import Processes
from zoo.harness.sharding import clip, is_sharded, servable, wanted

NAMES = list(methods())
TOLERANCE = {"rel": 1e-7, "abs": 1e-9}  # weights are float64, log-probabilities and losses in part fp32


def compare(pair_file: Path, tmp_path: Path, device: str, tolerance: dict[str, float], apart: float) -> None:
    """One process here, two there."""
    started = Processes(device=torch.device(device))
    pair = read_pair(pair_file, torch.float64)
    expected, held = train(pair, started, tmp_path, NAMES)
    run = process(*LAUNCH, TESTS / "sharding_driver.py", pair_file, tmp_path, device, *NAMES)
    said, _ = run.communicate(timeout=500)
    assert run.returncode == 0, said
    found, others = json.loads((tmp_path / "steps.json").read_text()), load_file(tmp_path / "weights.safetensors")
    for name in [*NAMES, AGAIN]:
        assert len(found[name]) == len(expected[name]) > 2, name
        for row, other in zip(expected[name], found[name], strict=True):
            same = {key: value for key, value in row.items() if key != "seconds" and not key.startswith(("seen.", "ratio.", "noise.", "gsnr", "snr"))}
            assert {key: other[key] for key in same if key in other} == pytest.approx({k: v for k, v in same.items() if k in other}, **tolerance), name
            assert {"grad_norm", "tokens", *(key for key in row if key.startswith("loss."))} <= other.keys()
        mine = [key for key in held if key.startswith(f"{name}.")]
        assert mine and all(float((held[key] - others[key]).abs().max()) < apart for key in mine), name
    trainer = trainer_of(methods()["sft"], pair, rollouts_per_step=32, budget={"amount": 1200})  # and back: one process goes on from what two have saved
    restore(trainer, tmp_path / "sharded")
    assert len(trainer.rows) == 2
    trainer.train(lambda row: None, lambda: None)
    assert all(float((value - held[f"sft.{name}"]).abs().max()) < apart for name, value in weights(pair.student).items())
    records = {(r["method"], r["kind"]): r for r in (json.loads(f.read_text()) for f in tmp_path.glob("records/*/*/*/*.json"))}
    assert {records[name, "run"]["status"] for name in ("gkd", "student", "teacher")} == {"success"}
    evaluated = {name: records[name, "eval"]["tasks"]["micro_add"]["weights"] for name in ("gkd", "student", "teacher")}
    assert len(set(evaluated.values())) == 3
    assert evaluated["student"] == digest({k: v.detach() for k, v in pair.reset_student().named_parameters()})
    assert evaluated["teacher"] == digest(weights(pair.teachers["teacher"]))
    assert records["gkd", "run"]["provenance"]["processes"] == 2 and not list(tmp_path.glob("work/*/*"))


def test_two_processes_with_half_the_weights_each_give_the_steps_of_one(pair_file: Path, tmp_path: Path) -> None:
    compare(pair_file, tmp_path, "cpu", TOLERANCE, 1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason=f"needs two GPUs, here are {torch.cuda.device_count()}")
def test_two_gpus_with_half_the_weights_each_give_the_steps_of_one(pair_file: Path, tmp_path: Path) -> None:
    """Under bf16 autocast, and decoded in bf16, single tokens may be drawn otherwise: given text is compared, the other methods must run."""
    pair = read_pair(pair_file)
    for model in (pair.student, *pair.teachers.values()):
        model.to("cuda")
    pair = replace(pair, initial={name: value.detach().clone() for name, value in pair.student.state_dict().items()})
    expected, _ = train(pair, Processes(device=torch.device("cuda")), tmp_path, ["sft"])
    run = process(*LAUNCH, TESTS / "sharding_driver.py", pair_file, tmp_path, "cuda", *NAMES)
    said = run.communicate(timeout=500)[0]
    assert run.returncode == 0, said
    found = json.loads((tmp_path / "steps.json").read_text())
    losses = [[row["loss.0.likelihood"] for row in rows] for rows in (expected["sft"], found["sft"])]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2) and set(found) == {*NAMES, AGAIN}


def test_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    two, plain, split = Processes(0, 2), comparison(), comparison(sharding="fsdp2")
    assert [wanted(plain, two), wanted(split, two), wanted(split, Processes())] == [False, True, False]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ZooError, match="add --fsdp_version 2"):
        wanted(plain, two)
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert wanted(plain, two) and not wanted(plain, Processes())


def test_methods_that_need_more_than_a_sharded_model_gives_are_refused() -> None:
    for entry in methods().values():
        assert servable(entry, comparison()).settings.diagnose_every == 0  # what single processes look at by themselves
    own = {"rollout": {"author": "student"}, **TEACHER, "objective": [REVERSE_KL]}
    average = {"kind": "student", "weights": {"ema": 0.7}}
    for entry, reason in (
        (made("written", **{**own, "rollout": {"author": "teacher", "teacher": "teacher"}}), "its stream 'main' is not the student's own"),
        (made("moving", **{**own, "teachers": {"teacher": average}}), "its teacher 'teacher' has weights that move"),
        (made("anchored", **own, update={"kind": "adamw", "anchor": {"kind": "fisher", "strength": 5.0, "samples": 4}}), "its update is more than AdamW"),
    ):
        with pytest.raises(ZooError, match=f"method '{entry.id}' cannot run with sharding: fsdp2: {reason}"):
            servable(entry, comparison())


def test_clipping_is_that_of_torch_where_nothing_is_split() -> None:
    one, two = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    for parameter in (one, two):
        parameter.grad = torch.tensor([3.0, 0.0, 4.0])
    assert float(clip([one], 1.0, Processes())) == float(torch.nn.utils.clip_grad_norm_([two], 1.0)) == 5.0
    assert one.grad is not None and two.grad is not None and torch.equal(one.grad, two.grad)


def test_a_pair_in_one_process_is_never_split(pair_file: Path) -> None:
    pair = read_pair(pair_file)
    assert pair.split is None and not is_sharded(trainer_of(shipped("gkd"), pair).pair.student)
