"""Probes: their arithmetic by hand, and on the micro pair against what is known there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from zoo.bench import Bench
from zoo.components.base import Context
from zoo.entry import MethodEntry, load_registry
from zoo.failures.logs import NotMeasured
from zoo.failures.probes import answers, cliff, ends, forced, gradients, privileged, rescue, slope, summaries
from zoo.failures.probes.looking import PROBES, in_memory, measure
from zoo.failures.probes.names import CHEAP, NAMES
from zoo.failures.probes.scene import Reader, Scene, Sizes, Texts, scene_of_entry, scene_of_pair
from zoo.harness.models import load_pair, load_pair_spec

FEW = Sizes(prompts=12, rollouts=4, failing=12, continuations=2, states=12, forced=8, greedy=24, gradient=48, micro_batches=8)


@pytest.fixture(scope="module")
def bench() -> Bench:
    torch.set_num_threads(1)
    return Bench()


@pytest.fixture
def scene(bench: Bench) -> Iterator[Scene]:
    bench.pair.reset_student().eval()
    made = scene_of_pair(bench.pair, 40, sizes=FEW)
    yield made
    made.release()


def of_entry(bench: Bench, entry: MethodEntry, sizes: Sizes = FEW) -> Scene:
    trainer = bench.trainer(entry)
    return scene_of_entry(trainer.entry, trainer.bank, 40, engine=trainer.engine, sizes=sizes)


def sampled(reward: dict[str, object]) -> MethodEntry:
    """Plain policy gradient on a reward."""
    base = load_registry()["tml_opd"]
    term = base.objective[0].model_copy(
        update={"reward": type(base.objective[0]).model_validate({**base.objective[0].model_dump(by_alias=True), "reward": reward}).reward}
    )
    return base.model_copy(update={"objective": (term,)})


# --- arithmetic -----------------------------------------------------------------------------------------------------------


def test_cosine_of_the_signal_with_success_by_hand() -> None:
    p, half = np.log([[0.5, 0.25, 0.25]]), np.log([[0.5, 0.25, 0.25]])
    toward = half + np.log([[2.0, 1.0, 1.0]])  # w = log 2 on the first token
    assert forced.cosines(p, toward, np.array([[1.0, 0.0, 0.0]]))[0] == pytest.approx(1.0)
    assert forced.cosines(p, toward, np.array([[0.0, 1.0, 1.0]]))[0] == pytest.approx(-1.0)
    assert forced.cosines(p, toward, np.array([[0.3, 0.3, 0.3]]))[0] == 0.0  # nothing that is forced matters
    # w = (1, 0, 0), S = (0, 1, 0): fields p(w - .5) = (.25, -.125, -.125) and p(S - .25) = (-.125, .1875, -.0625)
    expected = (-0.25 * 0.125 - 0.125 * 0.1875 + 0.125 * 0.0625) / (np.hypot(0.25, np.hypot(0.125, 0.125)) * np.sqrt(0.125**2 + 0.1875**2 + 0.0625**2))
    assert forced.cosines(p, p + np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 1.0, 0.0]]))[0] == pytest.approx(expected)
    assert forced.beyond_chance(np.array([[0.9, 0.1], [0.6, 0.4]]), 16).tolist() == [True, False]


def test_slope_and_its_jackknife_by_hand() -> None:
    direct = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    policy = 2.0 * direct + torch.tensor([[0.0, 0.3], [-0.3, 0.0], [0.0, 0.0]])
    found = slope.slope_of(policy @ direct.T, direct @ direct.T)
    total, whole = direct.sum(0), policy.sum(0)
    assert found.value == pytest.approx(float(whole @ total / (total @ total)))
    left = [float((whole - policy[m]) @ (total - direct[m]) / ((total - direct[m]) @ (total - direct[m]))) for m in range(3)]
    assert found.stderr == pytest.approx(math.sqrt(2 / 3 * sum((x - sum(left) / 3) ** 2 for x in left)), rel=1e-5)
    assert math.isnan(slope.slope_of(torch.zeros(2, 2), torch.zeros(2, 2)).value)


def test_scales_at_which_a_token_is_lost() -> None:
    assert cliff.flip(0.80, 0.99) == pytest.approx(1.432, abs=1e-3)
    assert cliff.flip(0.90, 0.50) == math.inf
    binds, runs = cliff.binding(0.90, 0.50, 2.0)
    assert (binds, runs) == (pytest.approx(1.194, abs=1e-3), pytest.approx(1.2257, abs=1e-4))
    assert cliff.binding(0.4, 0.5, 2.0) == (math.inf, math.inf)
    # At the flip the extrapolated odds are even.
    at = cliff.flip(0.8, 0.99)
    assert cliff.logit(0.99) + at * (cliff.logit(0.8) - cliff.logit(0.99)) == pytest.approx(0.0, abs=1e-9)


def test_what_an_answer_says() -> None:
    assert answers.said("3 8 15#15") == "15"
    assert answers.said("so \\boxed{7} and \\boxed{42}.") == "42"
    assert answers.said("The answer is 12.") == "12"
    assert answers.said(" a, b ") == "a, b"
    assert answers.markers("Wait, perhaps. Await maybe", micro=False) == 3
    assert answers.markers("3?3 8?", micro=True) == 2
    assert answers._stated("3#3@80", "@") == 0.8
    assert answers._stated("3#3@0.25", "@") == 0.25
    assert math.isnan(answers._stated("3#3", "@"))


def test_auroc_with_ties_half_and_pairs_with_ties_none() -> None:
    score, right = pd.Series([0.9, 0.5, 0.5, 0.1]), pd.Series([1.0, 1.0, 0.0, 0.0])
    assert summaries.auroc(score, right) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert summaries.pairs_right(score, right) == 0.75
    assert math.isnan(summaries.auroc(score, right * 0))


def test_clustered_errors() -> None:
    values, apart = pd.Series([1.0, 1.0, 0.0, 0.0]), pd.Series(["a", "b", "c", "d"])
    assert summaries.clustered(values, apart).stderr == pytest.approx(math.sqrt(4 / 3 * 4 * 0.25) / 4)
    together = summaries.clustered(values, pd.Series(["a", "a", "b", "b"]))
    assert together.stderr == pytest.approx(math.sqrt(2 * 2 * 1.0) / 4)  # each cluster's residuals sum to 1
    assert summaries.clustered(pd.Series([0.0] * 300), pd.Series(range(300))).high == pytest.approx(0.01)  # the rule of three


def test_recovery_is_a_ratio_of_paired_means() -> None:
    before = pd.DataFrame({"prompt": range(8), "student": [0.0] * 6 + [1.0] * 2, "teacher": 1.0})
    after = pd.DataFrame({"prompt": range(8), "student": [1.0] * 3 + [0.0] * 3 + [1.0] * 2})
    found = summaries.recovery_of(before, after)
    assert (found.ratio.value, found.gap.value, found.change.value) == (0.5, 0.75, 0.375)
    residual = np.array([0.5] * 3 + [-0.5] * 3 + [0.0] * 2) / 0.75
    assert found.ratio.stderr == pytest.approx(math.sqrt(8 / 7 * (residual**2).sum()) / 8)


def test_cosines_between_halves() -> None:
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    halves = {"a": [one, one], "b": [-one, -one], "c": [two, one]}
    assert gradients._crossed(halves, "a", "a") == 1.0
    assert gradients._crossed(halves, "a", "b") == -1.0
    assert gradients._crossed(halves, "a", "c") == pytest.approx(0.5)


# --- on the micro pair ----------------------------------------------------------------------------------------------------


def test_every_probe_has_a_name_and_a_description() -> None:
    assert tuple(PROBES) == NAMES
    assert set(CHEAP) <= set(NAMES)


def test_what_is_written_is_read_with_the_same_probabilities(scene: Scene) -> None:
    texts = scene.write(scene.student, scene.prompts("train", 6), "here", group=2)
    sums = [0.0] * len(texts)
    for seen in scene.laws({"it": scene.student}, texts):
        for row, value in zip(seen.row_N.tolist(), seen.written_N("it").tolist(), strict=True):
            sums[row] += value
    assert sums == pytest.approx([sum(row) for row in texts.logp], abs=1e-3)
    again = scene.write(scene.student, scene.prompts("train", 6)[:3], "here", group=2)
    assert again.ids == texts.ids[:6]  # noise belongs to the prompt, not to the batch


def test_greedy_continuations_of_a_beginning_end_as_the_whole(scene: Scene) -> None:
    prompts = scene.prompts("valid", 8)
    whole = scene.write(scene.student, prompts, "a", temperature=0.0)
    heads = [ids[: len(ids) // 2] for ids in whole.ids]
    behind = scene.write(scene.student, prompts, "b", temperature=0.0, heads=heads)
    assert behind.ids == whole.ids
    assert behind.given == tuple(map(len, heads))
    short = replace(scene, new_tokens=5, _kept={})
    cut = short.write(scene.student, prompts, "c", temperature=0.0, heads=[ids[:3] for ids in whole.ids])
    assert {len(ids) for ids in cut.ids} == {5}
    assert not any(cut.finished)


def test_places_pick_single_positions(scene: Scene) -> None:
    texts = ends.gold(scene, scene.prompts("valid", 4))
    every = {(r, p): v for s in scene.laws({"it": scene.student}, texts) for r, p, v in zip(s.row_N.tolist(), s.position_N.tolist(), s.logp["it"], strict=True)}
    some = {
        (r, p): v
        for s in scene.laws({"it": scene.student}, texts, {0: [2], 3: [0, 4]})
        for r, p, v in zip(s.row_N.tolist(), s.position_N.tolist(), s.logp["it"], strict=True)
    }
    assert set(some) == {(0, 2), (3, 0), (3, 4)}
    for at, law in some.items():
        torch.testing.assert_close(law, every[at], atol=1e-5, rtol=1e-5)


def test_the_teacher_rescues_early_beginnings_and_the_student_itself_gains_nothing(scene: Scene) -> None:
    found = rescue.rescue(scene)
    success = found.groupby("fraction")["teacher"].mean()
    assert success[0.25] > success[0.75]
    assert (found["teacher_all"] > 0.9).all()
    itself = rescue.rescue(replace(scene, teacher=replace(scene.student, name="student"), _kept={}))
    assert abs(float((itself["teacher"] - itself["student"]).mean())) < 0.25


def test_a_pair_alone_has_what_needs_no_method(scene: Scene) -> None:
    frames, reasons = measure(scene, NAMES)
    assert set(reasons) == {"slope", "conflict", "privileged", "scores", "turns"}
    assert set(frames) == set(NAMES) - set(reasons)
    assert frames["stops"]["student"].mean() > 0.9
    assert (frames["template"]["nll_used"] - frames["template"]["nll_native"]).abs().max() < 1e-6
    assert frames["pass_rates"]["k"].eq(4).all()
    assert frames["parse"].loc[frames["parse"]["scale"] == 1.0, "right"].item() > 0.9  # at scale 1 it is the teacher that is drawn from
    assert set(frames["forced"]["correct"]) == {True, False}
    both = in_memory([(0, frames), (5, frames)])
    assert both["stops"]["step"].tolist() == [0] * len(frames["stops"]) + [5] * len(frames["stops"])


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ({"kind": "contrast", "of": {"teacher": 1, "student": -1}}, 1.0),
        ({"kind": "contrast", "of": {"teacher": 2, "student": -2}}, 2.0),
        ({"kind": "state_divergence"}, 0.0),
    ],
)
def test_the_slope_of_a_log_ratio_is_its_scale_and_of_a_state_nothing(bench: Bench, reward: dict[str, object], expected: float) -> None:
    entry = sampled(reward)
    [row] = slope.slope(of_entry(bench, entry)).to_dict("records")
    assert row["slope"] == pytest.approx(expected, abs=max(3 * row["stderr"], 0.05) + 0.1)
    assert row["stderr"] < 0.3
    assert row["static"] == (expected == 0.0)
    assert slope.state_only(entry) == ([0] if expected == 0.0 else [])


def test_probes_leave_no_trace(bench: Bench) -> None:
    entry = load_registry()["tml_opd"]
    scene = of_entry(bench, entry)
    assert scene.bank is not None
    before = {name: value.clone() for name, value in bench.pair.student.state_dict().items()}
    state, counts = torch.random.get_rng_state(), (scene.bank.scored_tokens, scene.engine.generated_tokens, dict(scene.engine.wrote))
    measure(scene, ["slope", "pass_rates", "stops"])
    assert all(torch.equal(value, before[name]) for name, value in bench.pair.student.state_dict().items())
    assert all(p.grad is None for p in bench.pair.student.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert counts == (scene.bank.scored_tokens, scene.engine.generated_tokens, dict(scene.engine.wrote))


def test_a_hidden_context_against_anothers(bench: Bench) -> None:
    found = privileged.privileged(of_entry(bench, load_registry()["opsd"]))
    assert 0 < found["kl_true"].mean() < found["kl_shuffled"].mean()
    plain = of_entry(bench, load_registry()["tml_opd"])
    with pytest.raises(NotMeasured, match="sees more than the prompt"):
        privileged.privileged(plain)
    assert plain.teacher is not None
    same = Reader("teacher", plain.teacher.model, Context(fields=("content",), template="canonical"))
    assert not ends.reveals(same, plain.prompts("train", 4))  # the prompt itself in other words hides nothing


def test_extrapolation_is_read_off_the_entry() -> None:
    registry = load_registry()
    assert cliff.scale_of(registry["g_opd"]) == 1.25
    assert cliff.scale_of(registry["tml_opd"]) == 1.0
    assert cliff.scale_of(registry["gkd"]) == 1.0


def test_token_boundaries_across_tokenizers(scene: Scene) -> None:
    texts = ends.gold(scene, scene.prompts("valid", 8))
    assert ends.aligned_share(scene.pair, "teacher", texts) == 1.0
    other = load_pair(load_pair_spec("micro-cross"))
    assert scene_of_pair(other, 40).teacher is None
    assert 0.2 < ends.aligned_share(other, "teacher", texts) < 0.95  # merged tokens end less often


def test_nothing_to_measure_is_said(scene: Scene) -> None:
    scene._kept["verdicts"] = [1.0] * len(scene.answers())
    for probe in (rescue.rescue, forced.forced):
        with pytest.raises(NotMeasured):
            probe(scene)
    alone = replace(scene, teacher=None)
    with pytest.raises(NotMeasured, match="no teacher"):
        ends.stops(alone)
    assert isinstance(scene.answers(), Texts)
