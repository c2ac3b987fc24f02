"""Detectors that read probes, on frames made by hand: silent, amber, red, and what can't be measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from .kit import found, level, rollout_frame, token_frame


def looks(*frames: pd.DataFrame) -> pd.DataFrame:
    """Looks at steps 0, 10, 20, ..."""
    return pd.concat([frame.assign(step=10 * i) for i, frame in enumerate(frames)], ignore_index=True)


# --- FM03 -----------------------------------------------------------------------------------------------------------------


def ends(student: tuple[float, float], teacher: tuple[float, float], source: str = "given") -> pd.DataFrame:
    rows = [
        {"source": source, "prompt": f"p{i}", "token": t, "name": f"<e{t + 1}>", "declared": True, "student": student[t], "teacher": teacher[t]}
        for i in range(5)
        for t in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_fm03_mismatch_of_stop_tokens_at_the_first_look() -> None:
    assert level("FM03", probes={"stops": ends((0.9, 0.0), (0.8, 0.1))}) == "silent"  # 1 - (0.8 / 0.9) = 0.11
    assert found("FM03", probes={"stops": ends((0.9, 0.0), (0.6, 0.3))}).value == pytest.approx(1 / 3)
    assert level("FM03", probes={"stops": ends((0.9, 0.0), (0.6, 0.3))}) == "amber"
    finding = found("FM03", probes={"stops": ends((0.9, 1e-9), (1e-9, 0.95))})
    assert (finding.level, finding.first_step) == ("red", 0)
    assert "<e1>" in finding.reason
    assert finding.evidence["q.<e2>"] == pytest.approx(0.95)


def test_fm03_a_student_that_forgets_to_stop() -> None:
    start = ends((0.8, 0.0), (0.9, 0.0))
    assert level("FM03", probes={"stops": looks(start, ends((0.7, 0.0), (0.9, 0.0)))}) == "silent"
    assert level("FM03", probes={"stops": looks(start, ends((0.5, 0.0), (0.9, 0.0)))}) == "amber"
    finding = found("FM03", probes={"stops": looks(start, start, ends((0.1, 0.0), (0.9, 0.0)))})
    assert (finding.level, finding.first_step) == ("red", 20)


def test_fm03_needs_stop_mass_on_both_sides_and_takes_given_solutions_first() -> None:
    assert found("FM03", probes={"stops": ends((0.01, 0.0), (0.9, 0.0))}).level == "not_measured"
    both = pd.concat([ends((0.9, 0.0), (0.9, 0.0)), ends((0.9, 0.0), (0.0, 0.9), "student")])
    assert level("FM03", probes={"stops": both}) == "silent"
    assert found("FM03").reason == "the probe 'stops' was not run"


# --- FM04 -----------------------------------------------------------------------------------------------------------------


def formats(gap: float, shared: float = 1.0, update: float = 0.06, tokens: float = 0.06) -> pd.DataFrame:
    noise = np.tile([-0.01, 0.01], 20)
    return pd.DataFrame({
        "prompt": [f"p{i}" for i in range(40)], "tokens": 10, "nll_native": 0.1, "nll_used": 0.1 + gap + noise, "aligned_share": shared,
        "special_update": update, "special_tokens": tokens,
    })  # fmt: skip


def test_fm04_the_format_the_boundaries_and_the_special_tokens() -> None:
    assert level("FM04", probes={"template": formats(0.0)}) == "silent"
    assert level("FM04", probes={"template": formats(0.15)}) == "amber"
    assert level("FM04", probes={"template": formats(0.5)}) == "red"
    assert level("FM04", probes={"template": formats(0.0, shared=0.93)}) == "amber"
    assert level("FM04", probes={"template": formats(0.0, shared=0.5)}) == "red"
    assert level("FM04", probes={"template": formats(0.0, update=0.24)}) == "amber"
    assert level("FM04", probes={"template": formats(0.0, update=0.6)}) == "red"
    assert level("FM04", probes={"template": formats(0.0, update=0.04, tokens=0.001)}) == "silent"  # carries next to nothing
    assert level("FM04", probes={"template": looks(formats(0.0), formats(0.5))}) == "silent"  # the first look is what counts
    assert level("FM04", probes={"template": formats(0.5).assign(nll_used=np.nan)}) == "silent"  # a context that shows more is no mismatch


# --- FM06 -----------------------------------------------------------------------------------------------------------------


def slopes(slope: float, stderr: float, static: bool = False) -> pd.DataFrame:
    return pd.DataFrame([{"term": 0, "stream": "main", "slope": slope, "stderr": stderr, "cosine": 0.5, "tokens": 4000, "micro_batches": 16, "static": static}])


def test_fm06_a_null_gradient() -> None:
    assert level("FM06", probes={"slope": slopes(1.02, 0.03)}) == "silent"
    assert level("FM06", probes={"slope": slopes(0.02, 0.05)}) == "red"
    assert level("FM06", probes={"slope": slopes(0.05, 0.15)}) == "amber"
    assert level("FM06", probes={"slope": slopes(0.08, 0.01)}) == "silent"  # a bounded reward: small, and a gradient all the same
    assert level("FM06", probes={"slope": slopes(0.0, 0.6)}) == "not_measured"
    assert level("FM06", probes={"slope": slopes(0.0, 0.6, static=True)}) == "red"
    assert found("FM06", probes={"slope": looks(slopes(1.0, 0.03), slopes(-0.01, 0.03))}).first_step == 10


# --- FM09 -----------------------------------------------------------------------------------------------------------------


def rates(passed: list[int], k: int = 8) -> pd.DataFrame:
    return pd.DataFrame({"prompt": [f"p{i}" for i in range(len(passed))], "k": k, "passed": passed, "tokens": 100, "cut": 0})


def test_fm09_tokens_of_prompts_that_are_always_or_never_solved() -> None:
    assert level("FM09", probes={"pass_rates": rates([0, 8, 3, 4, 5, 1, 2, 7, 4, 4])}) == "silent"
    finding = found("FM09", probes={"pass_rates": rates([0] * 6 + [8] * 2 + [3, 4])})
    assert (finding.level, finding.value) == ("red", 0.8)
    assert finding.evidence["passed.0"] == 6
    assert level("FM09", probes={"pass_rates": rates([0] * 13 + [4] * 7)}) == "amber"
    assert level("FM09", probes={"pass_rates": rates([0] * 10, k=4)}) == "not_measured"
    assert level("FM09", probes={"pass_rates": looks(rates([4] * 10), rates([8] * 10))}) == "silent"  # learned, not collapsed


# --- FM11 -----------------------------------------------------------------------------------------------------------------


def rescues(teacher: float, student: float, answers: int = 120, n: int = 4, gap: tuple[float, float] = (1.0, 0.2)) -> pd.DataFrame:
    rows = []
    for fraction in (0.25, 0.5, 0.75):
        for i in range(answers):
            rescued = 1.0 if i < teacher * answers else 0.0
            rows.append({
                "answer": i, "prompt": f"p{i}", "fraction": fraction, "given": int(20 * fraction), "length": 20, "n": n if fraction == 0.5 else 1,
                "teacher": rescued, "student": student, "teacher_all": gap[0], "student_all": gap[1], "teacher_entropy": 0.1, "own_entropy": 0.1,
            })  # fmt: skip
    return pd.DataFrame(rows)


def test_fm11_the_gain_at_half_an_answer_with_its_interval() -> None:
    finding = found("FM11", probes={"rescue": rescues(0.5, 0.1)})
    assert finding.level == "silent"
    assert finding.value == pytest.approx((0.5 - 0.1) / 0.8)
    assert (finding.evidence["tokens_behind"], finding.evidence["n"]) == (0.5, 480)
    assert level("FM11", probes={"rescue": rescues(0.0, 0.0)}) == "red"  # 3 in 480 over a gap of 0.8 is the upper end
    assert level("FM11", probes={"rescue": rescues(0.025, 0.0)}) == "amber"
    assert found("FM11", probes={"rescue": rescues(0.0, 0.0, answers=60)}).reason == "240 continuations behind failing beginnings; 400 are needed"
    assert "nothing to rescue" in found("FM11", probes={"rescue": rescues(0.0, 0.0, gap=(0.3, 0.28))}).reason


# --- FM14 -----------------------------------------------------------------------------------------------------------------


def answered(student: float, teacher: float, n: int = 400, own: bool = False) -> pd.DataFrame:
    right = (np.arange(n) < round(student * n)).astype(float)
    return pd.DataFrame({"prompt": [f"p{i}" for i in range(n)], "student": right, "teacher": (np.arange(n) < round(teacher * n)).astype(float), "own": own})


def test_fm14_gap_recovery_with_its_interval() -> None:
    finding = found("FM14", probes={"recovery": looks(answered(0.3, 0.9), answered(0.8, 0.9))})
    assert (finding.level, finding.value) == ("silent", pytest.approx(5 / 6))
    assert level("FM14", probes={"recovery": looks(answered(0.3, 0.9), answered(0.5, 0.9))}) == "amber"
    assert level("FM14", probes={"recovery": looks(answered(0.3, 0.9), answered(0.3, 0.9))}) == "red"
    assert level("FM14", probes={"recovery": looks(answered(0.5, 0.9), answered(0.2, 0.9))}) == "red"  # regression
    assert level("FM14", probes={"recovery": answered(0.3, 0.9)}) == "not_measured"
    assert "in a context" in found("FM14", probes={"recovery": looks(answered(0.3, 0.9, own=True), answered(0.3, 0.9, own=True))}).reason


def test_fm14_without_a_gap_the_raw_change_decides_and_few_items_decide_nothing() -> None:
    assert level("FM14", probes={"recovery": looks(answered(0.5, 0.5), answered(0.5, 0.5))}) == "red"
    assert level("FM14", probes={"recovery": looks(answered(0.5, 0.5), answered(0.7, 0.5))}) == "silent"
    rng = np.random.default_rng(0)
    before, after = answered(0.4, 0.9, n=12), answered(0.4, 0.9, n=12)
    after["student"] = rng.permutation(after["student"])
    assert level("FM14", probes={"recovery": looks(before, after)}) == "not_measured"


# --- FM17 -----------------------------------------------------------------------------------------------------------------


def confident(confidence: float, accuracy: float, told: float = 0.2, n: int = 400, stated: float | None = None) -> pd.DataFrame:
    """Confidence `told` higher on right answers than on wrong ones, `confidence` on average."""
    right = (np.arange(n) % 100 < 100 * accuracy).astype(float)
    value = confidence + told * (right - accuracy) + np.tile([-0.05, 0.05], n // 2)
    return pd.DataFrame({
        "prompt": [f"p{i // 4}" for i in range(n)], "correct": right, "tokens": 10, "agreement": value if stated is None else 0.5, "likelihood": 0.9,
        "stated": np.nan if stated is None else stated + value * 0,
    })  # fmt: skip


def test_fm17_confidence_that_outgrows_accuracy() -> None:
    start = confident(0.3, 0.3)
    assert level("FM17", probes={"calibration": looks(start, confident(0.8, 0.8))}) == "silent"
    finding = found("FM17", probes={"calibration": looks(start, confident(0.9, 0.4))})
    assert (finding.level, finding.first_step) == ("red", 10)
    assert finding.value == pytest.approx(0.5, abs=0.01)
    assert level("FM17", probes={"calibration": looks(confident(0.9, 0.3), confident(0.9, 0.3))}) == "silent"  # it was so before
    assert level("FM17", probes={"calibration": looks(start, confident(0.8, 0.8, told=0.0))}) == "red"  # blind: AUROC 0.5


def test_fm17_statements_are_held_against_statements() -> None:
    silent, says = confident(0.3, 0.3), confident(0.9, 0.3, stated=0.9)
    says["stated"] = 0.9 + 0.05 * (says["correct"] - 0.5)
    finding = found("FM17", probes={"calibration": looks(silent, says, says)})
    assert finding.level == "silent"
    assert "stated" in finding.reason


# --- FM18, FM19 -----------------------------------------------------------------------------------------------------------


def informed(true: float, other: float, accuracy: float, n: int = 100) -> pd.DataFrame:
    noise = np.tile([-0.01, 0.01], n // 2)
    return pd.DataFrame({
        "prompt": [f"p{i}" for i in range(n)], "tokens": 10, "kl_true": true + noise, "kl_shuffled": other,
        "correct": (np.arange(n) < accuracy * n).astype(float),
    })  # fmt: skip


def test_fm18_a_hidden_context_that_no_student_can_know() -> None:
    start = informed(1.0, 2.0, 0.5)
    falling = looks(start, informed(0.7, 2.0, 0.3), informed(0.5, 2.0, 0.1))
    assert level("FM18", probes={"privileged": falling}) == "red"
    assert level("FM18", probes={"privileged": looks(start, informed(0.2, 2.0, 0.6), informed(0.2, 2.0, 0.7))}) == "amber"  # a floor, and no harm
    assert level("FM18", probes={"privileged": looks(start, informed(0.3, 2.0, 0.6), informed(0.1, 2.0, 0.7), informed(0.1, 2.0, 0.7))}) == "silent"
    shared = looks(informed(1.0, 1.0, 0.5), informed(0.7, 0.7, 0.3), informed(0.5, 0.5, 0.1))
    assert level("FM18", probes={"privileged": shared}) == "silent"  # a rule that all prompts share
    assert "changes nothing" in found("FM18", probes={"privileged": informed(0.0, 0.0, 0.5).assign(kl_true=0.0)}).reason


def doubts(per_hundred: float, longer: float, n: int = 100) -> pd.DataFrame:
    usual = pd.DataFrame({"split": "usual", "prompt": [f"p{i}" for i in range(n)], "tokens": 100, "markers": per_hundred, "correct": 1.0})
    return pd.concat([usual, usual.assign(split="longer", correct=(np.arange(n) < longer * n).astype(float))])


def test_fm19_words_of_doubt_that_disappear() -> None:
    start = doubts(4.0, 0.6)
    assert level("FM19", probes={"markers": looks(start, doubts(3.5, 0.6))}) == "silent"
    assert level("FM19", probes={"markers": looks(start, doubts(2.5, 0.6))}) == "amber"
    assert level("FM19", probes={"markers": looks(start, doubts(0.5, 0.6))}) == "amber"  # longer prompts have not suffered
    assert level("FM19", probes={"markers": looks(start, doubts(0.5, 0.2))}) == "red"
    assert level("FM19", probes={"markers": looks(doubts(0.1, 0.6), doubts(0.0, 0.2))}) == "not_measured"


# --- FM21, FM22 -----------------------------------------------------------------------------------------------------------


def parsed(now: float, planned: float, drawn: dict[float, float] | None = None, n: int = 400) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [{"law": "student", "scale": np.nan, "valid": now, "right": 0.5, "n": n, "planned": planned, "flip": np.nan}]
    rows += [{"law": "extrapolated", "scale": s, "valid": v, "right": 0.5, "n": n, "planned": planned, "flip": 1.4} for s, v in (drawn or {}).items()]
    return pd.DataFrame(rows)


def test_fm21_form_lost_beyond_a_scale() -> None:
    flat, broken = {1.0: 1.0, 1.5: 1.0, 2.0: 0.99}, {1.0: 1.0, 1.5: 0.9, 2.0: 0.4}
    assert level("FM21", probes={"parse": looks(parsed(0.94, 1.5, flat), parsed(0.99, 1.5))}) == "silent"
    assert level("FM21", probes={"parse": looks(parsed(0.99, 1.5, flat), parsed(0.7, 1.5))}) == "red"
    assert level("FM21", probes={"parse": looks(parsed(0.99, 1.5, flat), parsed(0.955, 1.5, n=4000))}) == "amber"
    assert found("FM21", probes={"parse": looks(parsed(0.99, 1.4, broken), parsed(0.99, 1.4))}).first_step == 0  # predicted, at 0.93 of the onset
    assert level("FM21", probes={"parse": looks(parsed(0.99, 1.2, broken), parsed(0.99, 1.2))}) == "silent"
    assert level("FM21", probes={"parse": looks(parsed(0.8, 1.5, {1.0: 0.8}), parsed(0.8, 1.5))}) == "silent"  # the base parsed no better
    assert "does not extrapolate" in found("FM21", probes={"parse": looks(parsed(0.9, 1.0), parsed(0.1, 1.0))}).reason


def scored(verifier: float, length: float, n: int = 400) -> pd.DataFrame:
    """A score with these correlations, about, with the verifier and with the length, which are independent."""
    rng = np.random.default_rng(3)
    right, long = (np.arange(n) % 2).astype(float), rng.permutation(n).astype(float)
    rest = max(1.0 - verifier**2 - length**2, 0.0)
    score = verifier * (right - 0.5) / 0.5 + length * (long - long.mean()) / long.std() + rest**0.5 * rng.standard_normal(n)
    return pd.DataFrame({"prompt": [f"p{i}" for i in range(n)], "correct": right, "length": long, "punctuation": 1, "score.d": score})


def test_fm22_a_score_that_leaves_the_verifier_or_follows_the_length() -> None:
    assert level("FM22", probes={"scores": looks(scored(0.7, 0.0), scored(0.65, 0.1))}) == "silent"
    assert level("FM22", probes={"scores": looks(scored(0.7, 0.0), scored(0.48, 0.0))}) == "amber"
    assert level("FM22", probes={"scores": looks(scored(0.7, 0.0), scored(0.1, 0.0))}) == "red"
    assert level("FM22", probes={"scores": looks(scored(0.1, 0.0), scored(-0.3, 0.0))}) == "silent"  # never went with the verifier
    assert level("FM22", probes={"scores": looks(scored(0.2, 0.1), scored(0.1, 0.85))}) == "amber"
    assert level("FM22", probes={"scores": looks(scored(0.2, 0.8), scored(0.2, 0.85))}) == "silent"  # was so from the first
    assert level("FM22", probes={"scores": scored(0.7, 0.0).assign(correct=1.0)}) == "not_measured"


# --- FM27, FM28 -----------------------------------------------------------------------------------------------------------


def pulls(between: float, own: float = 0.8) -> pd.DataFrame:
    rows = [("a", "a", own), ("b", "b", own), ("a", "b", between)]
    return pd.DataFrame([{"left": left, "right": right, "cosine": cosine, "answers": 100} for left, right, cosine in rows])


def calls(late: float, n: int = 200) -> pd.DataFrame:
    rows = [{"stream": "main", "dialogue": d, "turn": t, "last": t == 2, "call": True, "valid": t < 2 or d < late * n} for d in range(n) for t in range(3)]
    return pd.DataFrame(rows)


def test_fm27_teachers_against_each_other_and_calls_in_late_turns() -> None:
    assert level("FM27", probes={"conflict": pulls(0.5)}) == "silent"
    assert level("FM27", probes={"conflict": pulls(-0.05)}) == "amber"
    assert level("FM27", probes={"conflict": pulls(-0.5)}) == "red"
    assert level("FM27", probes={"conflict": pulls(-0.5, own=0.02)}) == "not_measured"  # each does not even agree with itself
    assert level("FM27", probes={"turns": looks(calls(0.9), calls(0.88))}) == "silent"
    assert level("FM27", probes={"turns": looks(calls(0.9), calls(0.4))}) == "red"
    assert found("FM27").level == "not_measured"


def states(right: float, wrong: float, update: float, n: int = 60) -> pd.DataFrame:
    """Cosines of 1 and -1 with these means; every state's outcome varies."""
    rows = []
    for correct, mean in ((True, right), (False, wrong)):
        for i in range(n):
            cosine = 1.0 if i < (1 + mean) / 2 * n else -1.0
            rows.append({"prompt": f"p{i}", "position": i, "correct": correct, "advantage": -1.0, "spread": 0.5, "beyond_chance": True, "cosine": cosine,
                         "update_correct": update, "n": 16})  # fmt: skip
    return pd.DataFrame(rows)


def test_fm28_update_on_right_answers_that_says_nothing() -> None:
    assert level("FM28", probes={"forced": states(0.6, 0.6, 0.8)}) == "silent"
    finding = found("FM28", probes={"forced": states(-0.4, 0.6, 0.8)})
    assert (finding.level, finding.value) == ("red", pytest.approx(-0.4))
    assert level("FM28", probes={"forced": states(-0.4, 0.6, 0.4)}) == "amber"
    assert level("FM28", probes={"forced": states(-0.4, 0.6, 0.1)}) == "silent"
    assert level("FM28", probes={"forced": states(0.6, 0.6, 0.8).assign(beyond_chance=False)}) == "red"  # nothing that is forced matters
    assert level("FM28", probes={"forced": states(-0.4, 0.6, 0.8, n=20)}) == "not_measured"


def test_fm28_reads_the_update_from_the_run_where_it_was_logged() -> None:
    probes = {"forced": states(-0.4, 0.6, 0.8)}
    tokens = token_frame(value=1.0, weight=lambda f: (f["rollout"] >= 2).astype(float))
    rollouts = rollout_frame(correct=lambda f: (f["rollout"] < 2).astype(float))
    assert level("FM28", probes=probes, tokens=tokens, rollouts=rollouts) == "silent"  # right answers are gated out
    rollouts["correct"] = 1.0 - rollouts["correct"]
    assert found("FM28", probes=probes, tokens=tokens, rollouts=rollouts).evidence["update_correct"] == 1.0
