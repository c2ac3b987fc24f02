"""What happens where an answer ends, and whether both sides read the same tokens in the same format (FM03, FM04)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from zoo.components.base import PLAIN
from zoo.failures.logs import NotMeasured
from zoo.failures.probes.columns import columns, special_share
from zoo.failures.probes.scene import Reader, Scene, Texts
from zoo.harness.models import LoadedPair
from zoo.harness.pieces_of import encoded, retokenised, student_tokens, vocabulary_of
from zoo.tensors import Prompt

SPEAKS = 0.05  # mean probability at the end from which a special token counts as one that stops


def gold(scene: Scene, prompts: Sequence[Prompt], stop: bool = True) -> Texts:
    """The given solutions of prompts that have one, in the student's tokens."""
    chosen = [p for p in prompts if p.fields.get("solution")]
    ends = (scene.pair.stop_ids[0],) if stop else ()
    ids = [(*encoded(scene.pair.tokenizer, p.fields["solution"])[: scene.new_tokens - 1], *ends) for p in chosen]
    blank = tuple((0.0,) * len(row) for row in ids)
    return Texts(tuple(chosen), tuple(ids), (stop,) * len(ids), blank, (0,) * len(ids))


def stops(scene: Scene) -> pd.DataFrame:
    """One row for each end of an answer and each stop token: `source` (given: behind the given solution; student: behind an answer that the
    student ended itself), `prompt`, `token`, `name`, `declared` (one side names it as a stop), and its probability under `student` and
    `teacher`. Special tokens that nobody declares count where either side gives them 0.05 at the ends of answers on average."""
    teacher, answers = scene.needs_teacher(), scene.answers()
    ended = [i for i, done in enumerate(answers.finished) if done and scene.verdicts()[i]] or [i for i, done in enumerate(answers.finished) if done]
    sources = {
        "given": gold(scene, scene.prompts("valid", scene.sizes.ends)),
        "student": answers.rows(ended[:: max(len(ended) // scene.sizes.ends, 1)][: scene.sizes.ends]),
    }
    readers = {"student": scene.student, "teacher": teacher}
    candidates = sorted({*scene.stops, *scene.special} - {scene.pair.pad_id} | set(scene.stops))
    candidates = [i for i in candidates if i < scene.pair.vocab_size]
    found = []
    for source, texts in sources.items():
        places = {row: [len(ids) - 1] for row, ids in enumerate(texts.ids)}
        for seen in scene.laws(readers, texts, places) if len(texts) else ():
            p = {name: logp_NV[:, candidates].double().exp().tolist() for name, logp_NV in seen.logp.items()}
            for k, row in enumerate(seen.row_N.tolist()):
                for j, token in enumerate(candidates):
                    found.append(
                        {"source": source, "prompt": texts.prompts[row].id, "token": token, "student": p["student"][k][j], "teacher": p["teacher"][k][j]}
                    )
    if not found:
        raise NotMeasured("no given solutions, and no answer of the student ends by itself")
    frame = pd.DataFrame(found).sort_values(["source", "prompt", "token"], ignore_index=True)
    mean = frame.groupby("token")[["student", "teacher"]].mean().max(axis=1)
    kept = [token for token in candidates if token in scene.stops or mean[token] >= SPEAKS]
    frame = frame[frame["token"].isin(kept)].reset_index(drop=True)
    names = dict(zip(kept, scene.pair.tokenizer.convert_ids_to_tokens(kept), strict=True))
    frame.insert(3, "name", frame["token"].map(names))
    frame.insert(4, "declared", frame["token"].isin(scene.stops))
    return frame


def template(scene: Scene) -> pd.DataFrame:
    """One row for each greedy text of the teacher in its own format: `nll_native` and `nll_used`, its mean -log q in nats a token behind its own
    prompt format and behind the one that it is scored in (NaN where that shows more than the prompt, which is no mismatch). Beside them, the same
    in every row: `aligned_share`, student tokens that end where a teacher's token does; `special_update` and `special_tokens`, the share of
    special tokens in the sum of |log q - log p| over the student's answers and among their tokens."""
    teacher = scene.needs_teacher()
    prompts, model = scene.prompts("valid", scene.sizes.ends), _model_of(scene, teacher)
    native = replace(teacher, context=None, native=model)
    texts = scene.write(native, prompts, "native", temperature=0.0)
    nll = {"nll_native": _nll(scene, native, texts), "nll_used": None if reveals(teacher, prompts) else _nll(scene, teacher, texts)}
    update, tokens = special_share(scene, columns(scene, teacher))
    frame = pd.DataFrame({"prompt": [p.id for p in texts.prompts], "tokens": [len(ids) for ids in texts.ids]})
    for name, values in nll.items():
        frame[name] = float("nan") if values is None else values
    shared = aligned_share(scene.pair, model, scene.answers()) if model else 1.0
    return frame.assign(aligned_share=shared, special_update=update, special_tokens=tokens)


def reveals(reader: Reader, prompts: Sequence[Prompt]) -> bool:
    """Whether a model's context shows something of a prompt that the prompt itself does not."""
    context = reader.context
    if context is None or context.template == PLAIN:
        return False
    return bool(context.made) or any(prompt.fields.get(name, "") not in prompt.text for prompt in prompts for name in context.fields)


def _model_of(scene: Scene, reader: Reader) -> str | None:
    """The pair's name of a teacher's model, None for the student's own weights."""
    return next((name for name, model in scene.pair.teachers.items() if model is reader.model), None)


def _nll(scene: Scene, reader: Reader, texts: Texts) -> list[float]:
    sums, counts = [0.0] * len(texts), [max(len(ids), 1) for ids in texts.ids]
    for seen in scene.laws({"it": reader}, texts):
        for row, value in zip(seen.row_N.tolist(), seen.written_N("it").double().tolist(), strict=True):
            sums[row] -= value
    return [total / count for total, count in zip(sums, counts, strict=True)]


def aligned_share(pair: LoadedPair, teacher: str, texts: Texts) -> float:
    """Student tokens whose end is also the end of a token of the teacher's tokenizer on the same text, over all student tokens."""
    theirs = pair.tokenizers.get(teacher)
    if theirs is None or theirs.get_vocab() == pair.tokenizer.get_vocab():
        return 1.0
    mine, other = vocabulary_of(pair.tokenizer), vocabulary_of(theirs)
    shared = total = 0
    for ids in texts.ids:
        own: Any = student_tokens(ids, mine, pair.stop_ids)
        ends = set(retokenised(own, theirs, other).ends)
        shared += sum(end in ends for end in own.ends)
        total += len(own.ends)
    return shared / max(total, 1)
