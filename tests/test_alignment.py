"""Other tokenizers: the text's bytes, the spans, what they say, and the micro pair of two tokenizers."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from cross_kit import KINDS, byte_level
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.bench import Bench
from zoo.check import file_of
from zoo.components.alignments import ByteSpans, Pairing, Positions, PrefixCover, Rows, RunningText, Shared, Tokens, Vocabularies
from zoo.components.alignments.spans import byte_spans, covers, edit_distance, positions, running_text, time_warping
from zoo.entry import load_entry
from zoo.harness.alignment import Foreign
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.pieces_of import encoded, retokenised, student_tokens, vocabulary_of
from zoo.harness.scoring import bank_for, chunks_of, hidden_states
from zoo.method import Method

NAMES = list(KINDS)
VOCABULARIES = {name: vocabulary_of(make()) for name, make in KINDS.items()}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def tokens_of(name: str, text: str, stopped: bool = True) -> Tokens:
    """A text as a model with this tokenizer would have written it."""
    known, ids = VOCABULARIES[name], encoded(KINDS[name](), text)
    return student_tokens([*ids, *([known.stop] if stopped else [])], known, [known.stop])


def both(one: str, other: str, text: str) -> tuple[Tokens, Tokens]:
    mine = tokens_of(one, text)
    return mine, retokenised(mine, KINDS[other](), VOCABULARIES[other])


@settings(max_examples=60, deadline=None)
@given(text=TEXT, one=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
def test_the_bytes_of_both_tokenisations_are_the_text(text: str, one: str, other: str) -> None:
    mine, theirs = both(one, other, text)
    written = b"".join(mine.words)
    assert written in (text.encode(), b" " + text.encode(), unicodedata.normalize("NFC", text).encode(), text.replace("\u2581", " ").encode())
    assert b"".join(theirs.words) == written
    assert mine.ends == sorted(mine.ends)
    assert (mine.ends or [0])[-1] == (theirs.ends or [0])[-1] == len(written)


@settings(max_examples=60, deadline=None)
@given(text=TEXT, one=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
def test_spans_cover_the_text_exactly_and_cannot_be_cut(text: str, one: str, other: str) -> None:
    mine, theirs = both(one, other, text)
    spans = byte_spans(mine, theirs)
    assert [s[0] for s in spans] == [0, *(s[1] for s in spans[:-1])]
    assert [s[2] for s in spans] == [0, *(s[3] for s in spans[:-1])]
    assert (spans[-1][1], spans[-1][3]) == (len(mine.ids), len(theirs.ids))
    for a, b, c, d in spans:
        assert b"".join(mine.pieces[a:b]) == b"".join(theirs.pieces[c:d])
        inner = {sum(map(len, mine.pieces[a:i])) for i in range(a + 1, b)} & {sum(map(len, theirs.pieces[c:j])) for j in range(c + 1, d)}
        assert not inner, "a shorter span was there"


@settings(max_examples=60, deadline=None)
@given(text=TEXT, one=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
def test_greedy_spans_are_unions_of_shortest_ones(text: str, one: str, other: str) -> None:
    mine, theirs = both(one, other, text)
    bounds = {(0, 0)} | {(b, d) for _, b, _, d in byte_spans(mine, theirs)}
    spans = running_text(mine, theirs)
    assert {(a, c) for a, _, c, _ in spans} | {(b, d) for _, b, _, d in spans} <= bounds
    assert all(mine.pieces[b - 1] == theirs.pieces[d - 1] for _, b, _, d in spans)


@settings(max_examples=40, deadline=None)
@given(text=TEXT, name=st.sampled_from(NAMES))
def test_one_tokenizer_pairs_every_token_with_itself(text: str, name: str) -> None:
    mine, theirs = both(name, name, text)
    assert mine.ids == theirs.ids
    plain = [(i, i + 1, i, i + 1) for i in range(len(mine.ids))]
    assert byte_spans(mine, theirs) == running_text(mine, theirs) == positions(mine, theirs) == covers(mine, theirs) == plain


def test_a_tokenizer_that_composes_characters_covers_the_text_as_it_was() -> None:
    """NFC makes one character of two, and three bytes of one; the tokens stand for what they were made from."""
    qwen = byte_level(nfc=True)
    mine = tokens_of("gpt2", "cafe\u0301 \u0958 x")
    theirs = retokenised(mine, qwen, vocabulary_of(qwen))
    assert b"".join(theirs.words) == "cafe\u0301 \u0958 x".encode()
    spans = byte_spans(mine, theirs)
    assert (spans[0][0], spans[0][2], spans[-1][1], spans[-1][3]) == (0, 0, len(mine.ids), len(theirs.ids))


def test_text_that_differs_is_paired_up_to_the_difference() -> None:
    mine = Tokens((1, 2, 3, 9), (b"ab", b"\xff", b"cd", b""), True)
    theirs = Tokens((5, 6, 7, 8), (b"a", b"b", "�cd".encode(), b""), True)
    assert byte_spans(mine, theirs) == [(0, 1, 0, 2), (3, 4, 3, 4)]
    empty = Tokens((1, 4, 2), (b"a", b"", b"b"))
    assert byte_spans(empty, Tokens((5, 6), (b"a", b"b"))) == [(0, 1, 0, 1), (2, 3, 1, 2)], "a special token belongs to no span"
    assert running_text(empty, Tokens((5, 6), (b"a", b"b"))) == [(0, 1, 0, 1), (2, 3, 1, 2)]
    assert byte_spans(empty, Tokens((5,), (b"ab",))) == [], "and takes the span around it along"
    assert positions(mine, Tokens((5,), (b"a",))) == [(0, 1, 0, 1)]


def test_time_warping_and_edit_distance() -> None:
    assert time_warping([[0.0, 1.0], [1.0, 0.0]]) == [(0, 0), (1, 1)]
    assert time_warping([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]) == [(0, 0), (0, 1), (1, 2)]
    assert time_warping([]) == []
    assert [edit_distance(*pair) for pair in ((b"", b"abc"), (b"kitten", b"sitting"), (b"abc", b"abc"))] == [3, 3, 0]


def rows_of(alignment: Any, one: str, other: str, text: str) -> Rows:
    """Random laws of both sides over the tokens of a text."""
    mine, theirs = both(one, other, text)
    known = Vocabularies(VOCABULARIES[one], VOCABULARIES[other])
    spans = alignment.spans(mine, theirs)
    generator = torch.Generator().manual_seed(len(text))
    student_NV = torch.randn(len(mine.ids), len(known.student), generator=generator, dtype=torch.float64).log_softmax(-1)
    teacher_MW = student_NV if one == other else torch.randn(len(theirs.ids), len(known.teacher), generator=generator, dtype=torch.float64).log_softmax(-1)
    begun = [alignment.begun(mine, theirs, span) for span in spans]
    pairing = Pairing(alignment, known, torch.tensor(theirs.ids), torch.tensor(spans).reshape(-1, 4), torch.zeros(len(spans), dtype=torch.long), begun)
    return Rows(pairing, student_NV, teacher_MW, torch.tensor(mine.ids))


@settings(max_examples=40, deadline=None)
@given(text=TEXT, share=st.sampled_from(["proportional", "even"]), only=st.sampled_from(["all", "single"]))
def test_shares_of_a_span_add_up_by_the_chain_rule(text: str, share: Any, only: Any) -> None:
    alignment = ByteSpans(share=share, only=only)
    rows = rows_of(alignment, "gpt2", "gemma", text)
    shared_N, written_N, written_M = alignment.shared_N(rows), rows.written_N, rows.written_M
    inside = set()
    for g, (a, b, c, d) in enumerate(rows.pairing.span_G4.tolist()):
        torch.testing.assert_close(shared_N[a:b].sum(), written_M[c:d].sum())
        torch.testing.assert_close(rows.span_logp[0][g], written_N[a:b].sum())
        if share == "proportional":
            torch.testing.assert_close(shared_N[a:b] / written_N[a:b], (written_M[c:d].sum() / written_N[a:b].sum()).expand(b - a))
        inside |= set(range(a, b))
    outside = [i for i in range(len(written_N)) if i not in inside]
    assert torch.equal(shared_N[outside], written_N[outside]), "what is not paired is as likely as the student says"


@settings(max_examples=25, deadline=None)
@given(text=TEXT, kind=st.sampled_from([ByteSpans, RunningText]))
def test_one_tokenizer_reduces_to_the_plain_comparison(text: str, kind: Any) -> None:
    alignment = kind(columns=Shared(renormalise=False))
    rows = rows_of(alignment, "gpt2", "gpt2", text)
    student_GK, teacher_GK = alignment.compared(rows)
    assert torch.equal(student_GK, teacher_GK)
    assert torch.equal(alignment.place(rows.pairing.span_G4), torch.arange(len(rows.token_N)))
    assert torch.allclose(student_GK.exp().sum(-1), torch.ones(len(student_GK), dtype=torch.float64))
    torch.testing.assert_close(alignment.shared_N(rows), rows.written_N)
    law_GV = PrefixCover().law_GV(rows_of(PrefixCover(), "gpt2", "gpt2", text))
    texts = [i for i, piece in enumerate(VOCABULARIES["gpt2"].pieces) if piece and tuple(VOCABULARIES["gpt2"].split(piece)) == (i,)]
    whole = [*texts, VOCABULARIES["gpt2"].stop]
    torch.testing.assert_close(law_GV[:, whole].log_softmax(-1), rows.student_NV[:, whole].log_softmax(-1))


@pytest.fixture(scope="module")
def cross() -> LoadedPair:
    return load_pair(load_pair_spec("micro-cross"))


def test_the_micro_pair_of_two_tokenizers(cross: LoadedPair) -> None:
    assert not cross.same_vocabulary
    assert cross.vocab_size == len(cross.tokenizer) == 40
    other = cross.tokenizers["teacher"]
    assert other.convert_ids_to_tokens(encoded(other, "3 8 15 17#17")) == ["3", " 8", " 15", " 17", "#17"]
    assert set(cross.tokenizer.get_vocab()) - set(other.get_vocab()) == {"<e1>", "<e2>"}


def scored(cross: LoadedPair, name: str) -> tuple[Any, Any, Foreign]:
    """A batch of an entry with its teacher's states."""
    trainer = Bench().cross.sized(6, 30).trainer(load_entry(file_of(name)))
    rollout = next(iter(trainer.write(Method(trainer.entry, 0.0)).values()))
    bank = bank_for(trainer.entry, trainer.pair, micro_tokens=4096, chunk_tokens=64)
    return bank, rollout, hidden_states(bank, ["teacher"], rollout)["teacher"]


def test_the_teachers_states_are_those_of_its_own_text(cross: LoadedPair) -> None:
    """Every row against the teacher run by hand on the text of one sequence."""
    _, rollout, foreign = scored(cross, "btb")
    end = 0
    for i, prompt in enumerate(rollout.prompts):
        ids = rollout.response_BT[i][rollout.mask_BT[i]].tolist()
        text = cross.decode([k for k in ids if k not in cross.stop_ids])
        other = cross.tokenizers["teacher"]
        asked, said = encoded(other, prompt.text), encoded(other, text) + ([other.eos_token_id] if ids[-1] in cross.stop_ids else [])
        with torch.no_grad():
            states = cross.teachers["teacher"].base_model(input_ids=torch.tensor([asked + said])).last_hidden_state[0, len(asked) - 1 : -1]
        torch.testing.assert_close(foreign.states_MH[end : end + len(said)], states, atol=2e-5, rtol=1e-4)
        assert foreign.token_M[end : end + len(said)].tolist() == said
        end += len(said)
    assert end == len(foreign.states_MH)


def test_chunks_never_cut_a_span(cross: LoadedPair) -> None:
    _, rollout, foreign = scored(cross, "btb")
    for size in (1, 3, 7, 1000):
        slices = list(chunks_of(rollout.tokens, size, {"teacher": foreign}))
        assert [s.start for s in slices] == [0, *(s.stop for s in slices[:-1])]
        assert slices[-1].stop == rollout.tokens
        assert sum(len(foreign[s].span_G4) for s in slices) == len(foreign.span_G4), "a span was lost"
        pieces = [foreign[s].local() for s in slices]
        assert sum(len(p.token_M) for p, _ in pieces) == int((foreign.span_G4[:, 3] - foreign.span_G4[:, 2]).sum())
    whole = replace(foreign, alignment=Positions(columns={"kind": "joint_rank"}))  # type: ignore[arg-type]
    ends = [s.stop for s in chunks_of(rollout.tokens, 1, {"teacher": whole})]
    assert ends == rollout.mask_BT.sum(1).cumsum(0).tolist()


def test_rows_in_another_order_keep_their_spans(cross: LoadedPair) -> None:
    _, rollout, foreign = scored(cross, "btb")
    count = rollout.mask_BT.sum(1)
    ends = count.cumsum(0)
    flat = torch.cat([torch.arange(int(ends[i] - count[i]), int(ends[i])) for i in (3, 0)])
    pairing, states_MH = foreign[flat].local()
    token_N = rollout.response_BT[rollout.mask_BT][flat]
    known = pairing.vocabularies
    assert len(pairing.token_M) == len(states_MH)
    for a, b, c, d in pairing.span_G4.tolist():
        mine = b"".join(known.student.pieces[i] or b"" for i in token_N[a:b].tolist())
        assert mine == b"".join(known.teacher.pieces[j] or b"" for j in pairing.token_M[c:d].tolist())
    assert all(b <= c for (_, b, *_), (c, *_) in pairwise(sorted(pairing.span_G4.tolist())))
