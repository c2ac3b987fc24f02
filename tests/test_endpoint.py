"""Endpoints, against a real server on this machine: the micro teacher speaks through it, or it misbehaves in every way it can."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.chat_server import Chat, serving, speaks_for
from zoo.components.base import Context
from zoo.components.rewards import Judge
from zoo.errors import ZooError
from zoo.harness.endpoint import Endpoint, EndpointSource, Question
from zoo.harness.endpoint import client as client_module
from zoo.harness.endpoint.judging import judged_by, marks_of, ranking_of, rubric_of, score_of, verdict_of
from zoo.harness.endpoint.ledger import SpendingLimit

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "WAIT", 0.01)


@pytest.fixture
def chat() -> Iterator[Chat]:
    with serving(Chat(lambda body: f"{body['messages'][-1]['content']}:{body['seed']}")) as found:
        yield found


def endpoint(chat: Chat, folder: Path, **fields: Any) -> Endpoint:
    return Endpoint(EndpointSource(url=chat.url, model="m", cache=str(folder), **{"timeout": 1.0, "retries": 2, **fields}))


def test_answers_come_in_order_and_many_at_once(chat: Chat, tmp_path: Path) -> None:
    chat.modes = ["slow"]
    began = time.monotonic()
    found = endpoint(chat, tmp_path, concurrency=4, timeout=20.0).ask([Question(f"q{i}", seed=i) for i in range(8)])
    assert found == [f"q{i}:{i}" for i in range(8)]
    assert chat.most_together == 4
    assert time.monotonic() - began < 8 * 1.5


def test_what_was_asked_once_is_kept(chat: Chat, tmp_path: Path) -> None:
    questions = [Question("a", seed=1), Question("a", seed=2), Question("a", seed=1, temperature=0.5)]
    first = endpoint(chat, tmp_path).ask(questions)
    again = endpoint(chat, tmp_path)
    assert again.ask(questions) == first
    assert len(chat.asked) == 3
    assert again.ledger.figures()["cached"] == 3
    for file in tmp_path.rglob("*.json"):
        if file.name != "spent.json":
            file.write_text("{torn")
    assert endpoint(chat, tmp_path).ask(questions[:1]) == first[:1]
    assert len(chat.asked) == 4, "a damaged file counts as none"


MISBEHAVING = [
    "429", "500", "503", "no json", "no choices", "no text", "other shape", "endless", "hangs up", "null", "a list", "NaN", "nested", "nothing",
    "no utf-8", "an error", "an event", "half a character", "parts", "bare choices", "flood", "compressed", "wait nan", "wait -5", "wait soon",
]  # fmt: skip


@pytest.mark.parametrize("mode", MISBEHAVING)
def test_a_failure_that_may_pass_is_tried_again(chat: Chat, tmp_path: Path, mode: str) -> None:
    chat.modes = [mode, "good"]
    asked = endpoint(chat, tmp_path)
    assert asked.ask([Question("a")]) == ["a:0"]
    assert asked.ledger.account.retries == 1
    chat.modes = [mode]
    with pytest.raises(ZooError, match=r"endpoint m at http.* gave no usable answer in 3 tries; the last: "):
        endpoint(chat, tmp_path / "other").ask([Question("b")])


@pytest.mark.parametrize("mode", ["slow", "drips"])
def test_a_slow_answer_is_given_up(chat: Chat, tmp_path: Path, mode: str) -> None:
    chat.modes = [mode]
    began = time.monotonic()
    with pytest.raises(ZooError, match=r"no answer within 0\.3 s"):
        endpoint(chat, tmp_path, timeout=0.3, retries=1).ask([Question("a")])
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize("mode", ["400", "401"])
def test_a_refusal_is_not_tried_again(chat: Chat, tmp_path: Path, mode: str) -> None:
    chat.modes = [mode]
    with pytest.raises(ZooError, match=rf"refuses the request \(status {mode}\).*check url, model and the key in \$OPENAI_API_KEY"):
        endpoint(chat, tmp_path).ask([Question("a")])
    assert len(chat.asked) == 1


def test_no_server_is_said(tmp_path: Path) -> None:
    source = EndpointSource(url="http://127.0.0.1:9/v1", model="m", cache=str(tmp_path), retries=0)
    with pytest.raises(ZooError, match="no connection"):
        Endpoint(source).ask([Question("a")])


def test_money_is_counted_and_ends(chat: Chat, tmp_path: Path) -> None:
    fields = {"price_in": 1.0, "price_out": 100.0, "spend_limit": 0.01}
    asked = endpoint(chat, tmp_path, **fields)
    asked.ask([Question("a", max_tokens=50)])
    assert asked.ledger.account.cost == pytest.approx((10 * 1.0 + 5 * 100.0) / 1e6)
    with pytest.raises(SpendingLimit, match=r"of 0.01 is spent and the next request may cost"):
        asked.ask([Question("b", max_tokens=200)])
    assert len(chat.asked) == 1, "what might pass the limit is never sent"
    with pytest.raises(SpendingLimit):
        endpoint(chat, tmp_path, **fields).ask([Question(str(i), max_tokens=90) for i in range(100)])
    spent = json.loads((tmp_path / "spent.json").read_text())["cost"]
    assert 0 < spent <= 0.01, "requests at the same time stay within the limit together, and a new run goes on from it"
    (tmp_path / "spent.json").write_text("?")
    with pytest.raises(ZooError, match="what was spent can't be read"):
        endpoint(chat, tmp_path, **fields).ask([Question("c")])


def test_tokens_have_a_limit_too_and_a_price_needs_one(chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(SpendingLimit, match="of 100 tokens are used"):
        endpoint(chat, tmp_path, token_limit=100).ask([Question("a", max_tokens=99)])
    with pytest.raises(ValueError, match="needs spend_limit"):
        EndpointSource(url="http://x", model="m", price_out=1.0)
    with pytest.raises(ValueError, match="begin with http"):
        EndpointSource(url="ftp://x", model="m")


def test_lies_about_usage_are_not_believed(chat: Chat, tmp_path: Path) -> None:
    chat.modes = ["lies about usage"]
    asked = endpoint(chat, tmp_path)
    asked.ask([Question("a" * 320)])
    account = asked.ledger.account
    assert (account.prompt_tokens, account.completion_tokens) == (384, 256), "the most that it can have been: 320 bytes, a chat format, all that was allowed"
    chat.modes = ["other model"]
    asked.ask([Question("b")])
    assert account.served == {"m": 1, "another": 1}, "who really answered stands in the record"


def test_replies_are_read_strictly() -> None:
    assert [verdict_of(text, "right", "wrong") for text in ("Right.", "It is wrong")] == [1.0, 0.0]
    assert [score_of(text, 9) for text in ("7", "Score: 3/9", "0")] == [7 / 9, 3 / 9, 0.0]
    assert ranking_of("2 > 1 > 3", 3) == [1, 0, 2]
    assert rubric_of('Here: [{"criterion": "adds up", "weight": 2}]') == [("adds up", 2.0)]
    assert marks_of("[true, false]", 2) == [True, False]
    for read, bad in (
        (lambda t: verdict_of(t, "right", "wrong"), ["", "right or wrong", "copyright"]),
        (lambda t: score_of(t, 9), ["", "10", "-1", "7.5", "between 3 and 5"]),
        (lambda t: ranking_of(t, 3), ["1 2", "1 1 2", "1 2 4", ""]),
        (rubric_of, ["[]", "no", '[{"criterion": "", "weight": 1}]', '[{"criterion": "a", "weight": -1}]', '[{"criterion": "a", "weight": true}]', "[1"]),
        (lambda t: marks_of(t, 2), ["[true]", "[1, 0]", "{}", "[true, null]"]),
    ):
        for text in bad:
            with pytest.raises(ValueError, match=r"."):
                read(text)


def judge(**fields: Any) -> Judge:
    return Judge(by="teacher", context=Context(made=({"kind": "attempt"},), template="attempt"), **fields)


def test_a_judge_that_fails_leaves_its_group_s_mean(chat: Chat, tmp_path: Path) -> None:
    marks = {"a": "9", "b": "3", "c": "who knows", "d": "100"}
    chat.reply = lambda body: marks[body["messages"][-1]["content"][0]]
    found = judged_by(endpoint(chat, tmp_path, retries=1), ["a", "b", "c", "d"], judge(ask="score", failures=0.5), {}, [0, 0, 0, 1])
    assert found.tolist() == pytest.approx([1.0, 3 / 9, 6 / 9, 0.0])
    with pytest.raises(ZooError, match=r"2 of 4 answers have no judgement, more than the share 0.4 .*'who knows' is no whole number|100"):
        judged_by(endpoint(chat, tmp_path / "x", retries=1), ["a", "b", "c", "d"], judge(ask="score"), {}, [0, 0, 0, 1])


@pytest.fixture(scope="module")
def pair() -> Any:
    from zoo.harness.models import load_pair, load_pair_spec

    return load_pair(load_pair_spec("micro"))


def test_the_micro_teacher_behind_a_server_writes_and_judges_for_a_run(pair: Any, tmp_path: Path) -> None:
    """GAD reads its texts and OVD its marks: the whole loop, from HTTP to the gradient, and what it took in the record."""
    from zoo.bench import Bench
    from zoo.check import file_of
    from zoo.entry import load_entry
    from zoo.tensors import Author

    with serving(Chat(speaks_for(pair))) as chat:
        spoken = endpoint(chat, tmp_path, timeout=30.0)
        bench = Bench().sized(8, 12)
        bench.pair = replace(bench.pair, endpoints={"teacher": spoken})
        trainer = bench.trainer(load_entry(file_of("gad")))
        rows = list(trainer.iterate())
        assert rows
        assert all(torch.isfinite(torch.tensor(row["grad_norm"])) for row in rows)
        assert spoken.ledger.figures()["requests"] == len(chat.asked) == 1
        from zoo.method import Method

        theirs = trainer.write(Method(trainer.entry, 0.0))["theirs"]
        assert set(theirs.author_BT[theirs.mask_BT].tolist()) == {int(Author.TEACHER)}
        assert torch.isnan(theirs.behaviour_logp_BT[theirs.mask_BT]).all()
        said = pair.decode(theirs.response_BT[0][theirs.mask_BT[0]].tolist())
        assert said[0] == theirs.prompts[0].text[1], "the first running total is the first digit: it is the micro teacher that speaks"
        chat.modes = ["says 7", "says 2", "says 4", "says 9", "says 0"]
        larger = bench.sized(16, 12)
        rows = list(larger.trainer(load_entry(file_of("ovd"))).iterate())
        marks = [row["reward.mark.main"] for row in rows]
        assert sum(marks) * 8 * 9 == pytest.approx(7 + 2 + 4 + 9), "every mark is the server's own"
        assert max(row["grad_norm"] for row in rows) > 0
    assert any("0 to 9 only" in body["messages"][-1]["content"] for body in chat.asked)


def test_markup_in_a_reply_is_text(pair: Any, tmp_path: Path) -> None:
    """A server that writes the student's own stop token, spelled out, ends nothing by it."""
    from zoo.check import file_of
    from zoo.entry import load_entry
    from zoo.method import Method
    from zoo.probe import Bench

    stop = pair.tokenizer.eos_token
    assert pair.tokenizer.encode(stop, add_special_tokens=False) == [pair.stop_ids[0]], "as markup it is one token"
    with serving(Chat(lambda body: f"12{stop}34")) as chat:
        bench = Bench().sized(8, 12)
        bench.pair = replace(bench.pair, endpoints={"teacher": endpoint(chat, tmp_path)})
        trainer = bench.trainer(load_entry(file_of("gad")))
        theirs = trainer.write(Method(trainer.entry, 0.0))["theirs"]
    for ids, mask in zip(theirs.response_BT.tolist(), theirs.mask_BT.tolist(), strict=True):
        written = [token for token, m in zip(ids, mask, strict=True) if m]
        assert not set(written[:-1]) & set(pair.stop_ids)


def test_a_beginning_is_gone_on_from(chat: Chat, tmp_path: Path) -> None:
    from zoo.harness.endpoint.texts import written_by

    chat.reply = lambda body: " 8"
    chat.modes = ["good", "repeats"]
    asked = endpoint(chat, tmp_path)
    assert written_by(asked, [Question("+35=", begun="3")]) == [" 8"]
    assert written_by(asked, [Question("+35=", begun="3", seed=1)]) == [" 8"], "a reply that repeats its beginning counts without it"
    assert chat.asked[0]["messages"] == [{"role": "user", "content": "+35="}, {"role": "assistant", "content": "3"}]


@pytest.mark.parametrize(("mode", "tokens"), [("endless tokens", (10, 3)), ("usage NaN", (65, 3)), ("usage none", (65, 3)), ("usage in words", (65, 3))])
def test_a_count_that_cannot_be_is_replaced_by_the_most_it_can_be(chat: Chat, tmp_path: Path, mode: str, tokens: tuple[int, int]) -> None:
    chat.modes = [mode]
    asked = endpoint(chat, tmp_path)
    asked.ask([Question("a")])
    assert (asked.ledger.account.prompt_tokens, asked.ledger.account.completion_tokens) == tokens


def test_what_may_have_been_billed_is_counted(chat: Chat, tmp_path: Path) -> None:
    """A server that takes the request and never answers may bill for it; one that nobody reached cannot."""
    fields = {"price_in": 1.0, "price_out": 1.0, "spend_limit": 1.0, "retries": 0, "timeout": 0.3}
    for mode in ("slow", "hangs up", "flood"):
        chat.modes = [mode]
        asked = endpoint(chat, tmp_path / mode, **fields)
        with pytest.raises(ZooError):
            asked.ask([Question("a", max_tokens=100)])
        assert (asked.ledger.account.prompt_tokens, asked.ledger.account.completion_tokens) == (65, 100), mode
    source = EndpointSource(url="http://127.0.0.1:9/v1", model="m", cache=str(tmp_path / "x"), **fields)  # type: ignore[arg-type]
    nobody = Endpoint(source)
    with pytest.raises(ZooError, match="no connection"):
        nobody.ask([Question("a")])
    assert nobody.ledger.account.cost == 0.0


def test_two_runs_at_once_share_the_limit(chat: Chat, tmp_path: Path) -> None:
    """Each knows what the other has under way, and what a run that died had under way counts as spent."""
    fields = {"price_out": 100.0, "spend_limit": 0.01}
    one, other = (endpoint(chat, tmp_path, **fields).ledger for _ in range(2))
    aside = one.before(10, 60)
    with pytest.raises(SpendingLimit):
        other.before(10, 60)
    one.after(aside, 10, 5, "m")
    other.after(other.before(10, 60), 10, 5, "m")
    assert json.loads((tmp_path / "spent.json").read_text()) == {"cost": pytest.approx(0.001), "tokens": 30, "aside": {}}
    gone = f"{one.name.split(':')[0]}:{2**22 + 1}:0"
    (tmp_path / "spent.json").write_text(json.dumps({"cost": 0.001, "tokens": 30, "aside": {gone: [0.008, 80]}}))
    with pytest.raises(SpendingLimit, match=r"0\.009 of 0\.01 is spent"):
        other.before(10, 60)


@pytest.mark.parametrize(
    "text", ['{"cost": NaN, "tokens": 0}', '{"cost": -1, "tokens": 0}', '{"cost": 0, "tokens": 1e400}', "[]", '{"cost": 0, "tokens": 0, "aside": 3}']
)
def test_an_account_that_is_no_account_stops_everything(chat: Chat, tmp_path: Path, text: str) -> None:
    (tmp_path / "spent.json").write_text(text)
    with pytest.raises(ZooError, match="what was spent can't be read"):
        endpoint(chat, tmp_path, price_out=1.0, spend_limit=1.0).ask([Question("a")])
    assert not chat.asked


def test_another_address_has_other_answers(chat: Chat, tmp_path: Path) -> None:
    """Two servers may call their models alike and share a folder."""
    endpoint(chat, tmp_path).ask([Question("a")])
    with serving(Chat(lambda body: "other")) as second:
        assert endpoint(second, tmp_path).ask([Question("a")]) == ["other"]
    for file in tmp_path.rglob("*.json"):
        if file.name != "spent.json":
            kept = json.loads(file.read_text())
            file.write_text(json.dumps({**kept, "request": {**kept["request"], "seed": 5}}))
    before = len(chat.asked)
    assert endpoint(chat, tmp_path).ask([Question("a")]) == ["a:0"]
    assert len(chat.asked) == before + 1, "an answer to another request, under this one's key, is none"


def test_a_prompt_goes_where_it_was_sent_and_nowhere_else(chat: Chat, tmp_path: Path) -> None:
    with serving(Chat(lambda body: "stolen")) as thief:
        chat.modes, chat.elsewhere = ["elsewhere"], f"{thief.url}/chat/completions"
        with pytest.raises(ZooError, match=r"refuses the request \(status 307\)"):
            endpoint(chat, tmp_path).ask([Question("a")])
        assert not thief.asked


def test_asking_from_within_a_loop(chat: Chat, tmp_path: Path) -> None:
    import asyncio

    async def notebook() -> list[str]:
        return endpoint(chat, tmp_path).ask([Question("a")])

    assert asyncio.run(notebook()) == ["a:0"]


def test_numbers_that_are_none_are_refused_where_an_endpoint_is_declared() -> None:
    for fields in (
        {"price_out": float("nan"), "spend_limit": 1.0},
        {"spend_limit": float("inf")},
        {"timeout": float("inf")},
        {"price_in": float("inf"), "spend_limit": 1.0},
    ):
        with pytest.raises(ValueError, match=r"greater|finite"):
            EndpointSource(url="http://x", model="m", **fields)
