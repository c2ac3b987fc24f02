"""The form of answers, and the scale at which an extrapolated teacher breaks it (FM21).

A method that extrapolates by lambda drives each state to pi* ~ b (q/b)^lambda, b the reference, q the teacher: a law that can be sampled before any
training, by both models in lock step. Of two outcomes, with p the teacher's and b the reference's probability of a token on which the form hangs:

    p < b, b > 1/2:  the token loses its majority at  lambda = logit b / (logit b - logit p)
    p > b, log(pi / b) clipped at c:  the clip binds from (logit kappa - logit b) / (logit p - logit b), kappa = 1 - (1 - b) e^-c, and the pull
    back ends at (c - log b) / (logit p - logit b), where the mass runs to 1: harmful where the token is the wrong one.

Source: derived in the catalogue, FM21 with items 14 and 15 of 5.2 (1.43 for p = .80, b = .99; 1.194 and 1.2257 for p = .90, b = .50, c = 2); the
setting and the onset that it is compared with are those of 2605.08737.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from torch import Tensor

from zoo.components.rewards import Contrast
from zoo.components.rollouts.base import Choice, Logits, State, constant_author
from zoo.components.rollouts.decoded import Student
from zoo.components.rollouts.sampling import sample_from
from zoo.components.targets import Extrapolate
from zoo.entry import MethodEntry
from zoo.failures.logs import NotMeasured
from zoo.failures.probes.ends import gold
from zoo.failures.probes.scene import Reader, Scene
from zoo.harness.decode import by_length
from zoo.harness.pieces import requests
from zoo.method import Method
from zoo.seeds import uniforms

GRID = (1.0, 1.25, 1.5, 2.0)


def logit(p: float) -> float:
    """log p - log(1 - p)."""
    return math.log(p) - math.log1p(-p)


def flip(p: float, b: float) -> float:
    """The scale at which a token that the reference prefers (b > 1/2) and the teacher likes less (p < b) loses its majority; inf where none does."""
    return logit(b) / (logit(b) - logit(p)) if p < b and b > 0.5 else math.inf


def binding(p: float, b: float, clip: float) -> tuple[float, float]:
    """The scales from which a clip of log(pi/b) at `clip` binds, and at which it no longer holds a token that the teacher prefers; inf for p <= b."""
    if p <= b:
        return math.inf, math.inf
    gap, kappa = logit(p) - logit(b), 1.0 - (1.0 - b) * math.exp(-clip)
    return (logit(kappa) - logit(b)) / gap, (clip - math.log(b)) / gap


def scale_of(entry: MethodEntry, progress: float = 0.0) -> float:
    """How far an entry extrapolates its teacher away from a base: the largest lambda of its targets and rewards, 1 where none does."""
    entry = Method(entry, progress).entry
    found = [1.0]
    found += [float(t.target.lam) for t in entry.teachers.values() if isinstance(t.target, Extrapolate)]  # type: ignore[arg-type]
    rewards: list[Any] = [*entry.rewards.values()]
    for term in entry.objective:
        rewards += [each.reward for each in getattr(term, "advantages", tuple)() if not isinstance(each.reward, str)]
    for reward in rewards:
        if isinstance(reward, Contrast) and reward.map == "log" and float(reward.of.get("reference", 0.0)) < 0:  # type: ignore[arg-type]
            found += [float(value) for name, value in reward.of.items() if name not in ("student", "reference", "behaviour")]  # type: ignore[arg-type]
    return max(found)


class _Extrapolated(Student):
    """q^lambda b^(1 - lambda), normalised, token by token."""

    scale: float = 1.0
    by: str = "teacher"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student", self.by)

    def choose(self, state: State, logits: Logits, uniform_UB: Tensor) -> tuple[Choice, State]:
        law_BV = self.scale * logits[self.by].log_softmax(-1) + (1.0 - self.scale) * logits["student"].log_softmax(-1)
        draw = sample_from(law_BV, uniform_UB[0])
        return Choice(draw.token_B, constant_author("student", draw.token_B), draw.behaviour_logp_B), state


def parse(scene: Scene) -> pd.DataFrame:
    """One row a measurement: `law` (student: answers as they are; extrapolated: texts drawn from pi* at `scale`, before training), `valid` share
    of n texts in the form that the task asks for, `right` share, `planned` scale of the method, and `flip`, the smallest scale at which a state of
    the given solutions loses its likeliest token, by the two-outcome formula."""
    if "format" not in scene.pair.task.checks:
        raise NotMeasured("the task has no check 'format'")
    answers, planned = scene.answers(), 1.0 if scene.entry is None else scale_of(scene.entry, scene.progress)
    valid = scene.right(answers, "format")
    rows: list[dict[str, Any]] = [
        {
            "law": "student",
            "scale": float("nan"),
            "valid": _mean(valid),
            "right": _mean(scene.verdicts()),
            "n": len(valid),
            "planned": planned,
            "flip": math.nan,
        }
    ]
    if scene.progress == 0.0 and scene.teacher is not None and (planned > 1.0 or scene.entry is None):
        teacher = scene.needs_teacher()
        lowest = _lowest_flip(scene, teacher)
        for scale in sorted({*GRID, planned}):
            texts = _drawn(scene, teacher, scale)
            form, right = ([scene.pair.verify(check, text, prompt) for text, prompt in texts] for check in ("format", scene.check))
            rows.append(
                {"law": "extrapolated", "scale": scale, "valid": _mean(form), "right": _mean(right), "n": len(form), "planned": planned, "flip": lowest}
            )
    return pd.DataFrame(rows)


def _drawn(scene: Scene, teacher: Reader, scale: float) -> list[tuple[str, Any]]:
    """Texts from the extrapolated law, the student as the reference: the same noise at every scale."""
    prompts = scene.prompts("valid", 4 * scene.sizes.prompts)
    wanted = requests(prompts, 1, (*scene.axes, "cliff"))
    policy = _Extrapolated(scale=scale, by=teacher.name)
    shown = {reader.name: [scene.shown(reader, prompt) for prompt in prompts] for reader in (scene.student, teacher)}
    found: list[Any] = [None] * len(prompts)
    for chunk in by_length(shown["student"], scene.sizes.decode_batch):
        uniform_TUB = uniforms([wanted[i].seed for i in chunk], scene.new_tokens).T[:, None]
        written = scene.writers.write(policy, {name: [rows[i] for i in chunk] for name, rows in shown.items()}, uniform_TUB, score_student=False)
        for i, ids, count in zip(chunk, written.response_BT.tolist(), written.mask_BT.sum(1).tolist(), strict=True):
            found[i] = scene.text(ids[:count])
    return list(zip(found, prompts, strict=True))


def _lowest_flip(scene: Scene, teacher: Reader) -> float:
    """Over the states of the given solutions: the smallest scale at which the token that is written there loses its majority."""
    texts, lowest = gold(scene, scene.prompts("valid", scene.sizes.prompts)), math.inf
    for seen in scene.laws({"b": scene.student, "p": teacher}, texts) if len(texts) else ():
        b_N, p_N = (seen.written_N(name).double().exp().clamp(1e-12, 1 - 1e-12).tolist() for name in ("b", "p"))
        lowest = min([lowest, *(flip(p, b) for p, b in zip(p_N, b_N, strict=True))])
    return lowest


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
