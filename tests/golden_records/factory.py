"""Small valid records for tests, written through the real writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.records import write_record

FAMILY = {"sums": "in_distribution", "longer": "out_of_distribution", "copy": "retention"}
CREATED = "2026-01-01T00:{:02d}:00Z"


def run_payload(method: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A successful run of comparison `toy`; `changes` replace its fields."""
    spent = {"supervised_tokens": 64010, "generated_tokens": 70000, "teacher_tokens": 64010, "steps": 20, "rollouts": 2560, "seconds": 31.5}
    payload = {
        "schema": 1,
        "kind": "run",
        "uuid": f"{method}-{seed}",
        "run_key": f"v1-{method}-{seed}",
        "created": CREATED.format(seed),
        "status": "success",
        "comparison": "toy",
        "method": method,
        "pair": "micro",
        "seed": seed,
        "asked": {"methods": [method], "seeds": [seed]},
        "resolved": {},
        "entry_digest": None,
        "budget": {"unit": "supervised_tokens", "asked": 64000, "spent": spent},
        "phases": {"rollout": {"seconds": 10.0, "tokens": 70000}},
        "final": {},
        "error": None,
        "weights_note": None,
        "provenance": {"commit": None, "dirty": None, "packages": {}, "hardware": {}, "arguments": []},
    }
    return payload | changes


def eval_payload(run: Mapping[str, Any], items: Mapping[str, Sequence[float]], suite: str = "toy") -> dict[str, Any]:
    """An evaluation of a run: the scores of the items of each task, in order."""
    method = run["method"]
    tasks = {
        task: {
            "family": FAMILY[task],
            "headline": "exact_match,strict",
            "metrics": {"exact_match,strict": sum(scores) / len(scores)},
            "n": len(scores),
            "truncated_share": 0.25,
            "mean_length": 12.0,
            "items": [[index, score] for index, score in enumerate(scores)],
        }
        for task, scores in items.items()
    }
    shared = {key: run[key] for key in ("schema", "uuid", "run_key", "comparison", "method", "pair", "seed")}
    model = method if method in ("student", "teacher") else "trained"
    return shared | {
        "kind": "eval",
        "suite": suite,
        "suite_digest": "5" * 64,
        "model": model,
        "batch_size": 8,
        "lm_eval_version": "0.4.13",
        "tasks": tasks,
    }


def write_run(root: Path, run: Mapping[str, Any], items: Mapping[str, Sequence[float]] | None = None) -> Path:
    """Write a run and, with `items`, its evaluation; returns its folder."""
    folder = root / run["comparison"] / run["method"] / run["uuid"]
    if items:
        write_record(folder, "eval-toy.json", eval_payload(run, items))
    write_record(folder, "run.json", run)
    return folder


def event_payload(action: str, target: str, by: str | None = None, uuid: str = "event-1") -> dict[str, Any]:
    created = "2026-02-01T00:00:00Z"
    reason = "a reason"
    return {"schema": 1, "kind": "event", "uuid": uuid, "created": created, "action": action, "target": target, "reason": reason, "by": by}
