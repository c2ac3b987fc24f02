"""Records of comparisons that nobody ran, of any size and deterministic, with curves and findings: for figures and the site."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TASKS = {"sums": "in_distribution", "longer": "out_of_distribution", "copy": "retention"}
LEVELS = {"student": 0.3, "teacher": 0.85, "no_op": 0.3}
IDLE_MODE = "FM14"  # fires in a run that learns nothing
MODES = tuple(f"FM{number:02d}" for number in range(1, 30))


def write_comparison(root: Path, comparison: str, methods: Sequence[str], seeds: Iterable[int] = range(5), *, items: int = 64, points: int = 12) -> int:
    """Write one comparison's records below `root`; returns how many attempts. Anchors are added, of one seed each, and one attempt failed."""
    seeds = list(seeds)
    cells = [(anchor, seeds[0]) for anchor in LEVELS] + [(method, seed) for method in methods for seed in seeds]
    failed = (methods[-1], seeds[-1]) if methods else None
    for method, seed in cells:
        draw = random.Random(f"{comparison} {method} {seed}")
        uuid = hashlib.sha256(f"{comparison} {method} {seed}".encode()).hexdigest()[:32]
        folder = root / comparison / method / uuid
        folder.mkdir(parents=True)
        status = "diverged" if (method, seed) == failed else "success"
        level = min(0.95, max(0.03, LEVELS.get(method, 0.25 + 0.5 * random.Random(method).random()) + (draw.gauss(0, 0.03) if method not in LEVELS else 0)))
        run = _run(comparison, method, seed, uuid, status, [*LEVELS, *methods], seeds, draw)
        _write(folder / "run.json", run)
        shared = {key: run[key] for key in ("schema", "uuid", "run_key", "comparison", "method", "pair", "seed")}
        if status == "success":
            _write(folder / "eval-toy.json", _evaluation(shared, method, level, items, draw))
        if method not in LEVELS:
            _write(folder / "curve.json", shared | {"kind": "curve"} | _columns(_curve(level, points, draw)))
            _write(folder / "failures.json", shared | {"kind": "failures", "findings": _findings(method, draw)})
        elif method == "no_op":
            _write(folder / "failures.json", shared | {"kind": "failures", "findings": {IDLE_MODE: ["red", 1.0, 3, "seen without learning"]}})
    return len(cells)


def _run(comparison: str, method: str, seed: int, uuid: str, status: str, methods: list[str], seeds: list[int], draw: random.Random) -> dict[str, Any]:
    speed = 0.5 + random.Random(method + "cost").random() * 3
    generated = int(64000 * speed)
    spent = {"supervised_tokens": 64010, "generated_tokens": generated, "teacher_tokens": 64010, "steps": 120, "rollouts": 2560,
             "seconds": round(20 + 30 * speed * draw.uniform(0.9, 1.1), 3), "peak_memory_bytes": 704294912, "flops_estimate": 1.7e11}  # fmt: skip
    return {
        "schema": 1, "kind": "run", "uuid": uuid, "run_key": f"v1-{comparison}-{method}-{seed}",
        "created": f"2026-01-01T{seed % 24:02d}:00:00Z", "status": status, "comparison": comparison, "method": method, "pair": "micro", "seed": seed,
        "asked": {"id": comparison, "title": f"Synthetic <{comparison}> & co", "methods": methods, "seeds": seeds, "budget": {"unit": "supervised_tokens"}},
        "resolved": {"learning_rate": 3e-4, "body": {"objective": []}}, "entry_digest": None,
        "budget": {"unit": "supervised_tokens", "asked": 64000, "spent": spent},
        "phases": {name: {"seconds": 10.0, "tokens": 70000} for name in ("rollout", "score", "update", "evaluate")},
        "final": {"loss": round(draw.random(), 4)}, "error": {"type": "Diverged", "message": "loss is NaN at <step> 7"} if status != "success" else None,
        "weights_note": None, "provenance": {"commit": "0" * 40, "packages": {"torch": "2.13.0"}, "hardware": {"cpu": "x", "torch_threads": 1}},
        "evidence": {"level": "code", "source": "synthetic"},
    }  # fmt: skip


def _evaluation(shared: dict[str, Any], method: str, level: float, items: int, draw: random.Random) -> dict[str, Any]:
    tasks = {}
    for place, (task, family) in enumerate(TASKS.items()):
        share = {0: level, 1: level * 0.6, 2: max(0.05, 0.95 - 0.4 * level * (method not in LEVELS))}[place]
        scores = [float(random.Random(f"{task}{index}").random() * 0.7 + draw.random() * 0.3 < share) for index in range(items)]
        tasks[task] = {
            "family": family, "headline": "exact_match,strict", "metrics": {"exact_match,strict": sum(scores) / items}, "n": items,
            "truncated_share": 0.01, "mean_length": 12.0, "items": [[index, score] for index, score in enumerate(scores)],
        }  # fmt: skip
    model = method if method in ("student", "teacher") else "trained"
    return shared | {"kind": "eval", "suite": "toy", "suite_digest": "0" * 64, "model": model, "batch_size": 8, "lm_eval_version": "0.4.13", "tasks": tasks}


def _curve(level: float, points: int, draw: random.Random) -> list[dict[str, Any]]:
    found = []
    for index in range(points):
        share = (index + 1) / points
        accuracy = 0.3 + (level - 0.3) * (1 - math.exp(-3 * share)) + draw.gauss(0, 0.01)
        found.append({
            "step": round(120 * share), "supervised_tokens": round(64000 * share), "generated_tokens": round(64000 * share), "seconds": 50 * share,
            "loss": round(1.2 * math.exp(-2 * share) + draw.gauss(0, 0.02), 5), "grad_norm": 1.0,
            "truncated": 0.01, "length": round(12 + 6 * level * share + draw.gauss(0, 0.3), 3),
            "entropy": round(1.4 - share * (1.5 - level) + draw.gauss(0, 0.02), 5),
            "kl": round(max(0.01, 0.8 * math.exp(-2.5 * share * level * 2) + draw.gauss(0, 0.01)), 5), "repeat_share": 0.02,
            "accuracy": round(min(1.0, max(0.0, accuracy)), 5) if index % 2 else None,
        })  # fmt: skip
    return found


def _columns(points: list[dict[str, Any]]) -> dict[str, Any]:
    return {"columns": list(points[0]), "points": [list(point.values()) for point in points]}


def _findings(method: str, draw: random.Random) -> dict[str, Any]:
    prone = random.Random(method + "modes")
    found = {}
    for mode in MODES:
        risk = prone.random()
        level = (
            "not_measured" if mode > "FM26" else "red" if risk > 0.93 and draw.random() > 0.3 else "amber" if risk > 0.82 and draw.random() > 0.3 else "silent"
        )
        fired = level in ("amber", "red")
        value, step = (round(draw.random(), 4) if level != "not_measured" else None), draw.randrange(1, 100) if fired else None
        found[mode] = [level, value, step, "seen <here>" if fired else ""]
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
