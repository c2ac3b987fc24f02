"""The checklist's fields about runs: models, optimiser, budget, seeds, evaluation, retention, controls, alarms, provenance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from zoo import stats
from zoo.checklist_facts import Answer, Facts, counted, joined, kind, span
from zoo.score_frame import ANCHORS
from zoo.table_cells import difference_cell, scored
from zoo.table_forms import fixed

UNCHANGED = ANCHORS[-1]  # trained with a learning rate of 0


def models(facts: Facts) -> Answer:
    """Where the weights come from."""
    sources = {"student": facts.pair.get("student"), **(facts.pair.get("teachers") or {})} if facts.pair else {}
    named = [f"{name}: {_source(source)}" for name, source in sources.items() if isinstance(source, Mapping)]
    return Answer(joined(str(facts.pair.get("title", "")), *named), joined("" if facts.pair else "the records name the pair only", "precision"))


def _source(source: Mapping[str, Any]) -> str:
    at = source.get("hub") or source.get("path") or source.get("of")
    revision = f" at {source['revision']}" if source.get("revision") else ""
    return f"{at}{revision}" if at else f"shipped with the package ({source.get('shipped')})"


def tokenizers(facts: Facts) -> Answer:
    """Whether a chat template is used, and what is appended."""
    if not facts.pair:
        return Answer("", "not recorded")
    suffix = facts.pair.get("prompt_suffix")
    said = f"{'the chat template' if facts.pair.get('chat') else 'no chat template'}{f', suffix {suffix!r}' if suffix else ''}"
    return Answer(joined(said, "weights and tokenizer files are part of each run's key"), "stop tokens and the template's digest")


def optimiser(facts: Facts) -> Answer:
    """Optimiser and its settings."""
    settings = facts.asked.get("settings") or {}
    kinds = counted(kind(body["update"]) for body in facts.bodies.values() if body.get("update"))
    adapters = counted(kind(body["update"]["adapter"]) for body in facts.bodies.values() if (body.get("update") or {}).get("adapter"))
    rates = span((float(rate) for record in facts.trained if isinstance(rate := record.run.resolved.get("learning_rate"), int | float)), "g")
    steps = span(record.run.budget.spent.get("steps") or 0 for record in facts.trained)
    clip = f"gradient clip {settings['clip_norm']}" if "clip_norm" in settings else ""
    schedule = f"{settings['schedule']} schedule, warm-up {settings.get('warmup', 0)}" if "schedule" in settings else ""
    rate = f"learning rate {rates}" if rates else ""
    known = joined(kinds, f"adapters: {adapters}" if adapters else "", rate, schedule, clip, f"{steps} steps" if steps else "")
    return Answer(known, "" if rates and settings else "settings were not recorded")


def budget(facts: Facts) -> Answer:
    """What is equal, and what else was spent."""
    names = {"supervised_tokens": "supervised", "generated_tokens": "generated", "teacher_tokens": "scored by teachers", "seconds": "seconds"}
    spent = {title: [record.run.budget.spent.get(name) for record in facts.trained] for name, title in names.items()}
    known = [f"{title} {span(float(value) for value in values if value is not None)}" for title, values in spent.items() if any(v is not None for v in values)]
    lacking = [title for title, values in spent.items() if any(value is None for value in values)]
    run = facts.trained[0].run if facts.trained else facts.newest.run
    equal = f"equal {run.budget.unit.replace('_', ' ')}: {run.budget.asked:,}"
    return Answer(joined(equal, *known), f"in some runs: {', '.join(lacking)}" if lacking else "")


def selection(facts: Facts) -> Answer:
    """Which checkpoint, and how hyper-parameters were chosen."""
    sweep = facts.asked.get("sweep")
    checkpoint = {"last": "the weights at the end of the budget"}.get(str(facts.asked.get("selection", "")), str(facts.asked.get("selection") or ""))
    if isinstance(sweep, Mapping):
        rates, tried = list(sweep.get("learning_rates") or ()), list(sweep.get("seeds") or ())
        tuned = f"learning rate: best of {len(rates)} ({', '.join(f'{r:g}' for r in rates)}) for every method on seeds {', '.join(map(str, tried))}"
        return Answer(joined(checkpoint, f"{tuned}, which are not reported; suite {sweep.get('suite', 'as here')}"))
    overrides = facts.asked.get("overrides") or {}
    own = f"; {len(overrides)} methods have their own, with reasons" if overrides else ""
    return Answer(joined(checkpoint, f"one learning rate for all, from no sweep{own}") if checkpoint or overrides else "", "" if checkpoint else "not recorded")


def seeds(facts: Facts) -> Answer:
    """Seeds, spread and tests."""
    number = len(facts.study.seeds)
    known = f"{number} seed{'' if number == 1 else 's'} ({', '.join(map(str, facts.study.seeds))})"
    unchanged = [row for row in facts.study.rows if row["method"] == UNCHANGED and row["items"]]
    noise = ""
    if unchanged:
        moved = max(abs(row["difference"]) for row in unchanged if not math.isnan(row["difference"])) if any(
            not math.isnan(row["difference"]) for row in unchanged) else math.nan  # fmt: skip
        noise = "" if math.isnan(moved) else f"an unchanged arm moves by {fixed(moved, 3)} at most"
    if number >= stats.MIN_SEEDS:
        return Answer(joined(known, "intervals over seeds and items, paired", "Holm's adjustment", noise), "" if noise else "an unchanged arm")
    return Answer(joined(known, "errors over items, paired", noise), joined("intervals over seeds: too few", "" if noise else "an unchanged arm"))


def evaluation(facts: Facts) -> Answer:
    """Suites, versions, items, decoding."""
    suites = sorted({f"{row['suite']} (version {row['suite_digest'][:12]})" for row in facts.study.rows if row["suite_digest"]})
    versions = sorted({row["lm_eval_version"] for row in facts.study.rows if row["lm_eval_version"]})
    items = [f"{task.name} {span(row['n'] for row in scored(task.of(facts.study.rows)))} items" for task in facts.study.tasks]
    cut = [row["truncated_share"] for row in facts.rows() if not math.isnan(row["truncated_share"])]
    if not suites:
        return Answer("", "nothing was evaluated")
    truncated = f"answers cut off: {fixed(100 * min(cut), 1)} to {fixed(100 * max(cut), 1)} %" if cut else ""
    known = joined(*suites, f"lm-eval {', '.join(versions)}", *items, "one greedy answer an item", "all filters: `all_metrics`", truncated)
    return Answer(known, joined("" if truncated else "truncated share", "share of answers that could not be parsed"))


def outcome(facts: Facts) -> Answer:
    """What is measured of outcomes."""
    scores = "accuracy of one greedy answer; teacher-gap closed" + (" with intervals" if len(facts.study.seeds) >= stats.MIN_SEEDS else "")
    return Answer(scores if facts.study.tasks else "", "mean of n, pass@k" + ("" if _curves(facts) else "; curves over steps"))


def _curves(facts: Facts) -> bool:
    """Whether detectors read the runs, whose curves lie beside what they said."""
    return bool(facts.diagnoses)


def behaviour(facts: Facts) -> Answer:
    """Lengths and cut answers; the rest where runs were diagnosed."""
    lengths = [row["mean_length"] for row in facts.rows("in_distribution") if not math.isnan(row["mean_length"])]
    known = f"length of answers {span(lengths, '.1f')} tokens; truncated share: `costs`" if lengths else ""
    logged = "repetition, entropy and divergence over steps: each run's curve.json" if _curves(facts) else ""
    return Answer(joined(known, logged), "epistemic markers" if logged else "repetition, entropy, overlap with the teacher, epistemic markers")


def calibration(facts: Facts) -> Answer:
    """Nothing states its confidence here."""
    return Answer("", "no task asks for a confidence")


def retention(facts: Facts) -> Answer:
    """Tasks out of distribution and of retention."""
    kept = [f"{task.name} ({task.family.replace('_', ' ')})" for task in facts.study.tasks if task.family != "in_distribution"]
    return Answer(joined(*kept, "difference to the untrained student with its error") if kept else "", "safety, format, several turns")


def controls(facts: Facts) -> Answer:
    """Which controls are among the methods, by what they run."""
    found, lacking = [], []
    estimators = {name: entry.coordinates for name, entry in facts.entries.items() if entry.coordinates is not None}
    texts = [name for name, at in estimators.items() if set(at.estimator) == {"mle"}]
    rewarded = [name for name, at in estimators.items() if at.teacher_access == "teacher_free" and set(at.feedback_signal) == {"outcome"}]
    for title, names in (("supervised on texts", texts), ("reinforcement with outcomes alone", rewarded)):
        found += [f"{title}: {', '.join(names)}"] if names else []
        lacking += [] if names else [title]
    null = any(record.run.method == UNCHANGED for record in facts.chosen)
    found += ["steps without learning: no_op"] if null else []
    found.append("teacher = student is null for every entry: the lab's test")
    return Answer(joined(*found), joined(*lacking, "" if null else "steps without learning", "a shuffled teacher"))


def alarms(facts: Facts) -> Answer:
    """How often each level was found."""
    levels = Counter(level for diagnosis in facts.diagnoses for level, _, _ in diagnosis.found.values())
    if not levels:
        return Answer("", "no run was diagnosed")
    undiagnosed = len(facts.trained) - sum(diagnosis.method not in ANCHORS for diagnosis in facts.diagnoses)
    known = f"over {len(facts.diagnoses)} runs: {counted(levels)}; by method: `failures`"
    return Answer(known, f"{undiagnosed} runs without a diagnosis" if undiagnosed > 0 else "")


def losses(facts: Facts) -> Answer:
    """What was preserved and what was lost, as far as it was tested."""
    kept = [task for task in facts.study.tasks if task.family == "retention"]
    stress = [task.name for task in facts.study.tasks if task.family == "out_of_distribution"]
    said = []
    for task in kept:
        rows = task.of(facts.study.rows)
        methods = dict.fromkeys(row["method"] for row in rows if row["method"] not in ANCHORS)
        cells = [difference_cell([row for row in rows if row["method"] == method], rows) for method in methods]
        known = [cell for cell in cells if cell.value is not None and cell.error is not None]
        lost = sum(cell.value < -2 * cell.error for cell in known if cell.value is not None and cell.error is not None)
        said.append(f"{task.name}: {lost} of {len(known)} methods lose more than two standard errors")
    primary = [task.name for task in facts.study.inside]
    stated = joined(f"primary: {', '.join(primary)}" if primary else "", f"stress: {', '.join(stress)}" if stress else "", *said)
    return Answer(stated, joined("" if kept else "what must be preserved", "not tested: safety, format, several turns, calibration"))


def provenance(facts: Facts) -> Answer:
    """Deviations and where formulas are."""
    if not facts.entries:
        return Answer("", "the methods are not in the registry")
    rows = sum(len(entry.deviations) for entry in facts.entries.values())
    commits = sorted({str(record.run.provenance.get("commit") or "")[:12] for record in facts.chosen} - {""})
    dirty = sum(bool(record.run.provenance.get("dirty")) for record in facts.chosen)
    known = joined(f"{len(facts.entries)} entries list {rows} differences to their papers with reasons", f"commits {', '.join(commits[:4])}" if commits else "",
                   f"and {len(commits) - 4} more" if len(commits) > 4 else "")  # fmt: skip
    unknown = sorted({record.run.method for record in facts.trained} - set(facts.entries))
    return Answer(known, joined(f"not in the registry: {', '.join(unknown)}" if unknown else "", f"{dirty} runs with uncommitted changes" if dirty else ""))


def evidence(facts: Facts) -> Answer:
    """How well the entries' objectives are supported, and how often each was run."""
    levels = counted({record.run.method: record.run.evidence.level for record in facts.trained if record.run.evidence}.values())
    runs = Counter(record.run.method for record in facts.trained if record.run.status == "success")
    return Answer(joined(levels, f"own runs: {span(float(number) for number in runs.values())} a method" if runs else ""), "" if levels else "evidence levels")
