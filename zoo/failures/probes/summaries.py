"""From a probe's frame to the numbers that alarms are about: pure functions over the rows of one look. Intervals are 95 %, clustered by prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as distributions

from zoo.failures.logs import NotMeasured

Z = 1.96


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error over clusters, of n rows; `floor` keeps the error above 0 where nothing varied."""

    value: float
    stderr: float
    n: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.value - Z * self.stderr

    @property
    def high(self) -> float:
        """Upper end."""
        return self.value + Z * self.stderr


def looks(frame: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """The looks of a run in order; a frame without steps is one look at step 0."""
    if "step" not in frame:
        yield 0, frame
        return
    for step, part in frame.groupby("step", sort=True):
        yield int(step), part  # type: ignore[arg-type]


def clustered(values: pd.Series, clusters: pd.Series) -> Mean:
    """The mean of the rows, its error from the clusters' sums of residuals: sqrt(C / (C - 1) sum_c r_c^2) / n. Where nothing varies the error is
    that of 3 in n (the rule of three), over the interval's 1.96."""
    n = len(values)
    if n == 0:
        return Mean(math.nan, math.nan, 0)
    mean = float(values.mean())
    sums = (values - mean).groupby(clusters.to_numpy()).sum().to_numpy(float)
    stderr = math.sqrt(len(sums) / max(len(sums) - 1, 1) * float((sums**2).sum())) / n
    return Mean(mean, max(stderr, 3.0 / n / Z if stderr == 0 else 0.0), n)


@dataclass(frozen=True)
class Rescue:
    """The relative rescue gain at the deciding fraction; `tokens` is the share of the failing answers' tokens behind it."""

    gain: Mean
    fraction: float
    tokens: float
    n: int
    gap: float


def rescue_gain(look: pd.DataFrame, behind: float = 0.4, gap_least: float = 0.05) -> Rescue:
    """(teacher - student) behind failing beginnings, over the teacher's success less the student's on all prompts, at the latest fraction that has
    more than `behind` of the tokens after it. `n` counts continuations of one side."""
    gap = float(look["teacher_all"].iloc[0] - look["student_all"].iloc[0])
    if gap < gap_least:
        raise NotMeasured(f"the teacher succeeds {gap:+.2f} more often than the student: there is nothing to rescue")
    left = {fraction: 1.0 - float(part["given"].sum() / part["length"].sum()) for fraction, part in _fractions(look)}
    late = [fraction for fraction, share in left.items() if share > behind]
    if not late:
        raise NotMeasured(f"no beginning was tried that leaves more than {behind:.0%} of the tokens")
    fraction = max(late)
    part = look[look["fraction"] == fraction]
    found = clustered(part["teacher"] - part["student"], part["prompt"])
    n = int(part["n"].sum())
    stderr = max(found.stderr, 3.0 / n / Z)
    return Rescue(Mean(found.value / gap, stderr / gap, found.n), float(fraction), left[fraction], n, gap)


def _fractions(look: pd.DataFrame) -> Iterator[tuple[float, pd.DataFrame]]:
    for fraction in sorted(look["fraction"].unique()):
        yield float(fraction), look[look["fraction"] == fraction]


@dataclass(frozen=True)
class Stops:
    """Mean stop mass of both sides at the ends of answers, and how far they disagree on the token (NaN where a side does not stop)."""

    student: float
    teacher: float
    mismatch: float
    tokens: dict[str, tuple[float, float]]


def stop_mass(look: pd.DataFrame, least: float = 0.05) -> Stops:
    """mismatch = 1 - sum_e min(p(e) / S_p, q(e) / S_q), of mean probabilities, where S_p and S_q are above `least`; behind given solutions where
    there are any, else behind the student's own answers."""
    look = look[look["source"] == "given"] if (look["source"] == "given").any() else look
    mean = look.groupby("name")[["student", "teacher"]].mean()
    p, q = mean["student"].to_numpy(float), mean["teacher"].to_numpy(float)
    mass_p, mass_q = float(p.sum()), float(q.sum())
    mismatch = 1.0 - float(np.minimum(p / mass_p, q / mass_q).sum()) if min(mass_p, mass_q) > least else math.nan
    return Stops(mass_p, mass_q, mismatch, {str(name): (float(a), float(b)) for name, a, b in zip(mean.index, p, q, strict=True)})


def auroc(score: pd.Series, right: pd.Series) -> float:
    """P(score of a right answer > score of a wrong one), ties counting half; NaN where there is one class only."""
    positive = right.to_numpy(float) > 0.5
    good, bad = int(positive.sum()), int((~positive).sum())
    if not good or not bad:
        return math.nan
    ranks = distributions.rankdata(score.to_numpy(float))
    return float((ranks[positive].sum() - good * (good + 1) / 2) / (good * bad))


def pairs_right(score: pd.Series, right: pd.Series) -> float:
    """SPR: the same with ties counted 0."""
    positive = right.to_numpy(float) > 0.5
    good, bad = score.to_numpy(float)[positive], score.to_numpy(float)[~positive]
    return float((good[:, None] > bad[None, :]).mean()) if len(good) and len(bad) else math.nan


@dataclass(frozen=True)
class Calibration:
    """Mean confidence and accuracy of one look, and whether confidence tells right from wrong."""

    confidence: Mean
    accuracy: Mean
    gap: Mean
    auroc: float
    spr: float
    ece: float
    measure: str
    right: int
    wrong: int


def calibration_of(look: pd.DataFrame, bins: int = 10) -> Calibration:
    """OCG = mean confidence - accuracy; the confidence is what answers state where half of them state any, else their agreement."""
    measure = "stated" if look["stated"].notna().mean() >= 0.5 else "agreement"
    look = look.dropna(subset=[measure])
    confidence, right = look[measure], look["correct"]
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    ece = sum(len(part) / len(look) * abs(float(part["correct"].mean() - part[measure].mean())) for _, part in look.groupby(bin_of))
    good = int((right > 0.5).sum())
    return Calibration(
        clustered(confidence, look["prompt"]), clustered(right, look["prompt"]), clustered(confidence - right, look["prompt"]),
        auroc(confidence, right), pairs_right(confidence, right), ece, measure, good, len(look) - good,
    )  # fmt: skip


@dataclass(frozen=True)
class Recovery:
    """GRR = (after - before) / (teacher - before) over the same items: a ratio of means, linearised; `gap` is the denominator, `change` the numerator."""

    ratio: Mean
    change: Mean
    gap: Mean


def recovery_of(before: pd.DataFrame, after: pd.DataFrame) -> Recovery:
    """From two looks on the same prompts; the ratio is NaN where the gap is within two standard errors of 0."""
    both = before[["prompt", "student", "teacher"]].merge(after[["prompt", "student"]], on="prompt", suffixes=("", "_after"))
    if both.empty:
        raise NotMeasured("the two looks have no prompt in common")
    item = both["prompt"]
    change, gap = both["student_after"] - both["student"], both["teacher"] - both["student"]
    top, bottom = clustered(change, item), clustered(gap, item)
    if not bottom.value > 2 * bottom.stderr:
        return Recovery(Mean(math.nan, math.nan, len(both)), top, bottom)
    ratio = top.value / bottom.value
    return Recovery(Mean(ratio, clustered((change - ratio * gap) / bottom.value, item).stderr, len(both)), top, bottom)


def correlation(left: pd.Series, right: pd.Series) -> float:
    """Pearson's; NaN where one of them is constant."""
    a, b = left.to_numpy(float), right.to_numpy(float)
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and a.std() > 0 and b.std() > 0 else math.nan


def success_cosine(look: pd.DataFrame, correct: bool) -> Mean:
    """Mean c_t over the states of right or of wrong answers; states whose S does not vary beyond chance count as 0."""
    part = look[look["correct"] == correct]
    return clustered(part["cosine"].where(part["beyond_chance"], 0.0), part["prompt"])


def outside(look: pd.DataFrame) -> float:
    """Share of the supervised tokens that stand in answers to prompts which all of the K answers solve, or none."""
    all_or_none = (look["passed"] == 0) | (look["passed"] == look["k"])
    return float(look.loc[all_or_none, "tokens"].sum() / max(look["tokens"].sum(), 1))
