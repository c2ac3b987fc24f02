"""What a teacher's hidden context adds, against another prompt's context of the same shape (FM18).

    D_true = mean KL(p || q(. | own context))        D_shuffled = mean KL(p || q(. | another prompt's context))

in nats a token on the student's answers. Where the two are alike, the context says nothing about this prompt, as a rule shared by all does; where
D_true stays far from 0, the student can only match the mixture over contexts.
"""

from __future__ import annotations

import pandas as pd

from zoo.failures.logs import NotMeasured
from zoo.failures.probes.ends import reveals
from zoo.failures.probes.scene import Reader, Scene, Texts
from zoo.harness.leakage import shuffled
from zoo.statistics import kl_NV

EACH = 2  # answers a prompt


def privileged(scene: Scene) -> pd.DataFrame:
    """One row an answer that has another prompt's context beside it: `prompt`, `tokens`, `kl_true`, `kl_shuffled` in nats a token, `correct`."""
    teacher = scene.needs_teacher()
    if teacher.context is None or not reveals(teacher, scene.prompts("train", scene.sizes.prompts)):
        raise NotMeasured("no teacher of this method sees more than the prompt")
    k = scene.sizes.rollouts
    index = [i for i in range(len(scene.answers())) if i % k < EACH]
    texts, right = scene.answers().rows(index), [scene.verdicts()[i] for i in index]
    swapped, kept_B = shuffled(scene.rollout(texts), teacher.context)
    other = Texts(swapped.prompts, texts.ids, texts.finished, texts.logp, texts.given)
    true, false = _divergence(scene, teacher, texts, texts), _divergence(scene, teacher, texts, other)
    rows = [
        {"prompt": texts.prompts[i].id, "tokens": len(texts.ids[i]), "kl_true": true[i], "kl_shuffled": false[i], "correct": right[i]}
        for i in range(len(texts))
        if bool(kept_B[i])
    ]
    if not rows:
        raise NotMeasured("no prompt has a context with another one beside it")
    return pd.DataFrame(rows)


def _divergence(scene: Scene, teacher: Reader, texts: Texts, behind: Texts) -> list[float]:
    """Mean KL(student || teacher) of each answer; the teacher reads the prompts of `behind`."""
    sums = [0.0] * len(texts)
    own, theirs = (scene.laws({"it": reader}, each) for reader, each in ((scene.student, texts), (teacher, behind)))
    for one, other in zip(own, theirs, strict=True):
        for row, value in zip(one.row_N.tolist(), kl_NV(one.logp["it"], other.logp["it"]).double().tolist(), strict=True):
            sums[row] += value
    return [total / max(len(ids), 1) for total, ids in zip(sums, texts.ids, strict=True)]
