"""The reporting checklist of a comparison, filled in from its records and the registry: what is stated, what in part, what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from zoo.checklist_facts import Answer, Facts
from zoo.checklist_method import estimator, gates, init, reduction, regularisers, shaping, signal, states, teacher
from zoo.checklist_run import (
    alarms,
    behaviour,
    budget,
    calibration,
    controls,
    evaluation,
    evidence,
    losses,
    models,
    optimiser,
    outcome,
    provenance,
    retention,
    seeds,
    selection,
    tokenizers,
)
from zoo.entry import MethodEntry
from zoo.records import Record
from zoo.table_failures import Diagnosis
from zoo.table_forms import Column, Table, TableCell
from zoo.table_study import Study

# group, field, what a table cannot support without it, how it is answered
ITEMS: tuple[tuple[str, str, str, Callable[[Facts], Answer]], ...] = (
    ("models", "student and teacher: id, revision, size, precision; how they were trained", "how far apart they are", models),
    ("models", "tokenizers, stop tokens, chat template", "FM03, FM04", tokenizers),
    ("teacher", "access, context, temperature, refresh; its own scores", "FM17 to FM20", teacher),
    ("init", "cold start; the student's scores at step 0", "overlap", init),
    ("states", "prompts; who writes; rollouts, temperature, top-p, lengths, staleness, updates per batch", "claims about exposure", states),
    ("signal", "divergence with its argument order, support, k, what happens to the rest", "FM07", signal),
    ("estimator", "direct or policy gradient, credit, baseline", "FM06", estimator),
    ("routing and gates", "routing, gates, share of tokens kept", "equal compute", gates),
    ("shaping", "clips, powers, normalisation; share of tokens affected", "FM08", shaping),
    ("regularisers", "reference, coefficients, anchor data", "FM01, FM18", regularisers),
    ("reduction", "over tokens, sequences, devices", "FM29", reduction),
    ("optimiser", "optimiser, rate, schedule, batch, steps, clip, adapters", "repetition", optimiser),
    ("budget", "seconds, tokens generated, scored and supervised; what is equal", "most published gaps", budget),
    ("selection", "checkpoint and hyper-parameters: which split, how many trials", "unequal tuning", selection),
    ("seeds", "seeds, spread, noise of an unchanged arm, paired tests, rule for many comparisons", "any ranking", seeds),
    ("evaluation", "suite and version, shots, decoding, items, parsing, truncation", "FM29", evaluation),
    ("outcome", "mean of n, pass@k, curves over steps", "FM15", outcome),
    ("behaviour", "length, truncation, repetition, entropy, overlap", "FM01, FM02, FM13, FM19", behaviour),
    ("calibration", "calibration error, Brier score, over-confidence", "FM17", calibration),
    ("retention", "out of distribution, general, safety, format, turns", "FM24, FM27", retention),
    ("controls", "SFT on the teacher's texts, RL with a verifier, shuffled teacher, teacher = student", "a causal claim", controls),
    ("alarms", "every failure mode: fired, silent, not measured", "healthy runs", alarms),
    ("loss statement", "primary metric, what must be preserved, stress sets, losses seen and not tested", "hidden costs", losses),
    ("provenance", "formulas of paper, code and here; differences", "whose method it is", provenance),
    ("evidence", "own runs with seeds, one run, reported", "a reader's trust", evidence),
)


def checklist_table(scores: pd.DataFrame, chosen: Sequence[Record], registry: Mapping[str, MethodEntry], diagnoses: Sequence[Diagnosis]) -> Table | None:
    """One row per field of the checklist; None where no run was recorded."""
    if not chosen:
        return None
    facts = Facts(Study.of(scores), tuple(chosen), registry, tuple(diagnoses))
    behind = tuple(sorted({digest for record in chosen for digest in record.digests.values()}))
    rows = []
    for group, field, without, answered in ITEMS:
        answer = answered(facts)
        rows.append(tuple(TableCell(text, records=behind) for text in (group, field, answer.status, answer.known, answer.missing, without)))
    titles = (("group", "group"), ("field", "field"), ("status", "status"), ("known", "known"), ("missing", "missing"), ("without", "without it, no word on"))
    count = {status: sum(row[2].text == status for row in rows) for status in ("stated", "in part", "missing")}
    remarks = (
        f"{len(rows)} fields: {', '.join(f'{number} {status}' for status, number in count.items())}. From the records and the registry, nothing by hand.",
        "Methods one by one: `zoo show METHOD` and docs/methods have each entry's formula, fields, published values and deviations.",
    )
    return Table(f"{facts.study.heading} – reporting checklist", tuple(Column(*title, number=False) for title in titles), tuple(rows), remarks, labels=2)
