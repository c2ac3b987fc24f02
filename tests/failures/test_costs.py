"""FM24, FM25, FM26 and FM29 on frames made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .kit import found, level, rollout_frame, token_frame


def scores(lost: int, count: int = 200, tasks: int = 1, family: str = "retention") -> dict[str, Any]:
    """Items that were all right before; `lost` of them are wrong after, and as many as won't matter stay."""
    right = np.arange(count) % 4 > 0
    part = pd.DataFrame({"family": family, "item": range(count), "before": right, "after": right & (np.arange(count) >= lost)})
    frames = [part.assign(task=f"t{i}") if i == 0 else part.assign(task=f"t{i}", after=part["before"]) for i in range(tasks)]
    return {"probes": {"evaluation": pd.concat(frames).astype({"before": float, "after": float})}, "info": {"pair": "micro"}}


def test_forgetting_by_paired_scores() -> None:
    assert [level("FM24", **scores(lost)) for lost in (0, 3, 40)] == ["silent", "amber", "red"]
    assert level("FM24", **scores(3, tasks=6)) == "silent"  # one of six, at one and a half standard errors
    assert level("FM24", **scores(40, family="in_distribution")) == "not_measured"
    assert level("FM24", info={"pair": "micro"}) == "not_measured"


def copies(rise: float) -> dict[str, Any]:
    frame = token_frame(6, 24, 5, logp_student=lambda f: -0.1 - np.where(f["rollout"] >= 8, rise, -0.1) * (f["step"] - 1) / 50 - 0.01 * (f["rollout"] % 3))
    return {"probes": {"fixed": frame.assign(domain=np.where(frame["rollout"] >= 8, "copy", "add"), kl=0.1)}, "info": {"pair": "micro"}}


def test_forgetting_by_the_likelihood_of_other_texts() -> None:
    assert [level("FM24", **copies(rise)) for rise in (-0.1, 0.0, 0.08, 0.5)] == ["silent", "silent", "amber", "red"]
    finding = found("FM24", **copies(0.5))
    assert finding.first_step == 21 and "copy" in finding.reason


def hard(share: float, late: float = 2.0) -> dict[str, Any]:
    """A share of 200 positions that starts at 2 nats and goes to `late`; the others fall from 1 to 0.1."""
    rock = lambda f: (f["rollout"] * 50 + f["position"]) < 200 * share  # noqa: E731
    kl = lambda f: np.where(rock(f), np.where(f["step"] > 1, late, 2.0), np.where(f["step"] > 1, 0.1, 1.0))  # noqa: E731
    return {"probes": {"fixed": token_frame(kl=kl, domain="add")}}


def test_rock_tokens_are_those_that_stay() -> None:
    assert [level("FM25", **hard(share)) for share in (0.0, 0.02, 0.05, 0.09)] == ["silent", "silent", "amber", "red"]
    assert level("FM25", **hard(0.09, late=0.1)) == "silent"
    finding = found("FM25", **hard(0.09))
    assert finding.examples[0].note == "position 0: KL 2.00 nats" and finding.evidence["share_of_kl"] > 0.6
    assert level("FM25", probes={"fixed": hard(0.09)["probes"]["fixed"].query("step < 20")}) == "not_measured"
    assert level("FM25") == "not_measured"
    idle = hard(0.09)["probes"]["fixed"]
    assert level("FM25", probes={"fixed": idle.assign(kl=idle["kl"].where(idle["kl"] > 1.5, 1.0))}) == "silent"  # nothing else was learned


def test_tails_count_by_share_and_size() -> None:
    def tail(share: float, size: float = 0.5) -> pd.DataFrame:
        return token_frame(tail_share=share, kl_forward=size)

    assert [level("FM26", tokens=tail(share)) for share in (0.02, 0.15, 0.4)] == ["silent", "amber", "red"]
    assert level("FM26", tokens=tail(0.4, 0.01)) == "silent"  # nothing left to lose
    assert level("FM26", tokens=tail(0.4).head(100)) == "not_measured"
    assert level("FM26", tokens=tail(0.4).drop(columns="tail_share")) == "not_measured"


def read(failing: float, flexible: float = 0.0, **columns: Any) -> pd.DataFrame:
    """Hundred answers a step; some cannot be read, and of some only the flexible parser finds the answer."""
    place = lambda f: f["rollout"] / 100  # noqa: E731
    return rollout_frame(8, 100, **{"parsed": lambda f: (place(f) >= failing).astype(float), "correct": lambda f: (place(f) >= 0.5).astype(float),
                         "correct_flexible": lambda f: (place(f) >= 0.5 - flexible).astype(float), "cut": False, **columns})  # fmt: skip


def growing(share: float) -> Any:
    """Readable at first; later a share of answers is not."""
    return lambda f: ((f["rollout"] >= 100 * share) | (f["step"] < 41)).astype(float)


def test_artefacts_by_what_cannot_be_read_and_by_parser() -> None:
    assert [level("FM29", rollouts=read(0.0, parsed=growing(share))) for share in (0.0, 0.04, 0.1)] == ["silent", "amber", "red"]
    assert level("FM29", rollouts=read(0.1)) == "silent"  # a weak student's sampled answers, as they were at the start
    assert [level("FM29", rollouts=read(0.0, flexible)) for flexible in (0.01, 0.05, 0.2)] == ["silent", "amber", "red"]
    assert level("FM29", rollouts=read(0.0, parsed=growing(0.1), cut=lambda f: f["rollout"] < 10)) == "silent"  # those were cut off
    late = read(0.0, parsed=lambda f: ((f["rollout"] >= 10) | (f["step"] > 41)).astype(float))
    assert level("FM29", rollouts=late) == "silent"  # a student that learned the form
    assert level("FM29", rollouts=read(0.1, author="dataset")) == "not_measured"  # not the student's answers
    assert level("FM29", rollouts=read(0.1).drop(columns="parsed")) == "not_measured"
    probe = pd.DataFrame({"step": [0, 60], "law": "student", "valid": [0.99, 0.8], "n": 200})
    assert level("FM29", rollouts=read(0.0), probes={"parse": probe}) == "red"
    assert level("FM29") == "not_measured"
