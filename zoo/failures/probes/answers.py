"""What the student's answers say by themselves: pass rates, confidence, words of doubt, and how far the teacher is away (FM09, 14, 17, 19)."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from itertools import islice

import pandas as pd

from zoo.failures.logs import NotMeasured
from zoo.failures.probes.scene import Scene, Texts
from zoo.seeds import seed_for
from zoo.tensors import Prompt

SAID = (r"#\s*(-?[0-9]+)", r"\\boxed\{([^{}]*)\}", r"(?:T|t)he answer is:?\s*([^\s.]+)")
WORDS = ("wait", "hmm", "perhaps", "maybe", "actually", "alternatively", "seems", "might", "likely", "check")  # 2603.24472 through FM19
_WORD = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
MICRO_MARK = "?"  # the check-and-redo character of the micro kit


def said(text: str) -> str:
    """The part of an answer that says the result: the last boxed or marked number, else the whole text."""
    for pattern in SAID:
        if found := re.findall(pattern, text):
            return str(found[-1]).strip()
    return text.strip()


def markers(text: str, micro: bool) -> int:
    """Words of doubt and checking; in the micro kit the character that stands for them."""
    return text.count(MICRO_MARK) if micro else len(_WORD.findall(text))


def pass_rates(scene: Scene) -> pd.DataFrame:
    """One row a prompt: `k` answers, `passed` of them, supervised `tokens`, and `cut`, answers that hit the budget."""
    answers, right, k = scene.answers(), scene.verdicts(), scene.sizes.rollouts
    rows = []
    for start in range(0, len(answers), k):
        at = range(start, start + k)
        rows.append({
            "prompt": answers.prompts[start].id, "k": k, "passed": int(sum(right[i] for i in at)), "tokens": sum(len(answers.ids[i]) for i in at),
            "cut": sum(not answers.finished[i] for i in at),
        })  # fmt: skip
    return pd.DataFrame(rows)


def calibration(scene: Scene) -> pd.DataFrame:
    """One row an answer: `prompt`, `correct`, `tokens`, and its confidence: `agreement`, the share of the other answers to its prompt that say the
    same; `likelihood`, exp of the mean log-probability of its tokens; `stated`, what it says behind the pair's mark, in [0, 1] (NaN: nothing)."""
    answers, right, k, mark = scene.answers(), scene.verdicts(), scene.sizes.rollouts, scene.pair.words["mark"]
    if k < 2:
        raise NotMeasured("agreement needs two answers a prompt")
    rows = []
    for start in range(0, len(answers), k):
        texts = [scene.text(answers.ids[i]) for i in range(start, start + k)]
        results = [said(text.split(mark)[0]) for text in texts]
        count = Counter(results)
        for j, text in enumerate(texts):
            logp = answers.logp[start + j]
            rows.append({
                "prompt": answers.prompts[start].id, "correct": float(right[start + j]), "tokens": len(answers.ids[start + j]),
                "agreement": (count[results[j]] - 1) / (k - 1), "likelihood": math.exp(sum(logp) / max(len(logp), 1)), "stated": _stated(text, mark),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _stated(text: str, mark: str) -> float:
    """The number behind the mark; above 1 it is a percentage."""
    _, there, behind = text.partition(mark)
    found = re.match(r"\s*([0-9]+(?:\.[0-9]+)?)", behind) if there else None
    if found is None:
        return float("nan")
    value = float(found.group(1))
    return min(value if value <= 1.0 else value / 100, 1.0)


def recovery(scene: Scene) -> pd.DataFrame:
    """One row for each of the first validation prompts: whether the greedy answer of the `student`, and of the `teacher` as it is scored, is right;
    `own` says that the teacher is the student itself in a context."""
    prompts, teacher = scene.prompts("valid", scene.sizes.greedy), scene.teacher
    columns = {"student": scene.right(scene.write(scene.student, prompts, "greedy", temperature=0.0))}
    if teacher is not None and not (teacher.context is not None and teacher.context.made):
        columns["teacher"] = scene.right(scene.write(teacher, prompts, "greedy", temperature=0.0))
    own = bool(teacher is not None and (teacher.own or teacher.context is not None))
    return pd.DataFrame({"prompt": [p.id for p in prompts], **columns, "own": own})


def hesitation(scene: Scene) -> pd.DataFrame:
    """One row an answer: `split` (usual or longer prompts), `prompt`, `tokens`, `markers`, `correct`."""
    micro = scene.pair.spec.task.kind.startswith("micro")
    parts: list[tuple[str, Texts, list[float]]] = [("usual", scene.answers(), scene.verdicts())]
    if longer := longer_prompts(scene):
        texts = scene.write(scene.student, longer, "longer", group=2)
        parts.append(("longer", texts, scene.right(texts)))
    rows = [
        {"split": split, "prompt": texts.prompts[i].id, "tokens": len(texts.ids[i]), "markers": markers(scene.text(texts.ids[i]), micro), "correct": right[i]}
        for split, texts, right in parts
        for i in range(len(texts))
    ]
    return pd.DataFrame(rows)


def longer_prompts(scene: Scene) -> list[Prompt]:
    """Prompts beyond the training lengths, none of them an item of a suite; where the task has none, nothing."""
    if scene.pair.spec.task.kind != "micro":
        return []
    from zoo.tasks.micro import OOD_LENGTHS, add_prompt, draw

    contents = draw("add", "valid", OOD_LENGTHS, random.Random(seed_for(*scene.axes[:1], "longer")))
    return [add_prompt(digits, f"longer-{i:03d}") for i, digits in enumerate(islice(contents, 2 * scene.sizes.prompts))]
