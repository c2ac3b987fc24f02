"""Stages: what they are written out as, what runs when, and what is refused, with the line at fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from harness_kit import made, read_pair, trainer_of

from zoo.entry import load_entry
from zoo.entry.loading import expand
from zoo.errors import ZooError
from zoo.harness.models import LoadedPair
from zoo.method import Method

KL = {"term": "divergence", "teacher": "teacher", "divergence": "forward_kl", "support": "full", "reduce": "token_mean"}
LIKELY = {"term": "likelihood", "reduce": "token_mean"}
WARM, OWN = {"share": 0.25, "rollout": {"author": "dataset"}, "objective": [LIKELY]}, {"share": 0.75, "rollout": {"author": "student"}, "objective": [KL]}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file)


def body(*stages: Any, **more: Any) -> dict[str, Any]:
    return {"teachers": {"teacher": {"kind": "external"}}, "stages": list(stages), **more}


def test_streams_of_one_name_are_told_apart_only_where_they_differ() -> None:
    found = expand(body(WARM, OWN))
    assert found["rollouts"] == {"main_1": {"author": "dataset"}, "main_2": {"author": "student"}}
    assert [(term["on"], term["during"]) for term in found["objective"]] == [("main_1", (0.0, 0.25)), ("main_2", (0.25, 1.0))]
    same = expand(body({**OWN, "share": 0.5}, {**OWN, "share": 0.5, "objective": [LIKELY]}))
    assert list(same["rollouts"]) == ["main"] and [term["on"] for term in same["objective"]] == ["main", "main"]
    shared = expand(body({**WARM, "rollout": {"author": "student"}}, {"share": 0.75, "objective": [KL]}, rollout={"author": "student"}))
    assert list(shared["rollouts"]) == ["main"] and "on" not in shared["objective"][1]
    pairs = expand(body(WARM, {"share": 0.75, "rollouts": {"main": {"author": "student"}, "theirs": {"author": "teacher"}}, "objective": [
        {"term": "log_prob_loss", "loss": "odds_ratio", "chosen": "theirs", "rejected": "main"}]}))  # fmt: skip
    assert (pairs["objective"][1]["chosen"], pairs["objective"][1]["rejected"]) == ("theirs", "main_2") and "on" not in pairs["objective"][1]


def test_stages_follow_each_other_and_only_their_own_streams_are_written(pair: LoadedPair) -> None:
    trainer = trainer_of(made(**expand(body(WARM, OWN))), pair, budget={"amount": 600})
    written: list[tuple[float, set[str]]] = []
    write = trainer.write

    def watched(method: Method) -> Any:
        streams = write(method)
        written.append((trainer.progress, set(streams)))
        return streams

    trainer.write = watched  # type: ignore[method-assign]
    trainer.train(lambda row: None, lambda: None)
    assert [streams for progress, streams in written] == [{"main_1"} if progress < 0.25 else {"main_2"} for progress, _ in written]
    assert len(written) > 4 and {len(streams) for _, streams in written} == {1}
    assert [("loss.0.likelihood" in row) for row in trainer.rows] == [progress < 0.25 for progress, _ in written]


def test_stages_take_turns_in_rounds() -> None:
    method = [term for _, term in Method(made(**expand(body(WARM, OWN, rounds=4)))).terms]
    assert [term.term for term in method] == ["likelihood"]
    entry = made(**expand(body(WARM, OWN, rounds=4)))
    found = [[i for i, _ in Method(entry, progress).terms] for progress in (0.0, 0.06, 0.0625, 0.2, 0.25, 0.3, 0.313, 0.75, 0.99, 1.0)]
    assert found == [[0], [0], [1], [1], [0], [0], [1], [0], [1], [1]]
    assert made(**expand(body(WARM, OWN))).model_dump(mode="json")["objective"][0].get("rounds") is None


HEAD = {"id": "staged", "name": "Staged", "paper": {}, "evidence": {"level": "inferred", "source": "a test"}, "fixed_point": "none", "anchor": "trained"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (body(WARM), "two or more stages"),
        (body(WARM, {**OWN, "share": 0.5}), "sum to 0.75"),
        (body(WARM, OWN, objective=[KL]), "belongs to each of the stages"),
        (body(WARM, {**OWN, "shares": 0.5}), "unknown key 'shares'"),
        (body(WARM, {**OWN, "objective": [{**KL, "during": [0.0, 0.5]}]}), "the stage is the term's window"),
        (body(WARM, {**OWN, "share": 1.5}), "between 0 and 1"),
        (body(WARM, OWN, rounds=0), "whole number from 1 on"),
        (body(WARM, {**OWN, "objective": [{**KL, "divergence": "forwad_kl"}]}), "stages[1].objective[0].divergence: unknown divergence 'forwad_kl'"),
        (body(WARM, {**OWN, "objective": [{**KL, "teacher": "techer"}]}), "stages[1].objective[0]: scorer 'techer' is not under teachers"),
        (body(WARM, {**OWN, "rollout": {"author": "studnt"}}), "stages[1].rollout"),
    ],
)
def test_mistakes_are_told_where_they_are(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    file = tmp_path / "staged.yaml"
    file.write_text(yaml.safe_dump({**HEAD, **data}, sort_keys=False), encoding="utf-8")
    with pytest.raises(ZooError) as error:
        load_entry(file)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_staged_entry_loads(tmp_path: Path) -> None:
    file = tmp_path / "staged.yaml"
    file.write_text(yaml.safe_dump({**HEAD, **body(WARM, OWN)}), encoding="utf-8")
    entry = load_entry(file)
    assert [term.during for term in entry.objective] == [(0.0, 0.25), (0.25, 1.0)]
