"""What is logged of each diagnosed sequence: its text, measured. docs/logs.md lists the columns."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import torch

from zoo.harness.contexts import TaskJudge
from zoo.harness.diagnose_tokens import repeated
from zoo.harness.models import LoadedPair
from zoo.statistics import TokenContext
from zoo.tensors import Author

WINDOW = 128  # characters of a text's tail, and tokens in which repetition is looked for
LEAST = 64  # characters below which a compression ratio says nothing
NGRAM, TIMES = 6, 3
WORDS = ("wait", "hmm", "perhaps", "maybe", "actually", "alternatively", "seems", "might", "likely", "check")
MARKERS = {"micro": r"\?", "micro-two": r"\?"}  # these tasks have no words
ANSWERS = re.compile(r"\\boxed\{([^}]*)\}|#+[ ]*([^#\n]*)")
LONGEST = 24


def compression(text: str) -> float:
    """Bytes over zlib bytes of the last 128 characters; NaN for texts under 64."""
    tail = text[-WINDOW:].encode()
    return len(tail) / len(zlib.compress(tail, 9)) if len(text) >= LEAST else math.nan


def marked(text: str, task: str) -> int:
    """How often a text hesitates: ten words (2603.24472), or the task's own marker."""
    pattern = MARKERS.get(task, r"\b(?:" + "|".join(WORDS) + r")\b")
    return len(re.findall(pattern, text, flags=re.IGNORECASE))


def answer_of(text: str) -> str | None:
    """What stands in the last box or behind the last #, where the tasks' answers stand."""
    found = ANSWERS.findall(text)
    return "".join(found[-1]).strip()[:LONGEST] if found else None


def rollout_rows(pair: LoadedPair, judge: TaskJudge, context: TokenContext, numbers: Sequence[int]) -> tuple[list[dict[str, Any]], list[bool]]:
    """One row for each sequence, and of each of their supervised tokens, in order, whether it repeats. `numbers` are the sequences' places in the
    stream's batch."""
    rollout, found, marks = context.rollout, [], list[bool]()
    texts, mask_BT = judge.texts(rollout), rollout.mask_BT.to("cpu")
    for row, (text, number) in enumerate(zip(texts, numbers, strict=True)):
        prompt, ids = rollout.prompts[row], rollout.response_BT[row].to("cpu")[mask_BT[row]].tolist()
        again = repeated(ids, NGRAM, TIMES, WINDOW)
        marks += again
        finished = bool(rollout.finished_B[row])
        authors = torch.bincount(rollout.author_BT[row].to("cpu")[mask_BT[row]], minlength=len(Author))
        author = Author(int(authors.argmax()))
        found.append({
            "rollout": number, "prompt": prompt.id, "author": author.name.lower(), "version": rollout.version, "length": len(ids),
            "cut": not finished, "stop_token": ids[-1] if finished and ids else -1, "answer": answer_of(text),
            **_judged(pair, text, prompt, author != Author.CORPUS), "tail": text[-WINDOW:], "zlib_ratio": compression(text),
            "repeat_share": sum(again) / max(len(again), 1), "marker_count": marked(text, pair.spec.task.kind),
            **{f"reward.{name}": float(value_B[row]) for name, value_B in context.rewards.items()},
        })  # fmt: skip
    return found, marks


def _judged(pair: LoadedPair, text: str, prompt: Any, judged: bool) -> dict[str, float]:
    """What the task's own checks say, whatever the method is rewarded for; NaN where it has none, and of texts that answer nothing."""
    checks = pair.task.checks if judged else ()
    named = {"correct": "answer" if "answer" in checks else next(iter(checks), None), "correct_flexible": "flexible", "parsed": "format"}
    named = {column: check if check in checks else None for column, check in named.items()}
    return {column: math.nan if check is None else float(pair.verify(check, text, prompt)) for column, check in named.items()}
