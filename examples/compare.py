"""Compare two methods on the micro pair with a few lines of Python; about half a minute on two CPU cores.

    python examples/compare.py [RESULTS_FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import zoo

COMPARISON = """
id: example
title: On-policy reverse KL against supervised fine-tuning
pair: micro
methods: [student, teacher, sft, gkd_on_policy]
seeds: [0]
suites: [micro]
budget: {unit: supervised_tokens, amount: 12000}
settings: {rollouts_per_step: 64, max_new_tokens: 40, learning_rate: 5.0e-4, warmup: 0.1}
evaluation: {limit: 64}
"""


def main(results: Path) -> None:
    """Declare a comparison, look at its plan, run it, read its scores."""
    declared = results / "example.yaml"
    results.mkdir(parents=True, exist_ok=True)
    declared.write_text(COMPARISON, encoding="utf-8")

    registry = zoo.load_registry()
    print(f"{len(registry)} entries; gkd_on_policy is {registry['gkd_on_policy'].coordinates}")

    plan = zoo.plan(declared, results=results)
    print(f"{len(plan.cells)} cells, {plan.tokens_left:,} supervised tokens to go")

    for outcome in zoo.run(declared, results=results):
        print(outcome.cell.method, outcome.status)

    table = zoo.scores("example", results=results)
    headline = table[table["headline"] & (table["family"] == "in_distribution")]
    print(headline[["method", "task", "score", "stderr", "steps"]].to_string(index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
