"""Evaluate the model in memory on a suite through lm-eval, without a trace in the process.

Random states, the model's modes, logs and the environment stay as they were found.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.environment import environment
from zoo.errors import ZooError, suggest
from zoo.harness.suites import Suite, SuiteTask, load_suite, own_task_files, suite_digest, task_files
from zoo.harness.surroundings import FIXED_SEED, Heard, isolated, quiet

if TYPE_CHECKING:
    from zoo.harness.lm import Answer, TextEngine

__all__ = ["evaluate", "lm_eval_version", "suite_digest"]

_CODE_CONSENT = "HF_ALLOW_CODE_EVAL"


def lm_eval_version() -> str:
    """The installed lm-eval, for the record."""
    return version("lm-eval")


def evaluate(
    decoder: TextEngine,
    model: Any,
    tokenizer: Any,
    suite: Suite | str | Path,
    *,
    batch_size: int,
    limit: int | None = None,
    data_folder: str | Path | None = None,
    prompt_suffix: str = "",
    log_path: str | Path | None = None,
    allow_code: bool | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores of a causal LM on every task of a suite: the `tasks` of an `eval-<suite>.json` record.

    Per task: `family`, `headline` (metric,filter), `metrics` (every metric,filter and its standard error), `n`,
    `truncated_share` and `mean_length` in tokens (null where nothing is generated), `items` ([document, headline score]).
    `limit` takes only the first documents of each task and overrides the suite's own limits. `data_folder` and
    `prompt_suffix` (the instruction that the pair's training prompts end with) reach our own tasks that read them. With
    `log_path` one parquet row per document is written there. Code written by the model is executed only with `allow_code`
    (default: the environment sets HF_ALLOW_CODE_EVAL=1). Unknown names and missing data raise `ZooError`.
    """
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    _refuse_unasked_code(suite, os.environ.get(_CODE_CONSENT) == "1" if allow_code is None else allow_code)
    if any(_uses_chat(suite, task) for task in suite.tasks) and not getattr(tokenizer, "chat_template", None):
        raise ZooError(f"suite '{suite.id}' applies a chat template and the tokenizer has none; use a suite with chat_template: false")
    folder = None if data_folder is None else Path(data_folder).expanduser().resolve()
    results: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    engine = (Heard(decoder, sys.stdout, sys.stderr), model, tokenizer)
    with quiet(), environment(_settings_for(suite)), isolated(model):
        loaded = _load_tasks(suite, suite_digest(suite), folder, prompt_suffix)
        for task in suite.tasks:
            outcome, answers = _run_task(loaded[task.task], task, engine, suite, batch_size, limit)
            results[task.task] = _summary(suite, task, outcome, answers)
            rows += _item_rows(task.task, outcome["samples"][task.task], answers)
    if log_path is not None:
        _write_rows(rows, Path(log_path))
    return results


def _refuse_unasked_code(suite: Suite, allowed: bool) -> None:
    running = [task.task for task in suite.tasks if task.runs_code]
    if running and not allowed:
        raise ZooError(f"suite '{suite.id}' executes code that the model wrote ({', '.join(running)}); in a sandbox, ask for it with {_CODE_CONSENT}=1, "
                       "or with zoo run --untrusted-code")  # fmt: skip


def _settings_for(suite: Suite) -> dict[str, str]:
    """lm-eval's bootstrap stays in this process; code evaluation is unlocked for suites that `evaluate` let through."""
    consent = {_CODE_CONSENT: "1"} if any(task.runs_code for task in suite.tasks) else {}
    return {"DISABLE_MULTIPROC": "1", **consent}


def _uses_chat(suite: Suite, task: SuiteTask) -> bool:
    return suite.chat_template if task.chat_template is None else task.chat_template


# --- tasks ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _load_tasks(suite: Suite, digest: str, data_folder: Path | None, prompt_suffix: str) -> dict[str, Any]:
    """lm-eval's task objects with the suite's settings, built once per process and digest: they hold the data and no results."""
    from lm_eval.tasks import TaskManager

    files, own = task_files(suite), own_task_files(suite)
    told = {"prompt_suffix": prompt_suffix} | ({} if data_folder is None else {"data_folder": str(data_folder)})
    loaded = {}
    for task in suite.tasks:
        ours = task.task in own
        manager = TaskManager(include_path=files[task.task].parent, include_defaults=False, metadata=told if ours else None)
        try:
            built = manager.load([task.task])["tasks"][task.task]
        except ZooError:
            raise
        except Exception as error:  # whatever the hub, a missing package or a task's own code raises
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ZooError(f"suite '{suite.id}', task '{task.task}': cannot be loaded: {reason}") from error
        loaded[task.task] = _configured(built, suite, task)
    return loaded


def _configured(built: Any, suite: Suite, task: SuiteTask) -> Any:
    """The task object with the suite's few-shot count and answer length; refuses a headline filter that it lacks."""
    where = f"suite '{suite.id}', task '{task.task}'"
    if getattr(built, "UNSAFE_CODE", False) and not task.runs_code:
        raise ZooError(f"{where}: executes code that the model wrote; the suite has to say runs_code: true")
    filters = [entry["name"] for entry in built.config.filter_list or [{"name": "none"}]]
    wanted = task.headline.split(",")[1]
    if wanted not in filters:
        raise ZooError(f"{where}: has no filter '{wanted}'{suggest(wanted, filters)}")
    if task.fewshot and not _has_examples(built.config):
        raise ZooError(f"{where}: has no examples apart from the documents it tests; set fewshot: 0")
    built.set_config("num_fewshot", task.fewshot)
    if built.OUTPUT_TYPE == "generate_until":
        if task.max_new_tokens is None:
            raise ZooError(f"{where}: generates, so the suite has to say max_new_tokens")
        built.set_config("generation_kwargs", {**(built.config.generation_kwargs or {}), "max_gen_toks": task.max_new_tokens})
    return built


def _has_examples(config: Any) -> bool:
    """Whether few-shot examples have a source of their own: lm-eval would fall back on the test split, and show the very question."""
    return bool(config.training_split or config.validation_split or config.fewshot_config.split or config.fewshot_config.samples)


def _run_task(
    built: Any, task: SuiteTask, engine: tuple[TextEngine, Any, Any], suite: Suite, batch_size: int, limit: int | None
) -> tuple[dict[str, Any], Mapping[int, Sequence[Answer]]]:
    """lm-eval's results for one task, and the answers behind them by document."""
    from lm_eval import evaluator

    from zoo.harness.lm import EngineLM

    chat = _uses_chat(suite, task)
    lm = EngineLM(*engine, batch_size=batch_size, chat=chat)
    built.set_fewshot_seed(FIXED_SEED)
    try:
        outcome = evaluator.evaluate(
            lm,
            {"tasks": {task.task: built}},
            limit=task.limit if limit is None else limit,
            bootstrap_iters=1000,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            confirm_run_unsafe_code=task.runs_code,
        )
    finally:
        built._instances = None
    return outcome, {document: answers for (_, document), answers in lm.answers.items()}


# --- results ----------------------------------------------------------------------------------------------------------


def _summary(suite: Suite, task: SuiteTask, outcome: Mapping[str, Any], answers: Mapping[int, Sequence[Answer]]) -> dict[str, Any]:
    """One task's entry of the record."""
    where = f"suite '{suite.id}', task '{task.task}'"
    metrics = {key: float(value) for key, value in outcome["results"][task.task].items() if "," in key and _is_number(value)}
    metric, wanted = task.headline.split(",")
    if task.headline not in metrics:
        raise ZooError(f"{where}: no number '{task.headline}'{suggest(task.headline, metrics)}")
    scored = {sample["doc_id"]: sample.get(metric) for sample in outcome["samples"][task.task] if sample["filter"] == wanted}
    if not all(_is_number(score) for score in scored.values()):
        raise ZooError(f"{where}: '{task.headline}' is no score of single documents; choose another headline")
    written = [answer for document in answers.values() for answer in document]
    return {
        "family": task.family,
        "headline": task.headline,
        "metrics": metrics,
        "n": len(scored),
        "truncated_share": sum(answer.truncated for answer in written) / len(written) if written else None,
        "mean_length": sum(answer.length for answer in written) / len(written) if written else None,
        "items": [[document, float(score)] for document, score in sorted(scored.items())],
    }


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float, np.number, np.bool_)) and math.isfinite(value)


def _item_rows(name: str, samples: Sequence[Mapping[str, Any]], answers: Mapping[int, Sequence[Answer]]) -> list[dict[str, Any]]:
    """One row per document, the scores of all filters merged; log-likelihood tasks show their log-likelihoods as response."""
    rows: dict[int, dict[str, Any]] = {}
    for sample in samples:
        document = sample["doc_id"]
        written = answers.get(document, [])
        row = rows.setdefault(
            document,
            {
                "task": name,
                "doc_id": document,
                "prompt": sample["arguments"][0][0],
                "response": written[0].text if written else json.dumps(sample["resps"], default=str),
                "target": str(sample["target"]),
                "scores": {},
                "length": written[0].length if written else None,
                "truncated": written[0].truncated if written else None,
            },
        )
        scores = {metric: sample[metric] for metric in sample["metrics"] if _is_number(sample[metric])}
        row["scores"] |= {f"{metric},{sample['filter']}": float(score) for metric, score in scores.items()}
    return [rows[document] for document in sorted(rows)]


def _write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Parquet with `scores` as a map from metric,filter to number; appears under its name only when complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(("task", "doc_id", "prompt", "response", "target", "scores", "length", "truncated"), pa.string())
    types |= {"doc_id": pa.int64(), "scores": pa.map_(pa.string(), pa.float64()), "length": pa.int64(), "truncated": pa.bool_()}
    schema = pa.schema(types)
    columns = {name: [list(row[name].items()) if name == "scores" else row[name] for row in rows] for name in schema.names}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(pa.table(columns, schema=schema), partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
