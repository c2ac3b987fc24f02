"""Reports from records alone and from logs, in Markdown, HTML and JSON, and the two commands."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from zoo.cli import app
from zoo.errors import ZooError
from zoo.failures import Finding, load_catalogue
from zoo.failures.evaluations import evaluation_probe
from zoo.failures.report_forms import markdown, page
from zoo.failures.reporting import CAUSES, as_json, in_triage, report_on
from zoo.record_types import Eval
from zoo.records import write_record

from .kit import rollout_frame, step_frame, token_frame

RUN = {"schema": 1, "kind": "run", "run_key": "v1-x", "created": "2025-01-01T00:00:00+00:00", "status": "success", "comparison": "trial", "pair": "micro",
       "asked": {}, "resolved": {}, "entry_digest": None, "budget": {"unit": "tokens", "asked": 9, "spent": {"steps": 60, "supervised_tokens": 9000}},
       "phases": {}, "final": {}, "error": None, "weights_note": None, "provenance": {}}  # fmt: skip


def recorded(root: Path, uuid: str, method: str = "gkd", seed: int = 0, findings: dict[str, Any] | None = None, trained: bool = True) -> None:
    folder, known = root / "records" / "trial" / method / uuid, {"uuid": uuid, "comparison": "trial", "method": method, "seed": seed}
    if findings is not None:
        write_record(folder, "failures.json", {"schema": 1, "kind": "failures", "run_key": "v1-x", **known, "findings": findings})
        points = [[1, 2.0, None], [30, 1.0, 0.5], [60, 0.5, None]]
        write_record(folder, "curve.json", {"schema": 1, "kind": "curve", "run_key": "v1-x", **known, "columns": ["step", "loss", "kl"], "points": points})
    spent = RUN["budget"] if trained else {**RUN["budget"], "spent": {"steps": 0}}  # type: ignore[dict-item]
    write_record(folder, "run.json", {**RUN, **known, "budget": spent})


FINDINGS = {"FM02": ["red", 0.5, 40, "at most 50% of texts loop"], "FM23": ["amber", 0.015, 20, "mismatch 0.015"], "FM05": ["silent", 0.4, None, "even"],
            "FM11": ["not_measured", None, None, "the probe 'rescue' was not run"]}  # fmt: skip


def test_triage_puts_causes_before_symptoms_and_red_before_amber() -> None:
    catalogue = load_catalogue()
    findings = [
        Finding(mode, level) for mode, level in (("FM01", "red"), ("FM15", "red"), ("FM08", "amber"), ("FM16", "red"), ("FM03", "amber"), ("FM29", "red"))
    ]  # type: ignore[arg-type]
    assert [f.failure_mode for f in in_triage(findings, catalogue)] == ["FM29", "FM03", "FM16", "FM08", "FM01", "FM15"]
    assert {mode.cause for mode in catalogue.values()} == set(CAUSES)


def test_a_report_from_records_alone(tmp_path: Path) -> None:
    recorded(tmp_path, "u1", findings=FINDINGS)
    [report] = report_on("trial", tmp_path)
    assert not report.from_logs and [f.failure_mode for f in report.fired] == ["FM23", "FM02"]
    text = markdown([report], "Report on x")
    assert (
        text.index("### AMBER FM23 stale_rollouts")
        < text.index("### RED FM02 repetition_saturation")
        < text.index("### Silent")
        < text.index("### Not measured")
    )
    for part in (
        "1 red, 1 amber, 1 silent, 1 not measured",
        "established at step 40",
        "What to do. Mask repeated spans",
        "the probe 'rescue' was not run",
        "| 30 | 1 | 0.5 |",
    ):
        assert part in text


def test_a_report_from_logs_shows_evidence_and_texts(tmp_path: Path) -> None:
    recorded(tmp_path, "u1", findings=FINDINGS)
    folder = tmp_path / "logs" / "trial" / "gkd-s0"
    folder.mkdir(parents=True)
    rollout_frame(rollouts=10, zlib_ratio=lambda f: np.where(f["rollout"] < 6, 8.0, 1.0), tail=lambda f: "<b>7 7 7 7</b>").to_parquet(
        folder / "u1-rollouts.parquet"
    )
    token_frame(kl=0.1).to_parquet(folder / "u1-tokens.parquet")
    step_frame(60, grad_norm=1.0).to_parquet(folder / "u1-steps.parquet")
    [report] = report_on("trial/gkd/u1", tmp_path)
    assert report.from_logs and [f.failure_mode for f in report.fired] == ["FM02"]
    assert "```text\n<b>7 7 7 7</b>\n```" in markdown([report], "x") and "| rate | 0.6 |" in markdown([report], "x")
    assert "&lt;b&gt;7 7 7 7" in page([report], "x") and "<b>7" not in page([report], "x")


class Balanced(HTMLParser):
    """Fails on tags that do not close, and on anything that is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [value for name, value in attrs if name == "src" or (name == "href" and not str(value).startswith("#"))]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_needs_nothing_else_and_has_the_plot(tmp_path: Path) -> None:
    recorded(tmp_path, "u1", findings=FINDINGS)
    text = page(report_on("trial", tmp_path), "x")
    parser = Balanced()
    parser.feed(text)
    assert parser.open == [] and "<svg" in text and "gradient norm" not in text and "loss" in text and "FM23" in text[text.index("<svg") : text.index("</svg>")]


def test_names_of_runs(tmp_path: Path) -> None:
    recorded(tmp_path, "abcd-1", findings=FINDINGS)
    recorded(tmp_path, "abcd-2", seed=1, findings=FINDINGS)
    recorded(tmp_path, "efgh-3", method="student", trained=False)
    recorded(tmp_path, "efgh-4", method="sft")
    assert [len(report_on(name, tmp_path)) for name in ("trial", "trial/gkd", "abcd-2", "trial/gkd/abcd-1")] == [3, 2, 1, 1]
    assert "older than they are" in markdown(report_on("trial/sft", tmp_path), "x")
    for name, message in (("trail", "no comparison and no run 'trail'.*did you mean 'trial'"), ("trial/gdk", "no run 'gdk'; did you mean 'gkd'")):
        with pytest.raises(ZooError, match=message):
            report_on(name, tmp_path)


def test_plain_data_and_the_commands(tmp_path: Path) -> None:
    assert json.dumps(as_json(Finding("FM05", "red", float("nan"), 3, {"x": np.float64(0.5), "y": np.int64(2), "z": None})), allow_nan=False)
    recorded(tmp_path, "u1", findings=FINDINGS)
    run = CliRunner().invoke
    said = run(app, ["report", "trial", "--results", str(tmp_path), "--json"])
    assert json.loads(said.stdout)[0]["findings"][0]["failure_mode"] == "FM23"
    said = run(app, ["report", "trial", "--results", str(tmp_path), "--format", "html", "--out", str(tmp_path / "sub" / "r.html")])
    assert said.exit_code == 0 and (tmp_path / "sub" / "r.html").read_text().startswith("<!doctype html>")
    assert run(app, ["report", "trial", "--results", str(tmp_path)]).stdout.startswith("# Report on trial")
    assert run(app, ["report", "trial", "--format", "pdf"]).exit_code == 2 and run(app, ["report", "nothing", "--results", str(tmp_path)]).exit_code == 1
    assert [each["id"] for each in json.loads(run(app, ["failures", "--json"]).stdout)] == sorted(load_catalogue())
    assert "FM08" in run(app, ["failures"]).stdout and "return-to-go" in run(app, ["failures", "FM08"]).stdout
    assert json.loads(run(app, ["failures", "FM08", "--json"]).stdout)["name"] == "log_ratio_tail"


def test_scores_before_and_after_are_paired_by_item() -> None:
    def scored(model: str, *items: tuple[str, float]) -> Eval:
        task = {"family": "retention", "headline": "acc", "metrics": {"acc": sum(s for _, s in items) / len(items)}, "n": len(items), "truncated_share": None,
                "mean_length": None, "items": items}  # fmt: skip
        head = {"schema": 1, "kind": "eval", "uuid": "u", "run_key": "k", "comparison": "c", "method": "m", "pair": "p", "seed": 0}
        rest = {"suite": "s", "suite_digest": "d", "model": model, "batch_size": 1, "lm_eval_version": "1", "tasks": {"copy": task}}
        return Eval.model_validate({**head, **rest})

    found = evaluation_probe([scored("trained", ("a", 1.0), ("b", 0.0))], [scored("student", ("b", 1.0), ("a", 1.0), ("c", 0.0))])
    assert found["evaluation"][["item", "before", "after"]].to_numpy().tolist() == [["a", 1.0, 1.0], ["b", 1.0, 0.0]]
    assert evaluation_probe([], []) == {} and isinstance(found["evaluation"], pd.DataFrame)
