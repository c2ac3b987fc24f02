"""Local models with another tokenizer, as authors and as judges: on `micro-cross` the teacher writes in merged tokens, the student reads characters."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from harness_kit import made, shipped, trainer_of

from zoo.compat import pair_problems, problems
from zoo.components.base import Context
from zoo.components.contexts import Attempt
from zoo.components.rewards import Judge
from zoo.components.rollouts import Prefix, Teacher
from zoo.harness.asked import Asking, judged
from zoo.harness.foreign import columns_of_texts, interpreters
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.train import Trainer
from zoo.tensors import Author

CLOSED = {"teachers": {"teacher": {"kind": "external", "access": "black_box"}}}
TAUGHT = {"rollout": {"author": "teacher"}, **CLOSED, "objective": [{"term": "likelihood", "reduce": "token_mean"}]}


@cache
def pair() -> LoadedPair:
    spec = load_pair_spec("micro-cross")
    return load_pair(spec.model_copy(update={"contexts": {**spec.contexts, "attempt": "?{attempt}?{prompt}"}}))


@cache
def trainer() -> Trainer:
    return trainer_of(made(**TAUGHT), pair(), max_new_tokens=40, rollouts_per_step=16)


def write(stream: Teacher | Prefix, count: int = 16, limit: int = 40):  # type: ignore[no-untyped-def]
    return trainer().engine.rollout(stream, trainer().prompts[:count], max_new_tokens=limit, seed_axes=("test", 0))


def test_what_a_foreign_teacher_writes_reaches_the_student_as_the_same_text() -> None:
    rollout = write(Teacher())
    texts = trainer().bank.judge.texts(rollout)
    right = [pair().verify("answer", text, p) for text, p in zip(texts, rollout.prompts, strict=True)]
    assert sum(right) >= 14  # read as the student's own ids, none of it would be right
    for ids, mask, text in zip(rollout.response_BT, rollout.mask_BT, texts, strict=True):
        assert ids[mask].tolist() == [*pair().tokenizer.encode(text), pair().stop_ids[0]]
    assert bool(rollout.finished_B.all())
    assert set(rollout.author_BT[rollout.mask_BT].tolist()) == {int(Author.TEACHER)}
    assert bool(rollout.behaviour_logp_BT[rollout.mask_BT].isnan().all())
    assert trainer().engine.generated_tokens >= rollout.tokens


def test_neither_order_nor_company_changes_a_text() -> None:
    together, prompts = write(Teacher(temperature=1.5), 6), trainer().prompts[:6]
    alone = [trainer().engine.rollout(Teacher(temperature=1.5), [p], max_new_tokens=40, seed_axes=("test", 0)) for p in prompts]
    texts = [trainer().bank.judge.texts(one)[0] for one in alone]
    assert trainer().bank.judge.texts(together) == texts and len(set(texts)) > 1


def test_it_goes_on_from_a_given_beginning() -> None:
    stream = Prefix.model_validate({"author": "prefix", "by": "teacher", "of": "dataset", "low": 0.5, "high": 0.5, "supervise": "continuation"})
    rollout = write(stream)
    texts, golds = trainer().bank.judge.texts(rollout), [p.fields["solution"] for p in rollout.prompts]
    assert all(text[: len(gold) // 2] == gold[: len(gold) // 2] for text, gold in zip(texts, golds, strict=True))
    # A beginning that ends within one of its tokens leads it astray; the others it finishes.
    assert sum(pair().verify("answer", text, p) for text, p in zip(texts, rollout.prompts, strict=True)) >= 4


def test_a_text_that_was_cut_has_no_stop_and_a_mark_ends_one() -> None:
    encode, device = pair().tokenizer.encode, torch.device("cpu")
    texts = [("1 2 3", False), ("1#1 2", True), ("1 2", True)]
    mark, stop = encode("#")[0], pair().stop_ids[0]
    columns = columns_of_texts(texts, [encode(text) for text, _ in texts], (stop, mark), 6, pair().pad_id, device)
    rows = [row[mask].tolist() for row, mask in zip(columns["response_BT"], columns["mask_BT"], strict=True)]
    assert rows == [encode("1 2 3"), encode("1#"), [*encode("1 2"), stop]]
    assert columns["finished_B"].tolist() == [False, True, True]
    short = columns_of_texts(texts[2:], [encode("1 2")], (stop,), 2, pair().pad_id, device)
    assert short["finished_B"].tolist() == [False] and short["mask_BT"].sum() == 2
    empty = columns_of_texts([("", False)], [[]], (stop,), 4, pair().pad_id, device)
    assert empty["mask_BT"].sum() == 0 and empty["finished_B"].tolist() == [False]


def test_one_tokenizer_needs_no_interpreter() -> None:
    micro = load_pair(load_pair_spec("micro"))
    assert interpreters(made(**TAUGHT), micro, 16, True) == {}
    assert set(interpreters(made(**TAUGHT), pair(), 16, True)) == {"teacher"}


def test_methods_that_read_texts_learn_from_it() -> None:
    trainer = trainer_of(shipped("seqkd"), pair(), max_new_tokens=40, rollouts_per_step=16, budget={"amount": 600}, learning_rate=1e-5)
    trainer.train(lambda row: None, lambda: None)
    losses = [row["loss.0.likelihood"] for row in trainer.rows]
    assert len(losses) > 1 and max(losses) < 0.5  # ids of another vocabulary would cost several nats a token
    pair().reset_student()


def test_taking_turns_within_a_text_is_refused() -> None:
    verify = {"kind": "rank", "at_most": 5}
    mixed = made(**{**TAUGHT, "rollout": {"author": "interleaved", "verify": verify}})
    known = {"templates": (), "fields": None, "teachers": ("teacher",), "checks": None}
    open_teacher = made(**{**TAUGHT, "teachers": {"teacher": {"kind": "external", "alignment": "byte_spans"}}})
    assert any("in tokens that the student does not have" in p for p in pair_problems(open_teacher, **known, same_vocabulary=False))
    assert any("needs next-token probabilities of the black-box teacher 'teacher'" in p for p in problems(mixed))


@pytest.mark.parametrize("ask", ["verdict", "score", "likelihood"])
def test_a_judge_reads_in_its_own_tokens(ask: str) -> None:
    context = Context(made=(Attempt(),), template="attempt")
    reward = Judge(by="teacher", ask=ask, context=None if ask == "likelihood" else context)  # type: ignore[arg-type]
    gold = replace(write(Teacher(), 8), version=0)
    asking = Asking(trainer().bank, gold, trainer().bank.judge.texts(gold), {})
    found_B = judged(asking, reward)
    model, tokenizer = pair().teachers["teacher"], pair().tokenizers["teacher"]

    def total(before: str, text: list[int]) -> float:
        ids = [*tokenizer.encode(before), *text]
        logp_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return float(sum(logp_TV[t - 1, ids[t]] for t in range(len(ids) - len(text), len(ids))))

    for b, prompt in enumerate(gold.prompts):
        if ask == "likelihood":
            text = [*tokenizer.encode(asking.texts[b]), tokenizer.eos_token_id]
            expected = torch.tensor(total(prompt.text, text) / len(text)).exp()
            assert expected > 0.8
        else:
            words = ["good", "bad"] if ask == "verdict" else [str(i) for i in range(10)]
            logits = torch.tensor([total(f"?{asking.texts[b]}?{prompt.text}", tokenizer.encode(word)) for word in words])
            share = logits.softmax(-1)
            expected = share[0] if ask == "verdict" else (share * torch.arange(10)).sum() / 9
        torch.testing.assert_close(found_B[b], expected, atol=1e-4, rtol=1e-3, check_dtype=False)
