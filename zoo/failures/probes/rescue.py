"""The rescue gain: does the teacher still succeed behind a beginning with which the student fails (FM11)?

    G(f) = success(teacher goes on from the first f of a failing answer) - success(student goes on from there)

on failing answers alone, since a beginning that leads to success needs no rescue. It is read relative to what there is to gain, the teacher's
success on the same prompts less the student's. Source: catalogue FM11 with 5.4; the figures that it quotes are of 2604.13016.
"""

from __future__ import annotations

import pandas as pd

from zoo.failures.logs import NotMeasured
from zoo.failures.probes.scene import Reader, Scene, Texts

DECIDING = 0.5  # the median supervised position, measured with all continuations
FRACTIONS = (0.25, DECIDING, 0.75)


def rescue(scene: Scene) -> pd.DataFrame:
    """One row for each failing answer and share f of it that is given: `answer`, `prompt`, `fraction`, `given` and `length` in tokens, `n`
    continuations of each side, `teacher` and `student` success; `teacher_all` and `student_all` are both sides' success on all the probe's
    prompts, and `teacher_entropy` and `own_entropy` the teacher's mean entropy in the last tenth of this answer and of its own answers."""
    teacher, answers, right = scene.needs_teacher(), scene.answers(), scene.verdicts()
    failing = [i for i, ok in enumerate(right) if not ok and len(answers.ids[i]) > 1]
    if not failing:
        raise NotMeasured("every answer of the probe is right")
    step = max(len(failing) / scene.sizes.failing, 1.0)
    failing = [failing[int(k * step)] for k in range(min(len(failing), scene.sizes.failing))]
    chosen = answers.rows(failing)
    prompts = scene.prompts("train", scene.sizes.prompts)
    own = scene.write(teacher, prompts, "own", group=max(scene.sizes.rollouts // 2, 1))
    success = {"teacher_all": _mean(scene.right(own)), "student_all": _mean(right)}
    entropy, base = _late_entropy(scene, teacher, chosen), _late_entropy(scene, teacher, own)
    found = []
    for fraction in FRACTIONS:
        heads, n = [ids[: int(fraction * len(ids))] for ids in chosen.ids], scene.sizes.continuations if fraction == DECIDING else 1
        sides = {side: _success(scene, reader, chosen, heads, n, side) for side, reader in (("teacher", teacher), ("student", scene.student))}
        for k, head in enumerate(heads):
            found.append({
                "answer": failing[k], "prompt": chosen.prompts[k].id, "fraction": fraction, "given": len(head), "length": len(chosen.ids[k]), "n": n,
                **{side: values[k] for side, values in sides.items()}, **success, "teacher_entropy": entropy[k], "own_entropy": _mean(list(base.values())),
            })  # fmt: skip
    return pd.DataFrame(found)


def _success(scene: Scene, reader: Reader, chosen: Texts, heads: list[tuple[int, ...]], n: int, side: str) -> list[float]:
    """The share of n continuations of each head that are right. Heads that several answers share get noise of their own by their place."""
    prompts = [type(p)(f"{p.id}/{k}", p.text, p.fields) for k, p in enumerate(chosen.prompts)]
    right = scene.right(scene.write(reader, prompts, "rescue", side, group=n, heads=heads))
    return [_mean(right[k * n : (k + 1) * n]) for k in range(len(heads))]


def _late_entropy(scene: Scene, reader: Reader, texts: Texts) -> dict[int, float]:
    """The reader's mean entropy in nats over the last tenth of each answer."""
    places = {row: range(int(0.9 * (len(ids) - 1)), len(ids)) for row, ids in enumerate(texts.ids)}
    sums: dict[int, list[float]] = {row: [] for row in places}
    for seen in scene.laws({"it": reader}, texts, places):
        logp_NV = seen.logp["it"]
        for row, value in zip(seen.row_N.tolist(), (-(logp_NV.exp() * logp_NV).sum(-1)).tolist(), strict=True):
            sums[row].append(value)
    return {row: _mean(values) for row, values in sums.items()}


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
