"""The JSON Schema that editors use agrees with the loader: it accepts every entry and refuses what the loader refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from zoo.components.base import kinds, slots
from zoo.entry import MethodEntry, expand
from zoo.errors import ZooError
from zoo.paths import data_root
from zoo.schema import json_schema
from zoo.yamlio import read_yaml

ENTRIES = sorted((data_root() / "registry" / "methods").rglob("*.yaml"))
SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)

EXAMPLE: dict[str, Any] = {
    "id": "example",
    "name": "Example",
    "paper": {"arxiv": "2601.00001"},
    "evidence": {"level": "inferred", "source": "this test"},
    "coordinates": {
        "feedback_signal": ["logit"],
        "teacher_access": "white_box",
        "loss_granularity": "hybrid",
        "estimator": ["pg_return_to_go", "direct"],
        "routing": ["sampled_token", "teacher_topk"],
    },
    "fixed_point": "teacher",
    "rollout": {"author": "mixture", "of": {"student": 0.8, "teacher": 0.2}, "per": "token", "temperature": {"schedule": "linear", "start": 1, "end": 0.5}},
    "teachers": {"teacher": {"kind": "external"}, "mean": {"kind": "student", "weights": {"ema": 0.99}, "target": {"kind": "temperature", "tau": 2}}},
    "learners": {"value": "value_head"},
    "objective": [
        {
            "term": "policy_gradient",
            "reward": {"kind": "contrast", "of": {"teacher": 1, "student": -1}},
            "credit": {"kind": "return_to_go", "from": "next"},
            "ratio": ["mixture_importance", {"ppo_clip": 0.2}],
            "shaping": [{"kind": "clip", "at": 5}],
            "reduce": {"fixed": 128},
        },
        {
            "term": "divergence",
            "divergence": {"kind": "generalized_jsd", "beta": {"schedule": "cosine", "start": 0.1, "end": 0.9}},
            "support": {"kind": "teacher_topk", "k": 8, "mass": {"renormalise": "both"}},
            "gates": [{"kind": "teacher_entropy", "above": 0.8}],
            "reduce": "token_mean",
            "during": [0, 0.5],
        },
    ],
    "deviations": [{"field": "max_new_tokens", "paper": 512, "ours": 128, "reason": "equal budget"}],
}


def plain(value: Any) -> Any:
    """Lists again where the reader gives tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def loads(entry: dict[str, Any]) -> bool:
    """Whether the typed model takes the entry."""
    try:
        MethodEntry.model_validate(expand(tuples(entry)))
    except (ValidationError, ZooError):
        return False
    return True


def tuples(value: Any) -> Any:
    """Tuples in place of lists, as the reader gives them."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The example with one value replaced; None removes it."""
    entry = copy.deepcopy(EXAMPLE)
    inner: Any = entry
    for part in path[:-1]:
        inner = inner[part]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return entry


def test_is_a_valid_schema_without_dangling_references() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    text = str(SCHEMA)
    assert "x-slot" not in text
    assert {f"slot-{slot}" for slot in slots()} <= SCHEMA["$defs"].keys()


@pytest.mark.parametrize("file", ENTRIES, ids=lambda file: file.stem)
def test_accepts_every_entry_of_the_registry(file: Path) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(plain(read_yaml(file)[0]))] == []


def test_accepts_every_form() -> None:
    assert [error.message for error in VALIDATOR.iter_errors(EXAMPLE)] == []
    assert loads(EXAMPLE)
    streams = changed("rollout", to=None) | {"rollouts": {"main": {"author": "student"}}}
    assert VALIDATOR.is_valid(streams)
    assert VALIDATOR.is_valid({key: EXAMPLE[key] for key in ("id", "name", "paper", "evidence", "fixed_point")} | {"anchor": "student"})


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("objectives",), []),
        (("objective",), None),
        (("rollout",), None),
        (("rollouts",), {"main": {"author": "student"}}),
        (("paper", "arxiv"), 2601.00001),
        (("paper", "arxiv"), "2601.1"),
        (("rollout", "author"), "mixtur"),
        (("rollout", "per"), None),
        (("teachers", "teacher", "kind"), "extern"),
        (("teachers", "mean", "weights"), {"ema": "0.9"}),
        (("teachers", "mean", "weights"), "ema"),
        (("learners", "value"), "value_heads"),
        (("objective", 0, "term"), "policy_gradent"),
        (("objective", 0, "term"), None),
        (("objective", 0, "credit"), {"kind": "discounted"}),
        (("objective", 0, "credit"), "discounted"),
        (("objective", 0, "ratio"), [{"ppo_clip": "0.2"}]),
        (("objective", 0, "ratio"), ["ppo_clop"]),
        (("objective", 0, "reduce"), None),
        (("objective", 0, "reduce"), {"fixed": 0}),
        (("objective", 1, "divergence"), "generalised_jsd"),
        (("objective", 1, "divergence", "beta"), {"schedule": "liner", "start": 0, "end": 1}),
        (("objective", 1, "divergence", "beta"), True),
        (("objective", 1, "support", "k"), 0),
        (("objective", 1, "support", "mass"), {"renormalise": "neither"}),
        (("objective", 1, "gates"), [{"kind": "teacher_entropi", "above": 1}]),
        (("objective", 1, "gates", 0, "abov"), 1),
    ],
)
def test_refuses_what_the_loader_refuses(path: tuple[Any, ...], to: Any) -> None:
    entry = changed(*path, to=to)
    assert not VALIDATOR.is_valid(entry)
    assert not loads(entry)


STAGES = [{"share": 0.25, "rollout": {"author": "dataset"}, "objective": EXAMPLE["objective"][1:]}, {"share": 0.75, "objective": EXAMPLE["objective"][:1]}]


@pytest.mark.parametrize(
    ("change", "legal"),
    [
        ({}, True),
        ({"rounds": 3}, True),
        ({"rounds": 0}, False),
        ({"objective": EXAMPLE["objective"]}, False),
        ({"stages": STAGES[:1]}, False),
        ({"stages": [{**STAGES[0], "teachers": {}}, STAGES[1]]}, False),
        ({"stages": [{**STAGES[0], "rollouts": {}}, STAGES[1]]}, False),
        ({"stages": [{**STAGES[0], "share": 1.0}, STAGES[1]]}, False),
        ({"stages": [{"share": 0.25}, STAGES[1]]}, False),
    ],
)
def test_stages(change: dict[str, Any], legal: bool) -> None:
    staged = {**{key: value for key, value in EXAMPLE.items() if key != "objective"}, "stages": STAGES, **change}
    assert VALIDATOR.is_valid(staged) == legal


def test_every_kind_can_be_completed() -> None:
    """Each slot offers each of its kinds as a mapping with that tag, and by bare name where nothing else is required."""
    for slot in slots():
        forms = SCHEMA["$defs"][f"slot-{slot}"]["anyOf"]
        objects = [SCHEMA["$defs"][form["$ref"].rsplit("/", 1)[-1]] for form in forms if "$ref" in form]
        bare: list[str] = next((form["enum"] for form in forms if "enum" in form), [])
        for kind, cls in kinds(slot).items():
            [own] = [schema for schema in objects if schema["properties"][cls.tag]["const"] == kind]
            assert own["additionalProperties"] is False
            assert (kind in bare) == (own["required"] == [cls.tag])
