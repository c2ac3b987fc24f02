"""Success after a forced token, and whether the distillation signal points the same way (FM28; catalogue B.5, item 4).

In a state s_t of an answer every one of the student's k most probable tokens v is forced in turn, and the student goes on from there m times: S_v is
the share that succeeds. With p the student's law on these k tokens, renormalised, w_v = log q_v - log p_v the log-ratio that reverse-KL
distillation rewards, and bars for means under p,

    c_t = cos( p (w - wbar), p (S - Sbar) ),

the cosine of two fields on the logits: 1 where distillation raises what succeeds, -1 where it raises what fails, and 0 where nothing that is
forced changes the outcome. Source: 2605.10889 through the catalogue; restricted to k tokens since S_v needs m texts for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo.failures.logs import NotMeasured
from zoo.failures.probes.columns import columns
from zoo.failures.probes.scene import Scene
from zoo.seeds import seed_for
from zoo.tensors import Prompt

K = 4
Array = NDArray[np.float64]


def cosines(student_logp_SK: Array, teacher_logp_SK: Array, success_SK: Array) -> Array:
    """c_t of each state; 0 where S or w is flat. The log-probabilities need not be normalised over the k tokens."""
    p_SK = np.exp(student_logp_SK - np.logaddexp.reduce(student_logp_SK, axis=1, keepdims=True))
    signal_SK, outcome_SK = (_field(p_SK, x_SK) for x_SK in (teacher_logp_SK - student_logp_SK, success_SK))
    size_S = np.linalg.norm(signal_SK, axis=1) * np.linalg.norm(outcome_SK, axis=1)
    dot_S = (signal_SK * outcome_SK).sum(1)
    return np.divide(dot_S, size_S, out=np.zeros_like(dot_S), where=size_S > 1e-12)


def beyond_chance(success_SK: Array, n: int) -> NDArray[np.bool_]:
    """Whether the best and the worst forced token of a state differ by more than 1.96 standard errors of two shares of n, each counted with one
    further success and failure (Agresti and Caffo 2000)."""
    high_S, low_S = ((n * extreme_S + 1) / (n + 2) for extreme_S in (success_SK.max(1), success_SK.min(1)))
    error_S = np.sqrt((high_S * (1 - high_S) + low_S * (1 - low_S)) / (n + 2))
    return np.asarray(high_S - low_S > 1.96 * error_S)


def _field(p_SK: Array, x_SK: Array) -> Array:
    return np.asarray(p_SK * (x_SK - (p_SK * x_SK).sum(1, keepdims=True)))


def forced(scene: Scene) -> pd.DataFrame:
    """One row a state: `prompt`, `position`, `correct` (the answer that it is taken from), the written token's log-ratio `advantage`, `spread` of
    S over the forced tokens and whether it is `beyond_chance`, `cosine`; and `update_correct`,
    the share of the sum of |A| that stands on right answers, over all answers."""
    teacher, answers, right = scene.needs_teacher(), scene.answers(), scene.verdicts()
    share, states = _states(scene, right)
    seen = _top(scene, teacher.name, states)
    heads, prompts = [], []
    for (row, position), (token_K, _, _, _) in seen.items():
        for token in token_K:
            heads.append((*answers.ids[row][:position], int(token)))
            prompts.append(replace(answers.prompts[row], id=f"{answers.prompts[row].id}/{row}/{position}/{token}"))
    success_SK = _success(scene, heads, prompts).reshape(len(seen), K)
    logp, logq = (np.array([found[i] for found in seen.values()]) for i in (1, 2))
    cosine_S, real_S = cosines(logp, logq, success_SK), beyond_chance(success_SK, scene.sizes.forced)
    return pd.DataFrame([
        {
            "prompt": answers.prompts[row].id, "position": position, "correct": bool(right[row]), "advantage": found[3],
            "spread": float(success_SK[k].max() - success_SK[k].min()), "beyond_chance": bool(real_S[k]), "cosine": float(cosine_S[k]),
            "update_correct": share, "n": scene.sizes.forced,
        }
        for k, ((row, position), found) in enumerate(seen.items())
    ])  # fmt: skip


def _states(scene: Scene, right: list[float]) -> tuple[float, dict[int, list[int]]]:
    """The share of the sum of |log q - log p| on right answers, and as many states of right answers as of wrong ones, drawn by a fixed seed from
    those in which the student is not already sure."""
    teacher = scene.needs_teacher()
    found = columns(scene, teacher)
    good, gap = np.array(right)[found["row"]] > 0.5, np.abs(found["logq"] - found["logp"])
    unsure = (found["top_student"] < 0.98) & (found["position"] + 1 < scene.new_tokens)
    open_states = {
        correct: list(zip(found["row"][unsure & (good == correct)].tolist(), found["position"][unsure & (good == correct)].tolist(), strict=True))
        for correct in (True, False)
    }
    if not open_states[True] or not open_states[False]:
        raise NotMeasured("the probe's answers are all right, or all wrong, or the student is sure of every token")
    chosen: dict[int, list[int]] = {}
    for places in open_states.values():
        random = np.random.default_rng(seed_for(*scene.axes, "forced"))
        places = sorted(places)
        for k in random.choice(len(places), min(scene.sizes.states // 2, len(places)), replace=False):
            chosen.setdefault(places[k][0], []).append(places[k][1])
    return float(gap[good].sum() / max(gap.sum(), 1e-12)), {row: sorted(at) for row, at in sorted(chosen.items())}


def _top(scene: Scene, teacher: str, states: dict[int, list[int]]) -> dict[tuple[int, int], tuple[list[int], list[float], list[float], float]]:
    """For each state the student's k best tokens, both sides' log-probabilities of them, and the written token's log-ratio."""
    found = {}
    for seen in scene.laws({"student": scene.student, teacher: scene.needs_teacher()}, scene.answers(), states):
        own, token_NK = seen.logp["student"].topk(K, dim=-1)
        theirs = seen.logp[teacher].gather(-1, token_NK)
        gap_N = seen.written_N(teacher) - seen.written_N("student")
        for at, *values in zip(zip(seen.row_N.tolist(), seen.position_N.tolist(), strict=True), token_NK.tolist(), own.double().tolist(),
                               theirs.double().tolist(), gap_N.tolist(), strict=True):  # fmt: skip
            found[at] = (values[0], values[1], values[2], values[3])
    return dict(sorted(found.items()))


def _success(scene: Scene, heads: list[tuple[int, ...]], prompts: Sequence[Prompt]) -> Array:
    """S of each head: the share of right answers behind it; heads that end the answer are what they are."""
    n = scene.sizes.forced
    ended = [head[-1] in scene.pair.stop_ids for head in heads]
    value = np.zeros(len(heads))
    for k in (k for k, end in enumerate(ended) if end):
        value[k] = scene.pair.verify(scene.check, scene.text(heads[k]), prompts[k])
    going = [k for k, end in enumerate(ended) if not end]
    right = scene.right(scene.write(scene.student, [prompts[k] for k in going], "forced", group=n, heads=[heads[k] for k in going]))
    value[going] = np.array(right).reshape(len(going), n).mean(1)
    return value
